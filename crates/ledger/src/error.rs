//! What can go wrong with a ledger, and where.

use std::path::{Path, PathBuf};

/// Why a ledger did not do what was asked. Can be cloned, because one failed fsync fails many callers.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A file is not as this ledger wrote it.
    #[error("the ledger was damaged or changed: `{}`: {what}", file.display())]
    Broken {
        /// The file, relative to the ledger's directory.
        file: PathBuf,
        /// What is wrong, and where in the file.
        what: String,
    },
    /// The ledger was closed, or its thread ended.
    #[error("the ledger is closed")]
    Closed,
    /// Something could not be made durable, and nobody knows how much of it was. Nothing can be appended until the
    /// ledger is opened again.
    #[error("the ledger failed in an unknown state: {0}")]
    Failed(String),
    /// The disk is full. The entry was not logged; appending works again once there is room.
    #[error("the disk of the ledger is full")]
    Full,
    /// The caller asked for what no ledger holds.
    #[error("the ledger refuses this: {0}")]
    Invalid(&'static str),
    /// A file could not be read or written.
    #[error("`{}`: {cause}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// Another process has the ledger open.
    #[error("the ledger `{}` is in use", .0.display())]
    Locked(PathBuf),
    /// The signer did not sign.
    #[error("the checkpoint could not be signed: {0}")]
    Sign(String),
    /// More entries wait to be written than may.
    #[error("too many entries wait for the disk")]
    Overloaded,
}

impl LedgerError {
    /// A stable name for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Broken { .. } => "ledger.broken",
            Self::Closed => "ledger.closed",
            Self::Failed(_) => "ledger.failed",
            Self::Full => "ledger.full",
            Self::Invalid(_) => "ledger.invalid",
            Self::Io { .. } => "ledger.io",
            Self::Locked(_) => "ledger.locked",
            Self::Overloaded => "ledger.overloaded",
            Self::Sign(_) => "ledger.sign",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Broken { .. } => Some(
                "keep the directory as evidence, find out who can write to it, and compare it with a replica",
            ),
            Self::Failed(_) | Self::Io { .. } => Some("look after the disk, then start the server again"),
            Self::Full => Some("make room on the disk of the ledger; no restart is needed"),
            Self::Locked(_) => Some("stop the other server that uses this directory"),
            Self::Overloaded => Some("the disk is slower than the load; use a faster one, or more servers"),
            Self::Closed | Self::Invalid(_) | Self::Sign(_) => None,
        }
    }

    pub(crate) fn io(path: &Path, cause: &std::io::Error) -> Self {
        match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { path: path.to_owned(), cause: cause.to_string() },
        }
    }

    pub(crate) fn broken(file: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Broken { file: file.into(), what: what.into() }
    }
}
