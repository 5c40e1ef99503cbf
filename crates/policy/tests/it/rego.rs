//! Policies as Rego, and Rego as policies.

use bonafide_policy::{
    Body, Caller, CertifiedLabels, Effect, Scenario, Snapshot,
    analysis::world::Scope,
    judge::Judge,
    read, record,
    rego::{
        export,
        program::{By, Program, RegoFault, Verdict, merge},
    },
};
use serde_json::json;

use crate::generate::Generator;

#[test]
fn what_is_exported_decides_the_same() {
    let mut generator = Generator::new(6);
    let mut decided = [0; 2];
    for _ in 0..60 {
        let rules = 1 + generator.below(8);
        let documents = read(&generator.documents(rules)).unwrap();
        let module = export::module(&documents, Scope::Enforced);
        let mut engine = regorus::Engine::new();
        engine
            .add_policy("x.rego".into(), module.clone())
            .unwrap_or_else(|error| panic!("{error}\n{module}"));
        let judge = Judge::new(&documents, Scope::Enforced);
        for _ in 0..25 {
            let callee = generator.certified();
            let scenario = generator.scenario(&callee);
            let input = record::of(&scenario).to_string();
            engine.set_input_json(&input).unwrap();
            let allowed = engine.eval_rule("data.bonafide.policies.allow".into());
            let allowed = allowed.unwrap_or_else(|error| panic!("{error}\n{module}\n{input}"));
            let ruling = judge.judge(&scenario);
            let expected = regorus::Value::from(ruling.effect == Effect::Allow);
            assert_eq!(allowed, expected, "{ruling}\n{module}\n{input}");
            if let Some(by) = ruling.by {
                let reasons = engine.eval_rule("data.bonafide.policies.reasons".into()).unwrap();
                assert!(reasons.as_set().unwrap().contains(&regorus::Value::from(by)), "{module}\n{input}");
            }
            decided[usize::from(ruling.effect == Effect::Allow)] += 1;
        }
    }
    assert!(decided.iter().all(|number| *number > 150), "{decided:?}");
}

#[test]
fn a_request_reads_back_from_its_record() {
    let mut generator = Generator::new(7);
    for _ in 0..500 {
        let callee = generator.certified();
        let scenario = generator.scenario(&callee);
        assert_eq!(record::scenario(&record::of(&scenario)), Ok(scenario));
    }
}

#[test]
fn what_the_plugin_of_envoy_gives_is_a_request() {
    let input = json!({
        "attributes": {
            "source": {"address": {"socketAddress": {"address": "10.0.0.7", "portValue": 40000}},
                       "principal": "spiffe://example.org/ns/shop/sa/web"},
            "request": {"time": "2026-08-22T09:30:00.123456Z",
                        "http": {"method": "GET", "path": "/v1/orders?x=1", "host": "orders:8080", "headers": {}}},
        },
        "parsed_path": ["v1", "orders"],
    });
    let scenario = record::scenario(&input).unwrap();
    assert_eq!(scenario.who.id().as_str(), "spiffe://example.org/ns/shop/sa/web");
    assert_eq!((scenario.can.as_str(), scenario.path.as_deref()), ("GET", Some("/v1/orders?x=1")));
    assert_eq!(scenario.source, Some("10.0.0.7".parse().unwrap()));
    assert_eq!(scenario.now.to_string(), "2026-08-22T09:30:00Z");
    let again = record::of(&scenario);
    for pointer in ["/attributes/source/principal", "/attributes/request/http/path", "/parsed_path"] {
        assert_eq!(again.pointer(pointer), input.pointer(pointer), "{pointer}");
    }
    assert_eq!(again.pointer("/parsed_query"), Some(&json!({"x": ["1"]})));
}

fn program(entrypoint: &str, rego: &str) -> Result<Program, RegoFault> {
    let indented: String = rego.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!("kind: RegoPolicy\nname: p\nentrypoint: {entrypoint}\nrego: |\n{indented}");
    let documents = read(&text).unwrap();
    let Body::Rego(policy) = documents[0].body() else { panic!("{text}") };
    Program::load(policy)
}

