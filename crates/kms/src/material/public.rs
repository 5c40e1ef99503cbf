//! The public half of a version: verifies where no secret is.

use bonafide_crypto::key::PublicKey;
use bonafide_crypto::mldsa::MlDsaPublicKey;
use bonafide_crypto::mlkem::MlKemPublicKey;

use super::MAX_MESSAGE;
use crate::algorithm::{KeyType, Scheme};
use crate::error::Refusal;

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
                if key_type.classic().map(|kind| kind.to_string()) != Some(key.algorithm().to_string()) {
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
    pub fn verify(&self, scheme: Scheme, message: &[u8], signature: &[u8]) -> Result<(), Refusal> {
        if message.len() > MAX_MESSAGE {
            return Err(Refusal::TooLong);
        }
        if !scheme.fits(self.key_type) {
            return Err(Refusal::Unfit);
        }
        match (&self.key, scheme) {
            (Half::Classic(key), Scheme::Classic(algorithm)) => key.verify(algorithm, message, signature),
            (Half::MlDsa(key), Scheme::MlDsa65) => key.verify(message, signature),
            _ => return Err(Refusal::Unfit),
        }
        .map_err(|_| Refusal::Signature)
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
