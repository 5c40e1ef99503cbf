//! Rules that let in more than anybody means.

use super::{Finding, Severity, about};
use crate::{
    analysis::{
        witness,
        world::{Entry, find_among},
    },
    glob::Glob,
    model::{Document, Effect, Rule},
};

/// Rules that allow `anyone`, or everything.
pub(super) fn find_all(documents: &[Document], entries: &[Entry<'_>], findings: &mut Vec<Finding>) {
    for entry in entries.iter().filter(|entry| entry.rule.effect == Effect::Allow) {
        for (code, message, hint) in faults(entry.rule) {
            let denies = entries.iter().filter(|other| other.rule.effect == Effect::Deny);
            let point = find_among(&[&entry.region], denies.map(|deny| &deny.region)).point();
            findings.push(Finding {
                message: format!("the rule `{}` {message}", entry.rule.name),
                hint: hint.into(),
                witness: point.and_then(|point| witness::scenario(&point)),
                ..about(documents, entry, code, Severity::Warning)
            });
        }
    }
}

fn faults(rule: &Rule) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut faults = Vec::new();
    if rule.who.is_anyone() {
        faults.push((
            "check.anyone",
            "allows anyone, of every trust domain that is federated with",
            "name the callers by `id`, `trustDomain` or `labels`",
        ));
    } else if only_whole_domains(rule) {
        faults.push((
            "check.whole-domain",
            "allows every workload of a trust domain",
            "name a namespace, such as `spiffe://example.org/ns/shop/**`, or ask for `labels`",
        ));
    }
    let everything = |glob: &Glob| glob.is_open() && glob.segments().is_empty();
    let paths = rule.on.paths.iter().any(|path| everything(path.glob()));
    let keys = rule.on.keys.iter().any(|key| everything(key.glob()));
    if paths || keys {
        faults.push((
            "check.bare-wildcard",
            if paths { "allows every path" } else { "allows every key" },
            "name the first segment, such as `/v1/**`; if all is meant, leave the field out",
        ));
    }
    faults
}

fn only_whole_domains(rule: &Rule) -> bool {
    let who = &rule.who;
    let whole = |id: &bonafide_identity::SpiffeIdPattern| {
        *id == bonafide_identity::SpiffeIdPattern::all(id.trust_domain())
    };
    let wide_ids = !who.ids.is_empty() && who.ids.iter().any(whole);
    let wide = wide_ids || who.ids.is_empty() && !who.trust_domains.is_empty();
    wide && who.labels.is_empty() && who.props.is_empty()
}
