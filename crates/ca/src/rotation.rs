//! When keys are prepared, published, activated and retired: for roots, intermediates and JWT keys.
//!
//! The state is the set of [`Slot`]s, as the store's log has it; there is no other memory, so a restart forgets
//! nothing. [`plan`] looks at it and says what to do now and when to look again. It has no clock and does no I/O.
//!
//! ```text
//!           half of what the active key has left             acknowledged         what it signed has expired
//! (no key) -------------------------------------> prepared --------------> active -> old ---------------------> (gone)
//! ```
//!
//! - **Publish before use.** Committing a prepared root or JWT key puts it into the bundle, so the revision of the
//!   commit is the revision that publishes it. It becomes active once every connected agent has acknowledged that
//!   revision, or after a floor time if none is connected. A timer alone would not do: an agent that is behind would
//!   refuse what the new key signs.
//! - **Activation demotes.** Prepared to active and active to old happen in one commit, so that exactly one key signs.
//! - **Nothing is dropped too early.** An old key stays in the bundle until the last thing it can have signed has
//!   expired.
//! - **An agent that never answers can't stop the world.** Late in the active key's life activation is forced, and
//!   says so.
//!
//! - **Operators give [`Order`]s** to the same machine. What an operator has prepared waits for his word to activate it,
//!   until the active key is at half of its life: then automatic rotation needs a key, and takes that one.
//! - **A stolen key is tainted**: it stays in the bundle and never signs again, and whatever it signed is renewed now.
//!   Then it is revoked: it leaves the bundle, and stays on the list of distrusted keys until its certificate ends.
//!
//! ```text
//! prepared, old, (active: by force, or if it is not published) ---> tainted ---> revoked ---> (gone)
//! ```
//!
//! Intermediates are not in the bundle: a prepared one is active at once.

mod order;

use std::time::Duration;

use bonafide_identity::time::UnixTime;

pub use self::order::{Known, MAX_PUBLISHED, Order, OrderError, order};

/// What state a key is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// In the bundle, if it is of a kind that is published; signs nothing.
    Prepared,
    /// Signs.
    Active,
    /// In the bundle until what it signed has expired; signs nothing any more.
    Old,
    /// In the bundle, but whatever it signed is to be renewed at once; never signs again.
    Tainted,
    /// Out of the bundle, and distrusted until its certificate ends.
    Revoked,
}

/// A key, as far as its rotation goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub id: String,
    /// Its state.
    pub state: State,
    /// Since when it is in this state.
    pub state_since: UnixTime,
    /// When its life began.
    pub not_before: UnixTime,
    /// When its life ends.
    pub not_after: UnixTime,
    /// The revision that put it into the bundle.
    pub published_revision: u64,
    /// An operator has prepared it, and will say when it is to be active.
    pub held: bool,
}

/// The times of one kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a key lives.
    pub lifetime: Duration,
    /// How long the longest-lived thing lives that it signs.
    pub signature_lifetime: Duration,
    /// How long a key is published before it is active if no agent is connected. `None` for keys that are not
    /// published at all.
    pub floor: Option<Duration>,
    /// How much longer than [`Self::signature_lifetime`] an old key stays: for clocks that differ, and for a server
    /// that signs once more before it sees that its key is old.
    pub margin: Duration,
}

/// What the connected agents have acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// Nobody is connected.
    NobodyConnected,
    /// Every agent that counts has applied at least this revision.
    Through(u64),
}

/// What to do. Each effect is one commit to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a key, and commit it as prepared.
    Prepare,
    /// Make a key, and commit it as active and all of `demote` as old, at once: there is none that could sign.
    Start {
        /// Keys that were active until their life ended.
        demote: Vec<String>,
    },
    /// Commit `id` as active and all of `demote` as old, at once.
    Activate {
        /// The prepared key.
        id: String,
        /// The keys that were active.
        demote: Vec<String>,
        /// Some agent may not know the key yet, but the active one is about to end: tell a person.
        forced: bool,
    },
    /// Remove a key that nothing valid was signed with.
    Retire {
        /// The key.
        id: String,
    },
    /// Commit `id` as tainted.
    Taint {
        /// The key.
        id: String,
    },
    /// Commit `id` as revoked: what it signed was renewed, or has expired, or an operator insists.
    Revoke {
        /// The key.
        id: String,
    },
}

/// What to do now, and when to look again if nothing else happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which to do it.
    pub effects: Vec<Effect>,
    /// The next moment at which time alone changes the plan.
    pub wake_at: Option<UnixTime>,
}

impl Policy {
    /// Roots: one year; they sign intermediates.
    #[must_use]
    pub const fn root(intermediate: &Self) -> Self {
        Self::published(Duration::from_secs(365 * 86_400), intermediate.lifetime)
    }

    /// Intermediates: 24 hours, not published; nothing they sign outlives them.
    #[must_use]
    pub const fn intermediate() -> Self {
        Self::unpublished(Duration::from_secs(86_400))
    }

    /// JWT keys: 24 hours; they sign tokens that live at most `token_lifetime`.
    #[must_use]
    pub const fn jwt(token_lifetime: Duration) -> Self {
        Self::published(Duration::from_secs(86_400), token_lifetime)
    }

