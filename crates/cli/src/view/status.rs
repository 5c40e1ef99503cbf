//! Whether authority and agent are well.

use bonafide_wire::{admin, agent, types::Problem};
use serde::Serialize;

use crate::{
    Failure,
    console::View,
    moment::Moment,
    page::{Mark, Page},
    text::count,
};

/// A refusal or failure.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemView {
    /// Stable.
    pub code: String,
    /// One line.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl From<Problem> for ProblemView {
    fn from(problem: Problem) -> Self {
        Self { code: problem.code, message: problem.message, hint: problem.hint }
    }
}

impl From<&Failure> for ProblemView {
    fn from(failure: &Failure) -> Self {
        Self { code: failure.code().to_owned(), message: failure.to_string(), hint: failure.hint() }
    }
}

impl ProblemView {
    /// `[code] message`.
    pub fn line(&self) -> String {
        format!("[{}] {}", self.code, self.message)
    }
}

/// Both roles, as far as they were asked.
#[derive(Debug, Serialize)]
pub struct StatusView {
    /// Absent when it was not asked.
    pub authority: Option<Answer<AuthorityStatusView>>,
    /// Absent when it was not asked.
    pub agent: Option<Answer<AgentStatusView>>,
}

/// An answer, or why there is none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer<T> {
    /// It runs.
    Running(T),
    /// It could not be asked.
    Unreachable(ProblemView),
}

impl<T> Answer<T> {
    /// Keeps the failure.
    pub fn new<S: Into<T>>(result: Result<S, Failure>) -> Self {
        match result {
            Ok(status) => Self::Running(status.into()),
            Err(failure) => Self::Unreachable((&failure).into()),
        }
    }
}

/// An authority.
#[derive(Debug, Serialize)]
pub struct AuthorityStatusView {
    trust_domain: String,
    server: String,
    version: String,
    address: String,
    revision: u64,
    incarnation: String,
    sites: u32,
    registrations: u32,
    agents_connected: u32,
    ledger_size: u64,
    witnessed_size: u64,
    witnesses: u32,
    peers: Vec<PeerView>,
    replica: Option<ReplicaView>,
    seal: String,
    started_at: Option<Moment>,
}

impl From<admin::AuthorityStatus> for AuthorityStatusView {
    fn from(status: admin::AuthorityStatus) -> Self {
        Self {
            trust_domain: status.trust_domain,
            server: status.server,
            version: status.version,
            address: status.address,
            revision: status.revision,
            incarnation: status.incarnation,
            sites: status.sites,
            registrations: status.registrations,
            agents_connected: status.agents_connected,
            ledger_size: status.ledger_size,
            witnessed_size: status.witnessed_size,
            witnesses: status.witnesses,
            peers: status
                .peers
                .into_iter()
                .map(|peer| PeerView { server: peer.server, size: peer.size })
                .collect(),
            replica: status.replica.map(|replica| ReplicaView {
                size: replica.size,
                problem: Some(replica.problem).filter(|problem| !problem.is_empty()),
            }),
            seal: status.seal,
            started_at: Moment::from_wire(status.started_at),
        }
    }
}

/// Another server that has cosigned an authority's ledger.
#[derive(Debug, Serialize)]
pub struct PeerView {
    server: String,
    size: u64,
}

/// The copy of an authority's ledger.
#[derive(Debug, Serialize)]
pub struct ReplicaView {
    size: u64,
    problem: Option<String>,
}

/// An agent.
#[derive(Debug, Serialize)]
pub struct AgentStatusView {
    agent_id: String,
    trust_domain: String,
    site: String,
    connected: bool,
    problem: Option<ProblemView>,
    revision: u64,
    registrations: u32,
    instances: u32,
    pooled: u32,
    agent_svid_expires_at: Option<Moment>,
    version: String,
    missing_kernel_features: Vec<String>,
}

impl From<agent::AgentStatus> for AgentStatusView {
    fn from(status: agent::AgentStatus) -> Self {
        Self {
            agent_id: status.agent_id,
            trust_domain: status.trust_domain,
            site: status.site,
            connected: status.connected,
            problem: status.problem.map(ProblemView::from),
            revision: status.revision,
            registrations: status.registrations,
            instances: status.instances,
            pooled: status.pooled,
            agent_svid_expires_at: Moment::from_wire(status.agent_svid_expires_at),
            version: status.version,
            missing_kernel_features: status
                .peer_evidence
                .into_iter()
                .filter(|feature| !feature.available)
                .map(|feature| feature.name)
                .collect(),
        }
    }
}

