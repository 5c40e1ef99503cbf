//! Sets of rules that the index can't tell apart, so that a request may have to look at many.

use std::collections::BTreeSet;

use super::{Finding, Severity, about_document};
use crate::{
    analysis::{
        region::{Region, find},
        rule, witness,
        world::Scope,
    },
    judge::Judge,
    model::Document,
};

/// Rules that one request may look at without notice; about a nanosecond each.
const MAX_CANDIDATES: usize = 2_000;

/// For each kind of workload, how many rules a request may have to look at.
pub(super) fn find_all(documents: &[Document], findings: &mut Vec<Finding>) {
    let rules = documents.iter().filter_map(Document::policy).map(|policy| policy.rules.len());
    if rules.sum::<usize>() <= MAX_CANDIDATES {
        return;
    }
    let judge = Judge::new(documents, Scope::Enforced);
    let mut seen = BTreeSet::new();
    for (index, document) in documents.iter().enumerate() {
        let is_enforced = document.policy().is_some_and(|policy| Scope::of(policy) == Scope::Enforced);
        let atoms = rule::workloads(document.body.applies_to());
        if !is_enforced || !seen.insert(atoms.clone()) {
            continue;
        }
        let point = find(&[&Region { atoms, except: Vec::new() }], &[]).point();
        let Some(scenario) = point.and_then(|point| witness::scenario(&point)) else { continue };
        let longest = judge.longest_posting(&scenario).unwrap_or(0);
        if longest > MAX_CANDIDATES {
            findings.push(Finding {
                message: format!("a request to a workload of `{}` may have to look at {longest} rules", document.body.name()),
                hint: "rules that ask for the same and differ in nothing that can be looked up are slow: name a caller, a \
                       path or a key in each, or use lists"
                    .into(),
                ..about_document(documents, index, "check.slow", Severity::Warning)
            });
        }
    }
}
