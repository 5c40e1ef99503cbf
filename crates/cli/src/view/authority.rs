//! What signs: roots, intermediates and JWT keys.

use std::time::Duration;

use bonafide_wire::admin::{ChangeAuthorityResponse, SigningAuthority, signing_authority::Kind};
use serde::Serialize;

use crate::{
    console::View,
    moment::Moment,
    page::{Page, some},
};

/// A root, an intermediate or a JWT key.
#[derive(Debug, Serialize)]
pub struct SigningAuthorityView {
    kind: &'static str,
    id: String,
    state: String,
    algorithm: String,
    not_before: Option<Moment>,
    not_after: Option<Moment>,
    #[serde(skip_serializing_if = "String::is_empty")]
    server: String,
    /// It waits for an operator.
    held: bool,
    /// Agents that count, and those that a change of this key waits for.
    agents: u32,
    agents_missing: u32,
}

impl From<SigningAuthority> for SigningAuthorityView {
    fn from(authority: SigningAuthority) -> Self {
        Self {
            kind: match authority.kind() {
                Kind::Unspecified => "unknown",
                Kind::Root => "root",
                Kind::Intermediate => "intermediate",
                Kind::Jwt => "jwt",
            },
            id: authority.id,
            state: authority.state,
            algorithm: authority.algorithm,
            not_before: Moment::from_wire(authority.not_before),
            not_after: Moment::from_wire(authority.not_after),
            server: authority.server,
            held: authority.held,
            agents: authority.agents,
            agents_missing: authority.agents_missing,
        }
    }
}

/// Everything that signs.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct SigningAuthorityList(pub Vec<SigningAuthorityView>);

impl View for SigningAuthorityList {
    fn draw(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|authority| {
                [
                    authority.kind.to_owned(),
                    authority.state.clone(),
                    authority.algorithm.clone(),
                    page.time_or(authority.not_after, "-"),
                    authority.id.clone(),
                ]
            })
            .collect();
        page.table(["KIND", "STATE", "ALGORITHM", "EXPIRES", "ID"], rows);
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|authority| authority.id.clone()).collect()
    }
}

/// A key that an operator has changed.
#[derive(Debug, Serialize)]
pub struct ChangedAuthorityView {
    authority: SigningAuthorityView,
    revision: u64,
    /// Agents that were not waited for.
    behind: Vec<String>,
}

impl From<ChangeAuthorityResponse> for ChangedAuthorityView {
    fn from(changed: ChangeAuthorityResponse) -> Self {
        Self {
            authority: changed.authority.unwrap_or_default().into(),
            revision: changed.revision,
            behind: changed.behind,
        }
    }
}

impl View for ChangedAuthorityView {
    fn draw(&self, page: &mut Page) {
        let authority = &self.authority;
        page.record([
            ("id", some(authority.id.clone())),
            ("kind", some(authority.kind)),
            ("state", some(authority.state.clone())),
            ("server", some(authority.server.clone())),
            ("expires", some(page.time_or(authority.not_after, ""))),
            ("revision", some(self.revision.to_string())),
            ("not waited for", self.behind.clone()),
        ]);
    }

    fn names(&self) -> Vec<String> {
        vec![self.authority.id.clone()]
    }
}

/// One step of a drill.
#[derive(Clone, Debug, Serialize)]
pub struct DrillStep {
    /// What was done.
    pub what: &'static str,
    /// To which key.
    pub authority: String,
    /// Of the change.
    pub revision: u64,
    /// Agents that count.
    pub agents: u32,
    /// Those of them that it went on without.
    pub behind: Vec<String>,
    /// How long it took.
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub took: Duration,
}

/// What a drill has done.
#[derive(Debug, Serialize)]
pub struct DrillView {
    stolen: &'static str,
    steps: Vec<DrillStep>,
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    took: Duration,
}

impl DrillView {
    /// A drill for a stolen key of this kind.
    pub fn new(stolen: &'static str, steps: Vec<DrillStep>, took: Duration) -> Self {
        Self { stolen, steps, took }
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl View for DrillView {
    fn draw(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .steps
            .iter()
            .map(|step| {
                let missing = u32::try_from(step.behind.len()).unwrap_or(u32::MAX);
                let ready = step.agents.max(missing) - missing;
                [
                    step.what.to_owned(),
                    seconds(step.took),
                    format!("{ready}/{}", step.agents.max(missing)),
                    step.revision.to_string(),
                    step.authority.clone(),
                ]
            })
            .collect();
        page.table(["STEP", "TOOK", "AGENTS", "REVISION", "KEY"], rows);
        page.gap();
        page.line(&format!("a stolen {} key, replaced in {}", self.stolen, seconds(self.took)));
        for (step, agent) in
            self.steps.iter().flat_map(|step| step.behind.iter().map(move |agent| (step, agent)))
        {
            page.line(&format!("not waited for, {}: {agent}", step.what));
        }
    }

    fn names(&self) -> Vec<String> {
        self.steps.iter().map(|step| step.authority.clone()).collect()
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}

fn as_seconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1000.0).round() / 1000.0)
}
