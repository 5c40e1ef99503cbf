//! Seals: what wraps the root key at rest.

mod key_file;
mod passphrase;

use std::{
    fmt::{self, Debug},
    path::{Path, PathBuf},
};

use bonafide_crypto::random::Random;
use bonafide_secmem::SecretBytes;

pub use self::{
    key_file::KeyFileSeal,
    passphrase::{PassphraseCost, PassphraseSeal},
};
use crate::{DeviceAccess, KeyringError, device::DeviceSeal};

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
    /// What should be needed can't be had: why. It opens nothing, and the others that are shown beside it may.
    Missing {
        /// The kind of the seal.
        kind: &'static str,
        /// Why not, in one line.
        why: String,
    },
}

impl SealSource {
    /// Opens the seal. Blocks.
    ///
    /// # Errors
    /// Those of reading a key file, and of the device.
    pub fn open(&self, device: &DeviceAccess) -> Result<Box<dyn Seal>, KeyringError> {
        Ok(match self {
            Self::KeyFile(path) => Box::new(KeyFileSeal::open(path)?),
            Self::Passphrase(passphrase) => Box::new(PassphraseSeal::new(copy(passphrase)?)),
            Self::Device => Box::new(DeviceSeal::open(device.get()?.clone())?),
            Self::Missing { why, .. } => return Err(KeyringError::SealMissing(why.clone())),
        })
    }

    /// Makes the seal: writes the key file, or draws the key in the device if there is none. Blocks.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when there is such a file; those of writing it, and of the device.
    pub fn create(&self, device: &DeviceAccess, random: &dyn Random) -> Result<Box<dyn Seal>, KeyringError> {
        Ok(match self {
            Self::KeyFile(path) => Box::new(KeyFileSeal::create(path, random)?),
            Self::Device => Box::new(DeviceSeal::create(device.get()?.clone(), random)?),
            Self::Passphrase(_) | Self::Missing { .. } => self.open(device)?,
        })
    }

    /// Opens the seal, which is made if it is not there; the file that was made, too.
    pub(crate) fn open_or_create(
        &self,
        device: &DeviceAccess,
        random: &dyn Random,
    ) -> Result<(Box<dyn Seal>, Option<&Path>), KeyringError> {
        match self {
            Self::KeyFile(path) if path.exists() => Ok((self.open(device)?, None)),
            Self::KeyFile(path) => Ok((self.create(device, random)?, Some(path))),
            _ => Ok((self.create(device, random)?, None)),
        }
    }

    /// The kind of the seal, as the keyring names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::KeyFile(_) => "key-file",
            Self::Passphrase(_) => "passphrase",
            Self::Device => "pkcs11",
            Self::Missing { kind, .. } => kind,
        }
    }
}

/// Which seal it is, for people.
impl fmt::Display for SealSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFile(path) => write!(f, "key file `{}`", path.display()),
            Self::Passphrase(_) => f.write_str("passphrase"),
            Self::Device => f.write_str("PKCS#11 device"),
            Self::Missing { kind, .. } => f.write_str(kind),
        }
    }
}

fn copy(secret: &SecretBytes) -> Result<SecretBytes, KeyringError> {
    let bytes = secret.expose();
    SecretBytes::new(bytes.len(), |copy| copy.copy_from_slice(bytes)).map_err(|_| KeyringError::Memory)
}

/// The root key, from what an AEAD opened.
pub(crate) fn root(opened: &[u8], kind: &'static str) -> Result<SecretBytes, KeyringError> {
    if opened.len() != 32 {
        return Err(KeyringError::WrongSeal(kind));
    }
    SecretBytes::new(32, |root| root.copy_from_slice(opened)).map_err(|_| KeyringError::Memory)
}
