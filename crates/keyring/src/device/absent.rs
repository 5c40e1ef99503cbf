//! A program that was built without PKCS#11: one that is linked statically can load no vendor's library.

use std::path::PathBuf;
use std::sync::Arc;

use bonafide_crypto::key::{KeyAlgorithm, PublicKey, SignatureAlgorithm, Signer};
use bonafide_crypto::oaep::OaepHash;
use bonafide_crypto::random::Random;
use bonafide_secmem::SecretBytes;
use zeroize::Zeroizing;

use crate::{KeyringError, Seal};

/// How to reach a device.
#[derive(Debug)]
pub struct DeviceConfig {
    /// The vendor's library.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// PIN of its user.
    pub pin: SecretBytes,
}

/// There is none.
#[derive(Clone, Debug)]
pub enum Device {}

impl Device {
    /// Fails.
    ///
    /// # Errors
    /// Always [`KeyringError::DeviceModule`].
    pub fn open(config: &DeviceConfig) -> Result<Self, KeyringError> {
        let why = "this program was built without PKCS#11".to_owned();
        Err(KeyringError::DeviceModule { module: config.module.clone(), why })
    }

    pub(crate) fn generate(
        &self,
        _algorithm: KeyAlgorithm,
        _random: &dyn Random,
    ) -> Result<Arc<dyn Signer>, KeyringError> {
        match *self {}
    }

    pub(crate) fn find(&self, _public: PublicKey) -> Result<Arc<dyn Signer>, KeyringError> {
        match *self {}
    }

    pub(crate) fn draw_external(
        &self,
        _label: &str,
        _algorithm: KeyAlgorithm,
        _random: &dyn Random,
    ) -> Result<ExternalKey, KeyringError> {
        match *self {}
    }

    pub(crate) fn external(&self, _label: &str, _public: PublicKey) -> ExternalKey {
        match *self {}
    }
}

/// There is none.
#[derive(Debug)]
pub enum ExternalKey {}

impl ExternalKey {
    /// Never.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        match *self {}
    }

    /// Never.
    ///
    /// # Errors
    /// Never.
    pub fn sign(&self, _algorithm: SignatureAlgorithm, _message: &[u8]) -> Result<Vec<u8>, KeyringError> {
        match *self {}
    }

    /// Never.
    ///
    /// # Errors
    /// Never.
    pub fn sign_digest(
        &self,
        _algorithm: SignatureAlgorithm,
        _digest: &[u8],
    ) -> Result<Vec<u8>, KeyringError> {
        match *self {}
    }

    /// Never.
    ///
    /// # Errors
    /// Never.
    pub fn decrypt(
        &self,
        _hash: OaepHash,
        _label: &[u8],
        _ciphertext: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, KeyringError> {
        match *self {}
    }

    /// Never.
    ///
    /// # Errors
    /// Never.
    pub fn destroy(&self) -> Result<(), KeyringError> {
        match *self {}
    }
}

/// There is none.
#[derive(Debug)]
pub(crate) enum DeviceSeal {}

impl DeviceSeal {
    pub(crate) fn open(device: Device) -> Result<Self, KeyringError> {
        match device {}
    }

    pub(crate) fn create(device: Device, _random: &dyn Random) -> Result<Self, KeyringError> {
        match device {}
    }
}

impl Seal for DeviceSeal {
    fn kind(&self) -> &'static str {
        match *self {}
    }

    fn seal(&self, _root: &SecretBytes, _random: &dyn Random) -> Result<Vec<u8>, KeyringError> {
        match *self {}
    }

    fn unseal(&self, _sealed: &[u8]) -> Result<SecretBytes, KeyringError> {
        match *self {}
    }
}
