//! Why a process gets an identity, or why not: the chain from its socket to the issued SVID.

use bonafide_attest::catalog;
use bonafide_wire::{admin, agent};
use serde::Serialize;

use super::{registration::selector, status::ProblemView};
use crate::{
    Failure,
    console::View,
    moment::Moment,
    page::{Mark, Page},
    text::count,
};

/// One link of the chain.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    name: &'static str,
    state: Mark,
    details: Vec<String>,
    hint: String,
}

impl Step {
    fn new(name: &'static str, state: Mark, details: Vec<String>) -> Self {
        Self { name, state, details, hint: String::new() }
    }

    fn failed(name: &'static str, problem: &ProblemView) -> Self {
        Self { name, state: Mark::Failed, details: vec![problem.line()], hint: problem.hint.clone() }
    }
}

/// An identity that the process has, or should have.
#[derive(Debug, Serialize)]
struct IdentityView {
    spiffe_id: String,
    registration: String,
    hint: String,
    instance: String,
    generation: u64,
    expires_at: Option<Moment>,
    renew_after: Option<Moment>,
    problem: Option<ProblemView>,
}

/// A registration that nearly matched.
#[derive(Debug, Serialize)]
struct NearMissView {
    registration: String,
    spiffe_id: String,
    missing: Vec<String>,
    wrong_place: String,
}

impl NearMissView {
    fn line(&self) -> String {
        let mut lacks = Vec::new();
        if !self.missing.is_empty() {
            lacks.push(format!("this process lacks {}", self.missing.join(" ")));
            let keys = self.missing.iter().filter_map(|selector| Some(selector.split_once(':')?.0));
            lacks.extend(keys.filter(|key| !catalog::is_known(key)).map(catalog::unknown));
        }
        if !self.wrong_place.is_empty() {
            lacks.push(self.wrong_place.clone());
        }
        format!("near miss: `{}` for {}: {}", self.registration, self.spiffe_id, lacks.join("; "))
    }
}

/// The whole chain.
#[derive(Debug, Serialize)]
pub struct ExplanationView {
    pid: i32,
    agent_id: String,
    site: String,
    peer_evidence: String,
    selectors: Vec<String>,
    attestor_failures: Vec<String>,
    identities: Vec<IdentityView>,
    problem: Option<ProblemView>,
    near_misses: Vec<NearMissView>,
    /// From the socket to the SVID.
    steps: Vec<Step>,
}

impl ExplanationView {
    /// What the agent says, and, if it was asked, what the authority says.
    pub fn new(
        socket: &str,
        explanation: agent::Explanation,
        authority: Option<Result<admin::ExplainResponse, Failure>>,
        now: Moment,
    ) -> Self {
        let mut view = Self {
            pid: explanation.pid,
            agent_id: explanation.agent_id,
            site: explanation.site,
            peer_evidence: explanation.peer_evidence,
            selectors: explanation.selectors.iter().map(selector).collect(),
            attestor_failures: explanation.attestor_failures,
            identities: explanation.identities.into_iter().map(identity).collect(),
            problem: explanation.problem.map(ProblemView::from),
            near_misses: explanation
                .near_misses
                .into_iter()
                .map(|miss| NearMissView {
                    registration: miss.registration,
                    spiffe_id: miss.spiffe_id,
                    missing: miss.missing.iter().map(selector).collect(),
                    wrong_place: String::new(),
                })
                .collect(),
            steps: Vec::new(),
        };
        view.steps.push(view.socket_step(socket));
        view.steps.push(view.peer_step());
        view.steps.push(view.selectors_step());
        view.steps.push(view.registration_step());
        let issuance = view.issuance_steps(now);
        view.steps.extend(issuance);
        if let Some(answer) = authority {
            view.steps.extend(authority_steps(answer));
        }
        view
    }

    /// Whether the process has an identity.
    pub fn has_identity(&self) -> bool {
        self.identities.iter().any(|identity| identity.problem.is_none())
    }

    /// Why there is no identity at all.
    pub fn problem_code(&self) -> Option<&str> {
        self.problem.as_ref().map(|problem| problem.code.as_str())
    }

    fn socket_step(&self, socket: &str) -> Step {
        let mut details = vec![socket.to_owned()];
        if self.agent_id.is_empty() {
            details.push("the agent has no identity of its own yet".into());
            return Step::new("socket", Mark::Failed, details);
        }
        details.push(format!("served by {}, site {}", self.agent_id, self.site));
        Step::new("socket", Mark::Ok, details)
    }

    fn peer_step(&self) -> Step {
        let evidence = match self.peer_evidence.as_str() {
            "pidfd" => "held by the kernel's pidfd: no other process can take its place".to_owned(),
            "start-time" => "held by PID and start time: weaker than a pidfd".to_owned(),
            other => other.to_owned(),
        };
        Step::new("process", Mark::Ok, vec![format!("PID {}", self.pid), evidence])
    }

