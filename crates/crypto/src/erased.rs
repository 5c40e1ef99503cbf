//! Bytes that are erased when they are dropped.

use std::fmt;
use std::ops::{Deref, DerefMut};

use zeroize::{Zeroize as _, Zeroizing};

/// A plaintext, a key in the form in which it travels, or a buffer that either passes through. All that the allocation ever held
/// is erased at once; `Zeroizing<Vec<u8>>` erases byte by byte, which with long plaintexts costs more than their encryption.
///
/// As with any vector, what grows past its capacity leaves a copy behind.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Erased(Vec<u8>);

impl Erased {
    /// Takes bytes over.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Drop for Erased {
    fn drop(&mut self) {
        self.0.clear();
        self.0.spare_capacity_mut().zeroize();
    }
}

impl Deref for Erased {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Erased {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl From<Vec<u8>> for Erased {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<Zeroizing<Vec<u8>>> for Erased {
    fn from(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(std::mem::take(&mut bytes))
    }
}

impl AsRef<[u8]> for Erased {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Erased({} bytes)", self.0.len())
    }
}
