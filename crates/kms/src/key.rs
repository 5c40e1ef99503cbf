//! A key and its versions: names, states, and what may be changed. No secret is here.
//!
//! ```text
//! version:  enabled <--> disabled      enabled, disabled --> destruction scheduled --> destroyed
//!                                      destruction scheduled --(cancelled)--> disabled
//! ```
//!
//! - One version is the *primary*: it encrypts and signs where no version is asked for. It is enabled as long as the key is.
//! - `min_decrypt <= min_encrypt <= primary`: older versions stay, but are of no use until the bound is lowered again.
//! - *Trimming* takes versions away for ever, all below a bound that only rises.
//! - Destruction waits for a grace period, and can be cancelled until then. What is destroyed stays destroyed.
//! - What a key is born with (its kind, whether it may leave, whether it is convergent) never changes.

mod change;
mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::change::{Change, Settings, Target};
pub use self::error::KeyError;
use crate::algorithm::{KeyType, Operation};
use crate::ciphertext::KeyId;

/// The shortest period of automatic rotation.
pub const MIN_ROTATION: Duration = Duration::from_secs(3600);
/// The shortest grace period before destruction.
pub const MIN_GRACE: Duration = Duration::from_secs(3600);
/// Versions that are not trimmed.
pub const MAX_VERSIONS: usize = 1000;
/// Aliases of one key.
pub const MAX_ALIASES: usize = 32;
/// Sites that one key can be limited to.
pub const MAX_SITES: usize = 64;
/// Labels of one key.
pub const MAX_LABELS: usize = 32;
/// Bytes of a name, an alias, a site, and of name and value of a label.
pub const MAX_NAME: usize = 128;

/// A key, as far as everybody may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Which one. Drawn at random.
    pub id: KeyId,
    /// What people call it: segments, separated by `/`, of letters, digits, `.`, `_`, `-`, none of which begins with a dot or a
    /// dash.
    pub name: String,
    /// Other names for it, of the same form.
    pub aliases: BTreeSet<String>,
    /// What kind it is.
    pub key_type: KeyType,
    /// What it was declared to be when it was made.
    pub birth: Birth,
    /// Its state as a whole.
    pub state: State,
    /// Its versions, by number, from 1 on. Trimmed ones are gone.
    pub versions: BTreeMap<u32, Version>,
    /// The version that encrypts and signs.
    pub primary: u32,
    /// The oldest version that a caller may ask to encrypt, sign or make MACs with.
    pub min_encrypt: u32,
    /// The oldest version that decrypts and verifies.
    pub min_decrypt: u32,
    /// All versions below were taken away for ever.
    pub trimmed: u32,
    /// How often a new version is made.
    pub rotation: Option<Duration>,
    /// When the next one is due.
    pub next_rotation: Option<i64>,
    /// Where its data keys may be.
    pub local: Local,
    /// How long a holder of leases may have heard nothing before it refuses.
    pub max_stale: Duration,
    /// What one lease is good for.
    pub ceilings: Ceilings,
    /// Whether each use waits until its record is on disk.
    pub audit_sync: bool,
    /// The sites whose workloads may use it. Empty: all.
    pub sites: BTreeSet<String>,
    /// What policies select keys by.
    pub labels: BTreeMap<String, String>,
}

/// What never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Birth {
    /// When: seconds since 1970.
    pub at: i64,
    /// The key itself may be given out.
    pub exportable: bool,
    /// The same plaintext in the same context gives the same ciphertext.
    pub convergent: bool,
    /// The private half of each version is in a device. Such a key is used at the authority alone, but for its public half.
    pub external: bool,
}

/// The state of a key or of a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// In use.
    #[default]
    Enabled,
    /// Not in use; can be enabled again.
    Disabled,
    /// Not in use, and its secret is destroyed at this moment unless that is cancelled.
    DestroyScheduled(i64),
    /// Its secret is gone.
    Destroyed,
}

/// One version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its state.
    pub state: State,
    /// When it was made.
    pub created: i64,
    /// Whether its secret was made elsewhere.
    pub imported: bool,
}

/// Where data keys may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Local {
    /// In the workload's process.
    #[default]
    Process,
    /// In its agent, not in the workload.
    Agent,
    /// Nowhere: every use is the authority's.
    Never,
}

/// What one lease is good for. Whichever comes first ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// Since it was granted.
    pub age: Duration,
    /// Encryptions.
    pub messages: u64,
    /// Bytes of plaintext.
    pub bytes: u64,
}

