//! Private keys and the trait of everything that signs.

use std::fmt;

use aws_lc_rs::digest::Digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding};
use zeroize::Zeroizing;

use super::public::rsa_spki_of;
use super::{KeyAlgorithm, KeyError, MAX_PKCS8_BYTES, PublicKey, SignatureAlgorithm};
use crate::asn1::{INTEGER, OBJECT_IDENTIFIER, Reader, SEQUENCE};

/// A private key in the memory of this process, parsed once.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

/// Something that signs with one key: a [`PrivateKey`], or a device. Signing may block.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// The algorithm that [`Self::sign`] uses.
    fn signature_algorithm(&self) -> SignatureAlgorithm;

    /// Signs with an algorithm that fits the key. ECDSA signatures are DER.
    ///
    /// # Errors
    /// [`SignError::Unfit`] if the key can't do that, [`SignError::Failed`] if the signer is broken or gone.
    fn sign_with(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// Signs each of several messages, in their order. For a signer to which every call is dear: one in another
    /// process, or in a device.
    fn sign_each(
        &self,
        algorithm: SignatureAlgorithm,
        messages: &[&[u8]],
    ) -> Vec<Result<Vec<u8>, SignError>> {
        messages.iter().map(|message| self.sign_with(algorithm, message)).collect()
    }

    /// Signs with [`Self::signature_algorithm`].
    ///
    /// # Errors
    /// As [`Self::sign_with`].
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.sign_with(self.signature_algorithm(), message)
    }
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The signer could not do its work.
    #[error("the signer failed: {0}")]
    Failed(String),
    /// The key is of another kind.
    #[error("the key can't sign with the wanted algorithm")]
    Unfit,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(rsa::KeyPair),
}

impl PrivateKey {
    /// Draws a new key.
    ///
    /// # Errors
    /// [`KeyError::Generation`] if AWS-LC can't.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let pair = if let Some(size) = algorithm.rsa_size() {
            Pair::Rsa(rsa::KeyPair::generate(size).map_err(|_| KeyError::Generation)?)
        } else if let Some(scheme) = ecdsa_scheme(algorithm) {
            Pair::Ecdsa(EcdsaKeyPair::generate(scheme).map_err(|_| KeyError::Generation)?)
        } else {
            Pair::Ed25519(Ed25519KeyPair::generate().map_err(|_| KeyError::Generation)?)
        };
        Self::new(pair)
    }

    /// Parses a PKCS#8 PrivateKeyInfo (RFC 5958) that isn't encrypted. The public half is computed or checked, and
    /// must be one that [`PublicKey::from_spki_der`] accepts.
    ///
    /// # Errors
    /// [`KeyError`] names what is wrong.
    pub fn from_pkcs8_der(pkcs8: &[u8]) -> Result<Self, KeyError> {
        if pkcs8.len() > MAX_PKCS8_BYTES {
            return Err(KeyError::TooLong);
        }
        let refused = |_| KeyError::Inconsistent;
        let pair = match kind_of(pkcs8)? {
            KeyKind::Ecdsa(scheme) => Pair::Ecdsa(EcdsaKeyPair::from_pkcs8(scheme, pkcs8).map_err(refused)?),
            KeyKind::Ed25519 => Pair::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(refused)?),
            KeyKind::Rsa => Pair::Rsa(rsa::KeyPair::from_pkcs8(pkcs8).map_err(refused)?),
        };
        Self::new(pair)
    }

    /// The key as PKCS#8, version 1 (RFC 5208), which OpenSSL, Go, Java and Python read.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a key that was parsed or generated can be encoded")]
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        // INVARIANT: AWS-LC only fails to encode a complete key when it can't allocate.
        match &self.pair {
            Pair::Ecdsa(pair) => {
                Zeroizing::new(pair.to_pkcs8v1().expect("a whole key has an encoding").as_ref().to_vec())
            }
            Pair::Ed25519(pair) => {
                Zeroizing::new(pair.to_pkcs8v1().expect("a whole key has an encoding").as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().expect("a whole key has an encoding");
                Zeroizing::new(der.as_ref().to_vec())
            }
        }
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message of which only the digest is known, made with the algorithm's own hash. Whoever has such signatures made
    /// can have anything signed that he has hashed himself.
    ///
    /// # Errors
    /// [`SignError::Unfit`] if the key can't do that, the algorithm has no hash, or the digest another length.
    pub fn sign_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8]) -> Result<Vec<u8>, SignError> {
        if !algorithm.fits(self.public.algorithm()) {
            return Err(SignError::Unfit);
        }
        let hash = algorithm.hash().ok_or(SignError::Unfit)?;
        let digest = Digest::import_less_safe(digest, hash).map_err(|_| SignError::Unfit)?;
        let failed = |_| SignError::Failed("the cryptographic library refused".to_owned());
        match &self.pair {
            Pair::Ecdsa(pair) => Ok(pair.sign_digest(&digest).map_err(failed)?.as_ref().to_vec()),
            Pair::Ed25519(_) => Err(SignError::Unfit),
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                let encoding = rsa_encoding(algorithm).ok_or(SignError::Unfit)?;
                pair.sign_digest(encoding, &digest, &mut out).map_err(failed)?;
                Ok(out)
            }
        }
    }

    fn new(pair: Pair) -> Result<Self, KeyError> {
        let public = match &pair {
            Pair::Ecdsa(pair) => {
                let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> =
                    pair.public_key().as_der().map_err(|_| KeyError::Inconsistent)?;
                PublicKey::from_spki_der(der.as_ref())?
            }
            Pair::Ed25519(pair) => PublicKey::ed25519(pair.public_key().as_ref())?,
            Pair::Rsa(pair) => PublicKey::from_spki_der(&rsa_spki_of(pair.public_key().as_ref()))?,
        };
        Ok(Self { pair, public })
    }
}

