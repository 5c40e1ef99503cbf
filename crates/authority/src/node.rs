//! What agents talk to: attestation of nodes, and their streams.

mod attestation;
mod attestor;
mod join_token;
mod x509pop;

use std::net::IpAddr;
use std::sync::Arc;

use bonafide_crypto::random::Random;
use bonafide_identity::reserved;
use bonafide_identity::time::Clock;
use bonafide_net::drain::Shutdown;
use bonafide_net::tls_listener::{PeerAddress, PeerSvid};
use bonafide_wire::node::node_server::Node;
use bonafide_wire::node::{AgentMessage, AttestRequest, AttestResponse};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use tokio_util::task::TaskTracker;
use tonic::{Extensions, Request, Response, Status, Streaming};

pub use self::attestor::{Asked, NodeAttestor, Pending, Spend, Step, Verdict};
pub use self::join_token::JoinTokens;
pub use self::x509pop::X509Pop;
use crate::config::Limits;
use crate::issuance::Issuer;
use crate::issuance::lineages::Lineages;
use crate::journal::{Journal, Source};
use crate::kms::service::Service;
use crate::presence::Presence;
use crate::rates::Rates;
use crate::refusal::Refusal;
use crate::registration::{admitted_attestation, attestation_of};
use crate::registry::Registry;
use crate::stream::driver::Driver;
use crate::stream::feed::Feed;
use crate::stream::outbound::{self, Outbound};
use crate::stream::places::Places;
use crate::witnesses::{RolledBack, Witnesses};

/// Largest message of an agent: a full report.
pub(crate) const MAX_MESSAGE: usize = 1024 * 1024;
/// Largest message of whoever is no agent yet: the longest evidence and the longest request for a certificate.
pub(crate) const MAX_ATTESTATION: usize = 64 * 1024;

/// The `Node` service.
#[derive(Clone, Debug)]
pub(crate) struct NodeService(pub(crate) Arc<NodeShared>);

/// What all attestations and streams share.
#[derive(Debug)]
pub(crate) struct NodeShared {
    pub(crate) registry: Registry,
    /// Of applications.
    pub(crate) keys: Service,
    pub(crate) feed: Arc<Feed>,
    pub(crate) presence: Presence,
    pub(crate) issuer: Issuer,
    pub(crate) journal: Arc<Journal>,
    pub(crate) lineages: Arc<Lineages>,
    pub(crate) attestors: Vec<Arc<dyn NodeAttestor>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) limits: Limits,
    /// By site.
    pub(crate) signatures: Rates<String>,
    /// What agents report.
    pub(crate) reports: Rates<String>,
    /// By site.
    pub(crate) attestations: Rates<String>,
    /// By address.
    pub(crate) sources: Rates<IpAddr>,
    pub(crate) places: Places,
    pub(crate) witnesses: Arc<Witnesses>,
    /// What to do when an agent proves that this server is behind.
    pub(crate) rolled_back: Arc<RolledBack>,
    pub(crate) shutdown: Shutdown,
    /// Of streams and attestations.
    pub(crate) tasks: TaskTracker,
}

#[tonic::async_trait]
impl Node for NodeService {
    type AttestStream = ReceiverStream<Result<AttestResponse, Status>>;
    type ConnectStream = Outbound;

    async fn attest(
        &self,
        request: Request<Streaming<AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        let source = request.extensions().get::<PeerAddress>().map(|address| address.0.ip().to_canonical());
        Ok(Response::new(attestation::start(Arc::clone(&self.0), source, request.into_inner())))
    }

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let svid = peer(request.extensions())?;
        let agent = svid.id().clone();
        let attestation = attestation_of(&svid);
        // It may have attested at another server, a moment ago.
        let admitted =
            self.0.registry.judged(|state| admitted_attestation(state, &agent, attestation).map(drop));
        if let Err(refusal) = admitted.await {
            let source = Source { agent: agent.as_str(), ..Source::default() };
            self.0.journal.refused(self.0.clock.now(), &refusal, source);
            return Err(refusal.into());
        }
        if svid.not_after() <= self.0.clock.now() {
            return Err(Refusal::new(
                tonic::Code::Unauthenticated,
                "stream.svid-expired",
                "the SVID that the agent connected with has expired",
            )
            .hint("connect again")
            .into());
        }
        self.0.places.begin(&agent, Instant::now()).map_err(|too_many| {
            Refusal::new(
                tonic::Code::ResourceExhausted,
                "stream.too-often",
                format!("the agent begins too many streams: {too_many}"),
            )
            .hint("it is tried again by itself")
        })?;
        let (sender, outbound) = outbound::channel(self.0.limits.in_flight_per_stream);
        let driver = Driver { shared: Arc::clone(&self.0), agent, attestation, svid, sender };
        self.0.tasks.spawn(driver.run(request.into_inner()));
        Ok(Response::new(outbound))
    }
}

/// The peer, if it is an agent.
fn peer(extensions: &Extensions) -> Result<Arc<bonafide_identity::VerifiedX509Svid>, Refusal> {
    let svid = extensions.get::<PeerSvid>().and_then(|peer| peer.0.clone());
    svid.filter(|svid| reserved::agent_site(svid.id()).is_some()).ok_or_else(|| {
        Refusal::new(
            tonic::Code::Unauthenticated,
            "stream.no-agent",
            "only an agent, with its own SVID, may connect",
        )
        .hint("join the node with a join line")
    })
}
