//! Random policies and requests, decided by us and by Cedar.

use std::{
    collections::BTreeMap,
    str::FromStr as _,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bonafide_policy::{Effect, Policy, Reason, Snapshot, cedar};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use serde_json::Value;

use crate::{decide::policies, generate::Generator};

/// Pairs of a set of policies and a request, without `BONAFIDE_ORACLE_PAIRS`.
const PAIRS: u64 = 1_000_000;
/// Requests to each of the workloads that a set of policies is compiled for.
const REQUESTS: u64 = 125;
const CALLEES: u64 = 4;
const RULES: usize = 10;

/// What was decided, and by which clauses.
#[derive(Default)]
struct Seen {
    pairs: AtomicU64,
    allowed: AtomicU64,
    denied_by_rule: AtomicU64,
    refused: AtomicU64,
    /// Of each clause that occurs in a rule: how many rules that determined an answer had it.
    clauses: Mutex<BTreeMap<&'static str, u64>>,
}

#[test]
fn decides_as_cedar_does() {
    let pairs = std::env::var("BONAFIDE_ORACLE_PAIRS").map_or(PAIRS, |pairs| pairs.parse().unwrap());
    let seen = Seen::default();
    let sets = pairs.div_ceil(REQUESTS * CALLEES);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut clauses = BTreeMap::new();
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= sets {
                        break;
                    }
                    compare(seed, &seen, &mut clauses);
                }
                let mut all = seen.clauses.lock().unwrap();
                clauses.into_iter().for_each(|(clause, count)| *all.entry(clause).or_default() += count);
            });
        }
    });
    let (all, allowed) = (seen.pairs.load(Relaxed), seen.allowed.load(Relaxed));
    let (denied, refused) = (seen.denied_by_rule.load(Relaxed), seen.refused.load(Relaxed));
    let clauses = seen.clauses.into_inner().unwrap();
    println!("{all} pairs: {allowed} allowed, {denied} denied by a rule, {refused} refused for themselves");
    println!("{clauses:?}");
    assert!(all >= pairs);
    assert!(allowed * 5 >= all, "less than 20 % is allowed");
    assert!(denied * 5 >= all, "less than 20 % is denied by a rule");
    for clause in CLAUSES {
        assert!(
            clauses.get(clause).is_some_and(|count| *count > all / 10_000),
            "{clause} decides nearly nothing"
        );
    }
}

/// Words that rules with each clause have in their canonical form.
const CLAUSES: [&str; 21] = [
    "\"id\":",
    "\"trustDomain\":",
    "\"labels\":",
    "\"props\":",
    "\"can\":",
    "\"path\":",
    "\"host\":",
    "\"key\":",
    "\"service\":",
    "\"same\":",
    "\"aad\":",
    "{who.labels.",
    "\"alg\":",
    "\"from\":",
    "\"until\":",
    "\"source\":",
    "\"except\":",
    "\"exists\"",
    "\"absent\"",
    "\"not\":",
    "\"appliesTo\":",
];

