//! The line to the authority: joining, dialling, and dialling again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bonafide_attest::join::JoinLine;
use bonafide_crypto::{
    csr,
    digest::sha256,
    key::{KeyAlgorithm, PrivateKey},
    random::Random,
};
use bonafide_identity::{
    SpiffeIdPattern, TrustDomain,
    bundle::{BundleMap, TrustBundle},
    time::{Clock, UnixTime},
    x509,
};
use bonafide_tls::{Authorizer, ClientConfig, client_config, pinned_client_config};
use bonafide_wire::{
    node::{AttestBegin, AttestRequest, attest_request, attest_response, node_client::NodeClient},
    problem_of,
    types::Problem,
};
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    core::{Disconnect, SavedKey},
    credential::{Credential, StrictLeaf},
    engine::Engine,
    refusal::problem,
    storage::SavedNode,
};

/// First wait between two attempts; it doubles up to [`LAST_WAIT`]. Half of each is drawn by lot.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(60);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How often a silent authority is asked whether it is there, and how long it may take to say so.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// An authority that takes a stream must say where it stands by then.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);
const MAX_MESSAGE: usize = 8 << 20;

/// How the authority is reached.
pub(crate) trait Dial: std::fmt::Debug + Send + Sync {
    /// Opens one connection; it is not opened again when it breaks.
    fn dial(&self) -> BoxFuture<'_, Result<Channel, Problem>>;
}

/// Mutual TLS with the agent's own SVID.
#[derive(Debug)]
pub(crate) struct TlsDial {
    engine: Arc<Engine>,
    address: String,
    config: Arc<ClientConfig>,
}

impl TlsDial {
    pub(crate) fn new(engine: &Arc<Engine>, address: String) -> Result<Self, Problem> {
        let servers = format!("{}/bonafide/authority/*", engine.trust_domain().id());
        let servers =
            SpiffeIdPattern::parse(&servers).map_err(|error| problem(error.code(), error, error.hint()))?;
        let config = client_config(
            Some(engine.identity()),
            engine.trust(),
            Authorizer::pattern(servers),
            Arc::clone(engine.clock()),
        )
        .map_err(|error| problem(error.code(), &error, error.hint()))?;
        Ok(Self { engine: Arc::clone(engine), address, config: config.with_protocols(&[b"h2"]) })
    }
}

impl Dial for TlsDial {
    fn dial(&self) -> BoxFuture<'_, Result<Channel, Problem>> {
        Box::pin(async {
            let dialled = open(&self.address, &self.config).await;
            let expired =
                self.engine.read(|core| core.node_expiry()).is_none_or(|at| at <= self.engine.now());
            // The other side can't say more than "bad certificate"; this side knows.
            dialled.map_err(|problem| if expired { rejoin_needed() } else { problem })
        })
    }
}

async fn open(address: &str, config: &ClientConfig) -> Result<Channel, Problem> {
    let unreachable = |reason: &dyn std::fmt::Display| {
        problem(
            "agent.authority-unreachable",
            format!("cannot connect to the authority at `{address}`: {reason}"),
            "check that the authority runs, and the network between it and this node",
        )
    };
    let tcp = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(address)).await;
    let tcp = tcp.map_err(|_| unreachable(&"timed out"))?.map_err(|error| unreachable(&error))?;
    tcp.set_nodelay(true).map_err(|error| unreachable(&error))?;
    let stream = config.connect(tcp).await.map_err(|error| problem(error.code(), &error, error.hint()))?;
    over(stream).await.map_err(|error| unreachable(&error))
}

/// gRPC over one open connection.
pub(crate) async fn over<IO>(stream: IO) -> Result<Channel, tonic::transport::Error>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let stream = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let closed =
            || std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the connection is closed");
        std::future::ready(stream.map(TokioIo::new).ok_or_else(closed))
    });
    Endpoint::from_static("http://authority")
        .http2_keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

/// Keeps a stream open until shutdown, or until the authority bans this agent.
pub(crate) async fn run(engine: Arc<Engine>, dial: Arc<dyn Dial>, random: Arc<dyn Random>) {
    let shutdown = engine.shutdown().clone();
    let mut failures = 0;
    loop {
        let Some(ended) = shutdown.unless_triggered(attempt(&engine, &*dial)).await else { break };
        let problem = match ended {
            Ended::Banned => break,
            Ended::After(synced, problem) => {
                failures = if synced { 0 } else { failures + 1 };
                problem
            }
        };
        tracing::warn!(code = problem.code, message = problem.message, "no stream to the authority");
        engine.set_problem(Some(problem));
        if shutdown.unless_triggered(tokio::time::sleep(wait(failures, &*random))).await.is_none() {
            break;
        }
    }
    engine.disconnected();
}

enum Ended {
    Banned,
    /// Whether the stream had come so far as to work, and why it ended.
    After(bool, Problem),
}

async fn attempt(engine: &Engine, dial: &dyn Dial) -> Ended {
    let channel = match dial.dial().await {
        Ok(channel) => channel,
        Err(problem) => return Ended::After(false, problem),
    };
    let (messages, broken) = engine.connected();
    // Also when the whole attempt is dropped.
    let _guard = Disconnected(engine);
    let mut client = NodeClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let refused = |status: &Status| problem_of(status);
    let call = tokio::time::timeout(FIRST_MESSAGE, client.connect(ReceiverStream::new(messages))).await;
    let mut inbound = match call {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Ended::After(false, refused(&status)),
        Err(_) => return Ended::After(false, silent()),
    };
    loop {
        let synced = engine.read(|core| core.is_synced());
        let message = tokio::select! {
            message = inbound.message() => message,
            () = broken.notified() => return Ended::After(synced, silent()),
            () = tokio::time::sleep(FIRST_MESSAGE), if !synced => return Ended::After(false, silent()),
        };
        match message {
            Ok(Some(message)) => match engine.message(message) {
                Ok(()) => {}
                Err(Disconnect::Banned) => return Ended::Banned,
                Err(Disconnect::Violation(violation)) => {
                    let hint = "look at the authority's log; its version may not fit the agent's";
                    return Ended::After(false, problem("agent.protocol", violation, hint));
                }
            },
            Ok(None) => {
                let message = "the authority has closed the stream";
                return Ended::After(
                    synced,
                    problem("agent.stream-closed", message, "it is opened again soon"),
                );
            }
            Err(status) => return Ended::After(synced, refused(&status)),
        }
    }
}

