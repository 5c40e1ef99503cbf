//! What operators ask for, and when they may have it.

use bonafide_identity::time::UnixTime;

use super::{Acknowledged, Effect, Policy, Slot, State};

/// Most keys of one kind that an operator can bring into the bundle. Automatic rotation needs three at most. A verifier
/// looks for the root by its key identifier, so that they cost it nothing; but the bundle goes to everybody.
pub const MAX_PUBLISHED: usize = 8;

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A key that is published and not used yet.
    Prepare,
    /// This key shall sign from now on.
    Activate {
        /// A prepared key.
        id: String,
        /// Although agents may not know it yet: they, and their workloads, refuse what it signs until they do.
        force: bool,
    },
    /// Whatever this key signed shall be renewed, and it shall never sign again.
    Taint {
        /// The key.
        id: String,
        /// Although it is the one that signs, and nothing prepared may be known to all.
        force: bool,
    },
    /// Nobody shall believe this key any more.
    Revoke {
        /// The key.
        id: String,
        /// Although what it signed is in use.
        force: bool,
    },
}

/// What agents have told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// How far they have followed the log.
    pub acknowledged: Acknowledged,
    /// Nothing that they or their workloads use was signed by a tainted key.
    pub renewed: bool,
}

/// Why an operator does not get what he asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The key signs.
    #[error("the key `{0}` is the one that signs")]
    Active(String),
    /// The key's life is over.
    #[error("the key `{0}` has expired")]
    Expired(String),
    /// Some agent does not have the bundle with the key yet.
    #[error("the key `{0}` is not known to every agent yet")]
    NotAcknowledged(String),
    /// Only a prepared key can become active.
    #[error("the key `{id}` is {state}, not prepared")]
    NotPrepared {
        /// The key.
        id: String,
        /// What it is.
        state: &'static str,
    },
    /// Something that it signed is in use.
    #[error("agents or workloads still use what the key `{0}` signed")]
    NotRenewed(String),
    /// What it signed is valid, and nobody was told to renew it.
    #[error("the key `{0}` is not tainted: what it signed is in use")]
    NotTainted(String),
    /// The bundle has as many as it may have.
    #[error("there are {MAX_PUBLISHED} such keys already")]
    TooMany,
    /// There is no such key.
    #[error("there is no key `{0}` of this kind")]
    Unknown(String),
}

/// What to do for an order, as one commit. `None`: it is so already.
///
/// # Errors
/// [`OrderError`] says what would break, or what is not there.
pub fn order(
    policy: &Policy,
    slots: &[Slot],
    known: Known,
    order: &Order,
    now: UnixTime,
) -> Result<Option<Effect>, OrderError> {
    let find =
        |id: &String| slots.iter().find(|slot| slot.id == *id).ok_or_else(|| OrderError::Unknown(id.clone()));
    match order {
        Order::Prepare => {
            if slots.iter().any(|slot| slot.state == State::Prepared && slot.not_after > now) {
                return Ok(None);
            }
            if slots.iter().filter(|slot| slot.state != State::Revoked).count() >= MAX_PUBLISHED {
                return Err(OrderError::TooMany);
            }
            Ok(Some(Effect::Prepare))
        }
        Order::Activate { id, force } => {
            let slot = find(id)?;
            match slot.state {
                State::Active => return Ok(None),
                State::Prepared => {}
                state => return Err(OrderError::NotPrepared { id: id.clone(), state: state.as_str() }),
            }
            if slot.not_after <= now {
                return Err(OrderError::Expired(id.clone()));
            }
            let acknowledged = match known.acknowledged {
                _ if policy.floor.is_none() => true,
                Acknowledged::NobodyConnected => true,
                Acknowledged::Through(revision) => revision >= slot.published_revision,
            };
            if !acknowledged && !force {
                return Err(OrderError::NotAcknowledged(id.clone()));
            }
            let active = slots.iter().filter(|slot| slot.state == State::Active);
            let demote = active.map(|slot| slot.id.clone()).collect();
            Ok(Some(Effect::Activate { id: id.clone(), demote, forced: !acknowledged }))
        }
        Order::Taint { id, force } => match find(id)?.state {
            State::Tainted | State::Revoked => Ok(None),
            // Of one that is not published another can be made at any time.
            State::Active if policy.floor.is_some() && !force => Err(OrderError::Active(id.clone())),
            State::Active | State::Prepared | State::Old => Ok(Some(Effect::Taint { id: id.clone() })),
        },
        Order::Revoke { id, force } => match find(id)?.state {
            State::Revoked => Ok(None),
            State::Active if !force => Err(OrderError::Active(id.clone())),
            State::Old if !force => Err(OrderError::NotTainted(id.clone())),
            State::Tainted if !force && !known.renewed => Err(OrderError::NotRenewed(id.clone())),
            State::Active | State::Old | State::Tainted | State::Prepared => {
                Ok(Some(Effect::Revoke { id: id.clone() }))
            }
        },
    }
}

impl State {
    /// In words: `prepared`, `active`, `old`, `tainted`, `revoked`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Old => "old",
            Self::Tainted => "tainted",
            Self::Revoked => "revoked",
        }
    }
}

impl OrderError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Active(_) => "ca.active",
            Self::Expired(_) => "ca.expired",
            Self::NotAcknowledged(_) => "ca.not-acknowledged",
            Self::NotPrepared { .. } => "ca.not-prepared",
            Self::NotRenewed(_) => "ca.not-renewed",
            Self::NotTainted(_) => "ca.not-tainted",
            Self::TooMany => "ca.too-many",
            Self::Unknown(_) => "ca.unknown",
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Active(_) => {
                "prepare and activate another one first; --force does it without, and agents that don't know the new key \
                 refuse what it signs until they do"
            }
            Self::Expired(_) => "prepare another one",
            Self::NotAcknowledged(_) => {
                "wait for the agents with --wait; --force does not wait, and those that are behind refuse what it signs \
                 until they have caught up"
            }
            Self::NotPrepared { .. } => "prepare one, or name the prepared one that `bonafide ca show` lists",
            Self::NotRenewed(_) => {
                "wait for the agents with --wait; --force does not wait, and what was not renewed is refused everywhere"
            }
            Self::NotTainted(_) => {
                "taint it first, so that everything is renewed; --force does not, and what it signed is refused everywhere"
            }
            Self::TooMany => "revoke those that are not needed any more, or wait until old ones are retired",
            Self::Unknown(_) => "`bonafide ca show` lists them",
        }
    }
}
