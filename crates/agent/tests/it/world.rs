//! An authority and the agent of one node, in this process, with real TLS between them.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bonafide_agent::{Agent, AgentConfig, AgentError, JoinByCertificate, Running};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::time::Clock as _;
use bonafide_testkit::TestClock;
use bonafide_wire::{
    admin::{
        CreateJoinTokenRequest, GetBundleRequest, PutRegistrationRequest, PutSiteRequest,
        admin_client::AdminClient,
    },
    agent::{AgentStatus, StatusRequest, agent_client::AgentClient},
    types::{Registration, Scope, Selector, Site, registration},
    workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::authorities::Authorities;

pub(crate) struct World {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) socket: PathBuf,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) authorities: Authorities,
    agent: Option<Running>,
    /// The ID that the agent had when it was last seen.
    seen: Mutex<String>,
}

impl World {
    /// An authority, with one registration for whoever has the user of this process; no agent yet.
    pub(crate) async fn new() -> Self {
        let mut world = Self::empty();
        world.new_authority().await;
        world
    }

    /// As [`Self::new`]. If there are two servers, the first dies when the test says so.
    pub(crate) async fn deferred() -> Self {
        let mut world = Self::empty();
        world.authorities.deferred = true;
        world.new_authority().await;
        world
    }

    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = TestClock::new();
        let authorities = Authorities::new(directory.path(), &clock);
        let socket = directory.path().join("agent.sock");
        Self { clock, socket, directory, authorities, agent: None, seen: Mutex::default() }
    }

    /// Begins the trust domain, or begins it anew: with another root.
    pub(crate) async fn new_authority(&mut self) {
        self.authorities.begin().await;
        self.put_site(Vec::new()).await;
        self.put("web").await;
    }

    /// The site `lab`, with these roots of nodes' certificates.
    pub(crate) async fn put_site(&self, x509pop_roots: Vec<Vec<u8>>) {
        let x509pop_roots = x509pop_roots.into_iter().map(Into::into).collect();
        let scope = Scope { spiffe_ids: vec!["spiffe://example.org/app/**".into()], ..Scope::default() };
        let site = Site { name: "lab".into(), scope: Some(scope), x509pop_roots, ..Site::default() };
        let request = PutSiteRequest { site: Some(site), ..PutSiteRequest::default() };
        self.admin().await.put_site(request).await.unwrap();
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.now().as_secs()
    }

    /// The trust bundle, as `bonafide bundle show` prints it.
    pub(crate) async fn bundle(&self) -> Vec<u8> {
        self.admin().await.get_bundle(GetBundleRequest {}).await.unwrap().into_inner().bundle.to_vec()
    }

    pub(crate) async fn start_authority(&mut self) {
        self.authorities.start().await;
    }

    pub(crate) async fn stop_authority(&mut self) {
        self.authorities.stop().await;
    }

    /// Ends the first of two servers, if it has not ended yet.
    pub(crate) async fn fail_over(&self) {
        self.authorities.fail_over().await;
    }

    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        self.authorities.step().await;
        self.authorities.admin().await
    }

    pub(crate) async fn put(&self, name: &str) {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let registration = Registration {
            id: name.into(),
            kind: registration::Kind::Entry.into(),
            site: "lab".into(),
            spiffe_id: format!("spiffe://example.org/app/{name}"),
            selectors: vec![Selector { key: "unix.uid".into(), value: uid }],
            ..Registration::default()
        };
        let request = PutRegistrationRequest { registration: Some(registration), ..Default::default() };
        self.admin().await.put_registration(request).await.unwrap();
    }

    pub(crate) async fn join_line(&self) -> String {
        let request = CreateJoinTokenRequest { site: "lab".into(), ..CreateJoinTokenRequest::default() };
        self.admin().await.create_join_token(request).await.unwrap().into_inner().join
    }

    pub(crate) async fn start_agent(&mut self, line: Option<&str>) -> Result<(), AgentError> {
        let config = AgentConfig {
            socket: self.socket.clone(),
            data_dir: self.directory.path().join("agent"),
            join_line: line.map(|line| line.parse().unwrap()),
            authority: self.authorities.several(),
            ..AgentConfig::default()
        };
        self.agent = Some(Agent::start(config, self.clock.clone(), Arc::new(SystemRandom)).await?);
        Ok(())
    }

    /// One more agent, of a node of its own, and where it serves.
    pub(crate) async fn another_agent(&self, name: &str) -> (Running, PathBuf) {
        let line = self.join_line().await;
        let socket = self.directory.path().join(format!("{name}.sock"));
        let config = AgentConfig {
            socket: socket.clone(),
            data_dir: self.directory.path().join(name),
            join_line: Some(line.parse().unwrap()),
            authority: self.authorities.several(),
            ..AgentConfig::default()
        };
        let running = Agent::start(config, self.clock.clone(), Arc::new(SystemRandom)).await.unwrap();
        (running, socket)
    }

    pub(crate) async fn start_agent_by(&mut self, join: &JoinByCertificate) -> Result<(), AgentError> {
        let config = AgentConfig {
            socket: self.socket.clone(),
            data_dir: self.directory.path().join("agent"),
            authority: self.authorities.addresses(),
            join: Some(join.clone()),
            ..AgentConfig::default()
        };
        self.agent = Some(Agent::start(config, self.clock.clone(), Arc::new(SystemRandom)).await?);
        Ok(())
    }

    /// Why the agent has ended by itself.
    pub(crate) async fn agent_ended(&mut self) -> String {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.agent.as_mut().unwrap().ended());
        ended.await.unwrap().unwrap_err().code().to_owned()
    }

    pub(crate) async fn stop_agent(&mut self) {
        self.agent.take().unwrap().stop().await.unwrap();
    }

    /// The SVIDs of this process.
    pub(crate) async fn svids(&self) -> Result<X509svidResponse, Status> {
        self.authorities.step().await;
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
        let mut client = SpiffeWorkloadApiClient::new(local(&self.socket).await);
        Ok(client.fetch_x509svid(request).await?.into_inner().message().await?.unwrap())
    }

    pub(crate) async fn status(&self) -> AgentStatus {
        let mut client = AgentClient::new(local(&self.socket).await);
        client.status(StatusRequest {}).await.unwrap().into_inner()
    }

    /// Waits for a state of the agent.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        // A join token that a server has spent, without living to say so, is gone: until the node has joined, no server
        // dies. An agent that joins anew has its old ID until then.
        let mut has_joined = false;
        let wait = async {
            loop {
                let status = self.status().await;
                if !has_joined && (status.connected || *self.seen.lock().unwrap() != status.agent_id) {
                    has_joined = true;
                    self.authorities.step().await;
                    continue;
                }
                if holds(&status) {
                    self.seen.lock().unwrap().clone_from(&status.agent_id);
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), wait).await {
            Ok(status) => status,
            Err(_) => panic!("never {what}: {:?}", self.status().await),
        }
    }

    pub(crate) async fn connected(&self) -> AgentStatus {
        self.until("connected, with two in stock", |status| status.connected && status.pooled >= 2).await
    }
}

pub(crate) async fn local(path: &Path) -> Channel {
    let path = path.to_owned();
    Endpoint::from_static("http://local")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .unwrap()
}