fn compare(seed: u64, seen: &Seen, clauses: &mut BTreeMap<&'static str, u64>) {
    let mut numbers = Generator::new(seed ^ 0x0add_b1a5);
    let policies = policies(&numbers.documents(RULES));
    let text = cedar::policies(policies.iter().map(|policy| &**policy));
    let set = PolicySet::from_str(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    let words = words(&policies);
    let (authorizer, entities) = (Authorizer::new(), Entities::empty());
    let (workload, action) =
        (EntityTypeName::from_str("Workload").unwrap(), EntityTypeName::from_str("Action").unwrap());
    let uid =
        |name: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id));
    let resource = uid(&workload, "callee");
    for _ in 0..CALLEES {
        let callee = numbers.certified();
        let snapshot = Snapshot::compile(policies.iter().cloned(), &callee, seed, seed).unwrap();
        for _ in 0..REQUESTS {
            let scenario = numbers.scenario(&callee);
            let request = scenario.request();
            let ours = snapshot.decide(&request);
            seen.pairs.fetch_add(1, Relaxed);
            let theirs = match cedar::request(&request, &callee) {
                Ok(theirs) => theirs,
                Err(fault) => {
                    assert_eq!(ours.reason, Reason::Input(fault));
                    seen.refused.fetch_add(1, Relaxed);
                    continue;
                }
            };
            let context = context(&theirs.context);
            let (principal, action) = (uid(&workload, &theirs.principal), uid(&action, &theirs.action));
            let request = Request::new(principal, action, resource.clone(), context, None).unwrap();
            let answer = authorizer.is_authorized(&request, &set, &entities);
            let errors: Vec<String> = answer.diagnostics().errors().map(ToString::to_string).collect();
            assert!(errors.is_empty(), "{errors:?}\n{text}\n{}", theirs.context);
            let allowed = answer.decision() == Decision::Allow;
            assert_eq!(
                ours.effect == Effect::Allow,
                allowed,
                "{ours:?}\n{scenario:#?}\n{text}\n{}",
                theirs.context
            );
            // The rule that we name is one of those that determined it for Cedar.
            if let Some(rule) = ours.reason.rule() {
                let name = format!("{}/{}", rule.policy, rule.rule);
                let mut ids = answer.diagnostics().reason().map(|id| set.annotation(id, "id").unwrap());
                assert!(ids.any(|id| id == name), "{name}\n{scenario:#?}\n{text}");
                for word in &words[&name] {
                    *clauses.entry(word).or_default() += 1;
                }
                if !allowed {
                    seen.denied_by_rule.fetch_add(1, Relaxed);
                }
            } else {
                assert_eq!(answer.diagnostics().reason().count(), 0);
            }
            if allowed {
                seen.allowed.fetch_add(1, Relaxed);
            }
        }
    }
}

/// As `Context::from_json_str` reads it, which takes longer than all else here.
fn context(json: &str) -> Context {
    let Value::Object(fields) = serde_json::from_str(json).unwrap() else { panic!("{json}") };
    Context::from_pairs(fields.into_iter().map(|(name, value)| (name, expression(value)))).unwrap()
}

fn expression(value: Value) -> RestrictedExpression {
    match value {
        Value::String(text) => RestrictedExpression::new_string(text),
        Value::Number(number) => RestrictedExpression::new_long(number.as_i64().unwrap()),
        Value::Object(fields) => match fields.get("__extn") {
            Some(address) => RestrictedExpression::new_ip(address["arg"].as_str().unwrap()),
            None => {
                let fields = fields.into_iter().map(|(name, value)| (name, expression(value)));
                RestrictedExpression::new_record(fields).unwrap()
            }
        },
        other => panic!("{other}"),
    }
}

#[test]
fn contexts_are_read_as_cedar_reads_them() {
    let mut numbers = Generator::new(5);
    for _ in 0..50 {
        let callee = numbers.certified();
        let scenario = numbers.scenario(&callee);
        if let Ok(request) = cedar::request(&scenario.request(), &callee) {
            let theirs = Context::from_json_str(&request.context, None).unwrap();
            assert_eq!(context(&request.context).to_string(), theirs.to_string());
        }
    }
}

/// Of each rule: the clauses that it has.
fn words(policies: &[std::sync::Arc<Policy>]) -> BTreeMap<String, Vec<&'static str>> {
    let mut words = BTreeMap::new();
    for policy in policies {
        let canonical = bonafide_policy::Body::Policy(policy.clone()).canonical();
        let json: serde_json::Value = serde_json::from_str(&canonical).unwrap();
        for rule in json["rules"].as_array().unwrap() {
            let mut text = rule.to_string();
            if json.get("appliesTo").is_some() {
                text.push_str("\"appliesTo\":");
            }
            let name = format!("{}/{}", policy.name(), rule["name"].as_str().unwrap());
            words.insert(name, CLAUSES.into_iter().filter(|clause| text.contains(clause)).collect());
        }
    }
    words
}
