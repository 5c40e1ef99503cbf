//! An ID is refused, or is exactly what SPIFFE-ID.md allows, and keeps its bytes.
#![no_main]

use bonafide_identity::{SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fn is_allowed(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let mut parts = rest.split('/');
    let host = parts.next().unwrap_or_default();
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    text.len() <= 2048
        && scheme.eq_ignore_ascii_case("spiffe")
        && (1..=255).contains(&host.len())
        && host.bytes().all(known)
        && parts.all(|part| !["", ".", ".."].contains(&part) && part.bytes().all(known))
}

fuzz_target!(|text: &str| {
    let parsed = SpiffeId::parse(text);
    assert_eq!(parsed.is_ok(), is_allowed(text));
    if let Ok(id) = parsed {
        assert!(text.eq_ignore_ascii_case(id.as_str()) && text.ends_with(id.path()));
        assert_eq!(SpiffeId::parse_canonical(id.as_str()).as_ref(), Ok(&id));
        assert_eq!(SpiffeId::new(id.trust_domain(), id.path()).as_ref(), Ok(&id));
        assert_eq!(TrustDomain::parse(id.trust_domain().as_str()).as_ref(), Ok(id.trust_domain()));
    }
});
