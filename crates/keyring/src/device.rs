//! PKCS#11 devices: what keys in them are called and allowed, and how to speak to one.
//!
//! A key is drawn in the device and never leaves it: sensitive, not extractable, and both from its first moment on,
//! which is checked when it is drawn and whenever it is looked up. Its `CKA_ID` is our key ID, the same as in
//! certificates; its `CKA_LABEL` says whose it is: `bonafide` for the authority's own, and for one of an application what it was
//! drawn for.

mod external;
mod key;
mod seal;
mod session;

use std::fmt::{self, Debug};
use std::path::PathBuf;
use std::sync::Arc;

use bonafide_crypto::key::{KeyAlgorithm, PublicKey, Signer};
use bonafide_crypto::random::Random;
use bonafide_secmem::SecretBytes;

pub use self::external::ExternalKey;
pub(crate) use self::seal::DeviceSeal;
use self::session::Sessions;
use crate::KeyringError;

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

/// A token of a PKCS#11 device, logged in. Can be shared.
#[derive(Clone)]
pub struct Device(Arc<Sessions>);

impl Device {
    /// Loads the module into this process and logs in. Blocks.
    ///
    /// # Errors
    /// [`KeyringError::DeviceModule`], [`KeyringError::DeviceToken`] and [`KeyringError::DevicePin`] say what is not as
    /// configured.
    pub fn open(config: &DeviceConfig) -> Result<Self, KeyringError> {
        Ok(Self(Arc::new(Sessions::open(config)?)))
    }

    /// Draws a key in the device.
    pub(crate) fn generate(
        &self,
        algorithm: KeyAlgorithm,
        random: &dyn Random,
    ) -> Result<Arc<dyn Signer>, KeyringError> {
        Ok(Arc::new(key::DeviceKey::generate(&self.0, algorithm, random)?))
    }

    /// Finds the private half of a key that was drawn before.
    pub(crate) fn find(&self, public: PublicKey) -> Result<Arc<dyn Signer>, KeyringError> {
        Ok(Arc::new(key::DeviceKey::find(&self.0, public)?))
    }

    /// Draws a key pair of an application, called by this label there.
    pub(crate) fn draw_external(
        &self,
        label: &str,
        algorithm: KeyAlgorithm,
        random: &dyn Random,
    ) -> Result<ExternalKey, KeyringError> {
        let decrypts =
            matches!(algorithm, KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096);
        let key = key::DeviceKey::draw(&self.0, algorithm, label.as_bytes(), decrypts, random)?;
        Ok(ExternalKey::new(key))
    }

    /// One that was drawn before. The device is not asked yet.
    pub(crate) fn external(&self, label: &str, public: PublicKey) -> ExternalKey {
        ExternalKey::new(key::DeviceKey::named(&self.0, public, label.as_bytes()))
    }
}

impl Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("token", &self.0.token()).finish_non_exhaustive()
    }
}
