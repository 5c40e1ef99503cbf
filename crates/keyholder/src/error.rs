//! Refusals, as callers and operators are told them.

use bonafide_wire::IntoStatus as _;
use bonafide_wire::types::Problem;
use tonic::{Code, Status};

use crate::generated::worker;

/// Why something was not done: a code that stays, what happened, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    code: String,
    message: String,
    hint: String,
}

impl Refusal {
    pub(crate) fn new(code: &str, message: impl ToString, hint: &str) -> Self {
        Self { code: code.to_owned(), message: message.to_string(), hint: hint.to_owned() }
    }

    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }

    pub(crate) fn into_status(self) -> Status {
        let code = match self.code.as_str() {
            code if code.starts_with("keyholder.rate") => Code::ResourceExhausted,
            "keyholder.not-ready" | "keyholder.busy" | "keyholder.audit" | "sealing.deny-list-stale" => {
                Code::Unavailable
            }
            "keyholder.denied" | "keyholder.not-a-member" | "sealing.revoked" | "sealing.version-retired" => {
                Code::PermissionDenied
            }
            code if code.starts_with("x509.") || code.starts_with("keyholder.caller") => {
                Code::Unauthenticated
            }
            "keyholder.worker" | "keyholder.disk" => Code::Internal,
            _ => Code::InvalidArgument,
        };
        Problem { code: self.code, message: self.message, hint: self.hint }.into_status(code)
    }

    pub(crate) fn not_ready(why: &str) -> Self {
        Self::new("keyholder.not-ready", why, "see `bonafide keyholder status` on that keyholder")
    }
}

impl From<worker::Refusal> for Refusal {
    fn from(refusal: worker::Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message, hint: refusal.hint }
    }
}

impl From<Refusal> for worker::Refusal {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message, hint: refusal.hint }
    }
}

/// Errors of others that have a code and a hint.
macro_rules! refusals {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::new(error.code(), &error, error.hint())
            }
        })+
    };
}

refusals!(
    bonafide_identity::x509::X509Error,
    bonafide_sealing::ceremony::AbortReason,
    bonafide_sealing::deny::Denied,
    bonafide_sealing::document::FormatError,
    bonafide_sealing::share::ShareError,
    bonafide_sealing::trust::TrustError,
);

impl From<bonafide_sealing::ceremony::CeremonyError> for Refusal {
    fn from(error: bonafide_sealing::ceremony::CeremonyError) -> Self {
        Self::new(
            error.code(),
            &error,
            "see whether all keyholders have the same documents, then begin again",
        )
    }
}

impl From<bonafide_sealing::exchange::AnswerError> for Refusal {
    fn from(error: bonafide_sealing::exchange::AnswerError) -> Self {
        Self::new(error.code(), &error, "ask a keyholder of this keyset and version")
    }
}

impl From<bonafide_keyring::KeyringError> for Refusal {
    fn from(error: bonafide_keyring::KeyringError) -> Self {
        Self::new("keyholder.worker", format!("{error} ({})", error.code()), error.hint())
    }
}
