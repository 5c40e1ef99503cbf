//! Sites, entries and rules as files: what is read, what is refused and how, and the way to an authority and back.

use std::{collections::BTreeMap, fs};

use bonafide_cli::resource::{self, print, source::Source};
use bonafide_wire::{
    admin::{Key, KeySettings, StringMap, StringSet, resource::Resource as Wire},
    types::{Registration, Scope, Selector, Site, registration::Kind},
};
use proptest::{prelude::*, sample::select, strategy::ValueTree as _, test_runner::TestRunner};

use crate::{
    golden::check_text,
    program::{bonafide, text},
    story::Dev,
};

fn read(text: &str) -> Result<Vec<Wire>, Vec<String>> {
    let source = Source { name: "x.yaml".into(), text: text.into() };
    match resource::read(&[source]) {
        Ok(resources) => Ok(resources.into_iter().map(|resource| resource.wire).collect()),
        Err(faults) => Err(faults
            .into_iter()
            .map(|fault| format!("{}:{} {}", fault.spot.line, fault.spot.column, fault.code))
            .collect()),
    }
}

const FAULTY: &str = "\
kind: Entri
name: web
spec: {}
---
kind: Entry
name: Web_1
labels: {team: 7}
metadata: {}
spec:
  site: edge
  spifeId: spiffe://example.org/web
  selectors:
  - unix.uid: 1000
  - unix.path:/usr/bin/web
  x509Ttl: 3600
  labels: {env: prod}
---
kind: Site
name: edge
spec:
  scope:
    spiffeIds: spiffe://example.org/edge/**
    maxX509Ttl: 1h
    maxX509Ttl: 2h
    signaturesPerSecond: many
    certifiedLabels: [env]
    admin: &all [edge]
---
kind: Rule
name: users
spec:
  site: edge
  template: spiffe://example.org/user/{unix.user
  selectors: []
  expiresAt: tomorrow
---
kind: [
---
kind: Entry
name: users
spec:
  site: edge
  spiffeId: spiffe://example.org/{unix.user}
  selectors: *all
";

#[test]
fn every_fault_is_told_with_its_place_and_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("faulty.yaml");
    fs::write(&file, FAULTY).unwrap();
    for command in ["apply", "diff"] {
        let output = bonafide(&[command, "-f", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(if command == "diff" { 2 } else { 1 }));
        assert_eq!(text(&output.stdout), "");
        let told = text(&output.stderr).replace(file.to_str().unwrap(), "faulty.yaml");
        check_text("error-resources.txt", &told);
    }
}

#[test]
fn help_says_how_it_ends() {
    for command in ["apply", "diff", "export"] {
        let output = bonafide(&[command, "--help"]);
        assert!(output.status.success());
        check_text(&format!("help-{command}.txt"), &text(&output.stdout));
    }
    let script = text(&bonafide(&["completion", "bash"]).stdout);
    for word in ["apply", "diff", "export", "--prune", "--dry-run"] {
        assert!(script.contains(word), "{word}");
    }
}

#[test]
fn attacks_by_file_are_faults() {
    let bomb = (1..20).fold("a0: &a0 [x, x]\n".to_owned(), |text, level| {
        format!("{text}a{level}: &a{level} [*a{0}, *a{0}, *a{0}]\n", level - 1)
    });
    let faults = read(&bomb).unwrap_err();
    assert!(faults.iter().any(|fault| fault.ends_with("resource.alias")), "{faults:?}");
    assert!(!read(&"[".repeat(100_000)).unwrap_err().is_empty());
    assert!(!read(&"- ".repeat(100_000)).unwrap_err().is_empty());
    let many = format!("kind: Entry\nname: web\nspec: [{}]\n", "x, ".repeat(250_000));
    assert!(read(&many).unwrap_err().iter().any(|fault| fault.ends_with("resource.too-large")));
    let wide = (0..50_000).map(|n| format!("f{n}: 1\n")).collect::<String>();
    assert!(read(&wide).unwrap_err().len() > 50_000);
    assert_eq!(
        read("kind: !!str Entry\nname: web\nspec: {}\n").unwrap_err()[0],
        "1:13 resource.tag",
        "tags are refused"
    );
    assert_eq!(read("# nothing\n---\n---\n").unwrap(), Vec::<Wire>::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("giant.yaml");
    fs::write(&file, vec![b'#'; 5 * 1024 * 1024]).unwrap();
    let output = bonafide(&["apply", "-f", file.to_str().unwrap()]);
    assert!(text(&output.stderr).starts_with("error[resource.too-large]"), "{}", text(&output.stderr));
}

#[test]
fn the_readmes_example_is_the_file_and_is_understood() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let example = fs::read_to_string(root.join("examples/edge.yaml")).unwrap();
    assert!(fs::read_to_string(root.join("README.md")).unwrap().contains(&example));
    assert_eq!(read(&example).unwrap().len(), 3);
}

#[test]
fn roots_that_admit_nodes_are_kept_and_nothing_else_is_taken_for_one() {
    let der = |byte: u8| [&[0x30, 0x82, 0x01, 0x00][..], &[byte; 256]].concat();
    let site = Wire::Site(Site {
        name: "edge".into(),
        x509pop_roots: [der(1), der(2)].map(Into::into).to_vec(),
        ..Site::default()
    });
    let printed = print::document(&site).unwrap();
    assert!(printed.contains("- |\n"), "{printed}");
    assert_eq!(read(&printed), Ok(vec![site]), "{printed}");
    let key = printed.replace("CERTIFICATE", "PRIVATE KEY");
    assert!(read(&key).unwrap_err().iter().all(|fault| fault.ends_with("resource.certificate")));
}

#[test]
fn the_same_name_twice_is_told_with_both_places() {
    let entry = |kind: &str, field: &str| {
        format!(
            "kind: {kind}\nname: web\nspec: {{site: edge, {field}: \"spiffe://example.org/x\", selectors: [\"a.b:c\"]}}\n"
        )
    };
    let sources = [
        ("a.yaml", entry("Entry", "spiffeId")),
        ("b.yaml", entry("Rule", "template").replace("/x", "/{a.b}")),
    ]
    .map(|(name, text)| Source { name: name.into(), text });
    let faults = resource::read(&sources).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].message, "`Entry/web` is described already, at a.yaml:2");
}

