//! RSAES-OAEP (RFC 8017 section 7.1), with the same hash for the label and for MGF1.

use std::fmt;
use std::hint::black_box;

use aws_lc_rs::digest::{Algorithm, Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512,
    OaepAlgorithm, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use zeroize::Zeroizing;

use crate::aead::Unsealable;
use crate::key::{KeyError, PrivateKey, PublicKey, PublicKeyAlgorithm};

/// The hash of OAEP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OaepHash {
    /// SHA-1, which old partners use. OAEP does not need collision resistance.
    Sha1,
    /// SHA-256, the default.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A private RSA key that decrypts.
pub struct OaepPrivateKey(OaepPrivateDecryptingKey);

/// A public RSA key that encrypts.
pub struct OaepPublicKey(OaepPublicEncryptingKey);

impl OaepHash {
    /// Every hash.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    const fn algorithm(self) -> &'static OaepAlgorithm {
        match self {
            Self::Sha1 => &OAEP_SHA1_MGF1SHA1,
            Self::Sha256 => &OAEP_SHA256_MGF1SHA256,
            Self::Sha384 => &OAEP_SHA384_MGF1SHA384,
            Self::Sha512 => &OAEP_SHA512_MGF1SHA512,
        }
    }

    fn digest(self) -> &'static Algorithm {
        match self {
            Self::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &SHA256,
            Self::Sha384 => &SHA384,
            Self::Sha512 => &SHA512,
        }
    }
}

impl OaepPrivateKey {
    /// A key that was read already: an RSA key of 2048 to 8192 bits.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for a key of another kind.
    pub fn new(key: &PrivateKey) -> Result<Self, KeyError> {
        if !matches!(key.public_key().algorithm(), PublicKeyAlgorithm::Rsa { .. }) {
            return Err(KeyError::Unsupported);
        }
        let key =
            PrivateDecryptingKey::from_pkcs8(&key.to_pkcs8_der()).map_err(|_| KeyError::Inconsistent)?;
        OaepPrivateDecryptingKey::new(key).map(Self).map_err(|_| KeyError::Inconsistent)
    }

    /// Decrypts what was encrypted with the same hash and label. Every failure is the same, in the time it takes too.
    ///
    /// # Errors
    /// [`Unsealable`] when anything differs.
    pub fn decrypt(
        &self,
        hash: OaepHash,
        label: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        // RFC 8017 section 7.1.2, step 1.
        if ciphertext.len() != self.0.key_size_bytes() {
            return Err(Unsealable);
        }
        let mut out = Zeroizing::new(vec![0; self.0.min_output_size()]);
        let label = (!label.is_empty()).then_some(label);
        let length =
            self.0.decrypt(hash.algorithm(), ciphertext, &mut out, label).map_err(|_| Unsealable)?.len();
        out.truncate(length);
        Ok(out)
    }
}

impl OaepPublicKey {
    /// A key that was read already.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for a key of another kind.
    pub fn new(key: &PublicKey) -> Result<Self, KeyError> {
        if !matches!(key.algorithm(), PublicKeyAlgorithm::Rsa { .. }) {
            return Err(KeyError::Unsupported);
        }
        let key = PublicEncryptingKey::from_der(key.spki_der()).map_err(|_| KeyError::Inconsistent)?;
        OaepPublicEncryptingKey::new(key).map(Self).map_err(|_| KeyError::Inconsistent)
    }

    /// Bytes of each ciphertext.
    #[must_use]
    pub fn ciphertext_length(&self) -> usize {
        self.0.ciphertext_size()
    }

    /// The longest plaintext.
    #[must_use]
    pub fn max_plaintext(&self, hash: OaepHash) -> usize {
        self.0.max_plaintext_size(hash.algorithm())
    }

    /// Encrypts, bound to `label`, into `out`, which must have [`Self::ciphertext_length`] bytes.
    ///
    /// # Errors
    /// [`Unsealable`] when the plaintext is longer than [`Self::max_plaintext`], and when `out` has another length.
    pub fn encrypt_into(
        &self,
        hash: OaepHash,
        label: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unsealable> {
        if out.len() != self.ciphertext_length() || plaintext.len() > self.max_plaintext(hash) {
            return Err(Unsealable);
        }
        let label = (!label.is_empty()).then_some(label);
        self.0.encrypt(hash.algorithm(), plaintext, out, label).map(|_| ()).map_err(|_| Unsealable)
    }
}

/// Takes the padding off an encoded message (RFC 8017 section 7.1.2, step 3): for a private key that is in a device which knows
/// RSA, and not OAEP with this hash and label. Every failure is the same, in the time it takes too: who could tell them apart
/// would decrypt (Manger, CRYPTO 2001).
///
/// # Errors
/// [`Unsealable`] when anything differs.
pub fn unpad(hash: OaepHash, label: &[u8], encoded: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
    let algorithm = hash.digest();
    let length = algorithm.output_len();
    let (first, masked) = encoded.split_first().ok_or(Unsealable)?;
    let (seed, block) = masked.split_at_checked(length).ok_or(Unsealable)?;
    if block.len() <= length {
        return Err(Unsealable);
    }
    let (mut seed, mut block) = (Zeroizing::new(seed.to_vec()), Zeroizing::new(block.to_vec()));
    mask(algorithm, &block, &mut seed);
    mask(algorithm, &seed, &mut block);
    let expected = digest(algorithm, label);
    let (label, rest) = block.split_at_checked(length).ok_or(Unsealable)?;
    let mut wrong = *first;
    for (one, other) in label.iter().zip(expected.as_ref()) {
        wrong |= one ^ other;
    }
    // All ones as long as the 1 that ends the zeros was not seen.
    let (mut looking, mut end) = (0xff_u8, 0_usize);
    for (index, byte) in rest.iter().enumerate() {
        let (one, zero) = (is_zero(black_box(byte ^ 1)), is_zero(black_box(*byte)));
        let here = usize::from(looking & one & 1).wrapping_neg();
        end |= here & index;
        wrong |= looking & !one & !zero;
        looking &= !one;
    }
    if black_box(wrong | looking) != 0 {
        return Err(Unsealable);
    }
    rest.get(end.saturating_add(1)..).map(|message| Zeroizing::new(message.to_vec())).ok_or(Unsealable)
}

/// MGF1 (RFC 8017 appendix B.2.1), onto `out`.
fn mask(algorithm: &'static Algorithm, seed: &[u8], out: &mut [u8]) {
    for (counter, part) in (0_u32..).zip(out.chunks_mut(algorithm.output_len())) {
        let mut context = Context::new(algorithm);
        context.update(seed);
        context.update(&counter.to_be_bytes());
        for (byte, mask) in part.iter_mut().zip(context.finish().as_ref()) {
            *byte ^= mask;
        }
    }
}

/// All ones for zero, and else nothing; without a branch.
fn is_zero(byte: u8) -> u8 {
    let [high, _] = u16::from(byte).wrapping_sub(1).to_be_bytes();
    high
}

impl fmt::Debug for OaepPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OaepPrivateKey([secret])")
    }
}

