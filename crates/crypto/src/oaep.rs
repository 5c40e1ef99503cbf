//! RSAES-OAEP (RFC 8017 section 7.1), with the same hash for the label and for MGF1.

use std::fmt;

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
}
