//! The suite that every store must pass. It makes stores through a [`Backend`] and panics when one misbehaves.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a suite of tests: a failed expectation is a panic"
)]

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{Batch, BoxFuture, Change, Head, MAX_CHANGES, MAX_KEY, MAX_VALUE, Revision, Store, StoreError};

/// Makes stores of one kind.
pub trait Backend: fmt::Debug + Sync {
    /// Its kind of store.
    type Store: Store + 'static;

    /// Makes an empty database for this backend to point at from now on.
    fn reset(&self);

    /// Opens the database. An earlier store was dropped before.
    fn open(&self) -> BoxFuture<'_, Self::Store>;

    /// Compacts up to `floor`.
    fn compact<'a>(
        &'a self,
        store: &'a Self::Store,
        floor: Revision,
    ) -> BoxFuture<'a, Result<Head, StoreError>>;
}

/// Runs the whole suite.
///
/// # Panics
/// When the store breaks a promise of [`Store`].
pub async fn run(backend: &impl Backend) {
    starts_empty(backend).await;
    refuses_what_is_out_of_bounds(backend).await;
    revisions_are_dense_under_many_writers(backend).await;
    one_of_several_wins(backend).await;
    a_batch_is_all_or_nothing(backend).await;
    snapshot_and_changes_fold_to_the_same(backend).await;
    compaction_keeps_objects_and_says_what_is_gone(backend).await;
    waiting_ends_with_a_change_or_with_time(backend).await;
    a_store_that_is_opened_again_is_the_same(backend).await;
    keys_are_kept_apart(backend).await;
}

/// Runs what is promised of several stores over one database, as several servers have them.
///
/// # Panics
/// When one of them breaks a promise of [`Store`].
pub async fn run_shared(backend: &impl Backend) {
    revisions_are_dense_under_writers_of_several_stores(backend).await;
    one_store_of_several_wins(backend).await;
    a_store_sees_what_another_one_commits(backend).await;
}

async fn several<B: Backend>(backend: &B) -> Vec<Arc<B::Store>> {
    backend.reset();
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(Arc::new(backend.open().await));
    }
    stores
}

async fn revisions_are_dense_under_writers_of_several_stores(backend: &impl Backend) {
    const WRITERS: usize = 16;
    const COMMITS: usize = 8;
    let stores = several(backend).await;
    let halfway = {
        let store = Arc::clone(&stores[3]);
        tokio::spawn(async move {
            store.wait(Revision(100), Duration::MAX).await.unwrap();
            store.snapshot().await.unwrap()
        })
    };
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&stores[writer % stores.len()]);
        writers.spawn(write_batches(store, writer, COMMITS));
    }
    let mut acknowledged: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    acknowledged.sort();
    let halfway = halfway.await.unwrap();
    let last = objects(stores[0].snapshot().await.unwrap().objects);
    for store in &stores {
        let changes = read_all(&**store, Revision(0), 7).await;
        let read: Vec<_> = changes.iter().map(|change| (change.revision.0, change.key.clone())).collect();
        assert_eq!(read, acknowledged);
        assert!(read.iter().map(|(revision, _)| *revision).eq(1..=read.len() as u64));
        let mut from_halfway = objects(halfway.objects.clone());
        fold(&mut from_halfway, read_all(&**store, halfway.head.revision, 1000).await);
        assert_eq!(from_halfway, last);
        let mut from_nothing = Fold::new();
        fold(&mut from_nothing, changes);
        assert_eq!(from_nothing, last);
    }
}

async fn one_store_of_several_wins(backend: &impl Backend) {
    let stores = several(backend).await;
    for round in 0..10 {
        let expect = stores[0].head().await.unwrap().revision;
        let mut writers = JoinSet::new();
        for writer in 0..16_u8 {
            let store = Arc::clone(&stores[usize::from(writer) % stores.len()]);
            let token = Batch::default().put("token", vec![writer]);
            writers.spawn(async move { store.commit(expect, token).await });
        }
        let (won, lost): (Vec<_>, Vec<_>) = writers.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "round {round}");
        for error in lost {
            let Err(StoreError::Conflict { head }) = error else { panic!("{error:?}") };
            assert_eq!(head, expect.next());
        }
    }
}

