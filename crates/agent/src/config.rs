//! Settings of one agent.

use std::path::PathBuf;

use bonafide_attest::join::JoinLine;
use bonafide_crypto::key::KeyAlgorithm;
use serde::Deserialize;

use crate::{attestor::container::ContainerConfig, x509pop::JoinByCertificate};

/// All that one agent is told. Unknown fields are refused: a typing error must not weaken anything.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// The socket of the Workload API and of the agent's own service.
    pub socket: PathBuf,
    /// The agent's SVID and those of its workloads, with their keys. Belongs on a `tmpfs`: a key file
    /// protects nothing beyond this boot. Created with mode 0700.
    pub data_dir: PathBuf,
    /// File with the join line of a node that has not joined yet, or that has to join again.
    pub join_line_file: Option<PathBuf>,
    /// The join line itself; not part of a configuration file.
    #[serde(skip)]
    pub join_line: Option<JoinLine>,
    /// How the node joins by a certificate that it has already, in place of a join line; needs `authority`. A node that
    /// joins so comes back by itself, also when its SVID has expired.
    pub join: Option<JoinByCertificate>,
    /// `host:port` of each server of the authority, in place of the one that the join line named; a single one may stand
    /// without a list. The agent tries them in an order that it draws, and stays with the one that serves it.
    #[serde(deserialize_with = "one_or_many")]
    pub authority: Vec<String>,
    /// Serve on a kernel before Linux 6.5, which can't pin callers: a process that ends right after it has
    /// connected could be mistaken for another one. SVIDs are then asked for with the selector
    /// `agent.peer:start-time`.
    pub allow_start_time_peers: bool,
    /// Give bundles to callers without identity, and validate JWT-SVIDs for them.
    pub allow_unauthenticated_verifiers: bool,
    /// Container runtimes that are asked about workloads in containers.
    pub containers: ContainerConfig,
    /// What SVIDs the agent asks for.
    pub svid: SvidConfig,
    /// What is kept of decisions.
    pub decisions: DecisionsConfig,
    /// Bounds.
    pub limits: AgentLimits,
}

/// The decision log.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionsConfig {
    /// So many of the newest.
    pub keep: usize,
    /// Of so many that were allowed, one is kept; all that were denied are, and all that a policy in shadow mode would have
    /// decided otherwise.
    pub allowed_one_in: u64,
}

impl Default for DecisionsConfig {
    fn default() -> Self {
        Self { keep: 4096, allowed_one_in: 1 }
    }
}

/// What SVIDs an agent asks for.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SvidConfig {
    /// Kind of the keys that it draws for its workloads: `ec-p256` or `ec-p384`. Not RSA, because one takes a tenth of a
    /// second to draw, and each launch and each renewal takes one.
    #[serde(deserialize_with = "workload_key")]
    pub key: KeyAlgorithm,
}

/// What an agent keeps and does at most.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentLimits {
    /// Unassigned SVIDs kept ready for each registration.
    pub pool_size: usize,
    /// Unassigned SVIDs in total.
    pub pool_total: usize,
    /// Launches with an identity.
    pub launches: usize,
    /// Connections in total.
    pub connections: usize,
    /// Connections of one user.
    pub connections_per_uid: usize,
    /// Open streams of one process.
    pub streams_per_process: usize,
    /// Processes that are attested at a time.
    pub attestations: usize,
    /// Largest executable that gets a `unix.sha256`.
    pub exe_bytes: u64,
    /// JWT-SVIDs that are remembered.
    pub jwts: usize,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            socket: "/run/bonafide/agent.sock".into(),
            data_dir: "/run/bonafide/agent".into(),
            join_line_file: None,
            join_line: None,
            join: None,
            authority: Vec::new(),
            allow_start_time_peers: false,
            allow_unauthenticated_verifiers: false,
            containers: ContainerConfig::default(),
            svid: SvidConfig::default(),
            decisions: DecisionsConfig::default(),
            limits: AgentLimits::default(),
        }
    }
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            pool_size: 2,
            pool_total: 1000,
            launches: 10_000,
            connections: 8192,
            connections_per_uid: 1024,
            streams_per_process: 64,
            attestations: 32,
            exe_bytes: 512 << 20,
            jwts: 4096,
        }
    }
}

impl AgentLimits {
    /// Lowers what would need more than this many open files, so that whoever connects most doesn't take the last one.
    ///
    /// A connection holds three: itself, the pidfd of its process, and that one's `/proc` directory; a launch holds one.
    pub(crate) fn fit_descriptors(&mut self, descriptors: u64) {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let before = (self.connections, self.launches);
        self.connections = self.connections.min(all / 6);
        self.connections_per_uid = self.connections_per_uid.min(self.connections.div_ceil(2));
        self.launches = self.launches.min(all / 4);
        if (self.connections, self.launches) != before {
            tracing::warn!(
                descriptors,
                connections = self.connections,
                launches = self.launches,
                "the limit of open files allows fewer connections and launches than are set"
            );
        }
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "`authority` is a `host:port`, or a list of them")]
    enum OneOrMany {
        Many(Vec<String>),
        One(String),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::Many(addresses) => addresses,
        OneOrMany::One(address) => vec![address],
    })
}

fn workload_key<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<KeyAlgorithm, D::Error> {
    let name = String::deserialize(deserializer)?;
    KeyAlgorithm::from_name(&name)
        .filter(|key| matches!(key, KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384))
        .ok_or_else(|| {
            serde::de::Error::custom(format!("workloads get no `{name}` keys: use ec-p256 or ec-p384"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_needs_no_list() {
        let authority = |text: &str| toml::from_str::<AgentConfig>(text).map(|config| config.authority);
        assert_eq!(authority("authority = 'a:1'").unwrap(), ["a:1"]);
        assert_eq!(authority("authority = ['a:1', 'b:1']").unwrap(), ["a:1", "b:1"]);
        assert_eq!(authority("").unwrap(), [""; 0]);
        assert!(authority("authority = 8443").unwrap_err().to_string().contains("`host:port`"));
    }

    #[test]
    fn limits_fit_the_descriptors_that_there_are() {
        for descriptors in [64, 1024, 4096, 20_000, 1 << 19, u64::MAX] {
            let mut limits = AgentLimits::default();
            limits.fit_descriptors(descriptors);
            let most = 3 * limits.connections as u64 + limits.launches as u64;
            assert!(most <= descriptors / 4 * 3 + 3, "{descriptors}: {most}");
            assert!(limits.connections_per_uid < limits.connections, "one user must not take them all");
        }
        let mut limits = AgentLimits::default();
        limits.fit_descriptors(1 << 19);
        assert_eq!((limits.connections, limits.launches), (8192, 10_000));
    }
}
