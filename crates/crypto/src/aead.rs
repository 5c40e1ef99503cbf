//! Authenticated encryption: AES-256-GCM with a random 96-bit nonce.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::random::Random;

/// Bytes that sealing adds to a plaintext: nonce and tag.
pub const OVERHEAD: usize = NONCE_LEN + 16;

/// An AES-256-GCM key.
///
/// Nonces are random, so one key may seal at most 2^32 messages (NIST SP 800-38D section 8.3).
pub struct AeadKey(LessSafeKey);

/// The sealed bytes were not made with this key and these associated data, or were changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes can't be opened: wrong key, wrong context, or changed")]
pub struct Unsealable;

impl AeadKey {
    /// A key from its bytes.
    #[must_use]
    pub fn from_bytes(key: &[u8; 32]) -> Self {
        match UnboundKey::new(&AES_256_GCM, key) {
            Ok(key) => Self(LessSafeKey::new(key)),
            // INVARIANT: AES-256 takes every key of 32 bytes; only a failed allocation ends here.
            Err(_) => std::process::abort(),
        }
    }

    /// A new key. Its bytes are returned too, because a key that can't be wrapped is of no use.
    #[must_use]
    pub fn generate(random: &dyn Random) -> (Self, Zeroizing<[u8; 32]>) {
        let mut bytes = Zeroizing::new([0; 32]);
        random.fill(bytes.as_mut());
        (Self::from_bytes(&bytes), bytes)
    }

    /// Seals `plaintext`, bound to `aad`: nonce, ciphertext, tag.
    #[must_use]
    pub fn seal(&self, aad: &[u8], plaintext: &[u8], random: &dyn Random) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = random.array();
        let mut sealed = Vec::with_capacity(plaintext.len().saturating_add(OVERHEAD));
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let tag = match sealed.get_mut(NONCE_LEN..) {
            Some(body) => {
                self.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body)
            }
            None => Err(aws_lc_rs::error::Unspecified),
        };
        match tag {
            Ok(tag) => sealed.extend_from_slice(tag.as_ref()),
            // INVARIANT: GCM takes 2^36 bytes, more than a message of ours can have; plaintext is never returned.
            Err(_) => std::process::abort(),
        }
        sealed
    }

    /// Opens what [`Self::seal`] made with the same `aad`.
    ///
    /// # Errors
    /// [`Unsealable`] if key, context or bytes differ.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable)?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut body)
            .map_err(|_| Unsealable)?
            .len();
        body.truncate(length);
        Ok(body)
    }
}

impl Unsealable {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "crypto.unsealable"
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AeadKey([secret])")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::SystemRandom;

    proptest! {
        #[test]
        fn opens_only_what_was_sealed(
            plaintext in prop::collection::vec(any::<u8>(), 0..200),
            aad in prop::collection::vec(any::<u8>(), 0..20),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let (key, bytes) = AeadKey::generate(&SystemRandom);
            let mut sealed = key.seal(&aad, &plaintext, &SystemRandom);
            prop_assert_eq!(sealed.len(), plaintext.len() + OVERHEAD);
            prop_assert_eq!(&*AeadKey::from_bytes(&bytes).open(&aad, &sealed).unwrap(), &plaintext);
            let mut other = aad.clone();
            other.push(0);
            prop_assert!(key.open(&other, &sealed).is_err());
            prop_assert!(AeadKey::generate(&SystemRandom).0.open(&aad, &sealed).is_err());
            let at = at.index(sealed.len());
            sealed[at] ^= flip;
            prop_assert!(key.open(&aad, &sealed).is_err());
        }

        #[test]
        fn short_input_is_refused(sealed in prop::collection::vec(any::<u8>(), 0..OVERHEAD)) {
            prop_assert!(AeadKey::generate(&SystemRandom).0.open(b"", &sealed).is_err());
        }
    }
}
