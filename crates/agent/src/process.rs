//! What the kernel says about one process, and proof that all of it is about that one process.
//!
//! A process number alone proves nothing: it is reused as soon as its process is gone. Here every look
//! at a process goes through a [`Process`], which pins it twice. The pidfd says whether it still lives,
//! and a descriptor of its directory in `/proc` makes every later read fail, instead of speaking of a
//! successor, once it is gone. What was read between two checks that the pidfd's process lives is that
//! process' own.

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, Mode, OFlags, StatxFlags, openat, readlinkat, statat, statx},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};

mod parse;

/// Longest `/proc/<pid>/status` that is read. 65536 groups, the kernel's limit, fit.
const MAX_STATUS: u64 = 1 << 20;
/// Longest `/proc/<pid>/stat` that is read.
const MAX_STAT: u64 = 4096;
/// How often a process that is in the middle of an `execve` is looked at again.
const LOOKS_AT_EXEC: u32 = 200;

/// A process that stays the one it was when it was pinned.
#[derive(Clone, Debug)]
pub struct Process {
    pid: i32,
    pidfd: Arc<OwnedFd>,
    directory: Arc<OwnedFd>,
    evidence: Evidence,
}

/// How the agent knows which process it deals with.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// The kernel gave a pidfd of the socket's peer (`SO_PEERPIDFD`, Linux 6.5).
    Pidfd,
    /// The peer's process number was pinned only after the connection was accepted: a process that
    /// ended in between may have been succeeded by another of the same number.
    StartTime,
}

impl Evidence {
    /// The word for it in selectors and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pidfd => "pidfd",
            Self::StartTime => "start-time",
        }
    }
}

/// One program image in one process: it changes with `execve`, and no two of one boot are equal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Image {
    /// Start of the process in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start_time: u64,
    /// Device of the executable.
    pub exe_device: u64,
    /// Inode of the executable.
    pub exe_inode: u64,
    /// Where the kernel laid out this address space: start and end of code, start of the stack, start
    /// and end of data. Drawn anew by every `execve`. All ones and zeros when the agent lacks the right
    /// to see it (see [`Image::sees_layout`]).
    pub layout: [u64; 5],
}

impl Image {
    /// Whether the kernel showed the layout, so that even an `execve` of the same file is noticed.
    pub fn sees_layout(&self) -> bool {
        let [start_code, _, start_stack, ..] = self.layout;
        start_code > 1 && start_stack != 0
    }

    /// In the middle of `execve` there is a new address space without a layout. (Without the right to see
    /// it, its code starts at 1.)
    fn is_complete(&self) -> bool {
        let [start_code, _, start_stack, ..] = self.layout;
        start_code == 1 || (start_code != 0 && start_stack != 0)
    }
}

/// What of an [`Image`] can be seen without looking at a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Glimpse {
    start_time: u64,
    layout: [u64; 5],
}

impl Glimpse {
    /// Whether it may be of this image. In the middle of `execve` nothing is to be seen.
    pub(crate) fn may_be_of(&self, image: &Image) -> bool {
        let seen = Image { layout: self.layout, ..*image };
        self.start_time == image.start_time && (!seen.is_complete() || self.layout == image.layout)
    }
}

/// Whose rights the process has, as the kernel counts them now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credentials {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
}

/// Why nothing could be said about a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It has ended.
    #[error("the process has ended")]
    Gone,
    /// It is in the middle of an `execve`.
    #[error("the process is just being started")]
    Starting,
    /// It lives outside of the agent's process namespace.
    #[error("the process is not visible from the agent's process namespace")]
    Invisible,
    /// The kernel refused to show something.
    #[error("cannot read `{what}` of the process: {source}")]
    Unreadable {
        /// Name of the file below `/proc/<pid>`.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel showed something that is not understood.
    #[error("`{what}` of the process makes no sense")]
    Malformed {
        /// Name of the file below `/proc/<pid>`.
        what: &'static str,
    },
}

