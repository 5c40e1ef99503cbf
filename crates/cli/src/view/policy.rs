//! What was found in policies.

use std::collections::BTreeMap;

use bonafide_policy::{
    Document, Effect, Explanation, Kind, Reason, Scenario,
    analysis::world::Scope,
    check::{Finding, Severity},
    coverage::Report,
    decision::Determining,
    diff::{Change, Diff},
    judge::Judge,
    print,
    replay::Replay,
};
use serde::Serialize;

use crate::{console::View, page::Page, text::count};

/// What `policy check` found.
#[derive(Debug, Serialize)]
pub struct CheckView {
    policies: usize,
    rules: usize,
    findings: Vec<FindingView>,
}

#[derive(Debug, Serialize)]
struct FindingView {
    severity: &'static str,
    code: &'static str,
    place: String,
    policy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    message: String,
    hint: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<String>,
    /// As an item of `tests`, with the answer that it gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

impl CheckView {
    /// `place` names the file of a document, and a line in it.
    pub fn new(documents: &[Document], findings: &[Finding], place: impl Fn(usize, usize) -> String) -> Self {
        let rules = documents.iter().filter_map(Document::policy).map(|policy| policy.rules().len()).sum();
        let mut judges: BTreeMap<Scope<'_>, Judge> = BTreeMap::new();
        let mut request = |finding: &Finding| {
            // A test that is proposed says it all.
            let witness = finding.witness.as_ref().filter(|_| finding.code != "check.untested")?;
            let policy = documents.get(finding.document)?.policy()?;
            let scope = Scope::of(policy);
            let judge = judges.entry(scope).or_insert_with(|| Judge::new(documents, scope));
            let effect = judge.judge(witness).effect;
            Some(print::example(witness, policy.kind(), effect, None))
        };
        let mut view = |finding: &Finding| FindingView {
            severity: finding.severity.as_str(),
            code: finding.code,
            place: place(finding.document, finding.spot.line),
            policy: finding.policy.clone(),
            rule: finding.rule.clone(),
            message: finding.message.clone(),
            hint: finding.hint.clone(),
            others: finding.others.clone(),
            request: request(finding),
        };
        Self { policies: documents.len(), rules, findings: findings.iter().map(&mut view).collect() }
    }

    /// Whether there are nothing but notes.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Note.as_str())
    }
}

impl View for CheckView {
    fn draw(&self, page: &mut Page) {
        for finding in &self.findings {
            page.line(&format!("{}[{}]: {}", finding.severity, finding.code, finding.message));
            page.line(&format!("  at       {} ({})", finding.place, finding.policy));
            if let Some(request) = &finding.request {
                page.line(&format!("  request  {request}"));
            }
            page.line(&format!("  hint     {}", finding.hint));
            page.gap();
        }
        let number = |severity: Severity| {
            self.findings.iter().filter(|finding| finding.severity == severity.as_str()).count()
        };
        page.line(&format!(
            "{}, {}: {}, {}, {}",
            counted(self.policies, "policy", "policies"),
            counted(self.rules, "rule", "rules"),
            counted(number(Severity::Error), "error", "errors"),
            counted(number(Severity::Warning), "warning", "warnings"),
            counted(number(Severity::Note), "note", "notes"),
        ));
    }

    fn names(&self) -> Vec<String> {
        self.findings.iter().map(|finding| format!("{} {}", finding.code, finding.place)).collect()
    }
}

/// What an edit changes.
#[derive(Debug, Serialize)]
pub struct DiffView {
    gained: Vec<ChangeView>,
    lost: Vec<ChangeView>,
    undecided: Vec<String>,
    cut: bool,
    programs: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ChangeView {
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    allowed_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    denied_by: Option<String>,
    /// As an item of `tests` of the new policies.
    request: String,
    before: String,
    after: String,
}

impl DiffView {
    /// Of a comparison.
    pub fn new(diff: &Diff) -> Self {
        let view = |change: &Change| {
            let kind = if change.secret.is_some() { Kind::SecretPolicy } else { Kind::Policy };
            ChangeView {
                secret: change.secret.clone(),
                allowed_by: change.allowed_by.clone(),
                denied_by: change.denied_by.clone(),
                request: print::example(&change.witness, kind, change.after.effect, None),
                before: change.before.to_string(),
                after: change.after.to_string(),
            }
        };
        let undecided = diff.undecided.iter().map(|(allow, deny)| match deny {
            Some(deny) => format!("{allow} against {deny}"),
            None => allow.clone(),
        });
        Self {
            gained: diff.gained.iter().map(view).collect(),
            lost: diff.lost.iter().map(view).collect(),
            undecided: undecided.collect(),
            cut: diff.is_cut,
            programs: diff.programs.clone(),
        }
    }
}

impl View for DiffView {
    fn draw(&self, page: &mut Page) {
        for (title, changes) in [("gained", &self.gained), ("lost", &self.lost)] {
            for change in changes {
                let secret =
                    change.secret.as_ref().map(|name| format!("secret `{name}`: ")).unwrap_or_default();
                let denied = match (&change.denied_by, title) {
                    (Some(deny), "gained") => format!("`{deny}` denied"),
                    (Some(deny), _) => format!("`{deny}` denies now"),
                    (None, "gained") => "no rule allowed".to_owned(),
                    (None, _) => "no rule allows any more".to_owned(),
                };
                let allows = if title == "gained" { "allows" } else { "allowed" };
                page.line(&format!("{title}: {secret}`{}` {allows} what {denied}", change.allowed_by));
                page.line(&format!("  request  {}", change.request));
                page.line(&format!("  before   {}", change.before));
                page.line(&format!("  after    {}", change.after));
                page.gap();
            }
        }
        for pair in &self.undecided {
            page.line(&format!("undecided: {pair} (it would take too long to tell)"));
        }
        for program in &self.programs {
            page.line(&format!("program: `{program}` differs (programs are not looked into)"));
        }
        let more = if self.cut { ", and there are more" } else { "" };
        page.line(&format!("{} gained, {} lost{more}", self.gained.len(), self.lost.len()));
    }

