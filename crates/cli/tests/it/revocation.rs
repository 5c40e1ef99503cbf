//! What is revoked ends: an authority, two agents of two sites, and a workload at each of them.

use std::{sync::Arc, time::Duration};

use bonafide_agent::{Agent, AgentConfig, Running};
use bonafide_authority::{Authority, AuthorityConfig, config::StoreConfig};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::{SystemClock, X509Svid, revocation::Subject};
use bonafide_sdk::{Authorizer, JwtSource, Options, SpiffeId, X509Source, tls};
use bonafide_testkit::{Doom, Postgres, Scaffold, two_servers};
use bonafide_tls::{IdentitySlot, TlsError, Trust, Trusted, client_config};
use bonafide_wire::{
    admin::{
        CreateJoinTokenRequest, PutRegistrationRequest, PutSiteRequest, RevokeRequest, StatusRequest,
        UnrevokeRequest, WaitRequest, admin_client::AdminClient,
    },
    from_subject,
    types::{Registration, Scope, Selector, Site, registration::Kind},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};
use tonic::{Code, transport::Channel};

/// A revocation takes effect within so much.
const BOUND: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    admin: AdminClient<Channel>,
    authority: bonafide_authority::Running,
    /// Of all servers, if there are two.
    addresses: Vec<String>,
    /// The first of two servers: what it dies with, and when.
    first: Option<(AdminClient<Channel>, Scaffold, Doom)>,
    agents: Vec<Running>,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config =
            AuthorityConfig::new("example.org".parse().unwrap(), folder.path().join("authority"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let (mut addresses, mut first) = (Vec::new(), None);
        if two_servers() {
            let database = Postgres::shared().expect("PostgreSQL is installed").database();
            let url = database.url().parse().unwrap();
            config.store = StoreConfig::Postgres { url, password_file: None, ca_file: None };
            Authority::init(&config, clock.clone(), &SystemRandom).await.unwrap();
            let scaffold = Scaffold::new();
            let start = Authority::start(config.clone(), clock.clone(), random.clone());
            let running = scaffold.start(start).await.unwrap();
            addresses.push(running.node_address().to_string());
            let admin = bonafide_cli::admin::connect(running.admin_socket()).await.unwrap();
            first = Some((admin, scaffold, Doom::of_this_test(5)));
            let beside = config.data_dir.clone();
            config.server = "second".into();
            config.data_dir = folder.path().join("second");
            Authority::init_beside(&config, &beside, clock.clone(), random.clone()).await.unwrap();
        } else {
            Authority::init(&config, clock.clone(), &SystemRandom).await.unwrap();
        }
        let authority = Authority::start(config, clock, random).await.unwrap();
        if first.is_some() {
            addresses.push(authority.node_address().to_string());
        }
        let admin = bonafide_cli::admin::connect(authority.admin_socket()).await.unwrap();
        let mut world = Self { admin, authority, addresses, first, agents: Vec::new(), folder };
        world.join("one").await;
        world.join("two").await;
        world
    }

    /// A step of the test begins, which the first server may not live to see. If it does not, this returns when the other
    /// one has both agents: what is promised, is promised to those that are connected.
    async fn step(&mut self) {
        if !self.first.as_ref().is_some_and(|(_, _, doom)| doom.strikes()) {
            return;
        }
        let connected = async |admin: &AdminClient<Channel>| {
            let status = admin.clone().status(StatusRequest::default()).await;
            status.unwrap().into_inner().agents_connected
        };
        // A join token that a server has spent, without living to say so, is gone.
        if let Some((first, ..)) = &self.first {
            let all = async || connected(first).await + connected(&self.admin).await == 2;
            eventually("both have joined", all).await;
        }
        self.first = None;
        eventually("both are at the other server", async || connected(&self.admin).await == 2).await;
    }

    /// A site, an entry of it for this process, and its agent.
    async fn join(&mut self, name: &str) {
        let scope = Scope { spiffe_ids: vec![format!("spiffe://example.org/{name}/**")], ..Scope::default() };
        let site = Site { name: name.into(), scope: Some(scope), ..Site::default() };
        let request = PutSiteRequest { site: Some(site), ..PutSiteRequest::default() };
        self.admin.put_site(request).await.unwrap();
        let entry = Registration {
            id: name.into(),
            kind: Kind::Entry.into(),
            site: name.into(),
            spiffe_id: id(name).to_string(),
            selectors: vec![Selector { key: "unix.uid".into(), value: nix::unistd::geteuid().to_string() }],
            ..Registration::default()
        };
        let request = PutRegistrationRequest { registration: Some(entry), ..Default::default() };
        self.admin.put_registration(request).await.unwrap();
        let request = CreateJoinTokenRequest { site: name.into(), ..CreateJoinTokenRequest::default() };
        let line = self.admin.create_join_token(request).await.unwrap().into_inner().join;
        let config = AgentConfig {
            socket: self.folder.path().join(format!("{name}.sock")),
            data_dir: self.folder.path().join(name),
            join_line: Some(line.parse().unwrap()),
            authority: self.addresses.clone(),
            ..AgentConfig::default()
        };
        let agent = Agent::start(config, Arc::new(SystemClock), Arc::new(SystemRandom)).await.unwrap();
        self.agents.push(agent);
    }

    fn options(&self, name: &str) -> Options {
        let endpoint = bonafide_sdk::Endpoint::unix(self.folder.path().join(format!("{name}.sock")));
        let mut options = Options::default();
        options.endpoint = Some(endpoint);
        options.patience = PATIENCE;
        options
    }

    async fn source(&mut self, name: &str) -> X509Source {
        self.step().await;
        X509Source::connect_with(self.options(name)).await.unwrap()
    }

    async fn revoke(&mut self, subject: &Subject) -> u64 {
        self.step().await;
        let request = RevokeRequest {
            subject: Some(from_subject(subject)),
            reason: "a drill".into(),
            ..RevokeRequest::default()
        };
        self.admin.revoke(request).await.unwrap().into_inner().revision
    }

    async fn unrevoke(&mut self, subject: &Subject) {
        self.step().await;
        let request = UnrevokeRequest { subject: Some(from_subject(subject)), ..Default::default() };
        self.admin.unrevoke(request).await.unwrap();
    }

    async fn end(self) {
        for agent in self.agents {
            agent.stop().await.unwrap();
        }
        self.authority.shutdown().await.unwrap();
    }
}

