use bonafide_crypto::random::SystemRandom;
use bonafide_identity::SpiffeId;
use bonafide_identity::revocation::Subject;
use bonafide_identity::x509;
use bonafide_keyring::{KeyFileSeal, Keyring, LocalKeys};
use bonafide_ledger::{Ledger, LedgerConfig};
use bonafide_store::SqliteStore;
use bonafide_testkit::TestClock;
use bonafide_tls::Trust;
use tempfile::TempDir;

use super::*;
use crate::records;

mod upstream;

struct Fixture {
    rotation: Rotation,
    clock: Arc<TestClock>,
    store: Arc<SqliteStore>,
    _directory: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(None).await
    }

    async fn with(upstream: Option<Arc<Upstream>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = TestClock::new();
        let seal = KeyFileSeal::create(directory.path().join("seal"), &SystemRandom).unwrap();
        let keyring = Keyring::create(directory.path().join("keyring"), &seal, &SystemRandom).unwrap();
        let store =
            SqliteStore::open(directory.path().join("store"), keyring.mac_key("store"), &SystemRandom);
        let store = Arc::new(store.unwrap());
        let trust_domain: TrustDomain = "example.org".parse().unwrap();
        let registry =
            Registry::open(Arc::clone(&store) as _, trust_domain.clone(), clock.clone()).await.unwrap();
        let random: Arc<dyn bonafide_crypto::random::Random> = Arc::new(SystemRandom);
        let live = Arc::new(LocalKeys::new(keyring, random.clone()));
        let vault = Vault::new(live, crate::config::KeysConfig::default(), random);
        let key = vault.ledger_key(&registry, "a", &*clock).await.unwrap();
        let origin = LedgerConfig { origin: "example.org/a".into() };
        let ledger = Ledger::open(directory.path().join("ledger"), origin, key).unwrap();
        let rotation = Rotation {
            registry,
            vault,
            journal: Arc::new(Journal::new(Arc::new(ledger))),
            presence: Presence::new(),
            lineages: Arc::default(),
            clock: clock.clone(),
            trust_domain,
            server: "a".into(),
            lifetimes: Lifetimes::default(),
            upstream,
            started_at: clock.now(),
            lease: Holder::new("keys", "a"),
        };
        rotation.catch_up().await.unwrap();
        Self { rotation, clock, store, _directory: directory }
    }

    fn keys(&self) -> Keys {
        let vault = self.rotation.vault.clone();
        Keys::open(&self.rotation.registry, vault, "a".into(), Trust::default(), self.clock.now()).unwrap()
    }

    fn of(&self, family: Family) -> Vec<(rotation::State, String)> {
        let slots = self.rotation.slots(family, &self.rotation.registry.state());
        slots.into_iter().map(|slot| (slot.state, slot.id)).collect()
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.rotation.catch_up().await.unwrap();
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn intermediates_change_at_half_life_for_ever_and_the_bundle_does_not() {
    let fixture = Fixture::new().await;
    let bundle = fixture.rotation.registry.state().bundle().to_json();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let keys = fixture.keys();
        let current = keys.current();
        let issuer = current.issuer().certificate();
        assert!(issuer.not_after().since(fixture.clock.now()) >= 12 * HOUR - Duration::from_secs(60));
        seen.insert(issuer.serial().to_vec());
        fixture.pass(6 * HOUR).await;
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(bundle, fixture.rotation.registry.state().bundle().to_json());
    assert!(fixture.of(Family::Intermediate).len() <= 4, "old ones are retired");
}

#[tokio::test]
async fn a_new_jwt_key_waits_for_the_agents_that_are_connected() {
    let fixture = Fixture::new().await;
    let agent =
        "spiffe://example.org/bonafide/agent/lab/00000000-0000-4000-8000-000000000000".parse().unwrap();
    let connection = fixture.rotation.presence.connect(agent, UnixTime::from_secs(i64::MAX), "");
    connection.acknowledge(fixture.rotation.registry.state().revision());
    let first = fixture.of(Family::Jwt);
    assert_eq!(first.len(), 1);

    fixture.pass(4 * DAY).await;
    let both = fixture.of(Family::Jwt);
    assert!(both.iter().any(|(state, _)| *state == rotation::State::Prepared));
    assert_eq!(
        fixture.rotation.registry.state().bundle().jwt_authorities().len(),
        2,
        "published before its use"
    );
    assert!(fixture.rotation.awaits_acknowledgement());
    fixture.pass(HOUR).await;
    assert_eq!(fixture.of(Family::Jwt), both, "time alone does not do it");

    connection.acknowledge(fixture.rotation.registry.state().revision());
    fixture.rotation.catch_up().await.unwrap();
    let keys = fixture.keys();
    assert_ne!(keys.current().jwt(&fixture.rotation.registry.state()).unwrap().id(), first[0].1);
    assert!(fixture.of(Family::Jwt).contains(&(rotation::State::Old, first[0].1.clone())));
    fixture.pass(HOUR).await;
    assert_eq!(fixture.of(Family::Jwt).len(), 1, "nothing that the old key signed is alive");
}

#[tokio::test]
async fn the_sequence_of_the_bundle_does_not_go_back_when_a_server_starts_again() {
    let fixture = Fixture::new().await;
    fixture.pass(4 * DAY).await;
    assert_eq!(fixture.of(Family::Jwt).len(), 2);
    fixture.pass(2 * HOUR).await;
    fixture.pass(2 * HOUR).await;
    assert_eq!(fixture.of(Family::Jwt).len(), 1, "the old one has gone, and with it the newest change");
    let trust_domain = fixture.rotation.trust_domain.clone();
    let again =
        Registry::open(Arc::clone(&fixture.store) as _, trust_domain, fixture.clock.clone()).await.unwrap();
    assert_eq!(again.state().bundle(), fixture.rotation.registry.state().bundle());
}

#[tokio::test]
async fn a_new_root_takes_the_intermediate_along_and_old_chains_stay_valid() {
    let fixture = Fixture::new().await;
    let old = fixture.keys().current();
    let old_root = old.root().clone();
    // Half of a year on, as a server that was off would find it.
    fixture.pass(183 * DAY).await;
    assert_eq!(fixture.rotation.registry.state().bundle().x509_authorities().len(), 2);
    fixture.pass(6 * HOUR).await;
    let new = fixture.keys().current();
    assert_ne!(new.root().der(), old_root.der());
    assert_eq!(new.issuer().certificate().authority_key_id(), new.root().subject_key_id());
    let bundles = new.bundles();
    assert!(bundles.get(&fixture.rotation.trust_domain).unwrap().x509_authorities().contains(&old_root));
    fixture.pass(2 * DAY).await;
    assert_eq!(fixture.rotation.registry.state().bundle().x509_authorities().len(), 1);
    // Not a chain of a leaf, but the verifier must get as far as that.
    let refused =
        x509::verify(&[new.issuer().certificate().der()], bundles, fixture.clock.now()).unwrap_err();
    assert!(matches!(refused, x509::X509Error::Leaf(_)), "{refused}");
}

#[tokio::test]
async fn private_keys_are_wrapped_and_bound_to_their_record() {
    let fixture = Fixture::new().await;
    let state = fixture.rotation.registry.state();
    let keys: Vec<_> = state.signing_keys().cloned().collect();
    assert_eq!(keys.len(), 4);
    for key in &keys {
        let opened = fixture.rotation.vault.open(key).unwrap();
        assert_eq!(opened.public_key().spki_der(), key.public_key);
        let mut moved = (**key).clone();
        moved.id = "elsewhere".into();
        assert!(fixture.rotation.vault.open(&moved).is_err());
    }
}

fn actor() -> &'static str {
    "local uid 0"
}