impl StatusView {
    /// Whether all that was asked runs, and the agent is connected.
    pub fn is_well(&self) -> bool {
        !matches!(self.authority, Some(Answer::Unreachable(_)))
            && !matches!(&self.agent, Some(Answer::Unreachable(_)))
            && !matches!(&self.agent, Some(Answer::Running(agent)) if !agent.connected)
    }
}

impl View for StatusView {
    fn draw(&self, page: &mut Page) {
        match &self.authority {
            None => {}
            Some(Answer::Unreachable(problem)) => unreachable_step(page, "authority", problem),
            Some(Answer::Running(status)) => {
                let mut details = vec![format!("{} ({})", status.trust_domain, status.version)];
                if !status.address.is_empty() {
                    details.push(format!("agents connect to {}", status.address));
                }
                details.push(format!(
                    "{}, {}, {} connected",
                    count(status.sites.into(), "site", "sites"),
                    count(status.registrations.into(), "registration", "registrations"),
                    count(status.agents_connected.into(), "agent", "agents"),
                ));
                details.push(format!(
                    "revision {}, {} in the log, keys under a {} seal",
                    status.revision,
                    count(status.ledger_size, "record", "records"),
                    status.seal
                ));
                if status.witnesses > 0 {
                    details.push(format!(
                        "{} of the log witnessed by {}",
                        count(status.witnessed_size, "record", "records"),
                        count(status.witnesses.into(), "agent", "agents"),
                    ));
                }
                for peer in &status.peers {
                    details.push(format!(
                        "{} of the log cosigned by server {}",
                        count(peer.size, "record", "records"),
                        peer.server
                    ));
                }
                if let Some(replica) = &status.replica {
                    details.push(format!(
                        "{} in the replica, {} not yet",
                        count(replica.size, "record", "records"),
                        status.ledger_size.saturating_sub(replica.size),
                    ));
                }
                details.push(format!("started {}", page.time_or(status.started_at, "at an unknown time")));
                page.step(Mark::Ok, "authority", &details, "");
                if let Some(problem) = status.replica.as_ref().and_then(|replica| replica.problem.as_ref()) {
                    let hint = "what the ledger has since is lost with its disk: look at the replica's mount";
                    page.step(Mark::Failed, "replica", std::slice::from_ref(problem), hint);
                }
            }
        }
        match &self.agent {
            None => {}
            Some(Answer::Unreachable(problem)) => unreachable_step(page, "agent", problem),
            Some(Answer::Running(status)) => {
                let name = if status.agent_id.is_empty() { "not attested yet" } else { &status.agent_id };
                let mut details = vec![format!("{name} ({})", status.version)];
                details.push(format!(
                    "site {}, revision {}, {}",
                    if status.site.is_empty() { "unknown" } else { &status.site },
                    status.revision,
                    count(status.registrations.into(), "registration", "registrations"),
                ));
                details.push(format!(
                    "{} with an identity, {} for launches to come",
                    count(status.instances.into(), "instance", "instances"),
                    count(status.pooled.into(), "SVID", "SVIDs"),
                ));
                details.push(format!(
                    "its own SVID expires {}",
                    page.time_or(status.agent_svid_expires_at, "never")
                ));
                if !status.missing_kernel_features.is_empty() {
                    details.push(format!("the kernel lacks {}", status.missing_kernel_features.join(", ")));
                }
                page.step(Mark::Ok, "agent", &details, "");
                match &status.problem {
                    _ if status.connected => {
                        page.step(Mark::Ok, "connection", &["to the authority".into()], "")
                    }
                    Some(problem) => page.step(Mark::Failed, "connection", &[problem.line()], &problem.hint),
                    None => {
                        page.step(Mark::Failed, "connection", &["not connected to the authority".into()], "")
                    }
                }
            }
        }
    }

    fn names(&self) -> Vec<String> {
        vec![if self.is_well() { "ok" } else { "failing" }.into()]
    }
}

fn unreachable_step(page: &mut Page, name: &str, problem: &ProblemView) {
    page.step(Mark::Failed, name, &[problem.line()], &problem.hint);
}