    fn selectors_step(&self) -> Step {
        let mut details = self.selectors.clone();
        details.extend(self.attestor_failures.iter().map(|failure| format!("failed: {failure}")));
        match &self.problem {
            Some(problem) if self.selectors.is_empty() => {
                details.push(problem.line());
                Step { hint: problem.hint.clone(), ..Step::new("selectors", Mark::Failed, details) }
            }
            _ if self.selectors.is_empty() => {
                Step::new("selectors", Mark::Failed, vec!["none attested".into()])
            }
            _ => Step::new("selectors", Mark::Ok, details),
        }
    }

    fn registration_step(&self) -> Step {
        if self.selectors.is_empty() {
            return Step::new("registration", Mark::Unknown, vec!["not reached".into()]);
        }
        let misses = self.near_misses.iter().map(NearMissView::line);
        if self.identities.is_empty() {
            let mut step = match &self.problem {
                Some(problem) => Step::failed("registration", problem),
                None => Step::new("registration", Mark::Failed, vec!["none matches".into()]),
            };
            step.details.extend(misses);
            return step;
        }
        let matched = self.identities.iter().map(|i| format!("`{}` gives {}", i.registration, i.spiffe_id));
        Step::new("registration", Mark::Ok, matched.collect())
    }

    fn issuance_steps(&self, now: Moment) -> Vec<Step> {
        if self.identities.is_empty() {
            return vec![Step::new("identity", Mark::Failed, vec!["none".into()])];
        }
        let issued = |identity: &IdentityView| match (&identity.problem, identity.expires_at) {
            (Some(problem), _) => {
                let mut step = Step::failed("identity", problem);
                step.details.insert(0, identity.spiffe_id.clone());
                step
            }
            (None, Some(expires_at)) => {
                let mut details = vec![
                    identity.spiffe_id.clone(),
                    format!("instance {}, generation {}", identity.instance, identity.generation),
                    format!("expires {}", expires_at.relative_to(now)),
                ];
                if let Some(renew_after) = identity.renew_after {
                    details.push(format!("renewed {}", renew_after.relative_to(now)));
                }
                Step::new("identity", Mark::Ok, details)
            }
            (None, None) => {
                let details = vec![
                    identity.spiffe_id.clone(),
                    "no SVID issued yet: it is issued on the first request".into(),
                ];
                Step::new("identity", Mark::Unknown, details)
            }
        };
        self.identities.iter().map(issued).collect()
    }
}

fn identity(identity: agent::Identity) -> IdentityView {
    IdentityView {
        spiffe_id: identity.spiffe_id,
        registration: identity.registration,
        hint: identity.hint,
        instance: identity.instance,
        generation: identity.generation,
        expires_at: Moment::from_wire(identity.expires_at),
        renew_after: Moment::from_wire(identity.renew_after),
        problem: identity.problem.map(ProblemView::from),
    }
}

fn authority_steps(answer: Result<admin::ExplainResponse, Failure>) -> Vec<Step> {
    let response = match answer {
        Ok(response) => response,
        Err(failure) => {
            let problem = ProblemView::from(&failure);
            return vec![Step { state: Mark::Unknown, ..Step::failed("authority", &problem) }];
        }
    };
    let mut steps = Vec::new();
    if let Some(problem) = response.problem {
        steps.push(Step::failed("authority", &problem.into()));
    }
    for outcome in response.outcomes {
        let earned = format!("`{}` earns {}", outcome.registration, outcome.spiffe_id);
        match outcome.problem.map(ProblemView::from) {
            None => steps.push(Step::new(
                "authority",
                Mark::Ok,
                vec![format!("{earned}, inside the site's scope")],
            )),
            Some(problem) => {
                let mut step = Step::failed("authority", &problem);
                step.details
                    .insert(0, format!("`{}` would earn {}", outcome.registration, outcome.spiffe_id));
                steps.push(step);
            }
        }
    }
    let misses: Vec<String> = response
        .near_misses
        .into_iter()
        .map(|miss| NearMissView {
            registration: miss.registration,
            spiffe_id: miss.spiffe_id,
            missing: miss.missing.iter().map(selector).collect(),
            wrong_place: miss.wrong_place,
        })
        .map(|miss| miss.line())
        .collect();
    if steps.is_empty() {
        let mut details = vec!["no registration matches".to_owned()];
        details.extend(misses);
        steps.push(Step::new("authority", Mark::Failed, details));
    } else if !misses.is_empty() {
        steps.push(Step::new("authority", Mark::Unknown, misses));
    }
    steps
}

impl View for ExplanationView {
    fn draw(&self, page: &mut Page) {
        for step in &self.steps {
            page.step(step.state, step.name, &step.details, &step.hint);
        }
        page.gap();
        page.line(&if self.has_identity() {
            format!("PID {} has {}.", self.pid, count(self.identities.len() as u64, "identity", "identities"))
        } else {
            format!("PID {} has no identity.", self.pid)
        });
    }

    fn names(&self) -> Vec<String> {
        self.identities.iter().filter(|i| i.problem.is_none()).map(|i| i.spiffe_id.clone()).collect()
    }
}
