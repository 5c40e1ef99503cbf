//! Key pairs of applications in a device: they sign and decrypt there, and are called by a label.

use std::sync::atomic::{AtomicBool, Ordering};

use bonafide_crypto::asn1::{Reader, SEQUENCE};
use bonafide_crypto::digest::{sha256, sha384, sha512};
use bonafide_crypto::key::{PublicKey, PublicKeyAlgorithm, SignatureAlgorithm};
use bonafide_crypto::oaep::{OaepHash, unpad};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use zeroize::Zeroizing;

use super::key::{DeviceKey, ecdsa_der};
use super::session::{Failure, is_lost};
use crate::KeyringError;

/// What precedes a digest in a PKCS#1 signature (RFC 8017 section 9.2, note 1).
const SHA256_INFO: &[u8] = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
const SHA384_INFO: &[u8] = b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30";
const SHA512_INFO: &[u8] = b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40";

/// The private half of a key of an application, in a device.
#[derive(Debug)]
pub struct ExternalKey {
    key: DeviceKey,
    /// The device has RSA, and not OAEP as it was asked for.
    without_oaep: AtomicBool,
}

/// What the device made of a ciphertext.
enum Decrypted {
    Opened(Zeroizing<Vec<u8>>),
    Refused,
    /// It does not know how.
    Unknown,
}

impl ExternalKey {
    pub(super) fn new(key: DeviceKey) -> Self {
        Self { key, without_oaep: AtomicBool::new(false) }
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.key.public()
    }

    /// Signs a message.
    ///
    /// # Errors
    /// As [`Self::sign_digest`].
    pub fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, KeyringError> {
        self.sign_digest(algorithm, &digest(algorithm, message)?)
    }

    /// Signs a message of which only the digest is known, made with the algorithm's own hash.
    ///
    /// # Errors
    /// [`KeyringError::DeviceAlgorithm`] if the key does not sign so; those of the device.
    pub fn sign_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8]) -> Result<Vec<u8>, KeyringError> {
        let unfit = || KeyringError::DeviceAlgorithm("such");
        if !algorithm.fits(self.public_key().algorithm()) || digest.len() != digest_length(algorithm) {
            return Err(unfit());
        }
        let (mechanism, input) = mechanism(algorithm, digest).ok_or_else(unfit)?;
        let signature =
            self.key.in_session(|session, handle| Ok(session.sign(&mechanism, handle, &input)?))?;
        let wrong = || KeyringError::DeviceFailed("a signature that does not verify".to_owned());
        let signature = match self.public_key().algorithm() {
            PublicKeyAlgorithm::Rsa { .. } => signature,
            _ => ecdsa_der(&signature).ok_or_else(wrong)?,
        };
        // One faulty RSA signature gives the key away.
        self.public_key().verify_digest(algorithm, digest, &signature).map_err(|_| wrong())?;
        Ok(signature)
    }

    /// Decrypts RSA-OAEP; none if it does not open. Where the device has no OAEP with this hash and label, it does RSA alone, and
    /// the padding is taken off here.
    ///
    /// # Errors
    /// [`KeyringError::DeviceAlgorithm`] for a key that does not decrypt; those of the device.
    pub fn decrypt(
        &self,
        hash: OaepHash,
        label: &[u8],
        ciphertext: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, KeyringError> {
        let modulus = modulus(self.public_key()).ok_or(KeyringError::DeviceAlgorithm("decrypting"))?;
        // RFC 8017 section 5.1.2, step 1: what is no number below the modulus is no ciphertext.
        if ciphertext.len() != modulus.len() || ciphertext >= modulus {
            return Ok(None);
        }
        if !self.without_oaep.load(Ordering::Relaxed) {
            let (hash_type, mgf) = oaep(hash);
            let source = if label.is_empty() {
                PkcsOaepSource::empty()
            } else {
                PkcsOaepSource::data_specified(label)
            };
            let mechanism = Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash_type, mgf, source));
            match self.decrypted(&mechanism, ciphertext)? {
                Decrypted::Opened(plaintext) => return Ok(Some(plaintext)),
                Decrypted::Refused => return Ok(None),
                // With another hash it may know OAEP, but this is what all our own ciphertexts have.
                Decrypted::Unknown if hash == OaepHash::Sha256 => {
                    self.without_oaep.store(true, Ordering::Relaxed);
                }
                Decrypted::Unknown => {}
            }
        }
        match self.decrypted(&Mechanism::RsaX509, ciphertext)? {
            Decrypted::Opened(mut encoded) => {
                // Some leave zeros in front out.
                let missing = modulus.len().saturating_sub(encoded.len());
                if missing > 0 {
                    encoded = Zeroizing::new([vec![0; missing].as_slice(), &encoded].concat());
                }
                Ok(unpad(hash, label, &encoded).ok())
            }
            Decrypted::Refused => Ok(None),
            Decrypted::Unknown => Err(KeyringError::DeviceAlgorithm("decrypting RSA-OAEP")),
        }
    }

    /// Takes both halves out of the device for ever. That they are not there is fine.
    ///
    /// # Errors
    /// Those of the device.
    pub fn destroy(&self) -> Result<(), KeyringError> {
        self.key.destroy()
    }

    fn decrypted(&self, mechanism: &Mechanism<'_>, ciphertext: &[u8]) -> Result<Decrypted, KeyringError> {
        self.key.in_session(|session, handle| match session.decrypt(mechanism, handle, ciphertext) {
            Ok(plaintext) => Ok(Decrypted::Opened(Zeroizing::new(plaintext))),
            Err(error) if is_lost(&error) => Err(Failure::from(error)),
            Err(Error::Pkcs11(
                RvError::ArgumentsBad
                | RvError::FunctionNotSupported
                | RvError::KeyFunctionNotPermitted
                | RvError::MechanismInvalid
                | RvError::MechanismParamInvalid,
                _,
            )) => Ok(Decrypted::Unknown),
            // Devices name a wrong padding differently.
            Err(_) => Ok(Decrypted::Refused),
        })
    }
}

