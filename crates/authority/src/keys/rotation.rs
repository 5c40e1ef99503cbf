//! Carries out what [`bonafide_ca::rotation`] plans. Each step is one commit that asks the plan again, in the state
//! that it is committed on: of two servers, one does it.

use std::sync::Arc;
use std::time::Duration;

use bonafide_ca::rotation::{self, Effect, Plan, Policy, Slot};
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_identity::{Certificate, TrustDomain};
use bonafide_net::drain::Shutdown;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::broadcast::error::RecvError;

use super::change::{activation, published, rest_of, restated, retirement, told};
use super::set::{in_force, of_use, slot};
use super::{Fresh, Keys, KeysError, Upstream, UpstreamError, Vault};
use crate::config::Lifetimes;
use crate::entry;
use crate::entry::entry::Kind as EntryKind;
use crate::issuance::lineages::Lineages;
use crate::journal::Journal;
use crate::lease::{Holder, Taken, Term};
use crate::presence::Presence;
use crate::records::{Object, RecordChange, SigningKey, signing_key};
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::scope::MAX_JWT_TTL;
use crate::state::{AppliedChange, State};

/// Looks at the plan at least this often: clocks are set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between two attempts that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Acknowledgements come in crowds, and each look at them goes through all agents.
pub(super) const CROWD: Duration = Duration::from_millis(10);
/// A plan that always has more to do is wrong.
const MAX_STEPS: usize = 64;

/// Rotates the keys of this server, and those that all servers share.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pub(crate) registry: Registry,
    pub(crate) vault: Vault,
    pub(crate) journal: Arc<Journal>,
    pub(crate) presence: Presence,
    /// What this server has issued, and would have to issue again.
    pub(crate) lineages: Arc<Lineages>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) server: String,
    pub(crate) lifetimes: Lifetimes,
    /// Where roots come from, if they are not drawn.
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// When this server began to see agents.
    pub(crate) started_at: UnixTime,
    /// On the work on keys that all servers share.
    pub(crate) lease: Holder,
}

/// One of the three kinds of keys that rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Root,
    Intermediate,
    Jwt,
}

/// Whom the servers themselves act for.
const ACTOR: &str = "rotation";