    fn names(&self) -> Vec<String> {
        let name = |sign: char, change: &ChangeView| {
            format!("{sign}{} {}", change.allowed_by, change.denied_by.as_deref().unwrap_or("-"))
        };
        let gained = self.gained.iter().map(|change| name('+', change));
        gained.chain(self.lost.iter().map(|change| name('-', change))).collect()
    }
}

/// How tests went.
#[derive(Debug, Serialize)]
pub struct TestView {
    passed: usize,
    failed: usize,
    failures: Vec<FailureView>,
    rules: Vec<RuleView>,
}

#[derive(Debug, Serialize)]
struct FailureView {
    place: String,
    policy: String,
    test: usize,
    title: String,
    message: String,
}

#[derive(Debug, Serialize)]
struct RuleView {
    place: String,
    rule: String,
    tests: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<bool>,
}

impl TestView {
    /// `place` names the file of a document, and a line in it.
    pub fn new(report: &Report, place: impl Fn(usize, usize) -> String) -> Self {
        let failures = report.outcomes.iter().filter_map(|outcome| {
            Some(FailureView {
                place: place(outcome.document, outcome.spot.line),
                policy: outcome.policy.clone(),
                test: outcome.number,
                title: outcome.title.clone(),
                message: outcome.failure.clone()?,
            })
        });
        let rules = report.rules.iter().map(|rule| RuleView {
            place: place(rule.document, rule.spot.line),
            rule: format!("{}/{}", rule.policy, rule.rule),
            tests: rule.tests,
            missed: rule.is_missed,
        });
        Self {
            passed: report.passed(),
            failed: report.failed(),
            failures: failures.collect(),
            rules: rules.collect(),
        }
    }
}

impl View for TestView {
    fn draw(&self, page: &mut Page) {
        for failure in &self.failures {
            page.line(&format!("failed: {} test {}, at {}", failure.policy, failure.test, failure.place));
            page.line(&format!("  {}", failure.title));
            page.line(&format!("  {}", failure.message));
            page.gap();
        }
        for rule in self.rules.iter().filter(|rule| rule.tests == 0) {
            page.line(&format!("not reached: `{}` by no test, at {}", rule.rule, rule.place));
        }
        for rule in self.rules.iter().filter(|rule| rule.missed == Some(false) && rule.tests > 0) {
            page.line(&format!("not missed: without `{}` all tests pass, at {}", rule.rule, rule.place));
        }
        let reached = self.rules.iter().filter(|rule| rule.tests > 0).count();
        let rules = counted(self.rules.len(), "rule", "rules");
        page.line(&format!("{} passed, {} failed; {reached} of {rules} reached", self.passed, self.failed));
    }

    fn names(&self) -> Vec<String> {
        self.failures.iter().map(|failure| failure.place.clone()).collect()
    }
}

/// Why a request is decided as it is.
#[derive(Debug, Serialize)]
pub struct ExplainView {
    decision: &'static str,
    code: &'static str,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    programs: Vec<String>,
    matched: Vec<MatchedView>,
    near_misses: Vec<MissView>,
    not_applying: Vec<String>,
}

#[derive(Debug, Serialize)]
struct MatchedView {
    rule: String,
    effect: &'static str,
    mode: &'static str,
}

#[derive(Debug, Serialize)]
struct MissView {
    rule: String,
    clause: &'static str,
    missing: String,
}

impl ExplainView {
    /// Of an explanation by some documents.
    pub fn new(explanation: &Explanation<'_>, documents: &[Document], scenario: &Scenario) -> Self {
        let decision = &explanation.decision;
        let determining = match &decision.reason {
            Reason::Rule(rule) => Some(rule),
            _ => None,
        };
        let matched = explanation.matched.iter().map(|matched| MatchedView {
            rule: title(&matched.rule),
            effect: matched.effect.as_str(),
            mode: matched.rule.mode.as_str(),
        });
        let near = explanation.near_misses.iter().map(|miss| MissView {
            rule: title(&miss.rule),
            clause: miss.clause,
            missing: miss.missing.clone(),
        });
        let elsewhere = documents.iter().filter_map(Document::policy);
        let elsewhere = elsewhere.filter(|policy| !policy.applies_to_callee(&scenario.callee));
        Self {
            decision: decision.effect.as_str(),
            code: decision.reason.code(),
            reason: decision.reason.to_string(),
            by: determining.map(title),
            digest: determining.map(|rule| rule.digest.to_string()),
            would: decision.would.map(|would| format!("{} by {}", would.effect, title(&would.rule))),
            programs: Vec::new(),
            matched: matched.collect(),
            near_misses: near.collect(),
            not_applying: elsewhere.map(|policy| policy.name().to_string()).collect(),
        }
    }
}

impl ExplainView {
    /// With the answer that programs have a part in, and what determined it.
    #[must_use]
    pub fn with_programs(self, told: Option<(Effect, Vec<String>)>) -> Self {
        match told {
            Some((effect, programs)) => Self { decision: effect.as_str(), programs, ..self },
            None => self,
        }
    }

