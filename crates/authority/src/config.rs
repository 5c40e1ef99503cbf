//! Settings of one authority server.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bonafide_crypto::key::KeyAlgorithm;
use bonafide_identity::{DnsName, TrustDomain};
use bonafide_keyring::WorkerProgram;
use bonafide_store::PostgresAddress;
use serde::Deserialize;

/// Seals of one keyring.
const MAX_SEALS: usize = 8;

/// All that one authority server is told. Unknown fields are refused: a typing error must not weaken anything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityConfig {
    /// The trust domain that this server is authority of. Fixed for the life of the data directory.
    pub trust_domain: TrustDomain,
    /// Name of this server, unique in its trust domain: one path segment of its SPIFFE ID.
    #[serde(default = "default_server")]
    pub server: String,
    /// Holds keyring, store, ledger and the admin socket. Created with mode 0700.
    pub data_dir: PathBuf,
    /// Where agents and remote admins connect.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// What join lines tell new nodes, `host:port`. Default: the bound address of `listen`.
    #[serde(default)]
    pub address: Option<String>,
    /// Names of this server for clients that look at those and not at its SPIFFE ID, as those of Vault's API do. They stand in its
    /// certificate.
    #[serde(default)]
    pub dns_names: Vec<DnsName>,
    /// Default: `admin.sock` in the data directory.
    #[serde(default)]
    pub admin_socket: Option<PathBuf>,
    /// Group that may administer through the local socket, beside root and the server's own user.
    #[serde(default)]
    pub admin_gid: Option<u32>,
    /// What the root key rests under.
    #[serde(default)]
    pub seal: SealConfig,
    /// Further seals of it, tried in this order where that one does not open it. Each has to be put on the keyring first, with
    /// `bonafide authority seal add`.
    #[serde(default)]
    pub seals: Vec<SealConfig>,
    /// Where the revision log is.
    #[serde(default)]
    pub store: StoreConfig,
    /// Kinds of the keys that are drawn from now on.
    #[serde(default)]
    pub keys: KeysConfig,
    /// The log of what this server has issued.
    #[serde(default)]
    pub ledger: LedgerConfig,
    /// An existing CA in place of a root of our own.
    #[serde(default)]
    pub upstream: Option<UpstreamConfig>,
    /// Lifetimes of keys and SVIDs.
    #[serde(default)]
    pub lifetimes: Lifetimes,
    /// Bounds on what callers may ask for.
    #[serde(default)]
    pub limits: Limits,
    /// How to start the process that holds the live private keys. Without one they are in this process, which only
    /// tests should want.
    #[serde(skip)]
    pub key_worker: Option<WorkerProgram>,
    /// Accept a store that is older than the ledger says, or a ledger that is older than the store says, and write that
    /// into the ledger. For one start, so no file can say it: as long as it were said, nothing would notice when it
    /// happens again.
    #[serde(skip)]
    pub accept_restore: bool,
}

/// What wraps the keyring's root key at rest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SealConfig {
    /// A key file, by default `seal.key` in the data directory. Protects the store alone, not the directory.
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
    /// An AES key in the device of `keys.pkcs11`, drawn on `init` unless it is there.
    Pkcs11,
}

/// Kinds of keys. Those that are there already stay as they are until they are rotated.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysConfig {
    /// Of roots and intermediates.
    #[serde(deserialize_with = "key_algorithm")]
    pub ca: KeyAlgorithm,
    /// Of keys that sign JWT-SVIDs. Not Ed25519: JWT-SVID section 2.1 has no algorithm for it.
    #[serde(deserialize_with = "key_algorithm")]
    pub jwt: KeyAlgorithm,
    /// Draws them in a PKCS#11 device, which they never leave. Keys that are there already stay where they are.
    pub pkcs11: Option<Pkcs11Config>,
}

/// A PKCS#11 device. Its module is loaded in the process of the live keys, not in the one with the network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11Config {
    /// The vendor's library.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// The file that holds the PIN of the token's user (`/dev/fd/N` works too); a trailing line end is not part of it.
    pub pin_file: PathBuf,
    /// The module reaches its device over the network. Then the process of the live keys keeps its network.
    #[serde(default)]
    pub network: bool,
    /// The module's environment, such as where its own settings are. Not for secrets: it can be seen.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Whether the authority's own keys are drawn in it. If not, it is for seals, and for keys of applications that are declared
    /// external.
    #[serde(default = "yes")]
    pub authority: bool,
}

const fn yes() -> bool {
    true
}

/// Where an existing CA is, which signs this trust domain's intermediates. Both files are looked at every minute; a new CA
/// in them is published, acknowledged by the agents, and then used.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// PEM: the CA's certificate first, then those above it, with or without the root.
    pub cert_file: PathBuf,
    /// PEM: its key as PKCS#8, readable by its owner alone. Not needed any more once the CA has been taken up.
    pub key_file: PathBuf,
}