fn name() -> impl Strategy<Value = String> {
    let odd = select(vec!["null", "123", "1e3", "no"]).prop_map(ToOwned::to_owned);
    prop_oneof![6 => "[a-z][a-z0-9-]{0,10}[a-z]", 1 => odd]
}

/// Whatever a label may hold, above all what YAML reads as something else.
fn value() -> impl Strategy<Value = String> {
    let odd = [
        "true",
        "no",
        "~",
        "null",
        "0x1f",
        "1.10",
        "- a",
        "a: b",
        "a #b",
        "*a",
        "&a",
        "!t",
        "@",
        "`",
        "%x",
        "'",
        "\"",
        "{",
        "[",
        "|",
        ">",
        "? x",
        "12:30",
        ".inf",
        "=",
        "<<",
        "1_000",
        "é ü",
        "\u{202e}x",
        " x",
        "x ",
    ];
    prop_oneof![3 => "[a-zA-Z0-9 ._/-]{0,12}", 2 => select(odd.to_vec()).prop_map(ToOwned::to_owned), 1 => "\\PC{0,8}"]
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[a-zA-Z0-9._/-]{1,8}", value(), 0..3)
}

fn set(item: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set(item, 0..3).prop_map(|items| items.into_iter().collect())
}

fn ttl(max: u32) -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 10..=max]
}

fn selector_value() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9/.:=-]{1,12}", Just("a: b #c".into()), Just("'x' \"y\"".into())]
}

fn selectors() -> impl Strategy<Value = Vec<Selector>> {
    let pairs =
        prop::collection::btree_set((select(vec!["unix.uid", "unix.path", "x.y"]), selector_value()), 1..4);
    pairs.prop_map(|pairs| {
        // Printed as `key:value`, and sorted so.
        let mut all: Vec<Selector> =
            pairs.into_iter().map(|(key, value)| Selector { key: key.into(), value }).collect();
        all.sort_by_key(|one| format!("{}:{}", one.key, one.value));
        all
    })
}

