//! The authority of a world: one server, or two on one database, of which the first does not live long.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bonafide_authority::{Authority, AuthorityConfig, Running, config::StoreConfig};
use bonafide_crypto::random::SystemRandom;
use bonafide_testkit::{Doom, Postgres, Scaffold, TestClock, two_servers};
use bonafide_wire::admin::{StatusRequest, admin_client::AdminClient};
use tonic::transport::Channel;

use crate::world::local;

/// Tests that know of one server, and why. All others run, if `BONAFIDE_TEST_SERVERS` is 2, with two of them.
const ONE_SERVER: &[(&str, &str)] = &[
    (
        "rotation::a_stolen_intermediate_is_replaced_at_once",
        "the thief reads SQLite, and knows of one intermediate",
    ),
    (
        "rotation::a_stolen_root_is_believed_by_nobody_after_the_drill_and_costs_the_others_nothing",
        "the thief reads SQLite, and a server that is dead confirms no key",
    ),
];

pub(crate) struct Authorities {
    /// Of the server that stays.
    pub(crate) config: AuthorityConfig,
    clock: Arc<TestClock>,
    /// The first server dies when the test says so, not by lot.
    pub(crate) deferred: bool,
    /// Of all servers that there were, also of the dead one.
    addresses: Vec<String>,
    running: Option<Running>,
    first: Mutex<Option<First>>,
}

/// The server that is killed. It dies with this.
struct First {
    admin: PathBuf,
    doom: Doom,
    _scaffold: Scaffold,
}

impl Authorities {
    /// None of them is there yet.
    pub(crate) fn new(directory: &Path, clock: &Arc<TestClock>) -> Self {
        let mut config = AuthorityConfig::new("example.org".parse().unwrap(), directory.join("authority"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        Self {
            config,
            clock: clock.clone(),
            deferred: false,
            addresses: Vec::new(),
            running: None,
            first: Mutex::new(None),
        }
    }

    /// Begins the trust domain, or begins it anew: with another root.
    pub(crate) async fn begin(&mut self) {
        self.stop().await;
        self.addresses.clear();
        let _ = std::fs::remove_dir_all(&self.config.data_dir);
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        if two_servers() && !ONE_SERVER.iter().any(|(name, _)| *name == test) {
            self.begin_two().await;
        } else {
            Authority::init(&self.config, self.clock.clone(), &SystemRandom).await.unwrap();
        }
        self.start().await;
        self.addresses.push(self.config.listen.to_string());
    }

    async fn begin_two(&mut self) {
        let database = Postgres::shared().expect("PostgreSQL is installed").database();
        let store = StoreConfig::Postgres {
            url: database.url().parse().unwrap(),
            password_file: None,
            ca_file: None,
        };
        self.config.store = store;
        let mut config = self.config.clone();
        config.server = "first".into();
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.data_dir = self.config.data_dir.with_extension("first");
        let _ = std::fs::remove_dir_all(&config.data_dir);
        Authority::init(&config, self.clock.clone(), &SystemRandom).await.unwrap();
        let scaffold = Scaffold::new();
        let start = Authority::start(config.clone(), self.clock.clone(), Arc::new(SystemRandom));
        let running = scaffold.start(start).await.unwrap();
        Authority::init_beside(&self.config, &config.data_dir, self.clock.clone(), Arc::new(SystemRandom))
            .await
            .unwrap();
        self.addresses.push(running.node_address().to_string());
        *self.first.lock().unwrap() = Some(First {
            admin: running.admin_socket().to_owned(),
            doom: Doom::of_this_test(8),
            _scaffold: scaffold,
        });
    }

    pub(crate) async fn start(&mut self) {
        let start = Authority::start(self.config.clone(), self.clock.clone(), Arc::new(SystemRandom));
        let running = start.await.unwrap();
        // The same address in its next life.
        self.config.listen = running.node_address();
        self.running = Some(running);
    }

    /// Stops whatever there is. A first server never comes back.
    pub(crate) async fn stop(&mut self) {
        drop(self.first.lock().unwrap().take());
        if let Some(running) = self.running.take() {
            running.shutdown().await.unwrap();
        }
    }

    /// What an agent is told that joins by certificate.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// What an agent is told that has a join line, too: nothing, unless there are several servers.
    pub(crate) fn several(&self) -> Vec<String> {
        if self.addresses.len() > 1 { self.addresses() } else { Vec::new() }
    }

    /// A step of the test begins, which the first server may not live to see.
    pub(crate) async fn step(&self) {
        let strikes = self.first.lock().unwrap().as_ref().is_some_and(|first| first.doom.strikes());
        if strikes && !self.deferred {
            self.fail_over().await;
        }
    }

    /// Kills the first of two servers, once the other one has heard of all that it has said.
    pub(crate) async fn fail_over(&self) {
        let Some(first) = self.first.lock().unwrap().take() else { return };
        let known = revision(&first.admin).await;
        let heard = async {
            while revision(self.running.as_ref().unwrap().admin_socket()).await < known {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), heard).await.expect("the other server follows");
        drop(first);
    }

    /// What the operator uses: the first server, as long as it lives.
    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        let first = self.first.lock().unwrap().as_ref().map(|first| first.admin.clone());
        let path = first.unwrap_or_else(|| self.running.as_ref().unwrap().admin_socket().to_owned());
        AdminClient::new(local(&path).await)
    }

    /// That of the server that stays.
    pub(crate) async fn lasting_admin(&self) -> AdminClient<Channel> {
        AdminClient::new(local(self.running.as_ref().unwrap().admin_socket()).await)
    }
}

async fn revision(admin: &Path) -> u64 {
    let mut admin = AdminClient::new(local(admin).await);
    admin.status(StatusRequest::default()).await.unwrap().into_inner().revision
}
