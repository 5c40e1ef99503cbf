//! What the authority knows and would do: status, bundle, signing keys, explanations, and waiting for agents.

use std::{collections::BTreeSet, time::Duration};

use bonafide_attest::{Selector, SelectorSet, registration::Registration};
use bonafide_identity::{SpiffeId, reserved};
use bonafide_wire::admin::{
    AuthorityStatus, ExplainRequest, ExplainResponse, GetBundleRequest, GetBundleResponse, LedgerPeer,
    LedgerReplica, NearMiss, Outcome, StatusRequest, WaitRequest, WaitResponse,
};

use super::{Admin, Caller, Rights};
use crate::{
    convert::wire,
    records::Agent,
    refusal::Refusal,
    registration,
    state::{SiteState, State},
};

const NEAR_MISSES: usize = 8;
/// Matching registrations that one explanation shows.
const OUTCOMES: usize = 100;
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Agents that an answer names as behind.
const MAX_BEHIND: usize = 1000;

impl Admin {
    /// Counts are of what the caller may see.
    ///
    /// # Errors
    /// A caller without rights.
    pub fn status(&self, caller: &Caller, _: &StatusRequest) -> Result<AuthorityStatus, Refusal> {
        let (state, rights) = self.reader(caller)?;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let visible = || state.sites().filter(|site| site.site().is_some_and(|site| rights.sees(&site.name)));
        let ledger = (self.info.ledger)();
        Ok(AuthorityStatus {
            trust_domain: state.trust_domain().to_string(),
            server: self.info.server.clone(),
            version: self.info.version.clone(),
            revision: state.revision(),
            incarnation: state.incarnation().to_string(),
            sites: count(visible().count()),
            registrations: count(visible().map(SiteState::registration_count).sum()),
            agents_connected: count(self.presence.connected(|agent| sees_agent(&rights, agent))),
            ledger_size: ledger.size,
            witnessed_size: ledger.witnessed_size,
            witnesses: count(ledger.witnesses),
            peers: ledger.peers.into_iter().map(|(server, size)| LedgerPeer { server, size }).collect(),
            replica: ledger.replica.map(|replica| LedgerReplica {
                size: replica.size,
                problem: replica.problem.unwrap_or_default(),
            }),
            address: self.info.address.clone(),
            seal: self.info.seal.clone(),
            started_at: self.info.started_at.as_secs(),
        })
    }

    /// The trust bundle.
    ///
    /// # Errors
    /// A caller without rights.
    pub fn bundle(&self, caller: &Caller, _: &GetBundleRequest) -> Result<GetBundleResponse, Refusal> {
        let (state, _) = self.reader(caller)?;
        Ok(GetBundleResponse { bundle: state.bundle().to_json().into() })
    }

