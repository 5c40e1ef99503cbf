//! Public keys: strict SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) and verification.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};

use super::{KeyError, MAX_SPKI_BYTES, PublicKeyAlgorithm, SignatureAlgorithm};
use crate::asn1::{BIT_STRING, NULL, OBJECT_IDENTIFIER, Reader, SEQUENCE, Writer};

/// A public key that was checked when it was parsed. Cheap to clone.
#[derive(Clone)]
pub struct PublicKey(Arc<Parsed>);

/// A signature does not belong to this message and key, or was made with an algorithm that the key can't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

struct Parsed {
    spki: Box<[u8]>,
    algorithm: PublicKeyAlgorithm,
    key_id: [u8; 20],
    verifier: Verifier,
}

enum Verifier {
    One(ParsedPublicKey),
    /// aws-lc-rs ties a parsed key to padding and hash, so there is one for each of the six that was ever used.
    Rsa(Box<[OnceLock<Option<ParsedPublicKey>>; 6]>),
}

/// Everything in front of the point or the raw key: with a named curve and a fixed length, canonical DER has one
/// form, so a comparison is the strictest parser (RFC 5480 sections 2.1.1 and 2.2, RFC 8410 section 4).
const P256_PREFIX: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04";
const P384_PREFIX: &[u8] =
    b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00\x04";
const P521_PREFIX: &[u8] =
    b"\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81\x86\x00\x04";
const ED25519_PREFIX: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
const RSA_OID: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";

impl PublicKey {
    /// Parses a SubjectPublicKeyInfo: canonical DER, a named curve and an uncompressed point on it, Ed25519, or RSA
    /// with 2048 to 8192 bits and an odd exponent from 65537 to 2^32. Bounds are checked before any arithmetic.
    ///
    /// # Errors
    /// [`KeyError`] names what is wrong.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        if spki.len() > MAX_SPKI_BYTES {
            return Err(KeyError::TooLong);
        }
        if let Some((algorithm, scheme, coordinates)) = curve_of(spki) {
            let verifier = ParsedPublicKey::new(scheme, spki).map_err(|_| KeyError::NotOnCurve)?;
            // The BIT STRING holds 0x04 and two coordinates.
            let start = spki.len().saturating_sub(2 * coordinates + 1);
            return Ok(Self::new(spki, start, algorithm, Verifier::One(verifier)));
        }
        if let Some(raw) = spki.strip_prefix(ED25519_PREFIX) {
            let raw: &[u8; 32] = raw.try_into().map_err(|_| KeyError::Malformed)?;
            if !is_plausible_ed25519(raw) {
                return Err(KeyError::NotOnCurve);
            }
            let verifier =
                ParsedPublicKey::new(&signature::ED25519, raw).map_err(|_| KeyError::NotOnCurve)?;
            let start = ED25519_PREFIX.len();
            return Ok(Self::new(spki, start, PublicKeyAlgorithm::Ed25519, Verifier::One(verifier)));
        }
        let rsa = read_rsa(spki)?;
        let bits = check_rsa(rsa.modulus, rsa.exponent)?;
        let start = spki.len().saturating_sub(rsa.key_der.len());
        Ok(Self::new(spki, start, PublicKeyAlgorithm::Rsa { bits }, Verifier::Rsa(Default::default())))
    }

    /// The SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.0.spki
    }

    /// What kind of key this is.
    #[must_use]
    pub fn algorithm(&self) -> PublicKeyAlgorithm {
        self.0.algorithm
    }

    /// The key identifier: the first 160 bits of SHA-256 of the BIT STRING's value (RFC 7093 section 2, method 1).
    #[must_use]
    pub fn key_id(&self) -> [u8; 20] {
        self.0.key_id
    }

    /// Checks a signature. ECDSA signatures are DER. The key was parsed before: nothing is parsed here but the
    /// signature.
    ///
    /// # Errors
    /// [`BadSignature`], also if the algorithm does not fit the key.
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        sig: &[u8],
    ) -> Result<(), BadSignature> {
        self.verifier(algorithm)?.verify_sig(message, sig).map_err(|_| BadSignature)
    }

    /// Checks a signature of a message of which only the digest is known, made with the algorithm's own hash.
    ///
    /// # Errors
    /// [`BadSignature`], also if the algorithm does not fit the key, has no hash, or the digest has another length.
    pub fn verify_digest(
        &self,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
        sig: &[u8],
    ) -> Result<(), BadSignature> {
        let hash = algorithm.hash().ok_or(BadSignature)?;
        let digest = Digest::import_less_safe(digest, hash).map_err(|_| BadSignature)?;
        self.verifier(algorithm)?.verify_digest_sig(&digest, sig).map_err(|_| BadSignature)
    }

    fn verifier(&self, algorithm: SignatureAlgorithm) -> Result<&ParsedPublicKey, BadSignature> {
        if !algorithm.fits(self.0.algorithm) {
            return Err(BadSignature);
        }
        match &self.0.verifier {
            Verifier::One(key) => Ok(key),
            Verifier::Rsa(keys) => {
                let (slot, scheme) = rsa_scheme(algorithm).ok_or(BadSignature)?;
                let key = keys.get(slot).ok_or(BadSignature)?.get_or_init(|| {
                    let rsa = read_rsa(&self.0.spki).ok()?;
                    ParsedPublicKey::new(scheme, rsa.key_der).ok()
                });
                key.as_ref().ok_or(BadSignature)
            }
        }
    }

    /// The public numbers, for a JWK: coordinates of a point, or modulus and exponent.
    pub(crate) fn numbers(&self) -> Option<(&[u8], &[u8])> {
        match self.0.algorithm {
            PublicKeyAlgorithm::Rsa { .. } => {
                let rsa = read_rsa(&self.0.spki).ok()?;
                Some((rsa.modulus, rsa.exponent))
            }
            PublicKeyAlgorithm::Ed25519 => None,
            PublicKeyAlgorithm::EcP256 | PublicKeyAlgorithm::EcP384 | PublicKeyAlgorithm::EcP521 => {
                let (_, _, length) = curve_of(&self.0.spki)?;
                self.0.spki.last_chunk_of(2 * length)?.split_at_checked(length)
            }
        }
    }

    /// A key on a curve from its coordinates, which must have their full length.
    pub(crate) fn from_coordinates(
        algorithm: PublicKeyAlgorithm,
        x: &[u8],
        y: &[u8],
    ) -> Result<Self, KeyError> {
        let (prefix, length) = match algorithm {
            PublicKeyAlgorithm::EcP256 => (P256_PREFIX, 32),
            PublicKeyAlgorithm::EcP384 => (P384_PREFIX, 48),
            PublicKeyAlgorithm::EcP521 => (P521_PREFIX, 66),
            PublicKeyAlgorithm::Ed25519 | PublicKeyAlgorithm::Rsa { .. } => {
                return Err(KeyError::Unsupported);
            }
        };
        if x.len() != length || y.len() != length {
            return Err(KeyError::Malformed);
        }
        Self::from_spki_der(&[prefix, x, y].concat())
    }

    pub(super) fn ed25519(raw: &[u8]) -> Result<Self, KeyError> {
        Self::from_spki_der(&[ED25519_PREFIX, raw].concat())
    }

    fn new(spki: &[u8], bit_string_at: usize, algorithm: PublicKeyAlgorithm, verifier: Verifier) -> Self {
        let hash = crate::digest::sha256(spki.get(bit_string_at..).unwrap_or_default());
        let key_id = hash.first_chunk::<20>().copied().unwrap_or_default();
        Self(Arc::new(Parsed { spki: spki.into(), algorithm, key_id, verifier }))
    }
}

