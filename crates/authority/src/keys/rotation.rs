//! Carries out what [`bonafide_ca::rotation`] plans. Each step is one commit that asks the plan again, in the state
//! that it is committed on: of two servers, one does it.

use std::sync::Arc;
use std::time::Duration;

use bonafide_ca::rotation::{self, Acknowledged, Effect, Plan, Policy, Slot};
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_identity::{Certificate, TrustDomain};
use bonafide_net::drain::Shutdown;
use tokio::sync::broadcast::error::RecvError;

use super::set::{in_force, of_use, slot};
use super::{Fresh, Keys, KeysError, Vault};
use crate::config::Lifetimes;
use crate::entry::entry::Kind as EntryKind;
use crate::journal::Journal;
use crate::presence::Presence;
use crate::records::{self, Object, RecordChange, signing_key};
use crate::registry::Registry;
use crate::scope::MAX_JWT_TTL;
use crate::state::{AppliedChange, State};

/// Looks at the plan at least this often: clocks are set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between two attempts that failed.
const RETRY: Duration = Duration::from_secs(5);
/// A plan that always has more to do is wrong.
const MAX_STEPS: usize = 64;

/// Rotates the keys of this server, and those that all servers share.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pub(crate) registry: Registry,
    pub(crate) vault: Vault,
    pub(crate) journal: Arc<Journal>,
    pub(crate) presence: Presence,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) server: String,
    pub(crate) lifetimes: Lifetimes,
}

/// One of the three kinds of keys that rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Root,
    Intermediate,
    Jwt,
}

impl Rotation {
    /// Does all that is due now; says when to look again. The first time it makes root, intermediate and JWT key.
    pub(crate) async fn catch_up(&self) -> Result<Option<UnixTime>, KeysError> {
        let mut wake_at: Option<UnixTime> = None;
        // In this order: an intermediate needs its root.
        for family in [Family::Root, Family::Intermediate, Family::Jwt] {
            for step in 0.. {
                let plan = self.plan(family, &self.registry.state(), self.clock.now());
                let Some(effect) = plan.effects.first().filter(|_| step < MAX_STEPS) else {
                    wake_at = [wake_at, plan.wake_at].into_iter().flatten().min();
                    break;
                };
                self.carry_out(family, effect.clone()).await?;
            }
        }
        Ok(wake_at)
    }

