//! The decision log: what was decided, for whom, by which rule.
//!
//! The newest decisions are kept in memory, as many as there is room for, and are told to whoever may see them. Only what
//! is listed here is kept of a request: no query, no property, no context, because these hold what nobody wants in logs.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bonafide_identity::time::UnixTime;
use bonafide_policy::{Caller, CertifiedLabels};
use bonafide_wire::agent::{Decision, ListDecisionsRequest, Question};
use serde_json::{Value, json};

use crate::guard::Guard;

/// Most decisions of one answer.
const MAX_LIST: u32 = 1000;
const DEFAULT_LIST: u32 = 100;
/// What is kept of one text of a request, in bytes.
const MAX_TEXT: usize = 256;

/// The newest decisions of this node.
#[derive(Debug)]
pub(crate) struct Decisions {
    kept: Mutex<VecDeque<Arc<Event>>>,
    limit: usize,
    /// Of so many that were allowed, one is kept; all of the others are.
    one_in: u64,
    allowed: AtomicU64,
    dropped: AtomicU64,
    /// Names decisions, together with a number.
    prefix: String,
    count: AtomicU64,
}

/// One decision.
#[derive(Debug)]
pub(crate) struct Event {
    id: String,
    at: UnixTime,
    /// The guarded program.
    uid: u32,
    guarded: String,
    /// How it asked: `grpc`, `json`, `authzen`, `ext_authz`, `opa`.
    way: &'static str,
    caller: Arc<Caller>,
    guard: Arc<Guard>,
    action: String,
    path: String,
    host: String,
    key: String,
    service: String,
    algorithm: String,
    source: String,
    allowed: bool,
    code: String,
    policy: String,
    rule: String,
    digest: String,
    revision: u64,
    would: String,
}

/// The program that asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) uid: u32,
    pub(crate) spiffe_id: &'a str,
    pub(crate) way: &'static str,
}

impl Decisions {
    /// `prefix` tells decisions of this agent from those of others.
    pub(crate) fn new(limit: usize, one_in: u64, prefix: String) -> Self {
        Self {
            kept: Mutex::default(),
            limit,
            one_in: one_in.max(1),
            allowed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            prefix,
            count: AtomicU64::new(0),
        }
    }

    /// The name of the next decision.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.prefix, self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// Keeps a decision, if it is one of those that are kept.
    pub(crate) fn note(
        &self,
        asker: Asker<'_>,
        (question, caller): (&Question, &Arc<Caller>),
        guard: &Arc<Guard>,
        decision: &Decision,
        at: UnixTime,
    ) {
        let ordinary = decision.allowed && decision.would.is_empty();
        if ordinary && !self.allowed.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let path = question.path.split(['?', '#']).next().unwrap_or_default();
        let event = Arc::new(Event {
            id: decision.id.clone(),
            at,
            uid: asker.uid,
            guarded: asker.spiffe_id.to_owned(),
            way: asker.way,
            caller: Arc::clone(caller),
            guard: Arc::clone(guard),
            action: short(&question.action),
            path: short(path),
            host: short(&question.host),
            key: short(&question.key),
            service: short(&question.service),
            algorithm: short(&question.algorithm),
            source: short(&question.source),
            allowed: decision.allowed,
            code: decision.code.clone(),
            policy: decision.policy.clone(),
            rule: decision.rule.clone(),
            digest: decision.digest.clone(),
            revision: decision.revision,
            would: decision.would.clone(),
        });
        let mut kept = self.lock();
        if kept.len() >= self.limit && kept.pop_front().is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if self.limit > 0 {
            kept.push_back(event);
        }
    }

    /// Newest first. `uid`: only those of this user's programs.
    pub(crate) fn list(&self, request: &ListDecisionsRequest, uid: Option<u32>) -> (Vec<Value>, u64) {
        let limit = if request.limit == 0 { DEFAULT_LIST } else { request.limit.min(MAX_LIST) };
        let wanted = |event: &&Arc<Event>| {
            let is = |wanted: &str, own: &str| wanted.is_empty() || wanted == own;
            is(&request.policy, &event.policy)
                && is(&request.rule, &event.rule)
                && is(&request.caller, event.caller.id().as_str())
                && (!request.denied_only || !event.allowed)
                && (!request.would_only || !event.would.is_empty())
                && uid.is_none_or(|uid| uid == event.uid)
        };
        let kept: Vec<Arc<Event>> = {
            let kept = self.lock();
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            kept.iter().rev().filter(wanted).take(limit).cloned().collect()
        };
        (kept.iter().map(|event| event.to_json()).collect(), self.dropped.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Event {
    /// In the shape of OPA's decision log, with the rule, its policy and the policy's digest beside it.
    fn to_json(&self) -> Value {
        let on = texts([
            ("path", &self.path),
            ("host", &self.host),
            ("key", &self.key),
            ("service", &self.service),
        ]);
        let mut when = texts([("source", &self.source), ("alg", &self.algorithm)]);
        when.insert("now".to_owned(), self.at.as_secs().into());
        json!({
            "decision_id": self.id,
            "timestamp": self.at.to_string(),
            "path": "bonafide/authorize",
            "labels": { "guarded": self.guarded, "uid": self.uid, "way": self.way },
            "requested_by": self.source,
            "input": { "bonafide": {
                "who": { "id": self.caller.id().as_str(), "labels": labels(self.caller.labels()) },
                "can": self.action,
                "on": on,
                "callee": { "labels": labels(self.guard.snapshot.callee()) },
                "when": when,
            } },
            "result": { "decision": self.allowed, "code": self.code },
            "bundles": { "bonafide": { "revision": self.revision.to_string() } },
            "erased": [
                "/input/bonafide/who/props",
                "/input/bonafide/on/props",
                "/input/bonafide/when/props",
                "/input/bonafide/when/aad",
            ],
            "policy": self.policy,
            "rule": self.rule,
            "digest": self.digest,
            "would": self.would,
        })
    }
}

fn texts<const N: usize>(fields: [(&str, &String); N]) -> serde_json::Map<String, Value> {
    let there = fields.into_iter().filter(|(_, value)| !value.is_empty());
    there.map(|(name, value)| (name.to_owned(), Value::from(value.as_str()))).collect()
}

fn labels(labels: &CertifiedLabels) -> serde_json::Map<String, Value> {
    let value = |value: &[u8]| match std::str::from_utf8(value) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": value.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    };
    labels.iter().map(|(key, bytes)| (key.to_owned(), value(bytes))).collect()
}

fn short(text: &str) -> String {
    text.char_indices()
        .take_while(|(at, each)| at + each.len_utf8() <= MAX_TEXT)
        .map(|(_, each)| each)
        .collect()
}
