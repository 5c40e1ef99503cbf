//! The fold over the store's log: everything that the authority knows, in memory. Nobody reads the store to answer.
//!
//! A [`State`] is what a snapshot shows; the registry applies changes to a second copy of it and swaps the two, so
//! that a change costs what it changes, however much there is.

mod bundle;
mod keys;
mod loading;
mod registered;
mod site;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bonafide_attest::registration::Registration;
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::{
    Certificate, InstanceId, Revocations, SpiffeId, TrustDomain, bundle::TrustBundle, revocation::Subject,
    time::UnixTime,
};
use bonafide_policy::CertifiedLabels;
use bonafide_store::Incarnation;

use self::keys::KeyShelf;
pub(crate) use self::loading::Loaded;
use self::registered::Registered;
pub use self::{bundle::bundle_of, site::SiteState};
use crate::journal::hex;
use crate::policy::PolicyRecord;
use crate::records::{
    self, Agent, Idempotency, JoinToken, Lease, LedgerMark, LedgerWitness, LineageOwner, Object, RecordError,
    RevocationRecord, Server, Settings, SigningKey, Succession,
};
use crate::site::Site;

/// How long a silent server is waited for before records are written that it can't read, in seconds.
const FORGOTTEN: i64 = 7 * 86_400;

/// Everything that the log says up to one revision.
#[derive(Clone, Debug)]
pub struct State {
    trust_domain: TrustDomain,
    incarnation: Incarnation,
    revision: u64,
    settings: Option<Arc<Settings>>,
    sites: BTreeMap<Arc<str>, SiteState>,
    registrations: BTreeSet<Registered>,
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
    /// By the names of server and witness.
    ledger_witnesses: BTreeMap<Arc<str>, Arc<LedgerWitness>>,
    lineage_owners: HashMap<InstanceId, Arc<LineageOwner>>,
    policies: BTreeMap<Arc<str>, Arc<PolicyRecord>>,
    /// Keys of applications.
    keys: KeyShelf,
    servers: BTreeMap<Arc<str>, Arc<Server>>,
    successions: BTreeMap<Arc<str>, Arc<Succession>>,
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
    /// `after`, as both copies of the state hold it.
    registered: Option<Registered>,
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
            registrations: BTreeSet::new(),
            tokens: BTreeMap::new(),
            token_by_hash: HashMap::new(),
            agents: BTreeMap::new(),
            signing_keys: BTreeMap::new(),
            signing_keys_revision: 0,
            idempotency: BTreeMap::new(),
            leases: BTreeMap::new(),
            ledger_marks: BTreeMap::new(),
            ledger_witnesses: BTreeMap::new(),
            lineage_owners: HashMap::new(),
            policies: BTreeMap::new(),
            keys: KeyShelf::default(),
            servers: BTreeMap::new(),
            successions: BTreeMap::new(),
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
    pub fn registration(&self, id: &str) -> Option<Arc<Registration>> {
        self.registrations.get(id.as_bytes())?.decode()
    }

    /// The revision of the last change to a registration.
    #[must_use]
    pub fn registration_revision(&self, id: &str) -> Option<u64> {
        Some(self.registrations.get(id.as_bytes())?.revision())
    }

    /// The digest of all registrations of all sites.
    #[must_use]
    pub fn digest(&self) -> SetDigest {
        let mut digest = SetDigest::default();
        for site in self.sites.values() {
            site.add_to(&mut digest);
        }
        digest
    }

    /// Registrations of all sites in the order of their IDs, those after `after`.
    pub fn registrations_after(&self, after: &str) -> impl Iterator<Item = Arc<Registration>> {
        use std::ops::Bound;
        self.registrations
            .range::<[u8], _>((Bound::Excluded(after.as_bytes()), Bound::Unbounded))
            .filter_map(Registered::decode)
    }

