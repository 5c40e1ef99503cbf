//! What secrets are sealed with: the public key of a version of a keyset, signed by its owner, and never changed.

use std::fmt;

use bonafide_crypto::mlkem::{MlKemPublicKey, PUBLIC};

use crate::cbor::{Reader, Writer};
use crate::document::{Digest, Document, SUITE, Signed};
use crate::group::{G1_BYTES, G1Point, G2_BYTES, G2Point, Gt};
use crate::identity::{Keyset, MAX_KEYSET, Tenant};
use crate::owner::{Owner, Purpose};
use crate::trust::{TrustError, ensure};

/// The most post-quantum keys of one set of parameters.
pub const MAX_SITE_KEYS: usize = 16;
/// The most bytes of the name of a site.
pub const MAX_SITE: usize = 128;

/// Public parameters of one version of a keyset. What changes with an epoch is not here, but in
/// [`EpochRecord`](crate::epoch::EpochRecord): refreshed keyholders must not contradict what clients have pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealParams {
    /// Whose.
    pub tenant: Tenant,
    /// Which key.
    pub keyset: Keyset,
    /// Which version of it, from 1 on.
    pub version: u64,
    /// The public key in the first group.
    pub key: G1Point,
    /// The public key in the second group.
    pub key2: G2Point,
    /// Sealing begins: seconds since 1970.
    pub not_before: u64,
    /// Sealing ends. What was sealed opens as long as the keyholders answer for the version.
    pub not_after: u64,
    /// Digest of the parameters of the version before; zeros for the first.
    pub previous: Digest,
    /// Post-quantum keys of sites, for secrets that must outlive this curve.
    pub site_keys: Vec<SiteKey>,
}

/// A post-quantum key, held by the agents of a site: ML-KEM-768. It stands in signed parameters, because one that somebody
/// else gives would silently take the second half of the protection away.
#[derive(Clone)]
pub struct SiteKey {
    /// Its number in these parameters.
    pub id: u64,
    /// The site that holds it.
    pub site: String,
    key: std::sync::Arc<MlKemPublicKey>,
    bytes: Box<[u8; PUBLIC]>,
}

/// Parameters that the owner has signed and whose two keys are one. Only these can be sealed with.
#[derive(Clone, Debug)]
pub struct TrustedParams {
    params: SealParams,
    digest: Digest,
}

impl SiteKey {
    /// A key of a site.
    ///
    /// # Errors
    /// [`FormatError`](crate::document::FormatError) if the bytes are no key of ML-KEM-768, or the name is empty or too long.
    pub fn new(id: u64, site: &str, key: &[u8]) -> Result<Self, crate::document::FormatError> {
        Self::checked(id, site, key).ok_or(crate::document::FormatError::Malformed("site key"))
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &MlKemPublicKey {
        &self.key
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; PUBLIC] {
        &self.bytes
    }

    fn checked(id: u64, site: &str, key: &[u8]) -> Option<Self> {
        if site.is_empty() || site.len() > MAX_SITE {
            return None;
        }
        let bytes: &[u8; PUBLIC] = key.try_into().ok()?;
        let parsed = MlKemPublicKey::from_bytes(bytes).ok()?;
        Some(Self { id, site: site.to_owned(), key: parsed.into(), bytes: Box::new(*bytes) })
    }
}

impl TrustedParams {
    /// Parameters that this owner has signed.
    ///
    /// # Errors
    /// [`TrustError`] if they are another tenant's, are not signed, or their two public keys have different secrets.
    pub fn verify(owner: &Owner, signed: &Signed<SealParams>) -> Result<Self, TrustError> {
        let params = &signed.body;
        ensure(params.tenant == *owner.tenant(), TrustError::Mismatch(SealParams::NAME))?;
        owner.verify(Purpose::Params, signed)?;
        let one_secret = same_secret(&params.key, &params.key2);
        ensure(one_secret, TrustError::Inconsistent(SealParams::NAME))?;
        Ok(Self { params: params.clone(), digest: params.digest() })
    }

