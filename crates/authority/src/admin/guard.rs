//! The admin API guards itself with the same policies as everything else.
//!
//! To policies the authority is a workload with the label `app: bonafide-authority`; a call is the action of its name, such
//! as `PutRegistration`, on the service `bonafide.admin.v1.Admin`. A built-in policy allows what certified admins may do by
//! their rights; policies of the trust domain as a whole can deny, and give nothing. Whoever is on the local socket is
//! not asked about, so nobody can lock everybody out.
//!
//! What `Apply` does to a resource is, besides, the action of the call that does the same to it alone: `PutSite`,
//! `PutRegistration`, `PutPolicy`, `DeleteSite`, `DeleteRegistration`, `DeletePolicy`. There is no call `PutPolicy`: a
//! policy is written by `Apply` only, and whoever must not write policies is denied this action.

use std::sync::{Arc, Mutex, PoisonError};

use bonafide_identity::time::UnixTime;
use bonafide_policy::{
    Body, Caller as Subject, CertifiedLabels, Effect, Mode, Policy, Reason, Request, Snapshot, Thing,
};

use super::caller::Caller;
use crate::{certified::Certified, policy::PolicyRecord, refusal::Refusal, state::State};

/// By which policies name the authority.
const APP: (&str, &str) = ("app", "bonafide-authority");
const SERVICE: &str = "bonafide.admin.v1.Admin";
/// What holds without any policy.
const BUILT_IN: &str = "
kind: Policy
name: bonafide-admins
rules:
- name: by-their-rights
  allow: {who: anyone, on: {service: bonafide.admin.v1.Admin}}
";

/// Decides about calls of the admin API.
#[derive(Debug, Default)]
pub(super) struct Guard {
    seed: u64,
    compiled: Mutex<Option<Compiled>>,
}

#[derive(Clone, Debug)]
struct Compiled {
    /// What it was compiled of, these very ones: a revision that was never committed may come again with another text.
    of: Vec<Arc<PolicyRecord>>,
    /// None: it can't be compiled, so everything is denied.
    snapshot: Option<Arc<Snapshot>>,
}

impl Guard {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, compiled: Mutex::default() }
    }

    /// Whether policies let the caller do this. Rights are another question.
    ///
    /// # Errors
    /// `admin.denied-by-policy`.
    pub(super) fn check(
        &self,
        caller: &Caller,
        call: &str,
        state: &State,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let Caller::Peer(Certified { id, labels, .. }) = caller else { return Ok(()) };
        let denied = |why: String| {
            Refusal::denied("admin.denied-by-policy", format!("policies deny `{call}`: {why}"))
                .hint("ask whoever has written them; on the server's local socket they don't hold")
        };
        let snapshot = self.snapshot(state).ok_or_else(|| denied("they can't be compiled".to_owned()))?;
        let subject = Subject::new(id.clone(), labels.clone());
        let request = Request { on: Thing::service(SERVICE), ..Request::new(&subject, call, now) };
        let decision = snapshot.decide(&request);
        match decision.effect {
            Effect::Allow => Ok(()),
            Effect::Deny => Err(denied(match decision.reason {
                Reason::Rule(rule) => format!("rule `{}` of `{}`", rule.rule, rule.policy),
                other => other.code().to_owned(),
            })),
        }
    }

    fn snapshot(&self, state: &State) -> Option<Arc<Snapshot>> {
        // Those of single sites say nothing about the authority.
        let general = || state.policies_after("").filter(|policy| policy.sites.is_empty());
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = &*compiled
            && general().map(Arc::as_ptr).eq(compiled.of.iter().map(Arc::as_ptr))
        {
            return compiled.snapshot.clone();
        }
        let of = general().map(Arc::clone).collect();
        let snapshot = self.compile(general().map(|policy| &*policy.body), state.revision()).map(Arc::new);
        *compiled = Some(Compiled { of, snapshot: snapshot.clone() });
        snapshot
    }

    fn compile<'a>(&self, bodies: impl Iterator<Item = &'a Body>, revision: u64) -> Option<Snapshot> {
        let callee = CertifiedLabels::new([APP]).ok()?;
        let built_in = bonafide_policy::read(BUILT_IN).ok()?;
        let mut policies: Vec<Arc<Policy>> = Vec::new();
        policies.extend(built_in.into_iter().filter_map(|document| match document.body() {
            Body::Policy(policy) => Some(Arc::clone(policy)),
            Body::Rego(_) => None,
        }));
        for body in bodies {
            match body {
                Body::Policy(policy) => policies.push(Arc::clone(policy)),
                // Nothing here runs Rego.
                Body::Rego(rego) if rego.mode() == Mode::Enforce && body.applies_to_callee(&callee) => {
                    return None;
                }
                Body::Rego(_) => {}
            }
        }
        Snapshot::compile(policies, &callee, revision, self.seed).ok()
    }
}

