//! The fold over the store's log: everything that the authority knows, in memory. Nobody reads the store to answer.
//!
//! A [`State`] is what a snapshot shows; the registry applies changes to a second copy of it and swaps the two, so
//! that a change costs what it changes, however much there is.

mod bundle;
mod site;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bonafide_attest::registration::Registration;
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::{
    Certificate, Revocations, SpiffeId, TrustDomain, bundle::TrustBundle, revocation::Subject, time::UnixTime,
};
use bonafide_store::Incarnation;

pub use self::{bundle::bundle_of, site::SiteState};
use crate::journal::hex;
use crate::records::{
    self, Agent, Idempotency, JoinToken, Lease, LedgerMark, Object, RecordError, RevocationRecord, Settings,
    SigningKey,
};
use crate::site::Site;

/// Everything that the log says up to one revision.
#[derive(Clone, Debug)]
pub struct State {
    trust_domain: TrustDomain,
    incarnation: Incarnation,
    revision: u64,
    settings: Option<Arc<Settings>>,
    sites: BTreeMap<Arc<str>, SiteState>,
    registrations: BTreeMap<Arc<str>, Arc<Registration>>,
    tokens: BTreeMap<String, Arc<JoinToken>>,
    token_by_hash: HashMap<[u8; 32], Arc<JoinToken>>,
    agents: BTreeMap<SpiffeId, Arc<Agent>>,
    signing_keys: BTreeMap<String, Arc<SigningKey>>,
    /// Of the last change to a key of the bundle: its sequence number.
    signing_keys_revision: u64,
    bundle: Arc<TrustBundle>,
    idempotency: BTreeMap<Arc<str>, Arc<Idempotency>>,
    leases: BTreeMap<Arc<str>, Arc<Lease>>,
    ledger_marks: BTreeMap<Arc<str>, Arc<LedgerMark>>,
    /// By the store's key.
    revocation_records: BTreeMap<Arc<str>, Arc<RevocationRecord>>,
    /// The same, as peers get them.
    revocations: Arc<Revocations>,
    /// What housekeeping may remove, earliest first.
    expiries: BTreeSet<(UnixTime, String)>,
}

/// What a change did to one record.
#[derive(Clone, Debug)]
pub struct AppliedChange {
    /// The store's key.
    pub key: Arc<str>,
    /// Revision of this very change.
    pub revision: u64,
    /// The record until then.
    pub before: Option<Object>,
    /// The record since.
    pub after: Option<Object>,
}

impl State {
    /// Before the first change.
    #[must_use]
    pub fn empty(trust_domain: TrustDomain, incarnation: Incarnation) -> Self {
        Self {
            bundle: Arc::new(TrustBundle::new(trust_domain.clone())),
            revocation_records: BTreeMap::new(),
            revocations: Arc::new(Revocations::new(trust_domain.clone())),
            trust_domain,
            incarnation,
            revision: 0,
            settings: None,
            sites: BTreeMap::new(),
            registrations: BTreeMap::new(),
            tokens: BTreeMap::new(),
            token_by_hash: HashMap::new(),
            agents: BTreeMap::new(),
            signing_keys: BTreeMap::new(),
            signing_keys_revision: 0,
            idempotency: BTreeMap::new(),
            leases: BTreeMap::new(),
            ledger_marks: BTreeMap::new(),
            expiries: BTreeSet::new(),
        }
    }

    /// Of this authority.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Of the store.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Of the last change in here.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// `None` in a new store.
    #[must_use]
    pub fn settings(&self) -> Option<&Arc<Settings>> {
        self.settings.as_ref()
    }

    /// Every site, by name.
    pub fn sites(&self) -> impl Iterator<Item = &SiteState> {
        self.sites.values().filter(|site| site.site().is_some())
    }

    /// Sites in the order of their names, those after `after`.
    pub fn sites_after(&self, after: &str) -> impl Iterator<Item = &Arc<Site>> {
        use std::ops::Bound;
        self.sites
            .range::<str, _>((Bound::Excluded(after), Bound::Unbounded))
            .filter_map(|(_, site)| site.site())
    }

    /// A site with its registrations and agents.
    #[must_use]
    pub fn site(&self, name: &str) -> Option<&SiteState> {
        self.sites.get(name).filter(|site| site.site().is_some())
    }