    /// What an agent that attests these selectors would get, and why not more.
    ///
    /// # Errors
    /// A malformed request, or an agent of a site that is not the caller's.
    pub fn explain(&self, caller: &Caller, request: &ExplainRequest) -> Result<ExplainResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        let agent = wire::to_id(&request.agent, state.trust_domain())?;
        let attested = wire::to_selectors(&request.selectors)?;
        let site = reserved::agent_site(&agent).ok_or_else(|| {
            Refusal::invalid("explain.agent", format!("`{agent}` is not the ID of an agent"))
                .hint("name an agent as `bonafide agent list` shows it")
        })?;
        rights.of_site(site)?;
        let near_misses = near_misses(&state, &rights, site, &agent, &attested);
        let agent = match registration::admitted_agent(&state, &agent) {
            Ok(agent) => agent,
            Err(refusal) => {
                let problem = Some(refusal.to_problem());
                return Ok(ExplainResponse { outcomes: Vec::new(), near_misses, problem });
            }
        };
        let outcomes = self.outcomes(&state, agent, &attested);
        let problem = outcomes.is_empty().then(|| {
            Refusal::denied("workload.no-registration", "no registration of the site matches these selectors")
                .hint("see the near misses, or register the workload")
                .to_problem()
        });
        Ok(ExplainResponse { outcomes, near_misses, problem })
    }

    /// Waits until every connected agent that the caller may see has acknowledged a revision.
    ///
    /// # Errors
    /// A caller without rights, a wait of more than five minutes, a revision that no server has written.
    pub async fn wait(&self, caller: &Caller, request: &WaitRequest) -> Result<WaitResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        drop(state);
        let timeout =
            if request.timeout == 0 { DEFAULT_WAIT } else { Duration::from_secs(request.timeout.into()) };
        if timeout > MAX_WAIT {
            return Err(Refusal::invalid("wait.timeout", "a wait lasts five minutes at most")
                .hint("ask again afterwards"));
        }
        let deadline = tokio::time::Instant::now() + timeout;
        if tokio::time::timeout_at(deadline, self.registry.reached(request.revision)).await.is_err() {
            let known = self.registry.state().revision();
            return Err(Refusal::precondition(
                "wait.revision",
                format!("this server has seen revision {known}, not yet {}", request.revision),
            )
            .hint("use the revision that a write returned"));
        }
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let behind = self.presence.wait(request.revision, left, |agent| sees_agent(&rights, agent)).await;
        Ok(WaitResponse { behind: behind.iter().take(MAX_BEHIND).map(ToString::to_string).collect() })
    }

    /// What each matching registration would earn.
    fn outcomes(&self, state: &State, agent: &Agent, attested: &SelectorSet) -> Vec<Outcome> {
        let now = self.clock.now();
        let Some(site) = state.site(&agent.site) else { return Vec::new() };
        site.matches(attested, usize::MAX)
            .into_iter()
            .filter_map(|id| state.registration(id))
            .filter(|registration| is_hosted(registration, &agent.id))
            .take(OUTCOMES)
            .map(|registration| match registration::earn(state, &agent.id, &registration.id, attested, now) {
                Ok(earned) => Outcome {
                    registration: registration.id.clone(),
                    spiffe_id: earned.grant.id().to_string(),
                    problem: None,
                },
                Err(refusal) => Outcome {
                    registration: registration.id.clone(),
                    spiffe_id: registration.spiffe_id_text(),
                    problem: Some(refusal.to_problem()),
                },
            })
            .collect()
    }
}

/// Registrations that nearly match in the agent's site, and those that match in the wrong place. Closest first.
fn near_misses(
    state: &State,
    rights: &Rights,
    site: &str,
    agent: &SpiffeId,
    attested: &SelectorSet,
) -> Vec<NearMiss> {
    let mut found: Vec<NearMiss> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |id: &str, missing: Vec<Selector>, wrong_place: String| {
        if found.len() < NEAR_MISSES
            && seen.insert(id.to_owned())
            && let Some(registration) = state.registration(id)
        {
            found.push(NearMiss {
                registration: id.to_owned(),
                spiffe_id: registration.spiffe_id_text(),
                missing: wire::from_selectors(&missing),
                wrong_place,
            });
        }
    };
    for other in state.sites() {
        let Some(record) = other.site().filter(|record| rights.sees(&record.name)) else { continue };
        let here = *record.name == *site;
        for id in other.matches(attested, OUTCOMES) {
            match state.registration(id) {
                Some(_) if !here => add(id, Vec::new(), format!("it is for the site `{}`", record.name)),
                Some(registration) if !is_hosted(&registration, agent) => {
                    let parent = registration.parent.as_ref().map(ToString::to_string).unwrap_or_default();
                    add(id, Vec::new(), format!("it is for the agent `{parent}`"));
                }
                _ => (),
            }
        }
    }
    let own = state.site(site).map(|site| site.near_misses(attested, NEAR_MISSES)).unwrap_or_default();
    for (id, missing) in own {
        let elsewhere = state
            .registration(id)
            .and_then(|registration| registration.parent.clone())
            .filter(|parent| parent != agent)
            .map(|parent| format!("it is for the agent `{parent}`"));
        add(id, missing, elsewhere.unwrap_or_default());
    }
    found
}

fn is_hosted(registration: &Registration, agent: &SpiffeId) -> bool {
    registration.parent.as_ref().is_none_or(|parent| parent == agent)
}

fn sees_agent(rights: &Rights, agent: &SpiffeId) -> bool {
    reserved::agent_site(agent).is_some_and(|site| rights.sees(site))
}
