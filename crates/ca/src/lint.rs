//! The last look before a signature.
//!
//! The linter reads the bytes that will be signed, with code that shares nothing with the template but the order and
//! the names of authorities, and accepts one form of each field. So a mistake in the template, a field that somebody made optional, or bytes that
//! changed on their way is refused before a key touches it, instead of being found in a log later.

mod extensions;
mod fields;

use bonafide_crypto::key::{PublicKeyAlgorithm, SignatureAlgorithm};
use bonafide_identity::{Certificate, reserved};

use crate::template::{Order, Profile, Tbs, name_of};
use crate::validity::{SerialNumber, Validity};

/// A certificate that may be signed by one issuer. Only [`lint`] makes one.
#[derive(Clone, Debug)]
pub struct LintedTbs {
    der: Vec<u8>,
    serial: SerialNumber,
    validity: Validity,
    profile: Profile,
    /// `None` for a root, which issues itself.
    issuer: Option<Certificate>,
}

/// Why a certificate will not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LintError {
    /// The attributes are not the ordered ones.
    #[error("a certificate was not signed: its attributes are not those that were ordered")]
    Attributes,
    /// An extension is missing, malformed, not known, there twice, or wrongly critical.
    #[error("a certificate was not signed: its extension `{0}` is missing or wrong")]
    Extension(&'static str),
    /// The identity does not fit the profile.
    #[error("a certificate was not signed: its SPIFFE ID does not fit what it is for")]
    Identity,
    /// The issuer is no authority for this profile.
    #[error("a certificate was not signed: its issuer may not issue it")]
    Issuer,
    /// The issuer's name is not the subject of the issuer.
    #[error("a certificate was not signed: it names another issuer")]
    IssuerName,
    /// The key is not the ordered one, too weak, too large, or the issuer's own.
    #[error("a certificate was not signed: its key is not acceptable")]
    Key,
    /// The names are not the ordered ones, or there are several URIs.
    #[error("a certificate was not signed: its names are not those that were ordered")]
    Names,
    /// It would be valid when its issuer isn't.
    #[error("a certificate was not signed: it would be valid when its issuer is not")]
    OutlivesIssuer,
    /// The serial number is not the ordered one.
    #[error("a certificate was not signed: its serial number is wrong")]
    Serial,
    /// The signature algorithm does not belong to the issuer's key.
    #[error("a certificate was not signed: its signature algorithm does not fit its issuer")]
    SignatureAlgorithm,
    /// Not canonical DER of a certificate.
    #[error("a certificate was not signed: it is not canonical")]
    Structure,
    /// The subject does not fit the profile.
    #[error("a certificate was not signed: its subject is wrong")]
    Subject,
    /// The identity belongs to another trust domain than the issuer.
    #[error("a certificate was not signed: its trust domain is not that of its issuer")]
    TrustDomain,
    /// The time is not the ordered one, or longer than the profile allows.
    #[error("a certificate was not signed: its time is wrong")]
    Validity,
}

/// Longest life of a root and of what it signs, in seconds. Both are far beyond the defaults; they are there so that
/// a wrong unit is found.
const MAX_ROOT_SECONDS: i64 = 20 * 366 * 86_400;
const MAX_INTERMEDIATE_SECONDS: i64 = 366 * 86_400;

/// Checks a certificate that `issuer` shall sign.
///
/// # Errors
/// [`LintError`] names the first rule that is broken.
pub fn lint(tbs: &Tbs, issuer: &Certificate) -> Result<LintedTbs, LintError> {
    let order = &tbs.order;
    check_issuer(order.profile, issuer)?;
    match issuer.spiffe_id() {
        Some(id) if id.trust_domain() == order.id.trust_domain() => {}
        // X509-SVID section 3.2 does not ask an authority for an ID, and an upstream CA has none.
        None if order.profile == Profile::Intermediate && issuer.uri_sans().is_empty() => {}
        _ => return Err(LintError::TrustDomain),
    }
    if order.public_key == *issuer.public_key() {
        return Err(LintError::Key);
    }
    let issuer_key_id = issuer.subject_key_id().ok_or(LintError::Issuer)?;
    let algorithm = SignatureAlgorithm::default_for(issuer.public_key().algorithm());
    check(tbs, issuer.subject_der(), issuer_key_id, algorithm)?;
    let validity = order.validity;
    if validity.not_before() < issuer.not_before() || validity.not_after() > issuer.not_after() {
        return Err(LintError::OutlivesIssuer);
    }
    Ok(LintedTbs::new(tbs, Some(issuer.clone())))
}

/// Checks a root, which signs itself.
///
/// # Errors
/// As [`lint`].
pub fn lint_root(tbs: &Tbs) -> Result<LintedTbs, LintError> {
    let order = &tbs.order;
    if order.profile != Profile::Root {
        return Err(LintError::Issuer);
    }
    let key = &order.public_key;
    let algorithm = SignatureAlgorithm::default_for(key.algorithm());
    check(tbs, &name_of(Profile::Root, key), &key.key_id(), algorithm)?;
    Ok(LintedTbs::new(tbs, None))
}

