//! The part of every trust domain that belongs to Bonafide itself: `/bonafide/…`.
//!
//! No registration may name such an ID; authorities and agents get theirs from here alone.

use crate::id::{IdError, SpiffeId, TrustDomain, check_segment};
use crate::instance::InstanceId;

const ROOT: &str = "bonafide";
const AGENT: &str = "agent";
const AUTHORITY: &str = "authority";

/// The ID of one server of the authority, `spiffe://td/bonafide/authority/<server>`.
///
/// # Errors
/// If `server` is not a path segment.
pub fn authority_id(trust_domain: &TrustDomain, server: &str) -> Result<SpiffeId, IdError> {
    check_segment(server)?;
    SpiffeId::new(trust_domain, &format!("/{ROOT}/{AUTHORITY}/{server}"))
}

/// The ID of an agent, `spiffe://td/bonafide/agent/<site>/<uuid>`.
///
/// # Errors
/// If `site` is not a path segment, or `uuid` is not a hyphenated UUID in lower case.
pub fn agent_id(trust_domain: &TrustDomain, site: &str, uuid: &str) -> Result<SpiffeId, IdError> {
    check_segment(site)?;
    uuid.parse::<InstanceId>().map_err(|_| IdError::PathCharacter)?;
    SpiffeId::new(trust_domain, &format!("/{ROOT}/{AGENT}/{site}/{uuid}"))
}

/// Whether `id` lies under `/bonafide`, in any case of letters: `/Bonafide/…` would mislead people.
pub fn is_reserved(id: &SpiffeId) -> bool {
    id.segments().next().is_some_and(|segment| segment.eq_ignore_ascii_case(ROOT))
}

/// The site of an agent's ID; `None` if `id` is not exactly the ID of an agent.
pub fn agent_site(id: &SpiffeId) -> Option<&str> {
    let mut segments = id.segments();
    if segments.next() != Some(ROOT) || segments.next() != Some(AGENT) {
        return None;
    }
    let site = segments.next()?;
    segments.next()?.parse::<InstanceId>().ok()?;
    segments.next().is_none().then_some(site)
}

/// The server of an authority's ID; `None` if `id` is not exactly the ID of a server of the authority.
pub fn authority_server(id: &SpiffeId) -> Option<&str> {
    let mut segments = id.segments();
    if segments.next() != Some(ROOT) || segments.next() != Some(AUTHORITY) {
        return None;
    }
    let server = segments.next()?;
    segments.next().is_none().then_some(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";

    #[test]
    fn builds_and_recognises() {
        let td = TrustDomain::parse("example.org").unwrap();
        let agent = agent_id(&td, "edge-1", UUID).unwrap();
        assert_eq!(agent.as_str(), format!("spiffe://example.org/bonafide/agent/edge-1/{UUID}"));
        assert_eq!(agent_site(&agent), Some("edge-1"));
        assert_eq!(authority_server(&agent), None);
        let authority = authority_id(&td, "a").unwrap();
        assert_eq!(authority_server(&authority), Some("a"));
        assert_eq!(agent_site(&authority), None);
        assert!(is_reserved(&agent) && is_reserved(&authority));
    }

    #[test]
    fn refuses_what_would_leave_its_place() {
        let td = TrustDomain::parse("example.org").unwrap();
        for site in ["", ".", "..", "a/b", "a b", "*"] {
            assert!(agent_id(&td, site, UUID).is_err(), "{site}");
            assert!(authority_id(&td, site).is_err(), "{site}");
        }
        assert!(agent_id(&td, "edge", "not-a-uuid").is_err());
        for path in ["/bonafide/agent/s", "/bonafide/agent/s/u", &format!("/bonafide/agent/s/{UUID}/x"), "/x"]
        {
            assert_eq!(agent_site(&SpiffeId::new(&td, path).unwrap()), None, "{path}");
        }
    }

    #[test]
    fn reserves_exactly_its_own() {
        let cases = [
            ("", false),
            ("/bonafide", true),
            ("/bonafide/x", true),
            ("/Bonafide/x", true),
            ("/bonafide2", false),
            ("/x/bonafide", false),
        ];
        let td = TrustDomain::parse("example.org").unwrap();
        for (path, reserved) in cases {
            assert_eq!(is_reserved(&SpiffeId::new(&td, path).unwrap()), reserved, "{path}");
        }
    }
}