impl BadSignature {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "crypto.signature-mismatch"
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.spki == other.0.spki
    }
}

impl Eq for PublicKey {}

impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.spki.hash(state);
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} ", self.0.algorithm)?;
        for byte in self.0.key_id {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

/// The SubjectPublicKeyInfo of an RSA key with these magnitudes, which may have leading zeros.
pub(crate) fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let mut key = Writer::with_capacity(modulus.len().saturating_add(32));
    key.nested(SEQUENCE, |key| {
        key.positive(modulus);
        key.positive(exponent);
    });
    rsa_spki_of(&key.finish())
}

/// Wraps an RSAPublicKey (RFC 8017 appendix A.1.1).
pub(super) fn rsa_spki_of(key_der: &[u8]) -> Vec<u8> {
    let mut spki = Writer::with_capacity(key_der.len().saturating_add(32));
    spki.nested(SEQUENCE, |spki| {
        spki.nested(SEQUENCE, |algorithm| {
            algorithm.primitive(OBJECT_IDENTIFIER, RSA_OID);
            algorithm.primitive(NULL, &[]);
        });
        spki.bit_string(key_der);
    });
    spki.finish()
}

struct Rsa<'a> {
    key_der: &'a [u8],
    modulus: &'a [u8],
    exponent: &'a [u8],
}

