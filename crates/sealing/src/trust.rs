//! Why a document is not believed.

/// Why a document is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// It does not follow the one that was trusted before.
    #[error("this {0} does not continue the one that is trusted")]
    Chain(&'static str),
    /// Its time is over.
    #[error("the {0} has expired")]
    Expired(&'static str),
    /// Its numbers contradict each other.
    #[error("the numbers of the {0} do not fit together")]
    Inconsistent(&'static str),
    /// One key is delegated for two purposes, or listed twice.
    #[error("a key of the {0} is listed twice")]
    KeyTwice(&'static str),
    /// It belongs to another tenant, keyset, version or roster.
    #[error("the {0} belongs to something else")]
    Mismatch(&'static str),
    /// Its time has not come.
    #[error("the {0} is not valid yet")]
    NotYetValid(&'static str),
    /// An older one than one that was seen.
    #[error("a newer {0} was seen before")]
    Stale(&'static str),
    /// Fewer valid signatures than needed.
    #[error("the {what} has `{have}` of the `{need}` signatures of {whom} that it needs")]
    Unsigned {
        /// Which document.
        what: &'static str,
        /// Whose signatures.
        whom: &'static str,
        /// Valid ones.
        have: usize,
        /// Needed ones.
        need: usize,
    },
    /// A lower threshold that does not say so.
    #[error("the roster lowers the threshold without saying so")]
    Weaker,
}

impl TrustError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Chain(_) => "sealing.not-a-successor",
            Self::Expired(_) => "sealing.expired",
            Self::Inconsistent(_) => "sealing.inconsistent",
            Self::KeyTwice(_) => "sealing.key-twice",
            Self::Mismatch(_) => "sealing.mismatch",
            Self::NotYetValid(_) => "sealing.not-yet-valid",
            Self::Stale(_) => "sealing.stale",
            Self::Unsigned { .. } => "sealing.signatures-missing",
            Self::Weaker => "sealing.threshold-lowered",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Chain(_) | Self::Stale(_) => {
                "get the newest one from the owner; somebody may show you an old one"
            }
            Self::Expired(_) => "ask the owner for a newer one; check the clock of this machine",
            Self::NotYetValid(_) => "wait until it is valid; check the clock of this machine",
            Self::Inconsistent(_) => "do not use it: whoever made it was wrong, or lied",
            Self::KeyTwice(_) => "use a key of its own for each purpose",
            Self::Mismatch(_) => "check that all documents are of the same tenant, keyset and version",
            Self::Unsigned { .. } => "have it signed by those who must; somebody may have changed it since",
            Self::Weaker => "set `lower_threshold` in the roster if that is what owner and operators want",
        }
    }
}

/// An error unless it holds.
pub(crate) fn ensure(holds: bool, error: TrustError) -> Result<(), TrustError> {
    if holds { Ok(()) } else { Err(error) }
}

/// An error unless enough have signed.
pub(crate) fn ensure_signed(
    what: &'static str,
    whom: &'static str,
    have: usize,
    need: usize,
) -> Result<(), TrustError> {
    ensure(have >= need, TrustError::Unsigned { what, whom, have, need })
}
