use bonafide_policy::{read, yaml::fault::Fault};

fn faults(text: &str) -> Vec<Fault> {
    read(text).err().unwrap_or_default()
}

/// `line:column code: message; help` of each fault.
fn told(text: &str) -> Vec<String> {
    faults(text)
        .iter()
        .map(|fault| {
            let (spot, code) = (fault.spot, &fault.code);
            format!("{}:{} {code}: {}; {}", spot.line, spot.column, fault.message, fault.help)
        })
        .collect()
}

fn rule(clauses: &str) -> String {
    format!("kind: Policy\nname: p\nrules:\n- name: r\n  allow: {{{clauses}}}\n")
}

#[test]
fn the_three_policies_of_the_documentation() {
    for text in [
        include_str!("../../../../examples/policies/ledger-callers.yaml"),
        include_str!("../../../../examples/policies/db-password.yaml"),
        include_str!("../../../../examples/policies/orders-key.yaml"),
    ] {
        assert!(read(text).is_ok(), "{:#?}", told(text));
    }
}

#[test]
fn a_fault_has_its_place_and_what_to_write_instead() {
    for (clauses, expected) in [
        ("can: [GET]", "5:10 resource.missing-field: `allow` has no `who`; add `who: anyone`"),
        ("who: {}", "5:16 policy.who: `who` is empty; write `who: anyone` if anyone is meant"),
        (
            "who: everyone",
            "5:16 policy.who: `everyone` says not who; write `anyone`, or what must be true of the caller: \
             `{id: …}`, `{labels: {key: value}}`",
        ),
        (
            "who: spiffe://a.b/c",
            "5:16 policy.who: `spiffe://a.b/c` says not who; write `who: {id: spiffe://a.b/c}`",
        ),
        (
            "who: {id: spiffe://a.b/c*}",
            "5:21 policy.spiffe-id: `spiffe://a.b/c*`: `*` stands for a whole segment and cannot be a part of one; \
             replace the whole segment by `*`",
        ),
        (
            "who: {id: spiffe://a.b}",
            "5:21 policy.spiffe-id: `spiffe://a.b`: the pattern has no path; write `trustDomain: …` for all of a \
             trust domain, or add a path",
        ),
        (
            "who: {labels: {env: yes}}",
            "5:31 resource.wrong-type: `env` must be text, and this is the boolean `yes`; put it in quotes: `\"yes\"`",
        ),
        (
            "who: {labels: {env: \"*\"}}",
            "5:31 policy.label-value: `env`: `*` is no value; write `exists` for any value, or `[\"*\"]` for a star",
        ),
        (
            "who: anyone, can: []",
            "5:29 policy.empty-list: `can` is empty; write what is meant, or leave the field out: then it asks nothing",
        ),
        (
            "who: anyone, methods: [GET]",
            "5:24 resource.unknown-field: `methods` is no field of `allow`; write `can: [GET]`",
        ),
        (
            "who: anyone, on: {path: v1}",
            "5:35 policy.path: `v1`: the path does not begin with `/`; begin it with `/`",
        ),
        (
            "who: anyone, on: {path: /a/%2e%2e/b}",
            "5:35 policy.path: `/a/%2e%2e/b`: the path has a segment `.` or `..`; ask for the path that is meant, \
             without `//`, `.` and `..`",
        ),
        (
            "who: anyone, on: {host: \"a.b:80\"}",
            "5:35 policy.host: `a.b:80`: this is no host: a name, an address, or `*.` and a name, without a port; \
             leave the port out: a host is the same at every port",
        ),
        (
            "who: anyone, when: {source: 10.0.0.1/8}",
            "5:39 policy.source: `10.0.0.1/8`: this is no network such as `10.0.0.0/8` or `2001:db8::/32`; write \
             `10.0.0.0/8`, or `10.0.0.1` for the one address",
        ),
        (
            "who: anyone, when: {aad: {t: \"x-{who.labels.t}\"}}",
            "5:40 policy.template: `x-{who.labels.t}`: this is no value and no template; write \
             `\"{who.labels.KEY}\"` and nothing beside it, or text without braces",
        ),
        (
            "who: anyone, when: {time: {from: 2027-02-30}}",
            "5:44 policy.time: `2027-02-30`: this is no date and no time; write it in UTC, as `2027-01-01` or \
             `2027-01-01T08:30:00Z`",
        ),
        (
            "who: anyone, when: {time: {from: 2027-01-02, until: 2027-01-02}}",
            "5:37 policy.time: the time ends before it begins; let `until` be later than `from`",
        ),
    ] {
        assert_eq!(told(&rule(clauses)), [expected], "{clauses}");
    }
}

