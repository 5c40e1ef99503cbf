use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
        net,
    },
    path::{Path, PathBuf},
};

use nix::unistd::mkdtemp;
use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};
use tokio::net::UnixListener;

use super::{template, too_long};

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A live server owns the path.
    #[error("another server is listening on `{0}`")]
    InUse(PathBuf),
    /// The operating system refused a step.
    #[error("can't {step} `{path}`: {source}")]
    Io {
        /// What was attempted.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else than a socket is in the way; it is not ours to delete.
    #[error("`{0}` exists and is not a socket")]
    NotASocket(PathBuf),
    /// Other users could put their own socket in the place of ours.
    #[error("directory `{path}` is not safe: {why}")]
    ParentUnsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The path has no directory or no file name, or is too long for a socket address.
    #[error("`{path}` can't name a socket: {why}")]
    Path {
        /// The path as it was given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl BindError {
    /// A stable name for what happened.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse(_) => "socket.in-use",
            Self::Io { .. } => "socket.io",
            Self::NotASocket(_) => "socket.not-a-socket",
            Self::ParentUnsafe { .. } => "socket.parent-unsafe",
            Self::Path { .. } => "socket.path",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InUse(_) => "stop the other server, or choose another socket path",
            Self::Io { .. } => "check that the directory exists and that this user may write to it",
            Self::NotASocket(_) => "move the file away, or choose another socket path",
            Self::ParentUnsafe { .. } => {
                "use a directory that belongs to this user or root, and that only its owner may write to"
            }
            Self::Path { .. } => "choose an absolute path of at most 107 bytes",
        }
    }
}

/// The file of a bound socket. Dropping it removes the file, if it is still the one that we made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// Held as long as the server lives, so that two that start at once can't both take the path for stale.
    _lock: File,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The lock is still held: nobody of ours can replace the file between the look and the removal.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn bind(
    path: &Path,
    mode: u32,
    gid: Option<u32>,
) -> Result<(UnixListener, SocketFile), BindError> {
    let wrong = |why| BindError::Path { path: path.to_owned(), why };
    let parent =
        path.parent().filter(|parent| parent.is_absolute()).ok_or_else(|| wrong("it is not absolute"))?;
    let name = path.file_name().ok_or_else(|| wrong("it names no file"))?;
    let template = template(parent);
    if too_long(path) || too_long(&template.join("s")) {
        return Err(wrong("it is too long"));
    }
    let io = |step, path: &Path| {
        let path = path.to_owned();
        move |source| BindError::Io { step, path, source }
    };

    match fs::DirBuilder::new().mode(0o755).create(parent) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io("create", parent)(error)),
        _ => check_parent(parent)?,
    }

    let mut lock_name = name.to_owned();
    lock_name.push(".lock");
    let lock_path = parent.join(lock_name);
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(io("open", &lock_path))?;
    if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        return Err(match error {
            rustix::io::Errno::WOULDBLOCK => BindError::InUse(path.to_owned()),
            other => io("lock", &lock_path)(other.into()),
        });
    }
    check_existing(path)?;

    // The socket is made in a directory that only we can enter, gets its group and mode there, and appears at its path
    // when everything is right, in place of a stale one.
    let private = Private(mkdtemp(&template).map_err(|errno| io("create", &template)(errno.into()))?);
    let fresh = private.0.join("s");
    let listener = net::UnixListener::bind(&fresh).map_err(io("bind", &fresh))?;
    if gid.is_some() {
        chown(&fresh, None, gid).map_err(io("give a group to", path))?;
    }
    fs::set_permissions(&fresh, Permissions::from_mode(mode & 0o777)).map_err(io("set the mode of", path))?;
    let metadata = fs::symlink_metadata(&fresh).map_err(io("look at", &fresh))?;
    fs::rename(&fresh, path).map_err(io("put in place", path))?;
    let file = SocketFile { path: path.to_owned(), identity: identity(&metadata), _lock: lock };

    listener.set_nonblocking(true).map_err(io("set up", path))?;
    let listener = UnixListener::from_std(listener).map_err(io("set up", path))?;
    Ok((listener, file))
}

/// Removes the private directory, whatever happened in between.
struct Private(PathBuf);

impl Drop for Private {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Who can write to the directory can replace our socket with his own, and be asked for secrets in our name.
fn check_parent(parent: &Path) -> Result<(), BindError> {
    let metadata = fs::metadata(parent).map_err(|source| BindError::Io {
        step: "look at",
        path: parent.to_owned(),
        source,
    })?;
    let refuse = |why| Err(BindError::ParentUnsafe { path: parent.to_owned(), why });
    if !metadata.is_dir() {
        return refuse("it is not a directory");
    }
    if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    let (others_write, sticky) = (metadata.mode() & 0o022 != 0, metadata.mode() & 0o1000 != 0);
    if others_write && !sticky {
        return refuse("its group or everybody may write to it");
    }
    Ok(())
}

/// Refuses what is not a socket and what somebody answers on; a dead socket is fine.
fn check_existing(path: &Path) -> Result<(), BindError> {
    let io = |step| move |source| BindError::Io { step, path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at")(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    // Non-blocking in effect: a live server with a full backlog would make a blocking connect wait.
    match probe(path) {
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        Ok(()) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(BindError::InUse(path.to_owned())),
        Err(error) => Err(io("ask who listens on")(error)),
    }
}

fn probe(path: &Path) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(connect(&socket, &SocketAddrUnix::new(path)?)?)
}
