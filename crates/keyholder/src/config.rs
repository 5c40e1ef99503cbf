//! Settings of one keyholder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bonafide_identity::SpiffeId;
use bonafide_keyring::WorkerProgram;
use serde::Deserialize;

/// All that one keyholder is told. Unknown fields are refused. Whom it trusts is not here, but in documents that the owner signs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyholderConfig {
    /// Holds keyring, state, seal keys of epochs, ledger and the admin socket. Created with mode 0700. No snapshots of it: they
    /// undo what a refresh is for.
    pub data_dir: PathBuf,
    /// Where callers and other keyholders connect.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// What the keyring's root key rests under. Best not on the same disk.
    #[serde(default)]
    pub seal: SealConfig,
    /// What the server shows of itself: PEM files, as `bonafide svid x509 --write --watch` keeps them. They are read again when
    /// they change.
    pub svid: SvidFiles,
    /// Where the other keyholders are: the SPIFFE IDs of the roster, and `host:port`.
    #[serde(default)]
    pub peers: BTreeMap<SpiffeId, String>,
    /// Seconds between two looks at what the others have: deny-lists, certificates of epochs.
    #[serde(default = "default_exchange")]
    pub exchange_seconds: u64,
    /// Seconds after which a ceremony that is not done comes to nothing.
    #[serde(default = "default_ceremony")]
    pub ceremony_seconds: u64,
    /// The program of the share's process. Without one, the share is in the server's own process: for tests.
    #[serde(skip)]
    pub worker: Option<WorkerProgram>,
}

/// What wraps the keyring's root key at rest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SealConfig {
    /// `seal.key` in the data directory: whoever copies that has the share.
    #[default]
    KeyFile,
    /// A key file elsewhere: another disk, a mounted secret.
    KeyFileAt {
        /// The file; created on `init`.
        path: PathBuf,
    },
    /// A passphrase, read from a file (`/dev/fd/N` works too); a trailing line end is not part of it.
    Passphrase {
        /// The file that holds the passphrase.
        file: PathBuf,
    },
}

/// An X509-SVID in files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SvidFiles {
    /// PEM of the chain, leaf first.
    pub certificate: PathBuf,
    /// PEM of the key: PKCS #8.
    pub key: PathBuf,
}

/// Why settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, a field that is unknown or missing, or a value that it can't have.
    #[error("{0}")]
    Malformed(String),
}

impl ConfigError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "config.malformed"
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        "compare it with what `bonafide keyholder init` writes"
    }
}

impl KeyholderConfig {
    /// Settings from TOML.
    ///
    /// # Errors
    /// [`ConfigError`] names the place.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text)
            .map_err(|error| ConfigError::Malformed(error.to_string().trim_end().replace('\n', " ")))
    }

    /// The operator's socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    pub(crate) fn exchange(&self) -> Duration {
        Duration::from_secs(self.exchange_seconds.max(1))
    }

    pub(crate) fn ceremony(&self) -> Duration {
        Duration::from_secs(self.ceremony_seconds.max(1))
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8444))
}

const fn default_exchange() -> u64 {
    30
}

const fn default_ceremony() -> u64 {
    60
}
