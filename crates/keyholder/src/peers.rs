//! The other keyholders of the roster: messages of ceremonies that they must get, and what they have that is not here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bonafide_identity::SpiffeId;
use bonafide_identity::time::Clock;
use bonafide_net::drain::Shutdown;
use bonafide_tls::{Authorizer, IdentitySlot, Trust, client_config};
use bonafide_wire::keyholder::keyholder_client::KeyholderClient;
use bonafide_wire::keyholder::{DeliverRequest, Documents, GetDocumentsRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

use crate::error::Refusal;

/// Messages that wait for one keyholder.
const MAX_WAITING: usize = 1024;
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// Between two attempts, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The most bytes of documents: rosters, and a deny-list of its full length.
const MAX_DOCUMENTS: usize = 4 << 20;

/// What is needed to reach others.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) addresses: BTreeMap<SpiffeId, String>,
    pub(crate) slot: Arc<IdentitySlot>,
    pub(crate) trust: Trust,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
    pub(crate) tasks: TaskTracker,
    /// After that long a message is of no use any more.
    pub(crate) patience: Duration,
    pub(crate) outboxes: std::sync::Mutex<BTreeMap<SpiffeId, mpsc::Sender<Arc<DeliverRequest>>>>,
}

impl Peers {
    /// A connection that is made when it is needed, again and again.
    fn channel(&self, id: &SpiffeId) -> Result<Channel, Refusal> {
        let unknown = || {
            let hint = "put its address into the settings, below `[peers]`";
            Refusal::new("keyholder.no-address", format!("there is no address of `{id}`"), hint)
        };
        let address = self.addresses.get(id).ok_or_else(unknown)?.clone();
        let only = Authorizer::id(id.clone());
        let tls = client_config(Some(&self.slot), &self.trust, only, Arc::clone(&self.clock));
        let tls = tls.map_err(|error| Refusal::new("keyholder.tls", error, ""))?.with_protocols(&[b"h2"]);
        let connector = tower::service_fn(move |_| {
            let (tls, address) = (Arc::clone(&tls), address.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                tls.connect(stream).await.map(TokioIo::new).map_err(std::io::Error::other)
            }
        });
        let endpoint = Endpoint::from_static("http://keyholder").connect_timeout(CALL).timeout(CALL);
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    /// Hands a message to everybody else, each at its own pace.
    pub(crate) fn broadcast(self: &Arc<Self>, ids: &[SpiffeId], message: &Arc<DeliverRequest>) {
        let mut outboxes = self.outboxes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for id in ids {
            let outbox = outboxes.entry(id.clone()).or_insert_with(|| {
                let (outbox, waiting) = mpsc::channel(MAX_WAITING);
                self.tasks.spawn(Arc::clone(self).post(id.clone(), waiting));
                outbox
            });
            if outbox.try_send(Arc::clone(message)).is_err() {
                tracing::warn!(peer = %id, "too many messages wait for a keyholder: one is dropped");
            }
        }
    }

    /// Brings messages to one keyholder, in their order, until it has each or the time is over.
    async fn post(self: Arc<Self>, id: SpiffeId, mut waiting: mpsc::Receiver<Arc<DeliverRequest>>) {
        let mut client = None;
        while let Some(Some(message)) = self.shutdown.unless_triggered(waiting.recv()).await {
            let delivered = tokio::time::timeout(self.patience, self.deliver(&id, &mut client, &message));
            match self.shutdown.unless_triggered(delivered).await {
                None => return,
                Some(Err(_)) => {
                    tracing::warn!(peer = %id, "a keyholder did not take a message of a ceremony")
                }
                Some(Ok(())) => {}
            }
        }
    }

    async fn deliver(
        &self,
        id: &SpiffeId,
        client: &mut Option<KeyholderClient<Channel>>,
        message: &DeliverRequest,
    ) {
        let mut pause = AGAIN.0;
        loop {
            if client.is_none() {
                *client = self.channel(id).ok().map(KeyholderClient::new);
            }
            if let Some(client) = client {
                match client.deliver(message.clone()).await {
                    Ok(_) => return,
                    Err(status) => tracing::debug!(peer = %id, "not delivered: {}", status.message()),
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    /// What another keyholder has.
    pub(crate) async fn documents(&self, id: &SpiffeId) -> Result<Documents, Refusal> {
        let channel = self.channel(id)?;
        let mut client = KeyholderClient::new(channel).max_decoding_message_size(MAX_DOCUMENTS);
        let answer = client.get_documents(GetDocumentsRequest {}).await.map_err(|status| {
            let problem = bonafide_wire::problem_of(&status);
            Refusal::new(&problem.code, problem.message, &problem.hint)
        })?;
        Ok(answer.into_inner())
    }
}
