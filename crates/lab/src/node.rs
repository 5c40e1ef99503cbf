//! A node, as the authority sees one: it attests, opens its stream, and asks.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bonafide_attest::join::JoinLine;
use bonafide_crypto::{
    csr,
    key::{KeyAlgorithm, PrivateKey},
};
use bonafide_identity::{
    Certificate, X509Svid,
    bundle::{BundleMap, TrustBundle},
    time::SystemClock,
};
use bonafide_tls::{
    Authorizer, ClientConfig, IdentitySlot, Trust, Trusted, client_config, pinned_client_config,
};
use bonafide_wire::node::{
    AgentMessage, AttestBegin, AttestRequest, AuthorityMessage, Hello, agent_message, attest_request,
    attest_response, authority_message, node_client::NodeClient,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// An attested node with an open stream.
#[derive(Debug)]
pub(crate) struct Node {
    address: String,
    config: Arc<ClientConfig>,
    say: mpsc::Sender<AgentMessage>,
    hear: Streaming<AuthorityMessage>,
}

impl Node {
    pub(crate) async fn join(line: &JoinLine) -> Result<Self> {
        let key = PrivateKey::generate(KeyAlgorithm::EcP256)?;
        let trust_domain = line.trust_domain.clone();
        let pinned = pinned_client_config(trust_domain.clone(), line.root_pin, Arc::new(SystemClock))?;
        let begin = AttestBegin {
            attestor: "join_token".to_owned(),
            evidence: line.token.expose().to_vec().into(),
            csr: csr::build(&key)?.into(),
            agent_version: "lab".to_owned(),
        };
        let begin = AttestRequest { step: Some(attest_request::Step::Begin(begin)) };
        let mut answers = NodeClient::new(channel(&line.address, pinned).await?)
            .attest(tokio_stream::once(begin))
            .await?
            .into_inner();
        let attested = match answers.message().await?.and_then(|answer| answer.step) {
            Some(attest_response::Step::Attested(attested)) => attested,
            other => bail!("the authority answered {other:?}"),
        };
        let chain = attested.chain.iter().map(|der| Certificate::from_der(der)).collect::<Result<_, _>>()?;
        let bundle = TrustBundle::parse(&trust_domain, &attested.bundle)?;
        let mut bundles = BundleMap::default();
        bundles.insert(bundle);
        let trust: Trust = Arc::new(Trusted::new(bundles));
        let slot = IdentitySlot::new();
        slot.set(&X509Svid::new(chain, key, None)?);
        let servers = Authorizer::member_of(trust_domain);
        let config = client_config(Some(&slot), &trust, servers, Arc::new(SystemClock))?;

        let (say, hear) = connect(&line.address, &config).await?;
        Ok(Self { address: line.address.clone(), config, say, hear })
    }

    /// Opens a new stream in place of one that broke.
    pub(crate) async fn reconnect(&mut self) -> Result<()> {
        (self.say, self.hear) = connect(&self.address, &self.config).await?;
        Ok(())
    }

    pub(crate) async fn say(&self, kind: agent_message::Kind) -> Result<()> {
        Ok(self.say.send(message(kind)).await?)
    }

    /// Whatever the authority says next.
    pub(crate) async fn hear(&mut self) -> Result<authority_message::Kind> {
        let said = self.hear.message().await?.and_then(|message| message.kind);
        said.context("the authority closed the stream")
    }

    /// The next answer to a request; what is not one is skipped.
    pub(crate) async fn answer(&mut self) -> Result<authority_message::Kind> {
        use authority_message::Kind;
        loop {
            match self.hear().await? {
                Kind::Update(_) | Kind::Bookmark(_) => {}
                Kind::Refused(refused) => bail!("refused: {:?}", refused.problem),
                answer => return Ok(answer),
            }
        }
    }
}

async fn connect(
    address: &str,
    config: &Arc<ClientConfig>,
) -> Result<(mpsc::Sender<AgentMessage>, Streaming<AuthorityMessage>)> {
    let (say, said) = mpsc::channel(1024);
    say.send(message(agent_message::Kind::Hello(Hello::default()))).await?;
    let channel = channel(address, Arc::clone(config)).await?;
    Ok((say, NodeClient::new(channel).connect(ReceiverStream::new(said)).await?.into_inner()))
}

const fn message(kind: agent_message::Kind) -> AgentMessage {
    AgentMessage { kind: Some(kind) }
}

async fn channel(address: &str, config: Arc<ClientConfig>) -> Result<Channel> {
    let config = config.with_protocols(&[b"h2"]);
    let place = address.to_owned();
    let connector = tower::service_fn(move |_| {
        let (config, place) = (Arc::clone(&config), place.clone());
        async move {
            let tcp = TcpStream::connect(place).await?;
            tcp.set_nodelay(true)?;
            let stream = config.connect(tcp).await.map_err(std::io::Error::other)?;
            std::io::Result::Ok(TokioIo::new(stream))
        }
    });
    Ok(Endpoint::from_shared(format!("http://{address}"))?.connect_with_connector(connector).await?)
}
