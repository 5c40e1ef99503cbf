//! AES key wrap with padding (RFC 5649), in which others send keys.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded as _};
use zeroize::Zeroizing;

use crate::aead::Unsealable;

/// Opens a wrapped key of at most `max` bytes.
///
/// # Errors
/// [`Unsealable`] when the wrapping key is another, and when the bytes were changed, or are too many.
pub fn unwrap(key: &[u8; 32], wrapped: &[u8], max: usize) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
    if wrapped.len() > max.saturating_add(16) {
        return Err(Unsealable);
    }
    let key = AesKek::new(&AES_256, key).map_err(|_| Unsealable)?;
    let mut out = Zeroizing::new(vec![0; wrapped.len()]);
    let length = key.unwrap_with_padding(wrapped, &mut out).map_err(|_| Unsealable)?.len();
    out.truncate(length);
    if length > max { Err(Unsealable) } else { Ok(out) }
}

/// Wraps a key: what a partner does who has a key to give.
///
/// # Errors
/// [`Unsealable`] when there is nothing to wrap.
pub fn wrap(key: &[u8; 32], plaintext: &[u8]) -> Result<Vec<u8>, Unsealable> {
    let key = AesKek::new(&AES_256, key).map_err(|_| Unsealable)?;
    let mut out = vec![0; plaintext.len().saturating_add(16)];
    let length = key.wrap_with_padding(plaintext, &mut out).map_err(|_| Unsealable)?.len();
    out.truncate(length);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_was_wrapped() {
        for length in [1, 7, 8, 32, 33, 1200] {
            let secret = vec![5; length];
            let mut wrapped = wrap(&[1; 32], &secret).unwrap();
            assert_eq!(*unwrap(&[1; 32], &wrapped, length).unwrap(), secret);
            assert!(unwrap(&[1; 32], &wrapped, length.saturating_sub(1)).is_err());
            assert!(unwrap(&[2; 32], &wrapped, length).is_err());
            wrapped[3] ^= 1;
            assert!(unwrap(&[1; 32], &wrapped, length).is_err());
        }
    }
}
