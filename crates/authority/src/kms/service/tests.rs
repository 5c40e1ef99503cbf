//! Keys over a real store, a real keyring and the real engine; only the disk of the ledger is not real.

mod faults;
mod leases;

use std::collections::BTreeSet;
use std::path::Path;

use bonafide_attest::SelectorSet;
use bonafide_crypto::mac::MacKey;
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::SpiffeId;
use bonafide_keyring::{Dispatch, KeyFileSeal, Keyring, LocalKeys};
use bonafide_kms::key::{Birth, Change, Settings, Target};
use bonafide_kms::material::Flags;
use bonafide_ledger::LedgerError;
use bonafide_policy::CertifiedLabels;
use bonafide_store::{
    Batch, BoxFuture, Change as Change_, Head, Revision, Snapshot, SqliteStore, Store, StoreError,
};
use bonafide_testkit::TestClock;
use prost::Message as _;

use super::*;
use crate::certified::Certified;
use crate::convert;
use crate::key_entry::KeyEntry;
use crate::keys::application_keys;
use crate::kms::book::Pages;
use crate::kms::callers::testing::caller;
use crate::kms::lifecycle::{self, NewKey, Title};
use crate::policy::PolicyRecord;
use crate::records::{Agent, Object, RecordChange};

const AGENT: &str = "spiffe://example.org/bonafide/agent/lab/one";

/// A ledger that is full when it is told to.
#[derive(Debug, Default)]
struct Paper {
    entries: Mutex<Vec<KeyEntry>>,
    full: std::sync::atomic::AtomicBool,
}

impl Pages for Paper {
    fn append_then(
        &self,
        entries: Vec<Vec<u8>>,
        then: Box<dyn FnOnce(Result<u64, LedgerError>) + Send>,
    ) -> Result<(), LedgerError> {
        if self.full.load(std::sync::atomic::Ordering::SeqCst) {
            then(Err(LedgerError::Full));
            return Ok(());
        }
        let entries = entries.iter().map(|entry| KeyEntry::decode(entry.as_slice()).unwrap());
        self.entries.lock().unwrap().extend(entries);
        then(Ok(0));
        Ok(())
    }
}

/// A store that is out of reach when it is told to be.
#[derive(Debug)]
struct Cable {
    store: SqliteStore,
    cut: std::sync::atomic::AtomicBool,
}

impl Cable {
    fn reach<T: Send>(&self) -> Result<(), BoxFuture<'_, Result<T, StoreError>>> {
        let cut = self.cut.load(std::sync::atomic::Ordering::SeqCst);
        if cut { Err(Box::pin(async { Err(StoreError::Io("cut off".to_owned())) })) } else { Ok(()) }
    }
}

impl Store for Cable {
    fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.reach().map_or_else(|cut| cut, |()| self.store.head())
    }

    fn commit(&self, expect: Revision, batch: Batch) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.reach().map_or_else(|cut| cut, |()| self.store.commit(expect, batch))
    }

    fn changes(&self, since: Revision, max: usize) -> BoxFuture<'_, Result<Vec<Change_>, StoreError>> {
        self.reach().map_or_else(|cut| cut, |()| self.store.changes(since, max))
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        self.reach().map_or_else(|cut| cut, |()| self.store.snapshot())
    }

    fn wait(&self, after: Revision, timeout: Duration) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            let told = match self.reach() {
                Ok(()) => self.store.wait(after, timeout).await,
                Err(cut) => return cut.await,
            };
            // A look that was under way when the cable was cut tells nothing, either.
            match self.reach() {
                Ok(()) => told,
                Err(cut) => cut.await,
            }
        })
    }
}

/// A server's keys.
struct House {
    cable: Arc<Cable>,
    service: Service,
    paper: Arc<Paper>,
    clock: Arc<TestClock>,
    registry: Registry,
    directory: Arc<tempfile::TempDir>,
}