fn digest(algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, KeyringError> {
    Ok(match digest_length(algorithm) {
        32 => sha256(message).to_vec(),
        48 => sha384(message).to_vec(),
        64 => sha512(message).to_vec(),
        _ => return Err(KeyringError::DeviceAlgorithm("such")),
    })
}

/// 0: a key that signs so is never in a device.
fn digest_length(algorithm: SignatureAlgorithm) -> usize {
    match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256
        | SignatureAlgorithm::RsaPkcs1Sha256
        | SignatureAlgorithm::RsaPssSha256 => 32,
        SignatureAlgorithm::EcdsaP384Sha384
        | SignatureAlgorithm::RsaPkcs1Sha384
        | SignatureAlgorithm::RsaPssSha384 => 48,
        SignatureAlgorithm::RsaPkcs1Sha512 | SignatureAlgorithm::RsaPssSha512 => 64,
        SignatureAlgorithm::EcdsaP521Sha512 | SignatureAlgorithm::Ed25519 => 0,
    }
}

/// How the device signs a digest, and what it gets for it.
fn mechanism(algorithm: SignatureAlgorithm, digest: &[u8]) -> Option<(Mechanism<'static>, Vec<u8>)> {
    let pss = |hash_alg, mgf| {
        let s_len = std::ffi::c_ulong::try_from(digest.len()).ok()?.into();
        Some((Mechanism::RsaPkcsPss(PkcsPssParams { hash_alg, mgf, s_len }), digest.to_vec()))
    };
    let pkcs1 = |info: &[u8]| Some((Mechanism::RsaPkcs, [info, digest].concat()));
    match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 | SignatureAlgorithm::EcdsaP384Sha384 => {
            Some((Mechanism::Ecdsa, digest.to_vec()))
        }
        SignatureAlgorithm::RsaPkcs1Sha256 => pkcs1(SHA256_INFO),
        SignatureAlgorithm::RsaPkcs1Sha384 => pkcs1(SHA384_INFO),
        SignatureAlgorithm::RsaPkcs1Sha512 => pkcs1(SHA512_INFO),
        SignatureAlgorithm::RsaPssSha256 => pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        SignatureAlgorithm::RsaPssSha384 => pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        SignatureAlgorithm::RsaPssSha512 => pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
        SignatureAlgorithm::EcdsaP521Sha512 | SignatureAlgorithm::Ed25519 => None,
    }
}

const fn oaep(hash: OaepHash) -> (MechanismType, PkcsMgfType) {
    match hash {
        OaepHash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        OaepHash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        OaepHash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        OaepHash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
    }
}

/// Of an RSA key, without zeros in front.
fn modulus(public: &PublicKey) -> Option<&[u8]> {
    let PublicKeyAlgorithm::Rsa { .. } = public.algorithm() else { return None };
    let mut outer = Reader::new(public.spki_der());
    let mut parts = outer.nested(SEQUENCE)?;
    parts.any()?;
    let mut key = Reader::new(parts.bit_string()?);
    key.nested(SEQUENCE)?.positive()
}