fn agent_number(number: u8) -> SpiffeId {
    format!("spiffe://example.org/bonafide/agent/lab/00000000-0000-4000-8000-0000000000{number:02}")
        .parse()
        .unwrap()
}

async fn give(fixture: &Fixture, order: rotation::Order) -> Result<super::super::Ordered, String> {
    let given = fixture.rotation.order(actor(), order, Duration::ZERO).await;
    fixture.rotation.catch_up().await.unwrap();
    given.map_err(|refusal| refusal.code().to_owned())
}

#[tokio::test]
async fn an_operator_replaces_a_root_only_when_agents_know_the_next_one() {
    let fixture = Fixture::new().await;
    let presence = &fixture.rotation.presence;
    let far = UnixTime::from_secs(i64::MAX);
    let here = presence.connect(agent_number(1), far, "");
    // Gone for a moment: what it has is believed for an hour.
    let soon = fixture.clock.now().saturating_add(HOUR);
    drop(presence.connect(agent_number(2), soon, ""));
    let old = fixture.of(Family::Root)[0].1.clone();
    let prepared = fixture.rotation.prepare(actor(), Family::Root).await.unwrap();
    let id = prepared.authority.id.clone();
    fixture.rotation.catch_up().await.unwrap();
    assert_eq!(fixture.rotation.prepare(actor(), Family::Root).await.unwrap().authority.id, id);
    assert!(fixture.of(Family::Root).contains(&(rotation::State::Prepared, id.clone())), "it waits");

    let activate = |force| rotation::Order::Activate { id: id.clone(), force };
    assert_eq!(give(&fixture, activate(false)).await.unwrap_err(), "ca.not-acknowledged");
    here.acknowledge(fixture.rotation.registry.state().revision());
    assert_eq!(give(&fixture, activate(false)).await.unwrap_err(), "ca.not-acknowledged", "one is away");
    let behind = fixture.rotation.behind(&fixture.rotation.registry.state(), &id);
    assert_eq!(behind, [agent_number(2)]);
    fixture.clock.advance(HOUR);
    assert!(give(&fixture, activate(false)).await.unwrap().behind.is_empty(), "it was away for too long");
    assert!(fixture.of(Family::Root).contains(&(rotation::State::Old, old.clone())));

    let taint = rotation::Order::Taint { id: old.clone(), force: false };
    let revoke = |force| rotation::Order::Revoke { id: old.clone(), force };
    assert_eq!(give(&fixture, revoke(false)).await.unwrap_err(), "ca.not-tainted");
    give(&fixture, taint).await.unwrap();
    let state = fixture.rotation.registry.state();
    let record = state.signing_key(&old).unwrap();
    assert!(record.wrapped_key.is_empty(), "it can't sign any more");
    assert_eq!(state.bundle().x509_authorities().len(), 2);
    assert_eq!(state.bundle().tainted().len(), 1);
    assert_eq!(give(&fixture, revoke(false)).await.unwrap_err(), "ca.not-renewed");
    here.renewals(record.state_revision, 0);
    give(&fixture, revoke(false)).await.unwrap();
    let state = fixture.rotation.registry.state();
    assert_eq!(state.bundle().x509_authorities().len(), 1);
    assert_eq!(state.bundle().tainted().len(), 1, "for agents that were away");
}

