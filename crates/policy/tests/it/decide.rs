use std::sync::Arc;

use bonafide_identity::{SpiffeId, UnixTime};
use bonafide_policy::{
    Body, Caller, CertifiedLabels, Decision, Document, Effect, Live, Policy, Reason, Refusal, Request,
    Scenario, Snapshot, read, scenario::DEFAULT_NOW,
};
use proptest::prelude::*;

use crate::generate::Generator;

pub(crate) fn policies(text: &str) -> Vec<Arc<Policy>> {
    let documents = read(text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"));
    documents.iter().filter_map(Document::policy).cloned().collect()
}

fn snapshot(text: &str, callee: &[(&str, &str)]) -> Snapshot {
    let callee = CertifiedLabels::new(callee.iter().copied()).unwrap();
    Snapshot::compile(policies(text), &callee, 7, 11).unwrap()
}

fn caller(id: &str, labels: &[(&str, &str)]) -> Caller {
    Caller::new(SpiffeId::parse(id).unwrap(), CertifiedLabels::new(labels.iter().copied()).unwrap())
}

/// `allow p/r`, `deny p/r` or `deny: code`.
fn told(decision: &Decision<'_>) -> String {
    match &decision.reason {
        Reason::Rule(rule) => format!("{} {}/{}", decision.effect, rule.policy, rule.rule),
        reason => format!("{}: {}", decision.effect, reason.code()),
    }
}

const EXAMPLES: [&str; 3] = [
    include_str!("../../../../examples/policies/ledger-callers.yaml"),
    include_str!("../../../../examples/policies/db-password.yaml"),
    include_str!("../../../../examples/policies/orders-key.yaml"),
];

#[test]
fn examples_hold() {
    for text in EXAMPLES {
        let mut tested = 0;
        for document in read(text).unwrap() {
            for test in document.tests() {
                let scenario = test.scenario();
                let policy = document.policy().cloned();
                let snapshot = Snapshot::compile(policy, &scenario.callee, 1, 3).unwrap();
                let decision = snapshot.decide(&scenario.request());
                assert_eq!(decision.effect, test.expect(), "{scenario:?}");
                if let Some(by) = test.by() {
                    assert_eq!(decision.reason.rule().unwrap().rule, by.as_str());
                }
                tested += 1;
            }
        }
        assert!(tested >= 3);
    }
}

#[test]
fn deny_beats_allow_beats_default_deny() {
    let text = "kind: Policy\nname: p\nrules:\n- {name: a, allow: {who: anyone, can: [GET]}}\n\
        - {name: b, deny: {who: anyone, on: {path: /secret/**}}}\n---\n\
        kind: Guardrail\nname: z\nrules: [{name: q, deny: {who: {labels: {quarantine: exists}}}}]\n";
    let snapshot = snapshot(text, &[]);
    let web = caller("spiffe://a.b/web", &[]);
    let bad = caller("spiffe://a.b/web", &[("quarantine", "")]);
    let decide = |who, can, path| told(&snapshot.decide(&Request::path(who, can, path, DEFAULT_NOW)));
    assert_eq!(decide(&web, "GET", "/"), "allow p/a");
    assert_eq!(decide(&web, "POST", "/"), "deny: policy.no-rule");
    assert_eq!(decide(&web, "get", "/"), "deny: policy.no-rule");
    assert_eq!(decide(&web, "GET", "/secret/"), "deny p/b");
    // A guardrail comes first, whatever its name.
    assert_eq!(decide(&bad, "GET", "/secret/x"), "deny z/q");
    assert_eq!(decide(&web, "GET", "/public/../secret/x"), "deny: policy.path-dot-segment");
    assert_eq!(decide(&web, "GET", "/%73ecret"), "deny p/b");
    assert_eq!(decide(&web, "", "/"), "deny: policy.action");
    assert_eq!(decide(&web, "GET\0", "/"), "deny: policy.action");
    let nothing = Snapshot::compile([], &CertifiedLabels::none(), 1, 1).unwrap();
    assert_eq!(told(&nothing.decide(&Request::new(&web, "GET", DEFAULT_NOW))), "deny: policy.no-rule");
}

#[test]
fn a_snapshot_is_for_one_workload() {
    let text = "kind: Policy\nname: p\nappliesTo: {app: ledger}\nrules:\n\
        - {name: a, allow: {who: anyone, when: {same: [env]}}}\n";
    let request = |env: &str, callee: &[(&str, &str)]| {
        let who = caller("spiffe://a.b/web", &[("env", env)]);
        told(&snapshot(text, callee).decide(&Request::new(&who, "GET", DEFAULT_NOW)))
    };
    assert_eq!(request("prod", &[("app", "ledger"), ("env", "prod")]), "allow p/a");
    assert_eq!(request("dev", &[("app", "ledger"), ("env", "prod")]), "deny: policy.no-rule");
    assert_eq!(request("dev", &[("app", "ledger")]), "deny: policy.no-rule");
    assert_eq!(request("prod", &[("app", "other"), ("env", "prod")]), "deny: policy.no-rule");
}

#[test]
fn what_is_stale_denies_if_its_policy_says_so() {
    let policy = |then: &str| {
        format!(
            "kind: Policy\nname: p\nstale: {{after: 10m, then: {then}}}\nrules: [{{name: a, allow: {{who: anyone}}}}]\n"
        )
    };
    let who = caller("spiffe://a.b/web", &[]);
    for (then, age, answer) in [
        ("deny", 600, "allow p/a"),
        ("deny", 601, "deny: policy.stale"),
        ("continue", 1_000_000, "allow p/a"),
        // A clock that was set back.
        ("deny", -1_000_000, "allow p/a"),
    ] {
        let snapshot = snapshot(&policy(then), &[]);
        let mut request = Request::new(&who, "GET", DEFAULT_NOW);
        request.current_at = UnixTime::from_secs(DEFAULT_NOW.as_secs() - age);
        assert_eq!(told(&snapshot.decide(&request)), answer, "{then} {age}");
        assert_eq!(told(&snapshot.explain(&request).decision), answer, "{then} {age}");
    }
}

/// A program is asked beside the snapshot, but what it says of its own staleness holds there as a policy's does.
#[test]
fn a_stale_program_denies_too() {
    let text = |name: &str, fields: &str, stale: &str| {
        format!(
            "kind: RegoPolicy\nname: {name}\n{fields}stale: {stale}\nentrypoint: data.a.b\nrego: |\n  package a\n---\n"
        )
    };
    let rules =
        "kind: Policy\nname: p\nstale: {after: 10m, then: deny}\nrules: [{name: a, allow: {who: anyone}}]\n";
    let who = caller("spiffe://a.b/web", &[]);
    for (fields, stale, age, answer) in [
        ("", "{after: 1m, then: deny}", 60, "allow p/a"),
        ("", "{after: 1m, then: deny}", 61, "stale odd"),
        ("appliesTo: {app: ledger}\n", "{after: 1m, then: deny}", 61, "stale odd"),
        // Of others, the policy's own holds.
        ("appliesTo: {app: orders}\n", "{after: 1m, then: deny}", 600, "allow p/a"),
        ("mode: shadow\n", "{after: 1m, then: deny}", 600, "allow p/a"),
        ("", "{after: 1m, then: continue}", 600, "allow p/a"),
        ("", "{after: 1h, then: deny}", 601, "stale p"),
    ] {
        let last = text("last", "", "{after: 2d, then: deny}");
        let documents = read(&format!("{}{last}{rules}", text("odd", fields, stale))).unwrap();
        let programs = documents.iter().filter_map(|document| match document.body() {
            Body::Rego(program) => Some(program),
            Body::Policy(_) => None,
        });
        let snapshot = snapshot(rules, &[("app", "ledger")]).with_programs(programs);
        let mut request = Request::new(&who, "GET", DEFAULT_NOW);
        request.current_at = UnixTime::from_secs(DEFAULT_NOW.as_secs() - age);
        for decision in [snapshot.decide(&request), snapshot.explain(&request).decision] {
            let told = match decision.reason {
                Reason::Stale { policy } => format!("stale {policy}"),
                _ => told(&decision),
            };
            assert_eq!(told, answer, "{fields} {stale} {age}");
        }
    }
}

#[test]
fn what_shadows_would_change_is_told() {
    let text = "kind: Policy\nname: live\nrules: [{name: a, allow: {who: anyone, can: [GET]}}]\n---\n\
        kind: Policy\nname: draft\nmode: shadow\nrules:\n- {name: b, allow: {who: anyone, can: [POST]}}\n\
        - {name: c, deny: {who: anyone, on: {path: /x}}}\n";
    let snapshot = snapshot(text, &[]);
    let who = caller("spiffe://a.b/web", &[]);
    let decide = |can, path| snapshot.decide(&Request::path(&who, can, path, DEFAULT_NOW)).to_string();
    assert_eq!(decide("GET", "/"), "allow: rule `a` of `live`");
    assert_eq!(decide("GET", "/x"), "allow: rule `a` of `live` (would deny: rule `c` of `draft`)");
    assert_eq!(decide("POST", "/"), "deny: no rule allows it (would allow: rule `b` of `draft`)");
    assert_eq!(decide("POST", "/x"), "deny: no rule allows it");
    assert_eq!(decide("PUT", "/"), "deny: no rule allows it");
}

/// However many rules are nearly met, only those are put into words that are told: the best, in the order of rules.
#[test]
fn the_best_near_misses_are_told() {
    let rule = |number: usize| {
        // The later rules miss less.
        let (can, path) = if number < 970 { ("PUT", "/a") } else { ("GET", "/b") };
        format!("- {{name: r{number:03}, allow: {{who: anyone, can: {can}, on: {{path: {path}}}}}}}\n")
    };
    let rules = |range: std::ops::Range<usize>| {
        let rules: String = range.map(rule).collect();
        snapshot(&format!("kind: Policy\nname: p\nrules:\n{rules}"), &[])
    };
    let who = caller("spiffe://a.b/web", &[]);
    let request = Request::path(&who, "GET", "/a", DEFAULT_NOW);
    let near = |snapshot: &Snapshot| -> Vec<String> {
        snapshot.explain(&request).near_misses.iter().map(ToString::to_string).collect()
    };
    let best: Vec<String> =
        (970..990).map(|number| format!("r{number}: on: path /b required, got /a")).collect();
    assert_eq!(near(&rules(0..1_000)), best);
    let told = near(&rules(955..975));
    assert_eq!((&told[..5], told.len()), (&best[..5], 20));
    assert_eq!(told[5], "r955: can: PUT required, got GET");
    assert_eq!(told[19], "r969: can: PUT required, got GET");
}

#[test]
fn a_deny_tells_what_was_missing() {
    let snapshot = snapshot(EXAMPLES[0], &[("app", "ledger"), ("env", "prod"), ("region", "eu")]);
    let near = |id: &str, labels: &[(&str, &str)], can: &str, path: &str| -> Vec<String> {
        let who = caller(id, labels);
        let explanation = snapshot.explain(&Request::path(&who, can, path, DEFAULT_NOW));
        explanation.near_misses.iter().map(ToString::to_string).collect()
    };
    let web = [("env", "prod"), ("tier", "web")];
    assert_eq!(
        near("spiffe://prod.acme/web", &web, "POST", "/v1/orders/7"),
        ["prod-readers: can: GET required, got POST"]
    );
    assert_eq!(
        near("spiffe://prod.acme/web", &web, "GET", "/v2"),
        ["prod-readers: on: path /v1/** required, got /v2"]
    );
    assert_eq!(
        near("spiffe://prod.acme/web", &web, "GET", "/v1/orders/7/audit"),
        ["prod-readers: except: excepted: path /v1/orders/*/audit"]
    );
    assert_eq!(
        near("spiffe://prod.acme/ns/shop/sa/checkout", &[("env", "prod")], "POST", "/v1/orders/7"),
        [
            "checkout-posts-orders: when: the same region required, got nothing at the caller and eu at the callee"
        ]
    );
    assert_eq!(near("spiffe://prod.acme/other", &[], "GET", "/v1"), Vec::<String>::new());
    // The caller learns nothing about rules.
    let who = caller("spiffe://prod.acme/web", &web);
    let request = Request::path(&who, "POST", "/v1/orders/7", DEFAULT_NOW);
    let refusal = Refusal::of(&snapshot.decide(&request), &request).unwrap();
    assert_eq!(refusal.code, "policy.denied");
    assert_eq!(refusal.id, "spiffe://prod.acme/web");
    assert_eq!(refusal.labels, ["env=prod", "tier=web"]);
    let allowed = Request::path(&who, "GET", "/v1/orders/7", DEFAULT_NOW);
    assert_eq!(Refusal::of(&snapshot.decide(&allowed), &allowed), None);
}

#[test]
fn two_policies_of_one_name_are_refused() {
    let policy = policies("kind: Policy\nname: p\nrules: [{name: a, allow: {who: anyone}}]\n").remove(0);
    let fault = Snapshot::compile([Arc::clone(&policy), policy], &CertifiedLabels::none(), 1, 1).unwrap_err();
    assert_eq!(fault.code(), "policy.twice");
}

#[test]
fn a_live_snapshot_is_replaced_while_others_decide() {
    let allow = "kind: Policy\nname: p\nrules: [{name: a, allow: {who: anyone}}]\n";
    let live = Live::new(snapshot(allow, &[]));
    let who = caller("spiffe://a.b/web", &[]);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let request = Request::new(&who, "GET", DEFAULT_NOW);
                    (0..20_000).all(|_| live.current().decide(&request).is_allowed())
                })
            })
            .collect();
        for revision in 0..50 {
            let next =
                Snapshot::compile(policies(allow), &CertifiedLabels::none(), revision, revision).unwrap();
            live.replace(next);
        }
        assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
    });
    assert_eq!(live.current().revision(), 49);
}

