//! What operators ask of the keys: the orders of [`bonafide_ca::rotation`], each judged in the state that it is committed
//! on, and written to the ledger with who gave it.

use std::sync::Arc;
use std::time::Duration;

use bonafide_ca::rotation::{self, Effect, Known, Order, OrderError, Slot};
use bonafide_identity::revocation::{Revocation, Subject};
use bonafide_identity::time::UnixTime;
use bonafide_identity::{Certificate, SpiffeId};
use tokio::time::Instant;

use super::change::{kind_of, published, rest_of, restated, told};
use super::rotation::CROWD;
use super::set::{of_use, slot};
use super::{Family, KeysError, Rotation};
use crate::entry;
use crate::records::{Object, RecordChange, RevocationRecord, SigningKey, signing_key};
use crate::refusal::Refusal;
use crate::state::State;

/// While it waits for agents, an order is judged again at least this often: SVIDs of those that are away expire.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Renewals that a server is asked for in one second.
const RENEWALS_PER_SECOND: usize = 2048;
/// However many agents there are, what a thief may have signed is not to stay in use for longer.
const MAX_RENEW_WITHIN: usize = 300;
/// Clocks of verifiers that are behind still refuse what has expired by then.
const SLACK: Duration = Duration::from_secs(3600);
/// Agents that a refusal names.
const NAMED: usize = 5;

/// What an order has come to.
#[derive(Clone, Debug)]
pub(crate) struct Ordered {
    pub(crate) authority: Arc<SigningKey>,
    pub(crate) revision: u64,
    /// Agents that it did not wait for.
    pub(crate) behind: Vec<SpiffeId>,
}

impl Rotation {
    /// A key of this kind that is published and waits. Intermediates are of this server.
    pub(crate) async fn prepare(&self, actor: &str, family: Family) -> Result<Ordered, Refusal> {
        let server = if family == Family::Intermediate { self.server.clone() } else { String::new() };
        let waiting = |state: &State, server: &str| {
            let now = self.clock.now().as_secs();
            of_use(state, family.usage(), server)
                .find(|key| key.state() == signing_key::State::Prepared && key.not_after > now)
                .cloned()
        };
        let state = self.registry.state();
        if let Some(authority) = waiting(&state, &server) {
            return Ok(Ordered { authority, revision: state.revision(), behind: Vec::new() });
        }
        self.judge(&state, family, &server, &Order::Prepare).map_err(|error| self.refusal(&state, &error))?;
        drop(state);
        let mut record = self.draw(family).await.map_err(failed)?;
        record.set_state(signing_key::State::Prepared);
        record.state_since = self.clock.now().as_secs();
        record.held = true;
        let (this, owner) = (self.clone(), server.clone());
        let (written, changes) = self
            .registry
            .write_with(move |state| {
                let due = this
                    .judge(state, family, &owner, &Order::Prepare)
                    .map_err(|error| this.refusal(state, &error))?
                    .is_some();
                let changes = if due { vec![published(&record, state)] } else { Vec::new() };
                let told = told(state, &changes);
                Ok((changes, told))
            })
            .await?;
        self.note(changes, actor, false, written.revision).await?;
        let gone = || {
            Refusal::unavailable("ca.overtaken", "the key that was prepared is in use already")
                .hint("look with `bonafide ca show`")
        };
        let authority = waiting(&self.registry.state(), &server).ok_or_else(gone)?;
        Ok(Ordered { authority, revision: written.revision, behind: Vec::new() })
    }

