mod tampering;

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use bonafide_crypto::random::SystemRandom;
use bonafide_testkit::{Database, Postgres};

use super::*;
use crate::conformance::{self, Backend};

fn key() -> MacKey {
    MacKey::from_bytes(&[42; 32])
}

#[derive(Debug)]
struct Server {
    postgres: &'static Postgres,
    database: Mutex<Database>,
}

impl Server {
    /// With an empty database; nothing if PostgreSQL is not installed.
    fn new() -> Option<Self> {
        let postgres = Postgres::shared()?;
        Some(Self { postgres, database: Mutex::new(postgres.database()) })
    }

    fn database(&self) -> Database {
        self.database.lock().unwrap().clone()
    }

    fn address(&self) -> PostgresAddress {
        self.database().url().parse().unwrap()
    }

    async fn opened(&self) -> Result<PostgresStore, StoreError> {
        PostgresStore::open(self.address(), &key()).await
    }
}

impl Backend for Server {
    type Store = PostgresStore;

    fn reset(&self) {
        *self.database.lock().unwrap() = self.postgres.database();
    }

    fn open(&self) -> BoxFuture<'_, PostgresStore> {
        Box::pin(async {
            PostgresStore::create(&self.address(), &key(), &SystemRandom).await.unwrap();
            self.opened().await.unwrap()
        })
    }

    fn compact<'a>(
        &'a self,
        store: &'a PostgresStore,
        floor: Revision,
    ) -> BoxFuture<'a, Result<Head, StoreError>> {
        Box::pin(store.compact(floor))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_passes_the_suite() {
    let Some(server) = Server::new() else { return };
    conformance::run(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_stores_pass_the_suite() {
    let Some(server) = Server::new() else { return };
    conformance::run_shared(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_that_make_a_store_one_does() {
    let Some(server) = Server::new() else { return };
    let address = server.address();
    let made = futures_util::future::join_all(
        (0..8).map(|_| async { PostgresStore::create(&address, &key(), &SystemRandom).await.unwrap() }),
    )
    .await;
    assert_eq!(made.iter().filter(|made| **made).count(), 1);
    server.opened().await.unwrap();
    let error = PostgresStore::open(address, &MacKey::from_bytes(&[43; 32])).await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { place: crate::Place::Head, .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_is_missing_is_not_made_by_opening() {
    let Some(server) = Server::new() else { return };
    assert_eq!(server.opened().await.unwrap_err().code(), "store.missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_are_opened_again() {
    let Some(server) = Server::new() else { return };
    let store = Arc::new(server.open().await);
    let database = server.database();
    let enough = Arc::<AtomicBool>::default();
    let writer = {
        let (store, enough) = (Arc::clone(&store), Arc::clone(&enough));
        tokio::spawn(async move {
            let mut expect = Revision(0);
            while !enough.load(Ordering::Relaxed) {
                // Each outcome is certain, whatever happened to the connection.
                let next =
                    store.commit(expect, Batch::default().put("k", expect.0.to_string())).await.unwrap();
                assert_eq!(next.0, expect.0 + 1);
                expect = next;
            }
            expect
        })
    };
    for _cut in 0..5 {
        let database = database.clone();
        tokio::task::spawn_blocking(move || database.cut_connections()).await.unwrap();
        // What was under way has ended, and something begun after it: no commit meets two cuts.
        let seen = store.head().await.unwrap().revision;
        while store.head().await.unwrap().revision.0 < seen.0 + 2 && !writer.is_finished() {
            tokio::task::yield_now().await;
        }
    }
    enough.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    assert_eq!(store.snapshot().await.unwrap().objects[0].value, (written.0 - 1).to_string().as_bytes());
    let again = server.opened().await.unwrap();
    assert_eq!(again.head().await.unwrap().revision, written);
    let mut read = Revision(0);
    while read < written {
        let page = again.changes(read, 1000).await.unwrap();
        assert_eq!(page.first().map(|change| change.revision.0), Some(read.0 + 1));
        read = page.last().unwrap().revision;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_is_looked_for() {
    let Some(server) = Server::new() else { return };
    let (one, two) = (server.open().await, server.opened().await.unwrap());
    let plan = |store: &PostgresStore, value: &str| {
        store.shared.follower().plan(&store.shared.keys, &Batch::default().put("k", value))
    };
    // It never arrived.
    let lost = plan(&one, "lost");
    assert!(!one.shared.resolve(Revision(0), &lost).await.unwrap());
    // It did; the one who asks has not followed it.
    let arrived = plan(&one, "arrived");
    two.commit(Revision(0), Batch::default().put("k", "arrived")).await.unwrap();
    assert!(one.shared.resolve(Revision(0), &arrived).await.unwrap());
    // Somebody else's change stands at its revision.
    assert!(!one.shared.resolve(Revision(0), &lost).await.unwrap());

    // Its transaction is still on its way: the answer waits for it.
    let address = server.address();
    let (slow, _driver) = session::connect(&address, None).await.unwrap();
    slow.batch_execute("BEGIN; UPDATE head SET revision = revision + 0 WHERE id = 1").await.unwrap();
    let third = two.shared.follower().plan(&two.shared.keys, &Batch::default().put("k", "3"));
    let shared = Arc::clone(&two.shared);
    let asked = tokio::spawn(async move { shared.resolve(Revision(1), &third).await });
    // Until the question waits for the lock.
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while slow.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!asked.is_finished());
    slow.batch_execute("ROLLBACK").await.unwrap();
    assert!(!asked.await.unwrap().unwrap());
}

#[tokio::test]
async fn a_database_that_forgets_is_refused() {
    let Some(server) = Server::new() else { return };
    let store = server.open().await;
    let database = server.database();
    database.sql(&format!("ALTER DATABASE {} SET synchronous_commit = off", database.name()));
    let error = server.opened().await.unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("synchronous_commit")), ("store.not-durable", true));
    // Whoever had it open finds out when it connects again.
    database.cut_connections();
    assert_eq!(store.head().await.unwrap_err().code(), "store.not-durable");
    let Some(own) = Postgres::start() else { return };
    let database = own.database();
    database.sql("ALTER SYSTEM SET fsync = off");
    database.sql("SELECT pg_reload_conf()");
    let address = database.url().parse().unwrap();
    // The server takes a moment to notice.
    let error = loop {
        match PostgresStore::create(&address, &key(), &SystemRandom).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!((error.code(), error.to_string().contains("fsync")), ("store.not-durable", true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_its_end_is_noticed_by_whoever_knows_it() {
    let Some(server) = Server::new() else { return };
    let store = server.open().await;
    store.commit(Revision(0), Batch::default().put("a", "1").put("b", "1")).await.unwrap();
    drop(store);
    let database = server.database();
    database.cut_connections();
    let backup = database.copy("backup");
    let known = server.opened().await.unwrap();
    let reader = server.opened().await.unwrap();
    known.commit(Revision(2), Batch::default().put("a", "2").put("ban", "x")).await.unwrap();
    reader.changes(Revision(2), 9).await.unwrap();

    let went_back = |error: StoreError, place: &str| {
        assert_eq!(error.code(), "store.went-back", "{error}");
        assert!(error.to_string().contains(place), "{error}");
        assert!(error.to_string().contains("revision 4"), "{error}");
    };
    database.put_back(&backup);
    for store in [&known, &reader] {
        went_back(store.head().await.unwrap_err(), "table `head` is at revision 2");
        went_back(store.changes(Revision(4), 9).await.unwrap_err(), "table `head`");
        went_back(store.changes(Revision(2), 9).await.unwrap_err(), "table `head`");
        went_back(store.snapshot().await.unwrap_err(), "table `head`");
        let error = store.commit(Revision(4), Batch::default().put("a", "3")).await.unwrap_err();
        went_back(error, "table `head`");
        went_back(store.wait(Revision(4), Duration::MAX).await.unwrap_err(), "table `head`");
    }
    // Another server, which never saw the end, goes another way: as far, and further.
    let other = server.opened().await.unwrap();
    other.commit(Revision(2), Batch::default().put("a", "2").put("c", "x")).await.unwrap();
    for store in [&known, &reader] {
        went_back(store.head().await.unwrap_err(), "table `change`, revision 4, is another one");
        let error = store.commit(Revision(4), Batch::default().put("a", "3")).await.unwrap_err();
        went_back(error, "table `change`, revision 4");
    }
    other.commit(Revision(4), Batch::default().put("a", "3").put("c", "y")).await.unwrap();
    for store in [&known, &reader] {
        went_back(store.changes(Revision(4), 9).await.unwrap_err(), "table `change`, revision 4");
        went_back(store.changes(Revision(1), 9).await.unwrap_err(), "table `change`, revision 4");
        let error = store.commit(Revision(6), Batch::default().put("a", "3")).await.unwrap_err();
        went_back(error, "table `change`, revision 4");
    }
    // A new incarnation: everybody who has not begun with it stops.
    let before = other.head().await.unwrap();
    let renewed = PostgresStore::renew_incarnation(server.address(), &key(), &SystemRandom).await.unwrap();
    for store in [&known, &reader, &other] {
        let error = store.head().await.unwrap_err();
        assert!(error.to_string().contains(&renewed.to_string()), "{error}");
        assert_eq!(error.code(), "store.went-back");
    }
    let new = server.opened().await.unwrap();
    let head = new.head().await.unwrap();
    assert_eq!((head.incarnation, head.revision, head.floor), (renewed, before.revision, before.revision));
    assert_eq!(new.snapshot().await.unwrap().objects.len(), 3);
    new.commit(head.revision, Batch::default().remove("c")).await.unwrap();
    server.opened().await.unwrap();
}