/// Where the revision log is.
#[expect(clippy::large_enum_variant, reason = "there is one of them in a process")]
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StoreConfig {
    /// `store.sqlite` in the data directory: for one server.
    #[default]
    Sqlite,
    /// A PostgreSQL database, which all servers of the trust domain share. They also share `keyring` and seal: a server
    /// whose keyring is another one's can't read the store.
    Postgres {
        /// `postgres://USER@HOST/DATABASE`, or `postgres://USER@/DATABASE?host=/run/postgresql` for a Unix socket.
        #[serde(deserialize_with = "postgres_address")]
        url: PostgresAddress,
        /// A file with the password, if `url` has none and the server wants one.
        #[serde(default)]
        password_file: Option<PathBuf>,
        /// PEM: the CAs that the server's certificate is under. The connection is encrypted then, and with
        /// `sslmode=require` in `url` it must be there.
        #[serde(default)]
        ca_file: Option<PathBuf>,
    },
}

/// The log of what a server has issued, `ledger` in its data directory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// A directory on another disk, or in a mounted bucket, that what was published is copied to: of this server alone.
    pub replica: Option<PathBuf>,
}

/// Lifetimes of keys and SVIDs.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lifetimes {
    /// The self-signed root.
    pub root: Ttl,
    /// This server's intermediate; it is replaced at half of its life.
    pub intermediate: Ttl,
    /// Keys that sign JWT-SVIDs.
    pub jwt_key: Ttl,
    /// SVIDs of agents.
    pub agent: Ttl,
    /// The server's own SVID.
    pub server: Ttl,
    /// X509-SVIDs of sites and registrations that name no lifetime.
    pub x509: Ttl,
    /// JWT-SVIDs of sites and registrations that name no lifetime.
    pub jwt: Ttl,
    /// How far `notBefore` lies in the past, for verifiers whose clock is behind. Never more than the lifetime.
    pub backdate: Ttl,
}

/// Bounds on what callers may ask for.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Signatures that the agents of a site may ask for, per second, unless its scope says otherwise.
    pub signatures_per_second: u32,
    /// Attestations that a site may ask for, per second, unless its scope says otherwise.
    pub attestations_per_second: u32,
    /// Attestations from one source address, per second.
    pub attestations_per_source: u32,
    /// Requests of one agent that may wait for their answer.
    pub in_flight_per_stream: usize,
    /// Requests of all agents that may wait for a signature.
    pub signing_queue: usize,
    /// Threads that sign; 0: one per core.
    pub signing_threads: usize,
    /// Connections of agents and remote admins.
    pub connections: usize,
    /// Those of one verified peer: an agent, or one launch of a workload of an admin.
    pub connections_per_peer: usize,
    /// Connections that have shown no certificate, or not yet; never more than half of `connections`.
    pub strangers: usize,
    /// Those from one address (of IPv6: one /64).
    pub strangers_per_source: usize,
    /// Connections that one address may begin in a second and that remain so.
    pub strangers_per_second: u32,
}

/// A lifetime in whole seconds: `90`, `"90s"`, `"15m"`, `"24h"`, `"365d"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(u32);

/// Settings that can't hold.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not what the schema says.
    #[error("the configuration can't be read: {0}")]
    Malformed(String),
    /// A value is out of its bounds.
    #[error("`{field}` {problem}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl AuthorityConfig {
    /// A configuration with every default.
    pub fn new(trust_domain: TrustDomain, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            trust_domain,
            server: default_server(),
            data_dir: data_dir.into(),
            listen: default_listen(),
            address: None,
            dns_names: Vec::new(),
            admin_socket: None,
            admin_gid: None,
            seal: SealConfig::default(),
            seals: Vec::new(),
            store: StoreConfig::default(),
            keys: KeysConfig::default(),
            ledger: LedgerConfig::default(),
            upstream: None,
            lifetimes: Lifetimes::default(),
            limits: Limits::default(),
            key_worker: None,
            accept_restore: false,
        }
    }

    /// Reads TOML and checks it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|error| ConfigError::Malformed(one_line(error.message())))?;
        config.check()?;
        Ok(config)
    }

    /// Checks the bounds that the types can't.
    pub fn check(&self) -> Result<(), ConfigError> {
        let segment = !self.server.is_empty()
            && self.server.len() <= 63
            && self
                .server
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !segment {
            return Err(ConfigError::Value { field: "server", problem: "must be 1 to 63 of `a-z0-9-`" });
        }
        self.keys.check()?;
        if self.all_seals().any(|seal| matches!(seal, SealConfig::Pkcs11)) && self.keys.pkcs11.is_none() {
            return Err(ConfigError::Value {
                field: "seal.kind",
                problem: "needs a device in `[keys.pkcs11]`",
            });
        }
        if self.seals.len() >= MAX_SEALS {
            return Err(ConfigError::Value { field: "seals", problem: "are at most 8, with `seal`" });
        }
        self.lifetimes.check()?;
        self.limits.check()
    }

    /// Every seal, in the order in which they are tried.
    pub fn all_seals(&self) -> impl Iterator<Item = &SealConfig> {
        std::iter::once(&self.seal).chain(&self.seals)
    }

    /// The admin socket's path.
    pub fn admin_socket_path(&self) -> PathBuf {
        self.admin_socket.clone().unwrap_or_else(|| self.data_dir.join("admin.sock"))
    }
}

