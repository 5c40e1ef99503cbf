//! Authenticated encryption with a nonce that the caller gives: for constructions that derive keys and nonces.
//!
//! Whoever seals must not use a nonce twice under one key. [`crate::aead`] draws nonces by itself; [`crate::xaes`]
//! derives a key for each message.

use std::fmt;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};

use crate::aead::Unsealable;

/// Bytes of a nonce.
pub const NONCE: usize = 12;
/// Bytes of a tag, which follows the ciphertext.
pub const TAG: usize = 16;

/// Which cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-128 in GCM (NIST SP 800-38D).
    Aes128Gcm,
    /// AES-256 in GCM (NIST SP 800-38D).
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

/// A key of a cipher, with its schedule.
pub struct CipherKey(LessSafeKey);

impl Cipher {
    /// Bytes of its keys.
    #[must_use]
    pub const fn key_length(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    const fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

impl CipherKey {
    /// A key from its bytes; `None` when there are not [`Cipher::key_length`] of them.
    #[must_use]
    pub fn new(cipher: Cipher, key: &[u8]) -> Option<Self> {
        Some(Self(LessSafeKey::new(UnboundKey::new(cipher.algorithm(), key).ok()?)))
    }

    /// Seals `plaintext`, bound to `aad`, into `out`, which must be [`TAG`] bytes longer.
    ///
    /// # Errors
    /// [`Unsealable`] when `out` has another length, or the plaintext more bytes than the cipher takes.
    pub fn seal_into(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unsealable> {
        let (body, tag) = out.split_at_mut_checked(plaintext.len()).ok_or(Unsealable)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0
            .seal_out_of_place_scatter(nonce, Aad::from(aad), plaintext, body, &[], tag)
            .map_err(|_| Unsealable)
    }

    /// Opens what was sealed with the same nonce and `aad` into `out`, which must be [`TAG`] bytes shorter. What is in
    /// `out` after an error is nothing to look at.
    ///
    /// # Errors
    /// [`Unsealable`] when key, nonce, `aad` or bytes differ, and when `out` has another length.
    pub fn open_into(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unsealable> {
        let length = sealed.len().checked_sub(TAG).filter(|length| *length == out.len()).ok_or(Unsealable)?;
        let (body, tag) = sealed.split_at_checked(length).ok_or(Unsealable)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.open_separate_gather(nonce, Aad::from(aad), body, tag, out).map_err(|_| Unsealable)
    }
}

impl fmt::Debug for CipherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CipherKey([secret])")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn opens_only_what_was_sealed(
            which in 0..3_usize,
            key in any::<[u8; 32]>(),
            nonce in any::<[u8; NONCE]>(),
            aad in prop::collection::vec(any::<u8>(), 0..40),
            plaintext in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
        ) {
            let cipher = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305][which];
            let key = CipherKey::new(cipher, &key[..cipher.key_length()]).unwrap();
            let mut sealed = vec![0; plaintext.len() + TAG];
            key.seal_into(&nonce, &aad, &plaintext, &mut sealed).unwrap();
            let mut opened = vec![0; plaintext.len()];
            key.open_into(&nonce, &aad, &sealed, &mut opened).unwrap();
            prop_assert_eq!(&opened, &plaintext);
            prop_assert!(key.seal_into(&nonce, &aad, &plaintext, &mut opened).is_err());
            prop_assert!(key.open_into(&nonce, &[&aad[..], b"x"].concat(), &sealed, &mut opened).is_err());
            let at = at.index(sealed.len());
            sealed[at] ^= flip;
            prop_assert!(key.open_into(&nonce, &aad, &sealed, &mut opened).is_err());
        }
    }

    #[test]
    fn keys_have_one_length() {
        assert!(CipherKey::new(Cipher::Aes128Gcm, &[0; 32]).is_none());
        assert!(CipherKey::new(Cipher::Aes256Gcm, &[0; 16]).is_none());
        assert!(CipherKey::new(Cipher::ChaCha20Poly1305, &[0; 31]).is_none());
    }
}
