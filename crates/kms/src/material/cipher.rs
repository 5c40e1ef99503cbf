//! Symmetric encryption: a random part, the ciphertext, a tag. The random part derives the key of the message.

use bonafide_crypto::cipher::{Cipher, CipherKey, NONCE, TAG};
use bonafide_crypto::erased::Erased;
use bonafide_crypto::hmac::{HmacHash, HmacKey};
use bonafide_crypto::random::Random;
use bonafide_crypto::xaes::{NONCE_128, NONCE_256, XaesKey};
use zeroize::Zeroizing;

use super::MAX_PLAINTEXT;
use crate::algorithm::KeyType;
use crate::error::Refusal;

/// Derives the key that draws the random parts of a convergent key.
const CONVERGENT_LABEL: &[u8] = b"bonafide kms convergent v1";
/// Begins what derives a message's key of ChaCha20.
const CHACHA_LABEL: &[u8] = b"bonafide kms chacha20-poly1305 v1";

/// A key that encrypts.
pub(crate) struct Sealer {
    derivation: Derivation,
    /// Draws random parts from what is encrypted.
    convergent: Option<Box<HmacKey>>,
}

enum Derivation {
    Xaes(Box<XaesKey>),
    /// HMAC-SHA-256 of the first half of the random part is the key; the other half is the nonce.
    ChaCha(Box<HmacKey>),
}

impl Sealer {
    /// What XAES-256-GCM adds.
    pub(crate) const OVERHEAD_256: usize = NONCE_256 + TAG;

    /// `None` when these bytes are no key of this kind.
    pub(crate) fn new(key_type: KeyType, convergent: bool, bytes: &[u8]) -> Option<Self> {
        let derivation = match key_type {
            KeyType::Aes128Gcm => Derivation::Xaes(Box::new(XaesKey::xaes_128(bytes.try_into().ok()?))),
            KeyType::Aes256Gcm => Derivation::Xaes(Box::new(XaesKey::xaes_256(bytes.try_into().ok()?))),
            KeyType::ChaCha20Poly1305 if bytes.len() == 32 => {
                Derivation::ChaCha(Box::new(HmacKey::new(HmacHash::Sha256, bytes)))
            }
            _ => return None,
        };
        let convergent = convergent.then(|| {
            let key = HmacKey::new(HmacHash::Sha512, bytes).tag(&[CONVERGENT_LABEL]);
            Box::new(HmacKey::new(HmacHash::Sha512, key.as_ref()))
        });
        Some(Self { derivation, convergent })
    }

    pub(crate) fn of_xaes(key: XaesKey) -> Self {
        Self { derivation: Derivation::Xaes(Box::new(key)), convergent: None }
    }

    /// Bytes that are added to a plaintext.
    pub(crate) fn overhead(&self) -> usize {
        self.random_length() + TAG
    }

    /// Appends random part, ciphertext and tag.
    pub(crate) fn seal(
        &self,
        aad: &[u8],
        plaintext: &[u8],
        random: &dyn Random,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(Refusal::TooLong);
        }
        let mut drawn = [0; NONCE_128];
        let drawn = drawn.get_mut(..self.random_length()).ok_or(Refusal::Library)?;
        match &self.convergent {
            None => random.fill(drawn),
            Some(key) => {
                // The length keeps what it is bound to and the plaintext apart.
                let tag = key.tag(&[&(aad.len() as u64).to_be_bytes(), aad, plaintext]);
                drawn.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
            }
        }
        out.extend_from_slice(drawn);
        let start = out.len();
        out.resize(start + plaintext.len() + TAG, 0);
        let sealed = out.get_mut(start..).ok_or(Refusal::Library)?;
        match &self.derivation {
            Derivation::Xaes(key) => key.seal_into(drawn, aad, plaintext, sealed),
            Derivation::ChaCha(key) => {
                let (key, nonce) = chacha(key, drawn)?;
                key.seal_into(nonce, aad, plaintext, sealed)
            }
        }
        .map_err(|_| Refusal::Library)
    }

    /// Opens random part, ciphertext and tag.
    pub(crate) fn open(&self, aad: &[u8], body: &[u8]) -> Result<Erased, Refusal> {
        let (drawn, sealed) = body.split_at_checked(self.random_length()).ok_or(Refusal::Ciphertext)?;
        let length = sealed.len().checked_sub(TAG).filter(|length| *length <= MAX_PLAINTEXT);
        let mut out = Erased::new(vec![0; length.ok_or(Refusal::Ciphertext)?]);
        match &self.derivation {
            Derivation::Xaes(key) => key.open_into(drawn, aad, sealed, &mut out),
            Derivation::ChaCha(key) => {
                let (key, nonce) = chacha(key, drawn)?;
                key.open_into(nonce, aad, sealed, &mut out)
            }
        }
        .map_err(|_| Refusal::Ciphertext)?;
        Ok(out)
    }

    const fn random_length(&self) -> usize {
        match &self.derivation {
            Derivation::Xaes(key) => key.nonce_length(),
            Derivation::ChaCha(_) => NONCE_256,
        }
    }
}

fn chacha<'a>(key: &HmacKey, drawn: &'a [u8]) -> Result<(CipherKey, &'a [u8; NONCE]), Refusal> {
    let (context, nonce) = drawn.split_last_chunk::<NONCE>().ok_or(Refusal::Library)?;
    let mut derived = Zeroizing::new([0; 32]);
    derived.copy_from_slice(key.tag(&[CHACHA_LABEL, context]).as_ref());
    Ok((CipherKey::new(Cipher::ChaCha20Poly1305, &*derived).ok_or(Refusal::Library)?, nonce))
}
