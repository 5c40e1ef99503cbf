//! What can go wrong, and where.

use std::{fmt, path::PathBuf};

use crate::Revision;

/// The part of a database that is not as it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// The database file itself: its pages, its schema, or something in the schema by this name.
    Database(String),
    /// The one row of table `head`.
    Head,
    /// A row of table `change`.
    Change(Revision),
    /// A row of table `object`, by its key.
    Object(String),
    /// Some row of table `object` whose last change is at or below this floor. Which one can't be told, because the
    /// log no longer holds it.
    CompactedObjects(Revision),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(what) => write!(f, "{what}"),
            Self::Head => f.write_str("table `head`"),
            Self::Change(revision) => write!(f, "table `change`, revision {revision}"),
            Self::Object(key) => write!(f, "table `object`, key `{}`", key.escape_debug()),
            Self::CompactedObjects(floor) => {
                write!(f, "table `object`, rows of revision {floor} and before")
            }
        }
    }
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database is not as this server wrote it.
    #[error("the store was changed from outside: {place}: {what}")]
    Broken {
        /// Where.
        place: Place,
        /// What is wrong there.
        what: &'static str,
    },
    /// The store was shut down, or its thread ended.
    #[error("the store is closed")]
    Closed,
    /// The changes that were asked for are gone.
    #[error("changes up to revision {floor} were compacted away")]
    Compacted {
        /// The last change that is gone.
        floor: Revision,
    },
    /// Somebody else committed first. Nothing was written.
    #[error("the store is at revision {head} already")]
    Conflict {
        /// Where the log stands now.
        head: Revision,
    },
    /// An earlier commit could not be made durable, and nobody knows how much of it was. Nothing can be written
    /// until the store is opened again.
    #[error("an earlier commit failed in an unknown state: {0}")]
    Failed(String),
    /// The disk is full. Nothing was written; reading goes on, and writing does once there is room.
    #[error("the disk of the store is full")]
    Full,
    /// The caller asked for what no store may hold.
    #[error("the store refuses this: {what}")]
    Invalid {
        /// The rule.
        what: &'static str,
    },
    /// The database could not be read or written.
    #[error("the store's database failed: {0}")]
    Io(String),
    /// Another process, or another store in this one, has the database open.
    #[error("the store `{}` is in use", .0.display())]
    Locked(PathBuf),
    /// There is no database there.
    #[error("there is no store at `{0}`")]
    Missing(String),
    /// The database server may forget what it has acknowledged.
    #[error("the database has `{setting}` off: it would lose what it has acknowledged")]
    NotDurable {
        /// Of PostgreSQL.
        setting: String,
    },
    /// The connection was lost in a commit, and the database can't be asked what became of it. It was committed as a
    /// whole or not at all.
    #[error("it is not known whether the store was written: {0}")]
    Unknown(String),
    /// What the store holds is authentic, but it does not continue what this server has seen: it was restored, or has
    /// failed over to a server that lacked the end.
    #[error("the store was followed to revision {known}, but now {what}")]
    WentBack {
        /// How far this server has followed it.
        known: Revision,
        /// What is found instead, and where.
        what: String,
    },
}

impl StoreError {
    /// A stable name for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Broken { .. } => "store.broken",
            Self::Closed => "store.closed",
            Self::Compacted { .. } => "store.compacted",
            Self::Conflict { .. } => "store.conflict",
            Self::Failed(_) => "store.failed",
            Self::Full => "store.full",
            Self::Invalid { .. } => "store.invalid",
            Self::Io(_) => "store.io",
            Self::Locked(_) => "store.locked",
            Self::Missing(_) => "store.missing",
            Self::NotDurable { .. } => "store.not-durable",
            Self::Unknown(_) => "store.unknown",
            Self::WentBack { .. } => "store.went-back",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Broken { .. } => Some(
                "restore a backup, or the keyring that belongs to this store; \
                 find out who can write to the data directory",
            ),
            Self::Failed(_) => Some("look after the disk, then start the server again"),
            Self::Io(_) => Some("look after the disk or the database server of the store"),
            Self::Full => Some("make room on the disk of the data directory; no restart is needed"),
            Self::Locked(_) => Some("stop the other server that uses this data directory"),
            Self::Missing(_) => Some("restore the store, or remove the keyring to start anew"),
            Self::NotDurable { .. } => {
                Some("turn it on for the server, the database and the role: `SHOW` tells what applies")
            }
            Self::Unknown(_) => Some("look whether it was written before you try again"),
            Self::WentBack { .. } => Some(
                "what was changed since is lost, bans and spent tokens too. Find out why; if a backup was restored on \
                 purpose, start one server once with `--accept-restore`, then the others",
            ),
            Self::Closed | Self::Compacted { .. } | Self::Conflict { .. } | Self::Invalid { .. } => None,
        }
    }

    /// Whether a commit that failed with this surely left nothing behind.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        !matches!(self, Self::Closed | Self::Failed(_) | Self::Unknown(_))
    }

    pub(crate) const fn broken(place: Place, what: &'static str) -> Self {
        Self::Broken { place, what }
    }
}
