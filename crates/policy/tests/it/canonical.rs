use bonafide_policy::{Body, Document, print, read, read_canonical};
use proptest::prelude::*;

use crate::generate::Generator;

fn read_one(text: &str) -> Document {
    let mut documents = read(text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"));
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

#[test]
fn the_bytes_that_secrets_are_sealed_to() {
    let text = "# a comment\nkind: SecretPolicy\nname: db-password\nlabels: {team: billing}\ncacheFor: 10m\nrules:\n\
        - name: not-edge\n  deny: { who: { labels: { site-type: edge } } }\n\
        - name: billing-prod\n  allow:\n    can: [unseal]\n    who:\n      labels: { env: prod, compliance: [pci] }\n      \
        id: SPIFFE://Prod.acme/ns/billing/sa/*\n\
        tests:\n- { who: spiffe://prod.acme/ns/web, expect: deny }\n";
    let document = read_one(text);
    assert_eq!(
        document.canonical(),
        "{\"kind\":\"SecretPolicy\",\"version\":1,\"name\":\"db-password\",\"cacheFor\":\"10m\",\"evidence\":\"authority\",\"rules\":[\
         {\"name\":\"billing-prod\",\"allow\":{\"who\":{\"id\":[\"spiffe://prod.acme/ns/billing/sa/*\"],\
         \"labels\":{\"compliance\":[\"pci\"],\"env\":[\"prod\"]}},\"can\":[\"unseal\"]}},\
         {\"name\":\"not-edge\",\"deny\":{\"who\":{\"labels\":{\"site-type\":[\"edge\"]}},\"can\":[\"unseal\"]}}]}"
    );
    // As anybody computes it from those bytes.
    assert_eq!(
        document.digest().to_string(),
        "sha256:0e6a59bc01d62cd8ed42fcbb5ed01d19b99030f7b92015fd130c70e3add2625b"
    );
}

#[test]
fn order_comments_labels_and_tests_do_not_count() {
    let one = "kind: Policy\nname: p\nrules:\n- name: a\n  allow: {who: {id: [spiffe://x.y/a, spiffe://x.y/b]}, can: [B, A]}\n- name: b\n  deny: {who: anyone, on: {path: [/b, /a/]}}\n";
    let other = "name: p # the same\nlabels: {x: y}\nrules:\n- deny: {on: {path: [/a, /b, /%61]}, who: anyone}\n  name: b\n- {name: a, allow: {can: [A, B, A], who: {id: [spiffe://X.y/b, spiffe://x.y/a]}}}\nkind: Policy\nmode: enforce\ntests: [{who: 'spiffe://x.y/a', can: A, expect: allow}]\n";
    let third = one.replace("[B, A]", "[B]");
    assert_eq!(read_one(one).digest(), read_one(other).digest());
    assert_ne!(read_one(one).digest(), read_one(&third).digest());
}

fn check(document: &Document) {
    assert!(document.reads_back());
    let canonical = document.canonical();
    let again = read_one(&canonical);
    assert_eq!(again.body(), document.body(), "{canonical}");
    assert_eq!(again.canonical(), canonical);
    assert_eq!(read_canonical(&canonical).unwrap().body(), document.body(), "{canonical}");
    let printed = print::document(document);
    let again = read_one(&printed);
    assert_eq!(again.body(), document.body(), "{printed}");
    assert_eq!(again.labels(), document.labels(), "{printed}");
    assert_eq!(again.tests(), document.tests(), "{printed}");
}

/// A printed and a canonical document mean the same as the one that was read.
#[test]
fn random_documents_read_back() {
    for seed in 0..300 {
        let text = Generator::new(seed).documents(12);
        let documents = read(&text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"));
        documents.iter().for_each(check);
        let bodies: Vec<&Body> = documents.iter().map(Document::body).collect();
        let again = read(&print::documents(&documents)).unwrap();
        assert_eq!(again.iter().map(Document::body).collect::<Vec<_>>(), bodies);
    }
}

/// The quick reader of canonical texts understands the other one's texts as it does, and no others.
#[test]
fn one_changed_byte_is_read_alike() {
    let mut generator = Generator::new(11);
    let mut accepted = 0;
    for _ in 0..40 {
        for document in read(&generator.documents(4)).unwrap() {
            let canonical = document.canonical();
            for _ in 0..20 {
                let mut text = canonical.clone().into_bytes();
                let at = generator.below(text.len());
                text[at] = b" \"\\{}[],:0aZ~*-#\n"[generator.below(17)];
                let Ok(text) = String::from_utf8(text) else { continue };
                let body = |document: &Document| document.body().clone();
                let slow = read(&text).ok().and_then(|documents| <[_; 1]>::try_from(documents).ok());
                let slow = slow.map(|[document]| body(&document));
                accepted += usize::from(slow.is_some());
                assert_eq!(read_canonical(&text).as_ref().map(body), slow, "{text}");
            }
        }
    }
    assert!(accepted > 50, "{accepted}");
}

/// The canonical form of these is longer than they are, so that another reader would refuse it.
#[test]
fn what_would_not_read_back_is_not_read() {
    let refused = |text: &str, line: usize, code: &str| {
        let faults = read(text).unwrap_err();
        let told: Vec<_> = faults.iter().map(|fault| (fault.spot.line, fault.code.as_str())).collect();
        assert_eq!(told, [(line, code)], "{text:.80}");
    };
    let path = |path: &str| {
        format!(
            "kind: Policy\nname: p\nrules:\n- name: r\n  deny: {{who: anyone, on: {{path: \"/{path}\"}}}}\n"
        )
    };
    refused(&path(&" ".repeat(2_000)), 5, "policy.path");
    refused(&path(&format!("%2A{}", " ".repeat(1_400))), 5, "policy.path");
    check(&read_one(&path(&" ".repeat(1_365))));
    // Each of these is short enough, all of them are not.
    let rule = |number: usize| {
        let spaces = " ".repeat(1_300);
        format!("- {{name: r{number}, deny: {{who: anyone, on: {{path: \"/{spaces}\"}}}}}}\n")
    };
    let rules: String = (0..300).map(rule).collect();
    let text = format!("kind: Policy\nname: p\nrules:\n{rules}");
    assert!(text.len() < 1024 * 1024);
    refused(&text, 2, "policy.canonical");
    // Of each newline, six bytes.
    let program = |bytes: usize| {
        let rego = "x\\n".repeat(bytes / 2);
        format!("kind: RegoPolicy\nname: p\nentrypoint: data.a.b\nrego: \"{rego}\"\n")
    };
    refused(&program(200_000), 4, "policy.rego-too-large");
    check(&read_one(&program(64 * 1024)));
}

proptest! {
    /// Whatever stands in a value, JSON and YAML read the same.
    #[test]
    fn values_read_back(value in "\\PC{0,30}|[\u{200e}\u{feff}\u{2028}\"\\\\ :#{}\\[\\]]{0,12}", rego in "[ a-z\n\t\"é]{0,30}\n?") {
        let quoted = serde_json::to_string(&value).unwrap();
        if serde_json::from_str::<String>(&quoted).is_ok() {
            let text = format!("kind: Policy\nname: p\nrules: [{{name: a, allow: {{who: {{labels: {{k: [{quoted}]}}}}}}}}]");
            if let Ok(documents) = read(&text) {
                documents.iter().for_each(check);
                let json: serde_json::Value = serde_json::from_str(&documents[0].canonical()).unwrap();
                prop_assert_eq!(&json["rules"][0]["allow"]["who"]["labels"]["k"][0], &serde_json::Value::from(value));
            }
        }
        let text = format!("kind: RegoPolicy\nname: p\nentrypoint: data.a.b\nrego: {}", serde_json::to_string(&rego).unwrap());
        if let Ok(documents) = read(&text) {
            documents.iter().for_each(check);
        }
    }
}
