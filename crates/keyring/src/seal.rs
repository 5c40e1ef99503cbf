//! Seals: what wraps the root key at rest.

mod key_file;
mod passphrase;

use std::{fmt::Debug, path::PathBuf};

use bonafide_crypto::random::Random;
use bonafide_secmem::SecretBytes;

pub use self::{
    key_file::KeyFileSeal,
    passphrase::{PassphraseCost, PassphraseSeal},
};
use crate::{Device, KeyringError, device::DeviceSeal};

/// Wraps the root key of a keyring, and unwraps it again.
pub trait Seal: Debug + Send + Sync {
    /// A stable name, such as `key-file`. It stands in the keyring, so that a wrong kind is named.
    fn kind(&self) -> &'static str;

    /// Wraps `root`. What it returns, at most 4 KiB, can lie in public if the seal's secret is strong.
    ///
    /// # Errors
    /// Fails when the seal does not work at all.
    fn seal(&self, root: &SecretBytes, random: &dyn Random) -> Result<Vec<u8>, KeyringError>;

    /// Unwraps what [`seal`](Self::seal) returned. Its input comes from a file that anybody may have written.
    ///
    /// # Errors
    /// [`KeyringError::WrongSeal`] when it was sealed with another secret, or was changed.
    fn unseal(&self, sealed: &[u8]) -> Result<SecretBytes, KeyringError>;
}

/// What is needed to open a seal: sent to the process that unseals.
#[derive(Debug)]
#[non_exhaustive]
pub enum SealSource {
    /// The file that holds the key.
    KeyFile(PathBuf),
    /// The passphrase.
    Passphrase(SecretBytes),
    /// A key in the device that holds signing keys too.
    Device,
}

impl SealSource {
    /// Opens the seal. Blocks.
    ///
    /// # Errors
    /// Those of reading a key file.
    pub fn open(self, device: Option<&Device>) -> Result<Box<dyn Seal>, KeyringError> {
        Ok(match self {
            Self::KeyFile(path) => Box::new(KeyFileSeal::open(path)?),
            Self::Passphrase(passphrase) => Box::new(PassphraseSeal::new(passphrase)),
            Self::Device => Box::new(DeviceSeal::open(device.ok_or(KeyringError::NoDevice)?.clone())?),
        })
    }

    /// Makes the seal: writes the key file, or draws the key in the device if there is none. Blocks.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when there is such a file; those of writing it, and of the device.
    pub fn create(self, device: Option<&Device>, random: &dyn Random) -> Result<Box<dyn Seal>, KeyringError> {
        Ok(match self {
            Self::KeyFile(path) => Box::new(KeyFileSeal::create(path, random)?),
            Self::Passphrase(passphrase) => Box::new(PassphraseSeal::new(passphrase)),
            Self::Device => {
                Box::new(DeviceSeal::create(device.ok_or(KeyringError::NoDevice)?.clone(), random)?)
            }
        })
    }

    /// The kind of the seal, as the keyring names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::KeyFile(_) => "key-file",
            Self::Passphrase(_) => "passphrase",
            Self::Device => "pkcs11",
        }
    }
}

/// The root key, from what an AEAD opened.
pub(crate) fn root(opened: &[u8], kind: &'static str) -> Result<SecretBytes, KeyringError> {
    if opened.len() != 32 {
        return Err(KeyringError::WrongSeal(kind));
    }
    SecretBytes::new(32, |root| root.copy_from_slice(opened)).map_err(|_| KeyringError::Memory)
}