impl LintedTbs {
    fn new(tbs: &Tbs, issuer: Option<Certificate>) -> Self {
        let order = &tbs.order;
        Self {
            der: tbs.der.clone(),
            serial: order.serial,
            validity: order.validity,
            profile: order.profile,
            issuer,
        }
    }

    /// The TBSCertificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> SerialNumber {
        self.serial
    }

    /// When it is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// What it is for.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The issuer that it was linted for; none if it issues itself.
    #[must_use]
    pub fn issuer(&self) -> Option<&Certificate> {
        self.issuer.as_ref()
    }
}

impl LintError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Attributes => "ca.lint-attributes",
            Self::Extension(_) => "ca.lint-extension",
            Self::Identity => "ca.lint-identity",
            Self::Issuer => "ca.lint-issuer",
            Self::IssuerName => "ca.lint-issuer-name",
            Self::Key => "ca.lint-key",
            Self::Names => "ca.lint-names",
            Self::OutlivesIssuer => "ca.lint-outlives-issuer",
            Self::Serial => "ca.lint-serial",
            Self::SignatureAlgorithm => "ca.lint-signature-algorithm",
            Self::Structure => "ca.lint-structure",
            Self::Subject => "ca.lint-subject",
            Self::TrustDomain => "ca.lint-trust-domain",
            Self::Validity => "ca.lint-validity",
        }
    }
}

/// A root signs intermediates and nothing else, an intermediate signs leaves and nothing else.
fn check_issuer(profile: Profile, issuer: &Certificate) -> Result<(), LintError> {
    let constraints = issuer.basic_constraints().filter(|constraints| constraints.ca);
    let constraints = constraints.ok_or(LintError::Issuer)?;
    let fits = match profile {
        Profile::Root => false,
        Profile::Intermediate => constraints.path_length.is_none_or(|length| length >= 1),
        Profile::Workload | Profile::Agent | Profile::Authority => constraints.path_length == Some(0),
    };
    let may_sign = issuer.key_usage().is_some_and(|usage| usage.key_cert_sign());
    if fits && may_sign { Ok(()) } else { Err(LintError::Issuer) }
}

/// Everything that is the same for all profiles.
fn check(
    tbs: &Tbs,
    issuer: &[u8],
    issuer_key_id: &[u8],
    algorithm: SignatureAlgorithm,
) -> Result<(), LintError> {
    let order = &tbs.order;
    check_order(order)?;
    let fields = fields::read(&tbs.der).ok_or(LintError::Structure)?;
    // RFC 5280 section 4.1.2.2: positive, at most 20 octets. Ours have 16, and come from the order.
    if fields.serial != order.serial.as_bytes() || fields.serial.first().is_none_or(|first| *first >= 0x80) {
        return Err(LintError::Serial);
    }
    if fields.algorithm != algorithm.algorithm_identifier_der() {
        return Err(LintError::SignatureAlgorithm);
    }
    if fields.issuer != issuer || issuer.len() <= 2 {
        return Err(LintError::IssuerName);
    }
    if fields.not_before != order.validity.not_before() || fields.not_after != order.validity.not_after() {
        return Err(LintError::Validity);
    }
    if fields.subject != name_of(order.profile, &order.public_key) {
        return Err(LintError::Subject);
    }
    if fields.public_key != order.public_key.spki_der() {
        return Err(LintError::Key);
    }
    extensions::check(fields.extensions, order, issuer_key_id)
}

/// What no order may ask for, whatever its bytes are.
fn check_order(order: &Order) -> Result<(), LintError> {
    let acceptable = match order.public_key.algorithm() {
        PublicKeyAlgorithm::EcP256
        | PublicKeyAlgorithm::EcP384
        | PublicKeyAlgorithm::EcP521
        | PublicKeyAlgorithm::Ed25519 => true,
        // More bits cost every peer more than they bring anybody.
        PublicKeyAlgorithm::Rsa { bits } => (2048..=4096).contains(&bits),
    };
    if !acceptable {
        return Err(LintError::Key);
    }
    let id = &order.id;
    let fits = match order.profile {
        // X509-SVID section 3.1: an authority's SPIFFE ID has no path.
        Profile::Root | Profile::Intermediate => {
            id.is_trust_domain() && order.dns_names.is_empty() && order.attributes.is_none()
        }
        Profile::Workload => !id.is_trust_domain() && !reserved::is_reserved(id),
        Profile::Agent => reserved::agent_site(id).is_some(),
        Profile::Authority => reserved::authority_server(id).is_some(),
    };
    if !fits {
        return Err(LintError::Identity);
    }
    if !order.profile.is_ca() && order.attributes.is_none() {
        return Err(LintError::Attributes);
    }
    let seconds = order.validity.not_after().as_secs() - order.validity.not_before().as_secs();
    let longest = if order.profile == Profile::Root { MAX_ROOT_SECONDS } else { MAX_INTERMEDIATE_SECONDS };
    if (1..=longest).contains(&seconds) { Ok(()) } else { Err(LintError::Validity) }
}

#[cfg(test)]
mod tests;