impl Ceilings {
    /// What a key has if nothing else is said: five minutes, 2^20 messages, 64 GiB.
    pub const DEFAULT: Self = Self { age: Duration::from_secs(300), messages: 1 << 20, bytes: 64 << 30 };
    /// More than this a key can't have: a day, 2^32 messages, 2^50 bytes.
    pub const MOST: Self = Self { age: Duration::from_secs(86_400), messages: 1 << 32, bytes: 1 << 50 };

    /// The smaller of both, each for itself.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        Self {
            age: self.age.min(other.age),
            messages: self.messages.min(other.messages),
            bytes: self.bytes.min(other.bytes),
        }
    }
}

impl Default for Ceilings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Local {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Agent => "agent",
            Self::Never => "never",
        }
    }

    /// The place of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Process, Self::Agent, Self::Never].into_iter().find(|local| local.as_str() == name)
    }
}

impl State {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::DestroyScheduled(_) => "destroy-scheduled",
            Self::Destroyed => "destroyed",
        }
    }
}

impl Key {
    /// A new key with version 1, which is its primary.
    ///
    /// # Errors
    /// [`KeyError`] if the name is none, or a key of this kind can't be born so.
    pub fn new(
        id: KeyId,
        name: &str,
        key_type: KeyType,
        birth: Birth,
        imported: bool,
    ) -> Result<Self, KeyError> {
        let version = Version { state: State::Enabled, created: birth.at, imported };
        let key = Self {
            id,
            name: name.to_owned(),
            aliases: BTreeSet::new(),
            key_type,
            birth,
            state: State::Enabled,
            versions: BTreeMap::from([(1, version)]),
            primary: 1,
            min_encrypt: 1,
            min_decrypt: 1,
            trimmed: 1,
            rotation: None,
            next_rotation: None,
            local: if birth.external { Local::Never } else { Local::default() },
            max_stale: DEFAULT_STALE,
            ceilings: Ceilings::DEFAULT,
            audit_sync: false,
            sites: BTreeSet::new(),
            labels: BTreeMap::new(),
        };
        key.check()?;
        Ok(key)
    }

    /// Makes a change. What comes back satisfies [`Self::check`], as this must.
    ///
    /// # Errors
    /// [`KeyError`] says why not; nothing has changed then.
    pub fn apply(&self, change: &Change, now: i64) -> Result<Self, KeyError> {
        change::apply(self, change, now)
    }

    /// The changes whose time has come: rotation, and destruction at the end of a grace period. Each is to be
    /// [applied](Self::apply) with a commit of its own; a rotation needs a new secret.
    #[must_use]
    pub fn due(&self, now: i64) -> Vec<Change> {
        let past = |state: State| matches!(state, State::DestroyScheduled(at) if at <= now);
        if past(self.state) {
            return vec![Change::Destroy(Target::Key)];
        }
        let ended = self.versions.iter().filter(|(_, version)| past(version.state));
        let mut due: Vec<Change> =
            ended.map(|(number, _)| Change::Destroy(Target::Version(*number))).collect();
        if self.state == State::Enabled && self.next_rotation.is_some_and(|at| at <= now) {
            due.push(Change::Rotate { imported: false });
        }
        due
    }

    /// When [`Self::due`] has something next, if nothing else changes.
    #[must_use]
    pub fn next_due(&self) -> Option<i64> {
        let at = |state: State| match state {
            State::DestroyScheduled(at) => Some(at),
            State::Enabled | State::Disabled | State::Destroyed => None,
        };
        let rotation = self.next_rotation.filter(|_| self.state == State::Enabled);
        let versions = self.versions.values().filter_map(|version| at(version.state));
        versions.chain(rotation).chain(at(self.state)).min()
    }

    /// The version that does `operation`: the one that was asked for, or the primary.
    ///
    /// # Errors
    /// [`KeyError`] if the key can't do it, or that version may not.
    pub fn version_for(&self, operation: Operation, asked: Option<u32>) -> Result<u32, KeyError> {
        if !self.key_type.can(operation) {
            return Err(KeyError::Unfit { key_type: self.key_type, operation });
        }
        match self.state {
            State::Enabled => {}
            State::Disabled => return Err(KeyError::KeyDisabled),
            State::DestroyScheduled(_) => return Err(KeyError::KeyScheduled),
            State::Destroyed => return Err(KeyError::KeyDestroyed),
        }
        if operation == Operation::Fetch && self.birth.external {
            return Err(KeyError::External);
        }
        if operation == Operation::Fetch && !self.birth.exportable {
            return Err(KeyError::NotExportable);
        }
        let number = asked.unwrap_or(self.primary);
        if number < self.trimmed {
            return Err(KeyError::Trimmed(number));
        }
        let version = self.versions.get(&number).ok_or(KeyError::NoVersion(number))?;
        match version.state {
            State::Enabled => {}
            State::Disabled => return Err(KeyError::Disabled(number)),
            State::DestroyScheduled(_) => return Err(KeyError::Scheduled(number)),
            State::Destroyed => return Err(KeyError::Destroyed(number)),
        }
        let least = match operation {
            Operation::Encrypt | Operation::Mac | Operation::Sign | Operation::DataKey => self.min_encrypt,
            Operation::Decrypt
            | Operation::Rewrap
            | Operation::VerifyMac
            | Operation::Verify
            | Operation::Random
            | Operation::PublicKey
            | Operation::Fetch => self.min_decrypt,
        };
        if number < least { Err(KeyError::TooOld { version: number, least }) } else { Ok(number) }
    }

