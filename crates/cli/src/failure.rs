//! What a command ends with when it does not succeed: one line, a stable code, and what to do next.

use std::{
    io,
    path::{Path, PathBuf},
};

use bonafide_wire::{problem_of, types::Problem};

use crate::text::clean;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Agents that did not acknowledge a change in time.
    #[error("{} of the agents did not acknowledge revision {revision} in time: {}", .agents.len(), .agents.join(", "))]
    Behind {
        /// SPIFFE IDs of the agents.
        agents: Vec<String>,
        /// The revision that was waited for.
        revision: u64,
    },
    /// The report on standard output says it all; only the exit code is left to tell.
    #[error("the report on standard output says no")]
    Negative,
    /// Input that cannot be understood.
    #[error("{message}")]
    Input {
        /// Stable, `input.…`.
        code: &'static str,
        /// One line.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// A file could not be read.
    #[error("cannot read `{}`: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The authority, the agent or another part refused or failed, and says why itself.
    #[error("{}", clean(&.0.message))]
    Refused(Problem),
    /// Standard output could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The socket file is there, but this user may not use it.
    #[error("this user may not use the {what}'s socket `{}`", .path.display())]
    SocketForbidden {
        /// `authority` or `agent`.
        what: &'static str,
        /// The socket.
        path: PathBuf,
    },
    /// There is no socket file.
    #[error("the {what} has no socket at `{}`", .path.display())]
    SocketMissing {
        /// `authority` or `agent`.
        what: &'static str,
        /// The socket.
        path: PathBuf,
    },
    /// The socket file is there, but nobody serves it.
    #[error("no {what} serves `{}`: {reason}", .path.display())]
    SocketSilent {
        /// `authority` or `agent`.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// In words.
        reason: String,
    },
    /// Something that must happen within a time did not.
    #[error("{what} took longer than {}", crate::duration::format(*.limit))]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long, in seconds.
        limit: u64,
    },
    /// Of a command whose exit code 1 is an answer: it has none.
    #[error("{0}")]
    Trouble(Box<Self>),
    /// The command line makes no sense.
    #[error("{message}")]
    Usage {
        /// One line.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A file could not be written.
    #[error("cannot write `{}`: {source}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Failure {
    /// A failure of a part of the house that has its own code, message and hint.
    pub fn of(code: impl Into<String>, message: impl ToString, hint: impl Into<String>) -> Self {
        Self::Refused(Problem { code: code.into(), message: message.to_string(), hint: hint.into() })
    }

    /// A usage error.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    /// A file that could not be read.
    pub fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    /// A file that could not be written.
    pub fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    /// A connection to a local socket that failed.
    pub fn socket(what: &'static str, path: &Path, source: &io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::SocketMissing { what, path },
            io::ErrorKind::PermissionDenied => Self::SocketForbidden { what, path },
            _ => Self::SocketSilent { what, path, reason: source.to_string() },
        }
    }

    /// Stable, machine readable.
    pub fn code(&self) -> &str {
        match self {
            Self::Behind { .. } => "wait.agents-behind",
            Self::Input { code, .. } => code,
            Self::Negative => "report.negative",
            Self::Output(_) => "output.failed",
            Self::Read { .. } => "file.not-read",
            Self::Refused(problem) => &problem.code,
            Self::SocketForbidden { .. } => "socket.forbidden",
            Self::SocketMissing { .. } => "socket.missing",
            Self::SocketSilent { .. } => "socket.silent",
            Self::TimedOut { .. } => "wait.timed-out",
            Self::Trouble(failure) => failure.code(),
            Self::Usage { .. } => "usage.invalid",
            Self::Write { .. } => "file.not-written",
        }
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Behind { .. } => "see `bonafide agent list` for what each of them last acknowledged".into(),
            Self::Input { hint, .. } => (*hint).into(),
            Self::Negative => "read the report".into(),
            Self::Output(_) => "see whether the disk is full or the reader has gone".into(),
            Self::Read { .. } => "check the path and its permissions".into(),
            Self::Refused(problem) if !problem.hint.is_empty() => clean(&problem.hint),
            Self::Refused(problem) => hint_for(&problem.code).into(),
            Self::SocketForbidden { what: "authority", .. } => {
                "run this as root or as a member of the group that the authority's socket belongs to".into()
            }
            Self::SocketForbidden { .. } => "every folder above the socket must be open to this user".into(),
            Self::SocketMissing { what: "authority", .. } => {
                "start one with `bonafide dev` or `bonafide authority`, or name its socket with --socket or \
                 BONAFIDE_ADMIN_SOCKET"
                    .into()
            }
            Self::SocketMissing { .. } => {
                "start one with `bonafide dev` or `bonafide agent`, or name its socket with --socket or \
                 SPIFFE_ENDPOINT_SOCKET"
                    .into()
            }
            Self::SocketSilent { what, .. } => {
                format!("the {what} has probably stopped: start it again, or read its log")
            }
            Self::TimedOut { .. } => "try again with a longer --timeout, and see `bonafide status`".into(),
            Self::Trouble(failure) => failure.hint(),
            Self::Usage { hint, .. } => hint.clone(),
            Self::Write { .. } => "check that the folder exists and is open to this user".into(),
        }
    }

    /// 2 for a command line that makes no sense, and for no answer, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Trouble(_) | Self::Usage { .. } => 2,
            _ => 1,
        }
    }

    /// The lines that stand on standard error; empty when there is nothing to add.
    pub fn render(&self) -> String {
        match self {
            Self::Negative => String::new(),
            Self::Trouble(failure) => failure.render(),
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => String::new(),
            _ => {
                let hint = self.hint();
                let hint = if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") };
                format!("error[{}]: {self}{hint}\n", clean(self.code()))
            }
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(problem_of(&status))
    }
}

