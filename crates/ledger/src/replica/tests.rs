use std::collections::BTreeMap;

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use tempfile::TempDir;

use super::*;
use crate::{Bindings, LedgerConfig, Report, verify, verify_entries};

const BINDINGS: Bindings = Bindings { incarnation: [3; 16], revision: 17, set_digest: [5; 32], life: 0 };

struct Fixture {
    directory: TempDir,
    ledger: Ledger,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signer = Arc::new(PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap());
        let config = LedgerConfig { origin: "example.org/a".into() };
        let ledger = Ledger::open(directory.path().join("ledger"), config, signer).unwrap();
        Self { directory, ledger }
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("mounted/replica")
    }

    async fn append(&self, count: u64) {
        let first = self.ledger.size();
        if count == 0 {
            return;
        }
        let entries = (first..first + count).map(|index| format!("entry {index}").into_bytes()).collect();
        self.ledger.append_batch(entries).await.unwrap();
    }

    async fn checkpoint(&self) -> SignedCheckpoint {
        self.ledger.checkpoint(&BINDINGS).await.unwrap()
    }

    fn verify(&self) -> Result<Report, LedgerError> {
        verify(self.target(), self.ledger.verifier_key())
    }
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(folder) = open.pop() {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[tokio::test]
async fn a_replica_verifies_at_every_size() {
    let fixture = Fixture::new();
    let mut replica = fixture.ledger.replica(fixture.target()).unwrap();
    assert_eq!(fixture.verify().unwrap().size, 0);
    for more in [0, 1, 5, 249, 1, 1, 255, 256, 300, 65_000, 1000] {
        fixture.append(more).await;
        let signed = fixture.checkpoint().await;
        // What is appended since is not there, and is not missed.
        fixture.append(3).await;
        replica.copy(&signed).unwrap();
        let size = signed.checkpoint().size;
        assert_eq!(replica.size(), size);
        let report = fixture.verify().unwrap();
        assert_eq!((report.size, report.unsigned), (size, 0));
        let mut seen = Vec::new();
        let mut visit = |index: u64, entry: &[u8]| seen.push((index, entry.to_vec()));
        verify_entries(fixture.target(), fixture.ledger.verifier_key(), &mut visit).unwrap();
        assert!(seen.iter().enumerate().all(|(at, (index, entry))| {
            *index == at as u64 && *entry == format!("entry {index}").into_bytes()
        }));
        assert_eq!(seen.len() as u64, size);
    }
    // It does not fill up with beginnings of tiles.
    let partial = files(&fixture.target()).into_keys().filter(|path| path.to_string_lossy().contains(".p/"));
    assert!(partial.count() <= 4);
    // The server is gone; its replica is a log that anybody can verify.
    fs::remove_dir_all(fixture.directory.path().join("ledger")).unwrap();
    fixture.verify().unwrap();
}

#[tokio::test]
async fn a_replica_is_taken_up_again() {
    let fixture = Fixture::new();
    fixture.append(700).await;
    let signed = fixture.checkpoint().await;
    fixture.ledger.replica(fixture.target()).unwrap().copy(&signed).unwrap();
    fixture.append(700).await;
    let signed = fixture.checkpoint().await;
    let mut replica = fixture.ledger.replica(fixture.target()).unwrap();
    assert_eq!(replica.size(), 700);
    // Tiles that were copied before the checkpoint was, are no fault.
    let next = Tile::full(Kind::Entries, 3);
    write_file(&fixture.target().join(next.path()), "test", &fixture.tile(&next), false).unwrap();
    assert_eq!(fixture.verify().unwrap().size, 700);
    replica.copy(&signed).unwrap();
    assert_eq!(fixture.verify().unwrap().size, 1400);
}

impl Fixture {
    fn tile(&self, tile: &Tile) -> Vec<u8> {
        self.ledger.shared().full_tile(&self.ledger.shared().lock().clone(), tile).unwrap()
    }
}

#[tokio::test]
async fn no_byte_of_a_replica_can_change() {
    let fixture = Fixture::new();
    fixture.append(600).await;
    let signed = fixture.checkpoint().await;
    fixture.ledger.replica(fixture.target()).unwrap().copy(&signed).unwrap();
    for (path, contents) in files(&fixture.target()) {
        if path.ends_with(MARKER) {
            continue;
        }
        for at in [0, contents.len() / 2, contents.len() - 1] {
            let mut flipped = contents.clone();
            flipped[at] ^= 1;
            fs::write(&path, &flipped).unwrap();
            assert!(fixture.verify().is_err(), "{} at {at}", path.display());
        }
        fs::remove_file(&path).unwrap();
        assert!(fixture.verify().is_err() || path.ends_with("checkpoint"), "{}", path.display());
        fs::write(&path, &contents).unwrap();
        fixture.verify().unwrap();
    }
}

#[tokio::test]
async fn what_is_something_else_is_not_overwritten() {
    let (fixture, other) = (Fixture::new(), Fixture::new());
    for fixture in [&fixture, &other] {
        fixture.append(10).await;
        let signed = fixture.checkpoint().await;
        fixture.ledger.replica(fixture.target()).unwrap().copy(&signed).unwrap();
    }
    assert!(matches!(fixture.ledger.replica(other.target()), Err(LedgerError::Broken { .. })));
    // A ledger itself, and somebody's files.
    let ledger = fixture.directory.path().join("ledger");
    assert!(matches!(fixture.ledger.replica(ledger), Err(LedgerError::Broken { .. })));
    // One that knows more.
    let ahead = Fixture::new();
    let before = tempfile::tempdir().unwrap();
    drop(before);
    ahead.append(5).await;
    let small = ahead.checkpoint().await;
    ahead.append(5).await;
    let large = ahead.checkpoint().await;
    let mut replica = ahead.ledger.replica(ahead.target()).unwrap();
    replica.copy(&large).unwrap();
    assert!(matches!(replica.copy(&small), Err(LedgerError::Invalid(_))), "it never goes back");
}
