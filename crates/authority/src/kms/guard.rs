//! Who may use which key for what: the same policies as everything else, with a key in the place of the workload that is asked.
//!
//! To policies a key is a callee whose labels are its own and `key: <name>`. What is done is the action, by the operation's name
//! (to give out the key itself is `fetch-key`); the thing is the key, by its name, and the path `/keys/<name>`; the context is
//! `aad`. What no policy allows a grant may; what a policy denies nothing does.
//!
//! A policy that names sites was perhaps written by an admin of one of them. It counts for the keys of these sites alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bonafide_identity::time::UnixTime;
use bonafide_policy::{
    AssertedProps, Body, CertifiedLabels, Circumstances, Effect, Mode, Policy, Reason, Request, Snapshot,
    Thing,
};

use super::callers::Caller;
use super::name::short;
use super::record::KeyRecord;
use crate::policy::PolicyRecord;
use crate::records::KeyGrant;
use crate::refusal::Refusal;
use crate::state::State;

/// Keys for which policies stay compiled.
const MAX_COMPILED: usize = 4096;

/// Decides about the use of keys. Only about published states: what was never committed must not be remembered.
#[derive(Debug)]
pub(crate) struct Guard {
    seed: u64,
    compiled: Mutex<HashMap<[u8; 16], Arc<Compiled>>>,
}

/// Policies for one key.
#[derive(Debug)]
struct Compiled {
    /// Up to which it is known to be the same.
    revision: u64,
    incarnation: [u8; 16],
    of: Vec<Arc<PolicyRecord>>,
    labels: BTreeMap<String, String>,
    /// `None`: they can't be compiled, so everything is denied.
    snapshot: Option<Arc<Snapshot>>,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) action: &'a str,
    pub(crate) context: &'a AssertedProps,
    pub(crate) algorithm: Option<&'a str>,
}

/// Why somebody may not. What the caller is told says less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    /// For the ledger: `policy.no-rule`, `kms.other-site`, ...
    pub(crate) code: &'static str,
    /// For the ledger: the rule, if one says so.
    pub(crate) by: String,
}

impl Denied {
    pub(crate) fn because(code: &'static str) -> Self {
        Self { code, by: String::new() }
    }

    /// In the same words whether there is such a key or not.
    pub(crate) fn refusal(&self, action: &str, key: &str) -> Refusal {
        let key = short(key);
        Refusal::denied("kms.denied", format!("there is no key `{key}`, or policies don't let this caller `{action}` with it"))
            .hint("look at the name; a policy must allow the caller's ID or labels, this action, this key and this context")
    }
}

impl Guard {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, compiled: Mutex::default() }
    }

    /// Whether the caller may do this with a key. Returns what lets him: `policy/rule`, or `grant/<id>`.
    ///
    /// `current_at`: when this server last knew that nothing else holds.
    pub(crate) fn decide(
        &self,
        state: &State,
        key: &KeyRecord,
        caller: &Caller,
        ask: Ask<'_>,
        now: UnixTime,
        current_at: UnixTime,
    ) -> Result<String, Denied> {
        if !key.is_for_site(caller.site()) {
            return Err(Denied::because("kms.other-site"));
        }
        let snapshot = self.snapshot(state, key).ok_or(Denied::because("kms.policies"))?;
        let path = format!("/keys/{}", key.name());
        let request = Request {
            on: Thing { path: Some(&path), key: Some(key.name()), ..Thing::nothing() },
            when: Circumstances {
                aad: ask.context,
                algorithm: ask.algorithm,
                source: caller.source(),
                ..Circumstances::none()
            },
            current_at,
            ..Request::new(caller.subject(), ask.action, now)
        };
        let decision = snapshot.decide(&request);
        let rule =
            decision.reason.rule().map(|rule| format!("{}/{}", rule.policy, rule.rule)).unwrap_or_default();
        match (decision.effect, decision.reason) {
            (Effect::Allow, _) => Ok(rule),
            (Effect::Deny, Reason::NoRule) => {
                let granted = state.key_grants(key.id()).find(|grant| grant.allows(caller.id(), ask, now));
                granted.map(|grant| format!("grant/{}", grant.id)).ok_or(Denied::because("policy.no-rule"))
            }
            (Effect::Deny, reason) => Err(Denied { code: reason.code(), by: rule }),
        }
    }

    fn snapshot(&self, state: &State, key: &KeyRecord) -> Option<Arc<Snapshot>> {
        let known = self.lock().get(key.id()).cloned();
        let (revision, incarnation) = (state.revision(), *state.incarnation().as_bytes());
        let labels = key.labels();
        if let Some(known) = &known
            && known.incarnation == incarnation
            && known.labels == *labels
        {
            if known.revision == revision {
                return known.snapshot.clone();
            }
            if applying(state, key).map(Arc::as_ptr).eq(known.of.iter().map(Arc::as_ptr)) {
                let same = Compiled {
                    revision,
                    incarnation,
                    of: known.of.clone(),
                    labels: known.labels.clone(),
                    snapshot: known.snapshot.clone(),
                };
                self.keep(*key.id(), same);
                return known.snapshot.clone();
            }
        }
        let of: Vec<_> = applying(state, key).map(Arc::clone).collect();
        let snapshot = self.compile(&of, key, revision).map(Arc::new);
        self.keep(
            *key.id(),
            Compiled { revision, incarnation, of, labels: labels.clone(), snapshot: snapshot.clone() },
        );
        snapshot
    }

    fn keep(&self, key: [u8; 16], compiled: Compiled) {
        let mut all = self.lock();
        if all.len() >= MAX_COMPILED
            && !all.contains_key(&key)
            && let Some(some) = all.keys().next().copied()
        {
            all.remove(&some);
        }
        all.insert(key, Arc::new(compiled));
    }

    fn compile(&self, of: &[Arc<PolicyRecord>], key: &KeyRecord, revision: u64) -> Option<Snapshot> {
        let callee = callee(key)?;
        let mut policies: Vec<Arc<Policy>> = Vec::new();
        for record in of {
            match &*record.body {
                Body::Policy(policy) => policies.push(Arc::clone(policy)),
                // Nothing here runs Rego.
                Body::Rego(rego) if rego.mode() == Mode::Enforce => return None,
                Body::Rego(_) => {}
            }
        }
        Snapshot::compile(policies, &callee, revision, self.seed).ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 16], Arc<Compiled>>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Policies that count for a key, by name.
fn applying<'a>(state: &'a State, key: &'a KeyRecord) -> impl Iterator<Item = &'a Arc<PolicyRecord>> {
    let callee = callee(key).unwrap_or_default();
    let of_sites = move |policy: &PolicyRecord| {
        policy.sites.is_empty() || !key.sites().is_empty() && key.sites().is_subset(&policy.sites)
    };
    state.policies_after("").filter(move |policy| of_sites(policy) && policy.body.applies_to_callee(&callee))
}

fn callee(key: &KeyRecord) -> Option<CertifiedLabels> {
    let own = key.labels().iter().map(|(key, value)| (key.as_str(), value.as_str()));
    CertifiedLabels::new(own.chain([("key", key.name())])).ok()
}

impl KeyGrant {
    /// Whether it lets somebody do this.
    pub(crate) fn allows(&self, who: &bonafide_identity::SpiffeId, ask: Ask<'_>, now: UnixTime) -> bool {
        now.as_secs() < self.expires_at
            && self.grantee == who.as_str()
            && self.operations.iter().any(|operation| operation == ask.action)
            && self.context.iter().all(|(name, value)| ask.context.get(name) == Some(value.as_str()))
    }
}