async fn a_store_sees_what_another_one_commits(backend: &impl Backend) {
    let stores = several(backend).await;
    let waiting = {
        let store = Arc::clone(&stores[1]);
        tokio::spawn(async move { store.wait(Revision(0), Duration::MAX).await })
    };
    tokio::task::yield_now().await;
    stores[0].commit(Revision(0), Batch::default().put("a", "1").put("b", "1")).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), Revision(2));
    // It may write on top of it although it never read it.
    assert_eq!(stores[2].commit(Revision(2), Batch::default().remove("a")).await.unwrap(), Revision(3));
    // What one has forgotten, the others still have behind them.
    backend.compact(&stores[2], Revision(3)).await.unwrap();
    assert!(matches!(stores[3].changes(Revision(0), 9).await, Err(StoreError::Compacted { .. })));
    assert_eq!(stores[3].commit(Revision(3), Batch::default().put("c", "1")).await.unwrap(), Revision(4));
    for store in &stores {
        let snapshot = store.snapshot().await.unwrap();
        assert_eq!(snapshot.objects.iter().map(|object| &object.key).collect::<Vec<_>>(), ["b", "c"]);
    }
}

type Fold = BTreeMap<String, (Revision, Vec<u8>)>;

async fn fresh<B: Backend>(backend: &B) -> B::Store {
    backend.reset();
    backend.open().await
}

async fn starts_empty(backend: &impl Backend) {
    let store = fresh(backend).await;
    let head = store.head().await.unwrap();
    assert_eq!((head.revision, head.floor), (Revision(0), Revision(0)));
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!((snapshot.head, snapshot.objects.len()), (head, 0));
    assert_eq!(store.changes(Revision(0), 10).await.unwrap(), []);
    let first = head.incarnation;
    drop(store);
    assert_ne!(fresh(backend).await.head().await.unwrap().incarnation, first);
}

async fn refuses_what_is_out_of_bounds(backend: &impl Backend) {
    let store = fresh(backend).await;
    for batch in [
        Batch::default(),
        Batch::default().put("", "v"),
        Batch::default().put("a\0b", "v"),
        Batch::default().put("k".repeat(MAX_KEY + 1), "v"),
        Batch::default().put("k", vec![0; MAX_VALUE + 1]),
        Batch { changes: vec![("k".to_owned(), None); MAX_CHANGES + 1] },
    ] {
        let error = store.commit(Revision(0), batch).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }) && error.is_clean(), "{error}");
    }
    let largest = Batch::default().put("k".repeat(MAX_KEY), vec![7; MAX_VALUE]).put("empty", "");
    assert_eq!(store.commit(Revision(0), largest).await.unwrap(), Revision(2));
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.objects[0].value, b"");
    assert_eq!(snapshot.objects[1].value, vec![7; MAX_VALUE]);
    for expect in [Revision(3), Revision(u64::MAX)] {
        let error = store.commit(expect, Batch::default().put("k", "v")).await.unwrap_err();
        assert!(matches!(error, StoreError::Conflict { head: Revision(2) }), "{error}");
    }
    assert_eq!(store.changes(Revision(2), 10).await.unwrap(), []);
    assert_eq!(store.changes(Revision(u64::MAX), usize::MAX).await.unwrap(), []);
    assert_eq!(store.changes(Revision(0), 0).await.unwrap(), []);
    assert_eq!(store.changes(Revision(0), usize::MAX).await.unwrap().len(), 2);
}

async fn revisions_are_dense_under_many_writers(backend: &impl Backend) {
    const WRITERS: usize = 8;
    const COMMITS: usize = 12;
    let store = Arc::new(fresh(backend).await);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(write_batches(store, writer, COMMITS));
    }
    let mut acknowledged: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    acknowledged.sort();
    let changes = read_all(&*store, Revision(0), 7).await;
    let read: Vec<_> = changes.iter().map(|change| (change.revision.0, change.key.clone())).collect();
    assert_eq!(read, acknowledged);
    assert!(read.iter().map(|(revision, _)| *revision).eq(1..=read.len() as u64));
}

