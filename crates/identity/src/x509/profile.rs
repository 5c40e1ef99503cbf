//! What RFC 5280 and X509-SVID demand of a certificate by itself, whoever signed it.
//!
//! [`check_leaf`] and [`check_ca`] are applied to every certificate of a verified path, the root's own
//! included, and by the linter of the authority before it signs. They are as strict as the standards are
//! with those who issue certificates, where most verifiers are lenient: see the table of tests.
//!
//! What these checks don't see: signatures, the validity at a given time, and how certificates fit together.

use crate::certificate::Certificate;
use crate::id::{IdError, SpiffeId};

/// What a certificate has or lacks against the profile of X509-SVIDs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProfileError {
    /// No URI name: there is no SPIFFE ID.
    #[error("the certificate has no URI name, so it has no SPIFFE ID")]
    NoUri,
    /// Several URI names (X509-SVID section 2).
    #[error("the certificate has more than one URI name")]
    SeveralUris,
    /// A URI name that is not a SPIFFE ID.
    #[error("the URI name is not a SPIFFE ID: {0}")]
    Id(IdError),
    /// A leaf with the ID of a trust domain itself (X509-SVID section 5.2).
    #[error("the SPIFFE ID of the leaf has no path")]
    LeafWithoutPath,
    /// An authority with a path in its ID (X509-SVID section 3.1).
    #[error("the SPIFFE ID of the authority has a path")]
    AuthorityWithPath,
    /// A leaf that is an authority.
    #[error("the leaf is a certificate authority")]
    LeafIsAuthority,
    /// An authority without basic constraints, or with cA false.
    #[error("the authority does not have `cA` true in its basic constraints")]
    NotAnAuthority,
    /// Basic constraints of an authority that are not critical (RFC 5280 section 4.2.1.9).
    #[error("the basic constraints of the authority are not critical")]
    BasicConstraintsNotCritical,
    /// No key usage (X509-SVID section 4.3).
    #[error("the key usage is missing")]
    NoKeyUsage,
    /// A key usage that is not critical (X509-SVID section 4.3).
    #[error("the key usage is not critical")]
    KeyUsageNotCritical,
    /// A leaf without digitalSignature.
    #[error("the key usage of the leaf lacks `digitalSignature`")]
    NoDigitalSignature,
    /// A leaf whose key may sign certificates or revocation lists.
    #[error("the key usage of the leaf has `keyCertSign` or `cRLSign`")]
    LeafMaySign,
    /// An authority whose key may not sign certificates.
    #[error("the key usage of the authority lacks `keyCertSign`")]
    NoKeyCertSign,
    /// Extended key usages without both of serverAuth and clientAuth (X509-SVID section 4.4).
    #[error("the extended key usage lacks `serverAuth` or `clientAuth`")]
    ExtendedKeyUsage,
    /// Extended key usages of another PKI's certificate without clientAuth (RFC 5280 section 4.2.1.12).
    #[error("the extended key usage lacks `clientAuth`")]
    NoClientAuth,
    /// No issuer name (RFC 5280 section 4.1.2.4).
    #[error("the issuer's name is empty")]
    NoIssuer,
    /// An authority without a name (RFC 5280 section 4.1.2.6).
    #[error("the authority's name is empty")]
    NoSubject,
    /// An empty subject with a subject alternative name that is not critical (RFC 5280 section 4.1.2.6).
    #[error("the subject is empty, and the subject alternative name is not critical")]
    AlternativeNameNotCritical,
    /// Name constraints in a leaf (RFC 5280 section 4.2.1.10).
    #[error("the leaf has name constraints")]
    LeafNameConstraints,
    /// Name constraints that are not critical (RFC 5280 section 4.2.1.10).
    #[error("the name constraints are not critical")]
    NameConstraintsNotCritical,
    /// An authority without a subject key identifier (RFC 5280 section 4.2.1.2).
    #[error("the authority has no subject key identifier")]
    NoSubjectKeyId,
    /// An issued certificate without an authority key identifier (RFC 5280 section 4.2.1.1).
    #[error("the authority key identifier is missing")]
    NoAuthorityKeyId,
}

impl ProfileError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoUri => "x509.no-uri",
            Self::SeveralUris => "x509.several-uris",
            Self::Id(_) => "x509.spiffe-id",
            Self::LeafWithoutPath => "x509.leaf-without-path",
            Self::AuthorityWithPath => "x509.authority-with-path",
            Self::LeafIsAuthority => "x509.leaf-is-authority",
            Self::NotAnAuthority => "x509.not-an-authority",
            Self::BasicConstraintsNotCritical => "x509.basic-constraints-not-critical",
            Self::NoKeyUsage => "x509.no-key-usage",
            Self::KeyUsageNotCritical => "x509.key-usage-not-critical",
            Self::NoDigitalSignature => "x509.no-digital-signature",
            Self::LeafMaySign => "x509.leaf-may-sign",
            Self::NoKeyCertSign => "x509.no-key-cert-sign",
            Self::ExtendedKeyUsage => "x509.extended-key-usage",
            Self::NoClientAuth => "x509.no-client-auth",
            Self::NoIssuer => "x509.no-issuer",
            Self::NoSubject => "x509.no-subject",
            Self::AlternativeNameNotCritical => "x509.alternative-name-not-critical",
            Self::LeafNameConstraints => "x509.leaf-name-constraints",
            Self::NameConstraintsNotCritical => "x509.name-constraints-not-critical",
            Self::NoSubjectKeyId => "x509.no-subject-key-id",
            Self::NoAuthorityKeyId => "x509.no-authority-key-id",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Id(error) => error.hint(),
            Self::LeafIsAuthority | Self::LeafMaySign => {
                "an authority's certificate can't authenticate anybody: present a leaf"
            }
            Self::NoUri => "present an X509-SVID; this is another kind of certificate",
            _ => "issue the certificate again with an authority that keeps RFC 5280 and X509-SVID",
        }
    }
}

