//! The container that a process is in: `container.*`, `docker.*` and `podman.*` selectors.
//!
//! | selector | value |
//! |---|---|
//! | `container.runtime` | `docker`, `podman`, `containerd`, `crio` or `kubernetes` (some runtime of it) |
//! | `container.id` | the container's ID, 64 hexadecimal digits |
//! | `container.rootless_uid` | the user whose rootless container it is; then nothing else is told |
//! | `docker.image_id`, `podman.image_id` | the image that the container was made of, `sha256:…`: never a tag |
//! | `docker.image_digest`, `podman.image_digest` | each reference by digest that this image has, `name@sha256:…` |
//! | `docker.name`, `podman.name` | name of the container |
//! | `docker.label`, `podman.label` | `key:value`, for the keys that the configuration names |
//!
//! Which container it is comes from the control group alone, never from what the process can write. What the runtime says
//! of it is asked over its socket, if one is configured, and counts only if the process is alive, and in the same control
//! group, afterwards. Of a rootless container, all but the user is that user's own word.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bonafide_attest::cgroup::{Container, Runtime};
use futures_util::future::BoxFuture;
use serde::Deserialize;

use self::engine::{Engine, EngineError, Facts};
use super::{Attestor, Findings, Subject, cgroups};

mod engine;

/// For all questions about one container. Below the patience with attestors, so that a runtime that hangs costs its own
/// selectors only.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Most label keys that are looked for.
const MAX_LABELS: usize = 32;
/// Longest label key.
const MAX_LABEL: usize = 128;

/// The runtimes that are asked. Without a socket, none is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerConfig {
    /// Docker.
    pub docker: Option<RuntimeConfig>,
    /// Podman, as root.
    pub podman: Option<RuntimeConfig>,
}

/// One runtime that speaks Docker's API over a Unix socket.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Its socket, which must be root's or the agent's own: `/run/docker.sock`.
    pub socket: PathBuf,
    /// Keys of labels that become selectors. Whoever makes containers chooses labels, so name only what you rely on.
    #[serde(default, deserialize_with = "label_keys")]
    pub labels: Vec<String>,
}

/// A key with a colon could be read as another key with a longer value.
fn label_keys<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let keys = Vec::<String>::deserialize(deserializer)?;
    let fit = |key: &String| {
        (1..=MAX_LABEL).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
    };
    if keys.len() > MAX_LABELS || !keys.iter().all(fit) {
        return Err(serde::de::Error::custom(
            "at most 32 label keys, of 1 to 128 printable ASCII characters without `:`",
        ));
    }
    Ok(keys)
}

/// The `container` attestor.
#[derive(Debug)]
pub struct ContainerAttestor {
    docker: Option<(Engine, Vec<String>)>,
    podman: Option<(Engine, Vec<String>)>,
}

impl ContainerAttestor {
    /// Asks these runtimes.
    pub fn new(config: &ContainerConfig) -> Self {
        let engine = |config: &Option<RuntimeConfig>| {
            config.as_ref().map(|config| (Engine::new(config.socket.clone()), config.labels.clone()))
        };
        Self { docker: engine(&config.docker), podman: engine(&config.podman) }
    }

    /// Who is asked about a container, under which name. A container of Kubernetes may be Docker's; which it is, Docker
    /// knows: an ID that is not its own it does not find.
    fn engine(&self, runtime: Runtime) -> Option<(&'static str, &(Engine, Vec<String>))> {
        match runtime {
            Runtime::Docker | Runtime::Kubernetes => Some(("docker", self.docker.as_ref()?)),
            Runtime::Podman => Some(("podman", self.podman.as_ref()?)),
            Runtime::Containerd | Runtime::Crio => None,
        }
    }

    async fn look(&self, subject: &Subject) -> Findings {
        let mut findings = Findings::default();
        let seen = cgroups::look(&subject.process);
        let seen = match seen.and_then(|seen| Ok((seen.groups.container()?, seen))) {
            Ok((Some(container), seen)) => (container, seen),
            Ok((None, _)) => return findings,
            Err(error) => {
                findings.fail("container", &format_args!("{error} ({})", error.code()));
                return findings;
            }
        };
        let (container, seen) = seen;
        self.describe(&container, &mut findings).await;
        if let Err(error) = seen.check_unchanged(&subject.process) {
            // What was found may be about another one.
            findings = Findings::default();
            findings.fail("container", &format_args!("{error} ({})", error.code()));
        }
        findings
    }

    async fn describe(&self, container: &Container, findings: &mut Findings) {
        if let Some(uid) = container.rootless {
            return findings.add("container.rootless_uid", &uid.to_string());
        }
        findings.add("container.runtime", container.runtime.as_str());
        findings.add("container.id", &container.id);
        let Some((name, (engine, labels))) = self.engine(container.runtime) else { return };
        let asked = tokio::time::timeout(ANSWER_TIME, engine.facts(&container.id)).await;
        match asked.unwrap_or(Err(EngineError::Slow)) {
            Ok(facts) => findings.add_facts(name, labels, facts),
            Err(EngineError::Unknown) if container.runtime == Runtime::Kubernetes => {}
            Err(error) => findings.fail(name, &format_args!("{error} ({})", error.code())),
        }
    }
}

impl Findings {
    fn add_facts(&mut self, runtime: &str, labels: &[String], facts: Facts) {
        self.add(&format!("{runtime}.image_id"), &facts.image_id);
        for digest in facts.image_digests {
            self.add(&format!("{runtime}.image_digest"), &digest);
        }
        self.add(&format!("{runtime}.name"), &facts.name);
        for key in labels {
            if let Some(value) = facts.labels.get(key) {
                self.add(&format!("{runtime}.label"), &format!("{key}:{value}"));
            }
        }
        self.failures.extend(facts.missing.map(|error| format!("`{runtime}.image_digest`: {error}")));
    }
}

impl Attestor for ContainerAttestor {
    fn name(&self) -> &'static str {
        "container"
    }

    fn attest(&self, subject: Arc<Subject>) -> BoxFuture<'_, Findings> {
        Box::pin(async move { self.look(&subject).await })
    }
}

#[cfg(test)]
mod tests;
