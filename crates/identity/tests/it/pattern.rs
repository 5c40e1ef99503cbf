//! Patterns: `matches` against an oracle, and `covers` against `matches` on every ID of a small world.

use bonafide_identity::{IdError, SpiffeId, SpiffeIdPattern, TrustDomain};
use proptest::prelude::*;

#[test]
fn refuses() {
    use IdError::*;

    let cases: &[(&str, IdError)] = &[
        ("spiffe://td", PatternWithoutPath),
        ("spiffe://td/", TrailingSlash),
        ("spiffe://td/a/", EmptySegment),
        ("spiffe://td//**", EmptySegment),
        ("spiffe://td/**/a", PatternTail),
        ("spiffe://td/**/**", PatternTail),
        ("spiffe://td/a*", PatternPartialWildcard),
        ("spiffe://td/***", PatternPartialWildcard),
        ("spiffe://td/a/**b", PatternPartialWildcard),
        ("spiffe://td/..", DotSegment),
        ("spiffe://td/a?b", PathCharacter),
        ("spiffe://*/a", TrustDomainCharacter),
        ("spiffe://**", TrustDomainCharacter),
        ("*", WrongScheme),
        ("", Empty),
    ];
    for (text, error) in cases {
        assert_eq!(SpiffeIdPattern::parse(text), Err(*error), "{text}");
    }
}

#[test]
fn matches() {
    let cases = [
        ("spiffe://td/a", "spiffe://td/a", true),
        ("spiffe://td/a", "spiffe://td/A", false),
        ("spiffe://td/a", "spiffe://td/a/b", false),
        ("spiffe://td/a", "spiffe://dt/a", false),
        ("spiffe://td/*", "spiffe://td/a", true),
        ("spiffe://td/*", "spiffe://td", false),
        ("spiffe://td/*", "spiffe://td/a/b", false),
        ("spiffe://td/**", "spiffe://td", false),
        ("spiffe://td/**", "spiffe://td/a/b/c", true),
        ("spiffe://td/a/**", "spiffe://td/a", false),
        ("spiffe://td/a/**", "spiffe://td/ab/c", false),
        ("spiffe://td/a/**", "spiffe://td/a/b", true),
        ("spiffe://td/ns/*/sa/*", "spiffe://td/ns/x/sa/y", true),
        ("spiffe://td/ns/*/sa/*", "spiffe://td/ns/x/sb/y", false),
        ("spiffe://td/*/**", "spiffe://td/a", false),
        ("spiffe://td/*/**", "spiffe://td/a/b", true),
    ];
    for (pattern, id, expected) in cases {
        let pattern = SpiffeIdPattern::parse(pattern).unwrap();
        assert_eq!(pattern.matches(&SpiffeId::parse(id).unwrap()), expected, "{pattern} {id}");
    }
}

fn pattern() -> impl Strategy<Value = SpiffeIdPattern> {
    let segment = prop_oneof![Just("a"), Just("b"), Just("*")];
    (prop_oneof![9 => Just("x"), 1 => Just("y")], prop::collection::vec(segment, 0..4), any::<bool>())
        .prop_filter("a path", |(_, segments, open)| *open || !segments.is_empty())
        .prop_map(|(trust_domain, segments, open)| {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            let tail = if open { "/**" } else { "" };
            SpiffeIdPattern::parse(&format!("spiffe://{trust_domain}{path}{tail}")).unwrap()
        })
}

/// Every ID of two trust domains with up to five segments out of `a`, `b`, and `c`, which no pattern names.
fn world() -> Vec<SpiffeId> {
    let mut paths = vec![String::new()];
    let mut all = paths.clone();
    for _ in 0..5 {
        paths = paths
            .iter()
            .flat_map(|path| ["a", "b", "c"].map(|segment| format!("{path}/{segment}")))
            .collect();
        all.extend(paths.clone());
    }
    let domains = ["x", "y"].map(|name| TrustDomain::parse(name).unwrap());
    domains.iter().flat_map(|td| all.iter().map(|path| SpiffeId::new(td, path).unwrap())).collect()
}

fn oracle(pattern: &SpiffeIdPattern, id: &SpiffeId) -> bool {
    fn walk(pattern: &[&str], id: &[&str]) -> bool {
        match (pattern, id) {
            ([], []) => true,
            (["**"], rest) => !rest.is_empty(),
            ([first, pattern @ ..], [segment, id @ ..]) => {
                (*first == "*" || first == segment) && walk(pattern, id)
            }
            _ => false,
        }
    }
    let (pattern, id) = (pattern.to_string(), id.to_string());
    let (pattern, id): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), id.split('/').collect());
    pattern[2] == id[2] && walk(&pattern[3..], &id[3..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn matches_agrees_with_the_oracle(pattern in pattern()) {
        for id in world() {
            prop_assert_eq!(pattern.matches(&id), oracle(&pattern, &id), "{} {}", pattern, id);
        }
        prop_assert_eq!(SpiffeIdPattern::parse(&pattern.to_string()), Ok(pattern));
    }

    #[test]
    fn covers_agrees_with_matches(one in pattern(), other in pattern()) {
        let every = world().iter().all(|id| !other.matches(id) || one.matches(id));
        prop_assert_eq!(one.covers(&other), every, "{} {}", one, other);
        prop_assert!(SpiffeIdPattern::all(one.trust_domain()).covers(&one) && one.covers(&one));
    }

    #[test]
    fn never_panics(text in "(spiffe://[a-z]?)?[a/*.]{0,12}") {
        if let Ok(pattern) = SpiffeIdPattern::parse(&text) {
            prop_assert_eq!(pattern.to_string(), text);
        }
    }
}