#[test]
fn what_kinds_may_say() {
    let secret =
        |clauses: &str| format!("kind: SecretPolicy\nname: p\nrules:\n- name: r\n  allow: {{{clauses}}}\n");
    assert_eq!(told(&secret("who: anyone")), Vec::<String>::new());
    for clauses in [
        "who: {props: {a: b}}",
        "who: anyone, can: [unseal, GET]",
        "who: anyone, on: {path: /}",
        "who: anyone, when: {time: {until: 2027-01-01}}",
        "who: anyone, when: {same: [env]}",
        "who: anyone, except: {id: spiffe://a.b/c}",
    ] {
        assert_eq!(faults(&secret(clauses)).len(), 1, "{clauses}");
    }
    for field in ["mode: shadow", "appliesTo: {a: b}", "stale: {after: 1m, then: deny}"] {
        let text = format!("{}{field}\n", secret("who: anyone"));
        assert_eq!(faults(&text).len(), 1, "{field}");
    }
    let guardrail = "kind: Guardrail\nname: g\nrules:\n- {name: r, allow: {who: anyone}}\n";
    assert!(told(guardrail)[0].contains("a guardrail only denies"));
    let unknown = "kind: policy\nname: g\nrules: []\n";
    assert!(told(unknown)[0].contains("did you mean `Policy`?"), "{:?}", told(unknown));
    let version = format!("version: 2\n{}", rule("who: anyone"));
    assert!(told(&version)[0].contains("policy.version"));
}

#[test]
fn names_are_given_once() {
    let twice = "kind: Policy\nname: p\nrules:\n- {name: r, allow: {who: anyone}}\n- {name: r, deny: {who: anyone}}\n";
    assert!(told(twice)[0].starts_with("5:10 policy.rule-twice"), "{:?}", told(twice));
    let documents = format!("{}---\n{}", rule("who: anyone"), rule("who: anyone"));
    assert!(told(&documents)[0].contains("there are two policies `p`"));
    let both = "kind: Policy\nname: p\nrules:\n- {name: r, allow: {who: anyone}, deny: {who: anyone}}\n";
    assert!(told(both)[0].contains("this does both"));
}

#[test]
fn bombs_and_tricks_are_refused() {
    for (text, code) in [
        (rule("who: &a anyone"), "resource.anchor"),
        (rule("who: *a"), "resource.alias"),
        (rule("who: !!str anyone"), "resource.tag"),
        (rule("who: anyone, who: anyone"), "resource.field-twice"),
        ("a: [".repeat(40), "resource.syntax"),
        (format!("kind: Policy\nname: p\nrules: [{}]", "{}, ".repeat(10_001)), "policy.too-many-rules"),
        (rule(&format!("who: anyone, can: [{}]", "A, ".repeat(1_000))), "policy.long-list"),
        (rule(&format!("who: anyone, on: {{path: \"/{}\"}}", "a/".repeat(100))), "policy.path"),
        ("x".repeat(10 * 1024 * 1024), "resource.too-large"),
        ("- x\n".repeat(250_000), "resource.too-large"),
    ] {
        let found = faults(&text);
        let codes: Vec<&str> = found.iter().map(|fault| fault.code.as_str()).collect();
        assert!(codes.contains(&code), "{code}: {codes:?}");
    }
}
