//! Whoever can write the data directory puts older files back: of the store, of the ledger, of both in part.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bonafide_authority::config::StoreConfig;
use bonafide_authority::{Authority, AuthorityConfig, StartError};
use bonafide_crypto::random::SystemRandom;
use bonafide_testkit::{Database, Postgres, TestClock};
use bonafide_wire::admin::ListRegistrationsRequest;
use tempfile::TempDir;

use crate::agents::Agent;
use crate::world::{World, entry};

const STORE: &str = "store.sqlite";

/// Copies of a data directory at several moments, oldest first; a certificate was issued between any two.
struct History {
    directory: Arc<TempDir>,
    config: AuthorityConfig,
    clock: Arc<TestClock>,
    moments: Vec<Moment>,
}

/// A copy of the data directory, and of the store if that is elsewhere.
struct Moment {
    files: PathBuf,
    database: Option<Database>,
}

impl History {
    async fn new(moments: usize) -> Self {
        let mut world = World::new().await;
        let backups = world.directory.path().join("backups");
        let mut copies = Vec::new();
        for moment in 0..moments {
            let name = format!("app{moment}");
            world.put(entry(&name, &format!("/app/{name}"))).await;
            let agent = Agent::join(&mut world, "lab").await;
            agent.connect().await.issue(&name).await.unwrap();
            let (directory, config, clock) = world.stop().await;
            copies.push(Moment::of(&config, &backups.join(moment.to_string()), &format!("m{moment}")));
            world = World::start(directory, config, clock).await.unwrap();
        }
        let (directory, config, clock) = world.stop().await;
        Self { directory, config, clock, moments: copies }
    }

    /// Puts `part` of the data directory back to what it was at `moment`.
    fn put_back(&self, part: &str, moment: usize) {
        self.put_back_from(&self.moments[moment], part);
    }

    fn put_back_from(&self, moment: &Moment, part: &str) {
        if let (STORE, Some(copy)) = (part, &moment.database) {
            return database(&self.config).unwrap().put_back(copy);
        }
        self.remove(part);
        copy_all(&moment.files.join(part), &self.config.data_dir.join(part));
    }

    /// Everything as it is now.
    fn end(&self) -> Moment {
        Moment::of(&self.config, &self.directory.path().join("end"), "end")
    }

    fn remove(&self, part: &str) {
        let path = self.config.data_dir.join(part);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    async fn refused(&self) -> StartError {
        let random = Arc::new(SystemRandom);
        let error = Authority::start(self.config.clone(), self.clock.clone(), random).await.unwrap_err();
        assert!(!error.hint().is_empty(), "{error}");
        error
    }

    async fn accepted(&self) -> World {
        let mut config = self.config.clone();
        config.accept_restore = true;
        World::start(self.directory.clone(), config, self.clock.clone()).await.unwrap()
    }

    async fn started(&self) -> World {
        World::start(self.directory.clone(), self.config.clone(), self.clock.clone()).await.unwrap()
    }
}

impl Moment {
    fn of(config: &AuthorityConfig, files: &Path, name: &str) -> Self {
        copy_all(&config.data_dir, files);
        let database = database(config).inspect(Database::cut_connections);
        Self { files: files.to_owned(), database: database.map(|database| database.copy(name)) }
    }
}

/// Of the store, unless that is a file.
fn database(config: &AuthorityConfig) -> Option<Database> {
    match &config.store {
        StoreConfig::Postgres { url, .. } => Postgres::shared().map(|server| server.of(&url.to_string())),
        StoreConfig::Sqlite => None,
    }
}

pub fn copy_all(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        // Sockets stay.
        if file.file_type().unwrap().is_dir() || file.file_type().unwrap().is_file() {
            copy_all(&file.path(), &to.join(file.file_name()));
        }
    }
}

#[tokio::test]
async fn an_old_store_is_refused_without_the_ledgers_checkpoint_too() {
    let history = History::new(2).await;
    history.put_back(STORE, 0);
    assert_eq!(history.refused().await.code(), "store.rolled-back");
    // Whoever takes the witness away is not believed.
    history.remove("ledger/checkpoint");
    assert_eq!(history.refused().await.code(), "ledger.rolled-back");
    history.remove("ledger");
    assert_eq!(history.refused().await.code(), "ledger.rolled-back");
}

#[tokio::test]
async fn an_old_ledger_is_refused() {
    let history = History::new(2).await;
    history.put_back("ledger", 0);
    let error = history.refused().await;
    assert_eq!(error.code(), "ledger.rolled-back");
    assert!(error.to_string().contains("entries"), "{error}");
    // Neither is none.
    history.remove("ledger");
    assert_eq!(history.refused().await.code(), "ledger.rolled-back");
    // Who has lost it can go on, and the new one says so.
    let mut world = history.accepted().await;
    world.put(entry("after", "/app/after")).await;
    world.stop().await;
    history.started().await.stop().await;
}

#[tokio::test]
async fn a_ledger_that_went_another_way_is_refused() {
    let history = History::new(2).await;
    let end = history.end();
    // The same server, with all its keys, writes another history from the first moment on.
    for part in ["ledger", STORE] {
        history.put_back(part, 0);
    }
    let mut world = history.started().await;
    world.put(entry("fork", "/app/fork")).await;
    for _ in 0..4 {
        let agent = Agent::join(&mut world, "lab").await;
        agent.connect().await.issue("fork").await.unwrap();
    }
    world.stop().await;
    // Its ledger is longer than the store has seen, and correctly signed.
    history.put_back_from(&end, STORE);
    let code = history.refused().await.code().to_owned();
    assert!(["ledger.rolled-back", "store.rolled-back"].contains(&&*code), "{code}");
}

#[tokio::test]
async fn what_a_restore_took_back_can_not_be_put_back() {
    let history = History::new(2).await;
    let end = history.end();
    history.put_back(STORE, 0);
    let mut world = history.accepted().await;
    let ids = world.admin.list_registrations(ListRegistrationsRequest::default()).await.unwrap().into_inner();
    assert_eq!(ids.registrations.len(), 1);
    world.stop().await;
    history.started().await.stop().await;
    // The store as it was before the restore: the same chain, and newer than the last checkpoint.
    history.put_back_from(&end, STORE);
    assert_eq!(history.refused().await.code(), "store.rolled-back");
}
