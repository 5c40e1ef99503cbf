//! Takes instances over from other servers, and answers those that take them over from this one. The rules are in
//! `super::ownership`.

use std::sync::Arc;
use std::time::Duration;

use bonafide_identity::time::Clock;
use bonafide_identity::{InstanceId, reserved};
use bonafide_net::drain::Shutdown;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::task::TaskTracker;

use super::lineages::{Discord, Lineage, Lineages};
use super::ownership::{Claim, Judge, Step, answer, insisted, is_open, settled};
use super::renewal::forked;
use crate::journal::{Journal, Source};
use crate::records::{LineageOwner, Object, RecordChange};
use crate::refusal::Refusal;
use crate::registry::{Applied, Registry};
use crate::scope::MAX_X509_TTL;
use crate::state::State;

/// How long a server that follows the log may take to answer. One that is dead costs each instance so much, once.
const PATIENCE: Duration = Duration::from_secs(3);
/// For clocks that differ.
const SLACK: Duration = Duration::from_secs(3600);
/// Answers that are written at once.
const ANSWERS: usize = 256;

/// One server's part in moves.
#[derive(Debug)]
pub(crate) struct Moves {
    pub(crate) registry: Registry,
    pub(crate) lineages: Arc<Lineages>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) server: Arc<str>,
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: Shutdown,
}

/// A record of another server that this one has something to say to.
#[derive(Clone, Debug)]
struct Said {
    instance: InstanceId,
    /// What it is said to. If that is not there any more, nothing is said.
    to: Arc<LineageOwner>,
    answer: LineageOwner,
    /// What this server has issued, if that shows a fork.
    own: Option<Lineage>,
}