impl fmt::Debug for OaepPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OaepPublicKey").field("bits", &self.0.key_size_bits()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyAlgorithm;

    #[test]
    fn decrypts_only_what_was_encrypted_so() {
        let key = PrivateKey::generate(KeyAlgorithm::Rsa2048).unwrap();
        let (private, public) =
            (OaepPrivateKey::new(&key).unwrap(), OaepPublicKey::new(key.public_key()).unwrap());
        for hash in OaepHash::ALL {
            for label in [b"".as_slice(), b"label"] {
                let mut sealed = vec![0; public.ciphertext_length()];
                public.encrypt_into(hash, label, b"secret", &mut sealed).unwrap();
                assert_eq!(**private.decrypt(hash, label, &sealed).unwrap(), *b"secret");
                assert!(private.decrypt(hash, b"other", &sealed).is_err());
                sealed[100] ^= 1;
                assert!(private.decrypt(hash, label, &sealed).is_err());
                assert!(private.decrypt(hash, label, &sealed[1..]).is_err());
                let long = vec![1; public.max_plaintext(hash) + 1];
                assert!(public.encrypt_into(hash, label, &long, &mut sealed).is_err());
                assert!(public.encrypt_into(hash, label, &long[1..], &mut sealed).is_ok());
            }
        }
        let other = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
        assert_eq!(OaepPrivateKey::new(&other).unwrap_err(), KeyError::Unsupported);
        assert_eq!(OaepPublicKey::new(other.public_key()).unwrap_err(), KeyError::Unsupported);
    }

    /// RFC 8017 section 7.1.1, step 2. Whether others pad so is seen where a device decrypts what we have encrypted.
    fn pad(hash: OaepHash, label: &[u8], message: &[u8], length: usize) -> Vec<u8> {
        let algorithm = hash.digest();
        let mut block = digest(algorithm, label).as_ref().to_vec();
        block.resize(length - 2 - algorithm.output_len() - message.len(), 0);
        block.push(1);
        block.extend_from_slice(message);
        let mut seed: Vec<u8> = (1..).take(algorithm.output_len()).collect();
        mask(algorithm, &seed.clone(), &mut block);
        mask(algorithm, &block, &mut seed);
        [&[0], seed.as_slice(), &block].concat()
    }

    #[test]
    fn unpads_only_what_was_padded_so() {
        for hash in OaepHash::ALL {
            let most = 256 - 2 - 2 * hash.digest().output_len();
            for length in [0, 1, 2, 32, most] {
                let message = vec![1; length];
                let padded = pad(hash, b"label", &message, 256);
                assert_eq!(padded.len(), 256);
                assert_eq!(**unpad(hash, b"label", &padded).unwrap(), *message);
                assert!(unpad(hash, b"", &padded).is_err());
                assert!(unpad(hash, b"label", &padded[1..]).is_err());
            }
            let padded = pad(hash, b"", b"a secret", 256);
            for at in 0..padded.len() {
                for bit in [1, 0x80] {
                    let mut flipped = padded.clone();
                    flipped[at] ^= bit;
                    // A bit of the message alone is nothing that OAEP would see, if its own mask did not depend on it.
                    assert!(unpad(hash, b"", &flipped).is_err(), "{hash:?}, byte {at}");
                }
            }
            // Zeros without an end, and an end without zeros.
            assert!(unpad(hash, b"", &pad(hash, b"", b"", 256)).is_ok());
            for length in 0..=2 * hash.digest().output_len() + 1 {
                assert!(unpad(hash, b"", &vec![0; length]).is_err());
            }
        }
    }

    #[test]
    fn a_byte_that_is_zero_is_told_from_all_others() {
        for byte in 0..=u8::MAX {
            assert_eq!(is_zero(byte), if byte == 0 { 0xff } else { 0 });
        }
    }
}