    /// The registrations that an agent may host, in the order of their IDs within each of the two kinds: those of all
    /// its site's agents, then its own. Says nothing about whether the agent is banned.
    pub fn registrations_of<'a>(&'a self, agent: &'a Agent) -> impl Iterator<Item = Arc<Registration>> {
        self.site(&agent.site).into_iter().flat_map(|site| site.hosted_by(&agent.id))
    }

    /// The digest of [`Self::registrations_of`]: what the agent must have.
    #[must_use]
    pub fn digest_of(&self, agent: &Agent) -> SetDigest {
        self.site(&agent.site).map(|site| site.digest_for(&agent.id)).unwrap_or_default()
    }

    /// The policies that may guard a workload which an agent may host, by name.
    #[must_use]
    pub fn policies_of(&self, agent: &Agent) -> Vec<Arc<PolicyRecord>> {
        let mut found: Vec<_> =
            self.policies.values().filter(|policy| policy.is_for_site(&agent.site)).cloned().collect();
        if found.iter().all(|policy| policy.body.applies_to().is_empty()) {
            return found;
        }
        let hosted = self.site(&agent.site).into_iter().flat_map(|site| site.labels_of(&agent.id));
        let hosted: Vec<_> = hosted.filter_map(|labels| CertifiedLabels::new(labels).ok()).collect();
        found.retain(|policy| hosted.iter().any(|callee| policy.body.applies_to_callee(callee)));
        found
    }

    /// A policy, by its name.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Arc<PolicyRecord>> {
        self.policies.get(name)
    }

    /// Policies in the order of their names, those after `after`.
    pub fn policies_after(&self, after: &str) -> impl Iterator<Item = &Arc<PolicyRecord>> {
        use std::ops::Bound;
        self.policies.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)).map(|(_, policy)| policy)
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

    /// The marks of all servers, by their names.
    pub fn ledger_marks(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<LedgerMark>)> {
        self.ledger_marks.iter()
    }

    /// What a server has seen of another one's ledger: `<server>/<witness>`.
    #[must_use]
    pub fn ledger_witness(&self, names: &str) -> Option<&Arc<LedgerWitness>> {
        self.ledger_witnesses.get(names)
    }

    /// Who has seen what of a server's ledger.
    pub fn ledger_witnesses(&self, server: &str) -> impl Iterator<Item = (&str, &Arc<LedgerWitness>)> {
        self.ledger_witnesses.iter().filter_map(move |(names, witness)| {
            let (of, by) = names.split_once('/')?;
            (of == server).then_some((by, witness))
        })
    }

    /// Who renews an instance; none if it has never moved, or so long ago that nothing is valid of before.
    #[must_use]
    pub fn lineage_owner(&self, instance: InstanceId) -> Option<&Arc<LineageOwner>> {
        self.lineage_owners.get(&instance)
    }

    /// Every instance that has moved.
    pub fn lineage_owners(&self) -> impl Iterator<Item = (InstanceId, &Arc<LineageOwner>)> {
        self.lineage_owners.iter().map(|(instance, owner)| (*instance, owner))
    }

    /// A server of this trust domain.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.servers.get(name)
    }

    /// The version of records that every server reads that has been heard of in the week before the last of them spoke.
    /// Ours, if none has spoken yet.
    #[must_use]
    pub fn level(&self) -> u32 {
        let newest = self.servers.values().map(|server| server.seen_at).max().unwrap_or_default();
        let heard = self.servers.values().filter(|server| server.seen_at >= newest.saturating_sub(FORGOTTEN));
        heard.map(|server| server.reads).min().unwrap_or(records::VERSION)
    }

    /// Whether an operator has had the store's incarnation begin after `before`, or after one that did.
    #[must_use]
    pub fn succeeds(&self, before: &Incarnation) -> bool {
        let mut open = vec![self.incarnation.to_string()];
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            let Some(succession) = self.successions.get(name.as_str()) else { continue };
            for after in &succession.after {
                if after.as_ref() == before.as_bytes() {
                    return true;
                }
                if let Ok(bytes) = <[u8; 16]>::try_from(after.as_ref())
                    && seen.insert(bytes)
                {
                    open.push(Incarnation::from_bytes(bytes).to_string());
                }
            }
        }
        false
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
        let registered = registered(after.as_ref(), value);
        let before = self.put(key, after.clone(), registered.clone());
        self.revision = revision;
        let change = AppliedChange { key: key.into(), revision, before, after, registered };
        if change.touches_bundle() {
            self.signing_keys_revision = revision;
            self.rebuild_bundle();
        }
        Ok(change)
    }

    /// Applies a change that another copy of the state has seen.
    pub(crate) fn replay(&mut self, change: &AppliedChange) {
        self.put(&change.key, change.after.clone(), change.registered.clone());
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
            // What was undone is not there any more to be shared.
            let record = change.before.as_ref().map(Object::encode);
            let registered = registered(change.before.as_ref(), record.as_deref());
            self.put(&change.key, change.before.clone(), registered);
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

    fn rebuild_bundle(&mut self) {
        self.bundle =
            Arc::new(bundle_of(&self.trust_domain, self.signing_keys.values(), self.signing_keys_revision));
    }

    /// Replaces what stands at `key`, and returns what stood there. `registered` is `after`, if that is a registration.
    fn put(&mut self, key: &str, after: Option<Object>, registered: Option<Registered>) -> Option<Object> {
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
            Object::Key(key) => self.keys.put_key(key),
            Object::KeyGrant(grant) => self.keys.put_grant(grant),
            Object::KeyVersion(version) => self.keys.put_version(version),
            Object::Lease(name, lease) => {
                self.leases.insert(name, lease);
            }
            Object::LedgerMark(server, mark) => {
                self.ledger_marks.insert(server, mark);
            }
            Object::LedgerWitness(names, witness) => {
                self.ledger_witnesses.insert(names, witness);
            }
            Object::LineageOwner(instance, owner) => {
                self.lineage_owners.insert(instance, owner);
            }
            Object::Policy(policy) => {
                self.policies.insert(Arc::clone(&policy.name), policy);
            }
            Object::Registration(registration) => {
                if let Some(registered) = registered {
                    self.site_mut(&registration.site).add_registration(&registered, &registration);
                    self.registrations.insert(registered);
                }
            }
            Object::Server(name, server) => {
                self.servers.insert(name, server);
            }
            Object::Succession(incarnation, succession) => {
                self.successions.insert(incarnation, succession);
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
            "kms" => self.keys.take_key(name).map(Object::Key),
            "kms-grant" => self.keys.take_grant(name).map(Object::KeyGrant),
            "kms-version" => self.keys.take_version(name).map(Object::KeyVersion),
            "lease" => self.leases.remove_entry(name).map(|(name, lease)| Object::Lease(name, lease)),
            "ledger" => {
                self.ledger_marks.remove_entry(name).map(|(server, mark)| Object::LedgerMark(server, mark))
            }
            "witness" => self
                .ledger_witnesses
                .remove_entry(name)
                .map(|(names, witness)| Object::LedgerWitness(names, witness)),
            "lineage" => self
                .lineage_owners
                .remove_entry(&name.parse().ok()?)
                .map(|(instance, owner)| Object::LineageOwner(instance, owner)),
            "registration" => {
                let registration = self.registrations.take(name.as_bytes())?.decode()?;
                self.leave_site(&registration.site.clone(), |site| site.remove_registration(&registration));
                Some(Object::Registration(registration))
            }
            "policy" => self.policies.remove(name).map(Object::Policy),
            "server" => self.servers.remove_entry(name).map(|(name, server)| Object::Server(name, server)),
            "incarnation" => self
                .successions
                .remove_entry(name)
                .map(|(incarnation, succession)| Object::Succession(incarnation, succession)),
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

/// The bytes of a registration's record, to be kept.
fn registered(object: Option<&Object>, record: Option<&[u8]>) -> Option<Registered> {
    match (object, record) {
        (Some(Object::Registration(registration)), Some(record)) => {
            Some(Registered::new(&registration.id, registration.revision, record))
        }
        _ => None,
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