impl Moves {
    /// Runs work of a renewal that has to wait.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        let until_stopped = async move {
            let _stopped = shutdown.unless_triggered(work).await;
        };
        self.tasks.spawn_on(until_stopped, &self.runtime);
    }

    /// Makes this server the one that renews the instance, if it may be.
    pub(crate) async fn take_over(&self, claim: &Claim) -> Result<(), Refusal> {
        // Before the write: the answer may be there when it returns.
        let applied = self.registry.subscribe();
        let (now, server, lineages) =
            (self.clock.now(), Arc::clone(&self.server), Arc::clone(&self.lineages));
        let wanted = claim.clone();
        let mutation = move |state: &State| {
            let incarnation = state.incarnation();
            let judge = Judge {
                server: &server,
                incarnation: incarnation.as_bytes(),
                issued: lineages.issued(wanted.instance, now),
                forgotten_at: now.saturating_add(MAX_X509_TTL).saturating_add(SLACK),
            };
            let record = state.lineage_owner(wanted.instance);
            let step = match judge.judge(record.map(|record| &**record), &wanted) {
                Ok(step) => step,
                Err(discord) => return Err(discord.refusal(wanted.instance)),
            };
            let changes = match &step {
                Step::Own | Step::Wait => Vec::new(),
                Step::Take(record) | Step::Ask(record) | Step::Condemn(record) => {
                    vec![put(wanted.instance, record.clone())]
                }
            };
            Ok((changes, step))
        };
        let (_, step) = self.registry.write_with(mutation).await?;
        match step {
            Step::Own | Step::Take(_) => return Ok(()),
            Step::Condemn(record) => return Err(forked(claim.instance, record.generation)),
            Step::Ask(_) | Step::Wait => {}
        }
        if tokio::time::timeout(PATIENCE, self.answered(claim, applied)).await.is_err() {
            self.insist(claim).await?;
        }
        let state = self.registry.state();
        let record = state.lineage_owner(claim.instance).map(|record| &**record);
        match settled(record, &self.server, claim) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Discord::Moved.refusal(claim.instance)),
            Err(discord) => Err(discord.refusal(claim.instance)),
        }
    }

    /// Until the record of this claim is not there any more, or was answered.
    async fn answered(&self, claim: &Claim, mut applied: broadcast::Receiver<Applied>) {
        loop {
            let waits = self
                .registry
                .state()
                .lineage_owner(claim.instance)
                .is_some_and(|record| is_open(record, &self.server, claim));
            if !waits {
                return;
            }
            if matches!(applied.recv().await, Err(RecvError::Closed)) {
                // Nothing will come; the write that follows says why.
                return std::future::pending().await;
            }
        }
    }

    /// Nobody has answered.
    async fn insist(&self, claim: &Claim) -> Result<(), Refusal> {
        let (server, wanted) = (Arc::clone(&self.server), claim.clone());
        let mutation = move |state: &State| {
            let record = state.lineage_owner(wanted.instance);
            let open = record.filter(|record| is_open(record, &server, &wanted));
            let taken = open.map(|record| insisted(record));
            let from = open.map(|record| record.from.clone());
            Ok((taken.into_iter().map(|record| put(wanted.instance, record)).collect(), from))
        };
        if let (_, Some(from)) = self.registry.write_with(mutation).await? {
            tracing::info!(instance = %claim.instance, from, "an instance is taken over from a server that does not answer");
        }
        Ok(())
    }

    /// Answers other servers from now on. What they have done while this one was not there is known when this returns.
    pub(crate) fn follow(self: &Arc<Self>) {
        let mut applied = self.registry.subscribe();
        self.look_again();
        let moves = Arc::clone(self);
        self.spawn(async move {
            loop {
                match applied.recv().await {
                    Ok(Applied { reset: true, .. }) | Err(RecvError::Lagged(_)) => moves.look_again(),
                    Ok(Applied { changes, .. }) => {
                        moves.see(changes.iter().filter_map(|change| match &change.after {
                            Some(Object::LineageOwner(instance, _)) => Some(*instance),
                            _ => None,
                        }));
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    fn look_again(self: &Arc<Self>) {
        let state = self.registry.state();
        self.see(state.lineage_owners().map(|(instance, _)| instance));
    }

    /// Takes note of what other servers want and have, and says what there is to say, without waiting for it to be written.
    fn see(self: &Arc<Self>, instances: impl Iterator<Item = InstanceId>) {
        let now = self.clock.now();
        // The newest record, not the one that has just come: this server may have taken the instance back since.
        let state = self.registry.state();
        let incarnation = state.incarnation();
        let place = (&*self.server, incarnation.as_bytes().as_slice());
        let said = instances.filter_map(|instance| {
            let to = state.lineage_owner(instance)?;
            let (answer, own) = answer(&self.lineages, place, (instance, to), now)?;
            Some(Said { instance, to: Arc::clone(to), answer, own })
        });
        let said: Vec<Said> = said.collect();
        for some in said.chunks(ANSWERS) {
            let (moves, some) = (Arc::clone(self), some.to_vec());
            self.spawn(async move {
                if let Err(refusal) = moves.say(some).await {
                    // They wait for a while, and then take what they asked for.
                    tracing::warn!(code = refusal.code(), "other servers get no answer: {refusal}");
                }
            });
        }
    }

    async fn say(&self, said: Vec<Said>) -> Result<(), Refusal> {
        let mutation = move |state: &State| {
            let stands = |said: &&Said| state.lineage_owner(said.instance) == Some(&said.to);
            let said: Vec<Said> = said.iter().filter(stands).cloned().collect();
            Ok((said.iter().map(|said| put(said.instance, said.answer.clone())).collect(), said))
        };
        let (_, said) = self.registry.write_with(mutation).await?;
        for Said { instance, own, .. } in &said {
            let Some(own) = own else { continue };
            let source = Source {
                agent: own.agent.as_str(),
                site: reserved::agent_site(&own.agent).unwrap_or_default(),
                registration: &own.registration,
                instance: Bytes::copy_from_slice(instance.as_bytes()),
                address: "",
            };
            self.journal.refused(self.clock.now(), &forked(*instance, own.generation), source);
        }
        Ok(())
    }
}

fn put(instance: InstanceId, owner: LineageOwner) -> RecordChange {
    RecordChange::Put(Object::LineageOwner(instance, Arc::new(owner)))
}
