//! AES-GCM with a key for each message, derived from a long random nonce: no limit of 2^32 messages.
//!
//! [`XaesKey::xaes_256`] is XAES-256-GCM of C2SP (c2sp.org/XAES-256-GCM): the key of a message is the output of the KDF in
//! counter mode of NIST SP 800-108r1 with CMAC-AES-256, over the label `X` and the first 12 bytes of a nonce of 24; the other
//! 12 are the nonce of AES-256-GCM.
//!
//! [`XaesKey::xaes_128`] is the same with AES-128: one block of CMAC-AES-128 is the key. So that messages hardly ever share a
//! key of 128 bits, 28 bytes go into the derivation, and the nonce has 40.

use std::fmt;

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, UnboundCipherKey};
use zeroize::{Zeroize as _, Zeroizing};

use crate::aead::Unsealable;
use crate::cipher::{Cipher, CipherKey, NONCE};

/// Bytes of a nonce of XAES-256-GCM.
pub const NONCE_256: usize = 24;
/// Bytes of a nonce of XAES-128-GCM.
pub const NONCE_128: usize = 40;

const BLOCK: usize = 16;

/// A key that derives keys.
pub struct XaesKey {
    block: EncryptingKey,
    /// The subkey of CMAC for whole blocks (NIST SP 800-38B section 6.1).
    subkey: Zeroizing<[u8; BLOCK]>,
    cipher: Cipher,
}

impl XaesKey {
    /// A key of XAES-256-GCM.
    #[must_use]
    pub fn xaes_256(key: &[u8; 32]) -> Self {
        Self::new(UnboundCipherKey::new(&AES_256, key), Cipher::Aes256Gcm)
    }

    /// A key of XAES-128-GCM.
    #[must_use]
    pub fn xaes_128(key: &[u8; 16]) -> Self {
        Self::new(UnboundCipherKey::new(&AES_128, key), Cipher::Aes128Gcm)
    }

    /// Bytes of its nonces.
    #[must_use]
    pub const fn nonce_length(&self) -> usize {
        match self.cipher {
            Cipher::Aes128Gcm => NONCE_128,
            Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => NONCE_256,
        }
    }

    /// Seals `plaintext`, bound to `aad`, into `out`, which must be [`crate::cipher::TAG`] bytes longer. The nonce must be
    /// random, or be derived from all that is sealed.
    ///
    /// # Errors
    /// [`Unsealable`] when nonce or `out` have another length, or the plaintext more bytes than the cipher takes.
    pub fn seal_into(
        &self,
        nonce: &[u8],
        aad: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unsealable> {
        let (key, nonce) = self.derive(nonce)?;
        key.seal_into(nonce, aad, plaintext, out)
    }

    /// Opens what was sealed with the same nonce and `aad` into `out`, which must be [`crate::cipher::TAG`] bytes shorter.
    ///
    /// # Errors
    /// [`Unsealable`] when key, nonce, `aad` or bytes differ, and when a length is wrong.
    pub fn open_into(
        &self,
        nonce: &[u8],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unsealable> {
        let (key, nonce) = self.derive(nonce)?;
        key.open_into(nonce, aad, sealed, out)
    }

    #[expect(clippy::expect_used, reason = "a cipher of fixed lengths fails only without memory")]
    fn new(key: Result<UnboundCipherKey, aws_lc_rs::error::Unspecified>, cipher: Cipher) -> Self {
        // INVARIANT: the types have given a key of the right length.
        let block = key.and_then(EncryptingKey::ecb).expect("AES takes every key of its length");
        let mut subkey = Zeroizing::new([0; BLOCK]);
        block.encrypt(&mut *subkey).expect("one block is whole");
        double(&mut subkey);
        Self { block, subkey, cipher }
    }

    /// The key and the nonce of one message.
    fn derive<'a>(&self, nonce: &'a [u8]) -> Result<(CipherKey, &'a [u8; NONCE]), Unsealable> {
        if nonce.len() != self.nonce_length() {
            return Err(Unsealable);
        }
        let (context, nonce) = nonce.split_last_chunk::<NONCE>().ok_or(Unsealable)?;
        // Counter, label, and a zero between label and context (NIST SP 800-108r1 section 4.1).
        let mut blocks = [0; 2 * BLOCK];
        let failed = |_| Unsealable;
        if self.cipher == Cipher::Aes128Gcm {
            // One CMAC over two blocks.
            put(&mut blocks, 0, &[0, 1, b'X', 0]);
            put(&mut blocks, 4, context);
            let (first, second) = blocks.split_at_mut(BLOCK);
            self.block.encrypt(first).map_err(failed)?;
            xor(second, first);
            xor(second, &*self.subkey);
            self.block.encrypt(second).map_err(failed)?;
            first.zeroize();
        } else {
            // Two CMACs over one block each.
            for (block, counter) in blocks.chunks_exact_mut(BLOCK).zip([1, 2]) {
                put(block, 0, &[0, counter, b'X', 0]);
                put(block, 4, context);
                xor(block, &*self.subkey);
            }
            self.block.encrypt(&mut blocks).map_err(failed)?;
        }
        let derived = blocks.len().checked_sub(self.cipher.key_length()).and_then(|from| blocks.get(from..));
        let key = derived.and_then(|key| CipherKey::new(self.cipher, key)).ok_or(Unsealable);
        blocks.zeroize();
        Ok((key?, nonce))
    }
}

impl fmt::Debug for XaesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XaesKey([secret])")
    }
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in block.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

fn xor(block: &mut [u8], other: &[u8]) {
    for (to, from) in block.iter_mut().zip(other) {
        *to ^= from;
    }
}

/// Multiplies by x in GF(2^128), in constant time.
fn double(block: &mut [u8; BLOCK]) {
    let number = u128::from_be_bytes(*block);
    let reduced = (number >> 127) * 0x87;
    *block = (number << 1 ^ reduced).to_be_bytes();
}

#[cfg(test)]
mod tests;