    /// Parameters of the next version.
    ///
    /// # Errors
    /// [`TrustError`] as of [`Self::verify`], and if they do not name these as the ones before.
    pub fn succeeded_by(&self, owner: &Owner, next: &Signed<SealParams>) -> Result<Self, TrustError> {
        let params = &next.body;
        let same = params.keyset == self.params.keyset;
        ensure(same, TrustError::Mismatch(SealParams::NAME))?;
        ensure(params.version > self.params.version, TrustError::Stale(SealParams::NAME))?;
        let follows =
            Some(params.version) == self.params.version.checked_add(1) && params.previous == self.digest;
        ensure(follows, TrustError::Chain(SealParams::NAME))?;
        Self::verify(owner, next)
    }

    /// Whether secrets may be sealed with them at this moment, in seconds since 1970.
    ///
    /// # Errors
    /// [`TrustError::NotYetValid`], [`TrustError::Expired`].
    pub fn check_time(&self, now: u64) -> Result<(), TrustError> {
        ensure(now >= self.params.not_before, TrustError::NotYetValid(SealParams::NAME))?;
        ensure(now < self.params.not_after, TrustError::Expired(SealParams::NAME))
    }

    /// What stands in them.
    #[must_use]
    pub fn params(&self) -> &SealParams {
        &self.params
    }

    /// Their digest, which epochs name.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// Whether `secret * G1` and `secret * G2` have the same secret.
pub(crate) fn same_secret(first: &G1Point, second: &G2Point) -> bool {
    Gt::of(first, &G2Point::generator()) == Gt::of(&G1Point::generator(), second)
}

impl Document for SealParams {
    const NAME: &'static str = "parameters";
    const MAX: usize = 1024 + MAX_SITE_KEYS * (PUBLIC + MAX_SITE + 32);

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(10).number(1).text(SUITE).number(2).bytes(self.tenant.as_bytes());
        out.number(3).text(self.keyset.as_str()).number(4).number(self.version);
        out.number(5).bytes(&self.key.encode()).number(6).bytes(&self.key2.encode());
        out.number(7).number(self.not_before).number(8).number(self.not_after);
        out.number(9).bytes(&self.previous).number(10).array(self.site_keys.len());
        for key in &self.site_keys {
            out.array(3).number(key.id).text(&key.site).bytes(key.bytes.as_slice());
        }
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        if reader.text(SUITE.len())? != SUITE {
            return None;
        }
        map.required(&mut reader, 2)?;
        let tenant = Tenant::from_bytes(*reader.fixed()?);
        map.required(&mut reader, 3)?;
        let keyset = Keyset::new(reader.text(MAX_KEYSET)?).ok()?;
        map.required(&mut reader, 4)?;
        let version = reader.number().filter(|version| *version > 0)?;
        map.required(&mut reader, 5)?;
        let key = reader.fixed::<G1_BYTES>()?;
        map.required(&mut reader, 6)?;
        let key2 = reader.fixed::<G2_BYTES>()?;
        map.required(&mut reader, 7)?;
        let not_before = reader.number()?;
        map.required(&mut reader, 8)?;
        let not_after = reader.number().filter(|end| *end > not_before)?;
        map.required(&mut reader, 9)?;
        let previous = *reader.fixed()?;
        map.required(&mut reader, 10)?;
        let site_keys = reader.list(MAX_SITE_KEYS, SiteKey::read)?;
        map.end()?;
        reader.finish()?;
        // Points last: the rest costs nothing.
        let (key, key2) = (G1Point::decode(key).ok()?, G2Point::decode(key2).ok()?);
        let ordered = site_keys.is_sorted_by(|a, b| a.id < b.id);
        ordered.then_some(Self {
            tenant,
            keyset,
            version,
            key,
            key2,
            not_before,
            not_after,
            previous,
            site_keys,
        })
    }
}

impl SiteKey {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.array(3)? != 3 {
            return None;
        }
        Self::checked(reader.number()?, reader.text(MAX_SITE)?, reader.bytes(PUBLIC)?)
    }
}

impl PartialEq for SiteKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.site == other.site && self.bytes == other.bytes
    }
}

impl Eq for SiteKey {}

impl fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteKey").field("id", &self.id).field("site", &self.site).finish_non_exhaustive()
    }
}