fn id(name: &str) -> SpiffeId {
    format!("spiffe://example.org/{name}/app").parse().unwrap()
}

fn members() -> Authorizer {
    Authorizer::member_of("example.org".parse().unwrap())
}

/// What a thief of a key does: it has the SVID, and asks nobody whether it is still good. Says why its connection ended.
async fn thief(svid: &X509Svid, source: &X509Source, address: std::net::SocketAddr) -> String {
    let slot = IdentitySlot::new();
    slot.set(svid);
    let trust = Trust::new(Trusted::new(source.bundles()));
    let config = client_config(Some(&slot), &trust, members(), Arc::new(SystemClock)).unwrap();
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut stream = config.connect(tcp).await.unwrap();
    let error = timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap_err();
    TlsError::of_io(&error).map_or_else(|| error.to_string(), |refused| refused.to_string())
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_instance_loses_its_connections_and_gets_no_new_ones() {
    let mut world = World::new().await;
    let (server, client) = (world.source("one").await, world.source("two").await);
    let stolen = client.svid().unwrap();
    let tokens = JwtSource::connect_with(world.options("two")).await.unwrap();
    let judge = JwtSource::connect_with(world.options("one")).await.unwrap();
    let token = tokens.fetch(&["db"]).await.unwrap();
    judge.validate(token.token(), "db").unwrap();

    let mut listener = tls::TlsListener::bind("127.0.0.1:0", &server, members()).await.unwrap();
    let address = listener.local_addr();
    let (connected, accepted) = tokio::join!(tls::connect(address, &client, members()), listener.accept());
    let ((mut here, _), (mut there, caller)) = (connected.unwrap(), accepted.unwrap());
    here.write_all(b"x").await.unwrap();
    assert_eq!(there.read_u8().await.unwrap(), b'x');

    let begun = Instant::now();
    let revision = world.revoke(&Subject::Instance(caller.instance().unwrap())).await;
    let error = timeout(PATIENCE, there.read_u8()).await.unwrap().unwrap_err();
    let took = begun.elapsed();
    println!("a connection ended {took:?} after `revoke`");
    assert_eq!(TlsError::of_io(&error).unwrap().code(), "x509.revoked-instance");
    assert!(took < BOUND, "{took:?}");
    let wait = WaitRequest { revision, timeout: 30 };
    assert!(world.admin.wait(wait).await.unwrap().into_inner().behind.is_empty());

    let refused = thief(&stolen, &server, address).await;
    assert!(refused.contains("CertificateRevoked"), "{refused}");
    eventually("refused as a token, too", async || judge.validate(token.token(), "db").is_err()).await;
    assert_eq!(judge.validate(token.token(), "db").unwrap_err().code(), "jwt.revoked-instance");
    eventually("withdrawn from the workload", async || client.svid().is_err()).await;
    let mut again = world.options("two");
    again.patience = Duration::from_secs(3);
    let refused = X509Source::connect_with(again).await.unwrap_err();
    assert_eq!(refused.code(), "agent.instance-revoked", "{refused}");

    // Taken back, it is who it was.
    world.unrevoke(&Subject::Instance(caller.instance().unwrap())).await;
    eventually("given back", async || client.svid().is_ok()).await;
    assert_eq!(client.svid().unwrap().leaf().attributes().unwrap().instance, caller.instance());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_id_ends_and_its_launches_get_new_instances() {
    let mut world = World::new().await;
    let (server, client) = (world.source("one").await, world.source("two").await);
    let stolen = client.svid().unwrap();
    let mut listener = tls::TlsListener::bind("127.0.0.1:0", &server, members()).await.unwrap();
    let address = listener.local_addr();

    let (sender, mut callers) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, caller)) = listener.accept().await {
            sender.send(caller).unwrap();
            tokio::spawn(async move { while stream.read_u8().await.is_ok() {} });
        }
    });

    let begun = Instant::now();
    world.revoke(&Subject::Id(id("two"))).await;
    // One that comes too early is let in, and thrown out again.
    let refused = async || thief(&stolen, &server, address).await.contains("CertificateRevoked");
    eventually("refused", refused).await;
    let took = begun.elapsed();
    println!("a stolen SVID was refused {took:?} after `revoke`");
    assert!(took < BOUND, "{took:?}");

    // The registration stands, so the process goes on with another key.
    let fresh = async || client.svid().is_ok_and(|svid| svid.leaf() != stolen.leaf());
    eventually("another instance", fresh).await;
    // What is issued anew is valid from the second after the revocation.
    while callers.try_recv().is_ok() {}
    eventually("welcome again", async || {
        let connected = tls::connect(address, &client, members()).await;
        drop(connected);
        matches!(timeout(Duration::from_millis(100), callers.recv()).await, Ok(Some(caller)) if *caller.id() == id("two"))
    })
    .await;
    serving.abort();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_site_is_cut_off_until_it_is_released() {
    let mut world = World::new().await;
    let (server, client) = (world.source("one").await, world.source("two").await);
    let mut listener = tls::TlsListener::bind("127.0.0.1:0", &server, members()).await.unwrap();
    let address = listener.local_addr();
    let (connected, accepted) = tokio::join!(tls::connect(address, &client, members()), listener.accept());
    // The side of the site that is not quarantined may be the client, too: here both look.
    let ((mut here, _), (mut there, _)) = (connected.unwrap(), accepted.unwrap());

    let site = Subject::Site("two".into());
    let begun = Instant::now();
    world.revoke(&site).await;
    let error = timeout(PATIENCE, there.read_u8()).await.unwrap().unwrap_err();
    let took = begun.elapsed();
    println!("a connection ended {took:?} after `site quarantine`");
    assert_eq!(TlsError::of_io(&error).unwrap().code(), "x509.revoked-site");
    assert!(took < BOUND, "{took:?}");
    drop(there);
    assert!(timeout(PATIENCE, here.read_u8()).await.unwrap().is_err());
    eventually("withdrawn from the workload", async || client.svid().is_err()).await;
    let refused = world
        .admin
        .create_join_token(CreateJoinTokenRequest { site: "two".into(), ..Default::default() })
        .await;
    assert!(refused.is_ok(), "a token may be made; it admits nobody before the release");

    world.unrevoke(&site).await;
    eventually("served again", async || client.svid().is_ok()).await;
    let domain = id("one").trust_domain().clone();
    let nothing =
        |source: &X509Source| source.bundles().revocations(&domain).is_some_and(|set| set.is_empty());
    eventually("told to everybody", async || nothing(&server) && nothing(&client)).await;
    let (connected, accepted) = tokio::join!(tls::connect(address, &client, members()), listener.accept());
    assert!(connected.is_ok() && accepted.is_ok());
    let unknown = world
        .admin
        .unrevoke(UnrevokeRequest { subject: Some(from_subject(&site)), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    world.end().await;
}
