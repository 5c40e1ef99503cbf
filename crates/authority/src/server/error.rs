use std::io;
use std::path::PathBuf;

use bonafide_keyring::KeyringError;
use bonafide_ledger::LedgerError;
use bonafide_net::unix::BindError;
use bonafide_store::{Incarnation, StoreError};
use bonafide_tls::TlsError;

use crate::config::ConfigError;
use crate::keys::KeysError;
use crate::refusal::Refusal;
use crate::registry::RegistryError;

/// Why a server does not start, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The admin socket can't be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The configuration can't hold.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Others may read the data directory.
    #[error("`{0}` can be read by others")]
    DataDirectory(PathBuf),
    /// There is an authority already.
    #[error("there is an authority in `{0}` already")]
    Exists(PathBuf),
    /// It was running, and broke.
    #[error("the server has stopped: {why}")]
    Failed {
        /// Of what broke.
        code: &'static str,
        /// What to do.
        hint: &'static str,
        /// What broke.
        why: String,
    },
    /// The operating system refused.
    #[error("{what}: {cause}")]
    Io {
        /// What it was about.
        what: String,
        /// In its words.
        cause: io::Error,
    },
    /// A key can't be made or opened.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The keyring can't be opened.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The ledger can't be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger is older than the store says, or another one.
    #[error("the ledger has {found} entries, and the store has seen {seen}: {what}")]
    LedgerRolledBack {
        /// How many there are.
        found: u64,
        /// How many the store knows of.
        seen: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry of the ledger can't be read.
    #[error("entry {0} of the ledger can't be read")]
    LedgerEntry(u64),
    /// There is none.
    #[error("there is no authority in `{0}`")]
    NotInitialised(PathBuf),
    /// Something was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store can't be folded.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store is older than the ledger says, or another one.
    #[error(
        "the store is at revision {found} of incarnation {found_incarnation}, but the ledger has seen revision {seen} of {seen_incarnation}"
    )]
    RolledBack {
        /// The store's.
        found: u64,
        /// The store's.
        found_incarnation: Incarnation,
        /// The latest checkpoint's.
        seen: u64,
        /// The latest checkpoint's.
        seen_incarnation: Incarnation,
    },
    /// The runtime is stopping.
    #[error("the process is stopping")]
    Stopped,
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database holds a store already.
    #[error("there is a store in `{0}` already")]
    StoreExists(String),
    /// Two servers can't use one SQLite file.
    #[error("one more server needs a store that servers share")]
    StoreNotShared,
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Codes and hints of what was rolled back, at start and later.
pub(super) const LEDGER_CODE: &str = "ledger.rolled-back";
pub(super) const LEDGER_HINT: &str = "what was issued since is in no log, so a clone of it would not be noticed. Keep the directory as evidence and \
     restore the ledger. If it is lost, start once with `--accept-restore`: the ledger will say so";
pub(super) const STORE_CODE: &str = "store.rolled-back";
pub(super) const STORE_HINT: &str = "what was changed since is lost, bans and spent tokens too. If you restored a backup on purpose, start once with \
     `--accept-restore`: the ledger will say so";

impl StartError {
    pub(crate) fn io(what: &str, cause: io::Error) -> Self {
        Self::Io { what: what.to_owned(), cause }
    }

    /// Stable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Bind(error) => error.code(),
            Self::Config(error) => error.code(),
            Self::DataDirectory(_) => "authority.data-directory",
            Self::Exists(_) => "authority.exists",
            Self::Failed { code, .. } => code,
            Self::Io { .. } => "authority.io",
            Self::Keys(error) => error.code(),
            Self::Keyring(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::LedgerEntry(_) => "ledger.entry",
            Self::LedgerRolledBack { .. } => LEDGER_CODE,
            Self::NotInitialised(_) => "authority.not-initialised",
            Self::Refused(refusal) => refusal.code(),
            Self::Registry(error) => error.code(),
            Self::RolledBack { .. } => STORE_CODE,
            Self::Stopped => "authority.stopped",
            Self::Store(error) => error.code(),
            Self::StoreExists(_) => "store.exists",
            Self::StoreNotShared => "store.not-shared",
            Self::Tls(error) => error.code(),
        }
    }

    /// What to do; may be empty.
    pub fn hint(&self) -> &str {
        match self {
            Self::Bind(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::DataDirectory(_) => "set its mode to 0700",
            Self::Exists(_) => "choose another data directory, or start the authority that is there",
            Self::Failed { hint, .. } => hint,
            Self::Io { .. } | Self::Stopped => "",
            Self::Keys(error) => error.hint(),
            Self::Keyring(error) => error.hint(),
            Self::Ledger(error) => error.hint().unwrap_or_default(),
            Self::LedgerEntry(_) => "a newer server has written it: start that one",
            Self::LedgerRolledBack { .. } => LEDGER_HINT,
            Self::NotInitialised(_) => "run `bonafide authority init` first",
            Self::Refused(refusal) => refusal.hint_text(),
            Self::Registry(error) => error.hint(),
            Self::RolledBack { .. } => STORE_HINT,
            Self::Store(error) => error.hint().unwrap_or_default(),
            Self::StoreExists(_) => {
                "name another database, or make one more server of that trust domain with `--beside DIR`, \
                 where DIR is the data directory of one that is there"
            }
            Self::StoreNotShared => "name a PostgreSQL database with `--store`, the one of the other servers",
            Self::Tls(error) => error.hint(),
        }
    }
}
