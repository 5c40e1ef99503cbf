//! Agents, as the authority knows them.

use bonafide_wire::admin;
use serde::Serialize;

use super::registration::selector;
use crate::{console::View, moment::Moment, page::Page};

/// An agent.
#[derive(Debug, Serialize)]
pub struct AgentView {
    id: String,
    site: String,
    attestor: String,
    state: &'static str,
    acknowledged_revision: u64,
    attested_at: Option<Moment>,
    svid_expires_at: Option<Moment>,
    version: String,
    selectors: Vec<String>,
}

impl From<admin::Agent> for AgentView {
    fn from(agent: admin::Agent) -> Self {
        Self {
            state: match (agent.banned, agent.connected) {
                (true, _) => "banned",
                (false, true) => "connected",
                (false, false) => "away",
            },
            id: agent.id,
            site: agent.site,
            attestor: agent.attestor,
            acknowledged_revision: agent.acknowledged_revision,
            attested_at: Moment::from_wire(agent.attested_at),
            svid_expires_at: Moment::from_wire(agent.svid_expires_at),
            version: agent.version,
            selectors: agent.selectors.iter().map(selector).collect(),
        }
    }
}

/// Agents.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct AgentList(pub Vec<AgentView>);

impl View for AgentList {
    fn draw(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|agent| {
                [
                    agent.id.clone(),
                    agent.site.clone(),
                    agent.state.to_owned(),
                    agent.acknowledged_revision.to_string(),
                    page.time_or(agent.svid_expires_at, "-"),
                    agent.version.clone(),
                ]
            })
            .collect();
        page.table(["ID", "SITE", "STATE", "REVISION", "SVID EXPIRES", "VERSION"], rows);
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|agent| agent.id.clone()).collect()
    }
}
