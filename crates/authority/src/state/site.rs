//! What belongs to one site.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bonafide_attest::{Selector, SelectorSet, matcher::SubsetIndex, registration::Registration};
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::SpiffeId;

use crate::{records::Agent, site::Site};

/// A site with its registrations, agents and tokens.
#[derive(Clone, Debug, Default)]
pub struct SiteState {
    site: Option<Arc<Site>>,
    /// Of registrations.
    ids: BTreeSet<Arc<str>>,
    index: SubsetIndex<Arc<str>>,
    /// Registrations that every agent of the site may host.
    shared: BTreeMap<Arc<str>, Arc<Registration>>,
    /// Digest of `shared`.
    digest: SetDigest,
    /// Registrations of one agent alone.
    own: HashMap<SpiffeId, BTreeMap<Arc<str>, Arc<Registration>>>,
    agents: BTreeSet<SpiffeId>,
    tokens: usize,
}

impl SiteState {
    /// The record; `None` only while a snapshot is being loaded.
    #[must_use]
    pub fn site(&self) -> Option<&Arc<Site>> {
        self.site.as_ref()
    }

    /// How many registrations it has.
    #[must_use]
    pub fn registration_count(&self) -> usize {
        self.ids.len()
    }

    /// IDs of its registrations, those after `after`.
    pub fn registration_ids_after(&self, after: &str) -> impl Iterator<Item = &Arc<str>> {
        use std::ops::Bound;
        self.ids.range::<str, _>((Bound::Excluded(after), Bound::Unbounded))
    }

    /// Its agents, banned ones too.
    pub fn agents(&self) -> impl Iterator<Item = &SpiffeId> {
        self.agents.iter()
    }

    /// Its agents in the order of their IDs, those after `after`.
    pub fn agents_after(&self, after: Option<&SpiffeId>) -> impl Iterator<Item = &SpiffeId> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.agents.range::<SpiffeId, _>((from, Bound::Unbounded))
    }

    /// How many agents it has, banned ones too.
    #[must_use]
    pub fn agent_count(&self) -> usize {
        self.agents.len()
    }

    /// How many join tokens wait to be used, or to be swept.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.tokens
    }

    /// What an agent may host: what all agents may, then what it alone may.
    pub fn hosted_by<'a>(
        &'a self,
        agent: &SpiffeId,
    ) -> impl Iterator<Item = &'a Arc<Registration>> + use<'a> {
        self.shared.values().chain(self.own.get(agent).into_iter().flat_map(BTreeMap::values))
    }

    /// The digest of [`Self::hosted_by`].
    #[must_use]
    pub fn digest_for(&self, agent: &SpiffeId) -> SetDigest {
        let mut digest = self.digest.clone();
        for registration in self.own.get(agent).into_iter().flat_map(BTreeMap::values) {
            digest.insert(&registration.digest_item());
        }
        digest
    }

    /// IDs of the site's registrations whose selectors are all attested, whichever agent may host them.
    #[must_use]
    pub fn matches(&self, attested: &SelectorSet) -> Vec<Arc<str>> {
        self.index.matches(attested)
    }

    /// IDs of the site's registrations that nearly match, closest first, with what is missing.
    #[must_use]
    pub fn near_misses(&self, attested: &SelectorSet, limit: usize) -> Vec<(Arc<str>, Vec<Selector>)> {
        self.index.near_misses(attested, limit)
    }

    pub(super) fn set_site(&mut self, site: Option<Arc<Site>>) -> Option<Arc<Site>> {
        std::mem::replace(&mut self.site, site)
    }

    pub(super) fn add_registration(&mut self, registration: &Arc<Registration>) {
        let id: Arc<str> = registration.id.as_str().into();
        self.ids.insert(id.clone());
        // A record without selectors is damaged and never gets here; if one did, it would match nothing.
        let _ = self.index.insert(id.clone(), &registration.selectors);
        match &registration.parent {
            None => {
                self.digest.insert(&registration.digest_item());
                self.shared.insert(id, registration.clone());
            }
            Some(parent) => {
                self.own.entry(parent.clone()).or_default().insert(id, registration.clone());
            }
        }
    }

    pub(super) fn remove_registration(&mut self, registration: &Registration) {
        let id = registration.id.as_str();
        self.ids.remove(id);
        self.index.remove(&Arc::from(id));
        match &registration.parent {
            None => {
                if self.shared.remove(id).is_some() {
                    self.digest.remove(&registration.digest_item());
                }
            }
            Some(parent) => {
                if let Some(own) = self.own.get_mut(parent) {
                    own.remove(id);
                    if own.is_empty() {
                        self.own.remove(parent);
                    }
                }
            }
        }
    }

    pub(super) fn add_agent(&mut self, agent: &Agent) {
        self.agents.insert(agent.id.clone());
    }

    pub(super) fn remove_agent(&mut self, agent: &Agent) {
        self.agents.remove(&agent.id);
    }

    pub(super) fn add_token(&mut self) {
        self.tokens += 1;
    }

    pub(super) fn remove_token(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
    }

    /// Neither a record nor anything that names it.
    pub(super) fn is_gone(&self) -> bool {
        self.site.is_none() && self.ids.is_empty() && self.agents.is_empty() && self.tokens == 0
    }
}
