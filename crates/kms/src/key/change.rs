//! What can be changed about a key, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Ceilings, Key, KeyError, Local, MAX_VERSIONS, MIN_GRACE, State, Version};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a version, and make it the primary. Its secret was drawn, or imported.
    Rotate {
        /// Whether its secret was made elsewhere.
        imported: bool,
    },
    /// Set what can be set.
    Configure(Settings),
    /// Take out of use.
    Disable(Target),
    /// Take into use again.
    Enable(Target),
    /// Take out of use, and destroy at `at` unless that is cancelled.
    ScheduleDestruction {
        /// What.
        target: Target,
        /// When; an hour ahead at least.
        at: i64,
    },
    /// Cancel that. What was to be destroyed is disabled then.
    CancelDestruction(Target),
    /// The grace period is over: destroy the secret.
    Destroy(Target),
    /// Take all versions below this one away for ever.
    Trim(u32),
    /// Give it one more name.
    AddAlias(String),
    /// Take a name away.
    RemoveAlias(String),
}

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The key as a whole.
    Key,
    /// One version.
    Version(u32),
}

/// What can be set: what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The primary version.
    pub primary: Option<u32>,
    /// See [`Key::min_encrypt`].
    pub min_encrypt: Option<u32>,
    /// See [`Key::min_decrypt`].
    pub min_decrypt: Option<u32>,
    /// The period of automatic rotation; `Some(None)` ends it.
    pub rotation: Option<Option<Duration>>,
    /// See [`Key::local`].
    pub local: Option<Local>,
    /// See [`Key::max_stale`].
    pub max_stale: Option<Duration>,
    /// See [`Key::ceilings`].
    pub ceilings: Option<Ceilings>,
    /// See [`Key::audit_sync`].
    pub audit_sync: Option<bool>,
    /// See [`Key::sites`].
    pub sites: Option<BTreeSet<String>>,
    /// See [`Key::labels`].
    pub labels: Option<BTreeMap<String, String>>,
}

pub(super) fn apply(key: &Key, change: &Change, now: i64) -> Result<Key, KeyError> {
    if key.state == State::Destroyed {
        return Err(KeyError::KeyDestroyed);
    }
    let mut next = key.clone();
    match change {
        Change::Rotate { imported } => rotate(&mut next, *imported, now)?,
        Change::Configure(settings) => configure(&mut next, settings, now)?,
        Change::Disable(target) => match target {
            Target::Key => switch(&mut next.state, State::Disabled, KeyError::KeyScheduled)?,
            Target::Version(number) => {
                let version = secondary(&mut next, *number)?;
                switch(&mut version.state, State::Disabled, KeyError::Scheduled(*number))?;
            }
        },
        Change::Enable(target) => match target {
            Target::Key => switch(&mut next.state, State::Enabled, KeyError::KeyScheduled)?,
            Target::Version(number) => {
                let version = living(&mut next, *number)?;
                switch(&mut version.state, State::Enabled, KeyError::Scheduled(*number))?;
            }
        },
        Change::ScheduleDestruction { target, at } => {
            if at.checked_sub(now).is_none_or(|grace| grace < MIN_GRACE.as_secs().cast_signed()) {
                return Err(KeyError::Grace);
            }
            *state_of(&mut next, *target)? = State::DestroyScheduled(*at);
        }
        Change::CancelDestruction(target) => {
            let state = state_of(&mut next, *target)?;
            if !matches!(state, State::DestroyScheduled(_)) {
                return Err(KeyError::NotScheduled);
            }
            *state = State::Disabled;
        }
        Change::Destroy(target) => {
            let state = state_of(&mut next, *target)?;
            match state {
                State::DestroyScheduled(at) if *at <= now => *state = State::Destroyed,
                State::DestroyScheduled(_) => return Err(KeyError::NotYet),
                State::Enabled | State::Disabled | State::Destroyed => return Err(KeyError::NotScheduled),
            }
            if *target == Target::Key {
                next.versions.values_mut().for_each(|version| version.state = State::Destroyed);
                (next.rotation, next.next_rotation) = (None, None);
            }
        }
        Change::Trim(below) => {
            // Said twice is said once.
            if *below > next.min_decrypt {
                return Err(KeyError::Trim(next.min_decrypt));
            }
            if *below > next.trimmed {
                next.versions = next.versions.split_off(below);
                next.trimmed = *below;
            }
        }
        Change::AddAlias(alias) => {
            if *alias == next.name || !next.aliases.insert(alias.clone()) {
                return Err(KeyError::AliasExists(alias.clone()));
            }
        }
        Change::RemoveAlias(alias) => {
            if !next.aliases.remove(alias) {
                return Err(KeyError::NoAlias(alias.clone()));
            }
        }
    }
    next.check()?;
    Ok(next)
}

