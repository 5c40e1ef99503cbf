//! The line to the authority: joining, dialling, and dialling again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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
    reserved,
    time::{Clock, UnixTime},
    x509,
};
use bonafide_tls::{Authorizer, ClientConfig, TlsError, Trust, Trusted, client_config, pinned_client_config};
use bonafide_wire::{
    node::{AttestBegin, AttestRequest, Attested, attest_request, attest_response, node_client::NodeClient},
    problem_of,
    types::Problem,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    addresses::Addresses,
    core::{Disconnect, SavedKey},
    credential::{Credential, StrictLeaf},
    engine::Engine,
    refusal::problem,
    storage::SavedNode,
    x509pop::{JoinByCertificate, NodeCertificate, X509PopError},
};

/// First wait between two attempts; it doubles up to [`LAST_WAIT`]. Half of each is drawn by lot.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(60);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How often a silent authority is asked whether it is there, and how long it may take to say so. It speaks every five
/// minutes, so that this is for one that hangs while nothing is asked of it: of what is asked, the answer is missed first.
/// That its machine is gone, the kernel finds out, for nearly nothing: see [`PROBES`].
const PING: (Duration, Duration) = (Duration::from_secs(360), Duration::from_secs(10));
/// After how much silence the kernel probes, how often then, and after how many probes the connection is dead.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// An authority that takes a stream must say where it stands by then.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);
const MAX_MESSAGE: usize = 8 << 20;

/// How the authority is reached.
pub(crate) trait Dial: std::fmt::Debug + Send + Sync {
    /// Opens one connection; it is not opened again when it breaks.
    fn dial(&self) -> BoxFuture<'_, Result<Dialled, Problem>>;

    /// The last connection was of no use, for this reason: the next one should be to another server, if there is one.
    fn failed(&self, _: &Problem) {}
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) channel: Channel,
    /// Which server of the authority has proved to be at its other end.
    pub(crate) server: String,
}

/// Mutual TLS with the agent's own SVID.
#[derive(Debug)]
pub(crate) struct TlsDial {
    engine: Arc<Engine>,
    addresses: Addresses,
    config: Arc<ClientConfig>,
    /// What a new SVID can be had with, once the last one has expired.
    way: Option<Way>,
    /// The site trusts no more what the node had attested with. It may have another certificate by now.
    outdated: AtomicBool,
    random: Arc<dyn Random>,
}

impl TlsDial {
    pub(crate) fn new(
        engine: &Arc<Engine>,
        addresses: Addresses,
        way: Option<Way>,
        random: Arc<dyn Random>,
    ) -> Result<Self, Problem> {
        let servers = servers_of(engine.trust_domain()).map_err(JoinFailure::into_problem)?;
        let config =
            client_config(Some(engine.identity()), engine.trust(), servers, Arc::clone(engine.clock()))
                .map_err(|error| problem(error.code(), &error, error.hint()))?;
        let config = config.with_protocols(&[b"h2"]);
        Ok(Self {
            engine: Arc::clone(engine),
            addresses,
            config,
            way,
            outdated: AtomicBool::new(false),
            random,
        })
    }

    fn has_expired(&self) -> bool {
        self.engine.read(|core| core.node_expiry()).is_none_or(|at| at <= self.engine.now())
    }

    /// A node with a certificate needs nobody to come back. A join line was spent.
    async fn attest_again(&self) -> Result<(), Problem> {
        let Some(way @ Way::Certificate(_)) = &self.way else { return Ok(()) };
        let learned = self.engine.trust().load_full();
        let clock = Arc::clone(self.engine.clock());
        let joined = join(way, &self.addresses, &learned, clock, &*self.random).await;
        let (node, credential) = joined.map_err(JoinFailure::into_problem)?;
        tracing::info!(agent = %credential.spiffe_id(), "this node has attested again: the agent's SVID had expired, or was not admitted");
        self.engine.set_node(node, credential)
    }
}

/// The servers of a trust domain's authority.
fn servers_of(trust_domain: &TrustDomain) -> Result<Authorizer, JoinFailure> {
    let servers = format!("{}/bonafide/authority/*", trust_domain.id());
    let servers = SpiffeIdPattern::parse(&servers);
    servers
        .map(Authorizer::pattern)
        .map_err(|error| JoinFailure::Final(problem(error.code(), error, error.hint())))
}

impl Dial for TlsDial {
    fn dial(&self) -> BoxFuture<'_, Result<Dialled, Problem>> {
        Box::pin(async {
            if self.has_expired() || self.outdated.load(Ordering::Relaxed) {
                self.attest_again().await?;
                self.outdated.store(false, Ordering::Relaxed);
            }
            let mut opened = Err(no_authority());
            for address in self.addresses.round() {
                opened = open(address, &self.config).await;
                if opened.is_ok() {
                    break;
                }
            }
            opened
        })
    }

    fn failed(&self, problem: &Problem) {
        self.addresses.elsewhere();
        if problem.code == "agent.proof-untrusted" {
            self.outdated.store(true, Ordering::Relaxed);
        }
    }
}

