mod attacks;
mod crash;

use std::{fs, path::PathBuf, process::Command};

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;
use crate::{
    Report, leaf_hash,
    merkle::{node_hash, root_of},
    segment, verify, verify_consistency, verify_inclusion,
};

const BINDINGS: Bindings = Bindings { incarnation: [3; 16], revision: 17, set_digest: [5; 32], life: 0 };

/// A ledger in a directory that can be opened again and again.
struct Fixture {
    directory: tempfile::TempDir,
    signer: Arc<PrivateKey>,
    segment_length: u64,
}

impl Fixture {
    fn new(segment_length: u64) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            signer: Arc::new(PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap()),
            segment_length,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("ledger")
    }

    fn open(&self) -> Ledger {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Ledger, LedgerError> {
        let config = LedgerConfig { origin: "example.org/test".to_owned() };
        Ledger::open_with(&self.path(), config, self.signer.clone(), self.segment_length)
    }

    fn key(&self) -> VerifierKey {
        VerifierKey::new("example.org/test", self.signer.public_key().clone()).unwrap()
    }

    fn verify(&self) -> Result<Report, LedgerError> {
        verify(self.path(), &self.key())
    }
}

/// Of different lengths, among them none.
fn entry(index: u64) -> Vec<u8> {
    index.to_string().repeat(index as usize % 4).into_bytes()
}

fn entries(range: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    range.map(entry).collect()
}

fn leaves(size: u64) -> Vec<Hash> {
    (0..size).map(|index| leaf_hash(&entry(index))).collect()
}

#[tokio::test]
async fn entries_come_back_and_prove_themselves_also_after_reopening() {
    let fixture = Fixture::new(512);
    let mut size = 0;
    // Across the borders of tiles and segments, in groups of many sizes.
    for count in [1, 1, 254, 1, 255, 3, 700, 0, 513] {
        let ledger = fixture.open();
        assert_eq!(ledger.size(), size);
        if count > 0 {
            assert_eq!(ledger.append_batch(entries(size..size + count)).await.unwrap(), size);
            size += count;
        }
        let leaves = leaves(size);
        assert_eq!(ledger.root(), (size, root_of(&leaves)));
        let checkpoint = ledger.checkpoint(&BINDINGS).await.unwrap();
        assert_eq!(checkpoint.checkpoint().root, root_of(&leaves));
        for index in [0, size / 3, size / 2, size.saturating_sub(2), size - 1] {
            assert_eq!(ledger.read(index).unwrap(), entry(index), "{index} of {size}");
            for of in [index + 1, (index + size).div_ceil(2).max(index + 1), size] {
                let proof = ledger.prove_inclusion(index, of).unwrap();
                let root = root_of(&leaves[..of as usize]);
                verify_inclusion(&leaves[index as usize], index, of, &proof, &root).unwrap();
                let old = root_of(&leaves[..index as usize]);
                let proof = ledger.prove_consistency(index, of).unwrap();
                verify_consistency((index, &old), (of, &root), &proof).unwrap();
            }
        }
        for refused in [
            ledger.read(size).map(drop),
            ledger.prove_inclusion(size, size).map(drop),
            ledger.prove_inclusion(0, size + 1).map(drop),
            ledger.prove_consistency(2, 1).map(drop),
            ledger.prove_consistency(0, size + 1).map(drop),
        ] {
            assert_eq!(refused.unwrap_err().code(), "ledger.invalid");
        }
        drop(ledger);
        let report = fixture.verify().unwrap();
        assert_eq!((report.size, report.unsigned), (size, 0));
        assert_eq!(report.checkpoint.as_ref(), Some(checkpoint.checkpoint()));
    }
    // Of the tail, only what no synced tile holds is left.
    assert_eq!(segments(&fixture.path()).unwrap(), [1536]);
    // And a full tile has taken the place of its beginnings.
    assert!(!fixture.path().join("tile/0/001.p").exists() && fixture.path().join("tile/0/001").exists());
}

