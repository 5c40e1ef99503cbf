//! Why a key is not changed or not used.

use crate::algorithm::{KeyType, Operation};

/// Why a key is not as it should be, may not be changed so, or not be used so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The primary version must stay enabled.
    #[error("version {0} is the primary: it stays enabled as long as the key does")]
    Primary(u32),
    /// There is an alias of this name, or the key itself has it.
    #[error("the key is called `{0}` already")]
    AliasExists(String),
    /// Too many aliases, sites, labels or versions, or one that is too long.
    #[error("too many aliases, sites, labels or versions, or a text of more than 128 bytes")]
    Bounds,
    /// A ceiling is zero, or above the highest.
    #[error("a ceiling of leases is zero, or above a day, 2^32 messages or 2^50 bytes")]
    Ceilings,
    /// Only ciphers can be convergent.
    #[error("a key of kind `{0}` can't be convergent")]
    Convergent(KeyType),
    /// The version was destroyed.
    #[error("version {0} was destroyed")]
    Destroyed(u32),
    /// The version is disabled.
    #[error("version {0} is disabled")]
    Disabled(u32),
    /// The private half is in a device.
    #[error("the private half of the key is in a device: it is drawn there, and never leaves it")]
    External,
    /// Nothing is done with it but at the authority.
    #[error("a key whose private half is in a device has `local: never`")]
    ExternalLocal,
    /// A device has no such keys.
    #[error("a key of kind `{0}` can't be in a device")]
    ExternalType(KeyType),
    /// The grace period is too short.
    #[error("destruction is scheduled at least an hour ahead")]
    Grace,
    /// The parts of the key contradict each other.
    #[error("the key contradicts itself")]
    Inconsistent,
    /// The key as a whole was destroyed.
    #[error("the key was destroyed")]
    KeyDestroyed,
    /// The key as a whole is disabled.
    #[error("the key is disabled")]
    KeyDisabled,
    /// The key as a whole is to be destroyed.
    #[error("the key is scheduled for destruction")]
    KeyScheduled,
    /// The bounds of versions are not in order.
    #[error("`min_decrypt` <= `min_encrypt` <= primary does not hold, or a bound names no version")]
    Minimum,
    /// Not a name.
    #[error("`{0}` is no name of a key")]
    Name(String),
    /// No such alias.
    #[error("the key has no alias `{0}`")]
    NoAlias(String),
    /// No such version.
    #[error("the key has no version {0}")]
    NoVersion(u32),
    /// It was not declared exportable at its birth.
    #[error("the key was not declared exportable at its birth")]
    NotExportable,
    /// There is nothing to cancel.
    #[error("no destruction is scheduled")]
    NotScheduled,
    /// It is not time yet.
    #[error("the grace period has not ended")]
    NotYet,
    /// The period of rotation is too short or too long.
    #[error("a key rotates every hour at most, and every ten years at least")]
    Rotation,
    /// The version is to be destroyed.
    #[error("version {0} is scheduled for destruction")]
    Scheduled(u32),
    /// `max_stale` is zero or longer than a day.
    #[error("`max_stale` is zero or longer than a day")]
    Stale,
    /// Versions are below one of the bounds.
    #[error("version {version} is below {least}, the oldest that may do this")]
    TooOld {
        /// The one that was asked for.
        version: u32,
        /// The oldest that may.
        least: u32,
    },
    /// Only versions below `min_decrypt` are trimmed.
    #[error("only versions below `min_decrypt`, which is {0}, can be trimmed")]
    Trim(u32),
    /// The version was trimmed.
    #[error("version {0} was trimmed")]
    Trimmed(u32),
    /// A key of this kind can't do this.
    #[error("a key of kind `{key_type}` can't {operation}")]
    Unfit {
        /// The key's kind.
        key_type: KeyType,
        /// What was asked.
        operation: Operation,
    },
}

impl KeyError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Primary(_) => "kms.version-primary",
            Self::AliasExists(_) => "kms.alias-exists",
            Self::Bounds => "kms.key-bounds",
            Self::Ceilings => "kms.key-ceilings",
            Self::Convergent(_) => "kms.key-convergent",
            Self::Destroyed(_) => "kms.version-destroyed",
            Self::Disabled(_) => "kms.version-disabled",
            Self::External => "kms.external",
            Self::ExternalLocal => "kms.external-local",
            Self::ExternalType(_) => "kms.external-type",
            Self::Grace => "kms.grace-too-short",
            Self::Inconsistent => "kms.key-inconsistent",
            Self::KeyDestroyed => "kms.key-destroyed",
            Self::KeyDisabled => "kms.key-disabled",
            Self::KeyScheduled => "kms.key-destroy-scheduled",
            Self::Minimum => "kms.version-bounds",
            Self::Name(_) => "kms.key-name",
            Self::NoAlias(_) => "kms.no-alias",
            Self::NoVersion(_) => "kms.no-version",
            Self::NotExportable => "kms.not-exportable",
            Self::NotScheduled => "kms.not-scheduled",
            Self::NotYet => "kms.destroy-not-due",
            Self::Rotation => "kms.rotation-period",
            Self::Scheduled(_) => "kms.version-destroy-scheduled",
            Self::Stale => "kms.key-max-stale",
            Self::TooOld { .. } => "kms.version-too-old",
            Self::Trim(_) => "kms.trim-bound",
            Self::Trimmed(_) => "kms.version-trimmed",
            Self::Unfit { .. } => "kms.operation-unfit",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Primary(_) => {
                "make another version the primary first (`bonafide key rotate`), or disable the key"
            }
            Self::AliasExists(_) | Self::NoAlias(_) => "`bonafide key show` lists its aliases",
            Self::Bounds => "use fewer or shorter ones; trim old versions",
            Self::Ceilings | Self::Stale => "choose a value within the bounds",
            Self::Convergent(_) => "declare only AES or ChaCha20 keys convergent",
            Self::Destroyed(_) | Self::KeyDestroyed | Self::Trimmed(_) => {
                "it is gone for good; what was encrypted under it can't be read any more"
            }
            Self::Disabled(_) | Self::KeyDisabled => "`bonafide key enable` brings it back",
            Self::External => "use it where it is; create a key without `--external` if it has to move",
            Self::ExternalLocal => "leave `local` out",
            Self::ExternalType(_) => "choose `ecdsa-p256`, `ecdsa-p384` or an RSA key",
            Self::Grace => "give a longer grace period, an hour at least",
            Self::Inconsistent => "check where the record came from; this is never written",
            Self::KeyScheduled | Self::Scheduled(_) => "`bonafide key restore` cancels the destruction",
            Self::Minimum => {
                "`bonafide key show` lists the versions; raise the bounds from above, lower them from below"
            }
            Self::Name(_) => {
                "use segments of letters, digits, `.`, `_` and `-`, separated by `/`, that don't begin with a dot or a dash; 128 bytes"
            }
            Self::NoVersion(_) => "`bonafide key show` lists the versions",
            Self::NotExportable => {
                "create a key with `--exportable` if it has to leave; this one can't become so"
            }
            Self::NotScheduled => "there is nothing to do",
            Self::NotYet => "wait until the grace period is over",
            Self::Rotation => "choose a period between an hour and ten years",
            Self::TooOld { .. } => {
                "rewrap what is under it, or lower `min_decrypt` or `min_encrypt` of the key"
            }
            Self::Trim(_) => "raise `min_decrypt` first, and see that nothing is refused",
            Self::Unfit { .. } => "`bonafide key show` says what the key is for; use one of another kind",
        }
    }
}
