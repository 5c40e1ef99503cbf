//! A clock, a store in memory, and a registry over it with a site or two.

#[path = "support/peers.rs"]
pub(crate) mod peers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bonafide_authority::{
    admin::{Admin, Caller, LedgerStatus, LocalAdmins, ServerInfo},
    certified::Certified,
    presence::Presence,
    records::{Agent, Object, RecordChange, SigningKey, signing_key},
    registry::Registry,
};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::{
    SpiffeId, TrustDomain, reserved,
    time::{Clock, UnixTime},
};
use bonafide_store::{
    Batch, BoxFuture, Change, Head, Incarnation, Object as Stored, Revision, Snapshot, Store, StoreError,
};
use bonafide_wire::{
    admin::{PutRegistrationRequest, PutSiteRequest, Resource, resource},
    types,
};
use tokio::sync::watch;

pub(crate) const START: i64 = 1_800_000_000;

#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(START)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs().try_into().unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixTime {
        UnixTime::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// The revision log in memory. Several registries over one of them are several servers over one database.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    log: Mutex<Log>,
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    changes: Vec<Change>,
    objects: BTreeMap<String, (u64, Vec<u8>)>,
    commits: u64,
    floor: u64,
    fail: Option<StoreError>,
    cut_off: bool,
}

impl MemoryStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { log: Mutex::default(), revision: watch::Sender::new(0) })
    }

    /// Commits so far: groups, not mutations.
    pub(crate) fn commits(&self) -> u64 {
        self.log.lock().unwrap().commits
    }

    pub(crate) fn fail_next_commit(&self, error: StoreError) {
        self.log.lock().unwrap().fail = Some(error);
    }

    /// Nobody can ask for the head, or for changes, from now on; or can again.
    pub(crate) fn cut_off(&self, cut_off: bool) {
        self.log.lock().unwrap().cut_off = cut_off;
    }

    pub(crate) fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.log.lock().unwrap().objects.get(key).map(|(_, value)| value.clone())
    }

    pub(crate) fn compact(&self) {
        let mut log = self.log.lock().unwrap();
        log.floor = log.changes.len() as u64;
    }

    /// Writes past any registry.
    pub(crate) fn inject(&self, key: &str, value: Option<Vec<u8>>) {
        let mut log = self.log.lock().unwrap();
        log.append(vec![(key.to_owned(), value)]);
        let revision = log.changes.len() as u64;
        drop(log);
        self.revision.send_replace(revision);
    }
}

impl Log {
    fn append(&mut self, changes: Vec<(String, Option<Vec<u8>>)>) {
        for (key, value) in changes {
            let revision = self.changes.len() as u64 + 1;
            match &value {
                Some(value) => drop(self.objects.insert(key.clone(), (revision, value.clone()))),
                None => drop(self.objects.remove(&key)),
            }
            self.changes.push(Change { revision: Revision(revision), key, value });
        }
    }

    fn reachable(&self) -> Result<(), StoreError> {
        if self.cut_off { Err(StoreError::Io("cut off".to_owned())) } else { Ok(()) }
    }

    fn head(&self) -> Head {
        Head {
            incarnation: Incarnation::from_bytes([1; 16]),
            revision: Revision(self.changes.len() as u64),
            floor: Revision(self.floor),
        }
    }
}

impl Store for MemoryStore {
    fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async {
            let log = self.log.lock().unwrap();
            log.reachable().map(|()| log.head())
        })
    }

    fn commit(&self, expect: Revision, batch: Batch) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            // As a disk does: others queue up meanwhile.
            tokio::task::yield_now().await;
            let revision = {
                let mut log = self.log.lock().unwrap();
                if let Some(error) = log.fail.take() {
                    return Err(error);
                }
                let head = log.head().revision;
                if head != expect {
                    return Err(StoreError::Conflict { head });
                }
                log.append(batch.changes);
                log.commits += 1;
                log.changes.len() as u64
            };
            self.revision.send_replace(revision);
            Ok(Revision(revision))
        })
    }

    fn changes(&self, since: Revision, max: usize) -> BoxFuture<'_, Result<Vec<Change>, StoreError>> {
        Box::pin(async move {
            let log = self.log.lock().unwrap();
            if since.0 < log.floor {
                return Err(StoreError::Compacted { floor: Revision(log.floor) });
            }
            Ok(log.changes.iter().skip(usize::try_from(since.0).unwrap()).take(max).cloned().collect())
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        Box::pin(async {
            let log = self.log.lock().unwrap();
            let object = |(key, (revision, value)): (&String, &(u64, Vec<u8>))| Stored {
                key: key.clone(),
                revision: Revision(*revision),
                value: value.clone(),
            };
            Ok(Snapshot { head: log.head(), objects: log.objects.iter().map(object).collect() })
        })
    }

    fn wait(&self, after: Revision, timeout: Duration) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            let mut revision = self.revision.subscribe();
            let _ = tokio::time::timeout(timeout, revision.wait_for(|revision| *revision > after.0)).await;
            let log = self.log.lock().unwrap();
            log.reachable().map(|()| log.head().revision)
        })
    }
}

pub(crate) fn trust_domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// One server.
pub(crate) struct Server {
    pub(crate) registry: Registry,
    pub(crate) admin: Admin,
    pub(crate) presence: Presence,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) store: Arc<MemoryStore>,
}

pub(crate) const LOCAL: Caller = Caller::Local { uid: 0 };

impl Server {
    pub(crate) async fn new() -> Self {
        Self::over(MemoryStore::new(), TestClock::new()).await
    }

