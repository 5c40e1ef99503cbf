//! SPIFFE IDs: what SPIFFE-ID.md allows, and every trick against it.

use bonafide_identity::{IdError, SpiffeId, SpiffeIdPattern, TrustDomain, check_segment};
use proptest::prelude::*;

#[test]
fn good_ids_stay_as_they_are() {
    let long = format!("spiffe://example.org/{}", "a".repeat(2048 - 21));
    let domain = format!("spiffe://{}/a", "d".repeat(255));
    let ids = [
        "spiffe://example.org",
        "spiffe://example.org/a",
        "spiffe://example.org/ns/Shop/sa/web_1",
        "spiffe://example.org/...",
        "spiffe://example.org/.hidden/..a/a..",
        "spiffe://10.0.0.1/a",
        "spiffe://a_b.-c-/A-Z.0_9",
        "spiffe://-/-",
        "spiffe://./a",
        &long,
        &domain,
    ];
    for text in ids {
        let id = SpiffeId::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(id.as_str(), text);
        assert_eq!(SpiffeId::parse_canonical(text).as_ref(), Ok(&id));
        assert_eq!(SpiffeId::new(id.trust_domain(), id.path()), Ok(id.clone()));
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        assert_eq!(id.segments().map(|s| format!("/{s}")).collect::<String>(), id.path());
        assert_eq!(serde_json::from_str::<SpiffeId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }
}

#[test]
fn case() {
    for text in ["SPIFFE://Example.ORG/Web", "Spiffe://example.org/Web", "spiffe://EXAMPLE.org/Web"] {
        assert_eq!(SpiffeId::parse(text).unwrap().as_str(), "spiffe://example.org/Web");
        assert_eq!(SpiffeId::parse_canonical(text), Err(IdError::NotCanonical));
    }
    assert_ne!(SpiffeId::parse("spiffe://td/a"), SpiffeId::parse("spiffe://td/A"));
    // U+212A and U+017F fold to `k` and `s` in Unicode, and to nothing here.
    assert_eq!(TrustDomain::parse("\u{212a}8s"), Err(IdError::TrustDomainCharacter));
    assert!(SpiffeId::parse("\u{17f}piffe://td/a").is_err());
}

#[test]
fn tricks() {
    use IdError::*;

    let long = format!("spiffe://example.org/{}", "a".repeat(2049 - 21));
    let domain = format!("spiffe://{}/a", "d".repeat(256));
    let cases: &[(&str, IdError)] = &[
        ("", Empty),
        ("spiffe", WrongScheme),
        ("spiffe:/td/a", WrongScheme),
        ("spiffe:td/a", WrongScheme),
        ("http://td/a", WrongScheme),
        ("spiffes://td/a", WrongScheme),
        (" spiffe://td/a", WrongScheme),
        ("//td/a", WrongScheme),
        ("/a", WrongScheme),
        ("spiffe://", EmptyTrustDomain),
        ("spiffe:///a", EmptyTrustDomain),
        ("spiffe://td:443/a", TrustDomainCharacter),
        ("spiffe://td:/a", TrustDomainCharacter),
        ("spiffe://user@td/a", TrustDomainCharacter),
        ("spiffe://@td/a", TrustDomainCharacter),
        ("spiffe://user:password@td/a", TrustDomainCharacter),
        ("spiffe://[::1]/a", TrustDomainCharacter),
        ("spiffe://t%64/a", TrustDomainCharacter),
        ("spiffe://td?a", TrustDomainCharacter),
        ("spiffe://td#a", TrustDomainCharacter),
        ("spiffe://t d/a", TrustDomainCharacter),
        ("spiffe://td\\a", TrustDomainCharacter),
        ("spiffe://tдx/a", TrustDomainCharacter),
        ("spiffe://td\0/a", TrustDomainCharacter),
        ("spiffe://*/a", TrustDomainCharacter),
        ("spiffe://td/", TrailingSlash),
        ("spiffe://td/a/", TrailingSlash),
        ("spiffe://td//", TrailingSlash),
        ("spiffe://td//a", EmptySegment),
        ("spiffe://td/a//b", EmptySegment),
        ("spiffe://td/.", DotSegment),
        ("spiffe://td/..", DotSegment),
        ("spiffe://td/a/../b", DotSegment),
        ("spiffe://td/./a", DotSegment),
        ("spiffe://td/%2e%2e/a", PathCharacter),
        ("spiffe://td/a%2fb", PathCharacter),
        ("spiffe://td/a?b", PathCharacter),
        ("spiffe://td/a#b", PathCharacter),
        ("spiffe://td/a b", PathCharacter),
        ("spiffe://td/a:b", PathCharacter),
        ("spiffe://td/a@b", PathCharacter),
        ("spiffe://td/a*", PathCharacter),
        ("spiffe://td/~a", PathCharacter),
        ("spiffe://td/a+b", PathCharacter),
        ("spiffe://td/é", PathCharacter),
        ("spiffe://td/a\n", PathCharacter),
        ("spiffe://td/a\0b", PathCharacter),
        (&long, TooLong),
        (&domain, TrustDomainTooLong),
    ];
    for (text, error) in cases {
        assert_eq!(SpiffeId::parse(text), Err(*error), "{text:?}");
        assert!(error.code().starts_with("spiffe-id.") && !error.hint().is_empty());
    }
    let td = TrustDomain::parse("td").unwrap();
    assert_eq!(SpiffeId::new(&td, "a"), Err(RelativePath));
    assert_eq!(SpiffeId::new(&td, "/"), Err(TrailingSlash));
    assert_eq!(SpiffeId::new(&td, &format!("/{}", "a".repeat(2037))), Err(TooLong));
    assert_eq!(check_segment("a/b"), Err(PathCharacter));
    for name in ["", "a/b", "spiffe://td", "td/", "a b", "td:1"] {
        assert!(TrustDomain::parse(name).is_err(), "{name}");
    }
}

/// SPIFFE-ID.md, read a second time and written down in another way.
fn oracle(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let mut parts = rest.split('/');
    let host = parts.next().unwrap();
    let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    text.len() <= 2048
        && scheme.eq_ignore_ascii_case("spiffe")
        && (1..=255).contains(&host.len())
        && host.bytes().all(known)
        && parts.all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(known))
}

