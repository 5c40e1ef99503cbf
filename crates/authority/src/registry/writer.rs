//! The single writer: evaluates, commits, publishes, follows other servers, and sweeps what has expired.

use std::{sync::Arc, time::Duration};

use bonafide_identity::{TrustDomain, time::Clock};
use bonafide_store::{Batch, MAX_CHANGES, MAX_VALUE, Revision, Snapshot, Store, StoreError};
use tokio::sync::mpsc;

use super::{Applied, Job, RegistryError, Shared, Written};
use crate::{
    records::RecordChange,
    refusal::Refusal,
    state::{AppliedChange, Loaded, State},
};

/// Mutations of one group.
const GROUP: usize = 256;
/// Changes of one mutation.
const MAX_OF_ONE: usize = MAX_CHANGES / 2;
/// Changes of others that are read at once.
const PAGE: usize = 1000;
/// How long one look at the store for others' changes waits.
const WATCH: Duration = Duration::from_secs(30);
/// How long a question for the store's head waits.
const LOOK: Duration = Duration::from_secs(5);
/// How often what has expired is looked for; a look costs nothing when there is none.
const SWEEP: Duration = Duration::from_secs(10);
/// Expired records that one sweep removes.
const SWEEP_AT_ONCE: usize = 500;
/// After a failure of the store, until it is asked again.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    /// The copy of the state that is not published.
    back: Arc<State>,
    /// Changes that the published copy has, and `back` does not have yet.
    lag: Vec<AppliedChange>,
    clock: Arc<dyn Clock>,
}

/// The whole store in memory.
pub(super) async fn load(store: &dyn Store, trust_domain: &TrustDomain) -> Result<State, RegistryError> {
    let Snapshot { head, mut objects } = store.snapshot().await?;
    let rest = objects.split_off(objects.len() / 2);
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| Loaded::read(objects));
        let second = Loaded::read(rest);
        (first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), second)
    });
    let mut state = State::empty(trust_domain.clone(), head.incarnation);
    state.load(vec![first?, second?], head.revision.0);
    Ok(state)
}

impl Writer {
    pub(super) fn new(
        store: Arc<dyn Store>,
        shared: Arc<Shared>,
        jobs: mpsc::Receiver<Job>,
        published: Arc<State>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // The second copy; from here on the two take turns.
        let back = Arc::new((*published).clone());
        Self { store, shared, jobs, back, lag: Vec::new(), clock }
    }

    pub(super) async fn run(mut self) {
        if let Err(error) = self.serve().await {
            tracing::error!(code = error.code(), "the log can't be followed: {error}");
            self.shared.failure.send_replace(Some(Arc::new(error)));
        }
    }

    async fn serve(&mut self) -> Result<(), RegistryError> {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut group = Vec::with_capacity(GROUP);
        loop {
            let known = Revision(self.revision());
            tokio::select! {
                biased;
                count = self.jobs.recv_many(&mut group, GROUP) => {
                    if count == 0 {
                        return Ok(());
                    }
                    self.commit(std::mem::take(&mut group)).await?;
                }
                told = self.store.wait(known, WATCH) => match told {
                    Ok(head) if head == known => self.shared.read(),
                    // Behind until that is caught up with.
                    Ok(_) => self.catch_up().await?,
                    Err(error) => self.survive(error).await?,
                },
                _ = sweep.tick() => {
                    self.look().await?;
                    self.sweep().await?;
                }
            }
        }
    }

    fn revision(&self) -> u64 {
        self.shared.published.load().revision()
    }

    /// The unpublished copy, at head and ready to be changed. Copies it only if a reader has kept it.
    fn back(&mut self) -> &mut State {
        let state = Arc::make_mut(&mut self.back);
        for change in self.lag.drain(..) {
            state.replay(&change);
        }
        state
    }

