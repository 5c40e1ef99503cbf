//! The control groups of a process, as the agent may believe them.

use bonafide_attest::cgroup::{CgroupError, Cgroups, MAX_TEXT, is_initial_namespace};
use rustix::fs::{CWD, readlinkat};

use crate::process::{Process, ProcessError};

/// What the kernel said, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    text: Vec<u8>,
    pub(super) groups: Cgroups,
}

/// Why control groups say nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unseen {
    /// Paths would be relative to the agent's own control group.
    #[error("the agent is not in the host's cgroup namespace, so it can't tell where control groups are")]
    Namespace,
    #[error(transparent)]
    Group(#[from] CgroupError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It was moved, or ended, while its container was looked up.
    #[error("the process has left its control group")]
    Moved,
}

impl Unseen {
    /// Stable code.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Namespace => "cgroup.namespace",
            Self::Group(error) => error.code(),
            Self::Process(error) => error.code(),
            Self::Moved => "cgroup.moved",
        }
    }
}

/// Reads the control groups of a process. `/proc` answers by itself: this does not block.
pub(super) fn look(process: &Process) -> Result<Seen, Unseen> {
    let own = readlinkat(CWD, "/proc/self/ns/cgroup", Vec::new());
    if !own.is_ok_and(|link| is_initial_namespace(link.as_bytes())) {
        return Err(Unseen::Namespace);
    }
    let text = process.cgroup(MAX_TEXT as u64)?;
    let groups = Cgroups::parse(&text)?;
    Ok(Seen { text, groups })
}

impl Seen {
    /// Whether the process lives, and still is where it was.
    pub(super) fn check_unchanged(&self, process: &Process) -> Result<(), Unseen> {
        let now = process.cgroup(MAX_TEXT as u64)?;
        if now == self.text { Ok(()) } else { Err(Unseen::Moved) }
    }
}
