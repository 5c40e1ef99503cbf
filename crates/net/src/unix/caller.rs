use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt::PeerPidfd},
};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::net::UnixStream;

/// Who is at the other end of a Unix socket, as the kernel recorded it when the peer called `connect`.
///
/// This says nothing about who *holds* the connection now: a process can hand an open socket to another one.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The process. 0 if it can't be named in our PID namespace: such a caller can't be attested.
    pub pid: i32,
    /// Effective user when it connected.
    pub uid: u32,
    /// Effective group when it connected.
    pub gid: u32,
    /// Pins the process: as long as we hold it, [`Caller::has_exited`] tells whether `pid` still means that process.
    /// `None` if the kernel is older than 6.5; then `pid` alone proves nothing, for it may have been recycled.
    pub pidfd: Option<Arc<OwnedFd>>,
}

/// Why a connection was refused before its first byte was read.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// The kernel does not say who the peer is.
    #[error("the kernel does not name the process behind the connection")]
    Credentials(#[source] io::Error),
    /// The process had ended before it could be pinned.
    #[error("process `{pid}` was gone before it could be pinned")]
    Gone {
        /// What it was called.
        pid: i32,
        /// What the kernel said.
        source: Errno,
    },
}

impl CallerError {
    /// A stable name for what happened.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "caller.no-credentials",
            Self::Gone { .. } => "caller.gone",
        }
    }
}

impl Caller {
    /// Pins the peer of a connection.
    ///
    /// # Errors
    /// If the kernel doesn't know the peer, or knows that it has ended. Both mean: refuse.
    pub fn of(stream: &UnixStream) -> Result<Self, CallerError> {
        let credentials = stream.peer_cred().map_err(CallerError::Credentials)?;
        let pid = credentials.pid().unwrap_or(0);
        let pidfd = match getsockopt(stream, PeerPidfd) {
            Ok(pidfd) => Some(Arc::new(pidfd)),
            // The kernel does not know the option (before 6.5). Everything else is about this peer, and must not pass
            // for an old kernel.
            Err(Errno::ENOPROTOOPT) => None,
            Err(source) => return Err(CallerError::Gone { pid, source }),
        };
        Ok(Self { pid, uid: credentials.uid(), gid: credentials.gid(), pidfd })
    }

    /// Whether the process has ended; `None` without a pidfd, or if the kernel can't say.
    ///
    /// Read facts about `pid` from `/proc` first, then ask: `Some(false)` afterwards means that they were this process'.
    pub fn has_exited(&self) -> Option<bool> {
        let pidfd = self.pidfd.as_ref()?;
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now))).ok()?;
        Some(ready > 0)
    }
}
