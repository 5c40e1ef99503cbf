//! A "no" that a person can act on.

use std::borrow::Cow;

use bonafide_kms::lease::Denial;
use bonafide_wire::{IntoStatus, problem_of, types::Problem};
use tonic::{Code, Status};

use crate::process::ProcessError;

const EXPLAIN: &str =
    "run `bonafide explain` in the same environment to see what the agent knows of the caller";

/// Why a caller gets nothing, with the gRPC code that the SPIFFE Workload API (§6) asks for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    status: Code,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    hint: Cow<'static, str>,
}

impl Refusal {
    fn new(
        status: Code,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
        hint: &'static str,
    ) -> Self {
        Self { status, code: code.into(), message: message.into(), hint: hint.into() }
    }

    /// Another program runs in the process than the one that connected.
    pub(crate) fn workload_changed() -> Self {
        let message = "the process runs another program than when it connected";
        Self::new(Code::PermissionDenied, "workload.changed", message, "connect again after `execve`")
    }

    /// The process has other rights than when it connected.
    pub(crate) fn credentials_changed() -> Self {
        let message = "the process has another user or group than when it connected";
        Self::new(
            Code::PermissionDenied,
            "workload.changed",
            message,
            "connect again after dropping privileges",
        )
    }

    /// No registration matches.
    pub(crate) fn no_registration() -> Self {
        let message = "no registration matches the caller";
        Self::new(Code::PermissionDenied, "workload.no-registration", message, EXPLAIN)
    }

    /// None of the caller's registrations is that of the SPIFFE ID that it asked for.
    pub(crate) fn other_identity() -> Self {
        let message = "the caller does not have the SPIFFE ID that it asked for";
        Self::new(Code::PermissionDenied, "workload.other-identity", message, EXPLAIN)
    }

    /// The authority said no; `passing`: not for long.
    pub(crate) fn of_authority(problem: &Problem, passing: bool) -> Self {
        Self {
            status: if passing { Code::Unavailable } else { Code::PermissionDenied },
            code: problem.code.clone().into(),
            message: problem.message.clone().into(),
            hint: if problem.hint.is_empty() { EXPLAIN.into() } else { problem.hint.clone().into() },
        }
    }

    /// The agent has not heard from its authority yet.
    pub(crate) fn initializing() -> Self {
        let message = "the agent has not heard from its authority yet";
        Self::new(Code::Unavailable, "agent.initializing", message, "try again soon; see `bonafide status`")
    }

    /// The authority doesn't answer, and nothing was kept ready.
    pub(crate) fn authority_unavailable() -> Self {
        let message = "the authority does not answer, and the agent has no SVID in stock for the caller";
        Self::new(
            Code::Unavailable,
            "agent.authority-unavailable",
            message,
            "try again; see `bonafide status`",
        )
    }

    /// Too much is asked at a time.
    pub(crate) fn busy() -> Self {
        let message = "the agent has too much to do for this user";
        Self::new(Code::Unavailable, "agent.busy", message, "try again")
    }

    /// The file system of an executable does not answer.
    pub(crate) fn files_hang() -> Self {
        let message = "the file system that the process' executable lies on does not answer";
        let hint = "see whether it is mounted, and its server there";
        Self::new(Code::Unavailable, "workload.files-hang", message, hint)
    }

    /// An attestor has not come to an end.
    pub(crate) fn attestor_slow(name: &str) -> Self {
        let message = format!("the attestor `{name}` took too long");
        let hint = "see whether the user database and the file system of the executable answer";
        Self::new(Code::Unavailable, "workload.attestor-slow", message, hint)
    }

    /// A limit is reached.
    pub(crate) fn too_many(what: &str, limit: usize) -> Self {
        let message = format!("more than {limit} {what}");
        Self::new(Code::ResourceExhausted, "agent.too-many", message, "close what is not needed")
    }

    /// The authority has banned this agent.
    pub(crate) fn banned(problem: &Problem) -> Self {
        Self {
            status: Code::PermissionDenied,
            code: "agent.banned".into(),
            message: format!("the authority has banned this agent: {}", problem.message).into(),
            hint: problem.hint.clone().into(),
        }
    }

    /// This agent, or its site, was revoked.
    pub(crate) fn revoked(code: &'static str, subject: &bonafide_identity::revocation::Subject) -> Self {
        let message = format!("the authority has revoked the {subject}: nobody is served here");
        let hint = "ask whoever runs the authority; `bonafide revoke list` says when and why";
        Self::new(Code::PermissionDenied, code, message, hint)
    }

