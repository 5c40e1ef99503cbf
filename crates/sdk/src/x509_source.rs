use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bonafide_crypto::random::{Random, SystemRandom};
use bonafide_identity::{BundleMap, Clock, Revocations, SpiffeId, SystemClock, X509Svid};
use bonafide_tls::{IdentitySlot, Trust};
use bonafide_wire::workload::{X509svidRequest, X509svidResponse};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::Streaming;

use crate::{
    Endpoint, Error,
    backoff::Backoff,
    endpoint::WorkloadClient,
    error::Ended,
    messages::{X509State, x509_state},
    revocations::{Follower, Watch},
    task::Task,
};

/// Which identity to use, if the agent grants several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    /// The one that the agent names first: its default.
    #[default]
    First,
    /// The one with this hint.
    Hint(String),
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
}

impl Pick {
    fn of<'a>(&self, svids: &'a [X509Svid]) -> Option<&'a X509Svid> {
        svids.iter().find(|svid| match self {
            Self::First => true,
            Self::Hint(hint) => svid.hint() == Some(hint),
            Self::Id(id) => svid.id() == id,
        })
    }
}

/// How a source connects.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Where the agent is. `None`: as the environment says ([`Endpoint::from_environment`]).
    pub endpoint: Option<Endpoint>,
    /// How long to wait for the first answer: an agent may just be starting, or a registration may be on its way.
    pub patience: Duration,
    /// Which identity to use.
    pub pick: Pick,
    /// The clock that judges lifetimes.
    pub clock: Arc<dyn Clock>,
    /// Spreads reconnects.
    pub random: Arc<dyn Random>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            patience: Duration::from_secs(10),
            pick: Pick::First,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }
}

/// The X509-SVID of this process and the bundles of those it trusts, kept fresh by a background task.
///
/// What the authority has revoked comes by a stream of its own: peers that are revoked are refused, and connections to
/// them end, raw ones and gRPC's, on both sides. That takes an agent of Bonafide.
///
/// While the agent is away, the last SVID is kept until it expires, and what was known to be revoked stays so. When the agent says that this process is entitled to
/// none, it is gone at once. Clones share everything; the task ends with the last.
#[derive(Clone, Debug)]
pub struct X509Source {
    shared: Arc<Shared>,
    _task: Arc<Task>,
    _watch: Arc<Watch>,
}

#[derive(Debug)]
struct Shared {
    slot: Arc<IdentitySlot>,
    trust: Trust,
    svids: ArcSwap<Vec<X509Svid>>,
    updates: watch::Sender<u64>,
    pick: Pick,
    clock: Arc<dyn Clock>,
}

impl X509Source {
    /// Connects to the agent that the environment names, and waits for the first SVID.
    ///
    /// # Errors
    /// [`Error::Unreachable`] without an agent, [`Error::Refused`] with the agent's reason if it grants no identity.
    pub async fn connect() -> Result<Self, Error> {
        Self::connect_with(Options::default()).await
    }

    /// Connects to the agent at `endpoint`, as `unix:///run/bonafide/agent.sock`.
    ///
    /// # Errors
    /// As [`X509Source::connect`], and [`Error::Endpoint`].
    pub async fn connect_to(endpoint: &str) -> Result<Self, Error> {
        Self::connect_with(Options { endpoint: Some(endpoint.parse()?), ..Options::default() }).await
    }

    /// Connects as `options` say.
    ///
    /// # Errors
    /// As [`X509Source::connect`], and [`Error::NoSvid`] if no identity is the one to pick.
    pub async fn connect_with(options: Options) -> Result<Self, Error> {
        let endpoint = match options.endpoint {
            Some(endpoint) => endpoint,
            None => Endpoint::from_environment()?,
        };
        let mut client = endpoint.client();
        let mut backoff = Backoff::new(Arc::clone(&options.random));
        let deadline = Instant::now() + options.patience;
        let (stream, state) = loop {
            match first(&mut client, deadline).await {
                Ok(first) => break first,
                Err(Ended { error, .. }) => {
                    let pause = backoff.next();
                    if matches!(error, Error::Answer(_)) || Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    sleep(pause).await;
                }
            }
        };
        if options.pick.of(&state.svids).is_none() {
            return Err(Error::NoSvid("the agent grants none that fits"));
        }
        let shared = Arc::new(Shared {
            slot: IdentitySlot::new(),
            trust: Trust::default(),
            svids: ArcSwap::default(),
            updates: watch::Sender::new(0),
            pick: options.pick,
            clock: options.clock,
        });
        shared.apply(state);
        backoff.reset();
        let watch = Watch::begin(&endpoint, Arc::clone(&shared), options.random, deadline).await;
        let task = Task::spawn(follow(Arc::clone(&shared), client, stream, backoff));
        Ok(Self { shared, _task: Arc::new(task), _watch: Arc::new(watch) })
    }

    /// The SVID of this moment.
    ///
    /// # Errors
    /// [`Error::NoSvid`] if the last one has expired, or the agent has withdrawn it.
    pub fn svid(&self) -> Result<Arc<X509Svid>, Error> {
        let now = self.shared.clock.now();
        // The task that clears the slot may be late: a clock was set, or the machine slept.
        let valid = self.shared.slot.current().filter(|svid| now <= svid.not_after());
        valid.ok_or(Error::NoSvid("the last one has expired or was withdrawn"))
    }