#[tokio::test]
async fn the_files_are_those_of_the_specification() {
    let fixture = Fixture::new(SEGMENT);
    let ledger = fixture.open();
    ledger.append_batch(entries(0..300)).await.unwrap();
    let signed = ledger.checkpoint(&BINDINGS).await.unwrap();
    let read = |name: &str| fs::read(fixture.path().join(name)).unwrap();
    let leaves = leaves(300);
    assert_eq!(read("tile/0/000"), leaves[..256].concat());
    assert_eq!(read("tile/0/001.p/44"), leaves[256..].concat());
    assert_eq!(read("tile/1/000.p/1"), root_of(&leaves[..256]));
    assert_eq!(read("tile/entries/000")[..8], *b"\x00\x00\x00\x01\x31\x00\x02\x32");
    assert_eq!(read("tile/entries/001.p/44"), tile::encode_entries(&entries(256..300)));
    let note = String::from_utf8(read("checkpoint")).unwrap();
    assert_eq!(note, signed.note());
    let root = node_hash(&root_of(&leaves[..256]), &root_of(&leaves[256..]));
    assert_eq!(signed.checkpoint().root, root);
    let lines: Vec<&str> = note.lines().collect();
    assert_eq!(lines[..2], ["example.org/test", "300"]);
    assert_eq!(lines[3], format!("incarnation {}", "03".repeat(16)));
    assert_eq!(lines[4], "revision 17");
    assert!(lines[7].starts_with("\u{2014} example.org/test "));
    drop(ledger);
    fixture.verify().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_get_an_index_each_and_share_groups() {
    let fixture = Fixture::new(512);
    let ledger = Arc::new(fixture.open());
    let mut tasks = JoinSet::new();
    for task in 0..64_u64 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            let mut mine = Vec::new();
            for part in 0..30_u64 {
                let entry = format!("{task}/{part}").into_bytes();
                let index = if part % 7 == 0 {
                    ledger.append_batch(vec![entry.clone(), b"second".to_vec()]).await.unwrap()
                } else {
                    ledger.append(entry.clone()).await.unwrap()
                };
                mine.push((index, entry));
            }
            mine
        });
    }
    let all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    for (index, entry) in &all {
        assert_eq!(ledger.read(*index).unwrap(), *entry);
    }
    let size = ledger.size();
    assert_eq!(size, 64 * (30 + 5));
    drop(ledger);
    assert_eq!(fixture.verify().unwrap().size, size);
    // Each group has a header of 48 bytes.
    let tail = fixture.path().join(segment::name(*segments(&fixture.path()).unwrap().last().unwrap()));
    assert!(fs::metadata(tail).unwrap().len() > 0);
}

#[tokio::test]
async fn entries_and_queues_are_bounded() {
    let fixture = Fixture::new(SEGMENT);
    let ledger = fixture.open();
    for refused in [
        ledger.append(vec![0; crate::MAX_ENTRY + 1]).await,
        ledger.append_batch(vec![]).await,
        ledger.append_batch(vec![vec![], vec![0; crate::MAX_ENTRY + 1]]).await,
    ] {
        assert_eq!(refused.unwrap_err().code(), "ledger.invalid");
    }
    assert_eq!(ledger.append_batch(vec![vec![]; 65_537]).await.unwrap_err().code(), "ledger.overloaded");
    assert_eq!(ledger.append_batch(vec![vec![7; crate::MAX_ENTRY]; 3]).await.unwrap(), 0);
    assert_eq!(ledger.append_batch(vec![vec![]; 20_000]).await.unwrap(), 3);
    assert_eq!(ledger.read(2).unwrap(), vec![7; crate::MAX_ENTRY]);
    assert_eq!(ledger.size(), 20_003);
    drop(ledger);
    assert_eq!(fixture.verify().unwrap(), Report { size: 20_003, checkpoint: None, unsigned: 20_003 });
}