    /// How many there are, of all sites.
    #[must_use]
    pub fn registration_count(&self) -> usize {
        self.registrations.len()
    }

    /// One registration, whatever its site.
    #[must_use]
    pub fn registration(&self, id: &str) -> Option<&Arc<Registration>> {
        self.registrations.get(id)
    }

    /// Registrations of all sites in the order of their IDs, those after `after`.
    pub fn registrations_after(&self, after: &str) -> impl Iterator<Item = &Arc<Registration>> {
        use std::ops::Bound;
        self.registrations
            .range::<str, _>((Bound::Excluded(after), Bound::Unbounded))
            .map(|(_, registration)| registration)
    }

    /// The registrations that an agent may host, in the order of their IDs within each of the two kinds: those of all
    /// its site's agents, then its own. Says nothing about whether the agent is banned.
    pub fn registrations_of<'a>(&'a self, agent: &'a Agent) -> impl Iterator<Item = &'a Arc<Registration>> {
        self.site(&agent.site).into_iter().flat_map(|site| site.hosted_by(&agent.id))
    }

    /// The digest of [`Self::registrations_of`]: what the agent must have.
    #[must_use]
    pub fn digest_of(&self, agent: &Agent) -> SetDigest {
        self.site(&agent.site).map(|site| site.digest_for(&agent.id)).unwrap_or_default()
    }

