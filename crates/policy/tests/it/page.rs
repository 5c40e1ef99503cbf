//! The page of questions, and that of keys: what they say is run.

use bonafide_policy::{
    Body, Effect,
    check::{self, Severity, Vocabulary},
    coverage, read, record,
    rego::program::Program,
};

const PAGE: &str = include_str!("../../../../docs/policy.md");
const KEYS: &str = include_str!("../../../../docs/keys.md");

/// The text of each block of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    blocks_of(PAGE, language)
}

fn blocks_of(page: &'static str, language: &str) -> Vec<&'static str> {
    let begin = format!("```{language}\n");
    page.split(begin.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

#[test]
fn ten_questions_have_an_answer_each() {
    let headings: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("## ")).collect();
    for number in 1..=10 {
        assert!(headings[number - 1].starts_with(&format!("## {number}. ")), "{headings:?}");
    }
    assert_eq!(headings.len(), 11, "and what lies beyond rules");
}

#[test]
fn every_policy_of_the_page_passes_its_tests_and_has_no_faults() {
    let mut policies = 0;
    let of_keys = blocks_of(KEYS, "yaml");
    assert_eq!(of_keys.len(), 1);
    for block in blocks("yaml").into_iter().chain(of_keys) {
        let documents = read(block).unwrap_or_else(|faults| panic!("{block}\n{faults:?}"));
        let report = coverage::run(&documents, true);
        assert_eq!(report.failed(), 0, "{block}\n{report:?}");
        assert_eq!(report.unreached().count() + report.survivors().count(), 0, "{block}\n{report:?}");
        let findings = check::check(&documents, &Vocabulary::default());
        assert!(findings.iter().all(|finding| finding.severity == Severity::Note), "{block}\n{findings:?}");
        for document in &documents {
            policies += usize::from(!document.tests().is_empty() || document.policy().is_none());
        }
        assert_eq!(documents.len(), 1, "{block}");
    }
    assert_eq!(policies, blocks("yaml").len() + 1);
    assert!(policies >= 10);
}

#[test]
fn the_program_of_the_page_runs() {
    let ledger = read(blocks("yaml")[0]).unwrap();
    let scenario = ledger[0].tests()[0].scenario();
    let mut ran = 0;
    for block in blocks("yaml") {
        for document in read(block).unwrap() {
            let Body::Rego(policy) = document.body() else { continue };
            let program = Program::load(policy).unwrap();
            let verdict = program.judge(&record::of(scenario)).unwrap();
            assert_eq!((verdict.deny, verdict.reasons), (true, vec!["orders are closed".to_owned()]));
            ran += 1;
        }
    }
    assert_eq!((ran, ledger[0].tests()[0].expect()), (1, Effect::Allow));
}
