use std::cell::RefCell;
use std::sync::Arc;

use rustls_pki_types::{
    CertificateDer, Der, SignatureVerificationAlgorithm, TrustAnchor, UnixTime as WebpkiTime,
};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath, aws_lc_rs as algorithms,
};

use super::X509Error;
use super::profile;
use crate::attributes::Attributes;
use crate::bundle::{BundleMap, TrustBundle};
use crate::certificate::Certificate;
use crate::id::SpiffeId;
use crate::revocation::Revocations;
use crate::time::UnixTime;

/// Most certificates of a presented chain, the leaf included.
pub const MAX_CHAIN_LENGTH: usize = 8;

/// Most intermediates of one name that may take part. Two are a key change; with more of them whoever connects could
/// make us check a hundred signatures, by seven certificates of one name that each could have signed each other.
pub(super) const MAX_NAMESAKES: usize = 2;

/// Everything but MD5, SHA-1, DSA, RSA below 2048 and above 8192 bits.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// An X509-SVID that [`verify`] has verified. There is no other way to get one.
///
/// It holds the very certificate whose signature was checked, so nothing is ever read from other bytes.
#[derive(Clone, Debug)]
pub struct VerifiedX509Svid {
    id: SpiffeId,
    leaf: Certificate,
    authorities: Vec<Certificate>,
    not_after: UnixTime,
}

impl VerifiedX509Svid {
    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The leaf certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The authorities of the verified path: the leaf's issuer first, the root of the bundle last.
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }

    /// What the authority attested about this launch of the workload.
    pub fn attributes(&self) -> Option<&Attributes> {
        self.leaf.attributes()
    }

    /// The last second at which the verified path, from leaf to root, is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Looks at revocations again, for a connection that outlives the knowledge of its handshake. It does not verify
    /// again: neither the time nor the bundles are looked at.
    ///
    /// # Errors
    /// [`X509Error::Revoked`] and [`X509Error::DistrustedAuthority`], as [`verify`] would say now.
    pub fn check_revocations(&self, bundles: &BundleMap) -> Result<(), X509Error> {
        let Some(revocations) = bundles.revocations(self.id.trust_domain()) else { return Ok(()) };
        let mut key_ids = self.authorities.iter().filter_map(Certificate::subject_key_id);
        if let Some(key_id) = key_ids.find(|key_id| revocations.is_distrusted(key_id)) {
            return Err(X509Error::DistrustedAuthority(hex(key_id)));
        }
        revocations.of_certificate(&self.leaf).map_or(Ok(()), |subject| Err(X509Error::Revoked(subject)))
    }
}

/// Verifies that a chain of certificates, leaf first, proves a SPIFFE ID of a trust domain of `bundles` at
/// the time `now` (X509-SVID section 5, RFC 5280 section 6).
///
/// The path is built by rustls-webpki, from candidates that kept our own profile before: each certificate on
/// the path, the root in the bundle included, passed [`profile`], is valid at `now` and belongs to the trust
/// domain of the leaf. Superfluous certificates are tolerated if they are well-formed, and never used.
///
/// What the trust domain has [revoked](crate::revocation), as far as `bundles` knows, is refused: the leaf by its
/// instance, ID, agent or site, and every path through an authority whose key is distrusted.
///
/// It does not check who the caller wants to talk to, and it does not check that the peer holds the private
/// key: that is for an authorizer, and for TLS.
///
/// # Errors
/// [`X509Error`] with the reason that is nearest to the leaf.
pub fn verify(
    chain_der: &[&[u8]],
    bundles: &BundleMap,
    now: UnixTime,
) -> Result<VerifiedX509Svid, X509Error> {
    let chain = parse_chain(chain_der, MAX_CHAIN_LENGTH)?;
    let (leaf, presented) = chain.split_first().ok_or(X509Error::Empty)?;
    let id = profile::check_leaf(leaf).map_err(X509Error::Leaf)?;
    check_time(leaf, 0, now)?;
    let bundle = bundles
        .get(id.trust_domain())
        .ok_or_else(|| X509Error::UnknownTrustDomain(id.trust_domain().clone()))?;

    let revocations = bundles.revocations(id.trust_domain()).map(Arc::as_ref);
    let mut candidates = Candidates { id, now, revocations, refused: None };
    let intermediates = candidates.intermediates(presented)?;
    let anchors = candidates.anchors(leaf, &intermediates, bundle, chain.len());
    let path = build_path(leaf, &intermediates, &anchors, now, KeyIdentifiers::Required)
        // What was wrong with a candidate explains best why no path was found without it.
        .map_err(|error| match error {
            X509Error::UnknownAuthority => candidates.refused.unwrap_or(error),
            error => error,
        })?;
    let svid = VerifiedX509Svid {
        id: id.clone(),
        leaf: leaf.clone(),
        authorities: path.authorities,
        not_after: path.not_after,
    };
    svid.check_revocations(bundles)?;
    Ok(svid)
}