async fn open(address: &str, config: &ClientConfig) -> Result<Dialled, Problem> {
    let unreachable = |reason: &dyn std::fmt::Display| {
        problem(
            "agent.authority-unreachable",
            format!("cannot connect to the authority at `{address}`: {reason}"),
            "check that the authority runs, and the network between it and this node",
        )
    };
    let tcp = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(address)).await;
    let tcp = tcp.map_err(|_| unreachable(&"timed out"))?.map_err(|error| unreachable(&error))?;
    tcp.set_nodelay(true).and_then(|()| probe(&tcp)).map_err(|error| unreachable(&error))?;
    let stream = config.connect(tcp).await.map_err(|error| problem(error.code(), &error, error.hint()))?;
    let server = stream.peer().and_then(|peer| reserved::authority_server(peer.id())).map(str::to_owned);
    let server = server.ok_or_else(|| unreachable(&"it is no server of the authority"))?;
    let channel = over(stream).await.map_err(|error| unreachable(&error))?;
    Ok(Dialled { channel, server })
}

/// A machine that is gone, or a cut, ends the connection after some 25 seconds, whether something was sent or not.
fn probe(tcp: &TcpStream) -> std::io::Result<()> {
    let (idle, interval, count) = PROBES;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, idle)?;
    sockopt::set_tcp_keepintvl(tcp, interval)?;
    sockopt::set_tcp_keepcnt(tcp, count)?;
    let unheard = idle + interval * count;
    sockopt::set_tcp_user_timeout(tcp, u32::try_from(unheard.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
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
                if !synced {
                    dial.failed(&problem);
                }
                // The other side can't say more than "bad certificate", and maybe only after it took the connection;
                // this side knows.
                let expired = engine.read(|core| core.node_expiry()).is_some_and(|at| at <= engine.now());
                if expired && !synced { rejoin_needed() } else { problem }
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
    let Dialled { channel, server } = match dial.dial().await {
        Ok(dialled) => dialled,
        Err(problem) => return Ended::After(false, problem),
    };
    let (messages, broken) = engine.connected(&server, channel.clone());
    // Also when the whole attempt is dropped.
    let _guard = Disconnected(engine);
    let mut client = NodeClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let call = tokio::time::timeout(FIRST_MESSAGE, client.connect(ReceiverStream::new(messages))).await;
    let mut inbound = match call {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return refused(engine, false, &status),
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
                Err(Disconnect::Contradiction(contradiction)) => {
                    tracing::error!("nothing is asked of this authority: {contradiction}");
                    return Ended::After(false, contradiction.into_problem());
                }
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
            Err(status) => return refused(engine, synced, &status),
        }
    }
}

fn refused(engine: &Engine, synced: bool, status: &Status) -> Ended {
    let problem = problem_of(status);
    match engine.with(|core, now| core.refused(&problem, now)) {
        Ok(()) => Ended::After(synced, problem),
        Err(_) => Ended::Banned,
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
        "a node that joins by certificate attests again by itself; for another, make a join line with `bonafide token create`, and start the agent with it",
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

impl JoinFailure {
    pub(crate) fn into_problem(self) -> Problem {
        match self {
            Self::Final(problem) | Self::Passing(problem) => problem,
        }
    }
}

/// What a node joins with.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// A token that works once.
    Line(JoinLine),
    /// A certificate that it has already: it works again and again.
    Certificate(JoinByCertificate),
}

impl Way {
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Line(line) => &line.trust_domain,
            Self::Certificate(join) => &join.trust_domain,
        }
    }
}

/// Gets an SVID for the agent. `learned`: what it knows of its trust domain already.
pub(crate) async fn join(
    way: &Way,
    addresses: &Addresses,
    learned: &BundleMap,
    clock: Arc<dyn Clock>,
    random: &dyn Random,
) -> Result<(SavedNode, Arc<Credential>), JoinFailure> {
    let tls = |error: TlsError| JoinFailure::Final(problem(error.code(), &error, error.hint()));
    let config = match way {
        Way::Line(line) => {
            pinned_client_config(line.trust_domain.clone(), line.root_pin, Arc::clone(&clock)).map_err(tls)?
        }
        Way::Certificate(join) => {
            let trust = Trust::new(Trusted::new(join.trust(learned).map_err(|error| files(&error))?));
            client_config(None, &trust, servers_of(&join.trust_domain)?, Arc::clone(&clock)).map_err(tls)?
        }
    };
    let config = config.with_protocols(&[b"h2"]);
    let mut joined = Err(JoinFailure::Final(no_authority()));
    for address in addresses.round() {
        joined = match open(address, &config).await {
            Ok(dialled) => join_over(dialled.channel, way, address, clock.now(), random).await,
            Err(problem) => Err(JoinFailure::Passing(problem)),
        };
        if !matches!(joined, Err(JoinFailure::Passing(_))) {
            break;
        }
    }
    joined
}