/// Checks that a certificate can be the leaf of an X509-SVID, and returns its SPIFFE ID.
///
/// # Errors
/// [`ProfileError`] names the first thing that is wrong.
pub fn check_leaf(leaf: &Certificate) -> Result<&SpiffeId, ProfileError> {
    // X509-SVID section 4.1: cA is false; RFC 5280 writes that as an empty or absent extension.
    if leaf.is_ca() {
        return Err(ProfileError::LeafIsAuthority);
    }
    // X509-SVID section 4.3.
    let usage = leaf.key_usage().ok_or(ProfileError::NoKeyUsage)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(ProfileError::LeafMaySign);
    }
    if !usage.digital_signature() {
        return Err(ProfileError::NoDigitalSignature);
    }
    if !usage.critical {
        return Err(ProfileError::KeyUsageNotCritical);
    }
    check_extended_key_usage(leaf, false)?;
    if leaf.name_constraints_are_critical().is_some() {
        return Err(ProfileError::LeafNameConstraints);
    }
    check_names(leaf)?;
    if leaf.authority_key_id().is_none() {
        return Err(ProfileError::NoAuthorityKeyId);
    }
    let id = spiffe_id(leaf)?.ok_or(ProfileError::NoUri)?;
    if id.is_trust_domain() { Err(ProfileError::LeafWithoutPath) } else { Ok(id) }
}

/// Checks that a certificate can be an authority on the path of an X509-SVID, and returns its SPIFFE ID if
/// it has one, which is then that of a trust domain.
///
/// # Errors
/// [`ProfileError`] names the first thing that is wrong.
pub fn check_ca(authority: &Certificate) -> Result<Option<&SpiffeId>, ProfileError> {
    let constraints = authority
        .basic_constraints()
        .filter(|constraints| constraints.ca)
        .ok_or(ProfileError::NotAnAuthority)?;
    if !constraints.critical {
        return Err(ProfileError::BasicConstraintsNotCritical);
    }
    let usage = authority.key_usage().ok_or(ProfileError::NoKeyUsage)?;
    if !usage.key_cert_sign() {
        return Err(ProfileError::NoKeyCertSign);
    }
    if !usage.critical {
        return Err(ProfileError::KeyUsageNotCritical);
    }
    check_extended_key_usage(authority, true)?;
    if authority.name_constraints_are_critical() == Some(false) {
        return Err(ProfileError::NameConstraintsNotCritical);
    }
    if is_empty_name(authority.subject_der()) {
        return Err(ProfileError::NoSubject);
    }
    check_names(authority)?;
    if authority.subject_key_id().is_none() {
        return Err(ProfileError::NoSubjectKeyId);
    }
    // RFC 5280 section 4.2.1.1: only a self-signed certificate may leave it out.
    if authority.authority_key_id().is_none() && !authority.is_self_issued() {
        return Err(ProfileError::NoAuthorityKeyId);
    }
    let id = spiffe_id(authority)?;
    if id.is_some_and(|id| !id.is_trust_domain()) { Err(ProfileError::AuthorityWithPath) } else { Ok(id) }
}

/// X509-SVID section 4.4. An authority may be limited too: then to both purposes at least, or to any.
fn check_extended_key_usage(certificate: &Certificate, any_suffices: bool) -> Result<(), ProfileError> {
    match certificate.extended_key_usage() {
        Some(usage) if !(usage.server_auth && usage.client_auth || usage.any && any_suffices) => {
            Err(ProfileError::ExtendedKeyUsage)
        }
        _ => Ok(()),
    }
}

fn check_names(certificate: &Certificate) -> Result<(), ProfileError> {
    if is_empty_name(certificate.issuer_der()) {
        return Err(ProfileError::NoIssuer);
    }
    // RFC 5280 section 4.1.2.6.
    if is_empty_name(certificate.subject_der()) && certificate.subject_alt_name_is_critical() == Some(false) {
        return Err(ProfileError::AlternativeNameNotCritical);
    }
    Ok(())
}

pub(super) fn is_empty_name(name: &[u8]) -> bool {
    // A SEQUENCE of length zero.
    name == [0x30, 0]
}

fn spiffe_id(certificate: &Certificate) -> Result<Option<&SpiffeId>, ProfileError> {
    match (certificate.uri_sans(), certificate.spiffe_id()) {
        ([], _) => Ok(None),
        ([_], Some(id)) => Ok(Some(id)),
        ([uri], None) => {
            // Parsed again only to say why it is none.
            Err(ProfileError::Id(SpiffeId::parse_canonical(uri).err().unwrap_or(IdError::NotCanonical)))
        }
        _ => Err(ProfileError::SeveralUris),
    }
}
