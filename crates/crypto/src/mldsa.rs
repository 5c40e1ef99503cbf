//! ML-DSA-65 (FIPS 204): signatures that a quantum computer does not forge. Pure, with an empty context.

use std::fmt;

use aws_lc_rs::signature::{KeyPair as _, ML_DSA_65, ML_DSA_65_SIGNING, ParsedPublicKey, PqdsaKeyPair};
use zeroize::Zeroizing;

use crate::key::{BadSignature, KeyError, SignError};
use crate::random::Random;

/// Bytes of a seed.
pub const SEED: usize = 32;
/// Bytes of a private key that is not a seed (FIPS 204 section 4, table 2).
pub const EXPANDED: usize = 4032;
/// Bytes of a public key.
pub const PUBLIC: usize = 1952;
/// Bytes of a signature.
pub const SIGNATURE: usize = 3309;

/// A SubjectPublicKeyInfo before the key (RFC 9881 section 4).
const SPKI_PREFIX: &[u8; 22] =
    b"\x30\x82\x07\xb2\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x12\x03\x82\x07\xa1\x00";

/// A private key.
pub struct MlDsaPrivateKey {
    pair: PqdsaKeyPair,
    bytes: Zeroizing<Vec<u8>>,
    public: MlDsaPublicKey,
}

/// A public key.
pub struct MlDsaPublicKey {
    raw: Box<[u8; PUBLIC]>,
    parsed: ParsedPublicKey,
}

impl MlDsaPrivateKey {
    /// Draws a key.
    ///
    /// # Errors
    /// [`KeyError::Generation`] if there is none.
    pub fn generate(random: &dyn Random) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; SEED]);
        random.fill(&mut *seed);
        Self::from_bytes(&*seed).map_err(|_| KeyError::Generation)
    }

    /// A key from its seed, or from its expanded form.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] for another length; [`KeyError::Inconsistent`] if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let pair = match bytes.len() {
            SEED => PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, bytes),
            EXPANDED => PqdsaKeyPair::from_raw_private_key(&ML_DSA_65_SIGNING, bytes),
            _ => return Err(KeyError::Malformed),
        };
        let pair = pair.map_err(|_| KeyError::Inconsistent)?;
        let public = MlDsaPublicKey::from_bytes(pair.public_key().as_ref())?;
        Ok(Self { pair, bytes: Zeroizing::new(bytes.to_vec()), public })
    }

    /// Its seed if that is known, or else its expanded form.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &MlDsaPublicKey {
        &self.public
    }

    /// Signs, with fresh randomness.
    ///
    /// # Errors
    /// [`SignError::Failed`] if the library refuses.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; SIGNATURE];
        self.pair
            .sign(message, &mut signature)
            .map_err(|_| SignError::Failed("the cryptographic library refused".to_owned()))?;
        Ok(signature)
    }
}

impl MlDsaPublicKey {
    /// A key from its bytes.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] for another length; [`KeyError::Inconsistent`] if it is none.
    pub fn from_bytes(raw: &[u8]) -> Result<Self, KeyError> {
        let raw: &[u8; PUBLIC] = raw.try_into().map_err(|_| KeyError::Malformed)?;
        let parsed = ParsedPublicKey::new(&ML_DSA_65, raw).map_err(|_| KeyError::Inconsistent)?;
        Ok(Self { raw: Box::new(*raw), parsed })
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

    /// Checks a signature.
    ///
    /// # Errors
    /// [`BadSignature`] if it does not match.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        self.parsed.verify_sig(message, signature).map_err(|_| BadSignature)
    }
}

impl fmt::Debug for MlDsaPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MlDsaPrivateKey([secret])")
    }
}

impl fmt::Debug for MlDsaPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MlDsaPublicKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SystemRandom;

    #[test]
    fn signs_what_its_public_half_verifies() {
        let key = MlDsaPrivateKey::generate(&SystemRandom).unwrap();
        let again = MlDsaPrivateKey::from_bytes(key.bytes()).unwrap();
        let public = MlDsaPublicKey::from_spki_der(&key.public_key().spki_der()).unwrap();
        let signature = again.sign(b"message").unwrap();
        assert_eq!(public.verify(b"message", &signature), Ok(()));
        assert_eq!(public.verify(b"massage", &signature), Err(BadSignature));
        assert_eq!(public.verify(b"message", &signature[1..]), Err(BadSignature));
        assert_eq!(MlDsaPrivateKey::from_bytes(&[0; 31]).unwrap_err(), KeyError::Malformed);
        assert!(
            !format!("{key:?}")
                .contains(|digit: char| digit.is_ascii_digit() && digit != '6' && digit != '5')
        );
    }
}