    /// Swaps the copies after `changes` were applied to the unpublished one.
    fn publish(&mut self, changes: Vec<AppliedChange>, reset: bool) {
        let revision = self.back.revision();
        let before = self.shared.published.swap(self.back.clone());
        self.back = before;
        self.lag.clone_from(&changes);
        // Nobody listens: fine.
        let _ = self.shared.applied.send(Applied { revision, changes: changes.into(), reset });
    }

    async fn commit(&mut self, mut group: Vec<Job>) -> Result<(), RegistryError> {
        group.retain(|job| !job.reply.is_closed());
        while !group.is_empty() {
            let state = self.back();
            let mark = state.mark();
            let before = Revision(state.revision());
            let mut evaluation = Evaluation::default();
            let mut answers = Vec::with_capacity(group.len());
            for job in &mut group {
                if evaluation.batch.len() + MAX_OF_ONE > MAX_CHANGES {
                    break;
                }
                answers.push(evaluation.evaluate(state, job));
            }
            if evaluation.batch.is_empty() {
                answer(&mut group, answers);
                continue;
            }
            let committed = self.store.commit(before, Batch { changes: evaluation.batch }).await;
            match committed {
                Ok(revision) => {
                    let expected = self.back.revision();
                    if revision.0 != expected {
                        return Err(RegistryError::Gap { known: expected, found: revision.0 });
                    }
                    self.publish(evaluation.applied, false);
                    // It was at head, or the store would not have taken it.
                    self.shared.read();
                    answer(&mut group, answers);
                }
                Err(error) => {
                    self.back().undo(&evaluation.applied, mark);
                    if matches!(error, StoreError::Conflict { .. }) {
                        self.catch_up().await?;
                        continue;
                    }
                    let hint = error.hint().unwrap_or("try again in a moment");
                    let refusal = Refusal::unavailable(error.code(), error.to_string()).hint(hint);
                    let refused = answers.iter().map(|_| Err(refusal.clone())).collect();
                    answer(&mut group, refused);
                    let clean = error.is_clean();
                    self.survive(error).await?;
                    if !clean {
                        // It may have been committed all the same.
                        self.catch_up().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies what other servers have committed.
    async fn catch_up(&mut self) -> Result<(), RegistryError> {
        loop {
            let known = self.revision();
            let changes = match self.store.changes(Revision(known), PAGE).await {
                Ok(changes) => changes,
                Err(StoreError::Compacted { .. }) => return self.reload().await,
                Err(error) => return self.survive(error).await,
            };
            if changes.is_empty() {
                let head = self.store.head().await;
                return match head {
                    Ok(head) if head.revision.0 < known => {
                        Err(RegistryError::RolledBack { known, found: head.revision.0 })
                    }
                    Ok(head) if head.revision.0 == known => {
                        self.shared.read();
                        Ok(())
                    }
                    _ => Ok(()),
                };
            }
            let mut applied = Vec::with_capacity(changes.len());
            let state = self.back();
            for change in &changes {
                let expected = state.revision() + 1;
                if change.revision.0 != expected {
                    return Err(RegistryError::Gap { known: expected - 1, found: change.revision.0 });
                }
                applied.push(state.apply(change.revision.0, &change.key, change.value.as_deref())?);
            }
            self.publish(applied, false);
        }
    }

    /// Asks the store whether there is more than what is known: whatever interrupts the watch, this is done.
    async fn look(&mut self) -> Result<(), RegistryError> {
        match tokio::time::timeout(LOOK, self.store.head()).await {
            Ok(Ok(head)) if head.revision.0 == self.revision() => self.shared.read(),
            Ok(Ok(_)) => self.catch_up().await?,
            Ok(Err(error)) => self.survive(error).await?,
            Err(_) => tracing::warn!("the store does not answer"),
        }
        Ok(())
    }

    /// Starts over from a snapshot.
    async fn reload(&mut self) -> Result<(), RegistryError> {
        let known = self.revision();
        let trust_domain = self.back.trust_domain().clone();
        let state = load(&*self.store, &trust_domain).await?;
        if state.revision() < known || state.incarnation() != self.back.incarnation() {
            return Err(RegistryError::RolledBack { known, found: state.revision() });
        }
        let state = Arc::new(state);
        self.back = state.clone();
        self.publish(Vec::new(), true);
        self.back = Arc::new((*state).clone());
        Ok(())
    }

    /// Removes what has expired, by an ordinary mutation.
    async fn sweep(&mut self) -> Result<(), RegistryError> {
        let now = self.clock.now();
        if self.shared.published.load().expired(now).next().is_none() {
            return Ok(());
        }
        let (reply, _answer) = tokio::sync::oneshot::channel();
        let mutation = move |state: &State| {
            Ok(state
                .expired(now)
                .take(SWEEP_AT_ONCE)
                .map(|key| RecordChange::Remove(key.to_owned()))
                .collect())
        };
        self.commit(vec![Job { mutation: Box::new(mutation), reply }]).await
    }

    /// Failures that may pass leave the writer alive; others end it.
    async fn survive(&self, error: StoreError) -> Result<(), RegistryError> {
        match error {
            StoreError::Full
            | StoreError::Io(_)
            | StoreError::Conflict { .. }
            | StoreError::Invalid { .. }
            | StoreError::NotDurable { .. }
            | StoreError::Unknown(_) => {
                tracing::warn!(code = error.code(), "the store failed: {error}");
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            error => Err(error.into()),
        }
    }
}

/// What the mutations of one group ask for, so far.
#[derive(Default)]
struct Evaluation {
    batch: Vec<(String, Option<Vec<u8>>)>,
    applied: Vec<AppliedChange>,
}

impl Evaluation {
    /// Evaluates one mutation against the state, and applies what it asks for. If that fails, the state is as before.
    fn evaluate(&mut self, state: &mut State, job: &mut Job) -> Result<Written, Refusal> {
        let changes = (job.mutation)(state)?;
        if changes.len() > MAX_OF_ONE {
            return Err(Refusal::invalid(
                "registry.too-many-changes",
                "one request changes too much at once",
            ));
        }
        let mark = state.mark();
        let (encoded, applied) = (self.batch.len(), self.applied.len());
        for change in changes {
            let (key, value) = match change {
                RecordChange::Put(object) if !object.mark().is_activated(state.level()) => {
                    self.batch.truncate(encoded);
                    let undone = self.applied.split_off(applied);
                    state.undo(&undone, mark);
                    return Err(Refusal::precondition(
                        "registry.not-activated",
                        "some server of this trust domain is too old to read this",
                    )
                    .hint("upgrade every server first"));
                }
                RecordChange::Put(object) => (object.key(), Some(object.encode())),
                RecordChange::Remove(key) => (key, None),
            };
            // What is applied is what was written: one reading of the bytes, here and on every other server.
            let outcome = match &value {
                Some(value) if value.len() > MAX_VALUE => {
                    Err(Refusal::invalid("registry.too-large", "the record is too large"))
                }
                value => state
                    .apply(state.revision() + 1, &key, value.as_deref())
                    .map_err(|error| Refusal::invalid(error.code(), error.to_string())),
            };
            match outcome {
                Ok(change) => {
                    self.batch.push((key, value));
                    self.applied.push(change);
                }
                Err(refusal) => {
                    self.batch.truncate(encoded);
                    let undone = self.applied.split_off(applied);
                    state.undo(&undone, mark);
                    return Err(refusal);
                }
            }
        }
        Ok(Written { revision: state.revision() })
    }
}

/// Answers the first jobs of the group, and leaves the others in it.
fn answer(group: &mut Vec<Job>, answers: Vec<Result<Written, Refusal>>) {
    let count = answers.len().min(group.len());
    for (job, answer) in group.drain(..count).zip(answers) {
        // The caller may have gone.
        let _ = job.reply.send(answer);
    }
}
