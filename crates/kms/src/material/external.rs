//! A private half that is somewhere else, such as in a PKCS#11 device, and never leaves it.

use std::fmt::Debug;
use std::sync::Arc;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::key::{PublicKey, SignatureAlgorithm};
use bonafide_crypto::oaep::{OaepHash, OaepPublicKey};

use super::Message;
use crate::algorithm::KeyType;
use crate::error::Refusal;

/// The private half of one version, somewhere else.
pub trait External: Debug + Send + Sync {
    /// Signs a message, or a digest of one, made with the hash of the algorithm.
    ///
    /// # Errors
    /// [`Refusal::Unfit`] if the key does not sign so, [`Refusal::Device`] if it can't be done where the key is.
    fn sign(&self, algorithm: SignatureAlgorithm, message: Message<'_>) -> Result<Vec<u8>, Refusal>;

    /// Decrypts RSA-OAEP.
    ///
    /// # Errors
    /// [`Refusal::Ciphertext`] if it does not open, [`Refusal::Device`] if it can't be done where the key is.
    fn decrypt(&self, hash: OaepHash, label: &[u8], ciphertext: &[u8]) -> Result<Erased, Refusal>;
}

/// A version whose public half is here, and whose private half is not.
pub(super) struct Outside {
    pub(super) public: PublicKey,
    pub(super) oaep: Option<OaepPublicKey>,
    /// Or why it can't be reached.
    private: Result<Arc<dyn External>, Refusal>,
}

impl Outside {
    pub(super) fn new(
        key_type: KeyType,
        public: PublicKey,
        private: Result<Arc<dyn External>, Refusal>,
    ) -> Result<Self, Refusal> {
        if !key_type.can_be_external() || !key_type.is_of(&public) {
            return Err(Refusal::Import);
        }
        let oaep = key_type.encrypts().then(|| OaepPublicKey::new(&public)).transpose();
        Ok(Self { oaep: oaep.map_err(|_| Refusal::Import)?, public, private })
    }

    pub(super) fn private(&self) -> Result<&dyn External, Refusal> {
        match &self.private {
            Ok(private) => Ok(&**private),
            Err(refusal) => Err(*refusal),
        }
    }
}
