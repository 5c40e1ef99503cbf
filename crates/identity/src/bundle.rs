//! Trust bundles and maps of them, in the SPIFFE bundle format (SPIFFE_Trust_Domain_and_Bundle.md).
//!
//! Reading is strict where the standard leaves no choice (duplicate members, malformed keys, numbers out of
//! range) and tolerant where it demands tolerance: elements with an unknown `kty` or `use`, without `use`,
//! or without certificate are skipped (sections 4.2 and X509-SVID 6.1). WIT keys are among the skipped.
//!
//! A certificate in a bundle is well-formed; whether it keeps the profile of an authority is judged when a
//! path ends at it, so that one unusable root neither hides itself nor takes the other roots along.
//!
//! An element that is malformed is left out and reported by [`TrustBundle::skipped`]: less is trusted then, never more,
//! and one bad root can't keep a whole trust domain from its new ones. (The standard demands a malformed document to be
//! refused, section 4; of malformed elements it only says which to ignore.) A bundle of which nothing is left, or no
//! root although it had some, is refused, and so is one whose structure is in doubt.

mod error;
mod json;
mod map;

use std::collections::BTreeMap;

use bonafide_crypto::key::PublicKey;

pub use self::error::BundleError;
pub use self::map::BundleMap;
use crate::certificate::Certificate;
use crate::id::TrustDomain;

/// Most bytes of one bundle.
pub const MAX_BUNDLE_LENGTH: usize = 1024 * 1024;
/// Most keys of one bundle.
pub const MAX_KEYS: usize = 512;
/// Longest key ID in bytes.
pub const MAX_KEY_ID_LENGTH: usize = 256;

/// What is trusted to speak for one trust domain: roots of X509-SVIDs, and keys of JWT-SVIDs.
///
/// An empty bundle is a valid one, and means that nothing of the trust domain is to be trusted (section 4.1.3).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    x509_authorities: Vec<Certificate>,
    jwt_authorities: BTreeMap<String, PublicKey>,
    tainted: Vec<TaintedKey>,
    skipped: Vec<BundleError>,
    /// `spiffe_sequence`: grows with each change of the content.
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint`: how often consumers should look for a newer one, in seconds.
    pub refresh_hint: Option<u64>,
}

/// A key of an authority that is believed still, but not for long: whoever holds what it signed shall get it renewed now.
///
/// A member of our own in the document, `bonafide_tainted`, which other consumers ignore. Beside roots and JWT keys it
/// names intermediates, which no bundle holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaintedKey {
    /// Subject key identifier of an X.509 authority, or the key ID of a JWT key.
    pub key_id: Box<[u8]>,
    /// Whether it signs JWT-SVIDs.
    pub is_jwt: bool,
    /// Over how many seconds the renewals are to be spread.
    pub renew_within: u32,
}

impl TrustBundle {
    /// The empty bundle of a trust domain.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: BTreeMap::new(),
            tainted: Vec::new(),
            skipped: Vec::new(),
            sequence: None,
            refresh_hint: None,
        }
    }

    /// Reads a bundle in SPIFFE bundle format, or a bare JWK Set. The format does not name the trust domain.
    ///
    /// # Errors
    /// If it is longer than 1 MiB, not JSON with unique members, names a JWT key twice, or if malformed elements are all
    /// that it has, or all that it has of roots. See [`skipped`](Self::skipped) otherwise.
    pub fn parse(trust_domain: &TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        if json.len() > MAX_BUNDLE_LENGTH {
            return Err(BundleError::TooLong);
        }
        let object = bonafide_crypto::jose::parse_object(json).map_err(|_| BundleError::Json)?;
        json::read(trust_domain, &object)
    }

    /// Reads the JWK Set that the JWT profile of the Workload API serves (section 6.2.2): standard, and with JWT keys
    /// alone, so that the `use` of a key may be missing. SPIRE's agent leaves it out.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_jwt_set(trust_domain: &TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        if json.len() > MAX_BUNDLE_LENGTH {
            return Err(BundleError::TooLong);
        }
        let object = bonafide_crypto::jose::parse_object(json).map_err(|_| BundleError::Json)?;
        json::read_jwt_set(trust_domain, &object)
    }

    /// The bundle in SPIFFE bundle format.
    pub fn to_json(&self) -> Vec<u8> {
        json::write(self).to_string().into_bytes()
    }

    /// The JWT keys alone as a JWK Set, as the JWT profile of the Workload API serves them (section 6.2.2).
    pub fn to_jwt_json(&self) -> Vec<u8> {
        json::write_jwt(self).to_string().into_bytes()
    }

    /// The trust domain that the bundle speaks for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots of X509-SVIDs.
    pub fn x509_authorities(&self) -> &[Certificate] {
        &self.x509_authorities
    }

    /// The keys of JWT-SVIDs by key ID.
    pub fn jwt_authorities(&self) -> &BTreeMap<String, PublicKey> {
        &self.jwt_authorities
    }

    /// Elements of the document that were left out because they are malformed: to be told to a person.
    pub fn skipped(&self) -> &[BundleError] {
        &self.skipped
    }

    /// Keys whose signatures are to be renewed now.
    pub fn tainted(&self) -> &[TaintedKey] {
        &self.tainted
    }

    /// Adds a tainted key.
    #[must_use]
    pub fn with_tainted(mut self, key: TaintedKey) -> Self {
        self.tainted.push(key);
        self
    }

    /// Adds a root, unless it is there already.
    #[must_use]
    pub fn with_x509_authority(mut self, authority: Certificate) -> Self {
        if !self.x509_authorities.contains(&authority) {
            self.x509_authorities.push(authority);
        }
        self
    }

    /// Adds a JWT key, or replaces the one with this key ID.
    #[must_use]
    pub fn with_jwt_authority(mut self, kid: impl Into<String>, key: PublicKey) -> Self {
        self.jwt_authorities.insert(kid.into(), key);
        self
    }

    /// Sets the sequence number.
    #[must_use]
    pub fn with_sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// Sets the refresh hint, in seconds.
    #[must_use]
    pub fn with_refresh_hint(mut self, seconds: u64) -> Self {
        self.refresh_hint = Some(seconds);
        self
    }
}