    /// Carries an order out: as soon as agents have done their part, or by force when the wait is over, if it insists.
    pub(crate) async fn order(&self, actor: &str, order: Order, wait: Duration) -> Result<Ordered, Refusal> {
        let deadline = Instant::now() + wait;
        let (id, insists, patient) = patient(&order);
        let mut presence = self.presence.changes();
        let mut applied = self.registry.subscribe();
        let (mut intended, mut late) = (false, false);
        loop {
            presence.mark_unchanged();
            let state = self.registry.state();
            let (family, server) = family_of(&state, &id)?;
            let by_force = match self.judge(&state, family, &server, &patient) {
                Ok(None) => {
                    let authority = state.signing_key(&id).cloned().ok_or_else(|| unknown(&id))?;
                    return Ok(Ordered { authority, revision: state.revision(), behind: Vec::new() });
                }
                Ok(Some(_)) => Some(false),
                Err(OrderError::NotAcknowledged(_) | OrderError::NotRenewed(_)) if !late => None,
                Err(_) if insists => Some(true),
                Err(error) => return Err(self.refusal(&state, &error)),
            };
            if let Some(by_force) = by_force {
                let asked = if by_force { &order } else { &patient };
                let behind = if by_force { self.behind(&state, &id) } else { Vec::new() };
                let intent = (!intended).then(|| intent(&state, asked)).flatten();
                drop(state);
                intended = true;
                self.note(intent.into_iter().collect(), actor, by_force, 0).await?;
                match self.carry_out_order(&id, family, server, asked.clone(), actor, by_force).await {
                    // Somebody has connected meanwhile who does not know it.
                    Err(refusal) if is_waited_for(&refusal) && !late => {}
                    done => return done.map(|ordered| Ordered { behind, ..ordered }),
                }
            } else {
                drop(state);
            }
            let look = (Instant::now() + LOOK_EVERY).min(deadline);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(look) => {}
                () = presence.changed() => tokio::time::sleep(CROWD).await,
                Ok(_) = applied.recv() => {}
            }
            late = Instant::now() >= deadline;
        }
    }

    /// Agents that an order on this key waits for.
    pub(crate) fn behind(&self, state: &State, id: &str) -> Vec<SpiffeId> {
        match state.signing_key(id) {
            Some(key) if key.state() == signing_key::State::Prepared => {
                self.unaware(state, key.published_revision)
            }
            Some(key) if key.state() == signing_key::State::Tainted => {
                self.unrenewed(state, key.state_revision)
            }
            _ => Vec::new(),
        }
    }

    /// Agents that count for orders on this key, and how many of them it waits for.
    pub(crate) fn progress(&self, state: &State, key: &SigningKey) -> (usize, usize) {
        let all = self.presence.missing(self.clock.now(), |_| false).len();
        let behind = self.behind(state, &key.id).len();
        (all.max(behind), behind)
    }

    async fn carry_out_order(
        &self,
        id: &str,
        family: Family,
        server: String,
        order: Order,
        actor: &str,
        forced: bool,
    ) -> Result<Ordered, Refusal> {
        let (this, revoked_by) = (self.clone(), actor.to_owned());
        let state = self.registry.state();
        let effect =
            self.judge(&state, family, &server, &order).map_err(|error| self.refusal(&state, &error))?;
        let successor = match &effect {
            Some(effect) => self.successor(&state, effect).await.map_err(failed)?,
            None => None,
        };
        drop(state);
        let (written, changes) = self
            .registry
            .write_with(move |state| {
                let now = this.clock.now();
                let effect = this
                    .judge(state, family, &server, &order)
                    .map_err(|error| this.refusal(state, &error))?;
                let mut changes = Vec::new();
                if let Some(effect) = effect {
                    changes = this.changes_of(state, &effect, now);
                    changes.extend(distrust(state, &effect, &revoked_by, now));
                    let next = successor.as_ref();
                    changes.extend(
                        next.into_iter().flat_map(|next| next.changes(state, &this.server, &effect, now)),
                    );
                }
                let told = told(state, &changes);
                Ok((changes, told))
            })
            .await?;
        self.note(changes, actor, forced, written.revision).await?;
        let authority = self.registry.state().signing_key(id).cloned().ok_or_else(|| unknown(id))?;
        Ok(Ordered { authority, revision: written.revision, behind: Vec::new() })
    }

    fn changes_of(&self, state: &State, effect: &Effect, now: UnixTime) -> Vec<RecordChange> {
        match effect {
            Effect::Activate { id, demote, .. } => {
                let demoted =
                    demote.iter().filter_map(|old| restated(state, old, signing_key::State::Old, now));
                demoted.chain(restated(state, id, signing_key::State::Active, now)).collect()
            }
            Effect::Taint { id } | Effect::Revoke { id } => {
                let change = restated(state, id, rest_of(effect), now);
                change.map(|change| self.spread(change)).into_iter().collect()
            }
            // Not what an order on a key comes to.
            Effect::Prepare | Effect::Start { .. } | Effect::Retire { .. } => Vec::new(),
        }
    }

    /// So many agents renew at once that the servers can keep up with it.
    fn spread(&self, change: RecordChange) -> RecordChange {
        let RecordChange::Put(Object::SigningKey(record)) = change else { return change };
        // Of this server. The others have about as many, each.
        let renewals = self.presence.connected(|_| true).saturating_add(self.lineages.count());
        let seconds = (renewals / RENEWALS_PER_SECOND).min(MAX_RENEW_WITHIN);
        let renew_within = u32::try_from(seconds).unwrap_or(u32::MAX);
        RecordChange::Put(Object::SigningKey(Arc::new(SigningKey { renew_within, ..(*record).clone() })))
    }

    fn judge(
        &self,
        state: &State,
        family: Family,
        server: &str,
        order: &Order,
    ) -> Result<Option<Effect>, OrderError> {
        let keys = of_use(state, family.usage(), server);
        let slots: Vec<Slot> = keys.filter_map(|key| slot(state, key)).collect();
        let renewed = match order {
            Order::Revoke { id, .. } => {
                let silent = state.signing_key(id).map(|key| self.silent(state, key));
                self.behind(state, id).is_empty() && silent.is_none_or(|servers| servers.is_empty())
            }
            _ => true,
        };
        let known = Known { acknowledged: self.acknowledged(state, family), renewed };
        rotation::order(&self.policy(family), &slots, known, order, self.clock.now())
    }

    fn refusal(&self, state: &State, error: &OrderError) -> Refusal {
        let mut message = error.to_string();
        if let OrderError::NotAcknowledged(id) | OrderError::NotRenewed(id) = error {
            let behind = self.behind(state, id);
            let names: Vec<String> = behind.iter().take(NAMED).map(ToString::to_string).collect();
            if !names.is_empty() {
                let more = if behind.len() > NAMED { ", …" } else { "" };
                message = format!("{message}; {} are missing: {}{more}", behind.len(), names.join(", "));
            }
            let silent = state.signing_key(id).map(|key| self.silent(state, key)).unwrap_or_default();
            if !silent.is_empty() {
                message = format!("{message}; not confirmed by the servers: {}", silent.join(", "));
            }
        }
        match error {
            OrderError::Unknown(_) => Refusal::not_found(error.code(), message),
            _ => Refusal::precondition(error.code(), message),
        }
        .hint(error.hint())
    }
}