    /// Who this process is.
    ///
    /// # Errors
    /// As [`X509Source::svid`].
    pub fn id(&self) -> Result<SpiffeId, Error> {
        Ok(self.svid()?.id().clone())
    }

    /// Every SVID that the agent grants, its default first.
    pub fn svids(&self) -> Arc<Vec<X509Svid>> {
        self.shared.svids.load_full()
    }

    /// The bundles of this moment: one's own trust domain and those it federates with. They carry what is revoked.
    pub fn bundles(&self) -> Arc<BundleMap> {
        self.shared.trust.load_full()
    }

    /// Tells when anything has changed.
    pub fn updates(&self) -> Updates {
        Updates(self.shared.updates.subscribe())
    }

    pub(crate) fn slot(&self) -> &Arc<IdentitySlot> {
        &self.shared.slot
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.shared.trust
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.shared.clock)
    }
}

impl Follower for Shared {
    fn revoked(&self, set: Arc<Revocations>) {
        self.trust.update(|trust| Arc::new(trust.clone().with_revocations(set)));
        self.updates.send_modify(|count| *count += 1);
    }
}

/// Waits for changes of a source.
#[derive(Clone, Debug)]
pub struct Updates(watch::Receiver<u64>);

impl Updates {
    /// Resolves after the next change of SVIDs, bundles or revocations; changes that came since the last call count. `false` once the
    /// source is gone.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl Shared {
    /// Puts a full state in the place of the one before.
    fn apply(&self, state: X509State) {
        // Bundles first: who sees the new SVID must be able to meet peers that have rotated too.
        self.trust.update(|trust| Arc::new(state.bundles.with_revocations_of(trust)));
        match self.pick.of(&state.svids) {
            Some(svid) => self.slot.set(svid),
            None => self.slot.clear(),
        }
        self.svids.store(Arc::new(state.svids));
        self.updates.send_modify(|count| *count += 1);
    }

    /// Drops everything if the agent has withdrawn it.
    fn end(&self, ended: &Ended) {
        tracing::warn!(code = ended.error.code(), error = %ended.error, "the stream of SVIDs broke");
        if ended.withdrawn && !self.svids.load().is_empty() {
            self.apply(X509State::default());
        }
    }

    /// Resolves when the SVID in the slot has expired, and clears it.
    async fn expiry(&self) {
        let Some(svid) = self.slot.current() else { return std::future::pending().await };
        loop {
            let left = svid.not_after().since(self.clock.now());
            if left.is_zero() {
                break;
            }
            // Looks again now and then: the clock may be set, and doesn't run while a machine sleeps.
            sleep(left.min(Duration::from_secs(60))).await;
        }
        tracing::warn!(id = %svid.id(), "the SVID has expired and the agent has sent no other");
        self.slot.clear();
        self.svids.store(Arc::default());
        self.updates.send_modify(|count| *count += 1);
    }
}

type Stream = Streaming<X509svidResponse>;

/// Opens the stream and reads the first state from it.
async fn first(client: &mut WorkloadClient, deadline: Instant) -> Result<(Stream, X509State), Ended> {
    let attempt = async {
        let mut stream = client
            .fetch_x509svid(X509svidRequest {})
            .await
            .map_err(|status| Ended::of_status(&status))?
            .into_inner();
        let state = next(&mut stream).await?;
        Ok((stream, state))
    };
    let left = deadline.saturating_duration_since(Instant::now());
    timeout(left, attempt)
        .await
        .unwrap_or_else(|_| Err(Error::Unreachable("it does not answer in time".to_owned()).into()))
}

async fn next(stream: &mut Stream) -> Result<X509State, Ended> {
    let message = stream.message().await.map_err(|status| Ended::of_status(&status))?;
    Ok(x509_state(&message.ok_or_else(|| Error::Unreachable("it ended the stream".to_owned()))?)?)
}

/// Applies whatever comes, and opens the stream again when it ends.
async fn follow(shared: Arc<Shared>, mut client: WorkloadClient, mut stream: Stream, mut backoff: Backoff) {
    loop {
        let ended = loop {
            tokio::select! {
                state = next(&mut stream) => match state {
                    Ok(state) => {
                        backoff.reset();
                        shared.apply(state);
                    }
                    Err(ended) => break ended,
                },
                () = shared.expiry() => {}
            }
        };
        let mut ended = Some(ended);
        stream = loop {
            if let Some(ended) = ended.take() {
                shared.end(&ended);
            }
            let reopened = async {
                sleep(backoff.next()).await;
                first(&mut client, Instant::now() + Duration::from_secs(30)).await
            };
            tokio::select! {
                reopened = reopened => match reopened {
                    Ok((stream, state)) => {
                        backoff.reset();
                        shared.apply(state);
                        break stream;
                    }
                    Err(new) => ended = Some(new),
                },
                () = shared.expiry() => {}
            }
        };
    }
}
