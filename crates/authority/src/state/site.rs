//! What belongs to one site.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    ops::Bound,
    sync::Arc,
};

use bonafide_attest::{Selector, SelectorSet, registration::Registration};
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::SpiffeId;

use super::{loading::Registrations, registered::Registered};
use crate::{records::Agent, site::Site};

/// The distinct labels of registrations, with how many have them. Registrations without labels are not in here.
#[derive(Clone, Debug, Default)]
pub(super) struct LabelSets {
    sets: BTreeMap<BTreeMap<String, String>, usize>,
    labelled: usize,
}

/// A site with its registrations, agents and tokens.
#[derive(Clone, Debug, Default)]
pub struct SiteState {
    site: Option<Arc<Site>>,
    registrations: BTreeSet<Registered>,
    /// Registrations that every agent of the site may host.
    shared: BTreeSet<Registered>,
    /// Digest of `shared`.
    digest: SetDigest,
    /// Registrations of one agent alone.
    own: HashMap<SpiffeId, BTreeSet<Registered>>,
    /// Labels of `shared`.
    labels: LabelSets,
    /// Labels of `own`, of agents that have some.
    own_labels: HashMap<SpiffeId, LabelSets>,
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
        self.registrations.len()
    }

    /// IDs of its registrations, those after `after`.
    pub fn registration_ids_after(&self, after: &str) -> impl Iterator<Item = &str> {
        self.registrations
            .range::<[u8], _>((Bound::Excluded(after.as_bytes()), Bound::Unbounded))
            .map(Registered::id)
    }

    /// Its agents, banned ones too.
    pub fn agents(&self) -> impl Iterator<Item = &SpiffeId> {
        self.agents.iter()
    }

    /// Its agents in the order of their IDs, those after `after`.
    pub fn agents_after(&self, after: Option<&SpiffeId>) -> impl Iterator<Item = &SpiffeId> {
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
    pub fn hosted_by<'a>(&'a self, agent: &SpiffeId) -> impl Iterator<Item = Arc<Registration>> + use<'a> {
        self.shared.iter().chain(self.own.get(agent).into_iter().flatten()).filter_map(Registered::decode)
    }

    /// The distinct labels of [`Self::hosted_by`]; of some that all agents have and this one too, twice.
    pub(super) fn labels_of<'a>(
        &'a self,
        agent: &SpiffeId,
    ) -> impl Iterator<Item = &'a BTreeMap<String, String>> + use<'a> {
        static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
        let own_labels = self.own_labels.get(agent);
        let own = self.own.get(agent).map_or(0, BTreeSet::len);
        let labelled = self.labels.labelled + own_labels.map_or(0, |labels| labels.labelled);
        let unlabelled = self.shared.len() + own > labelled;
        let labels = self.labels.sets.keys().chain(own_labels.into_iter().flat_map(|own| own.sets.keys()));
        labels.chain(unlabelled.then_some(&NO_LABELS))
    }

    /// The digest of [`Self::hosted_by`].
    #[must_use]
    pub fn digest_for(&self, agent: &SpiffeId) -> SetDigest {
        let mut digest = self.digest.clone();
        for registration in self.own.get(agent).into_iter().flatten() {
            digest.insert(&registration.digest_item());
        }
        digest
    }

    /// Adds what all agents of the site together may host to a digest.
    pub(super) fn add_to(&self, digest: &mut SetDigest) {
        digest.merge(&self.digest);
        for registration in self.own.values().flatten() {
            digest.insert(&registration.digest_item());
        }
    }

    /// IDs of the site's registrations whose selectors are all attested, whichever agent may host them, at most `limit`.
    /// Looks at every registration: it is for people who ask why, not for the path of a request.
    #[must_use]
    pub fn matches(&self, attested: &SelectorSet, limit: usize) -> Vec<&str> {
        self.registrations
            .iter()
            .filter(|registration| {
                registration.selectors().iter().all(|(key, value)| is_attested(attested, key, value))
            })
            .map(Registered::id)
            .take(limit)
            .collect()
    }

    /// IDs of the site's registrations that nearly match, with what is missing: fewest missing selectors first, then most
    /// shared ones. Looks at every registration.
    #[must_use]
    pub fn near_misses(&self, attested: &SelectorSet, limit: usize) -> Vec<(&str, Vec<Selector>)> {
        // A bounded heap with the worst on top: (missing, not shared, ID).
        let mut closest: BinaryHeap<(usize, usize, &str)> = BinaryHeap::with_capacity(limit + 1);
        for registration in &self.registrations {
            let selectors = registration.selectors();
            let missing = selectors.iter().filter(|(key, value)| !is_attested(attested, key, value)).count();
            if missing > 0 {
                closest.push((missing, usize::MAX - (selectors.len() - missing), registration.id()));
            }
            if closest.len() > limit {
                closest.pop();
            }
        }
        let describe = |(_, _, id): (usize, usize, &'_ str)| {
            let registration = self.registrations.get(id.as_bytes())?;
            let missing = registration.selectors().into_iter();
            let missing = missing.filter(|(key, value)| !is_attested(attested, key, value));
            Some((
                registration.id(),
                missing.filter_map(|(key, value)| Selector::new(&key, &value).ok()).collect(),
            ))
        };
        closest.into_sorted_vec().into_iter().filter_map(describe).collect()
    }

    pub(super) fn set_site(&mut self, site: Option<Arc<Site>>) -> Option<Arc<Site>> {
        std::mem::replace(&mut self.site, site)
    }

    pub(super) fn add_registration(&mut self, registered: &Registered, registration: &Registration) {
        self.label(registration);
        let parent = registration.parent.as_ref();
        self.registrations.insert(registered.clone());
        match parent {
            None => {
                self.digest.insert(&registered.digest_item());
                self.shared.insert(registered.clone());
            }
            Some(parent) => {
                self.own.entry(parent.clone()).or_default().insert(registered.clone());
            }
        }
    }

    /// Adds all registrations of a snapshot, which has several parts. There are none yet.
    pub(super) fn load(&mut self, parts: Vec<Registrations>) {
        let (mut all, mut shared) = (Vec::new(), Vec::new());
        for part in parts {
            all.extend(part.all);
            shared.extend(part.shared);
            self.digest.merge(&part.digest);
            self.labels.merge(part.labels);
            for (parent, labels) in part.own_labels {
                self.own_labels.entry(parent).or_default().merge(labels);
            }
            for (parent, own) in part.own {
                self.own.entry(parent).or_default().extend(own);
            }
        }
        self.registrations = all.into_iter().collect();
        self.shared = shared.into_iter().collect();
    }

    pub(super) fn remove_registration(&mut self, registration: &Registration) {
        let id = registration.id.as_str();
        self.registrations.remove(id.as_bytes());
        match &registration.parent {
            None => {
                if self.shared.remove(id.as_bytes()) {
                    self.digest.remove(&registration.digest_item());
                    self.labels.remove(&registration.labels);
                }
            }
            Some(parent) => {
                if let Some(own) = self.own.get_mut(parent) {
                    let was_there = own.remove(id.as_bytes());
                    if own.is_empty() {
                        self.own.remove(parent);
                    }
                    if was_there && let Some(labels) = self.own_labels.get_mut(parent) {
                        labels.remove(&registration.labels);
                        if labels.sets.is_empty() {
                            self.own_labels.remove(parent);
                        }
                    }
                }
            }
        }
    }

    fn label(&mut self, registration: &Registration) {
        match &registration.parent {
            None => self.labels.add(&registration.labels),
            Some(parent) if !registration.labels.is_empty() => {
                self.own_labels.entry(parent.clone()).or_default().add(&registration.labels);
            }
            Some(_) => (),
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
        self.site.is_none() && self.registrations.is_empty() && self.agents.is_empty() && self.tokens == 0
    }
}

impl LabelSets {
    pub(super) fn add(&mut self, labels: &BTreeMap<String, String>) {
        if labels.is_empty() {
            return;
        }
        self.labelled += 1;
        match self.sets.get_mut(labels) {
            Some(count) => *count += 1,
            None => drop(self.sets.insert(labels.clone(), 1)),
        }
    }

    fn remove(&mut self, labels: &BTreeMap<String, String>) {
        let Some(count) = self.sets.get_mut(labels) else { return };
        self.labelled -= 1;
        *count -= 1;
        if *count == 0 {
            self.sets.remove(labels);
        }
    }

    fn merge(&mut self, other: Self) {
        self.labelled += other.labelled;
        for (labels, count) in other.sets {
            *self.sets.entry(labels).or_default() += count;
        }
    }
}

/// Whether one of the attested selectors is written like this.
fn is_attested(attested: &SelectorSet, key: &str, value: &str) -> bool {
    attested.values(key).any(|attested| attested == value)
}