fn site() -> impl Strategy<Value = Site> {
    let ids = set(select(vec!["spiffe://TD/a/*", "spiffe://TD/**", "spiffe://TD/b"]).prop_map(Into::into));
    let dns = set(select(vec!["*.example.org", "a.example.org"]).prop_map(Into::into));
    let pairs = prop::collection::btree_map("[a-z]{1,6}", value(), 0..3);
    let limits =
        (prop_oneof![Just(0), 60_u32..86_400], prop_oneof![Just(0), 60_u32..300], 0..3_u32, 0..3_u32);
    (name(), labels(), ids, dns, pairs, set(name()), limits, (ttl(60), ttl(60))).prop_map(
        |(name, management_labels, spiffe_ids, dns_names, pairs, admin, limits, ttls)| {
            let (max_x509_ttl, max_jwt_ttl, signatures_per_second, attestations_per_second) = limits;
            let mut labels: Vec<Selector> =
                pairs.into_iter().map(|(key, value)| Selector { key, value }).collect();
            labels.sort_by_key(|one| format!("{}={}", one.key, one.value));
            let scope = Scope {
                spiffe_ids,
                dns_names,
                labels,
                max_x509_ttl: if max_x509_ttl == 3600 { 0 } else { max_x509_ttl },
                max_jwt_ttl: if max_jwt_ttl == 300 { 0 } else { max_jwt_ttl },
                admin,
                signatures_per_second,
                attestations_per_second,
            };
            let default = |ttl: u32, max: u32| if ttl == max { 0 } else { ttl };
            Site {
                name,
                default_x509_ttl: default(ttls.0, scope.max_x509_ttl),
                default_jwt_ttl: default(ttls.1, scope.max_jwt_ttl),
                scope: Some(scope).filter(|scope| *scope != Scope::default()),
                management_labels,
                ..Site::default()
            }
        },
    )
}

fn registration() -> impl Strategy<Value = Registration> {
    let identity = prop_oneof![
        "[a-z]{1,8}".prop_map(|path| (Kind::Entry, format!("spiffe://TD/{path}"))),
        "[a-z]{1,8}".prop_map(|path| (Kind::Rule, format!("spiffe://TD/{path}/{{unix.user}}"))),
    ];
    let dns = set(select(vec!["a.example.org", "b.example.org"]).prop_map(Into::into));
    let hint = prop_oneof![Just(String::new()), value()];
    let expiry = prop_oneof![Just(0), 4_000_000_000_i64..5_000_000_000];
    let rest = (ttl(3600), ttl(60), dns, set(name()), hint, labels(), expiry, labels());
    (name(), identity, name(), selectors(), rest).prop_map(
        |(
            id,
            (kind, spiffe_id),
            site,
            selectors,
            (x509_ttl, jwt_ttl, dns_names, admin, hint, labels, expires_at, management_labels),
        )| {
            Registration {
                id,
                kind: kind.into(),
                site,
                spiffe_id,
                selectors,
                x509_ttl,
                jwt_ttl,
                dns_names,
                admin,
                hint,
                labels,
                expires_at,
                management_labels,
                ..Registration::default()
            }
        },
    )
}

fn key() -> impl Strategy<Value = Key> {
    let name = || "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,6}(/[a-zA-Z0-9_][a-zA-Z0-9._-]{0,6}){0,2}";
    let kind = select(vec!["aes256-gcm", "hmac-sha512", "ecdsa-p384", "rsa-2048", "ml-kem-768"]);
    let born = any::<(bool, bool, bool)>();
    let local = select(vec!["process", "agent", "never"]);
    let numbers = (ttl(7200), 1..90_u32, 1..400_u32, 1..u64::MAX, 1..u64::MAX);
    let rest = (labels(), set(name()), local, numbers, any::<bool>(), set("[a-z]{1,8}"), labels());
    (name(), kind, born, rest).prop_map(|(name, r#type, (exportable, convergent, external), rest)| {
        let (management_labels, aliases, local, numbers, audit_sync, sites, labels) = rest;
        let (rotation, max_stale, max_age, max_messages, max_bytes) = numbers;
        Key {
            name,
            r#type: r#type.into(),
            exportable,
            convergent,
            external,
            aliases,
            settings: Some(KeySettings {
                rotation: Some(rotation),
                local: Some(local.into()),
                max_stale: Some(max_stale),
                max_age: Some(max_age),
                max_messages: Some(max_messages),
                max_bytes: Some(max_bytes),
                audit_sync: Some(audit_sync),
                sites: Some(StringSet { values: sites }),
                labels: Some(StringMap { values: labels }),
                ..KeySettings::default()
            }),
            management_labels,
            ..Key::default()
        }
    })
}

fn wire() -> impl Strategy<Value = Wire> {
    prop_oneof![
        site().prop_map(Wire::Site),
        registration().prop_map(Wire::Registration),
        key().prop_map(Wire::Key),
    ]
}

/// The trust domain `TD` by its real name.
fn in_trust_domain(wire: Wire, trust_domain: &str) -> Wire {
    let real = |id: &String| id.replace("TD", trust_domain);
    match wire {
        Wire::Site(mut site) => {
            if let Some(scope) = &mut site.scope {
                scope.spiffe_ids = scope.spiffe_ids.iter().map(real).collect();
            }
            Wire::Site(site)
        }
        Wire::Registration(own) => {
            Wire::Registration(Registration { spiffe_id: real(&own.spiffe_id), ..own })
        }
        other @ (Wire::Policy(_) | Wire::Key(_)) => other,
    }
}