impl Rotation {
    /// Does all that is due now; says when to look again. The first time it makes root, intermediate and JWT key.
    ///
    /// # Errors
    /// The first one. What is wrong with one kind of key does not keep the others from being rotated.
    pub(crate) async fn catch_up(&self) -> Result<Option<UnixTime>, KeysError> {
        let mut looked = self.look_upstream().map(|()| None);
        // In this order: an intermediate needs its root.
        for family in [Family::Root, Family::Intermediate, Family::Jwt] {
            looked = match (looked, self.rotate(family).await) {
                (Ok(one), Ok(other)) => Ok([one, other].into_iter().flatten().min()),
                (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            };
        }
        looked
    }

    async fn rotate(&self, family: Family) -> Result<Option<UnixTime>, KeysError> {
        self.confirm(family).await?;
        for _ in 0..MAX_STEPS {
            let plan = self.plan(family, &self.registry.state(), self.clock.now());
            let Some(effect) = plan.effects.first() else { return Ok(plan.wake_at) };
            match self.term(family, effect).await? {
                Ok(term) => match self.carry_out(family, effect.clone(), term).await {
                    Err(KeysError::Upstream(error)) => {
                        return self.without_upstream(error).map(|()| plan.wake_at);
                    }
                    done => done?,
                },
                Err(taken) => return Ok(Some(plan.wake_at.map_or(taken.until, |at| at.min(taken.until)))),
            }
        }
        Ok(None)
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
                    biased;
                    () = shutdown.triggered() => return,
                    () = &mut sleep => break,
                    // Only a published key waits for acknowledgements.
                    () = acknowledged.changed() => {
                        if self.awaits_acknowledgement() {
                            tokio::time::sleep(CROWD).await;
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

    /// The right to do this. What only this server does needs none, nor what must be there before anything else can be,
    /// nor does a server that was never one of several.
    async fn term(&self, family: Family, effect: &Effect) -> Result<Result<Option<Term>, Taken>, Refusal> {
        let state = self.registry.state();
        let is_alone = self.others(&state).is_empty() && !self.lease.is_known(&state);
        drop(state);
        if family == Family::Intermediate || matches!(effect, Effect::Start { .. }) || is_alone {
            return Ok(Ok(None));
        }
        Ok(self.lease.hold(&self.registry, &self.clock).await?.map(Some))
    }

    async fn carry_out(&self, family: Family, effect: Effect, term: Option<Term>) -> Result<(), KeysError> {
        match &effect {
            Effect::Start { .. } | Effect::Prepare => self.make(family, effect, term).await,
            Effect::Activate { id, demote, forced } => {
                if *forced {
                    tracing::warn!(
                        key = id,
                        "a key is activated although some agent has not acknowledged it"
                    );
                }
                let changes = activation(id.clone(), demote.clone());
                self.commit(family, effect, term, changes).await
            }
            Effect::Retire { id } => {
                let id = id.clone();
                self.commit(family, effect, term, move |state, _| retirement(state, &id)).await
            }
            Effect::Taint { id } | Effect::Revoke { id } => {
                let id = id.clone();
                let next = rest_of(&effect);
                self.commit(family, effect, term, move |state, now| {
                    restated(state, &id, next, now).into_iter().collect()
                })
                .await
            }
        }
    }

    async fn make(&self, family: Family, effect: Effect, term: Option<Term>) -> Result<(), KeysError> {
        let mut record = self.draw(family).await?;
        let now = self.clock.now();
        let (next, demote) = match &effect {
            Effect::Start { demote } => (signing_key::State::Active, demote.clone()),
            _ => (signing_key::State::Prepared, Vec::new()),
        };
        record.set_state(next);
        record.state_since = now.as_secs();
        tracing::info!(key = record.id, family = ?family, state = ?record.state(), "a signing key was made");
        self.commit(family, effect, term, move |state, now| {
            let mut changes = vec![published(&record, state)];
            changes.extend(demote.iter().filter_map(|id| restated(state, id, signing_key::State::Old, now)));
            changes
        })
        .await
    }

    /// Sees what CA the files of an upstream name now. Where there is another one that signs, it may be wrong for a while.
    fn look_upstream(&self) -> Result<(), KeysError> {
        let Some(upstream) = &self.upstream else { return Ok(()) };
        let (state, now) = (self.registry.state(), self.clock.now());
        let root = in_force(&state, signing_key::Use::Root, "", now);
        let error = match upstream.look(now) {
            Ok(offer) if root.is_none() && state.signing_key(&offer.id).is_some() => {
                upstream.unchanged(&offer)
            }
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        self.without_upstream(error)
    }

    /// The files of an upstream give no CA now: they may be half written. As long as there is a root that signs, that is
    /// said and nothing else.
    fn without_upstream(&self, error: UpstreamError) -> Result<(), KeysError> {
        if in_force(&self.registry.state(), signing_key::Use::Root, "", self.clock.now()).is_none() {
            return Err(error.into());
        }
        if self.upstream.as_ref().is_some_and(|upstream| upstream.is_news(&error.to_string())) {
            tracing::error!(code = error.code(), "{error}; the present root stays");
        }
        Ok(())
    }

    /// A new key, and its certificate on the ledger.
    pub(super) async fn draw(&self, family: Family) -> Result<SigningKey, KeysError> {
        let now = self.clock.now();
        let this = self.clone();
        // A key of 4096 bits, and one in a device, takes its time.
        let draw = move || {
            let state = this.registry.state();
            match (family, &this.upstream) {
                (Family::Root, Some(upstream)) => this.vault.upstream(upstream, &state, now),
                (Family::Root, None) => this.vault.root(&this.trust_domain, &this.lifetimes, now),
                (Family::Jwt, _) => this.vault.jwt(&this.lifetimes, now),
                (Family::Intermediate, _) => {
                    let root = in_force(&state, signing_key::Use::Root, "", now);
                    let root = root.ok_or(KeysError::Missing("root"))?;
                    this.vault.intermediate(&this.trust_domain, root, &this.server, &this.lifetimes, now)
                }
            }
        };
        let Fresh { record, entry } = match Handle::current().runtime_flavor() {
            // As in a simulation, where everything happens in one order.
            RuntimeFlavor::CurrentThread => draw()?,
            _ => {
                let stopped = |_| Refusal::unavailable("authority.stopped", "the process is stopping");
                tokio::task::spawn_blocking(draw).await.map_err(stopped)??
            }
        };
        if let Some(entry) = entry {
            self.journal.append(now, vec![EntryKind::SigningCertificate(entry)]).await?;
        }
        Ok(record)
    }

    /// Commits the changes of an effect, if the plan still has it, and the term is not over.
    async fn commit(
        &self,
        family: Family,
        effect: Effect,
        term: Option<Term>,
        changes: impl Fn(&State, UnixTime) -> Vec<RecordChange> + Send + 'static,
    ) -> Result<(), KeysError> {
        let this = self.clone();
        let wanted = effect.clone();
        let (written, changed) = self
            .registry
            .write_with(move |state| {
                let now = this.clock.now();
                if let Some(term) = term {
                    this.lease.check(state, term, now)?;
                }
                let due = this.plan(family, state, now).effects.contains(&wanted);
                let changes = if due { changes(state, now) } else { Vec::new() };
                let told = told(state, &changes);
                Ok((changes, told))
            })
            .await?;
        let forced = matches!(effect, Effect::Activate { forced: true, .. });
        self.note(changed, ACTOR, forced, written.revision).await?;
        Ok(())
    }

    /// Writes to the ledger what came of a commit.
    pub(super) async fn note(
        &self,
        changes: Vec<entry::AuthorityChange>,
        actor: &str,
        forced: bool,
        revision: u64,
    ) -> Result<(), Refusal> {
        if changes.is_empty() {
            return Ok(());
        }
        let told = changes.into_iter().map(|change| {
            tracing::info!(
                key = change.authority,
                kind = change.kind,
                state = change.state,
                actor,
                forced,
                revision,
                "an authority has changed"
            );
            EntryKind::AuthorityChange(entry::AuthorityChange {
                actor: actor.to_owned(),
                forced,
                revision,
                ..change
            })
        });
        self.journal.append(self.clock.now(), told.collect()).await.map(|_| ())
    }

    fn plan(&self, family: Family, state: &State, now: UnixTime) -> Plan {
        let slots = self.slots(family, state);
        let mut plan = rotation::plan(&self.policy(family), &slots, self.acknowledged(state, family), now);
        let waiting = slots.iter().any(|slot| slot.state == rotation::State::Prepared);
        if let (Family::Root, Some(upstream)) = (family, &self.upstream) {
            let is_new = upstream.offered().is_some_and(|offer| state.signing_key(&offer.id).is_none());
            if !is_new {
                // Roots are given, not drawn.
                plan.effects.retain(|effect| !matches!(effect, Effect::Prepare | Effect::Start { .. }));
            } else if plan.effects.is_empty() && !waiting {
                plan.effects.push(Effect::Prepare);
            }
        }
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
        let server = if family == Family::Intermediate { self.server.as_str() } else { "" };
        of_use(state, family.usage(), server).filter_map(|key| slot(state, key)).collect()
    }

    pub(super) fn policy(&self, family: Family) -> Policy {
        let lifetimes = &self.lifetimes;
        match family {
            Family::Root => {
                Policy::published(lifetimes.root.as_duration(), lifetimes.intermediate.as_duration())
            }
            Family::Intermediate => Policy::unpublished(lifetimes.intermediate.as_duration()),
            Family::Jwt => Policy::published(lifetimes.jwt_key.as_duration(), MAX_JWT_TTL),
        }
    }
}

impl Family {
    pub(super) fn usage(self) -> signing_key::Use {
        match self {
            Self::Root => signing_key::Use::Root,
            Self::Intermediate => signing_key::Use::Intermediate,
            Self::Jwt => signing_key::Use::Jwt,
        }
    }

    /// None for keys that don't rotate.
    pub(super) fn of(key: &SigningKey) -> Option<Self> {
        match key.r#use() {
            signing_key::Use::Root => Some(Self::Root),
            signing_key::Use::Intermediate => Some(Self::Intermediate),
            signing_key::Use::Jwt => Some(Self::Jwt),
            signing_key::Use::Ledger | signing_key::Use::Unspecified => None,
        }
    }
}

fn touches_keys(change: &AppliedChange) -> bool {
    [&change.before, &change.after].into_iter().any(|object| matches!(object, Some(Object::SigningKey(_))))
}

#[cfg(test)]
mod tests;