impl SealConfig {
    /// The kind of the seal, as the keyring names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::KeyFile | Self::KeyFileAt { .. } => "key-file",
            Self::Passphrase { .. } => "passphrase",
            Self::Pkcs11 => "pkcs11",
        }
    }
}

impl KeysConfig {
    /// Whether the authority's own keys are drawn in the device.
    pub(crate) fn in_device(&self) -> bool {
        self.pkcs11.as_ref().is_some_and(|device| device.authority)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.jwt == KeyAlgorithm::Ed25519 {
            let problem = "can't be `ed25519`: JWT-SVIDs are signed with ECDSA or RSA; use `ec-p256`";
            return Err(ConfigError::Value { field: "keys.jwt", problem });
        }
        // X509-SVID section 4 leaves the algorithm to X.509; this is what rustls, Go and Java all verify.
        if self.ca == KeyAlgorithm::EcP521 {
            let problem = "can't be `ec-p521`: many TLS libraries don't verify it; use `ec-p384`";
            return Err(ConfigError::Value { field: "keys.ca", problem });
        }
        if self.in_device() && self.ca == KeyAlgorithm::Ed25519 {
            let problem = "can't be `ed25519` in a device; use `ec-p256`";
            return Err(ConfigError::Value { field: "keys.ca", problem });
        }
        Ok(())
    }
}

impl Lifetimes {
    fn check(&self) -> Result<(), ConfigError> {
        let fits = |field, inner: Ttl, outer: Ttl, problem| {
            if inner.0.saturating_mul(2) <= outer.0 {
                Ok(())
            } else {
                Err(ConfigError::Value { field, problem })
            }
        };
        // An intermediate is replaced at half of its life, so whatever it signs must fit into the other half.
        let half = "must be at most half of `lifetimes.intermediate`";
        fits("lifetimes.agent", self.agent, self.intermediate, half)?;
        fits("lifetimes.server", self.server, self.intermediate, half)?;
        fits("lifetimes.x509", self.x509, self.intermediate, half)?;
        fits(
            "lifetimes.intermediate",
            self.intermediate,
            self.root,
            "must be at most half of `lifetimes.root`",
        )?;
        fits("lifetimes.jwt", self.jwt, self.jwt_key, "must be at most half of `lifetimes.jwt_key`")
    }
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root: Ttl(365 * 86_400),
            intermediate: Ttl(86_400),
            jwt_key: Ttl(7 * 86_400),
            agent: Ttl(3600),
            server: Ttl(3600),
            x509: Ttl(3600),
            jwt: Ttl(300),
            backdate: Ttl(30),
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        let positive = |field, value: usize| {
            if value > 0 { Ok(()) } else { Err(ConfigError::Value { field, problem: "must be positive" }) }
        };
        positive("limits.in_flight_per_stream", self.in_flight_per_stream)?;
        positive("limits.signing_queue", self.signing_queue)?;
        positive("limits.connections", self.connections)?;
        positive("limits.strangers", self.strangers)?;
        positive("limits.connections_per_peer", self.connections_per_peer)?;
        positive("limits.strangers_per_source", self.strangers_per_source)?;
        positive(
            "limits.strangers_per_second",
            usize::try_from(self.strangers_per_second).unwrap_or(usize::MAX),
        )
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            signatures_per_second: 2_000,
            attestations_per_second: 50,
            attestations_per_source: 10,
            in_flight_per_stream: 256,
            signing_queue: 8_192,
            signing_threads: 0,
            connections: 20_000,
            strangers: 1024,
            connections_per_peer: 64,
            strangers_per_source: 64,
            strangers_per_second: 20,
        }
    }
}

impl Ttl {
    /// Of `seconds`, at least one, at most ten years.
    pub const fn from_secs(seconds: u32) -> Option<Self> {
        if seconds == 0 || seconds > 10 * 366 * 86_400 { None } else { Some(Self(seconds)) }
    }

    /// In seconds.
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// As the standard library's type.
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl fmt::Debug for Ttl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}s", self.0)
    }
}