    /// The agent is about to stop.
    pub(crate) fn stopping() -> Self {
        Self::new(Code::Unavailable, "agent.stopping", "the agent is stopping", "try again soon")
    }

    /// The metadata that every client of the Workload API sends is missing.
    pub(crate) fn no_security_header() -> Self {
        Self::new(
            Code::InvalidArgument,
            "request.no-security-header",
            "the metadata `workload.spiffe.io: true` is missing",
            "use a SPIFFE library, or send that header yourself",
        )
    }

    /// The request makes no sense.
    pub(crate) fn invalid(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidArgument, code, message, "correct the request")
    }

    /// Nothing decides, so everything is denied.
    pub(crate) fn undecided(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::PermissionDenied, code, message, "")
    }

    /// The authority said no to an operation with a key, or can't be reached.
    pub(crate) fn of_key_server(status: &Status) -> Self {
        // Without details, `Unavailable` is tonic's own word for a connection that failed.
        if status.details().is_empty()
            && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
        {
            return Self::keys_unreachable();
        }
        let Problem { code, message, hint } = problem_of(status);
        Self { status: status.code(), code: code.into(), message: message.into(), hint: hint.into() }
    }

    /// A lease does not help.
    pub(crate) fn of_denial(denial: &Denial) -> Self {
        Self {
            status: match denial {
                Denial::Busy | Denial::Stale | Denial::Unreachable => Code::Unavailable,
                Denial::TooLarge => Code::InvalidArgument,
                _ => Code::PermissionDenied,
            },
            code: denial.code().to_owned().into(),
            message: denial.to_string().into(),
            hint: denial.hint().to_owned().into(),
        }
    }

    /// Nobody can be asked about keys.
    pub(crate) fn keys_unreachable() -> Self {
        let message = "the authority can't be reached, and what is leased does not answer this";
        let hint =
            "see `bonafide status`; `local` and `max_stale` of the key say what works without an authority";
        Self::new(Code::Unavailable, "kms.unreachable", message, hint)
    }

    /// What the authority has answered makes no sense.
    pub(crate) fn key_answer() -> Self {
        let message = "the authority has answered something else than what was asked";
        Self::new(
            Code::Internal,
            "kms.answer",
            message,
            "check that agent and authority are of versions that go together",
        )
    }

    /// Whoever asks is nobody any more.
    pub(crate) fn key_identity_ended() -> Self {
        Self::of_denial(&Denial::IdentityEnded)
    }

    /// A process wants to have a key that it may only use.
    pub(crate) fn key_stays_in_agent() -> Self {
        let message = "this key is used in the agent, and in no process";
        let hint = "ask the agent for each operation: `local` of the key says so";
        Self::new(Code::PermissionDenied, "kms.local-agent", message, hint)
    }

    /// A process says something of a lease that is not its own.
    pub(crate) fn lease_unknown() -> Self {
        let message = "the caller has no such lease, or it is over";
        Self::new(Code::NotFound, "kms.lease-unknown", message, "ask for a new lease")
    }

    /// The same with what to do.
    pub(crate) fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// One line.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The caller may not ask about that process.
    pub(crate) fn not_yours() -> Self {
        let message = "only root and the user of a process may ask about it";
        Self::new(Code::PermissionDenied, "explain.not-yours", message, "ask as root")
    }

    /// Stable code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What to do. May be empty.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// The gRPC status code that goes with it.
    pub fn status_code(&self) -> Code {
        self.status
    }

    /// For the wire.
    pub fn to_problem(&self) -> Problem {
        problem(&self.code, &self.message, &self.hint)
    }
}

impl From<ProcessError> for Refusal {
    fn from(error: ProcessError) -> Self {
        // What passes is no verdict on the caller (SPIFFE Workload API §6).
        let status = if error.is_passing() { Code::Unavailable } else { Code::PermissionDenied };
        Self::new(status, error.code(), error.to_string(), error.hint())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.to_problem().into_status(refusal.status)
    }
}

/// A problem for the wire.
pub(crate) fn problem(code: &str, message: impl std::fmt::Display, hint: &str) -> Problem {
    Problem { code: code.to_owned(), message: message.to_string(), hint: hint.to_owned() }
}