/// Reads structure only. The strict reader takes one encoding of each element, so nothing needs to be re-encoded.
fn read_rsa(spki: &[u8]) -> Result<Rsa<'_>, KeyError> {
    let mut outer = Reader::new(spki);
    let mut parts = outer.nested(SEQUENCE).ok_or(KeyError::Malformed)?;
    outer.finish().ok_or(KeyError::Malformed)?;
    let mut algorithm = parts.nested(SEQUENCE).ok_or(KeyError::Malformed)?;
    if algorithm.content(OBJECT_IDENTIFIER).ok_or(KeyError::Malformed)? != RSA_OID {
        return Err(KeyError::Unsupported);
    }
    // RFC 3279 section 2.3.1: the parameters are NULL, and not absent.
    let null = algorithm.content(NULL).ok_or(KeyError::Malformed)?;
    if !null.is_empty() || !algorithm.is_empty() || parts.peek() != Some(BIT_STRING) {
        return Err(KeyError::Malformed);
    }
    let key_der = parts.bit_string().ok_or(KeyError::Malformed)?;
    parts.finish().ok_or(KeyError::Malformed)?;
    let mut key = Reader::new(key_der);
    let mut numbers = key.nested(SEQUENCE).ok_or(KeyError::Malformed)?;
    key.finish().ok_or(KeyError::Malformed)?;
    let modulus = numbers.positive().ok_or(KeyError::Malformed)?;
    let exponent = numbers.positive().ok_or(KeyError::Malformed)?;
    numbers.finish().ok_or(KeyError::Malformed)?;
    Ok(Rsa { key_der, modulus, exponent })
}

fn check_rsa(modulus: &[u8], exponent: &[u8]) -> Result<u16, KeyError> {
    let bits = modulus
        .first()
        .map_or(0, |first| modulus.len().saturating_mul(8).saturating_sub(first.leading_zeros() as usize));
    let odd = |magnitude: &[u8]| magnitude.last().is_some_and(|last| last & 1 == 1);
    let in_range = u16::try_from(bits).ok().filter(|bits| (2048..=8192).contains(bits) && odd(modulus));
    let Some(checked) = in_range else {
        return Err(KeyError::RsaModulus { bits });
    };
    if exponent.len() > 4 || !odd(exponent) {
        return Err(KeyError::RsaExponent);
    }
    let exponent = exponent.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    if exponent < 65537 { Err(KeyError::RsaExponent) } else { Ok(checked) }
}

/// The curve of a SubjectPublicKeyInfo with exactly the form of one, and the length of a coordinate.
fn curve_of(spki: &[u8]) -> Option<(PublicKeyAlgorithm, &'static dyn VerificationAlgorithm, usize)> {
    let is =
        |prefix: &[u8], length: usize| spki.strip_prefix(prefix).is_some_and(|rest| rest.len() == 2 * length);
    if is(P256_PREFIX, 32) {
        Some((PublicKeyAlgorithm::EcP256, &signature::ECDSA_P256_SHA256_ASN1, 32))
    } else if is(P384_PREFIX, 48) {
        Some((PublicKeyAlgorithm::EcP384, &signature::ECDSA_P384_SHA384_ASN1, 48))
    } else if is(P521_PREFIX, 66) {
        Some((PublicKeyAlgorithm::EcP521, &signature::ECDSA_P521_SHA512_ASN1, 66))
    } else {
        None
    }
}

fn rsa_scheme(algorithm: SignatureAlgorithm) -> Option<(usize, &'static dyn VerificationAlgorithm)> {
    match algorithm {
        SignatureAlgorithm::RsaPkcs1Sha256 => Some((0, &signature::RSA_PKCS1_2048_8192_SHA256)),
        SignatureAlgorithm::RsaPkcs1Sha384 => Some((1, &signature::RSA_PKCS1_2048_8192_SHA384)),
        SignatureAlgorithm::RsaPkcs1Sha512 => Some((2, &signature::RSA_PKCS1_2048_8192_SHA512)),
        SignatureAlgorithm::RsaPssSha256 => Some((3, &signature::RSA_PSS_2048_8192_SHA256)),
        SignatureAlgorithm::RsaPssSha384 => Some((4, &signature::RSA_PSS_2048_8192_SHA384)),
        SignatureAlgorithm::RsaPssSha512 => Some((5, &signature::RSA_PSS_2048_8192_SHA512)),
        SignatureAlgorithm::EcdsaP256Sha256
        | SignatureAlgorithm::EcdsaP384Sha384
        | SignatureAlgorithm::EcdsaP521Sha512
        | SignatureAlgorithm::Ed25519 => None,
    }
}

/// Whether 32 bytes can be an Ed25519 key: y is reduced, and the point is none of the eight of small order, under
/// which one signature would fit many messages. (AWS-LC decompresses when it verifies: a y that is on no point
/// verifies nothing.)
fn is_plausible_ed25519(raw: &[u8; 32]) -> bool {
    const SMALL_ORDER: [[u8; 32]; 5] = [
        *b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        *b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        *b"\xec\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
        *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
    ];
    let mut y = *raw;
    if let Some(last) = y.last_mut() {
        *last &= 0x7f;
    }
    let top = *b"\xed\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f";
    y.iter().rev().lt(top.iter().rev()) && !SMALL_ORDER.contains(&y)
}

trait LastChunk {
    fn last_chunk_of(&self, length: usize) -> Option<&[u8]>;
}

impl LastChunk for [u8] {
    fn last_chunk_of(&self, length: usize) -> Option<&[u8]> {
        self.get(self.len().checked_sub(length)?..)
    }
}