#[tokio::test]
async fn a_stolen_key_signs_nothing_from_the_moment_that_it_is_tainted() {
    let fixture = Fixture::new().await;
    let keys = fixture.keys();
    let before = keys.current();
    let stolen = fixture.of(Family::Intermediate)[0].1.clone();
    let taint = |id: &str, force| rotation::Order::Taint { id: id.to_owned(), force };
    let given = fixture.rotation.order(actor(), taint(&stolen, false), Duration::ZERO).await;
    given.unwrap();
    // The set of a moment ago, which a signing thread still holds.
    assert!(!before.may_issue(&fixture.rotation.registry.state()));
    fixture.rotation.catch_up().await.unwrap();
    keys.reload(&fixture.rotation.registry.state(), fixture.clock.now()).unwrap();
    assert!(keys.current().may_issue(&fixture.rotation.registry.state()));
    assert_ne!(keys.current().issuer_key_id(), before.issuer_key_id());
    let revoke = rotation::Order::Revoke { id: stolen.clone(), force: false };
    give(&fixture, revoke).await.unwrap();
    let state = fixture.rotation.registry.state();
    assert!(state.revocations().get(&Subject::AuthorityKey(before.issuer_key_id().into())).is_some());

    let root = fixture.of(Family::Root)[0].1.clone();
    assert_eq!(give(&fixture, taint(&root, false)).await.unwrap_err(), "ca.active");
    let under_stolen_root = keys.current();
    give(&fixture, taint(&root, true)).await.unwrap();
    let state = fixture.rotation.registry.state();
    assert!(!under_stolen_root.may_issue(&state), "what hangs from a stolen root is stolen");
    keys.reload(&state, fixture.clock.now()).unwrap();
    assert!(keys.current().may_issue(&state));
    assert_ne!(keys.current().root(), under_stolen_root.root());

    let jwt = fixture.of(Family::Jwt)[0].1.clone();
    let signed_by = keys.current();
    give(&fixture, taint(&jwt, true)).await.unwrap();
    assert!(signed_by.jwt(&fixture.rotation.registry.state()).is_err());
}