impl Signer for PrivateKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn signature_algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::default_for(self.public.algorithm())
    }

    fn sign_with(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !algorithm.fits(self.public.algorithm()) {
            return Err(SignError::Unfit);
        }
        let failed = |_| SignError::Failed("the cryptographic library refused".to_owned());
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ecdsa(pair) => Ok(pair.sign(&random, message).map_err(failed)?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Ok(pair.try_sign(message).map_err(failed)?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(rsa_encoding(algorithm).ok_or(SignError::Unfit)?, &random, message, &mut out)
                    .map_err(failed)?;
                Ok(out)
            }
        }
    }
}

impl SignError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failed(_) => "crypto.signer-failed",
            Self::Unfit => "crypto.signer-unfit",
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("public", &self.public).finish_non_exhaustive()
    }
}

enum KeyKind {
    Ecdsa(&'static EcdsaSigningAlgorithm),
    Ed25519,
    Rsa,
}

/// Reads the AlgorithmIdentifier; what is inside is AWS-LC's to check.
fn kind_of(pkcs8: &[u8]) -> Result<KeyKind, KeyError> {
    let mut outer = Reader::new(pkcs8);
    let mut parts = outer.nested(SEQUENCE).ok_or(KeyError::Malformed)?;
    outer.finish().ok_or(KeyError::Malformed)?;
    parts.content(INTEGER).ok_or(KeyError::Malformed)?;
    let mut algorithm = parts.nested(SEQUENCE).ok_or(KeyError::Malformed)?;
    match algorithm.content(OBJECT_IDENTIFIER).ok_or(KeyError::Malformed)? {
        b"\x2a\x86\x48\xce\x3d\x02\x01" => match algorithm.content(OBJECT_IDENTIFIER) {
            Some(b"\x2a\x86\x48\xce\x3d\x03\x01\x07") => {
                Ok(KeyKind::Ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING))
            }
            Some(b"\x2b\x81\x04\x00\x22") => Ok(KeyKind::Ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)),
            Some(b"\x2b\x81\x04\x00\x23") => Ok(KeyKind::Ecdsa(&signature::ECDSA_P521_SHA512_ASN1_SIGNING)),
            _ => Err(KeyError::Unsupported),
        },
        b"\x2b\x65\x70" => Ok(KeyKind::Ed25519),
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01" => Ok(KeyKind::Rsa),
        _ => Err(KeyError::Unsupported),
    }
}

fn ecdsa_scheme(algorithm: KeyAlgorithm) -> Option<&'static EcdsaSigningAlgorithm> {
    match algorithm {
        KeyAlgorithm::EcP256 => Some(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyAlgorithm::EcP384 => Some(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyAlgorithm::EcP521 => Some(&signature::ECDSA_P521_SHA512_ASN1_SIGNING),
        KeyAlgorithm::Ed25519 | KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => None,
    }
}

fn rsa_encoding(algorithm: SignatureAlgorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        SignatureAlgorithm::RsaPkcs1Sha256 => Some(&signature::RSA_PKCS1_SHA256),
        SignatureAlgorithm::RsaPkcs1Sha384 => Some(&signature::RSA_PKCS1_SHA384),
        SignatureAlgorithm::RsaPkcs1Sha512 => Some(&signature::RSA_PKCS1_SHA512),
        SignatureAlgorithm::RsaPssSha256 => Some(&signature::RSA_PSS_SHA256),
        SignatureAlgorithm::RsaPssSha384 => Some(&signature::RSA_PSS_SHA384),
        SignatureAlgorithm::RsaPssSha512 => Some(&signature::RSA_PSS_SHA512),
        SignatureAlgorithm::EcdsaP256Sha256
        | SignatureAlgorithm::EcdsaP384Sha384
        | SignatureAlgorithm::EcdsaP521Sha512
        | SignatureAlgorithm::Ed25519 => None,
    }
}
