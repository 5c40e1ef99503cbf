//! Rules that no test reaches.

use std::collections::BTreeSet;

use super::{Finding, Severity, about};
use crate::{
    analysis::{
        nearby::Nearby,
        witness,
        world::{World, find_among},
    },
    coverage,
    model::{Document, Effect},
    print,
};

/// Each rule that no test of its document meets, with a test that would.
pub(super) fn find_all(documents: &[Document], findings: &mut Vec<Finding>) {
    let report = coverage::run(documents, false);
    let reached = report.rules.iter().filter(|rule| rule.tests > 0);
    let reached: BTreeSet<(usize, &str)> = reached.map(|rule| (rule.document, rule.rule.as_str())).collect();
    for world in World::all(documents) {
        let nearby = Nearby::new(world.entries.iter().map(|entry| &entry.region));
        for entry in &world.entries {
            if reached.contains(&(entry.document, entry.rule.name.as_str())) {
                continue;
            }
            // A request that this rule decides in its own document, as a test would ask for it.
            let near = nearby.of(&entry.region).into_iter().filter_map(|index| world.entries.get(index));
            let rivals = near.filter(|other| {
                other.document == entry.document
                    && (other.rule.effect == Effect::Deny || entry.rule.effect == Effect::Allow)
                    && !other.is(entry)
            });
            let point = find_among(&[&entry.region], rivals.map(|rival| &rival.region)).point();
            let Some(scenario) = point.and_then(|point| witness::scenario(&point)) else { continue };
            let (effect, name) = (entry.rule.effect, &entry.rule.name);
            findings.push(Finding {
                message: format!("no test reaches the rule `{name}`"),
                hint: format!(
                    "add `- {}` to `tests`",
                    print::example(&scenario, entry.policy.kind, effect, Some(name))
                ),
                witness: Some(scenario),
                ..about(documents, entry, "check.untested", Severity::Note)
            });
        }
    }
}
