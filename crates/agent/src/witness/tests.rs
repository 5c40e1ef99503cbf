use std::sync::Arc;

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_ledger::{Bindings, Ledger, LedgerConfig};
use tempfile::TempDir;

use super::*;

const FIRST: Bindings = Bindings { incarnation: [1; 16], revision: 10, set_digest: [1; 32], life: 0 };

fn key() -> Arc<PrivateKey> {
    Arc::new(PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap())
}

fn witness() -> Witness {
    Witness::new(&"example.org".parse().unwrap())
}

/// A server's ledger.
struct Server {
    ledger: Ledger,
    _directory: TempDir,
}

impl Server {
    fn new(origin: &str, key: &Arc<PrivateKey>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = LedgerConfig { origin: origin.to_owned() };
        let ledger = Ledger::open(directory.path(), config, key.clone()).unwrap();
        Self { ledger, _directory: directory }
    }

    fn of(key: &Arc<PrivateKey>) -> Self {
        Self::new("example.org/bonafide/authority/a", key)
    }

    async fn append(&self, entries: &[&str]) {
        for entry in entries {
            self.ledger.append(entry.as_bytes().to_vec()).await.unwrap();
        }
    }

    /// As the authority sends it to an agent that holds the checkpoint of size `from`.
    async fn checkpoint(&self, from: u64, bindings: Bindings) -> Checkpoint {
        let signed = self.ledger.checkpoint(&bindings).await.unwrap();
        let size = signed.checkpoint().size;
        let proof = self.ledger.prove_consistency(from.min(size), size).unwrap();
        Checkpoint {
            note: Bytes::copy_from_slice(signed.note().as_bytes()),
            key: self.ledger.verifier_key().to_string(),
            consistency: proof.iter().map(|hash| Bytes::copy_from_slice(hash)).collect(),
        }
    }
}

fn at(revision: u64) -> Bindings {
    Bindings { revision, ..FIRST }
}

#[tokio::test]
async fn a_log_that_grows_is_kept_and_shown() {
    let (key, mut witness) = (key(), witness());
    let server = Server::of(&key);
    server.append(&["one", "two"]).await;
    let first = server.checkpoint(0, FIRST).await;
    assert_eq!(witness.look_at(&first, "a").unwrap().unwrap().checkpoint().size, 2);
    server.append(&["three", "four", "five"]).await;
    let second = server.checkpoint(2, at(11)).await;
    witness.look_at(&second, "a").unwrap().unwrap();
    assert_eq!(witness.notes(), std::slice::from_ref(&second.note));
    // Also after a restart of the agent, of another trust domain alone.
    let mut again = self::witness();
    again.restore(witness.to_stored());
    assert_eq!(again.notes(), witness.notes());
    let mut other = Witness::new(&"example.com".parse().unwrap());
    other.restore(witness.to_stored());
    assert!(other.notes().is_empty());
    // An old one, though well signed, is not believed any more.
    assert!(matches!(again.look_at(&first, "a"), Err(Contradiction::Shrunk { now: 2, seen: 5, .. })));
    assert_eq!(again.notes(), [second.note]);
}