#[cfg(test)]
mod tests {
    use bonafide_identity::SpiffeId;

    use super::*;
    use crate::records::Object;

    #[test]
    fn the_built_in_policy_can_be_read_and_allows_every_call() {
        let guard = Guard::default();
        let snapshot = guard.compile(std::iter::empty(), 1).unwrap();
        let who = Subject::new("spiffe://example.org/admin".parse().unwrap(), CertifiedLabels::none());
        let now = UnixTime::from_secs(1);
        let request = Request { on: Thing::service(SERVICE), ..Request::new(&who, "PutSite", now) };
        assert!(snapshot.decide(&request).is_allowed());
        // And nothing else.
        assert!(!snapshot.decide(&Request::new(&who, "PutSite", now)).is_allowed());
    }

    fn put(state: &mut State, source: &str) {
        let policy = PolicyRecord::of_source(source, UnixTime::from_secs(1)).unwrap();
        let object = Object::Policy(Arc::new(policy));
        state.apply(state.revision() + 1, &object.key(), Some(&object.encode())).unwrap();
    }

    fn admin(labels: &[(&str, &str)]) -> Caller {
        let id: SpiffeId = "spiffe://example.org/admin".parse().unwrap();
        Caller::Peer(Certified {
            id: id.clone(),
            site: "edge".into(),
            instance: None,
            issued_at: UnixTime::from_secs(1),
            registration: "admin".into(),
            agent: id,
            selectors: bonafide_attest::SelectorSet::new(),
            labels: CertifiedLabels::new(labels.iter().copied()).unwrap(),
            admin: ["edge".to_owned()].into(),
            authorities: Vec::new(),
            expires_at: UnixTime::from_secs(2),
        })
    }

    #[test]
    fn policies_take_from_admins_and_never_from_the_local_socket() {
        let guard = Guard::default();
        let mut state =
            State::empty("example.org".parse().unwrap(), bonafide_store::Incarnation::from_bytes([1; 16]));
        let night = admin(&[("shift", "night")]);
        let check = |state: &State, caller: &Caller, call: &str| {
            guard
                .check(caller, call, state, UnixTime::from_secs(9))
                .map_err(|refusal| refusal.code().to_owned())
        };
        assert_eq!(check(&state, &night, "PutRegistration"), Ok(()));
        put(
            &mut state,
            "{kind: Guardrail, name: nights, rules: [{name: quiet, deny: {who: {labels: {shift: night}}, can: [PutRegistration]}}]}",
        );
        let denied = Err("admin.denied-by-policy".to_owned());
        assert_eq!(check(&state, &night, "PutRegistration"), denied);
        assert_eq!(check(&state, &night, "ListRegistrations"), Ok(()));
        assert_eq!(check(&state, &admin(&[("shift", "day")]), "PutRegistration"), Ok(()));
        // Of other workloads, and of single sites: none of the authority's business.
        put(
            &mut state,
            "{kind: Guardrail, name: others, appliesTo: {app: ledger}, rules: [{name: all, deny: {who: anyone}}]}",
        );
        put(
            &mut state,
            "{kind: Policy, name: edge, sites: [edge], rules: [{name: all, deny: {who: anyone}}]}",
        );
        assert_eq!(check(&state, &night, "ListRegistrations"), Ok(()));
        // Everybody is locked out, but for who is at the machine.
        put(&mut state, "{kind: Guardrail, name: shut, rules: [{name: all, deny: {who: anyone}}]}");
        assert_eq!(check(&state, &night, "ListRegistrations"), denied);
        assert_eq!(check(&state, &Caller::Local { uid: 0 }, "DeletePolicy"), Ok(()));
    }
}