/// A label that is in many rules, with many values, and callers with as many labels as there can be.
#[test]
fn more_keys_than_are_gathered() {
    let mut text = String::from("kind: Policy\nname: p\nrules:\n");
    for number in 0..64 {
        text.push_str(&format!(
            "- {{name: e{number}, deny: {{who: {{labels: {{k{number}: exists}}}}, can: [X{number}]}}}}\n"
        ));
        text.push_str(&format!(
            "- {{name: v{number}, allow: {{who: {{labels: {{k{number}: v}}}}, can: [Y{number}]}}}}\n"
        ));
    }
    let snapshot = snapshot(&text, &[]);
    let keys: Vec<String> = (0..64).map(|number| format!("k{number}")).collect();
    let labels: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "v")).collect();
    let who = caller("spiffe://a.b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t", &labels);
    for number in 0..64 {
        let (x, y) = (format!("X{number}"), format!("Y{number}"));
        let decide = |can: &str| told(&snapshot.decide(&Request::new(&who, can, DEFAULT_NOW)));
        assert_eq!(decide(&x), format!("deny p/e{number}"));
        assert_eq!(decide(&y), format!("allow p/v{number}"));
    }
}

fn check(policies: &[Arc<Policy>], scenario: &Scenario, seed: u64) {
    let snapshot = Snapshot::compile(policies.iter().cloned(), &scenario.callee, 1, seed).unwrap();
    let request = scenario.request();
    let (decision, explanation) = (snapshot.decide(&request), snapshot.explain(&request));
    assert_eq!(decision, explanation.decision, "{scenario:#?}");
    let denies = |effect| explanation.matched.iter().any(|matched| matched.effect == effect);
    if decision.is_allowed() {
        assert!(denies(Effect::Allow) && explanation.near_misses.is_empty());
    }
}