const KEYS: &str = "\
kind: Key
name: orders/pii
labels: {team: shop}
spec:
  type: aes256-gcm
  rotateEvery: 90d
  keyLabels:
    app: orders
---
kind: Key
name: release/web
labels: {team: shop}
spec:
  type: ecdsa-p256
  aliases: [release/current]
  local: never
";

#[test]
fn what_a_key_can_not_be_is_told_with_its_place() {
    let text = "\
kind: Key
name: /orders
spec:
  type: aes-gcm
  exportable: yes
  aliases: [a b]
  local: here
  leaseBytes: many
  rotateEvery: 90
  sites: [UP]
  labels: {app: x}
  minDecrypt: 3
";
    let codes = [
        "2:7 resource.name",
        "4:9 resource.value",
        "5:15 resource.wrong-type",
        "6:13 resource.name",
        "7:10 resource.value",
        "8:15 resource.wrong-type",
        "9:16 resource.wrong-type",
        "10:11 resource.site",
        "11:3 resource.unknown-field",
        "12:3 resource.unknown-field",
    ];
    assert_eq!(read(text).unwrap_err(), codes);
    assert_eq!(read("{kind: Key, name: a, spec: {}}").unwrap().len(), 1, "all of it has a default");
    assert_eq!(read("{kind: Entry, name: a/b, spec: {}}").unwrap_err()[0], "1:21 resource.name");
}

