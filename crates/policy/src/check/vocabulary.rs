//! The names that exist, so that those that don't can be told.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Severity, about, about_document, applies_to};
use crate::{
    analysis::{
        atom::{Point, Variable},
        world::{Entry, World},
    },
    model::{Bound, Document, Exception, LabelRequirements, Requirement, Rule, Target, Who},
    yaml::fields::nearest,
};

/// What exists. What is `None` is not known, and not looked at.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Labels that sites certify, with their values; a key without values may have any.
    pub labels: Option<BTreeMap<String, BTreeSet<String>>>,
    /// Own and federated trust domains.
    pub trust_domains: Option<BTreeSet<String>>,
    /// Services.
    pub services: Option<BTreeSet<String>>,
    /// Keys.
    pub keys: Option<BTreeSet<String>>,
    /// Actions.
    pub actions: Option<BTreeSet<String>>,
    /// The labels of every workload that policies may apply to.
    pub workloads: Option<Vec<BTreeMap<String, String>>>,
}

impl Vocabulary {
    pub(super) fn check(&self, documents: &[Document], findings: &mut Vec<Finding>) {
        for (index, document) in documents.iter().enumerate() {
            let mut names = Names::default();
            names.labels(document.body.applies_to());
            for unknown in self.unknown(&names) {
                let finding = about_document(documents, index, "check.unknown-name", Severity::Error);
                findings.push(Finding { message: unknown.0, hint: unknown.1, ..finding });
            }
            self.check_workloads(documents, index, document, findings);
        }
        for world in World::all(documents) {
            for entry in &world.entries {
                self.check_rule(documents, entry, findings);
            }
        }
    }

    fn check_workloads(
        &self,
        documents: &[Document],
        index: usize,
        document: &Document,
        findings: &mut Vec<Finding>,
    ) {
        let Some(workloads) = &self.workloads else { return };
        let region = applies_to(document);
        let applies = workloads.iter().any(|labels| {
            let label = |(key, value): (&String, &String)| {
                (Variable::WorkloadLabel(key.as_str().into()), value.as_str().into())
            };
            let values = labels.iter().map(label).collect();
            region.contains(&Point { source: None, time: 0, trails: BTreeMap::new(), values })
        });
        if !applies {
            findings.push(Finding {
                message: "it applies to none of the workloads that exist".into(),
                hint: "compare `appliesTo` with the labels of the workloads that are meant".into(),
                ..about_document(documents, index, "check.applies-to-nothing", Severity::Warning)
            });
        }
    }

    fn check_rule(&self, documents: &[Document], entry: &Entry<'_>, findings: &mut Vec<Finding>) {
        let mut names = Names::default();
        names.rule(entry.rule);
        for (message, hint) in self.unknown(&names) {
            let finding = about(documents, entry, "check.unknown-name", Severity::Error);
            findings.push(Finding { message, hint, ..finding });
        }
        let Some(keys) = &self.keys else { return };
        for pattern in entry.rule.on.keys.iter() {
            if !keys.iter().any(|key| pattern.matches(key)) {
                findings.push(Finding {
                    message: format!("no key is named `{pattern}`"),
                    hint: unlike(&pattern.to_string(), keys.iter()),
                    ..about(documents, entry, "check.unknown-name", Severity::Error)
                });
            }
        }
    }

    /// What is wrong, and what to do.
    fn unknown(&self, names: &Names) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for (key, values) in &names.labels {
            let Some(labels) = &self.labels else { break };
            match labels.get(key) {
                None => out.push((format!("no site certifies a label `{key}`"), unlike(key, labels.keys()))),
                Some(known) if !known.is_empty() => {
                    for value in values.difference(known) {
                        out.push((
                            format!("no site certifies `{key}: {value}`"),
                            unlike(value, known.iter()),
                        ));
                    }
                }
                Some(_) => {}
            }
        }
        let sets = [
            (&names.trust_domains, &self.trust_domains, "there is no trust domain"),
            (&names.services, &self.services, "there is no service"),
            (&names.actions, &self.actions, "there is no action"),
        ];
        for (used, known, what) in sets {
            let Some(known) = known else { continue };
            for name in used.difference(known) {
                out.push((format!("{what} `{name}`"), unlike(name, known.iter())));
            }
        }
        out
    }
}

fn unlike<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).collect();
    match nearest(name, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write a name that exists, or add it to the vocabulary".to_owned(),
    }
}

/// Names that a policy uses.
#[derive(Default)]
struct Names {
    labels: BTreeMap<String, BTreeSet<String>>,
    trust_domains: BTreeSet<String>,
    services: BTreeSet<String>,
    actions: BTreeSet<String>,
}

impl Names {
    fn rule(&mut self, rule: &Rule) {
        self.who(&rule.who);
        self.on(&rule.on);
        self.actions.extend(rule.can.iter().map(ToString::to_string));
        for key in rule.when.same.iter() {
            self.labels.entry(key.to_string()).or_default();
        }
        for (_, bound) in rule.when.aad.iter() {
            if let Bound::CallersLabel(key) = bound {
                self.labels.entry(key.to_string()).or_default();
            }
        }
        for Exception { who, can, on } in rule.except.iter() {
            self.who(who);
            self.on(on);
            self.actions.extend(can.iter().map(ToString::to_string));
        }
    }

    fn who(&mut self, who: &Who) {
        self.labels(&who.labels);
        self.trust_domains.extend(who.trust_domains.iter().map(|name| name.as_str().to_owned()));
        self.trust_domains.extend(who.ids.iter().map(|id| id.trust_domain().as_str().to_owned()));
    }

    fn on(&mut self, on: &Target) {
        self.services.extend(on.services.iter().map(ToString::to_string));
    }

    fn labels(&mut self, labels: &LabelRequirements) {
        for (key, requirement) in labels.iter() {
            let values = self.labels.entry(key.to_string()).or_default();
            if let Requirement::In(used) | Requirement::NotIn(used) = requirement {
                values.extend(used.iter().map(ToString::to_string));
            }
        }
    }
}
