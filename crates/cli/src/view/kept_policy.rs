//! The policies that the authority has.

use bonafide_policy::Document;
use bonafide_wire::types::Policy;
use serde::Serialize;

use crate::{console::View, page::Page};

/// A policy that the authority has.
#[derive(Debug, Serialize)]
pub struct PolicyView {
    name: String,
    kind: &'static str,
    mode: &'static str,
    sites: Vec<String>,
    rules: usize,
    revision: u64,
    digest: String,
}

impl From<Policy> for PolicyView {
    fn from(policy: Policy) -> Self {
        let text = std::str::from_utf8(&policy.document).unwrap_or_default();
        let document = bonafide_policy::read_canonical(text);
        let body = document.as_ref().map(Document::body);
        Self {
            kind: body.map_or("?", |body| body.kind().as_str()),
            mode: body.map_or("?", |body| body.mode().as_str()),
            rules: document.as_ref().and_then(Document::policy).map_or(0, |policy| policy.rules().len()),
            digest: body.map(|body| body.digest().to_string()).unwrap_or_default(),
            name: policy.name,
            sites: policy.sites,
            revision: policy.revision,
        }
    }
}

/// Policies.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct PolicyList(pub Vec<PolicyView>);

impl View for PolicyList {
    fn draw(&self, page: &mut Page) {
        let sites = |sites: &[String]| if sites.is_empty() { "all".to_owned() } else { sites.join(", ") };
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|policy| {
                [
                    policy.name.clone(),
                    policy.kind.to_owned(),
                    policy.mode.to_owned(),
                    sites(&policy.sites),
                    policy.rules.to_string(),
                    policy.revision.to_string(),
                ]
            })
            .collect();
        page.table(["NAME", "KIND", "MODE", "SITES", "RULES", "REVISION"], rows);
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|policy| policy.name.clone()).collect()
    }
}