#[tokio::test]
async fn of_two_servers_that_prepare_at_once_one_makes_the_root() {
    let fixture = Fixture::new().await;
    let mut second = fixture.rotation.clone();
    second.server = "b".into();
    let (one, other) =
        tokio::join!(fixture.rotation.prepare(actor(), Family::Root), second.prepare(actor(), Family::Root));
    assert_eq!(one.unwrap().authority.id, other.unwrap().authority.id);
    assert_eq!(fixture.of(Family::Root).len(), 2);
    // Each of them speaks for its own agents.
    second.presence = Presence::new();
    let there = second.presence.connect(agent_number(7), UnixTime::from_secs(i64::MAX), "");
    second.catch_up().await.unwrap();
    let id = fixture
        .of(Family::Root)
        .into_iter()
        .find(|(state, _)| *state == rotation::State::Prepared)
        .unwrap()
        .1;
    let activate = || rotation::Order::Activate { id: id.clone(), force: false };
    assert_eq!(give(&fixture, activate()).await.unwrap_err(), "ca.not-acknowledged");
    there.acknowledge(fixture.rotation.registry.state().revision());
    second.catch_up().await.unwrap();
    give(&fixture, activate()).await.unwrap();
    // Also of what they have renewed.
    let old =
        fixture.of(Family::Root).into_iter().find(|(state, _)| *state == rotation::State::Old).unwrap().1;
    let revoke = || rotation::Order::Revoke { id: old.clone(), force: false };
    give(&fixture, rotation::Order::Taint { id: old.clone(), force: false }).await.unwrap();
    second.catch_up().await.unwrap();
    assert_eq!(give(&fixture, revoke()).await.unwrap_err(), "ca.not-renewed");
    let tainted_at = fixture.rotation.registry.state().signing_key(&old).unwrap().state_revision;
    there.renewals(tainted_at, 0);
    assert!(second.awaits_acknowledgement());
    second.catch_up().await.unwrap();
    assert!(!second.awaits_acknowledgement());
    give(&fixture, revoke()).await.unwrap();
}

#[tokio::test]
async fn who_did_what_is_on_the_ledger() {
    let fixture = Fixture::new().await;
    let stolen = fixture.of(Family::Intermediate)[0].1.clone();
    let order = rotation::Order::Taint { id: stolen.clone(), force: false };
    let ordered = fixture.rotation.order(actor(), order, Duration::ZERO).await.unwrap();
    let ledger = fixture.rotation.journal.ledger();
    let told: Vec<entry::AuthorityChange> = (0..ledger.size())
        .filter_map(|index| {
            use prost::Message as _;
            match entry::Entry::decode(&*ledger.read(index).unwrap()).unwrap().kind {
                Some(EntryKind::AuthorityChange(change)) if change.authority == stolen => Some(change),
                _ => None,
            }
        })
        .collect();
    let said: Vec<_> =
        told.iter().map(|change| (change.state.as_str(), change.actor.as_str(), change.revision)).collect();
    let made = said[0].2;
    assert_eq!(
        said,
        [("active", "rotation", made), ("tainted", actor(), 0), ("tainted", actor(), ordered.revision)]
    );
}

#[tokio::test]
async fn keys_that_all_share_are_made_under_the_lease() {
    let world = Fixture::new().await;
    let (rotation, clock) = (&world.rotation, &world.clock);
    let lease = |state: &State| state.lease("keys").map(|lease| (lease.holder.clone(), lease.epoch));
    clock.advance(Duration::from_secs(4 * 86_400));
    // Another server is there, and has begun to do what is due.
    let mut other = rotation.draw(Family::Intermediate).await.unwrap();
    other.server = "b".into();
    other.set_state(signing_key::State::Active);
    other.not_after = clock.now().as_secs() + 86_400;
    let term = records::Lease { holder: "b".into(), epoch: 5, expires_at: clock.now().as_secs() + 20 };
    let changes = [Object::SigningKey(Arc::new(other)), Object::Lease("keys".into(), Arc::new(term))];
    rotation
        .registry
        .write(move |_| Ok(changes.iter().cloned().map(RecordChange::Put).collect()))
        .await
        .unwrap();
    let before = world.of(Family::Jwt).len();
    let wake_at = rotation.catch_up().await.unwrap().unwrap();
    assert_eq!(world.of(Family::Jwt).len(), before);
    assert!(wake_at <= clock.now().saturating_add(Duration::from_secs(20)));
    // It hangs: its time runs out, and with it the right to commit.
    clock.advance(Duration::from_secs(21));
    rotation.catch_up().await.unwrap();
    assert_eq!(world.of(Family::Jwt).len(), before + 1);
    assert_eq!(lease(&rotation.registry.state()), Some(("a".to_owned(), 6)));
}

#[tokio::test]
async fn a_server_alone_needs_no_lease() {
    let world = Fixture::new().await;
    let before = world.of(Family::Jwt).len();
    world.clock.advance(Duration::from_secs(4 * 86_400));
    world.rotation.catch_up().await.unwrap();
    assert_eq!(world.of(Family::Jwt).len(), before + 1);
    assert!(world.rotation.registry.state().lease("keys").is_none());
}