impl FromStr for Ttl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            ConfigError::Malformed(
                "a lifetime is a number with `s`, `m`, `h` or `d`, from 1s to 10 years".into(),
            )
        };
        let (digits, unit) = match text.char_indices().next_back() {
            Some((index, 's')) => (text.get(..index), 1),
            Some((index, 'm')) => (text.get(..index), 60),
            Some((index, 'h')) => (text.get(..index), 3_600),
            Some((index, 'd')) => (text.get(..index), 86_400),
            _ => (Some(text), 1),
        };
        let number: u32 = digits
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(wrong)?;
        number.checked_mul(unit).and_then(Self::from_secs).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Seconds(u32),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Seconds(seconds) => Self::from_secs(seconds)
                .ok_or_else(|| serde::de::Error::custom("a lifetime lies between 1s and 10 years")),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl ConfigError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "config.malformed",
            Self::Value { .. } => "config.value",
        }
    }

    /// What to do.
    pub fn hint(&self) -> &'static str {
        "see the comments of the file that `bonafide authority init` wrote"
    }
}

/// Says what is wrong, never what was given: a password may be in it.
fn postgres_address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PostgresAddress, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn key_algorithm<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<KeyAlgorithm, D::Error> {
    let name = String::deserialize(deserializer)?;
    KeyAlgorithm::from_name(&name).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "there is no key algorithm `{name}`: use ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096 or, for `ca`, ed25519"
        ))
    })
}

fn default_server() -> String {
    "a".to_owned()
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8443))
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_file_has_every_default() {
        let config = AuthorityConfig::parse("trust_domain = 'example.org'\ndata_dir = '/x'").unwrap();
        assert_eq!(config.server, "a");
        assert_eq!(config.lifetimes.intermediate.as_secs(), 86_400);
        assert_eq!(config.admin_socket_path(), PathBuf::from("/x/admin.sock"));
    }

    #[test]
    fn a_typing_error_is_refused() {
        let text = "trust_domain = 'example.org'\ndata_dir = '/x'\n[lifetimes]\nintermediat = '1h'";
        assert_eq!(AuthorityConfig::parse(text).unwrap_err().code(), "config.malformed");
    }

    #[test]
    fn lifetimes_must_nest() {
        let text = "trust_domain = 'example.org'\ndata_dir = '/x'\n[lifetimes]\nintermediate = '90m'";
        assert_eq!(AuthorityConfig::parse(text).unwrap_err().code(), "config.value");
        let text = "trust_domain = 'example.org'\ndata_dir = '/x'\n[lifetimes]\nintermediate = '60s'\nagent = 20\n\
                    server = 20\nx509 = '10s'";
        assert_eq!(AuthorityConfig::parse(text).unwrap().lifetimes.x509.as_secs(), 10);
    }

    #[test]
    fn the_password_of_a_store_is_shown_nowhere() {
        let text = |url| {
            format!(
                "trust_domain = 'example.org'\ndata_dir = '/x'\n[store]\nkind = 'postgres'\nurl = '{url}'"
            )
        };
        let config = AuthorityConfig::parse(&text("postgres://u:hunter2@localhost/db")).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        for url in
            ["postgres://u:hunter2@far/db", "postgres://u:hunter2@localhost/db?what=hunter2", "hunter2"]
        {
            let error = AuthorityConfig::parse(&text(url)).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn keys_are_of_kinds_that_everybody_verifies() {
        let keys = |text: &str| {
            AuthorityConfig::parse(&format!("trust_domain = 'example.org'\ndata_dir = '/x'\n[keys]\n{text}"))
        };
        assert_eq!(keys("").unwrap().keys.ca, KeyAlgorithm::EcP256);
        let config = keys("ca = 'ec-p384'\njwt = 'rsa-2048'").unwrap();
        assert_eq!((config.keys.ca, config.keys.jwt), (KeyAlgorithm::EcP384, KeyAlgorithm::Rsa2048));
        assert_eq!(keys("ca = 'ed25519'").unwrap().keys.ca, KeyAlgorithm::Ed25519);
        for refused in
            ["jwt = 'ed25519'", "ca = 'ec-p521'", "ca = 'rsa-1024'", "ca = 'P-256'", "root = 'ec-p256'"]
        {
            assert!(keys(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_server_name_is_one_path_segment() {
        let mut config = AuthorityConfig::new("example.org".parse().unwrap(), "/x");
        for name in ["", "a/b", "A", "a.b", ".."] {
            config.server = name.to_owned();
            assert!(config.check().is_err(), "{name}");
        }
    }

    #[test]
    fn lifetimes_are_read_strictly() {
        for text in ["", "s", "-1s", "+1s", "1 h", "0", "11y", "99999999999d", "4000000000h", "1.5h"] {
            assert!(text.parse::<Ttl>().is_err(), "{text}");
        }
        assert_eq!("24h".parse::<Ttl>().unwrap().as_secs(), 86_400);
    }
}
