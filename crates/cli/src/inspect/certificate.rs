//! X.509 certificates and chains.

use bonafide_crypto::key::SignatureAlgorithm;
use bonafide_identity::{
    Certificate, UnixTime,
    attributes::Attributes,
    x509::{self, profile},
};

use super::{Trust, bundles, foreign, key_line, moment};
use crate::{
    Failure,
    text::{clean_bytes, hex},
    view::inspection::{Finding, Verification},
};

/// What one certificate says, and the first thing that is wrong with it.
pub(super) fn inspect(der: &[u8], now: UnixTime) -> Finding {
    let certificate = match Certificate::from_der(der) {
        Ok(certificate) => certificate,
        Err(cause) => return Finding::new("certificate").problem(cause.code(), cause, cause.hint()),
    };
    let is_ca = certificate.is_ca();
    let mut finding = Finding::new(if is_ca { "authority" } else { "x509-svid" });
    finding = match certificate.spiffe_id() {
        Some(id) => finding.text("SPIFFE ID", id.as_str()),
        None => finding.list("URI names", certificate.uri_sans().iter().map(ToString::to_string).collect()),
    };
    if let Some(attributes) = certificate.attributes() {
        finding = attested(finding, attributes);
    }
    finding = finding
        .list("DNS names", certificate.dns_names().iter().map(ToString::to_string).collect())
        .time("valid from", moment(certificate.not_before()))
        .time("expires", moment(certificate.not_after()))
        .text("serial", hex(certificate.serial()))
        .text("key", key_line(certificate.public_key()))
        .text("signed with", signature_name(certificate.signature_algorithm()))
        .text("signed by key", certificate.authority_key_id().map(hex).unwrap_or_default());
    let checked = if is_ca {
        profile::check_ca(&certificate).map(|_| ())
    } else {
        profile::check_leaf(&certificate).map(|_| ())
    };
    if let Err(cause) = checked {
        finding = finding.problem(cause.code(), cause, cause.hint());
    }
    if now < certificate.not_before() {
        finding = finding.problem("x509.not-yet-valid", "it is not valid yet", "compare the clocks");
    } else if !certificate.is_valid_at(now) {
        finding = finding.problem(
            "x509.expired",
            "it has expired",
            "see why it was not renewed: `bonafide explain`",
        );
    }
    finding
}

fn signature_name(algorithm: SignatureAlgorithm) -> &'static str {
    match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 => "ECDSA P-256 with SHA-256",
        SignatureAlgorithm::EcdsaP384Sha384 => "ECDSA P-384 with SHA-384",
        SignatureAlgorithm::EcdsaP521Sha512 => "ECDSA P-521 with SHA-512",
        SignatureAlgorithm::Ed25519 => "Ed25519",
        SignatureAlgorithm::RsaPkcs1Sha256 => "RSA PKCS#1 with SHA-256",
        SignatureAlgorithm::RsaPkcs1Sha384 => "RSA PKCS#1 with SHA-384",
        SignatureAlgorithm::RsaPkcs1Sha512 => "RSA PKCS#1 with SHA-512",
        SignatureAlgorithm::RsaPssSha256 => "RSA PSS with SHA-256",
        SignatureAlgorithm::RsaPssSha384 => "RSA PSS with SHA-384",
        SignatureAlgorithm::RsaPssSha512 => "RSA PSS with SHA-512",
    }
}

fn attested(finding: Finding, attributes: &Attributes) -> Finding {
    let pair = |(key, value): (&str, &[u8]), between: char| format!("{key}{between}{}", clean_bytes(value));
    let finding = match attributes.instance {
        Some(instance) => finding
            .text("instance", instance.to_string())
            .text("generation", attributes.generation.to_string()),
        None => finding,
    };
    finding
        .list("labels", attributes.labels().map(|label| pair(label, '=')).collect())
        .list("selectors", attributes.selectors().map(|selector| pair(selector, ':')).collect())
        .text("site", attributes.site().unwrap_or_default())
        .text("registration", attributes.registration().unwrap_or_default())
        .list("administers", attributes.admin().map(|(site, _)| site.to_owned()).collect())
        .list("evidence", attributes.evidence().map(|evidence| pair(evidence, '=')).collect())
}

/// Verifies a chain, leaf first, if there is a bundle.
pub(super) fn verify(
    chain: &[&[u8]],
    leaf: Option<&Certificate>,
    trust: &Trust,
    now: UnixTime,
) -> Result<Verification, Failure> {
    let own = leaf.and_then(Certificate::spiffe_id).map(|id| id.trust_domain());
    let Some((bundles, source)) = bundles(trust, own)? else {
        return Ok(Verification::NotAsked);
    };
    if let Some(refusal) = foreign(trust, own) {
        return Ok(refusal);
    }
    Ok(match x509::verify(chain, &bundles, now) {
        Ok(verified) => {
            Verification::verified(format!("the chain of {} ends in the bundle, {source}", verified.id()))
        }
        Err(cause) => Verification::failed(cause.code(), &cause, cause.hint()),
    })
}
