//! What one rule allows and another denies.

use super::{Finding, Severity, about};
use crate::{
    analysis::{
        nearby::Nearby,
        region::{Answer, find},
        witness,
        world::{Entry, find_among},
    },
    model::{Document, Effect},
};

/// Pairs that are told of in one world.
const MAX_TOLD: usize = 1_000;

/// Each rule that denies, with each rule of which it takes something away, and a request that would be allowed without
/// it, if there is one.
pub(super) fn find_all(
    documents: &[Document],
    entries: &[Entry<'_>],
    dead: &[usize],
    findings: &mut Vec<Finding>,
) {
    let denies: Vec<&Entry<'_>> = entries.iter().filter(|entry| entry.rule.effect == Effect::Deny).collect();
    let nearby = Nearby::new(denies.iter().map(|deny| &deny.region));
    let mut told = 0;
    for (index, allow) in entries.iter().enumerate().filter(|(_, entry)| entry.rule.effect == Effect::Allow) {
        if dead.contains(&index) {
            continue;
        }
        let near = nearby.of(&allow.region).into_iter().filter_map(|index| denies.get(index));
        for deny in near.filter(|deny| deny.region.may_meet(&allow.region)) {
            let others = denies.iter().filter(|other| !other.is(deny)).map(|other| &other.region);
            let inside = [&allow.region, &deny.region];
            let point = match find_among(&inside, others) {
                Answer::Point(point) => Some(*point),
                // Other rules deny all of it too.
                Answer::Nothing | Answer::Unknown => find(&inside, &[]).point(),
            };
            let Some(point) = point else { continue };
            told += 1;
            if told > MAX_TOLD {
                return;
            }
            findings.push(Finding {
                message: format!(
                    "the rule `{}` denies a part of what `{}` allows",
                    deny.rule.name,
                    allow.title()
                ),
                hint: "deny beats allow: see whether such a request is meant to be denied".into(),
                others: vec![allow.title()],
                witness: witness::scenario(&point),
                ..about(documents, deny, "check.overlap", Severity::Note)
            });
        }
    }
}