    /// Whether the request may be served.
    pub fn is_allowed(&self) -> bool {
        self.decision == Effect::Allow.as_str()
    }
}

fn title(rule: &Determining<'_>) -> String {
    format!("{}/{}", rule.policy, rule.rule)
}

impl View for ExplainView {
    fn draw(&self, page: &mut Page) {
        match self.programs.split_first() {
            Some((first, others)) => {
                page.line(&format!("{}: {first}", self.decision));
                for other in others {
                    page.line(&format!("  {other}"));
                }
                page.line(&format!("  by rules alone: {}", self.reason));
            }
            None => page.line(&format!("{}: {}", self.decision, self.reason)),
        }
        if let Some(digest) = &self.digest {
            page.line(&format!("  policy is {digest}"));
        }
        if let Some(would) = &self.would {
            page.line(&format!("  would be: {would}, in shadow mode"));
        }
        if !self.matched.is_empty() {
            page.gap();
            page.line("rules that it meets:");
            for matched in &self.matched {
                let shadow = if matched.mode == "shadow" { " (shadow)" } else { "" };
                page.line(&format!("  {:5}  {}{shadow}", matched.effect, matched.rule));
            }
        }
        if !self.near_misses.is_empty() {
            page.gap();
            page.line("rules that nearly allow it:");
            for miss in &self.near_misses {
                page.line(&format!("  {}: {}: {}", miss.rule, miss.clause, miss.missing));
            }
        }
        if self.decision == Effect::Deny.as_str() && !self.not_applying.is_empty() {
            page.gap();
            page.line(&format!(
                "not asked, because their `appliesTo` is not met by the workload: {}",
                self.not_applying.join(", ")
            ));
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.decision.to_owned()]
    }
}

/// What a draft would change of what was logged.
#[derive(Debug, Serialize)]
pub struct ReplayView {
    decided: usize,
    changes: Vec<ReplayedView>,
    skipped: Vec<SkippedView>,
}

#[derive(Debug, Serialize)]
struct ReplayedView {
    event: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    time: String,
    request: String,
    before: String,
    after: String,
}

#[derive(Debug, Serialize)]
struct SkippedView {
    event: usize,
    code: &'static str,
    message: String,
    hint: &'static str,
}

impl ReplayView {
    /// Of a replay.
    pub fn new(replay: &Replay) -> Self {
        let changes = replay.changes.iter().map(|change| ReplayedView {
            event: change.number,
            id: change.event.id.clone(),
            time: change.event.time.clone(),
            request: print::example(&change.event.scenario, Kind::Policy, change.after.effect, None),
            before: match &change.event.by {
                Some(by) => format!("{} by {by}", change.event.effect),
                None => change.event.effect.to_string(),
            },
            after: change.after.to_string(),
        });
        let skipped = replay.skipped.iter().map(|(event, fault)| SkippedView {
            event: *event,
            code: fault.code(),
            message: fault.to_string(),
            hint: fault.hint(),
        });
        Self { decided: replay.decided, changes: changes.collect(), skipped: skipped.collect() }
    }
}

impl View for ReplayView {
    fn draw(&self, page: &mut Page) {
        for change in &self.changes {
            let id = [change.id.as_str(), change.time.as_str()];
            let id = id.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ");
            let id = if id.is_empty() { id } else { format!(" ({id})") };
            page.line(&format!("event {}{id}", change.event));
            page.line(&format!("  request  {}", change.request));
            page.line(&format!("  logged   {}", change.before));
            page.line(&format!("  now      {}", change.after));
            page.gap();
        }
        for skipped in &self.skipped {
            page.line(&format!("skipped: event {} [{}]: {}", skipped.event, skipped.code, skipped.message));
        }
        let decided = counted(self.decided, "decision", "decisions");
        page.line(&format!("{decided}: {} would change, {} skipped", self.changes.len(), self.skipped.len()));
    }

    fn names(&self) -> Vec<String> {
        self.changes.iter().map(|change| change.event.to_string()).collect()
    }
}

fn counted(number: usize, one: &str, many: &str) -> String {
    count(u64::try_from(number).unwrap_or(u64::MAX), one, many)
}