impl House {
    async fn new() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let path = directory.path();
        let seal = KeyFileSeal::create(path.join("seal"), &SystemRandom).unwrap();
        Keyring::create(path.join("keyring"), &seal, &SystemRandom).unwrap();
        let house = Self::at(directory, TestClock::new()).await;
        house.put(site("lab")).await;
        house.put(site("edge")).await;
        house.put(agent()).await;
        for (id, site, name) in [("web", "lab", "web"), ("db", "lab", "db"), ("far", "edge", "far")] {
            house.put(registration(id, site, name)).await;
        }
        house
    }

    /// Opens what lies there.
    async fn at(directory: Arc<tempfile::TempDir>, clock: Arc<TestClock>) -> Self {
        let path: &Path = directory.path();
        let key = MacKey::from_bytes(&[7; 32]);
        let store = SqliteStore::open(path.join("store"), key, &SystemRandom).unwrap();
        let cable = Arc::new(Cable { store, cut: false.into() });
        let registry =
            Registry::open(cable.clone(), "example.org".parse().unwrap(), clock.clone()).await.unwrap();
        let seal = KeyFileSeal::open(path.join("seal")).unwrap();
        let random = Arc::new(SystemRandom);
        let keyring = Keyring::open(path.join("keyring"), &seal).unwrap();
        let live = LocalKeys::new(keyring, random.clone()).with_handler(application_keys(random.clone()));
        let paper = Arc::new(Paper::default());
        let service = Service::new(Parts {
            registry: registry.clone(),
            guard: Guard::new(7),
            hands: Hands::new(Dispatch::start(Arc::new(live), 2).unwrap()),
            book: Arc::new(Book::new(paper.clone(), 7)),
            ends: Arc::default(),
            leases: Mutex::default(),
            clock: clock.clone(),
            random,
        });
        Self { cable, service, paper, clock, registry, directory }
    }

    async fn put(&self, object: Object) -> u64 {
        self.registry.write(move |_| Ok(vec![RecordChange::Put(object.clone())])).await.unwrap().revision
    }

    async fn policy(&self, source: &str) -> u64 {
        let record = PolicyRecord::of_source(source, self.clock.now()).unwrap();
        self.put(Object::Policy(Arc::new(record))).await
    }

    async fn no_policy(&self, name: &str) {
        let key = crate::records::policy_key(name);
        self.registry.write(move |_| Ok(vec![RecordChange::Remove(key.clone())])).await.unwrap();
    }

    /// A key for everybody whom policies let.
    async fn key(&self, name: &str, key_type: KeyType) -> Arc<KeyRecord> {
        self.key_with(name, key_type, Settings::default(), Flags::default()).await
    }

    async fn key_with(
        &self,
        name: &str,
        key_type: KeyType,
        settings: Settings,
        flags: Flags,
    ) -> Arc<KeyRecord> {
        let new = NewKey {
            name: name.into(),
            key_type,
            flags,
            settings,
            aliases: vec![],
            management_labels: BTreeMap::new(),
        };
        let record = new.record(self.service.fresh_id(), false, self.clock.now()).unwrap();
        let drawn = self.service.draw(record.key.id, 1, key_type, flags, None).await.unwrap();
        self.registry.write(move |state| lifecycle::creation(state, &record, &drawn, true)).await.unwrap();
        self.registry.state().key(name).unwrap().clone()
    }

    async fn change(&self, name: &str, change: Change) -> Result<(), Refusal> {
        let record = self.registry.state().key(name).unwrap().clone();
        let key = &record.key;
        let drawn = match &change {
            Change::Rotate { .. } => {
                let flags = lifecycle::flags_of(key);
                Some(self.service.draw(key.id, key.newest() + 1, key.key_type, flags, None).await.unwrap())
            }
            _ => None,
        };
        let (now, name) = (self.clock.now(), name.to_owned());
        let written = self.registry.write(move |state| {
            lifecycle::change(state, state.key(&name).unwrap(), &change, drawn.as_ref(), now)
        });
        written.await.map(drop)
    }

    async fn one(
        &self,
        caller: &Caller,
        key: &str,
        what: What,
        context: &[(&str, &str)],
    ) -> Result<Done, Refusal> {
        let item = Item { what, context: pairs(context) };
        self.service.execute(caller, key, &[item]).await?.pop().unwrap()
    }

    async fn encrypt(&self, who: &Caller, key: &str, context: &[(&str, &str)]) -> Result<Bytes, Refusal> {
        let plaintext = Bytes::from_static(b"plain");
        match self.one(who, key, What::Encrypt { plaintext, version: None }, context).await? {
            Done::Ciphertext { bytes, .. } => Ok(bytes.into()),
            _ => panic!(),
        }
    }

    async fn decrypt(
        &self,
        who: &Caller,
        key: &str,
        ciphertext: &Bytes,
        context: &[(&str, &str)],
    ) -> Result<u32, Refusal> {
        match self.one(who, key, What::Decrypt { ciphertext: ciphertext.clone() }, context).await? {
            Done::Plaintext { bytes, version } => {
                assert_eq!(bytes.as_slice(), b"plain");
                Ok(version)
            }
            _ => panic!(),
        }
    }

    fn written(&self) -> Vec<EntryKind> {
        self.paper.entries.lock().unwrap().iter().map(|entry| entry.kind.clone().unwrap()).collect()
    }
}

