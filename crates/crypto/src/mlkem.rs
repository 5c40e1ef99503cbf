//! ML-KEM-768 (FIPS 203): a key encapsulation that a quantum computer does not open.

use std::fmt;

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use crate::aead::Unsealable;
use crate::key::KeyError;

/// Bytes of a private key, in the form of FIPS 203 section 7.1: that of K-PKE, the public key, its hash, and a seed.
pub const PRIVATE: usize = 2400;
/// Bytes of a public key.
pub const PUBLIC: usize = 1184;
/// Bytes of a ciphertext.
pub const CIPHERTEXT: usize = 1088;
/// Bytes of a shared secret.
pub const SECRET: usize = 32;

/// Where the public key begins in the private one.
const PUBLIC_AT: usize = 1152;

/// A SubjectPublicKeyInfo before the key (RFC 9935 section 4).
const SPKI_PREFIX: &[u8; 22] =
    b"\x30\x82\x04\xb2\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x04\x02\x03\x82\x04\xa1\x00";

/// A private key.
pub struct MlKemPrivateKey {
    key: DecapsulationKey,
    bytes: Zeroizing<Vec<u8>>,
    public: MlKemPublicKey,
}

/// A public key.
pub struct MlKemPublicKey {
    key: EncapsulationKey,
    raw: Box<[u8; PUBLIC]>,
}

impl MlKemPrivateKey {
    /// Draws a key.
    ///
    /// # Errors
    /// [`KeyError::Generation`] if there is none.
    pub fn generate() -> Result<Self, KeyError> {
        let key = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| KeyError::Generation)?;
        let bytes = key.key_bytes().map_err(|_| KeyError::Generation)?;
        let bytes = Zeroizing::new(bytes.as_ref().to_vec());
        Self::from_bytes(&bytes).map_err(|_| KeyError::Generation)
    }

    /// A key from its bytes. The hash in it must fit the public key in it (FIPS 203 section 7.3), and the public key must
    /// be one.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] for another length; [`KeyError::Inconsistent`] if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() != PRIVATE {
            return Err(KeyError::Malformed);
        }
        let public = bytes.get(PUBLIC_AT..PUBLIC_AT + PUBLIC).ok_or(KeyError::Malformed)?;
        let hash = bytes.get(PUBLIC_AT + PUBLIC..PUBLIC_AT + PUBLIC + 32).ok_or(KeyError::Malformed)?;
        if aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA3_256, public).as_ref() != hash {
            return Err(KeyError::Inconsistent);
        }
        let public = MlKemPublicKey::from_bytes(public)?;
        let key = DecapsulationKey::new(&ML_KEM_768, bytes).map_err(|_| KeyError::Inconsistent)?;
        Ok(Self { key, bytes: Zeroizing::new(bytes.to_vec()), public })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &MlKemPublicKey {
        &self.public
    }

    /// The secret in a ciphertext. One that was made for another key, or changed, gives a secret that nobody else has
    /// (implicit rejection).
    ///
    /// # Errors
    /// [`Unsealable`] if it has another length.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<Zeroizing<[u8; SECRET]>, Unsealable> {
        if ciphertext.len() != CIPHERTEXT {
            return Err(Unsealable);
        }
        let secret = self.key.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| Unsealable)?;
        copy(secret.as_ref())
    }
}

impl MlKemPublicKey {
    /// A key from its bytes.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] for another length; [`KeyError::Inconsistent`] if its numbers are not reduced (FIPS 203
    /// section 7.2).
    pub fn from_bytes(raw: &[u8]) -> Result<Self, KeyError> {
        let raw: &[u8; PUBLIC] = raw.try_into().map_err(|_| KeyError::Malformed)?;
        // 768 numbers of twelve bits, below 3329, least significant first.
        let (numbers, _) = raw.split_at(PUBLIC - 32);
        let reduced = numbers.as_chunks::<3>().0.iter().all(|[a, b, c]| {
            let (a, b, c) = (u16::from(*a), u16::from(*b), u16::from(*c));
            (a | (b & 0xf) << 8) < 3329 && (b >> 4 | c << 4) < 3329
        });
        if !reduced {
            return Err(KeyError::Inconsistent);
        }
        let key = EncapsulationKey::new(&ML_KEM_768, raw).map_err(|_| KeyError::Inconsistent)?;
        Ok(Self { key, raw: Box::new(*raw) })
    }

    /// A key from a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] for another form; [`KeyError::Inconsistent`] if it is none.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        Self::from_bytes(spki.strip_prefix(SPKI_PREFIX.as_slice()).ok_or(KeyError::Malformed)?)
    }

    /// The key as SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), self.raw.as_slice()].concat()
    }

    /// Draws a secret: the ciphertext that holds it, and the secret.
    ///
    /// # Errors
    /// [`Unsealable`] if the library refuses.
    pub fn encapsulate(&self) -> Result<(Vec<u8>, Zeroizing<[u8; SECRET]>), Unsealable> {
        let (ciphertext, secret) = self.key.encapsulate().map_err(|_| Unsealable)?;
        Ok((ciphertext.as_ref().to_vec(), copy(secret.as_ref())?))
    }
}

impl fmt::Debug for MlKemPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MlKemPrivateKey([secret])")
    }
}

impl fmt::Debug for MlKemPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MlKemPublicKey(..)")
    }
}

fn copy(secret: &[u8]) -> Result<Zeroizing<[u8; SECRET]>, Unsealable> {
    let mut out = Zeroizing::new([0; SECRET]);
    if secret.len() != SECRET {
        return Err(Unsealable);
    }
    out.copy_from_slice(secret);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_the_secret() {
        let key = MlKemPrivateKey::generate().unwrap();
        let again = MlKemPrivateKey::from_bytes(key.bytes()).unwrap();
        let public = MlKemPublicKey::from_spki_der(&key.public_key().spki_der()).unwrap();
        let (mut ciphertext, secret) = public.encapsulate().unwrap();
        assert_eq!(again.decapsulate(&ciphertext).unwrap(), secret);
        assert!(again.decapsulate(&ciphertext[1..]).is_err());
        ciphertext[7] ^= 1;
        assert_ne!(again.decapsulate(&ciphertext).unwrap(), secret);
        for at in [0, PUBLIC_AT, PUBLIC_AT + PUBLIC] {
            let mut bytes = key.bytes().to_vec();
            bytes[at] ^= 1;
            assert_eq!(MlKemPrivateKey::from_bytes(&bytes).is_err(), at > 0);
        }
        assert_eq!(MlKemPublicKey::from_bytes(&[0xff; PUBLIC]).unwrap_err(), KeyError::Inconsistent);
    }
}
