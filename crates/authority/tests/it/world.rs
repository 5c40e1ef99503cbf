//! A whole authority in this process, and scripted agents that speak to it over real TLS.

use std::sync::Arc;
use std::time::Duration;

use bonafide_authority::config::StoreConfig;
use bonafide_authority::{Authority, AuthorityConfig, Running, StartError};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::TrustDomain;
use bonafide_identity::time::Clock;
use bonafide_net::drain::Shutdown;
use bonafide_testkit::{Database, Postgres, Scaffold, TestClock, two_servers};
use bonafide_wire::admin::admin_client::AdminClient;
use bonafide_wire::admin::{CreateJoinTokenRequest, PutRegistrationRequest, PutSiteRequest, StatusRequest};
use bonafide_wire::types::{Registration, Scope, Selector, Site, registration};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// An authority with its data directory. Dropping it stops it.
pub struct World {
    pub directory: Arc<TempDir>,
    pub config: AuthorityConfig,
    pub clock: Arc<TestClock>,
    pub running: Option<Running>,
    pub admin: AdminClient<Channel>,
    stop: Shutdown,
    /// A second server on the same store, and what the first one dies with.
    spare: Option<(Box<Self>, Scaffold)>,
}

/// Tests that know of one server, and why. All others run, if `BONAFIDE_TEST_SERVERS` is 2, with two of them on one
/// PostgreSQL, of which the first is killed when the first agent has joined: all that comes after must work at the other.
const ONE_SERVER: &[(&str, &str)] = &[(
    "streams::the_ledger_has_everything_that_was_issued_and_shows_every_edit",
    "it counts the entries of one ledger, and the agent's attestation stands in that of the server that was killed",
)];

pub fn trust_domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

impl World {
    /// A new authority with the site `lab`.
    pub async fn new() -> Self {
        let mut world = Self::empty().await;
        world.put_site("lab", &["spiffe://example.org/app/**"]).await;
        world
    }

    pub async fn empty() -> Self {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        if two_servers() && !ONE_SERVER.iter().any(|(name, _)| *name == test) {
            return Self::doomed().await;
        }
        // The whole suite runs on either kind of store.
        let on_postgres = std::env::var("BONAFIDE_TEST_STORE").is_ok_and(|store| store == "postgres");
        let database = on_postgres.then(|| Postgres::shared().expect("PostgreSQL is installed").database());
        Self::on(database).await
    }

    /// A new authority of two servers, of which the first is not to live long.
    async fn doomed() -> Self {
        let database = Postgres::shared().expect("PostgreSQL is installed").database();
        let scaffold = Scaffold::new();
        let mut world = scaffold.start(Self::on(Some(database))).await;
        let second = world.beside("second").await;
        world.spare = Some((Box::new(second), scaffold));
        world
    }

    /// Kills the first of two servers, if there are two: nothing of it runs any more, and nothing is said.
    pub async fn fail_over(&mut self) {
        let Some((mut second, first)) = self.spare.take() else { return };
        let known = revision(&mut self.admin).await;
        in_time(async {
            while revision(&mut second.admin).await < known {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(first);
        std::mem::swap(self, &mut second);
    }

    /// A new authority with its store in a database, or in a file.
    pub async fn on(database: Option<Database>) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let data = directory.path().join("data");
        let mut config = AuthorityConfig::new(trust_domain(), data);
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.limits.attestations_per_source = 10_000;
        config.limits.strangers_per_source = 1000;
        config.limits.strangers_per_second = 10_000;
        config.limits.attestations_per_second = 10_000;
        if let Some(database) = &database {
            config.store = StoreConfig::Postgres {
                url: database.url().parse().unwrap(),
                password_file: None,
                ca_file: None,
            };
        }
        let clock = TestClock::new();
        Authority::init(&config, clock.clone(), &SystemRandom).await.unwrap();
        Self::start(directory, config, clock).await.unwrap()
    }

    pub async fn start(
        directory: Arc<TempDir>,
        config: AuthorityConfig,
        clock: Arc<TestClock>,
    ) -> Result<Self, StartError> {
        let running = Authority::start(config.clone(), clock.clone(), Arc::new(SystemRandom)).await?;
        let admin = AdminClient::new(local(running.admin_socket()).await);
        let stop = running.stopper();
        Ok(Self { directory, config, clock, running: Some(running), admin, stop, spare: None })
    }

    /// Stops the server and starts it again on what it left.
    pub async fn restart(mut self) -> Self {
        let (directory, config, clock) = self.stop().await;
        Self::start(directory, config, clock).await.unwrap()
    }

    /// One more server on the same store.
    pub async fn beside(&self, name: &str) -> Self {
        let mut config = self.config.clone();
        config.server = name.into();
        config.data_dir = self.directory.path().join(name);
        Authority::init_beside(&config, &self.config.data_dir, self.clock.clone(), Arc::new(SystemRandom))
            .await
            .unwrap();
        Self::start(self.directory.clone(), config, self.clock.clone()).await.unwrap()
    }

    /// Stops it; the data directory remains.
    pub async fn stop(&mut self) -> (Arc<TempDir>, AuthorityConfig, Arc<TestClock>) {
        self.fail_over().await;
        self.running.take().unwrap().shutdown().await.unwrap();
        (self.directory.clone(), self.config.clone(), self.clock.clone())
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    pub async fn put_site(&mut self, name: &str, ids: &[&str]) {
        let scope = Scope {
            spiffe_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            dns_names: vec!["*.example.org".into()],
            labels: vec![Selector { key: "team".into(), value: "*".into() }],
            ..Scope::default()
        };
        let site = Site { name: name.into(), scope: Some(scope), ..Site::default() };
        self.admin.put_site(PutSiteRequest { site: Some(site), ..PutSiteRequest::default() }).await.unwrap();
    }

    /// Puts a registration; returns its revision.
    pub async fn put(&mut self, registration: Registration) -> u64 {
        let request = PutRegistrationRequest { registration: Some(registration), ..Default::default() };
        self.admin.put_registration(request).await.unwrap().into_inner().revision
    }

    /// A join line for one node.
    pub async fn join_line(&mut self, site: &str) -> String {
        let request = CreateJoinTokenRequest { site: site.into(), ..CreateJoinTokenRequest::default() };
        self.admin.create_join_token(request).await.unwrap().into_inner().join
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

/// An entry of the site `lab`.
pub fn entry(id: &str, path: &str) -> Registration {
    Registration {
        id: id.into(),
        kind: registration::Kind::Entry.into(),
        site: "lab".into(),
        spiffe_id: format!("spiffe://example.org{path}"),
        selectors: vec![Selector { key: "unix.uid".into(), value: "1000".into() }],
        ..Registration::default()
    }
}

async fn revision(admin: &mut AdminClient<Channel>) -> u64 {
    admin.status(StatusRequest::default()).await.unwrap().into_inner().revision
}

async fn local(path: &std::path::Path) -> Channel {
    let path = path.to_owned();
    Endpoint::from_static("http://authority")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .unwrap()
}

/// Nothing in these tests takes so long, unless it hangs.
pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("it hangs")
}