    /// Join tokens, by ID.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<JoinToken>> {
        self.tokens.values()
    }

    /// Join tokens in the order of their IDs, those after `after`.
    pub fn tokens_after(&self, after: &str) -> impl Iterator<Item = &Arc<JoinToken>> {
        use std::ops::Bound;
        self.tokens.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)).map(|(_, token)| token)
    }

    /// A join token by its ID.
    #[must_use]
    pub fn token(&self, id: &str) -> Option<&Arc<JoinToken>> {
        self.tokens.get(id)
    }

    /// A join token by the SHA-256 of the token.
    #[must_use]
    pub fn token_by_hash(&self, sha256: &[u8; 32]) -> Option<&Arc<JoinToken>> {
        self.token_by_hash.get(sha256)
    }

    /// All agents, by ID.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<Agent>> {
        self.agents.values()
    }

    /// Agents in the order of their IDs, those after `after`.
    pub fn agents_after(&self, after: Option<&SpiffeId>) -> impl Iterator<Item = &Arc<Agent>> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.agents.range::<SpiffeId, _>((from, Bound::Unbounded)).map(|(_, agent)| agent)
    }

    /// An agent, banned or not.
    #[must_use]
    pub fn agent(&self, id: &SpiffeId) -> Option<&Arc<Agent>> {
        self.agents.get(id)
    }

    /// What is no longer trusted. The same `Arc` until it changes.
    #[must_use]
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Every revocation with its reason.
    pub fn revocation_records(&self) -> impl ExactSizeIterator<Item = &Arc<RevocationRecord>> {
        self.revocation_records.values()
    }

    /// The revocation of exactly this subject.
    #[must_use]
    pub fn revocation(&self, subject: &Subject) -> Option<&Arc<RevocationRecord>> {
        self.revocation_records.get(records::revocation_key(subject).as_str())
    }

    /// Whether nothing may be issued by a site's evidence at the moment.
    #[must_use]
    pub fn is_quarantined(&self, site: &str) -> bool {
        self.revocations.get(&Subject::Site(site.into())).is_some()
    }

    /// All signing keys, by ID.
    pub fn signing_keys(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        self.signing_keys.values()
    }

    /// Whether these authorities may vouch for a peer that was verified a while ago: none of them was revoked since. A
    /// revoked key's record stays as long as its certificate is valid.
    #[must_use]
    pub fn vouches(&self, authorities: &[Certificate]) -> bool {
        !authorities.iter().any(|authority| {
            let key = authority.subject_key_id().and_then(|id| self.signing_keys.get(&hex(id)));
            key.is_some_and(|key| key.state() == records::signing_key::State::Revoked)
        })
    }

    /// One signing key.
    #[must_use]
    pub fn signing_key(&self, id: &str) -> Option<&Arc<SigningKey>> {
        self.signing_keys.get(id)
    }

    /// The trust bundle that the published roots and JWT keys make. The same `Arc` until one of them changes.
    #[must_use]
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// What a caller's idempotency key was used for.
    #[must_use]
    pub fn idempotency(&self, key: &str) -> Option<&Arc<Idempotency>> {
        self.idempotency.get(key)
    }

    /// A lease, expired or not.
    #[must_use]
    pub fn lease(&self, name: &str) -> Option<&Arc<Lease>> {
        self.leases.get(name)
    }

    /// How far a server's ledger had come.
    #[must_use]
    pub fn ledger_mark(&self, server: &str) -> Option<&Arc<LedgerMark>> {
        self.ledger_marks.get(server)
    }

    /// Keys of records that have expired at `now`, earliest first.
    pub fn expired(&self, now: UnixTime) -> impl Iterator<Item = &str> {
        self.expiries.iter().take_while(move |(at, _)| *at <= now).map(|(_, key)| key.as_str())
    }

    /// Applies the next change of the log.
    ///
    /// # Errors
    /// A record that can't be read, or must not be ignored. The state is then as before.
    pub(crate) fn apply(
        &mut self,
        revision: u64,
        key: &str,
        value: Option<&[u8]>,
    ) -> Result<AppliedChange, RecordError> {
        let after = match value {
            Some(value) => Object::decode(key, value, revision)?,
            None => None,
        };
        let before = self.put(key, after.clone());
        self.revision = revision;
        let change = AppliedChange { key: key.into(), revision, before, after };
        if change.touches_bundle() {
            self.signing_keys_revision = revision;
            self.rebuild_bundle();
        }
        Ok(change)
    }

    /// Applies a change that another copy of the state has seen.
    pub(crate) fn replay(&mut self, change: &AppliedChange) {
        self.put(&change.key, change.after.clone());
        self.revision = change.revision;
        if change.touches_bundle() {
            self.signing_keys_revision = change.revision;
            self.rebuild_bundle();
        }
    }

    /// Takes changes back that were never committed, the last one first.
    pub(crate) fn undo(&mut self, changes: &[AppliedChange], mark: Mark) {
        let mut keys_touched = false;
        for change in changes.iter().rev() {
            self.put(&change.key, change.before.clone());
            keys_touched |= change.touches_bundle();
        }
        self.revision = mark.revision;
        self.signing_keys_revision = mark.signing_keys_revision;
        if keys_touched {
            self.rebuild_bundle();
        }
    }

    /// Where [`Self::undo`] goes back to.
    pub(crate) fn mark(&self) -> Mark {
        Mark { revision: self.revision, signing_keys_revision: self.signing_keys_revision }
    }

    /// A snapshot's objects, not in the order of their revisions.
    pub(crate) fn load(&mut self, revision: u64, key: &str, value: &[u8]) -> Result<(), RecordError> {
        let object = Object::decode(key, value, revision)?;
        if object.as_ref().is_some_and(is_published) {
            self.signing_keys_revision = self.signing_keys_revision.max(revision);
        }
        self.put(key, object);
        Ok(())
    }

    /// Ends the loading of a snapshot.
    pub(crate) fn loaded(&mut self, revision: u64) {
        self.revision = revision;
        self.rebuild_bundle();
    }

    fn rebuild_bundle(&mut self) {
        self.bundle =
            Arc::new(bundle_of(&self.trust_domain, self.signing_keys.values(), self.signing_keys_revision));
    }

    /// Replaces what stands at `key`, and returns what stood there.
    fn put(&mut self, key: &str, after: Option<Object>) -> Option<Object> {
        let before = self.take(key);
        if let Some(at) = before.as_ref().and_then(Object::expires_at) {
            self.expiries.remove(&(at, key.to_owned()));
        }
        let Some(object) = after else { return before };
        if let Some(at) = object.expires_at() {
            self.expiries.insert((at, key.to_owned()));
        }
        match object {
            Object::Agent(agent) => {
                self.site_mut(&agent.site).add_agent(&agent);
                self.agents.insert(agent.id.clone(), agent);
            }
            Object::Idempotency(key, idempotency) => {
                self.idempotency.insert(key, idempotency);
            }
            Object::JoinToken(token) => {
                self.site_mut(&token.site).add_token();
                self.token_by_hash.insert(token.sha256, token.clone());
                self.tokens.insert(token.id.clone(), token);
            }
            Object::Lease(name, lease) => {
                self.leases.insert(name, lease);
            }
            Object::LedgerMark(server, mark) => {
                self.ledger_marks.insert(server, mark);
            }
            Object::Registration(registration) => {
                self.site_mut(&registration.site).add_registration(&registration);
                self.registrations.insert(registration.id.as_str().into(), registration);
            }
            Object::Revocation(record) => {
                // The write was checked against the bounds of the set, so this can't fail; a record that did must not
                // stop a server that has to refuse the others.
                if let Err(error) = Arc::make_mut(&mut self.revocations).insert(record.revocation.clone()) {
                    tracing::error!(code = error.code(), "a revocation has no effect: {error}");
                }
                self.revocation_records.insert(key.into(), record);
            }
            Object::Settings(settings) => self.settings = Some(settings),
            Object::SigningKey(key) => {
                self.signing_keys.insert(key.id.clone(), key);
            }
            Object::Site(site) => {
                let name = site.name.clone();
                self.site_mut(&name).set_site(Some(site));
            }
        }
        before
    }

    fn take(&mut self, key: &str) -> Option<Object> {
        if key == records::SETTINGS {
            return self.settings.take().map(Object::Settings);
        }
        let (kind, name) = key.split_once('/')?;
        match kind {
            "agent" => {
                let id = SpiffeId::new(&self.trust_domain, key.strip_prefix("agent")?).ok()?;
                let agent = self.agents.remove(&id)?;
                self.leave_site(&agent.site.clone(), |site| site.remove_agent(&agent));
                Some(Object::Agent(agent))
            }
            "idem" => self.idempotency.remove_entry(name).map(|(key, value)| Object::Idempotency(key, value)),
            "token" => {
                let token = self.tokens.remove(name)?;
                self.token_by_hash.remove(&token.sha256);
                self.leave_site(&token.site.clone(), SiteState::remove_token);
                Some(Object::JoinToken(token))
            }
            "lease" => self.leases.remove_entry(name).map(|(name, lease)| Object::Lease(name, lease)),
            "ledger" => {
                self.ledger_marks.remove_entry(name).map(|(server, mark)| Object::LedgerMark(server, mark))
            }
            "registration" => {
                let registration = self.registrations.remove(name)?;
                self.leave_site(&registration.site.clone(), |site| site.remove_registration(&registration));
                Some(Object::Registration(registration))
            }
            "revocation" => {
                let record = self.revocation_records.remove(key)?;
                Arc::make_mut(&mut self.revocations).remove(&record.revocation.subject);
                Some(Object::Revocation(record))
            }
            "key" => self.signing_keys.remove(name).map(Object::SigningKey),
            "site" => {
                let site = self.sites.get_mut(name)?.set_site(None)?;
                self.leave_site(name, |_| ());
                Some(Object::Site(site))
            }
            _ => None,
        }
    }

    /// A site's state, made when something of it comes before its own record (a snapshot is in no such order).
    fn site_mut(&mut self, name: &str) -> &mut SiteState {
        self.sites.entry(name.into()).or_default()
    }

    fn leave_site(&mut self, name: &str, change: impl FnOnce(&mut SiteState)) {
        if let Some(site) = self.sites.get_mut(name) {
            change(site);
            if site.is_gone() {
                self.sites.remove(name);
            }
        }
    }
}

/// See [`State::mark`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    revision: u64,
    signing_keys_revision: u64,
}

impl AppliedChange {
    fn touches_bundle(&self) -> bool {
        let published = |object: &Option<Object>| object.as_ref().is_some_and(is_published);
        published(&self.before) || published(&self.after)
    }
}

/// Whether the bundle tells of it. Of a server's intermediate it does once that is tainted; otherwise intermediates and
/// ledger keys come and go with the server, and no agent is told.
fn is_published(object: &Object) -> bool {
    use records::signing_key::{State, Use};
    matches!(object, Object::SigningKey(key) if matches!(key.r#use(), Use::Root | Use::Jwt)
        || matches!(key.state(), State::Tainted | State::Revoked))
}