/// What the index finds is what asking every rule finds: small sets, and sets with crowded keys.
#[test]
fn the_index_finds_what_there_is() {
    for seed in 0..60 {
        let mut numbers = Generator::new(seed);
        let rules = if seed % 4 == 0 { 600 } else { 12 };
        let policies = policies(&numbers.documents(rules));
        for _ in 0..4 {
            let callee = numbers.certified();
            let snapshot = Snapshot::compile(policies.iter().cloned(), &callee, 1, seed).unwrap();
            for _ in 0..100 {
                let scenario = numbers.scenario(&callee);
                let request = scenario.request();
                let (decision, explanation) = (snapshot.decide(&request), snapshot.explain(&request));
                assert_eq!(decision, explanation.decision, "{scenario:#?}");
            }
        }
    }
}

/// Rules of nothing but an ID, labels, actions and a path are compared in another way.
#[test]
fn plain_rules_mean_what_others_mean() {
    let mut numbers = Generator::new(99);
    let ids = ["spiffe://a.example/**", "spiffe://a.example/ns/shop/**", "spiffe://a.example/ns/shop/sa/web"];
    let paths = ["/", "/**", "/v1", "/v1/**", "/v1/orders/**", "/v1/orders/7", "/v1/%6frders"];
    let pick = |numbers: &mut Generator, of: &[&str]| of[numbers.below(of.len())].to_owned();
    let mut met = 0;
    for seed in 0..300 {
        let mut rules = String::new();
        for number in 0..4 {
            let mut who = Vec::new();
            if numbers.one_in(2) {
                who.push(format!("id: {}", pick(&mut numbers, &ids)));
            }
            if numbers.one_in(2) {
                who.push(format!("labels: {{env: [{}]}}", pick(&mut numbers, &["prod", "dev"])));
            }
            let who = if who.is_empty() { "anyone".to_owned() } else { format!("{{{}}}", who.join(", ")) };
            let path = pick(&mut numbers, &paths);
            let can = pick(&mut numbers, &["", ", can: [GET]", ", can: [GET, POST]"]);
            rules.push_str(&format!(
                "- {{name: r{number}, allow: {{who: {who}, on: {{path: {path}}}{can}}}}}\n"
            ));
        }
        let policies = policies(&format!("kind: Policy\nname: p\nrules:\n{rules}"));
        let callee = CertifiedLabels::none();
        let snapshot = Snapshot::compile(policies, &callee, 1, seed).unwrap();
        for _ in 0..50 {
            let scenario = numbers.scenario(&callee);
            let request = scenario.request();
            let (decision, explanation) = (snapshot.decide(&request), snapshot.explain(&request));
            assert_eq!(decision, explanation.decision, "{rules}{scenario:#?}");
            met += u32::from(decision.is_allowed());
        }
    }
    assert!((2_000..10_000).contains(&met), "{met} of 15000");
}

proptest! {
    /// The order of documents, of rules and of hashes has no meaning.
    #[test]
    fn order_has_no_meaning(seed: u64, turn in 0_usize..40) {
        let mut numbers = Generator::new(seed);
        let mut policies = policies(&numbers.documents(20));
        let callee = numbers.certified();
        let scenario = numbers.scenario(&callee);
        check(&policies, &scenario, seed);
        let one = Snapshot::compile(policies.iter().cloned(), &callee, 1, 1).unwrap();
        let turn = turn % policies.len();
        policies.rotate_left(turn);
        let other = Snapshot::compile(policies, &callee, 1, seed).unwrap();
        prop_assert_eq!(one.decide(&scenario.request()), other.decide(&scenario.request()));
    }
}