fn rotate(key: &mut Key, imported: bool, now: i64) -> Result<(), KeyError> {
    match key.state {
        State::Enabled | State::Disabled => {}
        State::DestroyScheduled(_) => return Err(KeyError::KeyScheduled),
        State::Destroyed => return Err(KeyError::KeyDestroyed),
    }
    let number = key.newest().checked_add(1).filter(|_| key.versions.len() < MAX_VERSIONS);
    let number = number.ok_or(KeyError::Bounds)?;
    key.versions.insert(number, Version { state: State::Enabled, created: now, imported });
    key.primary = number;
    key.next_rotation = key.rotation.map(|period| after(now, period));
    Ok(())
}

fn configure(key: &mut Key, settings: &Settings, now: i64) -> Result<(), KeyError> {
    if let Some(primary) = settings.primary {
        match living(key, primary)?.state {
            State::Enabled => key.primary = primary,
            State::DestroyScheduled(_) => return Err(KeyError::Scheduled(primary)),
            State::Disabled | State::Destroyed => return Err(KeyError::Disabled(primary)),
        }
    }
    if let Some(least) = settings.min_encrypt {
        key.min_encrypt = least;
    }
    if let Some(least) = settings.min_decrypt {
        key.min_decrypt = least;
    }
    let ordered = key.trimmed <= key.min_decrypt
        && key.min_decrypt <= key.min_encrypt
        && key.min_encrypt <= key.primary;
    if !ordered {
        return Err(KeyError::Minimum);
    }
    if let Some(rotation) = settings.rotation
        && rotation != key.rotation
    {
        key.rotation = rotation;
        // From the birth of the newest version on, so that setting it again and again puts nothing off.
        let newest = key.versions.values().next_back().map_or(now, |version| version.created);
        key.next_rotation = rotation.map(|period| after(newest, period).max(now));
    }
    if let Some(local) = settings.local {
        key.local = local;
    }
    if let Some(max_stale) = settings.max_stale {
        key.max_stale = max_stale;
    }
    if let Some(ceilings) = settings.ceilings {
        key.ceilings = ceilings;
    }
    if let Some(audit_sync) = settings.audit_sync {
        key.audit_sync = audit_sync;
    }
    if let Some(sites) = &settings.sites {
        key.sites.clone_from(sites);
    }
    if let Some(labels) = &settings.labels {
        key.labels.clone_from(labels);
    }
    Ok(())
}

/// A version whose secret is there.
fn living(key: &mut Key, number: u32) -> Result<&mut Version, KeyError> {
    if number < key.trimmed {
        return Err(KeyError::Trimmed(number));
    }
    let version = key.versions.get_mut(&number).ok_or(KeyError::NoVersion(number))?;
    if version.state == State::Destroyed { Err(KeyError::Destroyed(number)) } else { Ok(version) }
}

/// A version whose secret is there, and that is not the primary.
fn secondary(key: &mut Key, number: u32) -> Result<&mut Version, KeyError> {
    if key.primary == number { Err(KeyError::Primary(number)) } else { living(key, number) }
}

fn state_of(key: &mut Key, target: Target) -> Result<&mut State, KeyError> {
    match target {
        Target::Key => Ok(&mut key.state),
        Target::Version(number) => Ok(&mut secondary(key, number)?.state),
    }
}

/// Between enabled and disabled; destruction has to be cancelled in so many words.
fn switch(state: &mut State, to: State, scheduled: KeyError) -> Result<(), KeyError> {
    if matches!(state, State::DestroyScheduled(_)) {
        return Err(scheduled);
    }
    *state = to;
    Ok(())
}

fn after(now: i64, period: Duration) -> i64 {
    now.saturating_add_unsigned(period.as_secs())
}
