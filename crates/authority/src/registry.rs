//! The one door to the store: a fold in memory, published by pointer swap, and a writer that commits in groups.
//!
//! A mutation is a function of the state at head. The writer evaluates all that wait, each one against the state that
//! the ones before it leave, and commits their changes with one call; when another server was faster, it catches up
//! and evaluates again. So what a mutation checked holds in the commit, and a mutation that fails disturbs no other.
//!
//! Two copies of the state take turns: one is published, the writer changes the other one and then swaps them. A
//! write costs what it changes, unless a reader has kept a snapshot for longer than one write: then the writer
//! copies once. So keep snapshots for as long as a decision takes, and never across an await.

mod writer;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bonafide_identity::{TrustDomain, time::Clock};
use bonafide_store::{Store, StoreError};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    records::{Object, RecordChange, RecordError, Settings},
    refusal::Refusal,
    state::{AppliedChange, State},
};

/// Mutations that wait for the writer before callers wait for room.
const QUEUE: usize = 1024;
/// How long a question waits for what others have written. It is noticed within a tenth of a second.
const FOLLOW: Duration = Duration::from_secs(5);
/// How long after the store was read what is known counts as current.
const CURRENT: Duration = Duration::from_secs(60);
/// Groups of changes that a slow subscriber may be behind before it must look at the whole state again.
const FEED: usize = 1024;

/// What the authority knows, and the way to change it. Cheap to clone; the writer ends with the last clone.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Job>,
}

/// Changes that have been committed and published together.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Of the state that they lead to.
    pub revision: u64,
    /// In the order of their revisions. Empty with `reset`.
    pub changes: Arc<[AppliedChange]>,
    /// The log was compacted beyond what this server had seen: anything may have changed.
    pub reset: bool,
}

/// A mutation that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Of its last change; if there was nothing to change, of the state that it looked at.
    pub revision: u64,
}

struct Shared {
    store: Arc<dyn Store>,
    published: ArcSwap<State>,
    applied: broadcast::Sender<Applied>,
    failure: watch::Sender<Option<Arc<RegistryError>>>,
    /// When the store was last seen to have nothing more than what is published.
    read: Mutex<Instant>,
}

impl Shared {
    fn read(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A mutation in the queue.
struct Job {
    mutation: Mutation,
    reply: oneshot::Sender<Result<Written, Refusal>>,
}

type Mutation = Box<dyn FnMut(&State) -> Result<Vec<RecordChange>, Refusal> + Send>;

impl Registry {
    /// Folds the store and starts the writer on the current runtime. A new store becomes that of `trust_domain`.
    ///
    /// # Errors
    /// The store's own, a record that must not be ignored, or another trust domain's store.
    pub async fn open(
        store: Arc<dyn Store>,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RegistryError> {
        let state = Arc::new(writer::load(&*store, &trust_domain).await?);
        let shared = Arc::new(Shared {
            store: store.clone(),
            published: ArcSwap::new(state.clone()),
            applied: broadcast::Sender::new(FEED),
            failure: watch::Sender::new(None),
            read: Mutex::new(Instant::now()),
        });
        let (queue, jobs) = mpsc::channel(QUEUE);
        let registry = Self { shared: shared.clone(), queue };
        let writer = writer::Writer::new(store, shared, jobs, state, clock.clone());
        tokio::spawn(writer.run());
        if registry.state().settings().is_none() {
            let settings = Settings { trust_domain: trust_domain.clone(), created_at: clock.now() };
            let settings = Arc::new(settings);
            let first = move |state: &State| match state.settings() {
                None => Ok(vec![RecordChange::Put(Object::Settings(settings.clone()))]),
                // Another server was faster.
                Some(_) => Ok(vec![]),
            };
            registry.write(first).await.map_err(RegistryError::Settings)?;
        }
        match registry.state().settings() {
            Some(settings) if settings.trust_domain == trust_domain => Ok(registry),
            Some(settings) => Err(RegistryError::OtherTrustDomain {
                theirs: settings.trust_domain.clone(),
                ours: trust_domain,
            }),
            None => Err(RegistryError::Closed),
        }
    }

    /// What is known now. Keep it for as long as a decision takes, never across an await.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.shared.published.load_full()
    }

    /// Whether the store could be read in the last minute. If not, others may have written what this server does not know,
    /// and it must tell nobody that nothing has changed.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.shared.read.lock().unwrap_or_else(PoisonError::into_inner).elapsed() <= CURRENT
    }

    /// For how long this server has not seen that the store has nothing more than what is published.
    #[must_use]
    pub fn unread_for(&self) -> Duration {
        self.shared.read.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Every change from now on, after it was published. Subscribe first, then look at [`Self::state`]: changes that
    /// the state has already are told by their revision. A subscriber that is told that it lagged starts over.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Applied> {
        self.shared.applied.subscribe()
    }

    /// Evaluates a mutation against the state at head and commits what it asks for; it is durable and published when
    /// this returns. The mutation may be called several times: only the last call counts.
    ///
    /// # Errors
    /// The mutation's own refusal, or that the store can't be written.
    pub async fn write(
        &self,
        mutation: impl FnMut(&State) -> Result<Vec<RecordChange>, Refusal> + Send + 'static,
    ) -> Result<Written, Refusal> {
        let (reply, answer) = oneshot::channel();
        let job = Job { mutation: Box::new(mutation), reply };
        self.queue.send(job).await.map_err(|_| self.stopped())?;
        answer.await.map_err(|_| self.stopped())?
    }

    /// As [`Self::write`], for a mutation that has more to tell than what it changed.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_with<T: Send + 'static>(
        &self,
        mut mutation: impl FnMut(&State) -> Result<(Vec<RecordChange>, T), Refusal> + Send + 'static,
    ) -> Result<(Written, T), Refusal> {
        let told = Arc::new(Mutex::new(None));
        let teller = told.clone();
        let written = self
            .write(move |state| {
                let (changes, value) = mutation(state)?;
                *teller.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
                Ok(changes)
            })
            .await?;
        let value = told.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.map(|value| (written, value)).ok_or_else(|| self.stopped())
    }

