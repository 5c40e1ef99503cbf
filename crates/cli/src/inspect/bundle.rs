//! SPIFFE bundle documents and bundle maps.

use base64ct::{Base64, Encoding as _};
use bonafide_crypto::jose::parse_object;
use bonafide_identity::{BundleMap, Certificate, TrustBundle, TrustDomain, UnixTime};
use serde_json::Value;

use super::{Trust, certificate, key_line};
use crate::{Failure, view::inspection::Finding};

/// Whether a document is a map of several trust domains' bundles.
pub(super) fn is_map(text: &str) -> bool {
    parse_object(text.as_bytes()).is_ok_and(|object| object.contains_key("trust_domains"))
}

/// What the bundles hold, and what is wrong with their authorities.
pub(super) fn inspect(json: &[u8], trust: &Trust, now: UnixTime) -> Result<Vec<Finding>, Failure> {
    let malformed =
        |cause: bonafide_identity::bundle::BundleError| Failure::of(cause.code(), &cause, cause.hint());
    let object = parse_object(json)
        .map_err(|cause| Failure::of(cause.code(), cause, "give a SPIFFE bundle document"))?;
    if object.contains_key("trust_domains") {
        let map = BundleMap::parse(json).map_err(malformed)?;
        return Ok(map.iter().flat_map(|(name, bundle)| findings(bundle, name.as_str(), now)).collect());
    }
    if !object.contains_key("keys") {
        return Err(super::unknown("this JSON has neither `keys` nor `trust_domains`: it is no bundle"));
    }
    // A bundle document does not say of which trust domain it is; its roots do.
    let trust_domain = trust.trust_domain.clone().or_else(|| own_trust_domain(object.get("keys")));
    let name = trust_domain.as_ref().map_or("not said in the document", TrustDomain::as_str).to_owned();
    let nominal = match trust_domain {
        Some(trust_domain) => trust_domain,
        None => {
            TrustDomain::parse("unknown").map_err(|cause| Failure::of(cause.code(), cause, cause.hint()))?
        }
    };
    let bundle = TrustBundle::parse(&nominal, json).map_err(malformed)?;
    Ok(findings(&bundle, &name, now))
}

fn findings(bundle: &TrustBundle, trust_domain: &str, now: UnixTime) -> Vec<Finding> {
    let mut head = Finding::new("bundle").text("trust domain", trust_domain);
    if let Some(sequence) = bundle.sequence {
        head = head.text("sequence", sequence.to_string());
    }
    if let Some(seconds) = bundle.refresh_hint {
        head = head.text("refresh", crate::duration::format(seconds));
    }
    let keys = bundle.jwt_authorities().iter().map(|(kid, key)| format!("{kid}: {}", key_line(key)));
    head = head
        .text("X.509 roots", bundle.x509_authorities().len().to_string())
        .list("JWT keys", keys.collect());
    if bundle.x509_authorities().is_empty() && bundle.jwt_authorities().is_empty() {
        head = head.problem(
            "bundle.empty",
            "nothing is trusted: the bundle is empty",
            "ask for the current bundle",
        );
    }
    for error in bundle.skipped() {
        head = head.problem(error.code(), error, error.hint());
    }
    let mut findings = vec![head];
    findings.extend(bundle.x509_authorities().iter().map(|root| certificate::inspect(root.der(), now)));
    findings
}

/// The trust domain of the first root that names one.
fn own_trust_domain(keys: Option<&Value>) -> Option<TrustDomain> {
    keys?.as_array()?.iter().find_map(|key| {
        let first = key.get("x5c")?.as_array()?.first()?.as_str()?;
        let root = Certificate::from_der(&Base64::decode_vec(first).ok()?).ok()?;
        root.spiffe_id().map(|id| id.trust_domain().clone())
    })
}
