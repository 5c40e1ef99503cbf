//! The decision log: what was decided, for whom, by which rule.
//!
//! The newest decisions are kept in memory, as many as there is room for, and are told to whoever may see them. Only what
//! is listed here is kept of a request: no query, no property, no context, because these hold what nobody wants in logs.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bonafide_identity::time::UnixTime;
use bonafide_policy::{Caller, CertifiedLabels};
use bonafide_wire::agent::{Decision, ListDecisionsRequest, Question};
use serde_json::{Value, json};

/// Most decisions of one answer.
const MAX_LIST: u32 = 1000;
const DEFAULT_LIST: u32 = 100;
/// What is kept of one text of a request, in bytes.
const MAX_TEXT: usize = 256;

/// The newest decisions of this node.
#[derive(Debug)]
pub(crate) struct Decisions {
    kept: Mutex<Kept>,
    limit: usize,
    /// Of so many that were allowed, one is kept; all of the others are.
    one_in: u64,
    allowed: AtomicU64,
    dropped: AtomicU64,
    /// Names decisions, together with a number.
    prefix: String,
    count: AtomicU64,
}

/// By guarded program, so that one that is asked much pushes nobody else's out.
#[derive(Debug, Default)]
struct Kept {
    of: BTreeMap<String, VecDeque<Arc<Event>>>,
    count: usize,
    last: u64,
}

/// One decision.
#[derive(Debug)]
pub(crate) struct Event {
    number: u64,
    id: String,
    at: UnixTime,
    /// The guarded program.
    guarded: String,
    /// How it asked: `grpc`, `json`, `authzen`, `ext_authz`, `opa`.
    way: &'static str,
    /// As it was said, if nothing showed it.
    said: String,
    caller: Option<Arc<Caller>>,
    callee: Arc<CertifiedLabels>,
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
#[derive(Clone, Debug)]
pub(crate) struct Asker<'a> {
    /// Its default identity.
    pub(crate) guarded: &'a str,
    pub(crate) callee: Arc<CertifiedLabels>,
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
        (question, caller): (&Question, Option<Arc<Caller>>),
        decision: &Decision,
        at: UnixTime,
    ) {
        let ordinary = decision.allowed && decision.would.is_empty();
        if ordinary && !self.allowed.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let path = question.path.split(['?', '#']).next().unwrap_or_default();
        let mut kept = self.lock();
        kept.last += 1;
        let event = Arc::new(Event {
            number: kept.last,
            id: decision.id.clone(),
            at,
            guarded: asker.guarded.to_owned(),
            way: asker.way,
            said: short(&question.spiffe_id),
            caller,
            callee: asker.callee,
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
        if kept.count >= self.limit && kept.make_room() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if kept.count < self.limit {
            kept.of.entry(event.guarded.clone()).or_default().push_back(event);
            kept.count += 1;
        }
    }

    /// Newest first. `own`: only those of programs with this identity.
    pub(crate) fn list(&self, request: &ListDecisionsRequest, own: Option<&str>) -> (Vec<Value>, u64) {
        let limit = if request.limit == 0 { DEFAULT_LIST } else { request.limit.min(MAX_LIST) };
        let wanted = |event: &&Arc<Event>| {
            let is = |wanted: &str, own: &str| wanted.is_empty() || wanted == own;
            is(&request.policy, &event.policy)
                && is(&request.rule, &event.rule)
                && is(&request.caller, event.who())
                && (!request.denied_only || !event.allowed)
                && (!request.would_only || !event.would.is_empty())
        };
        let mut kept: Vec<Arc<Event>> = {
            let kept = self.lock();
            let seen = kept.of.iter().filter(|(guarded, _)| own.is_none_or(|own| own == guarded.as_str()));
            seen.flat_map(|(_, events)| events).filter(wanted).cloned().collect()
        };
        kept.sort_by_key(|event| u64::MAX - event.number);
        kept.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        (kept.iter().map(|event| event.to_json()).collect(), self.dropped.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Forgets the oldest decision of the program that has most. Whether there was one.
    fn make_room(&mut self) -> bool {
        let largest =
            self.of.iter().max_by_key(|(_, events)| events.len()).map(|(guarded, _)| guarded.clone());
        let Some(guarded) = largest else { return false };
        let Some(events) = self.of.get_mut(&guarded) else { return false };
        let forgotten = events.pop_front().is_some();
        if events.is_empty() {
            self.of.remove(&guarded);
        }
        self.count -= usize::from(forgotten);
        forgotten
    }
}

impl Event {
    /// Who was asked about.
    fn who(&self) -> &str {
        self.caller.as_ref().map_or(self.said.as_str(), |caller| caller.id().as_str())
    }

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
            "labels": { "guarded": self.guarded, "way": self.way },
            "requested_by": self.source,
            "input": { "bonafide": {
                "who": {
                    "id": self.who(),
                    "labels": self.caller.as_ref().map(|caller| labels(caller.labels())).unwrap_or_default(),
                },
                "can": self.action,
                "on": on,
                "callee": { "labels": labels(&self.callee) },
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
