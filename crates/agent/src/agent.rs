//! Starting and stopping an agent.

use std::{io, sync::Arc};

use bonafide_attest::join::{JoinError, JoinLine, check_address};
use bonafide_crypto::{key::PrivateKey, random::Random};
use bonafide_identity::{TrustDomain, bundle::TrustBundle, time::Clock};
use bonafide_net::{
    drain::Shutdown,
    http::HttpLimits,
    unix::{BindError, Caller, Limits, Listener},
};
use bonafide_wire::{
    agent::agent_server::AgentServer,
    external_auth::authorization_server::AuthorizationServer,
    kms::{keys_server::KeysServer, leases_server::LeasesServer},
    types::Problem,
    workload::spiffe_workload_api_server::SpiffeWorkloadApiServer,
};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{net::UnixStream, sync::watch, task::JoinHandle};
use tonic::service::Routes;

use crate::{
    addresses::Addresses,
    api::{
        Api, ExtAuthzService, KeysService, LeasesService, MAX_CHECK, MAX_REQUEST, OwnService,
        WorkloadService, json_routes,
    },
    attestor::{
        Attestation, Attestor, container::ContainerAttestor, systemd::SystemdAttestor, unix::UnixAttestor,
    },
    config::AgentConfig,
    core::{Core, Habits},
    credential::{Credential, StrictLeaf},
    engine::Engine,
    keys::MAX_MESSAGE,
    link::{self, Dial, JoinFailure, TlsDial, Way},
    peer::Peer,
    process::{Evidence, Process},
    storage::{SavedNode, Storage, StorageError},
};

/// Everybody may connect: who gets what is decided for each process.
const SOCKET_MODE: u32 = 0o777;

/// An agent.
#[derive(Debug)]
pub struct Agent;

/// A running agent. Dropping it does not stop it; see [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    engine: Arc<Engine>,
    server: JoinHandle<io::Result<()>>,
    ended: watch::Receiver<Option<Problem>>,
    /// What changes its state, beside the server.
    tasks: Vec<JoinHandle<()>>,
}