pub(crate) fn no_authority() -> Problem {
    problem(
        "agent.no-authority",
        "a certificate does not say where the authority is",
        "set `authority` to its `host:port`, or to those of all its servers",
    )
}

/// Files of the node may be renewed at any time.
fn files(error: &X509PopError) -> JoinFailure {
    JoinFailure::Passing(problem(error.code(), error, error.hint()))
}

pub(crate) async fn join_over(
    channel: Channel,
    way: &Way,
    address: &str,
    now: UnixTime,
    random: &dyn Random,
) -> Result<(SavedNode, Arc<Credential>), JoinFailure> {
    let own = |error: &dyn std::fmt::Display| JoinFailure::Final(problem("agent.key", error, "report this"));
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcP256).map_err(|error| own(&error))?);
    let csr: Bytes = csr::build(&key).map_err(|error| own(&error))?.into();
    let begin = |attestor: &str, evidence: Bytes| AttestBegin {
        attestor: attestor.to_owned(),
        evidence,
        csr: csr.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let (attested, joined_with) = match way {
        Way::Line(line) => {
            let begin = begin("join_token", line.token.expose().to_vec().into());
            (attest(channel, begin, |_| None).await?, line.token.sha256())
        }
        Way::Certificate(join) => {
            let certificate = NodeCertificate::load(&join.x509pop).map_err(|error| files(&error))?;
            let evidence = certificate.evidence(&join.site);
            let joined_with = sha256(&evidence);
            let begin = begin(JoinByCertificate::KIND, evidence);
            let answer = |challenge: &[u8]| certificate.answer(challenge, join, &csr, random);
            (attest(channel, begin, answer).await?, joined_with)
        }
    };
    let pin = match way {
        Way::Line(line) => Some(&line.root_pin),
        Way::Certificate(_) => None,
    };
    check_bundle(way.trust_domain(), pin, &attested.bundle, &attested.chain, now)
        .map_err(|error| unfit(&error))?;
    let credential = Credential::new(attested.chain.clone(), Arc::clone(&key), &StrictLeaf)
        .map_err(|error| unfit(&error))?;
    let node = SavedNode {
        address: address.to_owned(),
        trust_domain: way.trust_domain().clone(),
        site: attested.site,
        chain: attested.chain,
        key: SavedKey(key.to_pkcs8_der()),
        renew_after: UnixTime::from_secs(attested.renew_after),
        bundle: attested.bundle,
        joined_with: joined_with.to_vec(),
    };
    Ok((node, Arc::new(credential)))
}

fn unfit(reason: &dyn std::fmt::Display) -> JoinFailure {
    JoinFailure::Final(problem(
        "agent.issued-unfit",
        reason,
        "look at the authority's log, and at both clocks",
    ))
}

/// One attestation: at most one challenge.
async fn attest(
    channel: Channel,
    begin: AttestBegin,
    answer: impl Fn(&[u8]) -> Option<Bytes>,
) -> Result<Attested, JoinFailure> {
    let mut client = NodeClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let (say, said) = mpsc::channel(2);
    let exchange = async {
        let _ = say.send(AttestRequest { step: Some(attest_request::Step::Begin(begin)) }).await;
        let mut inbound = client.attest(ReceiverStream::new(said)).await?.into_inner();
        let mut step = inbound.message().await?.and_then(|response| response.step);
        if let Some(attest_response::Step::Challenge(challenge)) = &step
            && let Some(answer) = answer(challenge)
        {
            let answer = attest_request::Step::ChallengeResponse(answer);
            let _ = say.send(AttestRequest { step: Some(answer) }).await;
            step = inbound.message().await?.and_then(|response| response.step);
        }
        Ok(step)
    };
    let exchanged = tokio::time::timeout(FIRST_MESSAGE, exchange).await;
    match exchanged.map_err(|_| JoinFailure::Passing(silent()))? {
        Ok(Some(attest_response::Step::Attested(attested))) => Ok(attested),
        Ok(_) => Err(unfit(&"the authority answered the attestation with something else than an SVID")),
        Err(status) => Err(refused_join(&status)),
    }
}

/// The bundle must hold the pinned root, if one is, and the new SVID must be good under it.
fn check_bundle(
    trust_domain: &TrustDomain,
    root_pin: Option<&[u8; 32]>,
    bundle: &[u8],
    chain: &[bytes::Bytes],
    now: UnixTime,
) -> Result<(), String> {
    let bundle = TrustBundle::parse(trust_domain, bundle).map_err(|error| error.to_string())?;
    let pinned = |pin: &[u8; 32]| bundle.x509_authorities().iter().any(|root| sha256(root.der()) == *pin);
    if !root_pin.is_none_or(pinned) {
        return Err("the authority's bundle lacks the root that the join line names".to_owned());
    }
    let mut bundles = BundleMap::new();
    bundles.insert(bundle);
    let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
    let svid = x509::verify(&chain, &bundles, now).map_err(|error| error.to_string())?;
    match reserved::agent_site(svid.id()) {
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