    /// A key in the bundle with a life of its own, from seconds to years.
    #[must_use]
    pub const fn published(lifetime: Duration, signature_lifetime: Duration) -> Self {
        let day = lifetime.as_secs() / 24;
        let floor = Duration::from_secs(if day > 3600 { 3600 } else { day });
        Self { lifetime, signature_lifetime, floor: Some(floor), margin: Self::MARGIN }
    }

    /// A key that is not in the bundle.
    #[must_use]
    pub const fn unpublished(lifetime: Duration) -> Self {
        Self { lifetime, signature_lifetime: lifetime, floor: None, margin: Self::MARGIN }
    }

    const MARGIN: Duration = Duration::from_secs(60);
}

impl Slot {
    /// Whether the key may sign something at `now`.
    #[must_use]
    pub fn may_sign(&self, now: UnixTime) -> bool {
        self.state == State::Active && self.not_before <= now && now < self.not_after
    }

    /// When `numerator / 8` of the life is over that it had left when it came into its state. (Its `not_before` is
    /// no beginning to count from: it is set back for peers whose clocks are behind, by more than the whole life of a
    /// key that lives for seconds.)
    fn eighths(&self, numerator: u64) -> UnixTime {
        let left = self.not_after.since(self.state_since).as_secs();
        self.state_since.saturating_add(Duration::from_secs(left.saturating_mul(numerator) / 8))
    }
}

/// The key that signs at `now`: the newest active one, if its life has not ended.
#[must_use]
pub fn signing(slots: &[Slot], now: UnixTime) -> Option<&Slot> {
    slots.iter().filter(|slot| slot.may_sign(now)).max_by_key(|slot| slot.state_since)
}

/// What to do for one kind of key (of one server, if it is an intermediate).
#[must_use]
pub fn plan(policy: &Policy, slots: &[Slot], acknowledged: Acknowledged, now: UnixTime) -> Plan {
    let mut plan = Plan { effects: Vec::new(), wake_at: None };
    retire(policy, slots, now, &mut plan);

    let active = slots.iter().filter(|slot| slot.state == State::Active);
    let demote = active.map(|slot| slot.id.clone()).collect();
    // The oldest that can still live: it has been published for longest. What waits for an operator comes last.
    let prepared = slots
        .iter()
        .filter(|slot| slot.state == State::Prepared && slot.not_after > now)
        .min_by_key(|slot| (slot.held, slot.state_since, slot.published_revision));
    let signing = signing(slots, now);

    match (prepared, signing) {
        (None, None) => plan.effects.push(Effect::Start { demote }),
        (None, Some(signing)) => {
            let prepare_at = signing.eighths(4);
            if now >= prepare_at {
                plan.effects.push(Effect::Prepare);
            } else {
                plan.wake(prepare_at);
            }
        }
        (Some(prepared), Some(signing)) if prepared.held && now < signing.eighths(4) => {
            plan.wake(signing.eighths(4));
        }
        (Some(prepared), signing) => match decide(policy, prepared, signing, acknowledged, now) {
            Decision::Wait(until) => plan.wake(until),
            Decision::Activate { forced } => {
                plan.effects.push(Effect::Activate { id: prepared.id.clone(), demote, forced })
            }
        },
    }
    plan
}

enum Decision {
    Wait(UnixTime),
    Activate { forced: bool },
}

fn decide(
    policy: &Policy,
    prepared: &Slot,
    signing: Option<&Slot>,
    acknowledged: Acknowledged,
    now: UnixTime,
) -> Decision {
    let Some(floor) = policy.floor else {
        return Decision::Activate { forced: false };
    };
    let floor_ends = prepared.state_since.saturating_add(floor);
    let known = match acknowledged {
        Acknowledged::Through(revision) => revision >= prepared.published_revision,
        Acknowledged::NobodyConnected => now >= floor_ends,
    };
    // Without a key that can sign, waiting helps nobody.
    let deadline = signing.map_or(now, |signing| signing.eighths(7));
    if known || now >= deadline {
        return Decision::Activate { forced: !known };
    }
    // The floor only ends the wait while nobody is connected, but waking for it costs nothing.
    let next = if floor_ends > now { deadline.min(floor_ends) } else { deadline };
    Decision::Wait(next)
}

/// Old and tainted keys whose signatures have expired, prepared keys that ended before they ever signed, and revoked
/// ones that nobody would believe any more.
fn retire(policy: &Policy, slots: &[Slot], now: UnixTime, plan: &mut Plan) {
    for slot in slots {
        let retire_at = match slot.state {
            State::Active => continue,
            State::Prepared => slot.not_after,
            State::Old | State::Tainted => {
                slot.state_since.saturating_add(policy.signature_lifetime).saturating_add(policy.margin)
            }
            State::Revoked => slot.not_after.saturating_add(policy.margin),
        };
        if now >= retire_at {
            let id = slot.id.clone();
            // Whoever has stolen it can sign until its certificate ends.
            let effect =
                if slot.state == State::Tainted { Effect::Revoke { id } } else { Effect::Retire { id } };
            plan.effects.push(effect);
        } else {
            plan.wake(retire_at);
        }
    }
}

impl Plan {
    fn wake(&mut self, at: UnixTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

#[cfg(test)]
mod tests;
