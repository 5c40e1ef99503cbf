//! Seals: what wraps the root key at rest.

mod key_file;
mod passphrase;

use std::fmt::Debug;

use bonafide_crypto::random::Random;
use bonafide_secmem::SecretBytes;

pub use self::{
    key_file::KeyFileSeal,
    passphrase::{PassphraseCost, PassphraseSeal},
};
use crate::KeyringError;

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

/// The root key, from what an AEAD opened.
fn root(opened: &[u8], kind: &'static str) -> Result<SecretBytes, KeyringError> {
    if opened.len() != 32 {
        return Err(KeyringError::WrongSeal(kind));
    }
    SecretBytes::new(32, |root| root.copy_from_slice(opened)).map_err(|_| KeyringError::Memory)
}
