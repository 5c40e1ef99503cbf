//! A "no" that a person can act on.

use std::borrow::Cow;

use bonafide_wire::{IntoStatus, types::Problem};
use tonic::{Code, Status};

/// Why something is not done: a stable code, one line for people, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    kind: Code,
    code: Cow<'static, str>,
    message: String,
    hint: Cow<'static, str>,
}

impl Refusal {
    /// `code` is `area.what-happened`; the message is lower case, one line, values in backticks, without secrets.
    pub fn new(kind: Code, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { kind, code: code.into(), message: message.into(), hint: Cow::Borrowed("") }
    }

    /// The request itself is wrong.
    pub fn invalid(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, code, message)
    }

    /// The caller, or a site, may not.
    pub fn denied(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, code, message)
    }

    /// What was named does not exist, as far as the caller may know.
    pub fn not_found(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, code, message)
    }

    /// Not in the present state.
    pub fn precondition(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, code, message)
    }

    /// Nobody's fault that the caller could mend, except by trying again.
    pub fn unavailable(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, code, message)
    }

    /// What to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Stable, machine readable.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// One line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do next; may be empty.
    #[must_use]
    pub fn hint_text(&self) -> &str {
        &self.hint
    }

    /// The gRPC code that it travels under.
    #[must_use]
    pub fn kind(&self) -> Code {
        self.kind
    }

    /// For the wire.
    #[must_use]
    pub fn to_problem(&self) -> Problem {
        Problem { code: self.code.to_string(), message: self.message.clone(), hint: self.hint.to_string() }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.to_problem().into_status(refusal.kind)
    }
}
