//! What is said of policies without a request, against the decisions about requests.

use bonafide_policy::{
    Document, Effect,
    analysis::{
        witness,
        world::{Scope, World},
    },
    check::{self, Finding, Vocabulary},
    coverage,
    diff::{self, Change},
    judge::Judge,
    read, replay,
};

use crate::generate::Generator;

/// Random documents, of at most `rules` rules.
fn documents(generator: &mut Generator, rules: usize) -> Vec<Document> {
    let rules = 1 + generator.below(rules);
    let text = generator.documents(rules);
    read(&text).unwrap_or_else(|faults| panic!("{text}\n{faults:?}"))
}

#[test]
fn regions_are_what_is_decided() {
    let mut generator = Generator::new(1);
    let mut decided = [0; 2];
    for _ in 0..300 {
        let documents = documents(&mut generator, 8);
        let judge = Judge::new(&documents, Scope::Enforced);
        let worlds = World::all(&documents);
        let world = worlds.iter().find(|world| world.scope == Scope::Enforced);
        for _ in 0..20 {
            let callee = generator.certified();
            let scenario = generator.scenario(&callee);
            let ruling = judge.judge(&scenario);
            let met = |effect| {
                let point = witness::point(&scenario)?;
                world?.met(&point).find(|entry| entry.rule.effect() == effect).map(|entry| entry.title())
            };
            let allowed = met(Effect::Allow).is_some() && met(Effect::Deny).is_none();
            assert_eq!(ruling.effect == Effect::Allow, allowed, "{scenario:?}");
            decided[usize::from(allowed)] += 1;
        }
    }
    assert!(decided.iter().all(|number| *number > 500), "{decided:?}");
}

#[test]
fn a_witness_is_the_point_that_it_was_made_of() {
    let mut generator = Generator::new(2);
    for _ in 0..200 {
        for world in World::all(&documents(&mut generator, 8)) {
            for entry in &world.entries {
                let found = bonafide_policy::analysis::region::find(&[&entry.region], &[]);
                let Some(point) = found.point() else { continue };
                let scenario = witness::scenario(&point).unwrap();
                assert_eq!(witness::point(&scenario), Some(point));
            }
        }
    }
}

#[test]
fn every_witness_of_check_shows_what_is_said() {
    let mut generator = Generator::new(3);
    let mut confirmed = std::collections::BTreeMap::new();
    for _ in 0..250 {
        let documents = documents(&mut generator, 10);
        for finding in check::check(&documents, &Vocabulary::default()) {
            confirm(&documents, &finding);
            *confirmed.entry(finding.code).or_insert(0) += 1;
        }
    }
    for code in [
        "check.anyone",
        "check.contradiction",
        "check.dead-allow",
        "check.duplicate",
        "check.idle-exception",
        "check.overlap",
        "check.subsumed",
        "check.whole-domain",
        "check.bare-wildcard",
    ] {
        assert!(confirmed.get(code).is_some_and(|number| *number > 0), "{code}: {confirmed:?}");
    }
}

fn confirm(documents: &[Document], finding: &Finding) {
    if finding.code == "check.untested" {
        // A test of its own runs what is proposed.
        return;
    }
    let Some(witness) = &finding.witness else {
        let without = ["check.contradiction", "check.duplicate", "check.idle-exception"];
        // What all is denied of has none either.
        let broad = ["check.anyone", "check.whole-domain", "check.bare-wildcard"];
        assert!(without.contains(&finding.code) || broad.contains(&finding.code), "{finding:?}");
        return;
    };
    let shadow = documents[finding.document].body().mode() == bonafide_policy::Mode::Shadow;
    let scope = if shadow { Scope::Shadow } else { Scope::Enforced };
    let ruling = Judge::new(documents, scope).judge(witness);
    let worlds = World::all(documents);
    let world = worlds.iter().find(|world| world.scope == scope).unwrap();
    let point = witness::point(witness).unwrap();
    let met: Vec<String> = world.met(&point).map(|entry| entry.title()).collect();
    let own = format!("{}/{}", finding.policy, finding.rule.clone().unwrap());
    assert!(met.contains(&own), "{finding:?}");
    match finding.code {
        "check.overlap" => {
            assert_eq!(ruling.effect, Effect::Deny, "{finding:?}");
            assert!(met.contains(&finding.others[0]), "{finding:?}");
        }
        "check.dead-allow" => {
            assert_eq!(ruling.effect, Effect::Deny, "{finding:?}");
            assert!(finding.others.iter().any(|deny| met.contains(deny)), "{finding:?}");
        }
        "check.subsumed" => assert!(finding.others.iter().any(|other| met.contains(other)), "{finding:?}"),
        _ => assert_eq!(ruling.effect, Effect::Allow, "{finding:?}"),
    }
}

