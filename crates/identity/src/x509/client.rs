//! Client certificates of PKIs that are not SPIFFE's: those that nodes have had before they knew of us.

use super::X509Error;
use super::path::{KeyIdentifiers, MAX_NAMESAKES, build_path, check_time, parse_chain};
use super::profile::{ProfileError, is_empty_name};
use crate::certificate::Certificate;
use crate::time::UnixTime;

/// Most certificates of a presented chain: the leaf and four intermediates.
pub const MAX_CLIENT_CHAIN: usize = 5;

/// A client certificate that [`verify_client`] has verified. There is no other way to get one.
#[derive(Clone, Debug)]
pub struct VerifiedClient {
    leaf: Certificate,
    issuers: Vec<Certificate>,
    not_after: UnixTime,
}

impl VerifiedClient {
    /// The very certificate whose signature was checked.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The authorities of the verified path, from the leaf's issuer to the root.
    pub fn issuers(&self) -> &[Certificate] {
        &self.issuers
    }

    /// The root that the path ends in.
    pub fn root(&self) -> Option<&Certificate> {
        self.issuers.last()
    }

    /// The last second at which the verified path is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }
}

/// Verifies that a chain of certificates, leaf first, leads to one of these roots at the time `now`, and that its leaf
/// may authenticate a client (RFC 5280 section 6).
///
/// Where RFC 5280 says "should" and other PKIs don't, it is more lenient than [`verify`](super::verify): key usages
/// needn't be critical, and key identifiers may be missing (where both are there, they must agree). It is as strict with
/// all else: the leaf is no authority and has `digitalSignature`; extended key usages, on any certificate of the path,
/// allow `clientAuth`; authorities have critical basic constraints and `keyCertSign`; the root itself is valid too.
///
/// It does not look at revocation lists, and it does not check that the peer holds the private key.
///
/// # Errors
/// [`X509Error`] with the reason that is nearest to the leaf.
pub fn verify_client(
    chain_der: &[&[u8]],
    roots: &[Certificate],
    now: UnixTime,
) -> Result<VerifiedClient, X509Error> {
    let chain = parse_chain(chain_der, MAX_CLIENT_CHAIN)?;
    let (leaf, presented) = chain.split_first().ok_or(X509Error::Empty)?;
    check_leaf(leaf).map_err(X509Error::Leaf)?;
    check_time(leaf, 0, now)?;

    let mut refused = None;
    let mut intermediates: Vec<&Certificate> = Vec::with_capacity(presented.len());
    for (position, certificate) in presented.iter().enumerate() {
        let index = position + 1;
        let verdict = check_client_authority(certificate)
            .map_err(|source| X509Error::Intermediate { index, source })
            .and_then(|()| check_time(certificate, index, now));
        match verdict {
            Ok(()) if intermediates.contains(&certificate) => {}
            Ok(()) => {
                let namesake = |other: &&&Certificate| other.subject_der() == certificate.subject_der();
                if intermediates.iter().filter(namesake).count() == MAX_NAMESAKES {
                    return Err(X509Error::TooComplex);
                }
                intermediates.push(certificate);
            }
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    let mut anchors = Vec::new();
    for root in roots.iter().filter(|root| chain.iter().any(|below| is_named(below, root))) {
        let verdict = check_client_authority(root)
            .map_err(X509Error::Authority)
            .and_then(|()| check_time(root, chain.len(), now));
        match verdict {
            Ok(()) => anchors.push(root),
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    let found = build_path(leaf, &intermediates, &anchors, now, KeyIdentifiers::IfPresent);
    let found = found.map_err(|error| match error {
        X509Error::UnknownAuthority => refused.unwrap_or(error),
        error => error,
    })?;
    Ok(VerifiedClient { leaf: leaf.clone(), issuers: found.authorities, not_after: found.not_after })
}

/// Checks that a certificate can be an authority of clients: what is asked of a root before it is trusted.
///
/// # Errors
/// [`ProfileError`] names the first thing that is wrong.
pub fn check_client_authority(authority: &Certificate) -> Result<(), ProfileError> {
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
    if authority.name_constraints_are_critical() == Some(false) {
        return Err(ProfileError::NameConstraintsNotCritical);
    }
    if is_empty_name(authority.subject_der()) {
        return Err(ProfileError::NoSubject);
    }
    check_client_auth(authority)
}

fn check_leaf(leaf: &Certificate) -> Result<(), ProfileError> {
    if leaf.is_ca() {
        return Err(ProfileError::LeafIsAuthority);
    }
    let usage = leaf.key_usage().ok_or(ProfileError::NoKeyUsage)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(ProfileError::LeafMaySign);
    }
    if !usage.digital_signature() {
        return Err(ProfileError::NoDigitalSignature);
    }
    if leaf.name_constraints_are_critical().is_some() {
        return Err(ProfileError::LeafNameConstraints);
    }
    check_client_auth(leaf)
}

/// RFC 5280 section 4.2.1.12: without the extension, a key serves every purpose.
fn check_client_auth(certificate: &Certificate) -> Result<(), ProfileError> {
    match certificate.extended_key_usage() {
        Some(usage) if !usage.client_auth && !usage.any => Err(ProfileError::NoClientAuth),
        _ => Ok(()),
    }
}

/// Whether `below` says that `authority` has issued it.
fn is_named(below: &Certificate, authority: &Certificate) -> bool {
    let named = below.authority_key_id();
    let own = authority.subject_key_id();
    below.issuer_der() == authority.subject_der() && (named.is_none() || own.is_none() || named == own)
}
