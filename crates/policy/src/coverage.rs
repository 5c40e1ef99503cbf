//! The tests that documents bring along: whether they pass, which rules they reach, and whether they would notice if a
//! rule were missing.
//!
//! A test is about its own document alone, as if that were enforced: what other policies deny is their affair.

use std::sync::Arc;

use crate::{
    analysis::{
        witness,
        world::{Scope, World},
    },
    judge::Judge,
    model::{Body, Document, Kind, Mode},
    yaml::fault::Spot,
};

/// How the tests of some documents went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each test, in the order of documents and tests.
    pub outcomes: Vec<Outcome>,
    /// Each rule, in the order of documents and names.
    pub rules: Vec<Coverage>,
}

/// How one test went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Index of the document.
    pub document: usize,
    /// Its policy.
    pub policy: String,
    /// From 1, in the document.
    pub number: usize,
    /// Where the test stands.
    pub spot: Spot,
    /// In short: who, can, on.
    pub title: String,
    /// What was wrong; `None`: it passed.
    pub failure: Option<String>,
}

/// How a rule is tested.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// Index of the document.
    pub document: usize,
    /// The policy.
    pub policy: String,
    /// The rule.
    pub rule: String,
    /// Where it stands.
    pub spot: Spot,
    /// Tests whose request meets it.
    pub tests: usize,
    /// Whether a test fails when the rule is left out; `None` if that was not tried.
    pub is_missed: Option<bool>,
}

impl Report {
    /// Tests that passed.
    pub fn passed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.failure.is_none()).count()
    }

    /// Tests that failed.
    pub fn failed(&self) -> usize {
        self.outcomes.len() - self.passed()
    }

    /// Rules that no test reaches.
    pub fn unreached(&self) -> impl Iterator<Item = &Coverage> {
        self.rules.iter().filter(|rule| rule.tests == 0)
    }

    /// Rules that could be left out without a test that fails.
    pub fn survivors(&self) -> impl Iterator<Item = &Coverage> {
        self.rules.iter().filter(|rule| rule.is_missed == Some(false))
    }
}

/// Runs the tests of all documents; with `mutate`, once more for each rule, without that rule.
pub fn run(documents: &[Document], mutate: bool) -> Report {
    let mut report = Report::default();
    for (index, document) in documents.iter().enumerate() {
        let Some(alone) = enforced(document) else { continue };
        let failures = failures(&alone);
        for (number, (test, failure)) in document.tests.iter().zip(&failures).enumerate() {
            let spot = document.places.tests.get(number).copied().unwrap_or(document.places.name);
            report.outcomes.push(Outcome {
                document: index,
                policy: document.body.name().to_string(),
                number: number + 1,
                spot,
                title: title(&test.scenario),
                failure: failure.clone(),
            });
        }
        let Some(policy) = alone.policy() else { continue };
        let documents = [alone.clone()];
        let world = World::all(&documents).pop();
        let points: Vec<_> =
            document.tests.iter().filter_map(|test| witness::point(&test.scenario)).collect();
        for (number, rule) in policy.rules.iter().enumerate() {
            let entry = world.as_ref().and_then(|world| world.entries.get(number));
            let reaches = |point: &&_| entry.is_some_and(|entry| entry.region.contains(point));
            let is_missed = mutate.then(|| {
                let mut mutant = alone.clone();
                if let Body::Policy(policy) = &mut mutant.body {
                    Arc::make_mut(policy).rules.remove(number);
                }
                self::failures(&mutant)
                    .iter()
                    .zip(&failures)
                    .any(|(now, before)| now.is_some() && before.is_none())
            });
            report.rules.push(Coverage {
                document: index,
                policy: policy.name.to_string(),
                rule: rule.name.to_string(),
                spot: document.places.rules.get(number).copied().unwrap_or(document.places.name),
                tests: points.iter().filter(reaches).count(),
                is_missed,
            });
        }
    }
    report
}

/// A document as if it were enforced. `None` for programs, which bring no tests.
fn enforced(document: &Document) -> Option<Document> {
    let mut alone = document.clone();
    let Body::Policy(policy) = &mut alone.body else { return None };
    Arc::make_mut(policy).mode = Mode::Enforce;
    Some(alone)
}

/// Of each test, what was wrong.
fn failures(document: &Document) -> Vec<Option<String>> {
    let documents = [document.clone()];
    let scope = match document.body.kind() {
        Kind::SecretPolicy => Scope::Secret(document.body.name().as_str()),
        _ => Scope::Enforced,
    };
    let judge = Judge::new(&documents, scope);
    let failure = |test: &crate::model::Test| {
        let ruling = judge.judge(&test.scenario);
        let by = test.by.as_ref().map(|rule| format!("{}/{rule}", document.body.name()));
        let as_expected = ruling.effect == test.expect && (by.is_none() || by == ruling.by);
        let expected = match &test.by {
            Some(rule) => format!("{} by `{rule}`", test.expect),
            None => test.expect.to_string(),
        };
        (!as_expected).then(|| format!("expected {expected}, got {ruling}"))
    };
    document.tests.iter().map(failure).collect()
}

/// Who, can, on.
pub(crate) fn title(scenario: &crate::scenario::Scenario) -> String {
    let things = [&scenario.path, &scenario.key, &scenario.service, &scenario.host];
    let thing = things.into_iter().flatten().next();
    let thing = thing.map(|thing| format!(" {thing}")).unwrap_or_default();
    format!("{} {}{thing}", scenario.who.id(), scenario.can)
}

/// The report as JUnit XML, which CI servers show. `names` are the files of the documents.
pub fn junit(report: &Report, names: &[String]) -> String {
    use std::fmt::Write as _;
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuites name=\"bonafide policy test\" tests=\"{}\" failures=\"{}\">",
        report.outcomes.len(),
        report.failed()
    );
    let documents: std::collections::BTreeSet<usize> =
        report.outcomes.iter().map(|outcome| outcome.document).collect();
    for document in documents {
        let own: Vec<&Outcome> =
            report.outcomes.iter().filter(|outcome| outcome.document == document).collect();
        let failed = own.iter().filter(|outcome| outcome.failure.is_some()).count();
        let policy = own.first().map(|outcome| outcome.policy.as_str()).unwrap_or_default();
        let _ = writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\">",
            escape(policy),
            own.len()
        );
        for outcome in own {
            let file = names.get(document).map(String::as_str).unwrap_or_default();
            let _ = write!(
                out,
                "    <testcase classname=\"{}\" name=\"{} {}\" file=\"{}\" line=\"{}\"",
                escape(policy),
                outcome.number,
                escape(&outcome.title),
                escape(file),
                outcome.spot.line
            );
            match &outcome.failure {
                None => out.push_str("/>\n"),
                Some(failure) => {
                    let _ = writeln!(out, "><failure message=\"{}\"/></testcase>", escape(failure));
                }
            }
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML 1.0 has no way to write most of them.
            letter if letter.is_control() => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}