#[test]
fn programs_allow_and_deny_and_say_why() {
    let plain =
        program("data.a.allow", "package a\ndefault allow := false\nallow if input.x == 1\n").unwrap();
    let says = |allow, deny, reasons: &[&str]| {
        Ok(Verdict { allow, deny, reasons: reasons.iter().map(|&reason| reason.to_owned()).collect() })
    };
    assert_eq!(plain.judge(&json!({"x": 1})), says(true, false, &[]));
    assert_eq!(plain.judge(&json!({"x": 2})), says(false, false, &[]));
    let rich = program(
        "data.a.result",
        "package a
result := {\"allow\": count(reasons) == 0, \"deny\": count(reasons) > 0, \"reasons\": reasons}
reasons contains sprintf(\"%v is too much\", [input.x]) if input.x > 3
reasons contains \"no GET\" if input.attributes.request.http.method == \"GET\"
",
    )
    .unwrap();
    assert_eq!(rich.judge(&json!({"x": 1})), says(true, false, &[]));
    assert_eq!(rich.judge(&json!({"x": 5})), says(false, true, &["5 is too much"]));
    let undefined = program("data.a.allow", "package a\nallow if input.x == 1\n").unwrap();
    assert_eq!(undefined.judge(&json!({})), says(false, false, &[]));
}

#[test]
fn everything_that_goes_wrong_denies() {
    for (rego, fault) in [
        ("package a\nallow := 7\n", RegoFault::Value),
        ("package a\nallow := {\"allow\": \"yes\"}\n", RegoFault::Value),
        ("package a\nallow := true if input.x == 1\nallow := false if input.y == 1\n", RegoFault::Value),
        ("package a\nallow if to_number(input.text) == 1\n", RegoFault::Value),
        (
            "package a\nallow if count([x | some a in input.l; some b in input.l; some c in input.l; x := a + b + c]) == 1\n",
            RegoFault::Time,
        ),
    ] {
        let program = program("data.a.allow", rego).unwrap();
        let list: Vec<u32> = (0..200).collect();
        let told = program.judge(&json!({"x": 1, "y": 1, "text": "seven", "l": list})).unwrap_err();
        match (&told, fault) {
            (RegoFault::Failed(_), RegoFault::Value) => {}
            (told, fault) => assert_eq!(*told, fault, "{rego}"),
        }
    }
}

#[test]
fn programs_and_rules_merge_as_rules_do() {
    let rules = "kind: Policy\nname: r\nrules:\n\
                 - {name: may, allow: {who: anyone, can: [GET]}}\n- {name: may-not, deny: {who: anyone, can: [PUT]}}\n";
    let documents = read(rules).unwrap();
    let snapshot = Snapshot::compile(documents[0].policy().cloned(), &CertifiedLabels::none(), 1, 1).unwrap();
    let says = |body: &str| program("data.a.x", &format!("package a\nx := {body}\n")).unwrap();
    let (allows, denies) = (says("true"), says("{\"deny\": true, \"reasons\": [\"no\"]}"));
    let (silent, broken) = (says("false"), says("7"));
    let caller = Caller::new("spiffe://example.org/a".parse().unwrap(), CertifiedLabels::none());
    let merged = |can: &str, programs: &[&Program]| {
        let scenario = Scenario::new(caller.clone(), can);
        let decision = snapshot.decide(&scenario.request());
        let answer = merge(&decision, programs.iter().copied(), &record::of(&scenario));
        (answer.effect, answer.by)
    };
    assert_eq!(merged("GET", &[&silent]), (Effect::Allow, By::Rules));
    assert_eq!(merged("GET", &[&allows, &denies]).0, Effect::Deny);
    assert!(matches!(merged("GET", &[&broken]), (Effect::Deny, By::Fault { .. })));
    assert_eq!(merged("PUT", &[&allows]), (Effect::Deny, By::Rules));
    assert_eq!(merged("POST", &[&silent]), (Effect::Deny, By::Rules));
    assert!(matches!(merged("POST", &[&silent, &allows]), (Effect::Allow, By::Program { .. })));
    assert_eq!(merged("POST", &[&denies, &allows]).0, Effect::Deny);
}

#[test]
fn what_a_program_may_not_do_is_refused_before_it_runs() {
    let deep = format!("package a\nallow if {{ {}1{} == 1 }}\n", "[".repeat(30), "]".repeat(30));
    let wide: String = (0..2500).map(|n| format!("x{n} := {{[{{[1]}}]}}\n")).collect();
    let wide = format!("package a\nallow := true\n{wide}");
    let many: String = (0..300).map(|n| format!("x{n} := 1\n")).collect();
    let many = format!("package a\nallow := true\n{many}");
    for (rego, code) in [
        ("package a\nallow if http.send({\"url\": \"https://example.org\"}).status_code == 200\n", "builtin"),
        ("package a\nallow if time.now_ns() > 0\n", "builtin"),
        ("package a\nallow if io.jwt.verify_rs256(\"x\", \"y\")\n", "builtin"),
        ("package a\nallow if count(numbers.range(1, 1000000000)) > 0\n", "builtin"),
        ("package a\nallow if bits.lsh(1, 100000000000) > 0\n", "builtin"),
        ("package a\nrange(a, b) := 1\nallow if numbers.range(1, 2)\n", "builtin"),
        ("package a\nallow if sprintf(\"%1000000000d\", [1]) == \"\"\n", "format"),
        ("package a\nallow if sprintf(input.x, [1]) == \"\"\n", "format"),
        ("package a\nf(x) := 1\nallow if f(1) == 1 with f as numbers.range\n", "with"),
        ("package a\nallow if input.x == 1 with input as {\"x\": 1}\n", "with"),
        ("package a\nf(x) := f(x)\nallow if f(1)\n", "recursion"),
        ("package a\nf(x) := g(x)\ng(x) := data.a.f(x)\nallow if f(1)\n", "recursion"),
        ("package a\nimport data.b as c\nallow if c.f(1)\n", "import"),
        ("package a\nallow if\n", "syntax"),
        ("package b\nallow := true\n", "entrypoint"),
        ("package a\nnumbers.range(x, y) := 1\nallow if true\n", "function"),
        (&deep, "too-deep"),
        (&wide, "too-deep"),
        (&many, "too-many-rules"),
    ] {
        let fault = program("data.a.allow", rego).unwrap_err();
        assert_eq!(fault.code(), format!("policy.rego-{code}"), "{rego:.80}: {fault}");
        assert!(!fault.to_string().contains('\n') && !fault.hint().is_empty());
    }
}

/// Compares values that are doubled so many times: that takes no memory, and one step takes twice as long each time.
fn doubled(times: usize) -> Program {
    let mut rego = String::from("package a\nx0 := [input.x]\ny0 := [input.x]\n");
    for n in 1..=times {
        let last = n - 1;
        rego += &format!("x{n} := [x{last}, x{last}]\ny{n} := [y{last}, y{last}]\n");
    }
    rego += &format!("allow if x{times} == y{times}\n");
    program("data.a.allow", &rego).unwrap()
}

#[test]
fn a_program_that_was_slow_once_is_asked_again() {
    let is_stuck = |program: &Program| program.judge(&json!({"x": 1})) == Err(RegoFault::Stuck);
    let program = (12..40).map(doubled).find(is_stuck).unwrap();
    // Without `x` there is nothing to compare. It was the shortest step that is too long, and it ends.
    while program.judge(&json!({})) == Err(RegoFault::Stuck) {
        std::thread::yield_now();
    }
    assert_eq!(program.judge(&json!({})), Ok(Verdict::default()));
}

#[test]
fn a_step_that_does_not_come_back_stops_the_program_not_the_caller() {
    let program = doubled(59);
    assert_eq!(program.judge(&json!({"x": 1})), Err(RegoFault::Stuck));
    assert_eq!(program.judge(&json!({"x": 1})), Err(RegoFault::Stuck));
}