/// Why an agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// What `authority` names is no address.
    #[error("`{given}` is not the `host:port` of an authority")]
    Address {
        /// What was given.
        given: String,
    },
    /// The socket can't be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The join line makes no sense.
    #[error(transparent)]
    JoinLine(#[from] JoinError),
    /// The file with the join line can't be read.
    #[error("cannot read the join line in `{path}`: {source}")]
    JoinLineFile {
        /// Where it should be.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel can't pin the callers of a socket.
    #[error("this kernel gives no pidfd of a socket's peer (`SO_PEERPIDFD`, Linux 6.5)")]
    NoPeerPidfd,
    /// There is neither an SVID from an earlier life nor a join line.
    #[error("this node has not joined a trust domain")]
    NotJoined,
    /// Both a join line and a certificate.
    #[error("this node is told to join by a join line and by a certificate")]
    TwoWays,
    /// The authority, or the join line, rules out that this agent ever works.
    #[error("{}", .0.message)]
    Refused(Problem),
    /// The data directory can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The socket broke.
    #[error("the socket is broken: {0}")]
    Socket(#[from] io::Error),
}

impl AgentError {
    /// Stable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Address { .. } => "agent.authority-address",
            Self::Bind(error) => error.code(),
            Self::JoinLine(error) => error.code(),
            Self::JoinLineFile { .. } => "agent.join-line-file",
            Self::NoPeerPidfd => "agent.no-peer-pidfd",
            Self::NotJoined => "agent.not-joined",
            Self::TwoWays => "agent.two-ways-to-join",
            Self::Refused(problem) => &problem.code,
            Self::Storage(error) => error.code(),
            Self::Socket(_) => "agent.socket",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &str {
        match self {
            Self::Address { .. } => {
                "give host and port of each server, `authority.example.org:8443` for example"
            }
            Self::Bind(error) => error.hint(),
            Self::JoinLine(error) => error.hint(),
            Self::JoinLineFile { .. } => "name a file that the agent can read",
            Self::NoPeerPidfd => {
                "use Linux 6.5 or later; or set `allow_start_time_peers = true`, and every SVID will say so"
            }
            Self::NotJoined => {
                "make a join line with `bonafide token create`, and start the agent with it; or set `[join]` to join by a certificate"
            }
            Self::TwoWays => "give one of the two",
            Self::Refused(problem) => &problem.hint,
            Self::Storage(error) => error.hint(),
            Self::Socket(_) => "",
        }
    }
}

impl Agent {
    /// Starts an agent. It serves at once, and joins or connects in the background: until it has heard from
    /// its authority, or from its own earlier life, callers are told to wait.
    ///
    /// # Errors
    ///
    /// When it can't serve, or has no way to get an identity of its own.
    pub async fn start(
        config: AgentConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Running, AgentError> {
        let evidence = peer_evidence(config.allow_start_time_peers)?;
        let mut config = config;
        config.limits.fit_descriptors(raise_descriptor_limit());
        let storage = Storage::open(&config.data_dir)?;
        if !storage.is_volatile() {
            tracing::warn!(path = %config.data_dir.display(), "the data directory is not on a tmpfs: keys will lie on disk");
        }
        let way = way(&config)?;
        let saved = storage.load_node().filter(|node| match &way {
            None => true,
            // A join line of another trust domain begins a new life.
            Some(Way::Line(line)) => line.trust_domain == node.trust_domain,
            Some(Way::Certificate(join)) => {
                (&join.trust_domain, &join.site) == (&node.trust_domain, &node.site)
            }
        });
        let trust_domain = match (&saved, &way) {
            (Some(node), _) => node.trust_domain.clone(),
            (None, Some(way)) => way.trust_domain().clone(),
            (None, None) => return Err(AgentError::NotJoined),
        };
        let saved = saved.and_then(|node| Some((credential_of(&node)?, node)));
        if saved.is_none() {
            if way.is_none() {
                return Err(AgentError::NotJoined);
            }
            // Whatever lies there belongs to another life.
            storage.forget_all()?;
        }
        let limits = Limits {
            connections: config.limits.connections,
            connections_per_uid: config.limits.connections_per_uid,
        };
        let listener = Listener::bind(&config.socket, SOCKET_MODE, None)?.with_limits(limits);

        let engine = engine(&config, &clock, &random, storage, trust_domain, evidence, saved.as_ref())?;
        let serving = serve(&engine, &config, evidence, &*random, listener);
        let timers = tokio::spawn(Arc::clone(&engine).run_timers());
        let (ended_sender, ended) = watch::channel(None);
        let line_keeper = Line { engine: Arc::clone(&engine), config, way, clock, random };
        let keeper = tokio::spawn(async move {
            if let Some(reason) = line_keeper.keep(saved).await {
                let _ = ended_sender.send(Some(reason));
            }
        });
        Ok(Running { engine, server: serving, ended, tasks: vec![timers, keeper] })
    }
}

impl Running {
    /// Resolves when the agent has ended: after [`Running::shutdown`] is triggered, or because it could not
    /// join.
    ///
    /// # Errors
    ///
    /// Why it ended, unless it was told to.
    pub async fn ended(&mut self) -> Result<(), AgentError> {
        let refused = async {
            let reason = self.ended.wait_for(Option::is_some).await.ok()?;
            reason.clone()
        };
        let refused = tokio::select! {
            served = &mut self.server => {
                self.finish().await;
                return served.map_err(io::Error::other)?.map_err(AgentError::Socket);
            }
            Some(reason) = refused => reason,
        };
        self.engine.shutdown().trigger();
        let _ = (&mut self.server).await;
        self.finish().await;
        Err(AgentError::Refused(refused))
    }

    /// Nothing changes the agent's state any more, and another agent may take over its directory.
    async fn finish(&mut self) {
        self.engine.shutdown().trigger();
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
        self.engine.storage().release();
    }

    /// Trigger it to end the agent; then wait for [`Running::ended`].
    pub fn shutdown(&self) -> &Shutdown {
        self.engine.shutdown()
    }

    /// Ends the agent and waits until it has.
    ///
    /// # Errors
    ///
    /// As [`Running::ended`].
    pub async fn stop(mut self) -> Result<(), AgentError> {
        self.shutdown().trigger();
        self.ended().await
    }
}

fn engine(
    config: &AgentConfig,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
    storage: Storage,
    trust_domain: TrustDomain,
    evidence: Evidence,
    saved: Option<&(Arc<Credential>, SavedNode)>,
) -> Result<Arc<Engine>, AgentError> {
    let habits = Habits {
        pool_size: config.limits.pool_size,
        pool_limit: config.limits.pool_total,
        max_launches: config.limits.launches,
        weak: evidence == Evidence::StartTime,
        key: config.svid.key,
    };
    let mut core = Core::new(trust_domain.clone(), habits, Arc::clone(random), Arc::new(StrictLeaf));
    if let Some((credential, node)) = saved {
        core.set_node(Arc::clone(credential), node.renew_after);
    }
    core.restore_witnessed(storage.load_witnessed());
    let view = storage.load_view();
    let bundle = saved.map(|(_, node)| node.bundle.clone());
    let lives = |key: &crate::core::LaunchKey| {
        Process::open(key.pid, evidence)
            .and_then(|process| process.image())
            .is_ok_and(|image| image == key.image)
    };
    core.restore(view, storage.load_instances()?, lives, clock.now());
    let engine = Engine::new(core, Arc::clone(clock), storage, trust_domain, Shutdown::new());
    if let Some(bundle) = bundle.filter(|bundle| !bundle.is_empty()) {
        let revocations = engine.read(|core| Arc::clone(core.view.revocations()));
        engine.publish(&bundle, &revocations);
    }
    engine.with(|_, _| ());
    engine.watch_restored(evidence);
    Ok(engine)
}

pub(crate) fn serve(
    engine: &Arc<Engine>,
    config: &AgentConfig,
    evidence: Evidence,
    random: &dyn Random,
    listener: Listener,
) -> JoinHandle<io::Result<()>> {
    let attestors: Vec<Box<dyn Attestor>> = vec![
        Box::new(UnixAttestor::new(config.limits.exe_bytes)),
        Box::new(SystemdAttestor),
        Box::new(ContainerAttestor::new(&config.containers)),
    ];
    let attestation = Attestation::new(attestors, config.limits.attestations);
    let looks = Arc::clone(attestation.looks());
    let api = Api::new(Arc::clone(engine), attestation, config, evidence, random);
    let workload =
        SpiffeWorkloadApiServer::new(WorkloadService(api.clone())).max_decoding_message_size(MAX_REQUEST);
    let own = AgentServer::new(OwnService(api.clone())).max_decoding_message_size(MAX_REQUEST);
    let checks = AuthorizationServer::new(ExtAuthzService(api.clone())).max_decoding_message_size(MAX_CHECK);
    let keys = KeysServer::new(KeysService(api.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(2 * MAX_MESSAGE);
    let leases = LeasesServer::new(LeasesService(api.clone())).max_decoding_message_size(MAX_REQUEST);
    let routes =
        Routes::new(workload).add_service(own).add_service(checks).add_service(keys).add_service(leases);
    tokio::spawn(Arc::clone(engine.keys()).run(engine.shutdown().clone()));
    let router = routes.prepare().into_axum_router().merge(json_routes(api));
    let shutdown = engine.shutdown().clone();
    tokio::spawn(async move {
        listener
            .serve_with(router, HttpLimits::local(), &shutdown, move |caller: &Caller| {
                Peer::at_accept(caller, &looks)
            })
            .await
    })
}

/// Keeps the line to the authority.
struct Line {
    engine: Arc<Engine>,
    config: AgentConfig,
    way: Option<Way>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl Line {
    /// Runs until shutdown. `Some`: the agent never can work, and has nothing to serve.
    async fn keep(self, saved: Option<(Arc<Credential>, SavedNode)>) -> Option<Problem> {
        let expired = |credential: &Credential| credential.not_after() <= self.clock.now();
        let told = (!self.config.authority.is_empty()).then(|| self.shuffled(&self.config.authority));
        let has_lived = saved.is_some();
        let joined = match (saved, &self.way) {
            (Some((credential, node)), None) => Some((node, credential)),
            // A line that it has not joined with is there because the SVID that it has is of no use any more.
            (Some((credential, node)), Some(Way::Line(line)))
                if !expired(&credential) && node.joined_with == line.token.sha256() =>
            {
                Some((node, credential))
            }
            // An SVID that has expired is replaced when the authority is dialled.
            (Some((credential, node)), Some(Way::Certificate(_))) => Some((node, credential)),
            (saved, Some(way)) => match self.join(way, told.as_ref()).await {
                Ok(joined) => {
                    // The operator's line names the authority by its root. Of another one there is nothing to contradict.
                    if saved.is_some_and(|(_, before)| is_another_authority(&before, &joined.0)) {
                        self.engine.forget_witnessed();
                    }
                    Some(joined)
                }
                Err(None) => return None,
                Err(Some(reason)) if !has_lived => return Some(reason),
                Err(Some(reason)) => {
                    // What is still valid is served on.
                    tracing::warn!(
                        code = reason.code,
                        message = reason.message,
                        "this node has not joined anew"
                    );
                    self.engine.set_problem(Some(reason));
                    let (credential, node) = saved?;
                    Some((node, credential))
                }
            },
            (None, None) => None,
        };
        let (node, credential) = joined?;
        // The one that it has just joined at comes first: others may not know the node yet.
        let addresses = told.unwrap_or_else(|| self.shuffled(std::slice::from_ref(&node.address)));
        if let Err(reason) = self.engine.set_node(node, credential) {
            return Some(reason);
        }
        match TlsDial::new(&self.engine, addresses, self.way, Arc::clone(&self.random)) {
            Ok(dial) => {
                link::run(Arc::clone(&self.engine), Arc::new(dial) as Arc<dyn Dial>, self.random).await
            }
            Err(reason) => return Some(reason),
        }
        None
    }

    fn shuffled(&self, addresses: &[String]) -> Addresses {
        Addresses::shuffled(addresses, &*self.random)
    }

    /// Tries until it works, is refused for good (`Some`), or is told to stop.
    async fn join(
        &self,
        way: &Way,
        told: Option<&Addresses>,
    ) -> Result<(SavedNode, Arc<Credential>), Option<Problem>> {
        let named = match way {
            Way::Line(line) => std::slice::from_ref(&line.address),
            Way::Certificate(_) => &[],
        };
        let named = self.shuffled(named);
        let addresses = told.unwrap_or(&named);
        let shutdown = self.engine.shutdown().clone();
        let mut failures = 0;
        loop {
            let learned = self.engine.trust().load_full();
            let attempt = link::join(way, addresses, &learned, Arc::clone(&self.clock), &*self.random);
            match shutdown.unless_triggered(attempt).await {
                None => return Err(None),
                Some(Ok(joined)) => return Ok(joined),
                Some(Err(JoinFailure::Final(reason))) => return Err(Some(reason)),
                Some(Err(JoinFailure::Passing(reason))) => {
                    tracing::warn!(
                        code = reason.code,
                        message = reason.message,
                        "this node has not joined yet"
                    );
                    self.engine.set_problem(Some(reason));
                }
            }
            let wait = link::wait(failures, &*self.random);
            failures += 1;
            if shutdown.unless_triggered(tokio::time::sleep(wait)).await.is_none() {
                return Err(None);
            }
        }
    }
}

/// Whether nothing that vouched for the one vouches for the other.
fn is_another_authority(before: &SavedNode, after: &SavedNode) -> bool {
    let bundle = |node: &SavedNode| TrustBundle::parse(&node.trust_domain, &node.bundle);
    let (Ok(before), Ok(after)) = (bundle(before), bundle(after)) else { return false };
    !after
        .x509_authorities()
        .iter()
        .any(|root| before.x509_authorities().iter().any(|known| known.der() == root.der()))
}

fn credential_of(node: &SavedNode) -> Option<Arc<Credential>> {
    let key = PrivateKey::from_pkcs8_der(&node.key.0).ok()?;
    Credential::new(node.chain.clone(), Arc::new(key), &StrictLeaf).ok().map(Arc::new)
}

/// What this node joins with, if it has to.
fn way(config: &AgentConfig) -> Result<Option<Way>, AgentError> {
    if let Some(unfit) = config.authority.iter().find(|address| check_address(address).is_err()) {
        return Err(AgentError::Address { given: unfit.clone() });
    }
    match (join_line(config)?, &config.join) {
        (Some(_), Some(_)) => Err(AgentError::TwoWays),
        (Some(line), None) => Ok(Some(Way::Line(line))),
        (None, Some(_)) if config.authority.is_empty() => Err(AgentError::Refused(link::no_authority())),
        (None, Some(join)) => Ok(Some(Way::Certificate(join.clone()))),
        (None, None) => Ok(None),
    }
}

fn join_line(config: &AgentConfig) -> Result<Option<JoinLine>, AgentError> {
    if let Some(line) = &config.join_line {
        return Ok(Some(line.clone()));
    }
    let Some(path) = &config.join_line_file else { return Ok(None) };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.parse()?)),
        // It may have been removed once it had been used.
        Err(error) if error.kind() == io::ErrorKind::NotFound && config.data_dir.join("node").exists() => {
            Ok(None)
        }
        Err(source) => Err(AgentError::JoinLineFile { path: path.clone(), source }),
    }
}

/// Takes as many file descriptors as this process may have, and says how many that are.
fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files can't be raised");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Whether the kernel pins callers, asked of a socket of our own.
fn peer_evidence(allow_start_time: bool) -> Result<Evidence, AgentError> {
    let (one, _other) = UnixStream::pair()?;
    let pinned = Caller::of(&one).is_ok_and(|caller| caller.pidfd.is_some());
    match (pinned, allow_start_time) {
        (true, _) => Ok(Evidence::Pidfd),
        (false, true) => Ok(Evidence::StartTime),
        (false, false) => Err(AgentError::NoPeerPidfd),
    }
}