fn pairs(context: &[(&str, &str)]) -> BTreeMap<String, String> {
    context.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn code<T>(result: Result<T, Refusal>) -> String {
    result.err().map(|refusal| refusal.code().to_owned()).unwrap_or_default()
}

fn site(name: &str) -> Object {
    let scope = bonafide_wire::types::Scope {
        spiffe_ids: vec!["spiffe://example.org/**".into()],
        max_x509_ttl: 3600,
        labels: vec![label("app", "*"), label("tenant", "t1")],
        ..Default::default()
    };
    let wire = bonafide_wire::types::Site { name: name.into(), scope: Some(scope), ..Default::default() };
    let now = UnixTime::from_secs(1);
    Object::Site(Arc::new(convert::wire::to_site(&wire, &"example.org".parse().unwrap(), now).unwrap()))
}

fn agent() -> Object {
    let of = |site: &str, id: &str| Agent {
        id: id.parse().unwrap(),
        site: site.into(),
        attestor: "join_token".into(),
        selectors: SelectorSet::new(),
        attested_at: UnixTime::from_secs(1),
        ban: None,
        version: String::new(),
        attestation: 0,
        proof: None,
    };
    Object::Agent(Arc::new(of("lab", AGENT)))
}

fn label(key: &str, value: &str) -> bonafide_wire::types::Selector {
    bonafide_wire::types::Selector { key: key.into(), value: value.into() }
}

fn registration(id: &str, site: &str, name: &str) -> Object {
    labelled(id, site, name, &[])
}

fn labelled(id: &str, site: &str, name: &str, labels: &[(&str, &str)]) -> Object {
    let wire = bonafide_wire::types::Registration {
        kind: bonafide_wire::types::registration::Kind::Entry.into(),
        site: site.into(),
        spiffe_id: format!("spiffe://example.org/{name}"),
        selectors: vec![label("unix.uid", "1")],
        labels: pairs(labels),
        ..Default::default()
    };
    let now = UnixTime::from_secs(1);
    Object::Registration(Arc::new(
        convert::wire::to_registration(&wire, &"example.org".parse().unwrap(), id, now).unwrap(),
    ))
}

/// A workload of the site `lab`, for which the agent asks.
fn workload(name: &str, labels: &[(&str, &str)]) -> Caller {
    let agent: SpiffeId = AGENT.parse().unwrap();
    let certified = Certified {
        id: format!("spiffe://example.org/{name}").parse().unwrap(),
        site: "lab".into(),
        instance: Some(bonafide_identity::InstanceId::from_bytes([name.len() as u8; 16])),
        issued_at: UnixTime::from_secs(1),
        registration: name.into(),
        agent: agent.clone(),
        selectors: SelectorSet::from_pairs([("unix.uid", "1")]).unwrap(),
        labels: CertifiedLabels::new(labels.iter().copied()).unwrap(),
        admin: BTreeSet::new(),
        authorities: Vec::new(),
        expires_at: UnixTime::from_secs(2_000_000_000),
    };
    caller(certified, Some(agent))
}

const WEB_ENCRYPTS: &str = "
kind: Policy
name: web
rules:
- name: encrypts
  allow: {who: {id: spiffe://example.org/web}, can: [encrypt, decrypt, rewrap, data-key], on: {key: orders/**}}
";

#[tokio::test]
async fn what_is_encrypted_opens_in_its_context_under_its_key_and_for_whom_policies_let() {
    let house = House::new().await;
    let (web, db) = (workload("web", &[]), workload("db", &[]));
    house.key("orders/pii", KeyType::Aes256Gcm).await;
    house.key("orders/other", KeyType::Aes256Gcm).await;
    assert_eq!(code(house.encrypt(&web, "orders/pii", &[]).await), "kms.denied", "the default is to deny");
    house.policy(WEB_ENCRYPTS).await;
    let context = [("tenant", "t1"), ("table", "users")];
    let ciphertext = house.encrypt(&web, "orders/pii", &context).await.unwrap();
    // In any order.
    assert_eq!(house.decrypt(&web, "orders/pii", &ciphertext, &[context[1], context[0]]).await, Ok(1));
    for wrong in [&[][..], &[("tenant", "t1")], &[("tenant", "t2"), ("table", "users")]] {
        let opened = house.decrypt(&web, "orders/pii", &ciphertext, wrong).await;
        assert_eq!(code(opened), "kms.ciphertext-refused", "{wrong:?}");
    }
    assert_eq!(code(house.decrypt(&web, "orders/other", &ciphertext, &context).await), "kms.other-key");
    // In the same words, whether there is such a key or not.
    let refused = house.decrypt(&db, "orders/pii", &ciphertext, &context).await.unwrap_err();
    let unknown = house.decrypt(&db, "orders/xxx", &ciphertext, &context).await.unwrap_err();
    assert_eq!(refused.message().replace("pii", "xxx"), unknown.message());
    assert_eq!((refused.code(), unknown.code()), ("kms.denied", "kms.denied"));
    assert_eq!(code(house.encrypt(&web, "orders/pii", &[("a b", "1")]).await), "kms.context-unfit");
    assert_eq!(code(house.encrypt(&web, "orders/pii", &[("", "1")]).await), "kms.context-name");
}

#[tokio::test]
async fn one_bad_item_spoils_no_other() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    house.key("orders/pii", KeyType::Aes128Gcm).await;
    let good = house.encrypt(&web, "orders/pii", &[("n", "1")]).await.unwrap();
    let mut bad = good.to_vec();
    *bad.last_mut().unwrap() ^= 1;
    let item = |ciphertext: &[u8], n: &str| Item {
        what: What::Decrypt { ciphertext: Bytes::copy_from_slice(ciphertext) },
        context: pairs(&[("n", n)]),
    };
    let items = [item(&good, "1"), item(&bad, "1"), item(&good, "2"), item(b"", "1"), item(&good, "1")];
    let results = house.service.execute(&web, "orders/pii", &items).await.unwrap();
    let codes: Vec<_> = results.into_iter().map(code).collect();
    assert_eq!(
        codes,
        ["", "kms.ciphertext-refused", "kms.ciphertext-refused", "kms.ciphertext-malformed", ""]
    );
    // And the ledger says the same.
    let Some(EntryKind::Operation(entry)) = house.written().pop() else { panic!() };
    let counts: Vec<_> = entry.items.iter().map(|items| (items.count, items.outcome.as_str())).collect();
    assert!(counts.contains(&(2, "")) && counts.contains(&(1, "kms.ciphertext-malformed")), "{counts:?}");
    assert_eq!(entry.items.iter().map(|items| items.count).sum::<u32>(), 5);
    assert_eq!((entry.by.as_str(), entry.operation.as_str()), ("web/encrypts", "decrypt"));
    let too_many: Vec<_> = (0..257).map(|_| item(&good, "1")).collect();
    assert_eq!(code(house.service.execute(&web, "orders/pii", &too_many).await), "kms.batch");
    assert_eq!(code(house.service.execute(&web, "orders/pii", &[]).await), "kms.batch");
}

#[tokio::test]
async fn versions_come_and_go_and_what_was_encrypted_opens_until_it_must_not() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    let name = "orders/pii";
    house.key(name, KeyType::ChaCha20Poly1305).await;
    let mut ciphertexts = Vec::new();
    for _ in 0..4 {
        ciphertexts.push(house.encrypt(&web, name, &[]).await.unwrap());
        house.change(name, Change::Rotate { imported: false }).await.unwrap();
    }
    for (ciphertext, version) in ciphertexts.iter().zip(1..) {
        assert_eq!(house.decrypt(&web, name, ciphertext, &[]).await, Ok(version));
    }
    // Another version's number on the same body.
    let mut renumbered = ciphertexts[0].to_vec();
    renumbered[22] = 2;
    assert_eq!(code(house.decrypt(&web, name, &renumbered.into(), &[]).await), "kms.ciphertext-refused");
    let What::Rewrap { .. } = (What::Rewrap { ciphertext: ciphertexts[0].clone(), version: None }) else {
        panic!()
    };
    let rewrap = What::Rewrap { ciphertext: ciphertexts[0].clone(), version: None };
    let Done::Ciphertext { bytes, version: 5 } = house.one(&web, name, rewrap, &[]).await.unwrap() else {
        panic!()
    };
    assert_eq!(house.decrypt(&web, name, &bytes.into(), &[]).await, Ok(5));

    let settings = Settings { min_encrypt: Some(3), min_decrypt: Some(3), ..Settings::default() };
    house.change(name, Change::Configure(settings)).await.unwrap();
    assert_eq!(code(house.decrypt(&web, name, &ciphertexts[1], &[]).await), "kms.version-too-old");
    let old = What::Encrypt { plaintext: Bytes::new(), version: Some(2) };
    assert_eq!(code(house.one(&web, name, old, &[]).await), "kms.version-too-old");
    house.change(name, Change::Disable(Target::Version(3))).await.unwrap();
    assert_eq!(code(house.decrypt(&web, name, &ciphertexts[2], &[]).await), "kms.version-disabled");
    house.change(name, Change::Trim(3)).await.unwrap();
    assert_eq!(code(house.decrypt(&web, name, &ciphertexts[0], &[]).await), "kms.version-trimmed");
    let id = *house.registry.state().key(name).unwrap().id();
    let kept: Vec<u32> = house.registry.state().key_versions(&id).map(|version| version.number).collect();
    assert_eq!(kept, [3, 4, 5], "the secrets of trimmed versions are gone");

    // Destroyed after its time of grace, and not before.
    let at = house.clock.now().as_secs() + 7200;
    house.change(name, Change::ScheduleDestruction { target: Target::Version(4), at }).await.unwrap();
    assert_eq!(code(house.decrypt(&web, name, &ciphertexts[3], &[]).await), "kms.version-destroy-scheduled");
    assert_eq!(code(house.change(name, Change::Destroy(Target::Version(4))).await), "kms.destroy-not-due");
    house.clock.advance(Duration::from_secs(7200));
    let lease = crate::lease::Holder::new("kms", "one");
    let schedule = crate::kms::schedule::Schedule {
        service: house.service.clone(),
        lease,
        device: crate::kms::schedule::Patience::default(),
    };
    schedule.look().await.unwrap();
    assert_eq!(code(house.decrypt(&web, name, &ciphertexts[3], &[]).await), "kms.version-destroyed");
    assert!(house.registry.state().key_version(&id, 4).is_none());
}

#[tokio::test]
async fn keys_rotate_by_themselves_once_when_it_is_time() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    let settings = Settings { rotation: Some(Some(Duration::from_secs(3600))), ..Settings::default() };
    house.key_with("orders/pii", KeyType::Aes256Gcm, settings, Flags::default()).await;
    let before = house.encrypt(&web, "orders/pii", &[]).await.unwrap();
    let schedules: Vec<_> = ["one", "two"]
        .map(|server| crate::kms::schedule::Schedule {
            service: house.service.clone(),
            lease: crate::lease::Holder::new("kms", server),
            device: crate::kms::schedule::Patience::default(),
        })
        .into();
    for (advance, primary) in [(3599, 1), (1, 2), (3600, 3)] {
        house.clock.advance(Duration::from_secs(advance));
        for schedule in &schedules {
            schedule.look().await.unwrap();
        }
        assert_eq!(house.registry.state().key("orders/pii").unwrap().key.primary, primary);
    }
    assert_eq!(house.decrypt(&web, "orders/pii", &before, &[]).await, Ok(1));
}

