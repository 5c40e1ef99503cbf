//! Templates: a value that a workload chose can't leave its segment.

use bonafide_attest::{
    Selector, SelectorSet,
    template::{IdTemplate, RenderError, TemplateError},
};
use proptest::prelude::*;

fn set(pairs: &[(&str, &str)]) -> SelectorSet {
    SelectorSet::from_pairs(pairs.iter().copied()).unwrap()
}

#[test]
fn values_become_segments() {
    let template: IdTemplate = "spiffe://example.org/ns/{k8s.ns}/sa/{k8s.sa}".parse().unwrap();
    let attested = set(&[("k8s.ns", "prod"), ("k8s.sa", "api"), ("unix.uid", "1")]);
    assert_eq!(template.render(&attested).unwrap().as_str(), "spiffe://example.org/ns/prod/sa/api");
    assert_eq!(template.as_pattern().to_string(), "spiffe://example.org/ns/*/sa/*");
    assert_eq!(template.to_string(), "spiffe://example.org/ns/{k8s.ns}/sa/{k8s.sa}");
    assert_eq!(template.keys().collect::<Vec<_>>(), ["k8s.ns", "k8s.sa"]);
}

#[test]
fn a_value_that_would_reach_another_path_is_refused() {
    let template: IdTemplate = "spiffe://example.org/user/{unix.user}".parse().unwrap();
    for value in
        ["a/b", "..", ".", "/", "a/", "%2e%2e", "a%2fb", "a b", "ä", "*", "{unix.user}", "a?b", "a#b", "a\\b"]
    {
        let refused = template.render(&set(&[("unix.user", value)]));
        assert_eq!(refused, Err(RenderError::NotASegment { key: "unix.user".into() }), "{value}");
    }
}

#[test]
fn missing_and_ambiguous_values_are_refused() {
    let template: IdTemplate = "spiffe://example.org/group/{unix.supplementary-gid}".parse().unwrap();
    assert!(matches!(template.render(&SelectorSet::new()), Err(RenderError::Missing { .. })));
    let two = set(&[("unix.supplementary-gid", "1"), ("unix.supplementary-gid", "2")]);
    assert!(matches!(template.render(&two), Err(RenderError::Several { .. })));
}

#[test]
fn odd_templates_are_refused() {
    for (text, error) in [
        ("spiffe://example.org/a", TemplateError::NoPlaceholder),
        ("spiffe://example.org", TemplateError::NotAnId),
        ("https://example.org/{unix.user}", TemplateError::NotAnId),
        ("spiffe://{unix.user}/a", TemplateError::NotAnId),
        ("spiffe://example.org/{unix.user}/", TemplateError::NotAnId),
        ("spiffe://example.org//{unix.user}", TemplateError::NotAnId),
        ("spiffe://example.org/../{unix.user}", TemplateError::NotAnId),
        ("spiffe://example.org/*/{unix.user}", TemplateError::NotAnId),
        ("spiffe://example.org/a-{unix.user}", TemplateError::Placeholder),
        ("spiffe://example.org/{}", TemplateError::Placeholder),
        ("spiffe://example.org/{user}", TemplateError::Placeholder),
        ("spiffe://example.org/{unix.user", TemplateError::Placeholder),
        ("spiffe://example.org/{{unix.user}}", TemplateError::Placeholder),
    ] {
        assert_eq!(text.parse::<IdTemplate>(), Err(error), "{text}");
    }
    assert_eq!(
        IdTemplate::parse(&format!("spiffe://example.org/{{a.{}}}", "b".repeat(3000))),
        Err(TemplateError::TooLong)
    );
}

proptest! {
    #[test]
    fn whatever_is_attested_the_id_keeps_the_shape_of_the_template(
        first in "\\PC{1,20}", second in "[a-zA-Z0-9._/%-]{1,20}",
    ) {
        let template: IdTemplate = "spiffe://example.org/a/{x.one}/b/{x.two}".parse().unwrap();
        let (Ok(one), Ok(two)) = (Selector::new("x.one", &first), Selector::new("x.two", &second)) else { return Ok(()) };
        if let Ok(id) = template.render(&SelectorSet::collect([one, two]).unwrap()) {
            prop_assert!(template.as_pattern().matches(&id));
            let segments: Vec<&str> = id.segments().collect();
            prop_assert_eq!(segments, ["a", &first, "b", &second]);
        }
    }

    #[test]
    fn no_text_panics_and_what_parses_is_written_back(text in "spiffe://example\\.org/[a-c{}./]{0,40}|\\PC{0,60}") {
        if let Ok(template) = text.parse::<IdTemplate>() {
            prop_assert_eq!(template.to_string(), text);
        }
    }
}