#[tokio::test]
async fn one_process_at_a_time_and_one_key_for_ever() {
    let fixture = Fixture::new(SEGMENT);
    let ledger = fixture.open();
    assert_eq!(fixture.try_open().unwrap_err().code(), "ledger.locked");
    ledger.append(vec![1]).await.unwrap();
    ledger.checkpoint(&BINDINGS).await.unwrap();
    drop(ledger);
    let other = Fixture { signer: Arc::new(PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap()), ..fixture };
    assert_eq!(other.try_open().unwrap_err().code(), "ledger.broken");
    let ecdsa = Arc::new(PrivateKey::generate(KeyAlgorithm::EcP256).unwrap());
    let config = LedgerConfig { origin: "example.org/test".to_owned() };
    assert_eq!(Ledger::open(other.path(), config, ecdsa).unwrap_err().code(), "ledger.invalid");
}

/// A small file system of its own, for those who may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_entries_and_heals() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not run: mounting a small file system takes root");
        return;
    };
    let mut fixture = Fixture::new(SEGMENT);
    let outer = std::mem::replace(&mut fixture.directory, tempfile::tempdir_in(disk.0.path()).unwrap());
    let ledger = fixture.open();
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![7; 150 << 10]).unwrap();
    let mut size = 0;
    let error = loop {
        match ledger.append(vec![7; 1000]).await {
            Ok(index) => size = index + 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "ledger.full");
    assert!(size > 10, "{size}");
    for _ in 0..3 {
        assert_eq!(ledger.append(vec![7; 5000]).await.unwrap_err().code(), "ledger.full");
        assert_eq!((ledger.size(), ledger.read(size - 1).unwrap()), (size, vec![7; 1000]));
    }
    fs::remove_file(&ballast).unwrap();
    assert_eq!(ledger.append(vec![8; 1000]).await.unwrap(), size);
    ledger.checkpoint(&BINDINGS).await.unwrap();
    drop(ledger);
    assert_eq!(fixture.verify().unwrap().size, size + 1);
    assert_eq!(fixture.open().read(size).unwrap(), vec![8; 1000]);
    fixture.directory = outer;
}

/// What follows an append runs on the writer's thread.
#[tokio::test]
async fn a_thread_that_panics_is_a_ledger_that_failed_and_nobody_waits_for_it() {
    let fixture = Fixture::new(256);
    let ledger = fixture.open();
    let failed = ledger.failed();
    ledger.append_then(entries(0..1), |_| panic!("a bug")).unwrap();
    let error = failed.await;
    assert!(matches!(&error, LedgerError::Failed(why) if why.contains("ledger-writer")), "{error}");
    assert!(matches!(ledger.append(entry(1)).await, Err(LedgerError::Closed)));
    drop(ledger);
    assert_eq!(fixture.open().append(entry(1)).await.unwrap(), 1, "what was written is there");
}

#[tokio::test]
async fn an_append_is_logged_also_when_nobody_waits() {
    let fixture = Fixture::new(SEGMENT);
    let ledger = fixture.open();
    tokio::select! {
        biased;
        _ = ledger.append(b"abandoned".to_vec()) => {}
        () = std::future::ready(()) => {}
    }
    assert_eq!(ledger.append(b"next".to_vec()).await.unwrap(), 1);
    assert_eq!(ledger.read(0).unwrap(), b"abandoned");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_sequence_of_batches_and_restarts_is_the_same_log(steps in prop::collection::vec((1..400_u64, any::<bool>(), any::<bool>()), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new(256);
            let mut ledger = fixture.open();
            let mut size = 0;
            for (count, restart, checkpoint) in steps {
                ledger.append_batch(entries(size..size + count)).await.unwrap();
                size += count;
                if checkpoint {
                    ledger.checkpoint(&BINDINGS).await.unwrap();
                }
                if restart {
                    drop(ledger);
                    fixture.verify().unwrap();
                    ledger = fixture.open();
                }
                assert_eq!(ledger.root(), (size, root_of(&leaves(size))));
            }
            drop(ledger);
            assert_eq!(fixture.verify().unwrap().size, size);
        });
    }
}