/// Texts that are nearly IDs, and texts that are.
fn text() -> impl Strategy<Value = String> {
    let scheme =
        prop_oneof![8 => Just("spiffe://"), 1 => Just("SPIFFE://"), 1 => Just("spiffe:/"), 1 => Just("")];
    let rest = prop_oneof![
        "[a-cA-C0-9._/-]{0,20}",
        "[a-z]{1,4}(/(\\.|\\.\\.|[a-zA-Z0-9._-]{0,3})){0,4}",
        "[ -~]{0,12}",
        ".{0,8}",
        "a/a{2030,2045}",
        "a{250,260}/a",
    ];
    (scheme, rest).prop_map(|(scheme, rest)| format!("{scheme}{rest}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn agrees_with_another_library(text in text()) {
        let (ours, theirs) = (SpiffeId::parse(&text), spiffe::SpiffeId::new(&text));
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => {
                prop_assert_eq!(ours.as_str(), theirs.to_string());
                prop_assert_eq!(ours.trust_domain().as_str(), theirs.trust_domain_name());
                prop_assert_eq!(ours.path(), theirs.path());
            }
            // SPIFFE-ID section 2.3 lets readers take longer IDs; we refuse what nobody should issue.
            (Err(IdError::TooLong), _) => prop_assert!(text.len() > 2048),
            _ => prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{} {:?} {:?}", text, ours, theirs),
        }
    }

    #[test]
    fn agrees_with_the_oracle(text in text()) {
        let parsed = SpiffeId::parse(&text);
        prop_assert_eq!(parsed.is_ok(), oracle(&text), "{}", text);
        if let Ok(id) = parsed {
            prop_assert!(id.as_str().eq_ignore_ascii_case(&text));
            prop_assert!(text.ends_with(id.path()));
            prop_assert_eq!(SpiffeId::parse_canonical(id.as_str()), Ok(id.clone()));
            if !id.is_trust_domain() {
                prop_assert!(SpiffeIdPattern::exactly(&id).unwrap().matches(&id));
            }
        }
    }
}
