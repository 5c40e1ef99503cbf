//! Looks into any artefact: certificates, chains, tokens, bundles, requests, keys, join lines. Nothing is called
//! verified that was not verified against a bundle.

mod bundle;
mod certificate;
mod token;

use bonafide_attest::join::JoinLine;
use bonafide_crypto::{
    csr,
    key::{PrivateKey, PublicKey},
};
use bonafide_identity::{BundleMap, Certificate, SpiffeId, TrustBundle, TrustDomain, UnixTime};

use crate::{
    Failure,
    moment::Moment,
    pem::{self, Block},
    text::hex,
    view::{
        inspection::{Finding, InspectionView, Verification},
        status::ProblemView,
    },
};

/// What to verify against.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// A bundle: a SPIFFE document, a bundle map, or PEM.
    pub bundle: Option<Vec<u8>>,
    /// The trust domain that the bundle speaks for, and that the artefact must be of.
    pub trust_domain: Option<TrustDomain>,
    /// The audience that a token must be for.
    pub audience: Option<String>,
}

/// Looks into `input`.
///
/// # Errors
/// When it is nothing that we know, or when the bundle to verify against is no bundle.
pub fn inspect(input: &[u8], trust: &Trust, now: UnixTime) -> Result<InspectionView, Failure> {
    if input.len() > pem::MAX_INPUT {
        return Err(unknown("the input is longer than 4 MiB"));
    }
    let text = std::str::from_utf8(input).map(str::trim).ok();
    match text {
        Some("") => Err(unknown("the input is empty")),
        Some(text) if text.contains("-----BEGIN ") => {
            let blocks = pem::decode(text).map_err(|cause| unknown(&cause.to_string()))?;
            inspect_blocks(blocks, trust, now)
        }
        Some(text) if text.starts_with('{') => Ok(bundle::inspect(text.as_bytes(), trust, now)?.into()),
        Some(text) if text.starts_with("bfj1.") => Ok(join_line(text).into()),
        Some(text) if text.starts_with("spiffe:") => Ok(spiffe_id(text).into()),
        Some(text) if text.split('.').count() == 3 && !text.contains(char::is_whitespace) => {
            token::inspect(text, trust, now)
        }
        _ if input.first() == Some(&0x30) => inspect_der(input, trust, now),
        _ => Err(unknown("this is no PEM, DER, JWT, bundle, join line or SPIFFE ID")),
    }
}

fn unknown(message: &str) -> Failure {
    Failure::Input {
        code: "input.unknown",
        message: message.to_owned(),
        hint: "give a certificate, chain or key as PEM or DER, a JWT-SVID, a SPIFFE bundle, a join line or a SPIFFE ID",
    }
}

fn inspect_der(der: &[u8], trust: &Trust, now: UnixTime) -> Result<InspectionView, Failure> {
    let values = pem::split_der(der).map_err(|cause| unknown(&cause.to_string()))?;
    let label = match values.as_slice() {
        [one] if csr::parse_and_verify(one).is_ok() => "CERTIFICATE REQUEST",
        [one] if PublicKey::from_spki_der(one).is_ok() => "PUBLIC KEY",
        [one] if PrivateKey::from_pkcs8_der(one).is_ok() => "PRIVATE KEY",
        _ => "CERTIFICATE",
    };
    let blocks = values.into_iter().map(|der| Block { label: label.to_owned(), der: der.to_vec() });
    inspect_blocks(blocks.collect(), trust, now)
}

fn inspect_blocks(blocks: Vec<Block>, trust: &Trust, now: UnixTime) -> Result<InspectionView, Failure> {
    let mut findings = Vec::new();
    let mut chain: Vec<&[u8]> = Vec::new();
    let mut key: Option<PrivateKey> = None;
    for block in &blocks {
        findings.push(match block.label.as_str() {
            "CERTIFICATE" => {
                chain.push(&block.der);
                certificate::inspect(&block.der, now)
            }
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => request(&block.der),
            "PUBLIC KEY" => public_key(&block.der),
            "PRIVATE KEY" => match PrivateKey::from_pkcs8_der(&block.der) {
                Ok(private) => {
                    let finding = Finding::new("private-key").text("key", key_line(private.public_key()));
                    key.get_or_insert(private);
                    finding
                }
                Err(cause) => Finding::new("private-key").problem(cause.code(), cause, ""),
            },
            other => Finding::new("unknown").text("label", other).problem(
                "inspect.unknown-label",
                "nothing is known about this kind of PEM block",
                "give certificates, requests, public keys, or private keys in PKCS#8",
            ),
        });
    }
    let leaf = chain.first().and_then(|der| Certificate::from_der(der).ok());
    if let (Some(leaf), Some(key)) = (&leaf, &key)
        && leaf.public_key() != key.public_key()
    {
        let finding = Finding::new("pair");
        findings.push(finding.problem(
            "inspect.key-mismatch",
            "the private key is not that of the first certificate",
            "put the leaf first, and give the key that it was issued for",
        ));
    }
    let verification =
        if chain.is_empty() { None } else { Some(certificate::verify(&chain, leaf.as_ref(), trust, now)?) };
    if findings.is_empty() {
        return Err(unknown("there is no PEM block in it"));
    }
    Ok(InspectionView { findings, verification })
}