    pub(crate) async fn over(store: Arc<MemoryStore>, clock: Arc<TestClock>) -> Self {
        let registry = Registry::open(store.clone(), trust_domain(), clock.clone()).await.unwrap();
        let presence = Presence::new();
        let info = ServerInfo {
            server: "one".into(),
            version: "0.1.0".into(),
            address: "authority.example.org:8443".into(),
            seal: "key-file".into(),
            started_at: clock.now(),
            local: LocalAdmins { own_uid: 900, gid: Some(950) },
            ledger: Arc::new(|| LedgerStatus { size: 7, ..LedgerStatus::default() }),
            // Of each instance its first byte tells.
            site_of_instance: Arc::new(|instance| match instance.as_bytes().first() {
                Some(1) => Some("edge".to_owned()),
                Some(2) => Some("core".to_owned()),
                _ => None,
            }),
        };
        let admin =
            Admin::new(registry.clone(), presence.clone(), clock.clone(), Arc::new(SystemRandom), info);
        Self { registry, admin, presence, clock, store }
    }

    pub(crate) async fn put_site(&self, name: &str, scope: types::Scope) {
        let site = types::Site { name: name.into(), scope: Some(scope), ..types::Site::default() };
        let request = PutSiteRequest { site: Some(site), ..PutSiteRequest::default() };
        self.admin.put_site(&LOCAL, request).await.unwrap();
    }

    pub(crate) async fn put_entry(
        &self,
        site: &str,
        id: &str,
        spiffe_id: &str,
        selectors: &[(&str, &str)],
    ) -> u64 {
        let request = put(entry(site, id, spiffe_id, selectors));
        self.admin.put_registration(&LOCAL, request).await.unwrap().revision
    }

    /// An agent, as node attestation makes it.
    pub(crate) async fn add_agent(&self, site: &str, number: u8) -> SpiffeId {
        let id = agent_id(site, number);
        let agent = Arc::new(Agent {
            id: id.clone(),
            site: site.into(),
            attestor: "join_token".into(),
            selectors: bonafide_attest::SelectorSet::new(),
            attested_at: self.clock.now(),
            ban: None,
            version: "0.1.0".into(),
            attestation: 0,
            proof: None,
        });
        self.registry
            .write(move |_| Ok(vec![RecordChange::Put(Object::Agent(agent.clone()))]))
            .await
            .unwrap();
        id
    }

    /// A root's record, good enough for its pin.
    pub(crate) async fn add_root(&self) {
        let root = Arc::new(SigningKey {
            id: "root".into(),
            r#use: signing_key::Use::Root.into(),
            state: signing_key::State::Active.into(),
            certificate: b"der".to_vec().into(),
            ..SigningKey::default()
        });
        self.registry
            .write(move |_| Ok(vec![RecordChange::Put(Object::SigningKey(root.clone()))]))
            .await
            .unwrap();
    }
}

pub(crate) fn agent_id(site: &str, number: u8) -> SpiffeId {
    let uuid = bonafide_identity::InstanceId::from_bytes([number; 16]).to_string();
    reserved::agent_id(&trust_domain(), site, &uuid).unwrap()
}

pub(crate) fn scope(spiffe_ids: &[&str]) -> types::Scope {
    types::Scope {
        spiffe_ids: spiffe_ids.iter().map(ToString::to_string).collect(),
        ..types::Scope::default()
    }
}

pub(crate) fn selectors(pairs: &[(&str, &str)]) -> Vec<types::Selector> {
    pairs.iter().map(|(key, value)| types::Selector { key: (*key).into(), value: (*value).into() }).collect()
}

pub(crate) fn entry(site: &str, id: &str, spiffe_id: &str, own: &[(&str, &str)]) -> types::Registration {
    types::Registration {
        id: id.into(),
        kind: types::registration::Kind::Entry.into(),
        site: site.into(),
        spiffe_id: spiffe_id.into(),
        selectors: selectors(own),
        ..types::Registration::default()
    }
}

pub(crate) fn rule(site: &str, id: &str, template: &str, own: &[(&str, &str)]) -> types::Registration {
    types::Registration { kind: types::registration::Kind::Rule.into(), ..entry(site, id, template, own) }
}

pub(crate) fn put(registration: types::Registration) -> PutRegistrationRequest {
    PutRegistrationRequest { registration: Some(registration), ..PutRegistrationRequest::default() }
}

/// A registration, for an apply.
pub(crate) fn resource(registration: types::Registration) -> Resource {
    Resource { resource: Some(resource::Resource::Registration(registration)) }
}

/// A site, for an apply.
pub(crate) fn site_resource(site: types::Site) -> Resource {
    Resource { resource: Some(resource::Resource::Site(site)) }
}

/// Number of the agent under which admins run.
pub(crate) const ADMINS_AGENT: u8 = 9;
/// What their agent attests of admins.
pub(crate) const ADMINS_SELECTORS: [(&str, &str); 2] = [("unix.uid", "7"), ("x.always", "1")];

/// What a verified certificate of a site's admin says.
pub(crate) fn site_admin(spiffe_id: &str, site: &str, registration: &str, admin: &[&str]) -> Caller {
    Caller::Peer(Certified {
        id: id(spiffe_id),
        site: site.into(),
        instance: None,
        issued_at: UnixTime::from_secs(START - 60),
        registration: registration.into(),
        agent: agent_id(site, ADMINS_AGENT),
        labels: bonafide_policy::CertifiedLabels::none(),
        selectors: bonafide_attest::SelectorSet::from_pairs(ADMINS_SELECTORS).unwrap(),
        admin: admin.iter().map(ToString::to_string).collect(),
        authorities: Vec::new(),
        expires_at: UnixTime::from_secs(START + 3600),
    })
}