struct Disconnected<'a>(&'a Engine);

impl Drop for Disconnected<'_> {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}

fn silent() -> Problem {
    problem(
        "agent.authority-silent",
        "the authority has taken a stream and does not speak",
        "look at its log",
    )
}

pub(crate) fn rejoin_needed() -> Problem {
    problem(
        "agent.rejoin-needed",
        "the agent's own SVID has expired",
        "make a join line with `bonafide token create`, and start the agent with it",
    )
}

pub(crate) fn wait(failures: u32, random: &dyn Random) -> Duration {
    let longest = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LAST_WAIT);
    let share = f64::from(u32::from_le_bytes(random.array::<4>())) / f64::from(u32::MAX);
    longest.mul_f64(0.5 + share / 2.0)
}

/// Why a node could not join.
#[derive(Clone, Debug)]
pub(crate) enum JoinFailure {
    /// The authority said no, or is not the one that the join line names: no use in trying again.
    Final(Problem),
    /// It may work later.
    Passing(Problem),
}

/// Turns a join line into the agent's first SVID.
pub(crate) async fn join(
    line: &JoinLine,
    address: &str,
    clock: Arc<dyn Clock>,
) -> Result<(SavedNode, Arc<Credential>), JoinFailure> {
    let config = pinned_client_config(line.trust_domain.clone(), line.root_pin, Arc::clone(&clock))
        .map_err(|error| JoinFailure::Final(problem(error.code(), &error, error.hint())))?;
    let channel = open(address, &config.with_protocols(&[b"h2"])).await.map_err(JoinFailure::Passing)?;
    join_over(channel, line, address, clock.now()).await
}

pub(crate) async fn join_over(
    channel: Channel,
    line: &JoinLine,
    address: &str,
    now: UnixTime,
) -> Result<(SavedNode, Arc<Credential>), JoinFailure> {
    let own = |error: &dyn std::fmt::Display| JoinFailure::Final(problem("agent.key", error, "report this"));
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcP256).map_err(|error| own(&error))?);
    let csr = csr::build(&key).map_err(|error| own(&error))?;
    let begin = AttestBegin {
        attestor: "join_token".to_owned(),
        evidence: line.token.expose().to_vec().into(),
        csr: csr.into(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let request = AttestRequest { step: Some(attest_request::Step::Begin(begin)) };
    let mut client = NodeClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let answer = async {
        let mut inbound = client.attest(tokio_stream::once(request)).await?.into_inner();
        inbound.message().await
    };
    let answer =
        tokio::time::timeout(FIRST_MESSAGE, answer).await.map_err(|_| JoinFailure::Passing(silent()))?;
    let unfit = |reason: &dyn std::fmt::Display| {
        JoinFailure::Final(problem(
            "agent.issued-unfit",
            reason,
            "look at the authority's log, and at both clocks",
        ))
    };
    let attested = match answer.map_err(|status| refused_join(&status))?.and_then(|response| response.step) {
        Some(attest_response::Step::Attested(attested)) => attested,
        _ => return Err(unfit(&"the authority answered a join token with something else than an SVID")),
    };
    check_bundle(&line.trust_domain, &line.root_pin, &attested.bundle, &attested.chain, now)
        .map_err(|error| unfit(&error))?;
    let credential = Credential::new(attested.chain.clone(), Arc::clone(&key), &StrictLeaf)
        .map_err(|error| unfit(&error))?;
    let node = SavedNode {
        address: address.to_owned(),
        trust_domain: line.trust_domain.clone(),
        site: attested.site,
        chain: attested.chain,
        key: SavedKey(key.to_pkcs8_der()),
        renew_after: UnixTime::from_secs(attested.renew_after),
        bundle: attested.bundle,
        joined_with: line.token.sha256().to_vec(),
    };
    Ok((node, Arc::new(credential)))
}

/// The bundle must hold the pinned root, and the new SVID must be good under it.
fn check_bundle(
    trust_domain: &TrustDomain,
    root_pin: &[u8; 32],
    bundle: &[u8],
    chain: &[bytes::Bytes],
    now: UnixTime,
) -> Result<(), String> {
    let bundle = TrustBundle::parse(trust_domain, bundle).map_err(|error| error.to_string())?;
    if !bundle.x509_authorities().iter().any(|root| sha256(root.der()) == *root_pin) {
        return Err("the authority's bundle lacks the root that the join line names".to_owned());
    }
    let mut bundles = BundleMap::new();
    bundles.insert(bundle);
    let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
    let svid = x509::verify(&chain, &bundles, now).map_err(|error| error.to_string())?;
    match bonafide_identity::reserved::agent_site(svid.id()) {
        Some(_) => Ok(()),
        None => Err(format!("the authority issued `{}`, which is no agent", svid.id())),
    }
}

fn refused_join(status: &Status) -> JoinFailure {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Unknown
        | Code::Cancelled
        | Code::Aborted
        | Code::Internal => JoinFailure::Passing(problem_of(status)),
        _ => JoinFailure::Final(problem_of(status)),
    }
}