impl ProcessError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gone => "workload.gone",
            Self::Invisible => "workload.invisible",
            Self::Starting => "workload.starting",
            Self::Unreadable { .. } | Self::Malformed { .. } => "workload.unreadable",
        }
    }

    /// Whether it says nothing about the process: a moment later, all may be well.
    pub fn is_passing(&self) -> bool {
        use rustix::io::Errno;
        match self {
            Self::Starting => true,
            Self::Unreadable { source, .. } => {
                let errno = Errno::from_io_error(source);
                matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR | Errno::AGAIN))
            }
            Self::Gone | Self::Invisible | Self::Malformed { .. } => false,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Gone => "connect again from a process that lives",
            Self::Starting => "try again",
            Self::Invisible => "run the agent in the host's process namespace (`hostPID: true`)",
            Self::Unreadable { .. } | Self::Malformed { .. } => {
                "run the agent as root, with `/proc` mounted without `hidepid`"
            }
        }
    }
}

impl Process {
    /// Pins the process behind a pidfd that came with `pid` from the kernel.
    ///
    /// Does not check that the two belong together: the caller got them from one socket.
    ///
    /// # Errors
    ///
    /// When the process has ended, is invisible, or `/proc` does not show it.
    pub fn pin(pid: i32, pidfd: Arc<OwnedFd>, evidence: Evidence) -> Result<Self, ProcessError> {
        if pid <= 0 {
            return Err(ProcessError::Invisible);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())
            .map_err(|source| unreadable(".", source))?;
        let process = Self { pid, pidfd, directory: Arc::new(directory), evidence };
        // The number was this process' own when the directory was opened, if it still is now.
        process.check_alive()?;
        Ok(process)
    }

