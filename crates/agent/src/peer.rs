//! The other end of a connection, looked at when it was accepted.
//!
//! What can't be told apart: a process can hand its open connection to another one, or keep it across an
//! `execve` that comes before the agent has accepted it. `SO_PEERCRED` names whoever called `connect`;
//! what it shares with others it vouches for. An `execve` after that is refused here, and so is a
//! connection whose process has ended, however many others still hold it.

use std::sync::Arc;

use bonafide_net::unix::Caller;

use crate::{
    process::{Evidence, Image, Process, ProcessError},
    refusal::Refusal,
};

/// Who is behind a connection.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    uid: u32,
    gid: u32,
    process: Result<(Process, Image), Refusal>,
}

impl Peer {
    /// Looks at the process behind a connection. To be called when the connection is accepted.
    ///
    /// On a kernel that gives no pidfd of a peer, the process that has its number now is pinned.
    pub fn at_accept(caller: &Caller) -> Self {
        let process = pin(caller).map_err(Refusal::from);
        Self(Arc::new(Inner { uid: caller.uid, gid: caller.gid, process }))
    }

    /// User when it connected.
    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// Group when it connected.
    pub fn gid(&self) -> u32 {
        self.0.gid
    }

    /// The process.
    ///
    /// # Errors
    ///
    /// Why it could not be pinned.
    pub fn process(&self) -> Result<&Process, Refusal> {
        self.pinned().map(|(process, _)| process)
    }

    /// The program that ran when the connection was accepted.
    ///
    /// # Errors
    ///
    /// Why it could not be pinned.
    pub fn image(&self) -> Result<&Image, Refusal> {
        self.pinned().map(|(_, image)| image)
    }

    /// Whether the process still lives and still runs the program that connected.
    ///
    /// # Errors
    ///
    /// `workload.gone` or `workload.changed`.
    pub fn check_unchanged(&self) -> Result<(), Refusal> {
        let (process, image) = self.pinned()?;
        match process.image() {
            Ok(now) if now == *image => Ok(()),
            Ok(_) | Err(ProcessError::Starting) => Err(Refusal::workload_changed()),
            Err(error) => Err(error.into()),
        }
    }

    fn pinned(&self) -> Result<&(Process, Image), Refusal> {
        self.0.process.as_ref().map_err(Clone::clone)
    }
}

fn pin(caller: &Caller) -> Result<(Process, Image), ProcessError> {
    let process = match &caller.pidfd {
        Some(pidfd) => Process::pin(caller.pid, Arc::clone(pidfd), Evidence::Pidfd)?,
        None => Process::open(caller.pid, Evidence::StartTime)?,
    };
    let image = process.image()?;
    Ok((process, image))
}
