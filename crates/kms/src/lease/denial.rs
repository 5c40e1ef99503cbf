//! Why a lease does not help.

/// Why nothing can be done with a lease now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denial {
    /// Too many questions are open.
    #[error("too many leases are being asked for")]
    Busy,
    /// The holder's identity has ended, or there is none yet.
    #[error("the identity that the leases belong to has ended")]
    IdentityEnded,
    /// The authority has refused.
    #[error("{message}")]
    Refused {
        /// Its code.
        code: String,
        /// Its words.
        message: String,
        /// What it advises.
        hint: String,
    },
    /// Nothing was heard of the authority for longer than the key allows.
    #[error("the authority was not heard for longer than this key allows")]
    Stale,
    /// More bytes at once than the whole lease is good for.
    #[error("the message has more bytes than a lease of this key is good for")]
    TooLarge,
    /// There is no lease, and the authority can't be asked for one.
    #[error("there is no lease for this, and the authority can't be reached")]
    Unreachable,
}

impl Denial {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Busy => "kms.busy",
            Self::IdentityEnded => "kms.identity-ended",
            Self::Refused { code, .. } => code,
            Self::Stale => "kms.stale",
            Self::TooLarge => "kms.too-long",
            Self::Unreachable => "kms.unreachable",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Busy => "ask again in a moment",
            Self::IdentityEnded => "see why the workload has no SVID any more: `bonafide instance list`",
            Self::Refused { hint, .. } => hint,
            Self::Stale | Self::Unreachable => {
                "see whether the agent reaches an authority; `max_stale` of the key says how long it may be without one"
            }
            Self::TooLarge => "send smaller pieces, or raise `max_bytes` of the key's leases",
        }
    }
}
