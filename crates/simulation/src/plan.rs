//! What is simulated: sites, registrations, and who hosts what.

use bonafide_identity::{SpiffeId, TrustDomain};
use bonafide_wire::types::{Registration, Scope, Selector, Site, registration};

/// How large the simulated world is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of its site, `[a-z0-9-]{1,63}`. Names of registrations begin with it.
    pub site: String,
    /// Nodes.
    pub agents: usize,
    /// Registrations, spread over the agents; with fewer of them than agents, and the first of them in any case, such
    /// that all agents may host them.
    pub entries: usize,
    /// Launches, spread over the agents.
    pub workloads: usize,
    /// Lifetime of SVIDs, in seconds. They are renewed at half of it.
    pub ttl: u32,
    /// Draw the keys of workloads from a small pool in place of making each one. Spares this machine, not the
    /// authority: it does not know.
    pub reuse_keys: bool,
}

impl Plan {
    /// Everything that its nodes may obtain.
    pub(crate) fn site(&self, trust_domain: &TrustDomain) -> Site {
        let scope = Scope {
            spiffe_ids: vec![format!("spiffe://{trust_domain}/{}/**", self.site)],
            dns_names: vec![format!("*.{}.internal", self.site)],
            max_x509_ttl: self.ttl.max(300),
            signatures_per_second: 1_000_000,
            attestations_per_second: 100_000,
            ..Scope::default()
        };
        Site {
            name: self.site.clone(),
            scope: Some(scope),
            default_x509_ttl: self.ttl,
            default_jwt_ttl: 300,
            ..Site::default()
        }
    }

    /// One registration: three selectors, an ID of its own, and for every third one a DNS name.
    pub(crate) fn registration(
        &self,
        number: usize,
        trust_domain: &TrustDomain,
        agents: &[SpiffeId],
    ) -> Registration {
        let parent = self.host_of(number).and_then(|host| agents.get(host));
        Registration {
            id: self.registration_id(number),
            kind: registration::Kind::Entry.into(),
            site: self.site.clone(),
            spiffe_id: format!(
                "spiffe://{trust_domain}/{}/ns/{}/sa/service-{number}",
                self.site,
                namespace(number)
            ),
            parent: parent.map(ToString::to_string).unwrap_or_default(),
            selectors: selectors(number),
            dns_names: if number.is_multiple_of(3) {
                vec![format!("service-{number}.{}.internal", self.site)]
            } else {
                Vec::new()
            },
            ..Registration::default()
        }
    }

    pub(crate) fn registration_id(&self, number: usize) -> String {
        format!("{}-{number}", self.site)
    }

    /// The one agent that may host a registration; `None`: each of them.
    fn host_of(&self, registration: usize) -> Option<usize> {
        (registration > 0 && self.entries > self.agents).then(|| registration % self.agents.max(1))
    }

    /// The registrations of an agent's launches.
    pub(crate) fn launches_of(&self, agent: usize) -> Vec<usize> {
        let agents = self.agents.max(1);
        (agent..self.workloads)
            .step_by(agents)
            .map(|launch| {
                if self.entries > agents {
                    // Of its own ones, in turns. Number 0 is everybody's.
                    let own = (self.entries - agent).div_ceil(agents).max(1);
                    agent + launch / agents % own * agents
                } else {
                    launch % self.entries.max(1)
                }
            })
            .collect()
    }
}

/// What is attested of the launches of a registration.
pub(crate) fn selectors(number: usize) -> Vec<Selector> {
    [
        ("k8s.ns", namespace(number)),
        ("k8s.sa", format!("service-{number}")),
        ("k8s.container", if number.is_multiple_of(4) { "sidecar".to_owned() } else { "main".to_owned() }),
    ]
    .map(|(key, value)| Selector { key: key.to_owned(), value })
    .to_vec()
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % 997)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(agents: usize, entries: usize, workloads: usize) -> Plan {
        Plan { site: "sim".to_owned(), agents, entries, workloads, ttl: 60, reuse_keys: false }
    }

    #[test]
    fn every_launch_has_a_registration_that_its_agent_may_host() {
        for plan in [plan(3, 10, 7), plan(5, 5, 20), plan(4, 1, 9), plan(7, 8, 30), plan(1, 3, 2)] {
            let mut launches = 0;
            for agent in 0..plan.agents {
                for registration in plan.launches_of(agent) {
                    assert!(registration < plan.entries, "{plan:?}: {registration}");
                    assert!(plan.host_of(registration).is_none_or(|host| host == agent), "{plan:?}");
                    launches += 1;
                }
            }
            assert_eq!(launches, plan.workloads, "{plan:?}");
        }
    }

    #[test]
    fn registrations_differ() {
        let trust_domain = "example.org".parse().unwrap();
        let plan = plan(2, 10, 0);
        let (one, two) = (plan.registration(3, &trust_domain, &[]), plan.registration(4, &trust_domain, &[]));
        assert!(one.spiffe_id != two.spiffe_id && one.selectors != two.selectors && one.id != two.id);
        assert_eq!(one.dns_names, ["service-3.sim.internal"]);
    }
}