    /// Resolves once the published state holds everything up to `revision`.
    pub async fn reached(&self, revision: u64) {
        let mut applied = self.subscribe();
        while self.state().revision() < revision {
            if matches!(applied.recv().await, Err(broadcast::error::RecvError::Closed)) {
                // The writer has ended; nothing will come.
                return std::future::pending().await;
            }
        }
    }

    /// Asks `judge`, and before a no counts, whether another server has written meanwhile what this one has not seen: what
    /// was made at one server, a join token, must not be refused at the next.
    ///
    /// # Errors
    /// The judge's refusal of a state that was not older than this call, or that the store can't be read.
    pub async fn judged<T>(&self, judge: impl Fn(&State) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let (refused, known) = {
            let state = self.state();
            match judge(&state) {
                Ok(value) => return Ok(value),
                Err(refused) => (refused, state.revision()),
            }
        };
        let unread = |error: &StoreError| {
            let hint = error.hint().unwrap_or("try again in a moment");
            Refusal::unavailable(error.code(), error.to_string()).hint(hint)
        };
        let head = self.shared.store.head().await.map_err(|error| unread(&error))?.revision.0;
        if head <= known {
            return Err(refused);
        }
        tokio::time::timeout(FOLLOW, self.reached(head)).await.map_err(|_| {
            Refusal::unavailable("registry.behind", "this server does not know yet what others have written")
                .hint("try again in a moment")
        })?;
        judge(&self.state())
    }

    /// Resolves when this server can't follow the log any more: it must stop serving.
    pub async fn failed(&self) -> Arc<RegistryError> {
        let mut failure = self.shared.failure.subscribe();
        loop {
            if let Some(error) = failure.borrow_and_update().clone() {
                return error;
            }
            if failure.changed().await.is_err() {
                return Arc::new(RegistryError::Closed);
            }
        }
    }

    fn stopped(&self) -> Refusal {
        match &*self.shared.failure.borrow() {
            Some(error) => Refusal::unavailable(error.code(), error.to_string()).hint(error.hint()),
            None => Refusal::unavailable("registry.closed", "the server is stopping")
                .hint("try again in a moment"),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("revision", &self.state().revision()).finish_non_exhaustive()
    }
}

/// Why the log can't be folded.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The writer has ended.
    #[error("the registry is closed")]
    Closed,
    /// Revisions are missing.
    #[error("the log continues at revision {found} after {known}")]
    Gap {
        /// Last one known.
        known: u64,
        /// Next one that the store told.
        found: u64,
    },
    /// The store belongs to another authority.
    #[error("the store is of the trust domain `{theirs}`, not of `{ours}`")]
    OtherTrustDomain {
        /// In the store.
        theirs: TrustDomain,
        /// In the configuration.
        ours: TrustDomain,
    },
    /// A record can't be read, or must not be ignored.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store went back in time under a running server.
    #[error("the store is at revision {found}, and this server has seen {known}")]
    RolledBack {
        /// Last one known.
        known: u64,
        /// What the store says.
        found: u64,
    },
    /// The first record can't be written.
    #[error("the settings can't be written: {0}")]
    Settings(Refusal),
    /// Of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RegistryError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed => "registry.closed",
            Self::Gap { .. } => "registry.gap",
            Self::OtherTrustDomain { .. } => "registry.other-trust-domain",
            Self::Record(error) => error.code(),
            Self::RolledBack { .. } => "registry.rolled-back",
            Self::Settings(_) => "registry.settings",
            Self::Store(error) => error.code(),
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Closed => "start the server again",
            Self::Gap { .. } => {
                "the store was restored or changed from outside: start the server again, which checks all of it"
            }
            Self::RolledBack { .. } => {
                "it is an older copy of the store: bring the newer one back; if it was restored on purpose, start one server \
                 once with `--accept-restore`, then the others"
            }
            Self::OtherTrustDomain { .. } => "point the server at its own data directory",
            Self::Record(error) => error.hint(),
            Self::Settings(_) => "look at the store's disk",
            Self::Store(error) => error.hint().unwrap_or("start the server again"),
        }
    }
}