/// Batches of different sizes, so that a revision that is handed out twice or never would show. What was acknowledged.
async fn write_batches(store: Arc<impl Store>, writer: usize, commits: usize) -> Vec<(u64, String)> {
    let mut acknowledged = Vec::new();
    for commit in 0..commits {
        let changes: Vec<_> = (0..=(writer + commit) % 3)
            .map(|part| (format!("{writer}/{commit}/{part}"), Some(vec![part as u8])))
            .collect();
        let mut expect = store.head().await.unwrap().revision;
        loop {
            let batch = Batch { changes: changes.clone() };
            match store.commit(expect, batch).await {
                Ok(last) => {
                    for ((key, _), back) in changes.iter().rev().zip(0..) {
                        acknowledged.push((last.0 - back, key.clone()));
                    }
                    break;
                }
                Err(StoreError::Conflict { head }) => expect = head,
                Err(error) => panic!("{error}"),
            }
        }
    }
    acknowledged
}

async fn one_of_several_wins(backend: &impl Backend) {
    let store = Arc::new(fresh(backend).await);
    for round in 0..10 {
        let expect = store.head().await.unwrap().revision;
        let mut writers = JoinSet::new();
        for writer in 0..8_u8 {
            let store = Arc::clone(&store);
            writers.spawn(
                async move { store.commit(expect, Batch::default().put("token", vec![writer])).await },
            );
        }
        let (won, lost): (Vec<_>, Vec<_>) = writers.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "round {round}");
        for error in lost {
            let Err(StoreError::Conflict { head }) = error else { panic!("{error:?}") };
            assert_eq!(head, expect.next());
        }
    }
}

async fn a_batch_is_all_or_nothing(backend: &impl Backend) {
    let store = fresh(backend).await;
    let first = Batch::default().put("a", "1").put("b", "1");
    assert_eq!(store.commit(Revision(0), first.clone()).await.unwrap(), Revision(2));
    assert!(store.commit(Revision(0), first).await.is_err());
    let half = Batch::default().put("c", "1").put("", "1");
    assert!(store.commit(Revision(2), half).await.is_err());
    assert_eq!(store.head().await.unwrap().revision, Revision(2));
    assert_eq!(store.snapshot().await.unwrap().objects.len(), 2);
    // A key that occurs several times: each change is in the log, and the last one stays.
    let same = Batch::default().put("a", "2").remove("a").put("a", "3").remove("b").remove("nothing");
    assert_eq!(store.commit(Revision(2), same).await.unwrap(), Revision(7));
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.objects.len(), 1);
    assert_eq!(
        (snapshot.objects[0].revision, snapshot.objects[0].value.as_slice()),
        (Revision(5), &b"3"[..])
    );
    let values: Vec<_> =
        store.changes(Revision(2), 10).await.unwrap().into_iter().map(|change| change.value).collect();
    assert_eq!(values, [Some(b"2".to_vec()), None, Some(b"3".to_vec()), None, None]);
}

async fn snapshot_and_changes_fold_to_the_same(backend: &impl Backend) {
    let store = fresh(backend).await;
    let mut halfway = None;
    let mut expect = Revision(0);
    for step in 0..60_u64 {
        let mut batch = Batch::default();
        for part in 0..=step % 4 {
            let key = format!("k{}", (step * 7 + part * 5) % 23);
            batch = if (step + part) % 3 == 0 { batch.remove(key) } else { batch.put(key, step.to_string()) };
        }
        expect = store.commit(expect, batch).await.unwrap();
        if step == 30 {
            halfway = Some(store.snapshot().await.unwrap());
        }
    }
    let last = store.snapshot().await.unwrap();
    assert_eq!(last.head.revision, expect);
    assert!(last.objects.is_sorted_by(|a, b| a.key < b.key));
    let mut from_nothing = Fold::new();
    fold(&mut from_nothing, read_all(&store, Revision(0), 11).await);
    let halfway = halfway.unwrap();
    let mut from_halfway = objects(halfway.objects);
    fold(&mut from_halfway, read_all(&store, halfway.head.revision, 1000).await);
    let last = objects(last.objects);
    assert_eq!(from_nothing, last);
    assert_eq!(from_halfway, last);
}

