use bonafide_identity::SpiffeId;
use bonafide_policy::{
    Caller, CertifiedLabels, SecretPolicy,
    model::{Effect, Evidence},
    read,
    request::{FactsFault, Request},
    secret::{DenialReason, MAX_BYTES, Measured, SecretPolicyFault, Selectors},
    snapshot::Snapshot,
};
use proptest::prelude::*;

use crate::generate::Generator;

const RULES: &str = "rules:\n\
    - name: billing\n  allow: {who: {id: spiffe://prod.acme/ns/billing/sa/*, labels: {env: prod, tier: [a, b]}}}\n\
    - name: not-edge\n  deny: {who: {labels: {site-type: edge}}}\n";
const WITNESS: &str = "evidence: witness\nwitness:\n  node: {x509pop.site: eu-1}\n  \
    workload: {k8s.ns: billing, unix.sha256: ['aa', 'bb']}\n";

fn policy(fields: &str) -> SecretPolicy {
    let text = format!("kind: SecretPolicy\nname: db\n{fields}");
    let documents = read(&text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"));
    SecretPolicy::of(&documents[0]).unwrap()
}

fn faults(fields: &str) -> Vec<String> {
    let text = format!("kind: SecretPolicy\nname: db\n{fields}{RULES}");
    read(&text).unwrap_err().iter().map(|fault| fault.code.clone()).collect()
}

fn caller(id: &str, labels: &[(&str, &str)]) -> Caller {
    let labels = CertifiedLabels::new(labels.iter().copied()).unwrap();
    Caller::new(SpiffeId::parse(id).unwrap(), labels)
}

fn billing() -> Caller {
    caller("spiffe://prod.acme/ns/billing/sa/api", &[("env", "prod"), ("tier", "b")])
}

fn measured(node: &[(&str, &str)], workload: &[(&str, &str)]) -> Measured {
    let selectors = |all: &[(&str, &str)]| Selectors::new(all.iter().copied()).unwrap();
    Measured { node: selectors(node), workload: selectors(workload) }
}

#[test]
fn its_bytes_are_all_that_it_is() {
    let own = policy(&format!("cacheFor: 10m\n{WITNESS}{RULES}"));
    assert_eq!(
        own.as_str(),
        "{\"kind\":\"SecretPolicy\",\"version\":1,\"name\":\"db\",\"cacheFor\":\"10m\",\"evidence\":\"witness\",\
         \"witness\":{\"node\":{\"x509pop.site\":[\"eu-1\"]},\"workload\":{\"k8s.ns\":[\"billing\"],\
         \"unix.sha256\":[\"aa\",\"bb\"]}},\"rules\":[{\"name\":\"billing\",\"allow\":{\"who\":{\
         \"id\":[\"spiffe://prod.acme/ns/billing/sa/*\"],\"labels\":{\"env\":[\"prod\"],\"tier\":[\"a\",\"b\"]}},\
         \"can\":[\"unseal\"]}},{\"name\":\"not-edge\",\"deny\":{\"who\":{\"labels\":{\"site-type\":[\"edge\"]}},\
         \"can\":[\"unseal\"]}}]}"
    );
    let again = SecretPolicy::parse(own.as_bytes()).unwrap();
    assert_eq!(again, own);
    assert_eq!((again.cache_ttl(), again.name()), (600, "db"));
    assert!(matches!(again.evidence(), Evidence::Witness(_)));
    assert_eq!(policy(RULES).cache_ttl(), 0);
    assert_eq!(policy(RULES).evidence(), &Evidence::Authority);
    // What a person adds for others changes no byte; what is said does.
    let noted = policy(&format!("labels: {{team: a}}\n# hello\n{RULES}tests: []\n"));
    assert_eq!(noted.as_bytes(), policy(RULES).as_bytes());
    assert_ne!(
        policy(&format!("evidence: authority\ncacheFor: 1s\n{RULES}")).digest(),
        policy(RULES).digest()
    );
}

#[test]
fn bytes_with_another_meaning_or_another_form_are_refused() {
    let own = policy(RULES).as_str().to_owned();
    let refused = |text: &str| SecretPolicy::parse(text.as_bytes()).unwrap_err();
    for (from, to, fault) in [
        ("\"version\":1", "\"version\":2", SecretPolicyFault::Version),
        ("\"version\":1,", "", SecretPolicyFault::NotCanonical),
        ("\"version\":1", "\"version\": 1", SecretPolicyFault::NotCanonical),
        ("\"name\":\"db\"", "\"name\":\"db\",\"name\":\"db\"", SecretPolicyFault::NotCanonical),
        ("\"name\":\"db\"", "\"name\":\"db\",\"mode\":\"shadow\"", SecretPolicyFault::Malformed),
        ("\"name\":\"db\"", "\"name\":\"db\",\"labels\":{\"a\":\"b\"}", SecretPolicyFault::NotCanonical),
        ("\"name\":\"db\"", "\"name\":\"\\u0064b\"", SecretPolicyFault::NotCanonical),
        ("\"evidence\":\"authority\",", "", SecretPolicyFault::NotCanonical),
        ("\"evidence\":\"authority\"", "\"evidence\":\"nobody\"", SecretPolicyFault::Malformed),
        ("\"evidence\":\"authority\"", "\"evidence\":\"witness\"", SecretPolicyFault::Malformed),
        ("[\"prod\"]", "\"prod\"", SecretPolicyFault::NotCanonical),
        ("[\"prod\"]", "[\"prod\",\"prod\"]", SecretPolicyFault::NotCanonical),
        ("[\"a\",\"b\"]", "[\"b\",\"a\"]", SecretPolicyFault::NotCanonical),
        ("[\"a\",\"b\"]", "{\"not\":[]}", SecretPolicyFault::Malformed),
        ("\"can\":[\"unseal\"]", "\"can\":[\"unseal\"],\"when\":{}", SecretPolicyFault::Malformed),
        ("SecretPolicy", "Policy", SecretPolicyFault::Malformed),
        ("\"kind\":\"SecretPolicy\",", "", SecretPolicyFault::Malformed),
    ] {
        let text = own.replacen(from, to, 1);
        assert_ne!(text, own, "{from}");
        let told = refused(&text);
        // A field that is given twice is seen by the tree, or by comparing.
        let is_twice = to.contains("\"name\":\"db\",\"name\"") && told == SecretPolicyFault::Malformed;
        assert!(told == fault || is_twice, "{text}: {told:?}");
    }
    for (text, fault) in [
        (String::new(), SecretPolicyFault::Malformed),
        (format!("{own}\n"), SecretPolicyFault::NotCanonical),
        (format!("{own}{own}"), SecretPolicyFault::Malformed),
        ("[".repeat(MAX_BYTES), SecretPolicyFault::Malformed),
        (" ".repeat(MAX_BYTES + 1), SecretPolicyFault::TooLong),
        (format!("kind: SecretPolicy\nname: db\n{RULES}"), SecretPolicyFault::Malformed),
    ] {
        assert_eq!(refused(&text), fault, "{text}");
    }
    assert_eq!(SecretPolicy::parse(&[0xff, 0xfe]), Err(SecretPolicyFault::Malformed));
    let other = read("kind: Policy\nname: p\nrules:\n- {name: r, allow: {who: anyone}}\n").unwrap();
    assert_eq!(SecretPolicy::of(&other[0]), Err(SecretPolicyFault::Kind));
    assert_eq!(refused(&other[0].canonical()), SecretPolicyFault::Kind);
    let ids: Vec<String> =
        (0..300).map(|n| format!("spiffe://a.b/a-rather-long-path-of-a-workload/{n}")).collect();
    let rule =
        |n: usize, ids: &[String]| format!("- name: r{n}\n  allow: {{who: {{id: [{}]}}}}\n", ids.join(", "));
    let long =
        format!("kind: SecretPolicy\nname: db\nrules:\n{}{}", rule(0, &ids[..150]), rule(1, &ids[150..]));
    assert_eq!(SecretPolicy::of(&read(&long).unwrap()[0]), Err(SecretPolicyFault::TooLong));
}

#[test]
fn a_witness_is_said_with_what_it_must_have_measured() {
    for fields in [
        "evidence: witness\n",
        "evidence: witness\nwitness: {node: {x509pop.site: a}}\n",
        "witness: {workload: {k8s.ns: a}}\n",
        "evidence: authority\nwitness: {workload: {k8s.ns: a}}\n",
    ] {
        assert_eq!(faults(fields), ["policy.secret-witness"], "{fields}");
    }
    for selectors in ["{ns: a}", "{K8s.ns: a}", "{k8s.ns: ''}", "{k8s.ns: {not: [a]}}"] {
        let fields = format!("evidence: witness\nwitness: {{workload: {selectors}}}\n");
        assert!(
            faults(&fields).contains(&"policy.selector".to_owned()),
            "{selectors}: {:?}",
            faults(&fields)
        );
    }
    let text = "kind: Policy\nname: p\nevidence: witness\nrules:\n- {name: r, allow: {who: anyone}}\n";
    assert_eq!(read(text).unwrap_err()[0].code, "resource.unknown-field");
}

#[test]
fn a_refused_caller_learns_what_is_missing() {
    let own = policy(RULES);
    assert_eq!(own.decide(&billing(), None), Ok("billing"));
    let other = caller("spiffe://prod.acme/ns/billing/sa/api", &[("env", "dev"), ("tier", "a")]);
    let denial = own.decide(&other, None).unwrap_err();
    assert_eq!((denial.reason, denial.reason.code()), (DenialReason::NoRule, "policy.denied"));
    assert_eq!(denial.near_misses[0].to_string(), "billing: label env prod required, got dev");
    let stranger = caller("spiffe://prod.acme/ns/web/sa/api", &[("env", "\u{1b}[31m")]);
    assert_eq!(
        own.decide(&stranger, None).unwrap_err().near_misses[0].to_string(),
        "billing: spiffe://prod.acme/ns/billing/sa/* required, got spiffe://prod.acme/ns/web/sa/api; \
         label env prod required, got \\u{1b}[31m; label tier a or b required, got nothing"
    );
    let edge = [("env", "prod"), ("tier", "b"), ("site-type", "edge")];
    let edge = caller("spiffe://prod.acme/ns/billing/sa/api", &edge);
    assert_eq!(own.decide(&edge, None).unwrap_err().reason, DenialReason::Rule("not-edge"));
}

#[test]
fn the_word_of_an_authority_does_not_stand_for_that_of_a_node() {
    let own = policy(&format!("{WITNESS}{RULES}"));
    let node = [("x509pop.site", "eu-1")];
    let right = [("k8s.ns", "billing"), ("unix.sha256", "bb"), ("unix.uid", "7")];
    assert_eq!(own.decide(&billing(), Some(&measured(&node, &right))), Ok("billing"));
    // The authority has registered a pod of the attacker's under the right ID.
    let denial = own.decide(&billing(), None).unwrap_err();
    assert_eq!(denial.reason, DenialReason::NoWitness);
    let measured_attacker = measured(&node, &[("k8s.ns", "attacker"), ("unix.sha256", "bb")]);
    let denial = own.decide(&billing(), Some(&measured_attacker)).unwrap_err();
    assert_eq!(denial.reason, DenialReason::Witness);
    assert_eq!(denial.near_misses[0].to_string(), "witness: workload k8s.ns billing required, got attacker");
    // What the node says of the workload is not what its certificate says of the node, nor the other way round.
    let swapped = measured(&right, &node);
    assert_eq!(own.decide(&billing(), Some(&swapped)).unwrap_err().near_misses[0].missing.len(), 3);
    // And no measurement makes up for a rule.
    let other = caller("spiffe://prod.acme/ns/web/sa/api", &[]);
    assert_eq!(own.decide(&other, Some(&measured(&node, &right))).unwrap_err().reason, DenialReason::NoRule);
}

#[test]
fn selectors_are_bounded() {
    let many = |count: usize| Selectors::new((0..count).map(|n| (format!("unix.gid{n}"), "1")));
    assert!(many(128).is_ok());
    assert_eq!(many(129), Err(FactsFault::TooMany));
    assert_eq!(Selectors::new([("uid", "1")]), Err(FactsFault::Key));
    assert_eq!(Selectors::new([("unix.uid", "")]), Err(FactsFault::Value));
    assert_eq!(Selectors::new([("unix.uid", "1\n")]), Err(FactsFault::Value));
}

/// What is decided here is what the compiled index decides.
#[test]
fn it_decides_as_the_rest_of_the_language() {
    let mut both = [0, 0];
    for seed in 0..400 {
        let mut generator = Generator::new(seed);
        let text = generator.secret_policy();
        let documents = read(&text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"));
        let own = SecretPolicy::of(&documents[0]).unwrap();
        assert_eq!(SecretPolicy::parse(own.as_bytes()).as_ref(), Ok(&own), "{text}");
        let snapshot = Snapshot::compile([own.policy().clone()], &CertifiedLabels::none(), 1, seed).unwrap();
        for _ in 0..20 {
            let scenario = generator.scenario(&CertifiedLabels::none());
            let request = Request::new(&scenario.who, "unseal", scenario.now);
            let expected = snapshot.decide(&request).effect == Effect::Allow;
            assert_eq!(own.decide(&scenario.who, None).is_ok(), expected, "{text}\n{scenario:?}");
            both[usize::from(expected)] += 1;
        }
    }
    assert!(both.iter().all(|count| *count > 500), "{both:?}");
}

proptest! {
    #[test]
    fn whatever_is_read_is_its_own_canonical_form(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(policy) = SecretPolicy::parse(&bytes) {
            prop_assert_eq!(policy.as_bytes(), &bytes[..]);
        }
    }

    /// No byte of a policy can be changed without changing its meaning, or making it none.
    #[test]
    fn a_changed_byte_is_another_policy_or_none(at in 0_usize..400, to in any::<u8>()) {
        let own = policy(&format!("{WITNESS}{RULES}"));
        let mut bytes = own.as_bytes().to_vec();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        if let Ok(other) = SecretPolicy::parse(&bytes) {
            prop_assert_ne!(other.policy(), own.policy());
            prop_assert_ne!(other.digest(), own.digest());
        }
    }
}