/// The certificates of a chain that is not too long.
pub(super) fn parse_chain(chain_der: &[&[u8]], longest: usize) -> Result<Vec<Certificate>, X509Error> {
    if chain_der.len() > longest {
        return Err(X509Error::ChainTooLong);
    }
    let parse = |(index, der): (usize, &&[u8])| {
        Certificate::from_der(der).map_err(|source| X509Error::Certificate { index, source })
    };
    chain_der.iter().enumerate().map(parse).collect()
}

/// A path that was found.
#[derive(Debug)]
pub(super) struct Path {
    /// The issuers on it, from the leaf's to the root.
    pub(super) authorities: Vec<Certificate>,
    /// The end of its validity.
    pub(super) not_after: UnixTime,
}

/// Sorts out what may stand on a path, and remembers the first reason why something may not.
struct Candidates<'a> {
    id: &'a SpiffeId,
    now: UnixTime,
    revocations: Option<&'a Revocations>,
    refused: Option<X509Error>,
}

impl Candidates<'_> {
    fn intermediates<'c>(&mut self, presented: &'c [Certificate]) -> Result<Vec<&'c Certificate>, X509Error> {
        let mut fit: Vec<&Certificate> = Vec::with_capacity(presented.len());
        for (position, certificate) in presented.iter().enumerate() {
            let index = position + 1;
            let verdict = profile::check_ca(certificate)
                .map_err(|source| X509Error::Intermediate { index, source })
                .and_then(|authority| self.check(certificate, authority, index));
            match verdict {
                Ok(()) if fit.contains(&certificate) => {}
                Ok(()) => {
                    let namesake = |other: &&&Certificate| other.subject_der() == certificate.subject_der();
                    if fit.iter().filter(namesake).count() == MAX_NAMESAKES {
                        return Err(X509Error::TooComplex);
                    }
                    fit.push(certificate);
                }
                Err(error) => drop(self.refused.get_or_insert(error)),
            }
        }
        Ok(fit)
    }

    /// The authorities of the bundle that a presented certificate names by name and key identifier, which every authority
    /// has. With one path, that is one authority, however many of one name the bundle has.
    fn anchors<'b>(
        &mut self,
        leaf: &Certificate,
        intermediates: &[&Certificate],
        bundle: &'b TrustBundle,
        index: usize,
    ) -> Vec<&'b Certificate> {
        let named = |authority: &Certificate| {
            std::iter::once(leaf).chain(intermediates.iter().copied()).any(|certificate| {
                certificate.issuer_der() == authority.subject_der()
                    && certificate.authority_key_id() == authority.subject_key_id()
            })
        };
        let mut fit = Vec::new();
        for authority in bundle.x509_authorities().iter().filter(|authority| named(authority)) {
            let verdict = profile::check_ca(authority)
                .map_err(X509Error::Authority)
                .and_then(|id| self.check(authority, id, index));
            match verdict {
                Ok(()) => fit.push(authority),
                Err(error) => drop(self.refused.get_or_insert(error)),
            }
        }
        // A key that was certified again and again is one anchor, by its newest certificates. Each of them would be tried
        // for each way up to it.
        fit.sort_by_key(|authority| std::cmp::Reverse((authority.not_before(), authority.not_after())));
        let mut kept: Vec<&Certificate> = Vec::with_capacity(fit.len());
        for authority in fit {
            let same = |other: &&&Certificate| {
                other.subject_der() == authority.subject_der() && other.public_key() == authority.public_key()
            };
            if kept.iter().filter(same).count() < MAX_NAMESAKES {
                kept.push(authority);
            }
        }
        kept
    }

    fn check(
        &self,
        certificate: &Certificate,
        authority: Option<&SpiffeId>,
        index: usize,
    ) -> Result<(), X509Error> {
        if let Some(authority) = authority.filter(|id| id.trust_domain() != self.id.trust_domain()) {
            return Err(X509Error::ForeignAuthority {
                leaf: self.id.trust_domain().clone(),
                authority: authority.trust_domain().clone(),
            });
        }
        if let (Some(revocations), Some(key_id)) = (self.revocations, certificate.subject_key_id())
            && revocations.is_distrusted(key_id)
        {
            return Err(X509Error::DistrustedAuthority(hex(key_id)));
        }
        check_time(certificate, index, self.now)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Whether certificates must name their issuer's key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KeyIdentifiers {
    /// Every certificate names it (RFC 5280 section 4.2.1.1).
    Required,
    /// Where both sides have one, they must agree.
    IfPresent,
}

/// RFC 5280 section 4.1.2.5: both ends are included.
pub(super) fn check_time(certificate: &Certificate, index: usize, now: UnixTime) -> Result<(), X509Error> {
    let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
    if now < not_before {
        return Err(X509Error::NotYetValid { index, not_before, now });
    }
    if now > not_after {
        return Err(X509Error::Expired { index, not_after, now });
    }
    Ok(())
}