async fn compaction_keeps_objects_and_says_what_is_gone(backend: &impl Backend) {
    let store = fresh(backend).await;
    let batch = (0..20).fold(Batch::default(), |batch, n| batch.put(format!("k{}", n % 6), n.to_string()));
    store.commit(Revision(0), batch).await.unwrap();
    let before = store.snapshot().await.unwrap();
    let tail = store.changes(Revision(13), 100).await.unwrap();

    let error = backend.compact(&store, Revision(21)).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    assert_eq!(backend.compact(&store, Revision(13)).await.unwrap().floor, Revision(13));
    assert_eq!(backend.compact(&store, Revision(5)).await.unwrap().floor, Revision(13));
    for since in [0, 5, 12] {
        let error = store.changes(Revision(since), 100).await.unwrap_err();
        assert!(matches!(error, StoreError::Compacted { floor: Revision(13) }), "{error}");
    }
    assert_eq!(store.changes(Revision(13), 100).await.unwrap(), tail);
    drop(store);

    let store = backend.open().await;
    assert_eq!(store.changes(Revision(13), 100).await.unwrap(), tail);
    assert_eq!(store.snapshot().await.unwrap().objects, before.objects);
    backend.compact(&store, Revision(20)).await.unwrap();
    assert_eq!(store.changes(Revision(20), 100).await.unwrap(), []);
    assert_eq!(store.commit(Revision(20), Batch::default().remove("k1")).await.unwrap(), Revision(21));
    drop(store);

    let store = backend.open().await;
    assert_eq!(store.changes(Revision(20), 100).await.unwrap().len(), 1);
    assert_eq!(store.snapshot().await.unwrap().objects.len(), before.objects.len() - 1);
}

async fn waiting_ends_with_a_change_or_with_time(backend: &impl Backend) {
    let store = Arc::new(fresh(backend).await);
    assert_eq!(store.wait(Revision(0), Duration::from_millis(20)).await.unwrap(), Revision(0));
    assert_eq!(store.wait(Revision(0), Duration::ZERO).await.unwrap(), Revision(0));
    let waiting = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.wait(Revision(0), Duration::MAX).await })
    };
    tokio::task::yield_now().await;
    store.commit(Revision(0), Batch::default().put("a", "1").put("b", "1")).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), Revision(2));
    assert_eq!(store.wait(Revision(1), Duration::MAX).await.unwrap(), Revision(2));
}

async fn a_store_that_is_opened_again_is_the_same(backend: &impl Backend) {
    let store = fresh(backend).await;
    let mut expect = Revision(0);
    for step in 0..5 {
        let batch = Batch::default().put(format!("k{step}"), "v").remove(format!("k{}", step - 2));
        expect = store.commit(expect, batch).await.unwrap();
    }
    let (snapshot, changes) = (store.snapshot().await.unwrap(), read_all(&store, Revision(0), 3).await);
    drop(store);
    let store = backend.open().await;
    assert_eq!(store.head().await.unwrap(), snapshot.head);
    assert_eq!(store.snapshot().await.unwrap(), snapshot);
    assert_eq!(read_all(&store, Revision(0), 3).await, changes);
    assert_eq!(store.commit(expect, Batch::default().put("z", "v")).await.unwrap(), expect.next());
}

async fn keys_are_kept_apart(backend: &impl Backend) {
    let store = fresh(backend).await;
    // In the order of their bytes: no collation may fold case, accents or trailing blanks.
    let keys = ["A", "B", "a", "a ", "a/b", "a\u{301}", "b", "\u{e1}", "\u{10000}"];
    let batch = keys.iter().rev().fold(Batch::default(), |batch, key| batch.put(*key, *key));
    store.commit(Revision(0), batch).await.unwrap();
    let stored = store.snapshot().await.unwrap().objects;
    assert_eq!(stored.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), keys);
    assert!(stored.iter().all(|object| object.value == object.key.as_bytes()));
}

async fn read_all(store: &impl Store, since: Revision, page: usize) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    loop {
        let since = changes.last().map_or(since, |change| change.revision);
        let mut next = store.changes(since, page).await.expect("readable");
        if next.is_empty() {
            return changes;
        }
        assert!(next.len() <= page);
        for (change, revision) in next.iter().zip(since.0 + 1..) {
            assert_eq!(change.revision.0, revision);
        }
        changes.append(&mut next);
    }
}

fn fold(state: &mut Fold, changes: Vec<Change>) {
    for change in changes {
        match change.value {
            Some(value) => state.insert(change.key, (change.revision, value)),
            None => state.remove(&change.key),
        };
    }
}

fn objects(objects: Vec<crate::Object>) -> Fold {
    objects.into_iter().map(|object| (object.key, (object.revision, object.value))).collect()
}
