//! What `inspect` found.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::status::ProblemView;
use crate::{
    console::View,
    moment::Moment,
    page::{Mark, Page},
};

/// Everything that was found in one input.
#[derive(Debug, Serialize)]
pub struct InspectionView {
    /// One for each certificate, key, token...
    pub findings: Vec<Finding>,
    /// Of the chain or token; absent for what cannot be verified against a bundle.
    pub verification: Option<Verification>,
}

/// One artefact.
#[derive(Debug, Serialize)]
pub struct Finding {
    kind: &'static str,
    #[serde(serialize_with = "as_map")]
    fields: Vec<(&'static str, Value)>,
    problems: Vec<ProblemView>,
}

/// The value of a field.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    List(Vec<String>),
    Time(Moment),
}

/// Whether an artefact is what it says.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Verification {
    /// There was no bundle to verify it against.
    NotAsked,
    /// Verified.
    Verified {
        /// Against what.
        how: String,
    },
    /// It is not.
    Failed {
        /// Why.
        problem: ProblemView,
    },
}

impl Verification {
    /// It is.
    pub fn verified(how: String) -> Self {
        Self::Verified { how }
    }

    /// It is not.
    pub fn failed(code: &str, message: &dyn std::fmt::Display, hint: &str) -> Self {
        Self::Failed { problem: problem(code, message, hint) }
    }
}

impl Finding {
    /// Nothing known yet but its kind.
    pub fn new(kind: &'static str) -> Self {
        Self { kind, fields: Vec::new(), problems: Vec::new() }
    }

    /// Adds a field, unless it is empty.
    pub fn text(self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if value.is_empty() { self } else { self.field(name, Value::Text(value)) }
    }

    /// Adds a field of several values, unless there is none.
    pub fn list(self, name: &'static str, values: Vec<String>) -> Self {
        if values.is_empty() { self } else { self.field(name, Value::List(values)) }
    }

    /// Adds a time.
    pub fn time(self, name: &'static str, value: Moment) -> Self {
        self.field(name, Value::Time(value))
    }

    /// Adds something that is wrong.
    pub fn problem(mut self, code: &str, message: impl std::fmt::Display, hint: &str) -> Self {
        self.problems.push(problem(code, &message, hint));
        self
    }

    fn field(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push((name, value));
        self
    }

    fn lines(&self, page: &Page) -> Vec<String> {
        let width = self.fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut lines = Vec::new();
        for (name, value) in &self.fields {
            let values = match value {
                Value::Text(text) => vec![text.clone()],
                Value::List(list) => list.clone(),
                Value::Time(time) => vec![page.time(*time)],
            };
            for (index, value) in values.iter().enumerate() {
                lines.push(format!("{:width$}  {value}", if index == 0 { name } else { "" }));
            }
        }
        lines
    }
}

impl From<Finding> for InspectionView {
    fn from(finding: Finding) -> Self {
        vec![finding].into()
    }
}

impl From<Vec<Finding>> for InspectionView {
    fn from(findings: Vec<Finding>) -> Self {
        Self { findings, verification: None }
    }
}

impl InspectionView {
    /// Whether nothing is wrong, as far as could be seen.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.problems.is_empty())
            && !matches!(self.verification, Some(Verification::Failed { .. }))
    }
}

impl View for InspectionView {
    fn draw(&self, page: &mut Page) {
        for (index, finding) in self.findings.iter().enumerate() {
            page.gap();
            page.line(&format!("{} {}", index + 1, finding.kind));
            for line in finding.lines(page) {
                page.line(&format!("  {line}"));
            }
            for problem in &finding.problems {
                page.step(Mark::Failed, "problem", &[problem.line()], &problem.hint);
            }
        }
        match &self.verification {
            None => {}
            Some(Verification::NotAsked) => {
                page.gap();
                page.step(Mark::Unknown, "not verified", &["no bundle was given: --bundle".into()], "");
            }
            Some(Verification::Verified { how }) => {
                page.gap();
                page.step(Mark::Ok, "verified", std::slice::from_ref(how), "");
            }
            Some(Verification::Failed { problem }) => {
                page.gap();
                page.step(Mark::Failed, "refused", &[problem.line()], &problem.hint);
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let named = |finding: &Finding| {
            finding.fields.iter().find_map(|(name, value)| match value {
                Value::Text(id) if *name == "SPIFFE ID" => Some(id.clone()),
                _ => None,
            })
        };
        self.findings.iter().filter_map(named).collect()
    }
}

fn problem(code: &str, message: &dyn std::fmt::Display, hint: &str) -> ProblemView {
    ProblemView { code: code.to_owned(), message: message.to_string(), hint: hint.to_owned() }
}

/// `X.509 roots` becomes `x509_roots`.
fn as_map<S: Serializer>(fields: &[(&'static str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(fields.len()))?;
    for (name, value) in fields {
        let name = name.to_lowercase().replace('.', "").replace(' ', "_");
        map.serialize_entry(&name, value)?;
    }
    map.end()
}
