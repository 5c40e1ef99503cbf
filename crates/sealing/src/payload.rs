//! The encrypted secret: chunks of 64 KiB, each authenticated, none of which can be moved, left out or cut off.
//!
//! STREAM (Hoang, Reyhanitabar, Rogaway and Vizár, 2015) as age has it: AES-256-GCM under the payload key of a fresh file key, with
//! a nonce of eleven bytes of counter and one that is 1 in the last chunk. A secret of up to 64 KiB is one chunk. Every chunk is
//! bound to the object.

use bonafide_crypto::aead::Unsealable;
use bonafide_crypto::cipher::{Cipher, CipherKey, NONCE, TAG};
use zeroize::Zeroizing;

use crate::kem::FileKey;

/// The most bytes of a secret.
pub const MAX_SECRET: usize = 1 << 20;
/// Bytes of plaintext in every chunk but the last.
pub const CHUNK: usize = 64 << 10;
/// The most bytes of a payload.
pub const MAX_PAYLOAD: usize = MAX_SECRET + MAX_SECRET / CHUNK * TAG;

pub(crate) fn encrypt(key: &FileKey, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, Unsealable> {
    if secret.len() > MAX_SECRET {
        return Err(Unsealable);
    }
    let cipher = CipherKey::new(Cipher::Aes256Gcm, key.payload_key().as_slice()).ok_or(Unsealable)?;
    let chunks = secret.len().div_ceil(CHUNK).max(1);
    let mut out = vec![0; secret.len() + chunks * TAG];
    let pieces = secret.chunks(CHUNK).chain(secret.is_empty().then_some([].as_slice()));
    for ((number, piece), sealed) in (1..).zip(pieces).zip(out.chunks_mut(CHUNK + TAG)) {
        cipher.seal_into(&nonce(number, number == chunks), aad, piece, sealed)?;
    }
    Ok(out)
}

pub(crate) fn decrypt(key: &FileKey, aad: &[u8], payload: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
    let chunks = payload.len().div_ceil(CHUNK + TAG);
    let length = payload.len().checked_sub(chunks * TAG).filter(|length| *length <= MAX_SECRET);
    let mut out = Zeroizing::new(vec![0; length.filter(|_| chunks > 0).ok_or(Unsealable)?]);
    // Of the right length from the start: a vector that grows leaves copies behind.
    let cipher = CipherKey::new(Cipher::Aes256Gcm, key.payload_key().as_slice()).ok_or(Unsealable)?;
    let mut rest = out.as_mut_slice();
    for (number, sealed) in (1..).zip(payload.chunks(CHUNK + TAG)) {
        let piece = sealed.len().checked_sub(TAG).ok_or(Unsealable)?;
        // Only the only chunk may be empty: there is one encoding.
        if piece == 0 && chunks > 1 {
            return Err(Unsealable);
        }
        let (opened, after) = rest.split_at_mut_checked(piece).ok_or(Unsealable)?;
        cipher.open_into(&nonce(number, number == chunks), aad, sealed, opened)?;
        rest = after;
    }
    Ok(out)
}

/// Chunks count from zero.
fn nonce(number: usize, last: bool) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    let [.., counter, end] = &mut nonce;
    // INVARIANT: MAX_SECRET has 16 chunks, so one byte of the counter is all that moves.
    *counter = u8::try_from(number.saturating_sub(1)).unwrap_or(u8::MAX);
    *end = u8::from(last);
    nonce
}

#[cfg(test)]
mod tests {
    use bonafide_crypto::random::SystemRandom;

    use super::*;

    fn key() -> FileKey {
        FileKey::hedged(b"", &[], b"", &SystemRandom)
    }

    #[test]
    fn every_length_opens() {
        let key = key();
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7, MAX_SECRET] {
            let secret: Vec<u8> = (0..length).map(|place| place as u8).collect();
            let payload = encrypt(&key, b"aad", &secret).unwrap();
            assert!(payload.len() <= MAX_PAYLOAD);
            assert_eq!(*decrypt(&key, b"aad", &payload).unwrap(), secret);
            assert!(decrypt(&key, b"bad", &payload).is_err());
        }
        assert!(encrypt(&key, b"", &vec![0; MAX_SECRET + 1]).is_err());
        assert!(decrypt(&key, b"", &[]).is_err());
        assert!(decrypt(&key, b"", &vec![0; MAX_PAYLOAD + 1]).is_err());
    }

    #[test]
    fn chunks_stay_where_they_are() {
        let key = key();
        let payload = encrypt(&key, b"", &vec![7; 3 * CHUNK]).unwrap();
        let size = CHUNK + TAG;
        // Cut off after a whole chunk, swapped, doubled, and with an empty one behind.
        let cut = &payload[..2 * size];
        let swapped = [&payload[size..2 * size], &payload[..size], &payload[2 * size..]].concat();
        let doubled = [&payload[..size], &payload[..]].concat();
        let empty = [&payload[..], &encrypt(&key, b"", b"").unwrap()].concat();
        for bad in [cut, &swapped, &doubled, &empty] {
            assert!(decrypt(&key, b"", bad).is_err());
        }
    }
}
