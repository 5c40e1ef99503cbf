//! What can go wrong with a keyring.

use std::path::PathBuf;

/// Why a keyring or a seal did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The seal opened the root key, but the rest of the file is not what was written under it.
    #[error("the keyring `{}` was damaged or changed", .0.display())]
    Broken(PathBuf),
    /// There is a file already.
    #[error("`{}` exists", .0.display())]
    Exists(PathBuf),
    /// The file is not what it should be.
    #[error("`{}` is not {what}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// The key file can be read by others.
    #[error("`{}` has mode {mode:04o}: others can read the key", path.display())]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file could not be read or written.
    #[error("`{}`: {cause}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// No memory that is fit for a secret.
    #[error("no protected memory for a key")]
    Memory,
    /// There are as many versions as a keyring holds.
    #[error("the keyring holds {0} versions, the most it can")]
    TooManyVersions(usize),
    /// What should be unwrapped was not wrapped by this keyring for this context, or was changed.
    #[error("the wrapped key does not open for `{context}`")]
    Unwrap {
        /// What it was said to be.
        context: String,
    },
    /// The wrapped key names a version that this keyring does not have.
    #[error("the wrapped key is under version {0}, which this keyring does not have")]
    Version(u32),
    /// The seal is of the right kind, but has another secret.
    #[error("the {0} seal does not open this keyring")]
    WrongSeal(&'static str),
    /// The keyring is sealed by another kind of seal.
    #[error("the keyring is sealed by `{expected}`, not by `{given}`")]
    WrongSealKind {
        /// The kind that sealed it.
        expected: String,
        /// The kind that was tried.
        given: &'static str,
    },
}

impl KeyringError {
    /// A stable name for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Broken(_) => "keyring.broken",
            Self::Exists(_) => "keyring.exists",
            Self::Format { .. } => "keyring.format",
            Self::Mode { .. } => "keyring.mode",
            Self::Io { .. } => "keyring.io",
            Self::Memory => "keyring.memory",
            Self::TooManyVersions(_) => "keyring.too-many-versions",
            Self::Unwrap { .. } => "keyring.unwrap",
            Self::Version(_) => "keyring.version",
            Self::WrongSeal(_) => "keyring.wrong-seal",
            Self::WrongSealKind { .. } => "keyring.wrong-seal-kind",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Broken(_) | Self::Format { .. } => "restore the file from a backup",
            Self::Exists(_) => "open it, or choose another place; nothing is overwritten",
            Self::Mode { .. } => "`chmod 600` the file, and ask who may have read it",
            Self::Io { .. } => "check that the directory exists, is writable and has room",
            Self::Memory => "raise the limit of locked memory (`ulimit -l`) or free some memory",
            Self::TooManyVersions(_) => "rewrap what the oldest versions wrapped, in a new keyring",
            Self::Unwrap { .. } | Self::Version(_) => {
                "check that store and keyring belong together, as of the same backup"
            }
            Self::WrongSeal(_) => "give the passphrase or key file that this keyring was sealed with",
            Self::WrongSealKind { .. } => "configure the kind of seal that this keyring was sealed with",
        }
    }

    pub(crate) fn io(path: &std::path::Path, cause: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), cause }
    }
}
