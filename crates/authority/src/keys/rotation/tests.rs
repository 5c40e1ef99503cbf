use bonafide_crypto::random::SystemRandom;
use bonafide_identity::x509;
use bonafide_keyring::{KeyFileSeal, Keyring};
use bonafide_ledger::{Ledger, LedgerConfig};
use bonafide_store::SqliteStore;
use bonafide_testkit::TestClock;
use bonafide_tls::Trust;
use tempfile::TempDir;

use super::*;

struct Fixture {
    rotation: Rotation,
    clock: Arc<TestClock>,
    _directory: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = TestClock::new();
        let seal = KeyFileSeal::create(directory.path().join("seal"), &SystemRandom).unwrap();
        let keyring = Keyring::create(directory.path().join("keyring"), &seal, &SystemRandom).unwrap();
        let store =
            SqliteStore::open(directory.path().join("store"), keyring.mac_key("store"), &SystemRandom);
        let trust_domain: TrustDomain = "example.org".parse().unwrap();
        let registry =
            Registry::open(Arc::new(store.unwrap()), trust_domain.clone(), clock.clone()).await.unwrap();
        let vault = Vault::new(Arc::new(keyring), Arc::new(SystemRandom));
        let key = vault.ledger_key(&registry, "a", &*clock).await.unwrap();
        let origin = LedgerConfig { origin: "example.org/a".into() };
        let ledger = Ledger::open(directory.path().join("ledger"), origin, key).unwrap();
        let rotation = Rotation {
            registry,
            vault,
            journal: Arc::new(Journal::new(Arc::new(ledger))),
            presence: Presence::new(),
            clock: clock.clone(),
            trust_domain,
            server: "a".into(),
            lifetimes: Lifetimes::default(),
        };
        rotation.catch_up().await.unwrap();
        Self { rotation, clock, _directory: directory }
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
    assert_ne!(keys.current().jwt().unwrap().id(), first[0].1);
    assert!(fixture.of(Family::Jwt).contains(&(rotation::State::Old, first[0].1.clone())));
    fixture.pass(HOUR).await;
    assert_eq!(fixture.of(Family::Jwt).len(), 1, "nothing that the old key signed is alive");
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
        let opened = fixture.rotation.vault.open(key).unwrap().to_pkcs8_der();
        assert!(!key.wrapped_key.windows(32).any(|window| opened.windows(32).any(|secret| secret == window)));
        let mut moved = (**key).clone();
        moved.id = "elsewhere".into();
        assert!(fixture.rotation.vault.open(&moved).is_err());
    }
}