    /// Keeps the keys young, and `keys` on what the records say.
    pub(crate) async fn run(self, keys: Arc<Keys>, shutdown: Shutdown) {
        let mut applied = self.registry.subscribe();
        let mut acknowledged = self.presence.changes();
        loop {
            let pause = match self.catch_up().await {
                Ok(wake_at) => {
                    let until = wake_at.map_or(LOOK_EVERY, |at| at.since(self.clock.now()));
                    until.clamp(Duration::from_millis(200), LOOK_EVERY)
                }
                Err(error) => {
                    tracing::error!(code = error.code(), "a key can't be rotated: {error}");
                    RETRY
                }
            };
            if let Err(error) = keys.reload(&self.registry.state(), self.clock.now()) {
                tracing::error!(code = error.code(), "the keys in force can't be opened: {error}");
            }
            let sleep = tokio::time::sleep(pause);
            tokio::pin!(sleep);
            loop {
                tokio::select! {
                    () = shutdown.triggered() => return,
                    () = &mut sleep => break,
                    // Only a published key waits for acknowledgements.
                    Ok(()) = acknowledged.changed() => {
                        if self.awaits_acknowledgement() {
                            break;
                        }
                    }
                    next = applied.recv() => match next {
                        Ok(applied) if !applied.reset && !applied.changes.iter().any(touches_keys) => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    async fn carry_out(&self, family: Family, effect: Effect) -> Result<(), KeysError> {
        match &effect {
            Effect::Start { .. } | Effect::Prepare => self.make(family, effect).await,
            Effect::Activate { id, demote, forced } => {
                if *forced {
                    tracing::warn!(
                        key = id,
                        "a key is activated although some agent has not acknowledged it"
                    );
                }
                let changes = activation(id.clone(), demote.clone());
                self.commit(family, effect, changes).await
            }
            Effect::Retire { id } => {
                let key = records::signing_key_key(id);
                self.commit(family, effect, move |_, _| vec![RecordChange::Remove(key.clone())]).await
            }
        }
    }

    async fn make(&self, family: Family, effect: Effect) -> Result<(), KeysError> {
        let now = self.clock.now();
        let Fresh { mut record, entry } = match family {
            Family::Root => self.vault.root(&self.trust_domain, &self.lifetimes, now)?,
            Family::Jwt => self.vault.jwt(&self.lifetimes, now)?,
            Family::Intermediate => {
                let root = in_force(&self.registry.state(), signing_key::Use::Root, "", now).cloned();
                let root = root.ok_or(KeysError::Missing("root"))?;
                self.vault.intermediate(&self.trust_domain, &root, &self.server, &self.lifetimes, now)?
            }
        };
        if let Some(entry) = entry {
            self.journal.append(now, vec![EntryKind::SigningCertificate(entry)]).await?;
        }
        let (next, demote) = match &effect {
            Effect::Start { demote } => (signing_key::State::Active, demote.clone()),
            _ => (signing_key::State::Prepared, Vec::new()),
        };
        record.set_state(next);
        record.state_since = now.as_secs();
        tracing::info!(key = record.id, family = ?family, state = ?record.state(), "a signing key was made");
        self.commit(family, effect, move |state, now| {
            let mut record = record.clone();
            // The revision that this very change, the first one, will get: it puts the key into the bundle.
            record.published_revision = state.revision() + 1;
            let mut changes = vec![RecordChange::Put(Object::SigningKey(Arc::new(record)))];
            changes.extend(demote.iter().filter_map(|id| restated(state, id, signing_key::State::Old, now)));
            changes
        })
        .await
    }

    /// Commits the changes of an effect, if the plan still has it.
    async fn commit(
        &self,
        family: Family,
        effect: Effect,
        changes: impl Fn(&State, UnixTime) -> Vec<RecordChange> + Send + 'static,
    ) -> Result<(), KeysError> {
        let this = self.clone();
        self.registry
            .write(move |state| {
                let now = this.clock.now();
                let due = this.plan(family, state, now).effects.contains(&effect);
                Ok(if due { changes(state, now) } else { Vec::new() })
            })
            .await?;
        Ok(())
    }

    fn plan(&self, family: Family, state: &State, now: UnixTime) -> Plan {
        let slots = self.slots(family, state);
        let mut plan = rotation::plan(&self.policy(family), &slots, self.acknowledged(&slots), now);
        let waiting = slots.iter().any(|slot| slot.state == rotation::State::Prepared);
        if family == Family::Intermediate && plan.effects.is_empty() && !waiting && self.is_orphan(state, now)
        {
            plan.effects.push(Effect::Prepare);
        }
        plan
    }

    /// Whether the intermediate is under another root than the active one. It is replaced at once then: new nodes are
    /// told the active root, and the old one can go when what it signed has expired.
    fn is_orphan(&self, state: &State, now: UnixTime) -> bool {
        let certificate = |usage, server| {
            in_force(state, usage, server, now).and_then(|key| Certificate::from_der(&key.certificate).ok())
        };
        let root = certificate(signing_key::Use::Root, "");
        let own = certificate(signing_key::Use::Intermediate, self.server.as_str());
        matches!((root, own), (Some(root), Some(own)) if own.authority_key_id() != root.subject_key_id())
    }

    fn slots(&self, family: Family, state: &State) -> Vec<Slot> {
        let (usage, server) = match family {
            Family::Root => (signing_key::Use::Root, ""),
            Family::Intermediate => (signing_key::Use::Intermediate, self.server.as_str()),
            Family::Jwt => (signing_key::Use::Jwt, ""),
        };
        of_use(state, usage, server).filter_map(|key| slot(key)).collect()
    }

    fn policy(&self, family: Family) -> Policy {
        let lifetimes = &self.lifetimes;
        match family {
            Family::Root => {
                Policy::published(lifetimes.root.as_duration(), lifetimes.intermediate.as_duration())
            }
            Family::Intermediate => Policy::unpublished(lifetimes.intermediate.as_duration()),
            Family::Jwt => Policy::published(lifetimes.jwt_key.as_duration(), MAX_JWT_TTL),
        }
    }

    /// All that the plan asks is whether everybody knows the key that is prepared.
    fn acknowledged(&self, slots: &[Slot]) -> Acknowledged {
        let prepared = slots.iter().filter(|slot| slot.state == rotation::State::Prepared);
        let Some(published) = prepared.map(|slot| slot.published_revision).max() else {
            return Acknowledged::NobodyConnected;
        };
        if self.presence.connected(|_| true) == 0 {
            return Acknowledged::NobodyConnected;
        }
        let behind = self.presence.behind(published, |_| true);
        Acknowledged::Through(if behind.is_empty() { published } else { 0 })
    }

    fn awaits_acknowledgement(&self) -> bool {
        let state = self.registry.state();
        [Family::Root, Family::Jwt].into_iter().any(|family| {
            self.slots(family, &state).iter().any(|slot| slot.state == rotation::State::Prepared)
        })
    }
}

fn activation(
    id: String,
    demote: Vec<String>,
) -> impl Fn(&State, UnixTime) -> Vec<RecordChange> + Send + 'static {
    move |state, now| {
        let demoted = demote.iter().map(|old| (old, signing_key::State::Old));
        let all = demoted.chain([(&id, signing_key::State::Active)]);
        all.filter_map(|(id, next)| restated(state, id, next, now)).collect()
    }
}

/// The key's record in another state.
fn restated(state: &State, id: &str, next: signing_key::State, now: UnixTime) -> Option<RecordChange> {
    let mut record = (**state.signing_key(id)?).clone();
    record.set_state(next);
    record.state_since = now.as_secs();
    Some(RecordChange::Put(Object::SigningKey(Arc::new(record))))
}

fn touches_keys(change: &AppliedChange) -> bool {
    [&change.before, &change.after].into_iter().any(|object| matches!(object, Some(Object::SigningKey(_))))
}

#[cfg(test)]
mod tests;
