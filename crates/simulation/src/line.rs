//! A node's line to the authority: joining, and opening the stream.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bonafide_attest::join::JoinLine;
use bonafide_crypto::{
    csr,
    key::{KeyAlgorithm, PrivateKey},
};
use bonafide_identity::{
    Certificate, SpiffeId, X509Svid,
    bundle::{BundleMap, TaintedKey, TrustBundle},
    time::{SystemClock, UnixTime},
};
use bonafide_tls::{
    Authorizer, ClientConfig, IdentitySlot, Trust, Trusted, client_config, pinned_client_config,
};
use bonafide_wire::{
    node::{
        AgentMessage, AttestBegin, AttestRequest, Attested, AuthorityMessage, Hello, agent_message,
        attest_request, attest_response, node_client::NodeClient,
    },
    problem_of,
    types::Problem,
};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use crate::meter::{Counters, Metered};

/// As the agent of this house does it: how often a silent authority is asked whether it is there.
const PING: (Duration, Duration) = (Duration::from_secs(360), Duration::from_secs(10));
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Messages that may wait to be sent.
const OUTBOX: usize = 64;

/// A node that has joined.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) id: SpiffeId,
    pub(crate) renew_after: UnixTime,
    place: Place,
    slot: Arc<IdentitySlot>,
    trust: Trust,
    config: Arc<ClientConfig>,
    chain: Vec<Bytes>,
    tainted: Vec<TaintedKey>,
    /// Of the next SVID, while it is asked for.
    next_key: Option<PrivateKey>,
}

/// Where an authority is, and from where it is called.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    address: String,
    source: Option<Ipv4Addr>,
    counters: Arc<Counters>,
}

/// Both directions of a stream.
pub(crate) type Stream = (mpsc::Sender<AgentMessage>, Streaming<AuthorityMessage>);

impl Place {
    /// Each node calls from an address of its own where that costs nothing, on the loopback interface: the authority
    /// bounds what one address may ask for.
    pub(crate) fn new(address: &str, number: usize, counters: Arc<Counters>) -> Self {
        let local = address
            .parse::<SocketAddr>()
            .is_ok_and(|address| address.ip().is_loopback() && address.is_ipv4());
        let [_, _, high, low] = u32::try_from(number % (250 * 250)).unwrap_or_default().to_be_bytes();
        let number = usize::from(u16::from_be_bytes([high, low]));
        let part = |part: usize| u8::try_from(1 + part % 250).unwrap_or(1);
        let source = local.then(|| Ipv4Addr::new(127, 1, part(number / 250), part(number)));
        Self { address: address.to_owned(), source, counters }
    }

    async fn open(&self, config: &ClientConfig) -> Result<Channel, Problem> {
        let tcp = tokio::time::timeout(CONNECT_TIME, self.dial()).await;
        let tcp = tcp
            .map_err(|_| failed("simulation.connect", "timed out"))?
            .map_err(|error| failed("simulation.connect", error))?;
        let metered = Metered::new(tcp, Arc::clone(&self.counters));
        let stream = config.connect(metered).await.map_err(|error| failed(error.code(), &error))?;
        let stream = Mutex::new(Some(stream));
        let connector = tower::service_fn(move |_| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            let closed = || std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
            std::future::ready(stream.map(TokioIo::new).ok_or_else(closed))
        });
        Endpoint::from_static("http://authority")
            .http2_keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map_err(|error| failed("simulation.connect", error))
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        let tcp = match (self.source, self.address.parse()) {
            (Some(source), Ok(address)) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
                socket.connect(address).await?
            }
            _ => TcpStream::connect(&self.address).await?,
        };
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }
}

impl Line {
    /// Joins with a token.
    pub(crate) async fn join(line: &JoinLine, place: Place) -> Result<Self, Problem> {
        let trust_domain = line.trust_domain.clone();
        let key = PrivateKey::generate(KeyAlgorithm::EcP256).map_err(|error| failed(error.code(), error))?;
        let pinned = pinned_client_config(trust_domain.clone(), line.root_pin, Arc::new(SystemClock))
            .map_err(|error| failed(error.code(), &error))?;
        let begin = AttestBegin {
            attestor: "join_token".to_owned(),
            evidence: line.token.expose().to_vec().into(),
            csr: request(&key)?,
            agent_version: version(),
        };
        let begin = AttestRequest { step: Some(attest_request::Step::Begin(begin)) };
        let channel = place.open(&pinned.with_protocols(&[b"h2"])).await?;
        let answer = async {
            let mut answers = NodeClient::new(channel).attest(tokio_stream::once(begin)).await?.into_inner();
            answers.message().await
        };
        let answer = answer.await.map_err(|status| problem_of(&status))?;
        let Some(attest_response::Step::Attested(Attested { chain, bundle, renew_after, .. })) =
            answer.and_then(|answer| answer.step)
        else {
            return Err(failed("simulation.answer", "the authority did not answer an attestation"));
        };
        let bundle =
            TrustBundle::parse(&trust_domain, &bundle).map_err(|error| failed(error.code(), &error))?;
        let tainted = bundle.tainted().to_vec();
        let trust: Trust = Arc::new(Trusted::new(alone(bundle)));
        let svid = svid(&chain, key)?;
        let slot = IdentitySlot::new();
        slot.set(&svid);
        let servers = Authorizer::member_of(trust_domain);
        let config = client_config(Some(&slot), &trust, servers, Arc::new(SystemClock))
            .map_err(|error| failed(error.code(), &error))?;
        Ok(Self {
            id: svid.id().clone(),
            renew_after: UnixTime::from_secs(renew_after),
            place,
            slot,
            trust,
            chain,
            tainted,
            config: config.with_protocols(&[b"h2"]),
            next_key: None,
        })
    }