/// That nobody believes a revoked intermediate, nor what it signed: its root still vouches for it, so the bundle alone
/// does not say it. Of roots and JWT keys it does.
fn distrust(state: &State, effect: &Effect, revoked_by: &str, now: UnixTime) -> Option<RecordChange> {
    let Effect::Revoke { id } = effect else { return None };
    let key = state.signing_key(id).filter(|key| key.r#use() == signing_key::Use::Intermediate)?;
    let certificate = Certificate::from_der(&key.certificate).ok()?;
    let revocation = Revocation {
        subject: Subject::AuthorityKey(certificate.subject_key_id()?.into()),
        issued_before: None,
        expires_at: certificate.not_after().saturating_add(SLACK),
    };
    Some(RecordChange::Put(Object::Revocation(Arc::new(RevocationRecord {
        revocation,
        owner: String::new(),
        reason: "the authority was revoked".to_owned(),
        revoked_by: revoked_by.to_owned(),
        revoked_at: now,
    }))))
}

/// The key that an order is about, whether the order insists, and the order without that.
fn patient(order: &Order) -> (String, bool, Order) {
    match order {
        Order::Prepare => (String::new(), false, Order::Prepare),
        Order::Activate { id, force } => {
            (id.clone(), *force, Order::Activate { id: id.clone(), force: false })
        }
        Order::Taint { id, force } => (id.clone(), *force, Order::Taint { id: id.clone(), force: false }),
        Order::Revoke { id, force } => (id.clone(), *force, Order::Revoke { id: id.clone(), force: false }),
    }
}

/// For the ledger, before it is tried.
fn intent(state: &State, order: &Order) -> Option<entry::AuthorityChange> {
    let (id, next) = match order {
        Order::Prepare => return None,
        Order::Activate { id, .. } => (id, "active"),
        Order::Taint { id, .. } => (id, "tainted"),
        Order::Revoke { id, .. } => (id, "revoked"),
    };
    let key = state.signing_key(id)?;
    Some(entry::AuthorityChange {
        state: next.to_owned(),
        kind: kind_of(key).to_owned(),
        authority: key.id.clone(),
        server: key.server.clone(),
        ..entry::AuthorityChange::default()
    })
}

fn family_of(state: &State, id: &str) -> Result<(Family, String), Refusal> {
    let key = state.signing_key(id).ok_or_else(|| unknown(id))?;
    let family = Family::of(key).ok_or_else(|| unknown(id))?;
    Ok((family, key.server.clone()))
}

fn is_waited_for(refusal: &Refusal) -> bool {
    matches!(refusal.code(), "ca.not-acknowledged" | "ca.not-renewed")
}

fn unknown(id: &str) -> Refusal {
    let error = OrderError::Unknown(id.to_owned());
    Refusal::not_found(error.code(), format!("there is no authority `{id}`")).hint(error.hint())
}

fn failed(error: KeysError) -> Refusal {
    match error {
        KeysError::Refused(refusal) => refusal,
        error => {
            Refusal::unavailable(error.code().to_owned(), error.to_string()).hint(error.hint().to_owned())
        }
    }
}