    /// Pins whatever process has this number now.
    ///
    /// # Errors
    ///
    /// When there is none, or `/proc` does not show it.
    pub fn open(pid: i32, evidence: Evidence) -> Result<Self, ProcessError> {
        let number = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(ProcessError::Invisible)?;
        let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK).map_err(|source| unreadable("pidfd", source))?;
        Self::pin(pid, Arc::new(pidfd), evidence)
    }

    /// Number of the process. For display; never look anything up by it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How the process is known.
    pub fn evidence(&self) -> Evidence {
        self.evidence
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> &Arc<OwnedFd> {
        &self.pidfd
    }

    /// Whether the process has not ended yet.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Gone`] when it has.
    pub fn check_alive(&self) -> Result<(), ProcessError> {
        let mut entries = [PollFd::new(&*self.pidfd, PollFlags::IN)];
        match poll(&mut entries, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) => Ok(()),
            Ok(_) => Err(ProcessError::Gone),
            Err(source) => Err(ProcessError::Unreadable { what: "pidfd", source: source.into() }),
        }
    }

    /// The program image that runs now. Looks at the executable, which may lie on a file system that hangs.
    ///
    /// # Errors
    ///
    /// When the process has ended, is in the middle of an `execve`, or the kernel does not show it.
    pub fn image(&self) -> Result<Image, ProcessError> {
        for _ in 0..LOOKS_AT_EXEC {
            let image = self.glance()?;
            if image.is_complete() {
                return Ok(image);
            }
            std::thread::yield_now();
        }
        Err(ProcessError::Starting)
    }

    /// The image as far as `/proc` tells it by itself: start and layout, nothing of the executable. Never blocks.
    pub(crate) fn glimpse(&self) -> Result<Glimpse, ProcessError> {
        let stat =
            parse::stat(&self.read("stat", MAX_STAT)?).ok_or(ProcessError::Malformed { what: "stat" })?;
        self.check_alive()?;
        Ok(Glimpse { start_time: stat.start_time, layout: stat.layout })
    }

    /// Its control groups, as the kernel writes them (cgroups(7)), of at most `limit` bytes. Never blocks.
    ///
    /// # Errors
    ///
    /// When the process has ended or the kernel does not show it.
    pub fn cgroup(&self, limit: u64) -> Result<Vec<u8>, ProcessError> {
        let text = self.read("cgroup", limit)?;
        self.check_alive()?;
        Ok(text)
    }

    fn glance(&self) -> Result<Image, ProcessError> {
        let stat =
            parse::stat(&self.read("stat", MAX_STAT)?).ok_or(ProcessError::Malformed { what: "stat" })?;
        let exe = self.exe_status()?;
        self.check_alive()?;
        Ok(Image {
            start_time: stat.start_time,
            exe_device: exe.st_dev,
            exe_inode: exe.st_ino,
            layout: stat.layout,
        })
    }

    /// Users and groups of the process.
    ///
    /// # Errors
    ///
    /// When the process has ended or the kernel does not show it.
    pub fn credentials(&self) -> Result<Credentials, ProcessError> {
        let credentials = parse::status(&self.read("status", MAX_STATUS)?)
            .ok_or(ProcessError::Malformed { what: "status" })?;
        self.check_alive()?;
        Ok(credentials)
    }

    /// The executable, open for reading: the file that runs, not what stands at its path today.
    ///
    /// # Errors
    ///
    /// When the process has ended or the kernel does not show it.
    pub fn open_exe(&self) -> Result<OwnedFd, ProcessError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        openat(&*self.directory, "exe", flags, Mode::empty()).map_err(|source| unreadable("exe", source))
    }

    /// Status of the executable.
    ///
    /// # Errors
    ///
    /// When the process has ended or the kernel does not show it.
    pub fn exe_status(&self) -> Result<rustix::fs::Stat, ProcessError> {
        // Follows the magic link to the file that is executed, whatever stands at its path today.
        statat(&*self.directory, "exe", AtFlags::empty()).map_err(|source| unreadable("exe", source))
    }

    /// Where the kernel says that the executable lies; with ` (deleted)` appended when it was unlinked.
    ///
    /// # Errors
    ///
    /// When the process has ended or the kernel does not show it.
    pub fn exe_path(&self) -> Result<Vec<u8>, ProcessError> {
        readlinkat(&*self.directory, "exe", Vec::new())
            .map(|path| path.into_bytes())
            .map_err(|source| unreadable("exe", source))
    }

    /// The mount that the executable lies on. No two mounts that exist share a number, in whatever namespaces they are.
    ///
    /// # Errors
    ///
    /// When the process has ended or the kernel does not show it.
    pub fn exe_mount(&self) -> Result<u64, ProcessError> {
        let status = statx(&*self.directory, "exe", AtFlags::empty(), StatxFlags::MNT_ID)
            .map_err(|source| unreadable("exe", source))?;
        let told = StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::MNT_ID);
        told.then_some(status.stx_mnt_id).ok_or(ProcessError::Malformed { what: "exe" })
    }

    fn read(&self, what: &'static str, limit: u64) -> Result<Vec<u8>, ProcessError> {
        let file = openat(&*self.directory, what, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|source| unreadable(what, source))?;
        let mut content = Vec::new();
        std::fs::File::from(file)
            .take(limit + 1)
            .read_to_end(&mut content)
            .map_err(|source| gone_or(what, source))?;
        if content.len() as u64 > limit {
            return Err(ProcessError::Malformed { what });
        }
        Ok(content)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Identifies this boot of this machine: start times count from it.
///
/// # Errors
///
/// When `/proc` does not tell.
pub fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

fn unreadable(what: &'static str, source: rustix::io::Errno) -> ProcessError {
    gone_or(what, source.into())
}

/// The kernel answers `ESRCH`, or hides the files, once a process has ended.
fn gone_or(what: &'static str, source: io::Error) -> ProcessError {
    match rustix::io::Errno::from_io_error(&source) {
        Some(rustix::io::Errno::SRCH | rustix::io::Errno::NOENT) => ProcessError::Gone,
        _ => ProcessError::Unreadable { what, source },
    }
}

#[cfg(test)]
mod tests;
