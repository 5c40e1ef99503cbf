//! A seal whose secret is a file.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use bonafide_crypto::{aead::AeadKey, random::Random};
use bonafide_secmem::SecretBytes;
use zeroize::Zeroizing;

use super::{Seal, root};
use crate::{KeyringError, file};

const KIND: &str = "key-file";
const MAGIC: &[u8; 24] = b"bonafide seal key, v1\n\0\n";
const CONTEXT: &[u8] = b"bonafide seal v1 key-file";

/// A seal whose secret lies in a file of mode 0600.
///
/// It protects a keyring only where the file does not travel with the data: on another volume, or as a secret that
/// the platform mounts. A key file beside the data protects against nothing but a copy that forgot it.
pub struct KeyFileSeal {
    path: PathBuf,
    key: AeadKey,
}

impl KeyFileSeal {
    /// Draws a key and writes it to `path`, where no file may be.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when there is a file already; [`KeyringError::Io`].
    pub fn create(path: impl AsRef<Path>, random: &dyn Random) -> Result<Self, KeyringError> {
        let (key, bytes) = AeadKey::generate(random);
        let mut contents = Zeroizing::new(Vec::with_capacity(MAGIC.len() + bytes.len()));
        contents.extend_from_slice(MAGIC);
        contents.extend_from_slice(bytes.as_ref());
        file::create(path.as_ref(), &contents)?;
        Ok(Self { path: path.as_ref().to_owned(), key })
    }

    /// Reads the key from `path`.
    ///
    /// # Errors
    /// [`KeyringError::Mode`] when others may read the file, [`KeyringError::Format`] when it is not a key file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, KeyringError> {
        let path = path.as_ref();
        let contents = file::read(path)?;
        let key = contents.strip_prefix(MAGIC).and_then(|key| <&[u8; 32]>::try_from(key).ok());
        let key =
            key.ok_or_else(|| KeyringError::Format { path: path.to_owned(), what: "a key file of a seal" })?;
        Ok(Self { path: path.to_owned(), key: AeadKey::from_bytes(key) })
    }
}

impl Seal for KeyFileSeal {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn seal(&self, root: &SecretBytes, random: &dyn Random) -> Result<Vec<u8>, KeyringError> {
        Ok(self.key.seal(CONTEXT, root.expose(), random))
    }

    fn unseal(&self, sealed: &[u8]) -> Result<SecretBytes, KeyringError> {
        let opened = self.key.open(CONTEXT, sealed).map_err(|_| KeyringError::WrongSeal(KIND))?;
        root(&opened, KIND)
    }
}

impl fmt::Debug for KeyFileSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFileSeal").field("path", &self.path).finish_non_exhaustive()
    }
}