    /// Whether workloads of this site may use it.
    #[must_use]
    pub fn is_for_site(&self, site: &str) -> bool {
        self.sites.is_empty() || self.sites.contains(site)
    }

    /// Whether the secret of a version is still needed.
    #[must_use]
    pub fn has_secret(&self, number: u32) -> bool {
        self.versions.get(&number).is_some_and(|version| version.state != State::Destroyed)
    }

    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> u32 {
        self.versions.keys().next_back().copied().unwrap_or(0)
    }

    /// Checks everything that must hold of a key: for one that was read from somewhere.
    ///
    /// # Errors
    /// [`KeyError`] names the first thing that does not.
    pub fn check(&self) -> Result<(), KeyError> {
        for name in std::iter::once(&self.name).chain(&self.aliases) {
            if !is_name(name) {
                return Err(KeyError::Name(name.clone()));
            }
        }
        if self.birth.convergent && !self.key_type.is_cipher() {
            return Err(KeyError::Convergent(self.key_type));
        }
        if self.birth.external {
            if !self.key_type.can_be_external() {
                return Err(KeyError::ExternalType(self.key_type));
            }
            if self.birth.exportable || self.versions.values().any(|version| version.imported) {
                return Err(KeyError::External);
            }
            if self.local != Local::Never {
                return Err(KeyError::ExternalLocal);
            }
        }
        let bounded = self.aliases.len() <= MAX_ALIASES
            && self.sites.len() <= MAX_SITES
            && self.labels.len() <= MAX_LABELS
            && self.versions.len() <= MAX_VERSIONS;
        let texts = self.sites.iter().chain(self.labels.keys());
        let short =
            texts.clone().all(|text| !text.is_empty()) && texts.chain(self.labels.values()).all(is_short);
        if !bounded || !short || self.aliases.contains(&self.name) {
            return Err(KeyError::Bounds);
        }
        let c = self.ceilings;
        if c.least(Ceilings::MOST) != c || c.age.is_zero() || c.messages == 0 || c.bytes == 0 {
            return Err(KeyError::Ceilings);
        }
        if self.max_stale.is_zero() || self.max_stale > Ceilings::MOST.age {
            return Err(KeyError::Stale);
        }
        if self.rotation.is_some_and(|period| period < MIN_ROTATION || period > MAX_ROTATION) {
            return Err(KeyError::Rotation);
        }
        let dense = self.versions.keys().copied().eq(self.trimmed..=self.newest());
        let ordered = 1 <= self.trimmed
            && self.trimmed <= self.min_decrypt
            && self.min_decrypt <= self.min_encrypt
            && self.min_encrypt <= self.primary;
        let primary = self.versions.get(&self.primary).is_some_and(|version| match self.state {
            State::Destroyed => version.state == State::Destroyed,
            State::Enabled | State::Disabled | State::DestroyScheduled(_) => version.state == State::Enabled,
        });
        let timed = self.rotation.is_some() == self.next_rotation.is_some();
        let gone = self.state != State::Destroyed
            || self.versions.values().all(|version| version.state == State::Destroyed);
        if dense && ordered && primary && timed && gone { Ok(()) } else { Err(KeyError::Inconsistent) }
    }
}

/// The longest period of automatic rotation: ten years.
pub const MAX_ROTATION: Duration = Duration::from_secs(10 * 365 * 86_400);
const DEFAULT_STALE: Duration = Duration::from_secs(60);

/// Whether a key or an alias can be called so: one or more segments, as policies know keys.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('/').all(is_segment)
}

fn is_segment(segment: &str) -> bool {
    let begins = segment.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    begins && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[expect(clippy::ptr_arg, reason = "goes over strings as they lie in maps")]
fn is_short(text: &String) -> bool {
    text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}
