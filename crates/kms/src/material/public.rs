//! The public half of a version: verifies where no secret is.

use bonafide_crypto::key::PublicKey;
use bonafide_crypto::mldsa::MlDsaPublicKey;
use bonafide_crypto::mlkem::MlKemPublicKey;

use super::MAX_MESSAGE;
use crate::algorithm::{KeyType, Scheme};
use crate::error::Refusal;

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A message.
    Whole(&'a [u8]),
    /// The digest of one, made with the scheme's own hash. Ed25519 and ML-DSA-65 take none.
    Digest(&'a [u8]),
}

/// A public key of one version, read once.
#[derive(Debug)]
pub struct PublicHalf {
    key_type: KeyType,
    key: Half,
}

#[derive(Debug)]
enum Half {
    Classic(PublicKey),
    MlDsa(Box<MlDsaPublicKey>),
    MlKem(Box<MlKemPublicKey>),
}

impl PublicHalf {
    /// Reads a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`Refusal::Import`] if it is none of this kind.
    pub fn from_spki(key_type: KeyType, spki: &[u8]) -> Result<Self, Refusal> {
        let refused = |_| Refusal::Import;
        let key = match key_type {
            KeyType::MlDsa65 => Half::MlDsa(Box::new(MlDsaPublicKey::from_spki_der(spki).map_err(refused)?)),
            KeyType::MlKem768 => Half::MlKem(Box::new(MlKemPublicKey::from_spki_der(spki).map_err(refused)?)),
            _ => {
                let key = PublicKey::from_spki_der(spki).map_err(refused)?;
                if !key_type.is_of(&key) {
                    return Err(Refusal::Import);
                }
                Half::Classic(key)
            }
        };
        Ok(Self { key_type, key })
    }

    /// What kind of key it is.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// Checks a signature.
    ///
    /// # Errors
    /// [`Refusal::Signature`] if it does not match; [`Refusal::Unfit`], [`Refusal::TooLong`].
    pub fn verify(&self, scheme: Scheme, message: Message<'_>, signature: &[u8]) -> Result<(), Refusal> {
        match &self.key {
            Half::Classic(key) => verify_classic(self.key_type, key, scheme, message, signature),
            Half::MlDsa(key) => verify_ml_dsa(key, scheme, message, signature),
            Half::MlKem(_) => Err(Refusal::Unfit),
        }
    }

    /// Draws a secret and encapsulates it, for a key that does that: ciphertext and secret. What a partner does.
    ///
    /// # Errors
    /// [`Refusal::Unfit`] for other kinds.
    pub fn encapsulate(&self) -> Result<(Vec<u8>, zeroize::Zeroizing<[u8; 32]>), Refusal> {
        match &self.key {
            Half::MlKem(key) => key.encapsulate().map_err(|_| Refusal::Library),
            Half::Classic(_) | Half::MlDsa(_) => Err(Refusal::Unfit),
        }
    }
}

impl Message<'_> {
    pub(super) fn check(self) -> Result<(), Refusal> {
        let (Self::Whole(bytes) | Self::Digest(bytes)) = self;
        if bytes.len() > MAX_MESSAGE { Err(Refusal::TooLong) } else { Ok(()) }
    }
}

pub(super) fn verify_classic(
    key_type: KeyType,
    key: &PublicKey,
    scheme: Scheme,
    message: Message<'_>,
    signature: &[u8],
) -> Result<(), Refusal> {
    let Scheme::Classic(algorithm) = scheme else { return Err(Refusal::Unfit) };
    if !scheme.fits(key_type) {
        return Err(Refusal::Unfit);
    }
    message.check()?;
    match message {
        Message::Whole(message) => key.verify(algorithm, message, signature),
        Message::Digest(_) if key_type == KeyType::Ed25519 => return Err(Refusal::Unfit),
        Message::Digest(digest) => key.verify_digest(algorithm, digest, signature),
    }
    .map_err(|_| Refusal::Signature)
}

pub(super) fn verify_ml_dsa(
    key: &MlDsaPublicKey,
    scheme: Scheme,
    message: Message<'_>,
    signature: &[u8],
) -> Result<(), Refusal> {
    message.check()?;
    match (scheme, message) {
        (Scheme::MlDsa65, Message::Whole(message)) => {
            key.verify(message, signature).map_err(|_| Refusal::Signature)
        }
        _ => Err(Refusal::Unfit),
    }
}