#[tokio::test]
async fn keys_of_sites_are_for_workloads_and_policies_of_these_sites() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    let of = |site: &str| Settings { sites: Some([site.to_owned()].into()), ..Settings::default() };
    house.key_with("orders/far", KeyType::Aes256Gcm, of("edge"), Flags::default()).await;
    house.key_with("orders/near", KeyType::Aes256Gcm, of("lab"), Flags::default()).await;
    house.key("orders/all", KeyType::Aes256Gcm).await;
    assert_eq!(code(house.encrypt(&web, "orders/far", &[]).await), "kms.denied");
    house.encrypt(&web, "orders/near", &[]).await.unwrap();
    // What an admin of a site may have written says nothing about keys of others, or of all.
    let source = "
kind: Policy
name: site
sites: [lab]
rules:
- {name: all, allow: {who: {id: spiffe://example.org/db}, on: {key: '**'}}}
";
    house.policy(source).await;
    let db = workload("db", &[]);
    house.encrypt(&db, "orders/near", &[]).await.unwrap();
    assert_eq!(code(house.encrypt(&db, "orders/all", &[]).await), "kms.denied");
    assert_eq!(code(house.encrypt(&db, "orders/far", &[]).await), "kms.denied");
}

#[tokio::test]
async fn every_kind_of_key_does_what_it_is_for_and_nothing_else() {
    let house = House::new().await;
    let web = workload("web", &[]);
    let all = "{kind: Policy, name: all, rules: [{name: all, allow: {who: {id: spiffe://example.org/web}}}]}";
    house.policy(all).await;
    let message = Bytes::from_static(b"message");
    for key_type in KeyType::ALL {
        // They take long to be drawn, and differ in nothing else.
        if matches!(key_type, KeyType::Rsa3072 | KeyType::Rsa4096) {
            continue;
        }
        let name = key_type.as_str();
        house.key(name, key_type).await;
        let encrypted = house.encrypt(&web, name, &[("a", "1")]).await;
        assert_eq!(encrypted.is_ok(), key_type.can(Operation::Encrypt), "{name}");
        if let Ok(ciphertext) = encrypted {
            assert_eq!(house.decrypt(&web, name, &ciphertext, &[("a", "1")]).await, Ok(1), "{name}");
            let what = What::DataKey { bytes: 64, wrapped_only: false, version: None };
            let drawn = house.one(&web, name, what, &[]).await.unwrap();
            let Done::DataKey { plaintext: Some(plaintext), wrapped, .. } = drawn else { panic!() };
            let what = What::Decrypt { ciphertext: wrapped.into() };
            let Done::Plaintext { bytes, .. } = house.one(&web, name, what, &[]).await.unwrap() else {
                panic!()
            };
            assert_eq!(bytes, plaintext, "{name}");
        }
        let made = house.one(&web, name, What::Mac { message: message.clone(), version: None }, &[]).await;
        assert_eq!(made.is_ok(), key_type.can(Operation::Mac), "{name}");
        if let Ok(Done::Mac { bytes, .. }) = made {
            for (of, expected) in [(&message, true), (&Bytes::from_static(b"other"), false)] {
                let what = What::VerifyMac { message: of.clone(), mac: bytes.clone().into() };
                let Done::Verified { valid, .. } = house.one(&web, name, what, &[]).await.unwrap() else {
                    panic!()
                };
                assert_eq!(valid, expected, "{name}");
            }
        }
        let what = What::Sign { message: message.clone(), prehashed: false, scheme: None, version: None };
        let made = house.one(&web, name, what, &[]).await;
        assert_eq!(made.is_ok(), key_type.can(Operation::Sign), "{name}");
        if let Ok(Done::Signature { bytes, .. }) = made {
            for (of, expected) in [(&message, true), (&Bytes::from_static(b"other"), false)] {
                let what =
                    What::Verify { message: of.clone(), prehashed: false, signature: bytes.clone().into() };
                let Done::Verified { valid, .. } = house.one(&web, name, what, &[]).await.unwrap() else {
                    panic!()
                };
                assert_eq!(valid, expected, "{name}");
            }
        }
        let public = house.one(&web, name, What::PublicKey { version: None }, &[]).await;
        assert_eq!(public.is_ok(), key_type.can(Operation::PublicKey), "{name}");
        assert_eq!(
            code(house.one(&web, name, What::Fetch { version: None }, &[]).await),
            "kms.not-exportable"
        );
    }
}

#[tokio::test]
async fn a_key_leaves_only_if_it_was_born_to_and_policies_say_so() {
    let house = House::new().await;
    let web = workload("web", &[]);
    let flags = Flags { exportable: true, ..Flags::default() };
    house.key_with("out", KeyType::HmacSha256, Settings::default(), flags).await;
    house.policy(WEB_ENCRYPTS).await;
    assert_eq!(code(house.one(&web, "out", What::Fetch { version: None }, &[]).await), "kms.denied");
    let source = "{kind: Policy, name: out, rules: [{name: out, allow: {who: {id: spiffe://example.org/web}, can: [fetch-key], on: {key: out}}}]}";
    house.policy(source).await;
    let fetched = house.one(&web, "out", What::Fetch { version: None }, &[]).await.unwrap();
    assert!(matches!(fetched, Done::Material { bytes, .. } if bytes.len() == 32));
    assert_eq!(
        house.registry.state().key("out").unwrap().key.birth,
        Birth { at: house.clock.now().as_secs(), exportable: true, ..Birth::default() }
    );
}

#[tokio::test]
async fn labels_context_and_algorithms_count_as_they_do_everywhere() {
    let house = House::new().await;
    let source = "
kind: Policy
name: tenants
appliesTo: {team: shop}
rules:
- name: own-tenant
  allow: {who: {labels: {app: web}}, can: [encrypt], on: {key: orders/*}, when: {aad: {tenant: '{who.labels.tenant}'}}}
- name: signs
  allow: {who: {labels: {app: web}}, can: [sign], on: {path: /keys/release}, when: {alg: [rsa-pss-sha256]}}
";
    house.policy(source).await;
    let labels = |team: &str| Settings { labels: Some(pairs(&[("team", team)])), ..Settings::default() };
    house.key_with("orders/a", KeyType::Aes256Gcm, labels("shop"), Flags::default()).await;
    house.key_with("orders/b", KeyType::Aes256Gcm, labels("bank"), Flags::default()).await;
    house.key_with("release", KeyType::Rsa2048, labels("shop"), Flags::default()).await;
    let own = [("app", "web"), ("tenant", "t1")];
    let web = workload("web", &own);
    // What a certificate says counts as long as the registration says it, too.
    assert_eq!(code(house.encrypt(&web, "orders/a", &[("tenant", "t1")]).await), "kms.caller-over");
    house.put(labelled("web", "lab", "web", &own)).await;
    house.encrypt(&web, "orders/a", &[("tenant", "t1")]).await.unwrap();
    for (key, tenant) in [("orders/a", "t2"), ("orders/b", "t1")] {
        assert_eq!(code(house.encrypt(&web, key, &[("tenant", tenant)]).await), "kms.denied");
    }
    let sign = |scheme: &str| What::Sign {
        message: Bytes::from_static(b"m"),
        prehashed: false,
        scheme: Scheme::from_name(scheme),
        version: None,
    };
    house.one(&web, "release", sign("rsa-pss-sha256"), &[]).await.unwrap();
    assert_eq!(code(house.one(&web, "release", sign("rsa-pkcs1-sha256"), &[]).await), "kms.denied");
    house.put(labelled("web", "lab", "web", &own[..1])).await;
    assert_eq!(code(house.encrypt(&web, "orders/a", &[("tenant", "t1")]).await), "kms.caller-over");
}

#[tokio::test]
async fn who_has_lost_what_his_certificate_rests_on_uses_no_key() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    house.key("orders/pii", KeyType::Aes256Gcm).await;
    house.encrypt(&web, "orders/pii", &[]).await.unwrap();
    let gone = crate::records::registration_key("web");
    house.registry.write(move |_| Ok(vec![RecordChange::Remove(gone.clone())])).await.unwrap();
    assert_eq!(code(house.encrypt(&web, "orders/pii", &[]).await), "kms.caller-over");
}