/// What to do about a status that carried no problem of ours.
fn hint_for(code: &str) -> &'static str {
    match code {
        "rpc.unavailable" | "rpc.cancelled" | "rpc.unknown" => {
            "the other side went away: see whether it still runs"
        }
        "rpc.deadline-exceeded" => "try again; if it stays slow, see `bonafide status`",
        "rpc.unimplemented" => {
            "the other side is older than this program, or the socket belongs to something else"
        }
        "rpc.permission-denied" | "rpc.unauthenticated" => {
            "`bonafide explain` tells what this process is to the agent"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_with_its_own_code_and_hint() {
        let failure =
            Failure::of("scope.spiffe-id", "`spiffe://td/x` is outside the site", "widen the scope");
        assert_eq!(
            failure.render(),
            "error[scope.spiffe-id]: `spiffe://td/x` is outside the site\nhint: widen the scope\n"
        );
        assert_eq!(failure.exit_code(), 1);
    }

    #[test]
    fn a_foreign_status_gets_a_hint() {
        let failure = Failure::from(tonic::Status::unavailable("transport error"));
        assert_eq!(
            failure.render(),
            "error[rpc.unavailable]: transport error\nhint: the other side went away: see whether it still runs\n"
        );
    }

    #[test]
    fn a_message_from_afar_cannot_drive_the_terminal() {
        let failure = Failure::of("x.y\u{1b}]0;", "red \u{1b}[31m\nerror[fake]: line", "\u{7}");
        assert_eq!(
            failure.render(),
            "error[x.y\\u{1b}]0;]: red \\u{1b}[31m\\u{a}error[fake]: line\nhint: \\u{7}\n"
        );
    }

    #[test]
    fn socket_errors_tell_apart_what_a_person_must_do() {
        let path = Path::new("/x.sock");
        let code = |kind| Failure::socket("agent", path, &io::Error::from(kind)).code().to_owned();
        assert_eq!(code(io::ErrorKind::NotFound), "socket.missing");
        assert_eq!(code(io::ErrorKind::PermissionDenied), "socket.forbidden");
        assert_eq!(code(io::ErrorKind::ConnectionRefused), "socket.silent");
    }
}