/// An edit: some documents of the one set, some of the other, some of both.
fn edited(generator: &mut Generator) -> (Vec<Document>, Vec<Document>) {
    let (all, rules) = (documents(generator, 10), 1 + generator.below(4));
    let other = read(&generator.documents(rules).replace("\nname: p", "\nname: q")).unwrap();
    let mut old: Vec<Document> = all.iter().filter(|_| !generator.one_in(4)).cloned().collect();
    let mut new: Vec<Document> = all.iter().filter(|_| !generator.one_in(4)).cloned().collect();
    if generator.one_in(2) {
        old.extend(other)
    } else {
        new.extend(other)
    }
    (old, new)
}

#[test]
fn every_change_is_shown_and_every_witness_is_a_change() {
    let mut generator = Generator::new(4);
    let (mut shown, mut differing) = (0, 0);
    for _ in 0..150 {
        let (old, new) = edited(&mut generator);
        let diff = diff::diff(&old, &new);
        assert!(diff.undecided.is_empty() && !diff.is_cut);
        let judges = [Judge::new(&old, Scope::Enforced), Judge::new(&new, Scope::Enforced)];
        for (changes, before, after) in
            [(&diff.gained, Effect::Deny, Effect::Allow), (&diff.lost, Effect::Allow, Effect::Deny)]
        {
            for change in changes {
                assert_eq!(judges[0].judge(&change.witness).effect, before, "{change:?}");
                assert_eq!(judges[1].judge(&change.witness).effect, after, "{change:?}");
                assert_eq!((change.before.effect, change.after.effect), (before, after));
                shown += 1;
            }
        }
        let worlds = [World::all(&old), World::all(&new)];
        for _ in 0..60 {
            let callee = generator.certified();
            let scenario = generator.scenario(&callee);
            let rulings = judges.each_ref().map(|judge| judge.judge(&scenario).effect);
            let (changes, allowing, denying) = match rulings {
                [Effect::Deny, Effect::Allow] => (&diff.gained, &worlds[1], &worlds[0]),
                [Effect::Allow, Effect::Deny] => (&diff.lost, &worlds[0], &worlds[1]),
                _ => continue,
            };
            differing += 1;
            let point = witness::point(&scenario).unwrap();
            let met = |worlds: &[World<'_>], effect: Effect| -> Vec<String> {
                let world = worlds.iter().find(|world| world.scope == Scope::Enforced);
                let met = world.into_iter().flat_map(|world| world.met(&point));
                met.filter(|entry| entry.rule.effect() == effect).map(|entry| entry.title()).collect()
            };
            let denies = met(denying, Effect::Deny);
            let denies: Vec<Option<String>> =
                if denies.is_empty() { vec![None] } else { denies.into_iter().map(Some).collect() };
            for allow in met(allowing, Effect::Allow) {
                for deny in &denies {
                    let is_it = |change: &Change| change.allowed_by == allow && change.denied_by == *deny;
                    assert!(changes.iter().any(is_it), "{allow} {deny:?}\n{scenario:?}");
                }
            }
        }
    }
    assert!(shown > 300 && differing > 300, "{shown} {differing}");
}

#[test]
fn nothing_changes_by_order_comments_and_names_of_policies() {
    let mut generator = Generator::new(5);
    for _ in 0..50 {
        let documents = documents(&mut generator, 10);
        let mut turned = documents.clone();
        turned.reverse();
        assert!(diff::diff(&documents, &turned).is_empty());
    }
}

#[test]
fn the_test_that_is_proposed_for_a_rule_passes_and_reaches_it() {
    let mut generator = Generator::new(8);
    let mut proposed = 0;
    for _ in 0..60 {
        let rules = 1 + generator.below(6);
        let text = generator.documents(rules);
        for one in text.split("---\n").filter(|one| !one.is_empty()) {
            let documents = read(one).unwrap();
            let tests: String = check::check(&documents, &Vocabulary::default())
                .iter()
                .filter(|finding| finding.code == "check.untested")
                .filter_map(|finding| finding.hint.strip_prefix("add `")?.strip_suffix("` to `tests`"))
                .map(|line| format!("{line}\n"))
                .collect();
            if tests.is_empty() {
                continue;
            }
            let tested =
                read(&format!("{one}tests:\n{tests}")).unwrap_or_else(|faults| panic!("{tests}{faults:?}"));
            let report = coverage::run(&tested, true);
            assert_eq!(report.failed(), 0, "{one}{tests}{report:?}");
            assert!(
                report
                    .rules
                    .iter()
                    .all(|rule| (rule.tests > 0) || !tests.contains(&format!("by: {}}}", rule.rule)))
            );
            proposed += report.passed();
        }
    }
    assert!(proposed > 100, "{proposed}");
}

