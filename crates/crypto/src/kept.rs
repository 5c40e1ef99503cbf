//! Keys that lie in protected memory while they are not used.

use bonafide_secmem::{SLOT, SecretError, SecretSlot};

pub use bonafide_secmem::Protection;

use crate::xaes::XaesKey;

/// A key of 256 bits. What a cipher derives of it is made for each use, and erased after it: a place in protected memory holds the
/// key, and the ordinary memory of the process nothing of it for longer than a use lasts.
#[derive(Debug)]
pub struct KeptKey(SecretSlot);

/// No memory for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct NoRoom(#[from] SecretError);

impl KeptKey {
    /// Keeps a copy of a key.
    ///
    /// # Errors
    /// [`NoRoom`] if the kernel gives no memory.
    pub fn new(key: &[u8; SLOT]) -> Result<Self, NoRoom> {
        Ok(Self(SecretSlot::new(key)?))
    }

    /// For one use.
    #[must_use]
    pub fn xaes_256(&self) -> XaesKey {
        XaesKey::xaes_256(self.0.expose())
    }

    /// The key, for a use that is none of a cipher's. What is made of it has to be erased by whoever makes it.
    #[must_use]
    pub fn expose(&self) -> &[u8; SLOT] {
        self.0.expose()
    }

    /// What keeps others from the keys of this process, as far as the kernel and the limit of locked memory let it.
    #[must_use]
    pub fn protection() -> Protection {
        SecretSlot::protection()
    }
}
