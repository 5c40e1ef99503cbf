//! What is probably not meant: rules that never apply, that add nothing, that are taken away, that let in too many.

mod broad;
mod overlap;
mod reach;
mod speed;
mod vocabulary;

use std::collections::BTreeMap;

pub use self::vocabulary::Vocabulary;
use crate::{
    analysis::{
        nearby::Nearby,
        region::{Answer, Region, find},
        rule, witness,
        world::{Entry, World, find_among},
    },
    model::{Document, Effect},
    scenario::Scenario,
    yaml::fault::Spot,
};

/// Rules near another whose union is looked at; among more, only single rules are compared.
const MAX_UNION: usize = 500;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// A rule does not do what it says.
    Error,
    /// It is probably not meant.
    Warning,
    /// It is good to know.
    Note,
}

/// Something that was found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Stable, `check.…`.
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// Index of the document.
    pub document: usize,
    /// The policy.
    pub policy: String,
    /// The rule, unless it is about the whole policy.
    pub rule: Option<String>,
    /// Where that stands.
    pub spot: Spot,
    /// One sentence.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// `policy/rule` of the other rules that it is about.
    pub others: Vec<String>,
    /// A request that shows it.
    pub witness: Option<Scenario>,
}

impl Severity {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Looks at policies, all of which belong together. Findings are in the order of their documents and places.
pub fn check(documents: &[Document], vocabulary: &Vocabulary) -> Vec<Finding> {
    let mut findings = Vec::new();
    for world in World::all(documents) {
        let alive = contradictions(documents, &world, &mut findings);
        repetitions(documents, &alive, &mut findings);
        let dead = dead_allows(documents, &alive, &mut findings);
        overlap::find_all(documents, &alive, &dead, &mut findings);
        broad::find_all(documents, &alive, &mut findings);
    }
    reach::find_all(documents, &mut findings);
    speed::find_all(documents, &mut findings);
    programs(documents, &mut findings);
    vocabulary.check(documents, &mut findings);
    findings.sort_by(|one, other| {
        let place = |finding: &Finding| (finding.document, finding.spot, finding.severity, finding.code);
        place(one).cmp(&place(other)).then_with(|| one.others.cmp(&other.others))
    });
    findings
}

/// A finding about a rule.
fn about(documents: &[Document], entry: &Entry<'_>, code: &'static str, severity: Severity) -> Finding {
    let spots = documents.get(entry.document).map(|document| &document.places.rules);
    let spot = spots.and_then(|spots| spots.get(entry.index)).copied();
    Finding {
        code,
        severity,
        document: entry.document,
        policy: entry.policy.name.to_string(),
        rule: Some(entry.rule.name.to_string()),
        spot: spot.unwrap_or(Spot { line: 1, column: 1, length: 1 }),
        message: String::new(),
        hint: String::new(),
        others: Vec::new(),
        witness: None,
    }
}

/// A finding about a document.
fn about_document(
    documents: &[Document],
    document: usize,
    code: &'static str,
    severity: Severity,
) -> Finding {
    let found = documents.get(document);
    Finding {
        code,
        severity,
        document,
        policy: found.map(|document| document.body.name().to_string()).unwrap_or_default(),
        rule: None,
        spot: found.map_or(Spot { line: 1, column: 1, length: 1 }, |document| document.places.name),
        message: String::new(),
        hint: String::new(),
        others: Vec::new(),
        witness: None,
    }
}

/// Rules, and exceptions, whose clauses exclude each other. Returns the others: what follows is about those.
fn contradictions<'a>(
    documents: &[Document],
    world: &World<'a>,
    findings: &mut Vec<Finding>,
) -> Vec<Entry<'a>> {
    let mut alive = Vec::new();
    for entry in &world.entries {
        if find(&[&entry.region], &[]) == Answer::Nothing {
            findings.push(Finding {
                message: format!("no request can ever meet the rule `{}`", entry.rule.name),
                hint: "its clauses, or its exceptions, exclude each other: compare them, and those of `appliesTo`".into(),
                ..about(documents, entry, "check.contradiction", Severity::Error)
            });
            continue;
        }
        for (index, except) in entry.region.except.iter().enumerate() {
            let with = Region { atoms: entry.region.atoms.clone(), except: Vec::new() };
            let taken = Region { atoms: except.clone(), except: Vec::new() };
            if find(&[&with, &taken], &[]) == Answer::Nothing {
                let number =
                    if entry.region.except.len() > 1 { format!(" {}", index + 1) } else { String::new() };
                findings.push(Finding {
                    message: format!("the exception{number} of the rule `{}` excepts nothing", entry.rule.name),
                    hint: "no request meets both the rule and its exception: leave the exception out, or mend it".into(),
                    ..about(documents, entry, "check.idle-exception", Severity::Warning)
                });
            }
        }
        alive.push(entry.clone());
    }
    alive
}