fn request(der: &[u8]) -> Finding {
    let finding = Finding::new("certificate-request");
    match csr::parse_and_verify(der) {
        Ok(request) => finding
            .text("key", key_line(&request.public_key))
            .text("proof of possession", "the request is signed by its own key")
            .list("asks for", request.uri_sans),
        Err(cause) => finding.problem(cause.code(), cause, cause.hint()),
    }
}

fn public_key(der: &[u8]) -> Finding {
    let finding = Finding::new("public-key");
    match PublicKey::from_spki_der(der) {
        Ok(key) => finding.text("key", key_line(&key)),
        Err(cause) => finding.problem(cause.code(), cause, ""),
    }
}

fn join_line(word: &str) -> Finding {
    let finding = Finding::new("join-line");
    match word.parse::<JoinLine>() {
        Ok(line) => finding
            .text("trust domain", line.trust_domain.to_string())
            .text("address", &line.address)
            .text("root pin", hex(&line.root_pin))
            .text("token", "secret, not shown"),
        Err(cause) => finding.problem(cause.code(), cause, cause.hint()),
    }
}

fn spiffe_id(text: &str) -> Finding {
    let finding = Finding::new("spiffe-id");
    match SpiffeId::parse(text) {
        Ok(id) => finding
            .text("SPIFFE ID", id.as_str())
            .text("trust domain", id.trust_domain().as_str())
            .text("path", id.path()),
        Err(cause) => finding.problem(cause.code(), cause, cause.hint()),
    }
}

/// `EC P-256, 0123…`.
fn key_line(key: &PublicKey) -> String {
    format!("{}, ID {}", key.algorithm(), hex(&key.key_id()))
}

fn moment(time: UnixTime) -> Moment {
    Moment(time.as_secs())
}

/// The bundles to verify against, and how it was decided for which trust domain they speak; `None` without a bundle.
fn bundles(trust: &Trust, subject: Option<&TrustDomain>) -> Result<Option<(BundleMap, String)>, Failure> {
    let Some(document) = &trust.bundle else {
        return Ok(None);
    };
    let text = std::str::from_utf8(document).map(str::trim).unwrap_or_default();
    if bundle::is_map(text) {
        let map = BundleMap::parse(text.as_bytes())
            .map_err(|cause| Failure::of(cause.code(), &cause, cause.hint()))?;
        return Ok(Some((map, "as the bundle map says".into())));
    }
    let (trust_domain, source) = match (&trust.trust_domain, subject) {
        (Some(given), _) => (given.clone(), "as --trust-domain says"),
        (None, Some(own)) => (own.clone(), "as the artefact itself says: --trust-domain pins it"),
        (None, None) => return Ok(Some((BundleMap::new(), "of no trust domain".into()))),
    };
    let parsed = if text.contains("-----BEGIN ") {
        pem_bundle(trust_domain.clone(), text)?
    } else {
        TrustBundle::parse(&trust_domain, document)
            .map_err(|cause| Failure::of(cause.code(), &cause, cause.hint()))?
    };
    let mut map = BundleMap::new();
    map.insert(parsed);
    Ok(Some((map, format!("for trust domain {trust_domain}, {source}"))))
}

fn pem_bundle(trust_domain: TrustDomain, text: &str) -> Result<TrustBundle, Failure> {
    let mut bundle = TrustBundle::new(trust_domain);
    for block in pem::decode(text).map_err(|cause| unknown(&cause.to_string()))? {
        if block.label == "CERTIFICATE" {
            let root = Certificate::from_der(&block.der)
                .map_err(|cause| Failure::of(cause.code(), cause, cause.hint()))?;
            bundle = bundle.with_x509_authority(root);
        }
    }
    Ok(bundle)
}

/// The trust domain that was demanded is not that of the artefact.
fn foreign(trust: &Trust, subject: Option<&TrustDomain>) -> Option<Verification> {
    match (&trust.trust_domain, subject) {
        (Some(demanded), Some(own)) if demanded != own => Some(Verification::Failed {
            problem: ProblemView {
                code: "inspect.trust-domain".into(),
                message: format!("this is of trust domain `{own}`, not of `{demanded}`"),
                hint: "ask for the bundle of the trust domain that it is of".into(),
            },
        }),
        _ => None,
    }
}