    /// Connects, and begins the stream.
    pub(crate) async fn open(&self, hello: Hello) -> Result<Stream, Problem> {
        let channel = self.place.open(&self.config).await?;
        let (say, said) = mpsc::channel(OUTBOX);
        let hello = AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) };
        say.try_send(hello).map_err(|error| failed("simulation.stream", error))?;
        let hear = NodeClient::new(channel)
            .max_decoding_message_size(8 << 20)
            .connect(ReceiverStream::new(said))
            .await
            .map_err(|status| problem_of(&status))?;
        Ok((say, hear.into_inner()))
    }

    /// The request for the agent's own next SVID.
    pub(crate) fn renewal(&mut self) -> Result<Bytes, Problem> {
        let key = PrivateKey::generate(KeyAlgorithm::EcP256).map_err(|error| failed(error.code(), error))?;
        let request = request(&key)?;
        self.next_key = Some(key);
        Ok(request)
    }

    /// The answer to [`Self::renewal`]. It is for the next connection.
    pub(crate) fn renewed(&mut self, chain: &[Bytes], renew_after: i64) -> Result<(), Problem> {
        let Some(key) = self.next_key.take() else { return Ok(()) };
        self.slot.set(&svid(chain, key)?);
        self.chain = chain.to_vec();
        self.renew_after = UnixTime::from_secs(renew_after);
        Ok(())
    }

    /// Another bundle.
    pub(crate) fn learn(&mut self, bundle: &[u8]) -> Result<(), Problem> {
        let bundle = TrustBundle::parse(self.id.trust_domain(), bundle)
            .map_err(|error| failed(error.code(), &error))?;
        self.tainted = bundle.tainted().to_vec();
        self.trust.store(Arc::new(alone(bundle)));
        Ok(())
    }

    /// The DER of the agent's own SVID and of what stands above it.
    pub(crate) fn chain(&self) -> &[Bytes] {
        &self.chain
    }

    /// Whether the bundle names authorities that were tainted.
    pub(crate) fn knows_tainted(&self) -> bool {
        !self.tainted.is_empty()
    }

    /// Over how many seconds to spread the renewal of what has this chain; none if no authority above it was tainted.
    pub(crate) fn taint_of(&self, chain: &[Bytes]) -> Option<u32> {
        if self.tainted.is_empty() {
            return None;
        }
        let certificates = chain.iter().filter_map(|der| Certificate::from_der(der).ok());
        let above: Vec<Box<[u8]>> =
            certificates.filter_map(|one| Some(one.authority_key_id()?.into())).collect();
        let tainted = self.tainted.iter().filter(|key| !key.is_jwt && above.contains(&key.key_id));
        tainted.map(|key| key.renew_within).min()
    }
}

fn alone(bundle: TrustBundle) -> BundleMap {
    let mut bundles = BundleMap::default();
    bundles.insert(bundle);
    bundles
}

pub(crate) fn version() -> String {
    format!("simulation-{}", env!("CARGO_PKG_VERSION"))
}

pub(crate) fn request(key: &PrivateKey) -> Result<Bytes, Problem> {
    Ok(csr::build(key).map_err(|error| failed(error.code(), &error))?.into())
}

pub(crate) fn failed(code: &str, why: impl ToString) -> Problem {
    Problem { code: code.to_owned(), message: why.to_string(), hint: String::new() }
}

fn svid(chain: &[Bytes], key: PrivateKey) -> Result<X509Svid, Problem> {
    let chain = chain
        .iter()
        .map(|der| Certificate::from_der(der))
        .collect::<Result<_, _>>()
        .map_err(|error| failed("simulation.answer", error))?;
    X509Svid::new(chain, key, None).map_err(|error| failed("simulation.answer", error))
}