#[test]
fn keys_are_made_and_set_by_files_and_destroyed_by_nobody() {
    let dev = Dev::start();
    let file = dev.path("keys.yaml");
    let path = file.to_str().unwrap().to_owned();
    fs::write(&file, KEYS).unwrap();
    let rows = |arguments: &[&str]| {
        let rows = dev.json(arguments)["resources"].as_array().unwrap().clone();
        rows.iter()
            .map(|row| format!("{} {}", row["action"].as_str().unwrap(), row["resource"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        rows(&["apply", "-f", &path, "--dry-run"]),
        ["created Key/orders/pii", "created Key/release/web"]
    );
    assert_eq!(dev.ok(&["key", "list", "-q"]), "", "a dry run draws nothing");
    assert_eq!(rows(&["apply", "-f", &path]), ["created Key/orders/pii", "created Key/release/web"]);
    let before = dev.json(&["key", "show", "release/current"]);
    check_text("export-keys.yaml", &dev.ok(&["export", "key", "-l", "team=shop"]));
    assert_eq!(rows(&["apply", "-f", &path]), ["unchanged Key/orders/pii", "unchanged Key/release/web"]);

    // What is rotated by hand, and bounds of versions, are nobody's to describe.
    dev.ok(&["key", "rotate", "orders/pii"]);
    assert_eq!(dev.run(&["diff", "-f", &path]).status.code(), Some(0));
    let changed = KEYS.replace("90d", "30d").replace("[release/current]", "[release/next]");
    fs::write(&file, &changed).unwrap();
    assert_eq!(dev.run(&["diff", "-f", &path]).status.code(), Some(1));
    assert_eq!(rows(&["apply", "-f", &path]), ["changed Key/orders/pii", "changed Key/release/web"]);
    let after = dev.json(&["key", "show", "release/next"]);
    assert_eq!(
        (&after["id"], &after["versions"]),
        (&before["id"], &before["versions"]),
        "it is the same key"
    );

    // What it was born as stays; nothing is done then.
    fs::write(&file, changed.replace("ecdsa-p256", "rsa-2048").replace("30d", "10d")).unwrap();
    let refused = dev.run(&["apply", "-f", &path]);
    assert!(text(&refused.stderr).contains("error[kms.born-otherwise]"), "{}", text(&refused.stderr));
    // To leave one out is not to destroy it.
    let (one, _) = changed.split_once("---").unwrap();
    fs::write(&file, one).unwrap();
    let prune = ["apply", "-f", &path, "--prune", "-l", "team=shop", "--yes"];
    let refused = dev.run(&prune);
    assert!(text(&refused.stderr).contains("error[apply.prune-key]"), "{}", text(&refused.stderr));
    dev.ok(&["key", "destroy", "release/web"]);
    assert_eq!(rows(&prune), ["unchanged Key/orders/pii"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read_back_as_the_same(wire in wire()) {
        let wire = in_trust_domain(wire, "example.org");
        let text = print::document(&wire).unwrap();
        prop_assert_eq!(read(&text), Ok(vec![wire]), "{}", text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(kind: Entry\n|name: |spec:\n|  site: a\n|- |\\[|\\{|&a |\\*a|: |\t|\"|'|\\PC|\n){0,40}") {
        let _ = read(&text).map_err(|faults| faults.len());
    }
}

#[test]
fn an_authority_takes_back_what_it_exports_with_no_difference() {
    let dev = Dev::start();
    let own = dev.ok(&["export", "site"]);
    assert!(own.contains("kind: Site"), "{own}");
    let trust_domain = own.split("spiffe://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    // As many as are possible together: within the dev site, which has the whole trust domain and no more.
    let mut runner = TestRunner::deterministic();
    let mut described = BTreeMap::new();
    for _ in 0..60 {
        let own = registration().new_tree(&mut runner).unwrap().current();
        let own = Registration {
            site: "local".into(),
            dns_names: Vec::new(),
            admin: Vec::new(),
            labels: BTreeMap::new(),
            ..own
        };
        let valid =
            own.management_labels.values().chain([&own.hint]).all(|v| !v.chars().any(char::is_control));
        if valid {
            described.insert(own.id.clone(), in_trust_domain(Wire::Registration(own), &trust_domain));
        }
    }
    assert!(described.len() > 20);
    let file = dev.path("all.yaml");
    fs::write(&file, print::documents(described.values()).unwrap()).unwrap();
    let file = file.to_str().unwrap();

    assert_eq!(dev.run(&["diff", "-f", file]).status.code(), Some(1));
    let dry = dev.json(&["apply", "-f", file, "--dry-run"]);
    assert!(!dry["done"].as_bool().unwrap());
    let done = dev.json(&["apply", "-f", file, "--wait"]);
    assert_eq!(done["resources"], dry["resources"], "a dry run shows what is done");
    assert!(done["done"].as_bool().unwrap());

    let exported = dev.path("exported.yaml");
    fs::write(&exported, dev.ok(&["export"])).unwrap();
    let exported = exported.to_str().unwrap();
    let diff = dev.run(&["diff", "-f", exported]);
    assert_eq!((diff.status.code(), text(&diff.stdout).as_str()), (Some(0), ""));
    let again = dev.json(&["apply", "-f", exported]);
    let rows = again["resources"].as_array().unwrap();
    assert!(rows.len() > described.len() && rows.iter().all(|row| row["action"] == "unchanged"), "{again}");

    // Pruning: by label, told before, and only with a yes.
    let entry = |name: &str| {
        format!(
            "kind: Entry\nname: {name}\nlabels: {{team: prune}}\nspec:\n  site: local\n  spiffeId: \
             spiffe://{trust_domain}/{name}\n  selectors: [\"unix.uid:4242\"]\n"
        )
    };
    let file = dev.path("team.yaml");
    let write = |names: &[&str]| {
        fs::write(&file, names.iter().map(|name| entry(name)).collect::<Vec<_>>().join("---\n")).unwrap()
    };
    write(&["keep", "drop"]);
    let file = file.to_str().unwrap();
    dev.ok(&["apply", "-f", file]);
    write(&["keep"]);
    let refused = dev.run(&["apply", "-f", file, "--prune", "-l", "team=prune"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr)
            .starts_with("would delete 1 resource:\n  Entry/drop\nerror[apply.not-confirmed]")
    );
    let diff = dev.run(&["diff", "-f", file, "--prune", "-l", "team=prune"]);
    assert!(text(&diff.stdout).contains("+++ Entry/drop (pruned)\n@@ -1,"), "{}", text(&diff.stdout));
    assert_eq!(dev.ok(&["apply", "-f", file, "--prune", "-l", "team=prune", "--yes", "-q"]), "Entry/drop\n");
    assert_eq!(
        dev.ok(&["export", "entry", "-l", "team=prune"]),
        entry("keep")
            .replace(" {team: prune}", "\n  team: prune")
            .replace("selectors: [\"unix.uid:4242\"]", "selectors:\n  - unix.uid:4242")
    );

    // A refusal is told where the resource stands, and nothing is written.
    fs::write(file, entry("keep").replace(&format!("spiffe://{trust_domain}"), "spiffe://elsewhere.example"))
        .unwrap();
    let refused = dev.run(&["apply", "-f", file]);
    assert_eq!(refused.status.code(), Some(1));
    let told = text(&refused.stderr);
    assert!(told.starts_with("error[scope.trust-domain]: Entry/keep: "), "{told}");
    assert!(told.contains("team.yaml:2:7\n") && told.contains("error[apply.refused]"), "{told}");
    assert_eq!(dev.run(&["diff", "-f", file]).status.code(), Some(2));
    dev.stop();
}
