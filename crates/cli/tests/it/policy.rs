//! `policy …`: what policies mean, from their files alone.

use std::{fs, path::Path};

use crate::{
    golden::check_text,
    program::{bonafide, text},
};

const LEDGER: &str = "\
kind: Policy
name: ledger
appliesTo: {app: ledger}
rules:
- name: readers
  allow: {who: {labels: {tier: [web, api]}}, can: [GET], on: {path: /v1/**}}
- name: web-readers
  allow: {who: {labels: {tier: web}}, can: [GET], on: {path: /v1/items}}
- name: everybody
  allow: {who: anyone, can: [GET], on: {path: /health}}
- name: never
  allow: {who: {id: spiffe://prod.acme/ns/shop/**, trustDomain: dev.acme}}
- name: closed
  deny: {who: anyone, on: {path: /v1/closed/**}}
- name: old
  allow: {who: {labels: {tier: batch}}, can: [GET], on: {path: /v1/closed/reports}}
tests:
- {who: spiffe://prod.acme/web, labels: {tier: web}, can: GET, on: /v1/items, expect: allow, by: readers}
- {who: spiffe://prod.acme/web, labels: {tier: web}, can: GET, on: /v1/closed/a, expect: deny, by: closed}
";

const DRAFT: &str = "\
kind: Policy
name: ledger
appliesTo: {app: ledger}
rules:
- name: readers
  allow: {who: {labels: {tier: web}}, can: [GET, HEAD], on: {path: /v1/**}}
- name: closed
  deny: {who: anyone, on: {path: /v1/closed/**}}
tests:
- {who: spiffe://prod.acme/web, labels: {tier: web}, can: GET, on: /v1/items, expect: allow, by: closed}
";

const LOG: &str = "\
{\"decision_id\":\"d1\",\"timestamp\":\"2026-11-20T10:00:00Z\",\"input\":{\"bonafide\":{\"who\":{\"id\":\"spiffe://prod.acme/api\",\"labels\":{\"tier\":\"api\"}},\"can\":\"GET\",\"on\":{\"path\":\"/v1/items\"},\"callee\":{\"labels\":{\"app\":\"ledger\"}}}},\"result\":{\"decision\":\"allow\",\"by\":\"ledger/readers\"}}
{\"decision_id\":\"d2\",\"input\":{\"bonafide\":{\"who\":{\"id\":\"spiffe://prod.acme/web\",\"labels\":{\"tier\":\"web\"}},\"can\":\"GET\",\"on\":{\"path\":\"/v1/items\"},\"callee\":{\"labels\":{\"app\":\"ledger\"}}}},\"result\":true}
{\"decision_id\":\"d3\",\"input\":{},\"erased\":[\"/input/attributes\"],\"result\":true}
";

const VOCABULARY: &str = "\
labels: {app: [ledger], tier: [web, api]}
trustDomains: [prod.acme]
actions: [GET, HEAD]
workloads: [{app: ledger}]
";

/// Files, and what the program says of them, with plain names in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, content) in
            [("ledger.yaml", LEDGER), ("draft.yaml", DRAFT), ("log.json", LOG), ("names.yaml", VOCABULARY)]
        {
            folder.write(name, content);
        }
        folder
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.0.path().join(name), content).unwrap();
    }

    /// Arguments with a dot are names of files.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let path = |name: &&str| {
            let path = self.0.path().join(name);
            if path.exists() || name.ends_with(".xml") {
                path.display().to_string()
            } else {
                (*name).to_owned()
            }
        };
        let arguments: Vec<String> = arguments.iter().map(path).collect();
        let output = bonafide(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let plain = |bytes: &[u8]| text(bytes).replace(&format!("{}/", self.0.path().display()), "");
        (output.status.code().unwrap(), plain(&output.stdout), plain(&output.stderr))
    }

    /// The exit code, with the output compared.
    fn check(&self, golden: &str, arguments: &[&str]) -> i32 {
        let (code, out, err) = self.run(arguments);
        assert_eq!(err, "", "{arguments:?}");
        check_text(golden, &out);
        code
    }
}

#[test]
fn what_is_found_is_shown_with_a_request() {
    let folder = Folder::new();
    assert_eq!(folder.check("policy-check.txt", &["policy", "check", "ledger.yaml"]), 1);
    let json = ["policy", "check", "ledger.yaml", "--no-notes", "--vocabulary", "names.yaml", "-o", "json"];
    assert_eq!(folder.check("policy-check.json", &json), 1);
    let (code, out, _) = folder.run(&["policy", "check", "draft.yaml"]);
    assert_eq!(code, 0, "{out}");
}

#[test]
fn an_edit_is_shown_by_who_gains_and_who_loses() {
    let folder = Folder::new();
    assert_eq!(folder.check("policy-diff.txt", &["policy", "diff", "ledger.yaml", "draft.yaml"]), 1);
    assert_eq!(folder.check("policy-diff.quiet", &["policy", "diff", "ledger.yaml", "draft.yaml", "-q"]), 1);
    let (code, out, _) = folder.run(&["policy", "diff", "ledger.yaml", "ledger.yaml"]);
    assert_eq!((code, out.as_str()), (0, "0 gained, 0 lost\n"));
}

#[test]
fn tests_are_run_and_counted() {
    let folder = Folder::new();
    assert_eq!(folder.check("policy-test.txt", &["policy", "test", "draft.yaml", "--junit", "junit.xml"]), 1);
    check_text(
        "policy-test.xml",
        &fs::read_to_string(folder.0.path().join("junit.xml"))
            .unwrap()
            .replace(&format!("{}/", folder.0.path().display()), ""),
    );
    let (code, out, _) = folder.run(&["policy", "test", "ledger.yaml"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.ends_with("2 passed, 0 failed; 3 of 6 rules reached\n"), "{out}");
    let (code, out, _) = folder.run(&["policy", "test", "ledger.yaml", "--mutate"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("not missed: without `ledger/web-readers` all tests pass"), "{out}");
    assert_eq!(folder.run(&["policy", "test", "ledger.yaml", "--all-rules"]).0, 1);
}

#[test]
fn a_log_is_decided_again() {
    let folder = Folder::new();
    assert_eq!(
        folder.check("policy-replay.txt", &["policy", "replay", "--log", "log.json", "draft.yaml"]),
        1
    );
    let (code, _, _) = folder.run(&["policy", "replay", "--log", "log.json", "ledger.yaml"]);
    assert_eq!(code, 0);
}

#[test]
fn a_request_on_the_command_line_is_explained() {
    let folder = Folder::new();
    let ask = |can: &'static str, path: &'static str| {
        [
            "policy",
            "explain",
            "ledger.yaml",
            "--who",
            "spiffe://prod.acme/web",
            "--label",
            "tier=web",
            "--can",
            can,
        ]
        .into_iter()
        .chain(["--path", path, "--callee", "app=ledger"])
        .collect::<Vec<_>>()
    };
    assert_eq!(folder.check("policy-explain-allow.txt", &ask("GET", "/v1/items")), 0);
    assert_eq!(folder.check("policy-explain-deny.txt", &ask("POST", "/v1/items")), 1);
    let json: Vec<&str> = ask("POST", "/v1/items").into_iter().chain(["-o", "json"]).collect();
    assert_eq!(folder.check("policy-explain-deny.json", &json), 1);
    let (code, out, _) = folder.run(&ask("GET", "/v1/../items"));
    assert_eq!(code, 1);
    assert!(out.starts_with("deny: the path has a segment `.` or `..`\n"), "{out}");
}

#[test]
fn policies_are_printed_in_other_languages() {
    let folder = Folder::new();
    assert_eq!(folder.check("policy-export.rego", &["policy", "export", "--to", "rego", "draft.yaml"]), 0);
    let (code, out, _) = folder.run(&["policy", "export", "--to", "cedar", "draft.yaml"]);
    assert_eq!(code, 0);
    assert!(out.contains("@id(\"ledger/closed\")"), "{out}");
}

#[test]
fn what_can_not_be_told_has_an_exit_code_of_its_own() {
    let folder = Folder::new();
    folder.write("faulty.yaml", "kind: Policy\nname: ledger\nrules:\n- name: r\n  alow: {who: anyone}\n");
    folder.write("site.yaml", "kind: Site\nname: s\nspec: {}\n");
    for (arguments, code) in [
        (vec!["policy", "check", "faulty.yaml"], "resource.invalid"),
        (vec!["policy", "check", "ledger.yaml", "draft.yaml"], "resource.invalid"),
        (vec!["policy", "check", "site.yaml"], "policy.none"),
        (vec!["policy", "diff", "ledger.yaml", "faulty.yaml"], "resource.invalid"),
        (vec!["policy", "replay", "--log", "nothing.json", "ledger.yaml"], "file.not-read"),
        (vec!["policy", "export", "--to", "rego", "--secret", "x", "ledger.yaml"], "policy.unknown"),
    ] {
        let (exit, out, err) = folder.run(&arguments);
        assert_eq!((exit, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains(&format!("error[{code}]")), "{arguments:?}: {err}");
    }
}

/// Blocks of the page that begin with `$ bonafide`, run on the policies of the page that have a file name.
#[test]
fn what_the_page_shows_is_what_the_program_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let page = fs::read_to_string(&path).unwrap();
    let folder = Folder(tempfile::tempdir().unwrap());
    for block in page.split("```yaml\n# ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        folder.write(name, rest.split("\n```").next().unwrap());
    }
    let mut told = String::new();
    let mut blocks = page.split("```console\n");
    told.push_str(blocks.next().unwrap());
    let mut number = 0;
    for block in blocks {
        let (shown, rest) = block.split_once("```").unwrap();
        let command = shown.lines().next().unwrap();
        let arguments: Vec<&str> = command.strip_prefix("$ bonafide ").unwrap().split(' ').collect();
        let (_, out, err) = folder.run(&arguments);
        assert_eq!(err, "", "{command}");
        told.push_str(&format!("```console\n{command}\n{out}```{rest}"));
        number += 1;
    }
    assert!(number >= 2);
    if std::env::var_os("BONAFIDE_BLESS").is_some() {
        fs::write(&path, told).unwrap();
    } else {
        assert_eq!(page, told, "run with BONAFIDE_BLESS=1 and read the diff");
    }
}