/// Finds a path from the leaf to one of the authorities.
pub(super) fn build_path(
    leaf: &Certificate,
    intermediates: &[&Certificate],
    authorities: &[&Certificate],
    now: UnixTime,
    identifiers: KeyIdentifiers,
) -> Result<Path, X509Error> {
    if authorities.is_empty() {
        return Err(X509Error::UnknownAuthority);
    }
    // Nothing is copied or parsed again for the anchors: these are slices of the certificates of the bundle.
    let anchors: Vec<TrustAnchor<'_>> = authorities.iter().map(|authority| trust_anchor(authority)).collect();
    let intermediates_der: Vec<CertificateDer<'_>> =
        intermediates.iter().map(|certificate| CertificateDer::from(certificate.der())).collect();
    let leaf_der = CertificateDer::from(leaf.der());
    let end_entity = EndEntityCert::try_from(&leaf_der).map_err(|error| describe(&error))?;
    let seconds = u64::try_from(now.as_secs()).unwrap_or(0);
    let time = WebpkiTime::since_unix_epoch(std::time::Duration::from_secs(seconds));

    let found: RefCell<Result<Path, X509Error>> = RefCell::new(Err(X509Error::UnknownAuthority));
    let judge = |path: &VerifiedPath<'_>| {
        let verdict = judge_path(path, leaf, intermediates, authorities, &anchors, identifiers);
        let accepted = verdict.is_ok();
        *found.borrow_mut() = verdict;
        // A path that was refused here may not be the only one.
        if accepted { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
    };
    let outcome = end_entity.verify_for_usage(
        ALGORITHMS,
        &anchors,
        &intermediates_der,
        time,
        UsagesWereChecked,
        None,
        Some(&judge),
    );
    match outcome {
        Ok(_) => found.into_inner(),
        Err(webpki::Error::UnknownIssuer) => {
            Err(found.into_inner().err().unwrap_or(X509Error::UnknownAuthority))
        }
        Err(error) => Err(describe(&error)),
    }
}

/// What certificates of a path say about each other, which webpki doesn't look at or doesn't see: of an
/// anchor it knows name, key and name constraints only.
fn judge_path(
    path: &VerifiedPath<'_>,
    leaf: &Certificate,
    intermediates: &[&Certificate],
    authorities: &[&Certificate],
    anchors: &[TrustAnchor<'_>],
    identifiers: KeyIdentifiers,
) -> Result<Path, X509Error> {
    let anchor = anchors
        .iter()
        .position(|anchor| std::ptr::eq(anchor, path.anchor()))
        .and_then(|position| authorities.get(position))
        .ok_or(X509Error::UnknownAuthority)?;
    let mut below = leaf;
    let mut found = Path { authorities: Vec::new(), not_after: leaf.not_after() };
    let on_path = path.intermediate_certificates().map(|on_path| {
        let der = on_path.der();
        intermediates.iter().find(|candidate| candidate.der() == der.as_ref())
    });
    for (authorities_below, issuer) in on_path.chain([Some(anchor)]).enumerate() {
        let issuer = issuer.ok_or(X509Error::UnknownAuthority)?;
        let (named, own) = (below.authority_key_id(), issuer.subject_key_id());
        let may_lack = identifiers == KeyIdentifiers::IfPresent && (named.is_none() || own.is_none());
        if named != own && !may_lack {
            return Err(X509Error::KeyIdentifier);
        }
        // RFC 5280 section 4.2.1.9, counting self-issued certificates too, as webpki does.
        let limit = issuer.basic_constraints().and_then(|constraints| constraints.path_length);
        if limit.is_some_and(|limit| authorities_below as u64 > limit) {
            return Err(X509Error::PathLength);
        }
        found.not_after = found.not_after.min(issuer.not_after());
        found.authorities.push((*issuer).clone());
        below = issuer;
    }
    Ok(found)
}

fn trust_anchor(authority: &Certificate) -> TrustAnchor<'_> {
    TrustAnchor {
        subject: Der::from_slice(content(authority.subject_der())),
        subject_public_key_info: Der::from_slice(content(authority.public_key().spki_der())),
        name_constraints: authority.name_constraints().map(Der::from_slice),
    }
}

/// The content of a well-formed element, without tag and length.
fn content(element: &[u8]) -> &[u8] {
    bonafide_crypto::asn1::Reader::new(element).any().map_or(&[], |element| element.content)
}

/// The profile has judged the usages of each candidate, more strictly than webpki could.
struct UsagesWereChecked;

impl ExtendedKeyUsageValidator for UsagesWereChecked {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

fn describe(error: &webpki::Error) -> X509Error {
    use webpki::Error;

    match error {
        Error::InvalidSignatureForPublicKey => X509Error::Signature,
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Error::SignatureAlgorithmMismatch => X509Error::SignatureAlgorithm,
        Error::PathLenConstraintViolated => X509Error::PathLength,
        Error::NameConstraintViolation | Error::MalformedNameConstraint => X509Error::NameConstraints,
        Error::UnknownIssuer => X509Error::UnknownAuthority,
        Error::MaximumPathDepthExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumSignatureChecksExceeded
        | Error::MaximumNameConstraintComparisonsExceeded => X509Error::TooComplex,
        other => X509Error::Path(format!("{other:?}")),
    }
}
