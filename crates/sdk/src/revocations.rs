use std::{sync::Arc, time::Duration};

use bonafide_crypto::random::Random;
use bonafide_identity::{Revocations, TrustDomain};
use bonafide_wire::{
    agent::{RevocationsUpdate, WatchRevocationsRequest},
    apply_revocations,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, Streaming};

use crate::{Endpoint, Error, backoff::Backoff, endpoint::AgentClient, task::Task};

/// How long a source waits for the first set before it goes on without: the agent answers from memory.
const FIRST: Duration = Duration::from_secs(2);
/// Between two attempts to watch at an agent that does not know how: it may be upgraded.
const UNSUPPORTED: Duration = Duration::from_secs(60);

/// Where a set goes to.
pub(crate) trait Follower: Send + Sync + 'static {
    fn revoked(&self, set: Arc<Revocations>);
}

/// Follows what the agent says is revoked, for as long as it lives.
///
/// While the agent is away, what was known last goes on to be enforced.
#[derive(Debug)]
pub(crate) struct Watch {
    _task: Task,
}

impl Watch {
    /// Begins, and waits a moment for the first set, so that the first handshake knows it already. An agent of another
    /// kind has none: then this ends at once.
    pub(crate) async fn begin(
        endpoint: &Endpoint,
        follower: Arc<impl Follower>,
        random: Arc<dyn Random>,
        deadline: Instant,
    ) -> Self {
        let mut client = endpoint.agent_client();
        let left = deadline.saturating_duration_since(Instant::now()).min(FIRST);
        let opened = timeout(left, open(&mut client)).await;
        let (stream, wait) = match opened {
            Ok(Ok((stream, set))) => {
                follower.revoked(Arc::clone(&set.0));
                (Some((stream, set)), Duration::ZERO)
            }
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                tracing::info!("the agent pushes no revocations: the lifetime of an SVID is the bound");
                (None, UNSUPPORTED)
            }
            Ok(Err(_)) | Err(_) => (None, Duration::ZERO),
        };
        Self { _task: Task::spawn(follow(follower, client, stream, wait, Backoff::new(random))) }
    }
}

type Stream = Streaming<RevocationsUpdate>;

/// The set as it stands, and the change that is under way.
#[derive(Debug)]
struct Set(Arc<Revocations>, Option<Revocations>);

async fn open(client: &mut AgentClient) -> Result<(Stream, Set), Status> {
    let mut stream = client.watch_revocations(WatchRevocationsRequest {}).await?.into_inner();
    let first = stream.message().await?.ok_or_else(|| Status::unavailable("it ended the stream"))?;
    let trust_domain = TrustDomain::parse(&first.trust_domain)
        .map_err(|_| Status::internal("the agent names no trust domain"))?;
    let mut set = Set(Arc::new(Revocations::new(trust_domain)), None);
    let mut done = set.take(&first)?;
    while !done {
        let more = stream.message().await?.ok_or_else(|| Status::unavailable("it ended the stream"))?;
        done = set.take(&more)?;
    }
    Ok((stream, set))
}

impl Set {
    /// Takes in one message. Says whether the set stands anew. A set that is not what the agent has is an error: the next
    /// stream begins with all of it.
    fn take(&mut self, update: &RevocationsUpdate) -> Result<bool, Status> {
        if update.trust_domain != self.0.trust_domain().as_str() {
            return Err(Status::internal("the agent speaks for another trust domain now"));
        }
        if update.start {
            self.1 = Some(Revocations::new(self.0.trust_domain().clone()));
        }
        let next = self.1.get_or_insert_with(|| (*self.0).clone());
        let (_, left_out) = apply_revocations(next, &update.revoked, &update.unrevoked);
        if left_out > 0 {
            tracing::warn!(left_out, "the agent names revocations that this program does not understand");
        }
        if update.more {
            return Ok(false);
        }
        let Some(next) = self.1.take() else { return Ok(false) };
        let differs = left_out == 0 && update.digest != next.digest().as_slice();
        self.0 = Arc::new(next);
        if differs { Err(Status::data_loss("the agent has another set of revocations")) } else { Ok(true) }
    }
}

async fn follow(
    follower: Arc<impl Follower>,
    mut client: AgentClient,
    mut opened: Option<(Stream, Set)>,
    mut wait: Duration,
    mut backoff: Backoff,
) {
    loop {
        if let Some((mut stream, mut set)) = opened.take() {
            backoff.reset();
            let ended = loop {
                match stream.message().await {
                    Ok(Some(update)) => match set.take(&update) {
                        Ok(true) => follower.revoked(Arc::clone(&set.0)),
                        Ok(false) => {}
                        Err(status) => break status,
                    },
                    Ok(None) => break Status::unavailable("the agent ended the stream"),
                    Err(status) => break status,
                }
            };
            let error = Error::of_status(&ended);
            tracing::warn!(code = error.code(), %error, "the stream of revocations broke; what is known stays in force");
        }
        sleep(wait.max(backoff.next())).await;
        wait = Duration::ZERO;
        match open(&mut client).await {
            Ok((stream, set)) => {
                follower.revoked(Arc::clone(&set.0));
                opened = Some((stream, set));
            }
            Err(status) if status.code() == Code::Unimplemented => wait = UNSUPPORTED,
            Err(_) => {}
        }
    }
}