#[test]
fn coverage_tells_which_rules_are_reached_and_which_are_missed() {
    let text = "
kind: Policy
name: p
rules:
- {name: readers, allow: {who: {labels: {tier: web}}, can: [GET]}}
- {name: wider, allow: {who: {labels: {tier: [web, api]}}, can: [GET]}}
- {name: never, deny: {who: {labels: {quarantine: exists}}}}
- {name: untested, deny: {who: anyone, can: [DELETE]}}
tests:
- {who: spiffe://example.org/web, labels: {tier: web}, can: GET, on: /, expect: allow}
- {who: spiffe://example.org/web, labels: {tier: web, quarantine: x}, can: GET, on: /, expect: deny, by: never}
- {who: spiffe://example.org/web, labels: {tier: api}, can: PUT, on: /, expect: allow, by: wider}
";
    let report = coverage::run(&read(text).unwrap(), true);
    assert_eq!((report.passed(), report.failed()), (2, 1));
    let failure = report.outcomes[2].failure.clone().unwrap();
    assert_eq!(failure, "expected allow by `wider`, got deny: no rule allows it");
    assert_eq!(report.unreached().map(|rule| rule.rule.as_str()).collect::<Vec<_>>(), ["untested"]);
    let survivors: Vec<&str> = report.survivors().map(|rule| rule.rule.as_str()).collect();
    assert_eq!(
        survivors,
        ["readers", "untested", "wider"],
        "either of two that allow the same may be left out"
    );
    let junit = coverage::junit(&report, &["p.yaml".to_owned()]);
    assert!(junit.contains("<testsuite name=\"p\" tests=\"3\" failures=\"1\">"), "{junit}");
    assert!(junit.contains("line=\"12\""), "{junit}");
}

#[test]
fn names_that_do_not_exist_are_told() {
    let text = "
kind: Policy
name: p
appliesTo: {app: ledgr}
rules:
- name: r
  allow:
    who: {id: spiffe://prod.acme/ns/shop/**, labels: {env: prd, team: exists}}
    can: [GTE]
    on: {key: order/**, service: s.Order}
";
    let set = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
    let labels = [("app", vec!["ledger"]), ("env", vec!["prod", "dev"])];
    let labels = labels.map(|(key, values)| {
        (key.to_owned(), values.into_iter().map(str::to_owned).collect::<std::collections::BTreeSet<_>>())
    });
    let vocabulary = Vocabulary {
        labels: Some(labels.into_iter().collect()),
        trust_domains: set(&["prod.acme"]),
        services: set(&["s.Orders"]),
        keys: set(&["orders/pii"]),
        actions: set(&["GET", "PUT"]),
        workloads: Some(vec![[("app".to_owned(), "ledger".to_owned())].into_iter().collect()]),
    };
    let findings = check::check(&read(text).unwrap(), &vocabulary);
    let told: Vec<(String, &str)> = findings
        .iter()
        .filter(|finding| finding.code != "check.untested")
        .map(|finding| (finding.message.clone(), finding.hint.as_str()))
        .collect();
    for (message, hint) in [
        ("no site certifies `app: ledgr`", "did you mean `ledger`?"),
        ("no site certifies `env: prd`", "did you mean `prod`?"),
        ("there is no service `s.Order`", "did you mean `s.Orders`?"),
        ("there is no action `GTE`", "did you mean `GET`?"),
    ] {
        assert!(told.contains(&(message.to_owned(), hint)), "{message}: {told:?}");
    }
    for message in [
        "no site certifies a label `team`",
        "no key is named `order/**`",
        "it applies to none of the workloads that exist",
    ] {
        assert!(told.iter().any(|(told, _)| told == message), "{message}: {told:?}");
    }
}

#[test]
fn what_was_logged_is_decided_again() {
    let text = "
kind: Policy
name: p
rules:
- {name: readers, allow: {who: {labels: {tier: web}}, can: [GET]}}
";
    let documents = read(text).unwrap();
    let input = |tier: &str| serde_json::json!({"bonafide": {"who": {"id": "spiffe://example.org/web", "labels": {"tier": tier}}, "can": "GET"}});
    let lines = [
        serde_json::json!({"decision_id": "1", "input": input("web"), "result": true}),
        serde_json::json!({"decision_id": "2", "input": input("api"), "result": {"decision": "allow", "by": "old/rule"}}),
        serde_json::json!({"decision_id": "3", "input": input("web"), "result": {"allowed": false}}),
        serde_json::json!({"decision_id": "4", "input": input("web"), "result": true, "erased": ["/input/bonafide/who"]}),
        serde_json::json!({"decision_id": "5", "input": {}, "result": true}),
        serde_json::json!({"decision_id": "6", "input": input("web"), "result": 7}),
    ];
    let log: String = lines.iter().map(|line| format!("{line}\n")).collect();
    for log in [format!("{log}no JSON\n"), format!("[{}]", lines.map(|line| line.to_string()).join(","))] {
        let replay = replay::replay(&documents, replay::events(&log));
        let changed: Vec<&str> = replay.changes.iter().map(|change| change.event.id.as_str()).collect();
        assert_eq!((replay.decided, changed), (3, vec!["2", "3"]));
        assert_eq!(replay.changes[0].event.by.as_deref(), Some("old/rule"));
        let skipped: Vec<&str> = replay.skipped.iter().map(|(_, fault)| fault.code()).collect();
        assert_eq!(skipped[..3], ["replay.masked", "replay.input", "replay.result"]);
    }
}

#[test]
fn what_a_log_left_out_matters_only_to_rules_that_look_at_it() {
    let text = "
kind: Policy
name: p
rules:
- {name: readers, allow: {who: {labels: {tier: web}}, can: [GET]}}
- {name: admins, allow: {who: {labels: {tier: api}, props: {role: admin}}, can: [PUT]}}
- {name: tenants, deny: {who: anyone, can: [POST], when: {aad: {tenant: t1}}}}
- {name: posts, allow: {who: {labels: {tier: web}}, can: [POST]}}
- {name: never, deny: {who: {labels: {quarantine: exists}}}}
";
    let documents = read(text).unwrap();
    // As the agents of this house write them.
    let event = |labels: &str, can: &str, decision: bool, path: &str| {
        format!(
            "{{\"path\":\"bonafide/authorize\",\"decision_id\":\"1\",\"input\":{{\"bonafide\":{{\"who\":{{\"id\":\
             \"spiffe://example.org/web\",\"labels\":{labels}}},\"can\":\"{can}\",\"on\":{{\"path\":\"{path}\"}},\"callee\":\
             {{\"labels\":{{}}}},\"when\":{{\"now\":1767225600}}}}}},\"result\":{{\"decision\":{decision},\"code\":\"x\"}},\
             \"policy\":\"old\",\"rule\":\"r\",\"erased\":[\"/input/bonafide/who/props\",\"/input/bonafide/on/props\",\
             \"/input/bonafide/when/props\",\"/input/bonafide/when/aad\"]}}"
        )
    };
    let long = format!("/{}", "x".repeat(300));
    for (labels, can, path, told) in [
        ("{\"tier\":\"web\"}", "GET", "/a", Some(Effect::Allow)),
        ("{\"tier\":\"api\"}", "GET", "/a", Some(Effect::Deny)),
        ("{\"tier\":\"api\"}", "PUT", "/a", None),
        ("{\"tier\":\"web\"}", "POST", "/a", None),
        ("{\"tier\":\"web\",\"quarantine\":\"x\"}", "POST", "/a", Some(Effect::Deny)),
        ("{\"tier\":\"web\"}", "GET", "//a", Some(Effect::Deny)),
        ("{\"tier\":\"web\"}", "GET", &long, None),
    ] {
        for decision in [true, false] {
            let replay = replay::replay(&documents, replay::events(&event(labels, can, decision, path)));
            let changes: Vec<Effect> = replay.changes.iter().map(|change| change.after.effect).collect();
            let effect = told.filter(|effect| (*effect == Effect::Allow) != decision);
            assert_eq!(changes, Vec::from_iter(effect), "{labels} {can} {path}");
            assert_eq!(replay.skipped.len(), usize::from(told.is_none()), "{labels} {can} {path}");
            assert!(replay.changes.iter().all(|change| change.event.by.as_deref() == Some("old/r")));
        }
    }
    // Of `/a#b`, which is denied whatever rules say, the agent writes `/a`.
    let denied = event("{\"tier\":\"web\"}", "GET", false, "/a");
    let cut = denied.replace("\"code\":\"x\"", "\"code\":\"policy.path-fragment\"");
    for (event, changes) in [(denied, 1), (cut, 0)] {
        let replay = replay::replay(&documents, replay::events(&event));
        assert_eq!((replay.changes.len(), replay.skipped.len()), (changes, 1 - changes), "{event}");
    }
}
