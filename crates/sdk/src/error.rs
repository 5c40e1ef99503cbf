use std::{borrow::Cow, io};

use bonafide_identity::{bundle::BundleError, jwt::JwtError, x509::X509Error};
use bonafide_tls::TlsError;
use bonafide_wire::problem_of;
use tonic::{Code, Status};

/// What can go wrong between a workload, its agent and its peers. Every error has a stable [`Error::code`] and, where a
/// person can act, a [`Error::hint`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The agent sent something that is not what the Workload API promises.
    #[error("the agent's answer can't be used: {0}")]
    Answer(String),
    /// A bundle can't be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The address of the Workload API is not one.
    #[error("`{value}` is no Workload API endpoint: {why}")]
    Endpoint {
        /// As it was given.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A JWT-SVID proves nothing to us.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// There is no SVID: none has come yet, the last one has expired, or none fits what was asked for.
    #[error("no SVID is at hand: {0}")]
    NoSvid(&'static str),
    /// The agent, or another gRPC peer, refused. Code and hint are its own.
    #[error("{message}")]
    Refused {
        /// The refusal's stable code.
        code: String,
        /// One line.
        message: String,
        /// What to do about it. May be empty.
        hint: String,
    },
    /// A handshake failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody answers at the Workload API's address.
    #[error("can't reach the agent: {0}")]
    Unreachable(String),
    /// An X509-SVID can't be used.
    #[error(transparent)]
    X509(#[from] X509Error),
}

impl Error {
    /// A stable name for what happened.
    pub fn code(&self) -> &str {
        match self {
            Self::Answer(_) => "sdk.answer",
            Self::Bundle(error) => error.code(),
            Self::Endpoint { .. } => "sdk.endpoint",
            Self::Io(_) => "sdk.io",
            Self::Jwt(error) => error.code(),
            Self::NoSvid(_) => "sdk.no-svid",
            Self::Refused { code, .. } => code,
            Self::Tls(error) => error.code(),
            Self::Unreachable(_) => "sdk.agent-unreachable",
            Self::X509(error) => error.code(),
        }
    }

    /// What to do about it. May be empty.
    pub fn hint(&self) -> Cow<'_, str> {
        match self {
            Self::Answer(_) => "check that agent and SDK are of versions that go together".into(),
            Self::Bundle(error) => error.hint().into(),
            Self::Endpoint { .. } => "set SPIFFE_ENDPOINT_SOCKET to `unix:///path/of/the.sock`".into(),
            Self::Io(_) => "".into(),
            Self::Jwt(error) => error.hint().into(),
            Self::NoSvid(_) => "ask the agent why: `bonafide explain`".into(),
            Self::Refused { hint, .. } => hint.into(),
            Self::Tls(error) => error.hint().into(),
            Self::Unreachable(_) => {
                "check that the agent runs, and that SPIFFE_ENDPOINT_SOCKET names its socket".into()
            }
            Self::X509(error) => error.hint().into(),
        }
    }

    /// What a gRPC status means, with the problem or the TLS alert that it carries inside.
    pub fn of_status(status: &Status) -> Self {
        if let Some(tls) = tls_cause(status) {
            return Self::Tls(tls);
        }
        // Without details, `Unavailable` is tonic's own word for a connection that failed.
        if status.code() == Code::Unavailable && status.details().is_empty() {
            return Self::Unreachable(innermost(status));
        }
        let problem = problem_of(status);
        Self::Refused { code: problem.code, message: problem.message, hint: problem.hint }
    }

    /// What a failed gRPC connection means.
    pub(crate) fn of_transport(error: tonic::transport::Error) -> Self {
        match tls_cause(&error) {
            Some(tls) => Self::Tls(tls),
            None => Self::Io(io::Error::other(innermost(&error))),
        }
    }

    pub(crate) fn endpoint(value: &str, why: &'static str) -> Self {
        Self::Endpoint { value: value.to_owned(), why }
    }
}

/// Why a stream of the Workload API ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) error: Error,
    /// The agent says that the caller is entitled to nothing. What it gave before is then withdrawn (Workload API
    /// sections 5.2.1 and 6.2.2), unlike when it is away.
    pub(crate) withdrawn: bool,
}

impl Ended {
    pub(crate) fn of_status(status: &Status) -> Self {
        Self { error: Error::of_status(status), withdrawn: status.code() == Code::PermissionDenied }
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self { error, withdrawn: false }
    }
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// An alert of the peer, or a refusal of ours, somewhere in the chain of causes.
fn tls_cause(error: &(dyn std::error::Error + 'static)) -> Option<TlsError> {
    chain(error).find_map(|cause| {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return TlsError::of_io(io);
        }
        cause.downcast_ref::<TlsError>().and_then(TlsError::duplicate)
    })
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).last().unwrap_or(error).to_string()
}
