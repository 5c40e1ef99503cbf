//! Key derivation.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// HKDF-SHA-256 (RFC 5869), 32 bytes of output.
///
/// `secret` must already have the entropy of a key: this is no password hash.
#[must_use]
pub fn hkdf_sha256(secret: &[u8], salt: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    hkdf_sha256_parts(secret, salt, &[info])
}

/// The same with `N` bytes of output, 8160 at most, and an `info` in parts, as if they were one: nothing tells where one ends.
#[must_use]
pub fn hkdf_sha256_parts<const N: usize>(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32, "RFC 5869 section 2.3 bounds the output at 255 hashes") };
    let mut out = Zeroizing::new([0; N]);
    let key = Salt::new(HKDF_SHA256, salt).extract(secret);
    let filled = key.expand(info, Length(N)).and_then(|okm| okm.fill(out.as_mut()));
    // INVARIANT: the length was checked above. A zero key must never be handed out, whatever happens.
    if filled.is_err() {
        std::process::abort();
    }
    out
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869 appendix A.1, first 32 bytes of the output keying material.
    #[test]
    fn keeps_the_rfc_vector() {
        let salt: Vec<u8> = (0x00..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let expected = [
            0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36, 0x2f, 0x2a,
            0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56, 0xec, 0xc4, 0xc5, 0xbf,
        ];
        assert_eq!(*hkdf_sha256(&[0x0b; 22], &salt, &info), expected);
        let (head, tail) = info.split_at(3);
        let longer = hkdf_sha256_parts::<42>(&[0x0b; 22], &salt, &[head, tail]);
        assert_eq!((&longer[..32], &longer[40..]), (&expected[..], &[0x58, 0x65][..]));
    }
}