/// Rules that say nothing that others of the same effect don't say.
fn repetitions(documents: &[Document], entries: &[Entry<'_>], findings: &mut Vec<Finding>) {
    let mut same: BTreeMap<(Effect, Region), Vec<&Entry<'_>>> = BTreeMap::new();
    for entry in entries {
        let mut region = entry.region.clone();
        region.atoms.sort();
        same.entry((entry.rule.effect, region)).or_default().push(entry);
    }
    let mut kept: Vec<&Entry<'_>> = Vec::new();
    for group in same.into_values() {
        let mut group = group.into_iter();
        let Some(first) = group.next() else { continue };
        kept.push(first);
        for entry in group {
            findings.push(Finding {
                message: format!("the rule `{}` says the same as `{}`", entry.rule.name, first.title()),
                hint: "keep one of the two".into(),
                others: vec![first.title()],
                ..about(documents, entry, "check.duplicate", Severity::Warning)
            });
        }
    }
    kept.sort_by_key(|entry| (entry.document, entry.index));
    let nearby = Nearby::new(kept.iter().map(|entry| &entry.region));
    for entry in &kept {
        let rivals: Vec<&Entry<'_>> = nearby
            .of(&entry.region)
            .into_iter()
            .filter_map(|index| kept.get(index).copied())
            .filter(|other| other.rule.effect == entry.rule.effect && !other.is(entry))
            .filter(|other| other.region.may_meet(&entry.region))
            .collect();
        // Of two that cover each other the later one adds nothing.
        let before = |other: &Entry<'_>| (other.document, other.index) < (entry.document, entry.index);
        let single = rivals.iter().find(|other| {
            other.region.may_cover(&entry.region)
                && other.region.covers(&entry.region)
                && (before(other) || !entry.region.covers(&other.region))
        });
        if let Some(other) = single {
            findings.push(Finding {
                message: format!(
                    "the rule `{}` adds nothing: `{}` {} all that it {}",
                    entry.rule.name,
                    other.title(),
                    verb(entry.rule.effect),
                    verb(entry.rule.effect)
                ),
                hint: "leave the narrower rule out, or narrow the wider one".into(),
                others: vec![other.title()],
                witness: find(&[&entry.region], &[]).point().and_then(|point| witness::scenario(&point)),
                ..about(documents, entry, "check.subsumed", Severity::Warning)
            });
            continue;
        }
        if rivals.len() > MAX_UNION || rivals.len() < 2 {
            continue;
        }
        let union: Vec<&Entry<'_>> = rivals.into_iter().filter(|other| before(other)).collect();
        if union.len() >= 2
            && find_among(&[&entry.region], union.iter().map(|other| &other.region)) == Answer::Nothing
        {
            let others: Vec<String> =
                smallest_cover(&entry.region, union).iter().map(|own| own.title()).collect();
            findings.push(Finding {
                message: format!(
                    "the rule `{}` adds nothing: {} together {} all that it does",
                    entry.rule.name,
                    quoted(&others),
                    if entry.rule.effect == Effect::Allow { "allow" } else { "deny" },
                ),
                hint: "leave it out, or narrow the others".into(),
                others,
                witness: find(&[&entry.region], &[]).point().and_then(|point| witness::scenario(&point)),
                ..about(documents, entry, "check.subsumed", Severity::Warning)
            });
        }
    }
}

/// Rules that allow nothing, because others deny all of it. Their indexes in `entries`.
fn dead_allows(documents: &[Document], entries: &[Entry<'_>], findings: &mut Vec<Finding>) -> Vec<usize> {
    let mut dead = Vec::new();
    let nearby = Nearby::new(entries.iter().map(|entry| &entry.region));
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.rule.effect == Effect::Allow) {
        let denies: Vec<&Entry<'_>> = nearby
            .of(&entry.region)
            .into_iter()
            .filter_map(|near| entries.get(near))
            .filter(|other| other.rule.effect == Effect::Deny && other.region.may_meet(&entry.region))
            .collect();
        if denies.is_empty()
            || find(&[&entry.region], &denies.iter().map(|deny| &deny.region).collect::<Vec<_>>())
                != Answer::Nothing
        {
            continue;
        }
        dead.push(index);
        let others: Vec<String> =
            smallest_cover(&entry.region, denies).iter().map(|own| own.title()).collect();
        let what = if others.len() == 1 { "denies" } else { "together deny" };
        findings.push(Finding {
            message: format!(
                "the rule `{}` allows nothing: {} {what} all of it",
                entry.rule.name,
                quoted(&others)
            ),
            hint: "deny beats allow: narrow what denies, by `except` for example, or leave this rule out"
                .into(),
            others,
            witness: find(&[&entry.region], &[]).point().and_then(|point| witness::scenario(&point)),
            ..about(documents, entry, "check.dead-allow", Severity::Error)
        });
    }
    dead
}

/// Programs that can't be loaded.
#[cfg(feature = "rego")]
fn programs(documents: &[Document], findings: &mut Vec<Finding>) {
    for (index, document) in documents.iter().enumerate() {
        let crate::Body::Rego(policy) = &document.body else { continue };
        if let Err(fault) = crate::rego::program::Program::load(policy) {
            findings.push(Finding {
                message: fault.to_string(),
                hint: fault.hint().to_owned(),
                ..about_document(documents, index, "check.program", Severity::Error)
            });
        }
    }
}

/// Programs, into which this build can't look.
#[cfg(not(feature = "rego"))]
fn programs(documents: &[Document], findings: &mut Vec<Finding>) {
    for (index, document) in documents.iter().enumerate() {
        if let crate::Body::Rego(_) = &document.body {
            findings.push(Finding {
                message: "programs are not looked into by this build".to_owned(),
                hint: "build it with the feature `rego`".to_owned(),
                ..about_document(documents, index, "check.program-unread", Severity::Note)
            });
        }
    }
}

/// Of rules that cover a region together, as many as are needed.
fn smallest_cover<'a, 'b>(region: &Region, mut rules: Vec<&'a Entry<'b>>) -> Vec<&'a Entry<'b>> {
    if let Some(alone) = rules.iter().find(|rule| rule.region.covers(region)) {
        return vec![alone];
    }
    let mut index = 0;
    while index < rules.len() {
        let without: Vec<&Region> =
            rules.iter().enumerate().filter(|(own, _)| *own != index).map(|(_, rule)| &rule.region).collect();
        if find(&[region], &without) == Answer::Nothing {
            rules.remove(index);
        } else {
            index += 1;
        }
    }
    rules
}

/// Whether a policy applies to workloads with these labels, as a region.
fn applies_to(document: &Document) -> Region {
    Region { atoms: rule::workloads(document.body.applies_to()), except: Vec::new() }
}

fn verb(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allows",
        Effect::Deny => "denies",
    }
}

fn quoted(titles: &[String]) -> String {
    titles.iter().map(|title| format!("`{title}`")).collect::<Vec<_>>().join(", ")
}