#[tokio::test]
async fn a_checkpoint_without_its_proof_is_not_believed() {
    let (key, mut witness) = (key(), witness());
    let server = Server::of(&key);
    server.append(&["one", "two", "three"]).await;
    witness.look_at(&server.checkpoint(0, FIRST).await, "a").unwrap().unwrap();
    server.append(&["four", "five"]).await;
    let good = server.checkpoint(3, at(11)).await;
    for proof in [vec![], good.consistency[1..].to_vec(), vec![Bytes::from_static(b"short"); 3]] {
        let bad = Checkpoint { consistency: proof, ..good.clone() };
        assert!(matches!(witness.look_at(&bad, "a"), Err(Contradiction::Forked { seen: 3, .. })));
    }
    witness.look_at(&good, "a").unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_shows_two_histories_is_found_out() {
    let key = key();
    let (one, two) = (Server::of(&key), Server::of(&key));
    one.append(&["one", "two"]).await;
    two.append(&["one", "other", "three"]).await;
    let (mut first, mut second) = (witness(), witness());
    first.look_at(&one.checkpoint(0, FIRST).await, "a").unwrap().unwrap();
    second.look_at(&two.checkpoint(0, at(11)).await, "a").unwrap().unwrap();
    // Each of them meets what the other one was shown.
    assert!(matches!(
        first.look_at(&two.checkpoint(2, at(11)).await, "a"),
        Err(Contradiction::Forked { .. })
    ));
    assert!(matches!(
        second.look_at(&one.checkpoint(2, FIRST).await, "a"),
        Err(Contradiction::Shrunk { .. })
    ));
}

#[tokio::test]
async fn a_store_that_went_back_is_seen_behind_a_ledger_that_did_not() {
    let (key, mut witness) = (key(), witness());
    let server = Server::of(&key);
    server.append(&["one"]).await;
    witness.look_at(&server.checkpoint(0, FIRST).await, "a").unwrap().unwrap();
    for back in [at(9), Bindings { set_digest: [2; 32], ..FIRST }] {
        let sent = server.checkpoint(1, back).await;
        assert!(matches!(witness.look_at(&sent, "a"), Err(Contradiction::StoreBehind { .. })));
    }
    // An operator has begun a new incarnation.
    let restored = Bindings { incarnation: [2; 16], revision: 3, ..FIRST };
    witness.look_at(&server.checkpoint(1, restored).await, "a").unwrap().unwrap();
}

#[tokio::test]
async fn a_ledger_that_lost_entries_needs_a_new_life() {
    let (key, mut witness) = (key(), witness());
    let server = Server::of(&key);
    server.append(&["one", "two"]).await;
    witness.look_at(&server.checkpoint(0, FIRST).await, "a").unwrap().unwrap();
    let lost = Server::of(&key);
    lost.append(&["one"]).await;
    assert!(matches!(
        witness.look_at(&lost.checkpoint(0, at(12)).await, "a"),
        Err(Contradiction::Shrunk { .. })
    ));
    let accepted = lost.checkpoint(0, Bindings { life: 1, ..at(12) }).await;
    witness.look_at(&accepted, "a").unwrap().unwrap();
    // There is no way back into the old life.
    assert!(matches!(
        witness.look_at(&server.checkpoint(0, at(13)).await, "a"),
        Err(Contradiction::Shrunk { .. })
    ));
}

#[tokio::test]
async fn forged_and_foreign_checkpoints_change_nothing() {
    let (key, mut witness) = (key(), witness());
    let server = Server::of(&key);
    server.append(&["one"]).await;
    let good = server.checkpoint(0, FIRST).await;
    witness.look_at(&good, "a").unwrap().unwrap();
    let kept = witness.notes();

    let forger = Server::of(&self::key());
    forger.append(&["one", "two"]).await;
    let forged = forger.checkpoint(1, at(11)).await;
    assert!(matches!(witness.look_at(&forged, "a"), Err(Contradiction::OtherKey(_))));
    // Under the key that is known.
    let forged = Checkpoint { key: good.key.clone(), ..forged };
    assert!(matches!(witness.look_at(&forged, "a"), Err(Contradiction::Malformed(_))));
    // Of another server, said to be of this one.
    let other = Server::new("example.org/bonafide/authority/b", &key);
    let foreign = Checkpoint { key: good.key.clone(), ..other.checkpoint(0, FIRST).await };
    assert!(matches!(witness.look_at(&foreign, "a"), Err(Contradiction::Malformed(_))));
    // Of another trust domain, or of no server.
    for origin in ["example.com/bonafide/authority/a", "example.org/bonafide/authority/a/b", "x"] {
        let foreign = Server::new(origin, &key).checkpoint(0, FIRST).await;
        let looked = witness.look_at(&foreign, "a");
        assert!(matches!(looked, Err(Contradiction::OtherServer { .. })), "{origin}");
    }
    let long = Checkpoint { consistency: vec![Bytes::from_static(&[0; 32]); 1000], ..good };
    assert!(matches!(witness.look_at(&long, "a"), Err(Contradiction::Malformed(_))));
    assert_eq!(witness.notes(), kept);
}

#[tokio::test]
async fn servers_that_are_kept_in_mind_are_bounded() {
    let (key, mut witness) = (key(), witness());
    for number in 0..20 {
        let server = Server::new(&format!("example.org/bonafide/authority/s{number}"), &key);
        let name = format!("s{number}");
        let kept = witness.look_at(&server.checkpoint(0, FIRST).await, &name).unwrap();
        assert_eq!(kept.is_some(), number < MAX_SERVERS);
    }
    assert_eq!(witness.notes().len(), MAX_SERVERS);
}

/// A server, or whoever has its keys, tells of the ledger of another one: were that believed, the other one would be
/// shut out, and lose the witness of its own past.
#[tokio::test]
async fn a_server_speaks_for_its_own_ledger_alone() {
    let (mut witness, forger) = (witness(), Server::of(&key()));
    forger.append(&["one"]).await;
    let told = forger.checkpoint(0, FIRST).await;
    for server in ["b", "", "a/b", "b/a"] {
        assert!(matches!(witness.look_at(&told, server), Err(Contradiction::OtherServer { .. })), "{server}");
    }
    assert!(witness.notes().is_empty());
    let server = Server::of(&key());
    server.append(&["one"]).await;
    witness.look_at(&server.checkpoint(0, FIRST).await, "a").unwrap().unwrap();
}
