//! How some policies decide a request, for tests, witnesses and replays: by the engine that decides everywhere.

use std::{cell::RefCell, fmt, sync::Arc};

use crate::{
    analysis::world::Scope,
    decision::Reason,
    explain::Explanation,
    model::{Document, Effect, Kind, Mode, Policy},
    request::CertifiedLabels,
    scenario::Scenario,
    snapshot::Snapshot,
};

/// Keeps hashes apart; nobody asks here who could want to be slow.
const SEED: u64 = 0;

/// Policies that decide together.
#[derive(Debug)]
pub struct Judge {
    policies: Vec<Arc<Policy>>,
    /// For the workload that was asked last: most requests are to the same one.
    last: RefCell<Option<Arc<Snapshot>>>,
}

/// A decision, and what made it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ruling {
    /// What it is.
    pub effect: Effect,
    /// `policy/rule`; `None` if no rule allows it, or the request is denied for itself.
    pub by: Option<String>,
    /// Why, in one line.
    pub why: String,
}

impl Judge {
    /// Of the policies of this scope. Those in shadow mode decide as if they were enforced.
    pub fn new(documents: &[Document], scope: Scope<'_>) -> Self {
        let policies =
            documents.iter().filter_map(Document::policy).filter(|policy| Scope::of(policy) == scope);
        let policies = policies.map(|policy| {
            let mut policy = Arc::clone(policy);
            if policy.mode == Mode::Shadow {
                Arc::make_mut(&mut policy).mode = Mode::Enforce;
            }
            policy
        });
        Self { policies: policies.collect(), last: RefCell::new(None) }
    }

    /// Of all policies but secrets', each in its mode.
    pub fn of_all(documents: &[Document]) -> Self {
        let policies = documents.iter().filter_map(Document::policy);
        let policies = policies.filter(|policy| policy.kind != Kind::SecretPolicy).cloned();
        Self { policies: policies.collect(), last: RefCell::new(None) }
    }

    /// The decision about a request.
    pub fn judge(&self, scenario: &Scenario) -> Ruling {
        let Some(snapshot) = self.snapshot(&scenario.callee) else {
            // Two policies of one name: nobody can say which one it is that decides.
            let why = "the policies can't be compiled together".to_owned();
            return Ruling { effect: Effect::Deny, by: None, why };
        };
        let decision = snapshot.decide(&scenario.request());
        let by = match decision.reason {
            Reason::Rule(rule) => Some(format!("{}/{}", rule.policy, rule.rule)),
            _ => None,
        };
        Ruling { effect: decision.effect, by, why: decision.reason.to_string() }
    }

    /// Hands out why a request is decided as it is. `None` if two policies have one name.
    pub fn explain<T>(&self, scenario: &Scenario, tell: impl FnOnce(Explanation<'_>) -> T) -> Option<T> {
        let snapshot = self.snapshot(&scenario.callee)?;
        Some(tell(snapshot.explain(&scenario.request())))
    }

    /// How many rules a request like this may have to look at, whatever else it asks for.
    pub fn longest_posting(&self, scenario: &Scenario) -> Option<usize> {
        Some(self.snapshot(&scenario.callee)?.longest_posting())
    }

    fn snapshot(&self, callee: &CertifiedLabels) -> Option<Arc<Snapshot>> {
        let mut last = self.last.borrow_mut();
        if let Some(snapshot) = last.as_ref().filter(|snapshot| snapshot.callee() == callee) {
            return Some(Arc::clone(snapshot));
        }
        let snapshot = Snapshot::compile(self.policies.iter().cloned(), callee, 0, SEED).ok()?;
        Some(Arc::clone(last.insert(Arc::new(snapshot))))
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.effect, self.why)
    }
}
