mod crash;
mod tampering;

use std::{path::PathBuf, sync::Mutex};

use bonafide_crypto::random::SystemRandom;

use super::*;
use crate::conformance::{self, Backend};

fn key() -> MacKey {
    MacKey::from_bytes(&[42; 32])
}

#[derive(Debug)]
struct Sqlite(Mutex<tempfile::TempDir>);

impl Sqlite {
    fn new() -> Self {
        Self(Mutex::new(tempfile::tempdir().unwrap()))
    }

    fn path(&self) -> PathBuf {
        self.0.lock().unwrap().path().join("store.sqlite")
    }
}

impl Backend for Sqlite {
    type Store = SqliteStore;

    fn reset(&self) {
        *self.0.lock().unwrap() = tempfile::tempdir().unwrap();
    }

    fn open(&self) -> BoxFuture<'_, SqliteStore> {
        Box::pin(async { SqliteStore::open(self.path(), key(), &SystemRandom).unwrap() })
    }

    fn compact<'a>(
        &'a self,
        store: &'a SqliteStore,
        floor: Revision,
    ) -> BoxFuture<'a, Result<Head, StoreError>> {
        Box::pin(store.compact(floor))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_passes_the_suite() {
    conformance::run(&Sqlite::new()).await;
}

#[tokio::test]
async fn a_second_opener_is_refused_until_the_first_is_gone() {
    let backend = Sqlite::new();
    let first = backend.open().await;
    let error = SqliteStore::open(backend.path(), key(), &SystemRandom).unwrap_err();
    assert_eq!(error.code(), "store.locked");
    drop(first);
    backend.open().await;
}

#[tokio::test]
async fn a_second_writer_in_spite_of_the_lock_breaks_nothing() {
    let backend = Sqlite::new();
    let first = backend.open().await;
    std::fs::remove_file(database::beside(&backend.path(), ".lock")).unwrap();
    let second = backend.open().await;
    second.commit(Revision(0), Batch::default().put("a", "2")).await.unwrap();
    let batch = || Batch::default().put("a", "1");
    let error = first.commit(Revision(0), batch()).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { head: Revision(1) }), "{error}");
    // It sees the change, but may not write on top of what it did not verify when it was opened.
    assert_eq!(first.wait(Revision(0), Duration::from_secs(60)).await.unwrap(), Revision(1));
    let error = first.commit(Revision(1), batch()).await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { place: crate::Place::Head, .. }), "{error}");
    second.commit(Revision(1), Batch::default().put("b", "2")).await.unwrap();
    drop((first, second));
    assert_eq!(backend.open().await.snapshot().await.unwrap().objects.len(), 2);
}

#[tokio::test]
async fn a_full_disk_is_a_clean_error_and_heals() {
    let backend = Sqlite::new();
    let store = backend.open().await;
    store.commit(Revision(0), Batch::default().put("before", "1")).await.unwrap();
    let limit = |pages: u32| {
        store.writer.call(move |writer| {
            writer.set_page_limit(pages);
            Ok(())
        })
    };
    limit(1).await.unwrap();
    let big = || Batch::default().put("small", "1").put("big", vec![7; 1 << 20]);
    for _ in 0..3 {
        let error = store.commit(Revision(1), big()).await.unwrap_err();
        assert_eq!((error.code(), error.is_clean()), ("store.full", true));
        assert_eq!(store.snapshot().await.unwrap().objects.len(), 1);
    }
    limit(u32::MAX - 1).await.unwrap();
    assert_eq!(store.commit(Revision(1), big()).await.unwrap(), Revision(3));
    drop(store);
    assert_eq!(backend.open().await.snapshot().await.unwrap().objects.len(), 3);
}

#[tokio::test]
async fn only_a_missing_file_makes_a_new_store() {
    let backend = Sqlite::new();
    let error = SqliteStore::open_existing(backend.path(), key()).unwrap_err();
    assert_eq!(error.code(), "store.missing");
    drop(backend.open().await);
    drop(SqliteStore::open_existing(backend.path(), key()).unwrap());

    std::fs::write(backend.path(), b"").unwrap();
    let error = SqliteStore::open(backend.path(), key(), &SystemRandom).unwrap_err();
    assert_eq!(error.code(), "store.broken");
    std::fs::write(backend.path(), [7; 4096]).unwrap();
    let error = SqliteStore::open(backend.path(), key(), &SystemRandom).unwrap_err();
    assert_eq!(error.code(), "store.broken");

    // A log without its database would be replayed into the new one.
    std::fs::remove_file(backend.path()).unwrap();
    std::fs::write(database::beside(&backend.path(), "-wal"), b"").unwrap();
    let error = SqliteStore::open(backend.path(), key(), &SystemRandom).unwrap_err();
    assert_eq!(error.code(), "store.broken");
    // What an interrupted creation left is no obstacle.
    std::fs::remove_file(database::beside(&backend.path(), "-wal")).unwrap();
    std::fs::write(database::beside(&backend.path(), ".new"), b"half").unwrap();
    drop(backend.open().await);
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let backend = Sqlite::new();
    let store = backend.open().await;
    store.commit(Revision(0), Batch::default().put("a", "1")).await.unwrap();
    let mut seen = 0;
    for file in std::fs::read_dir(backend.path().parent().unwrap()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
        seen += 1;
    }
    assert!(seen >= 3, "database, log and lock");
}

#[tokio::test]
async fn another_key_opens_nothing() {
    let backend = Sqlite::new();
    drop(backend.open().await);
    let error = SqliteStore::open(backend.path(), MacKey::from_bytes(&[43; 32]), &SystemRandom).unwrap_err();
    assert!(matches!(error, StoreError::Broken { place: crate::Place::Head, .. }), "{error}");
}
