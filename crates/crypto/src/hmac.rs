//! HMAC (RFC 2104) with SHA-2, over plain messages. Not reachable from [`crate::jose`].

use std::fmt;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq as _;

use crate::mac::BadTag;

/// The hash under an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HmacHash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A key of HMAC, of any length.
#[derive(Clone)]
pub struct HmacKey(hmac::Key);

/// A tag: as many bytes as the hash has.
#[derive(Clone, Copy, Debug)]
pub struct Tag(hmac::Tag);

impl HmacHash {
    /// Bytes of a tag, and of keys that are drawn.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl HmacKey {
    /// A key from its bytes.
    #[must_use]
    pub fn new(hash: HmacHash, key: &[u8]) -> Self {
        let algorithm = match hash {
            HmacHash::Sha256 => hmac::HMAC_SHA256,
            HmacHash::Sha384 => hmac::HMAC_SHA384,
            HmacHash::Sha512 => hmac::HMAC_SHA512,
        };
        Self(hmac::Key::new(algorithm, key))
    }

    /// The tag of `parts`, one after the other as if they were one message: nothing tells where one ends.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        Tag(context.sign())
    }

    /// Checks a whole tag in constant time. A truncated one is refused.
    ///
    /// # Errors
    /// [`BadTag`] if it does not match.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> Result<(), BadTag> {
        if bool::from(self.tag(parts).as_ref().ct_eq(tag)) { Ok(()) } else { Err(BadTag) }
    }
}

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey([secret])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 section 4.3, test case 2.
    #[test]
    fn keeps_the_rfc_vector() {
        let key = HmacKey::new(HmacHash::Sha256, b"Jefe");
        let tag = key.tag(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(tag.as_ref()[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(key.verify(&[b"what do ya want for nothing?"], tag.as_ref()), Ok(()));
        assert_eq!(key.verify(&[b"what do ya want for nothing?"], &tag.as_ref()[..31]), Err(BadTag));
        assert_eq!(key.verify(&[b"what do ya want for nothing!"], tag.as_ref()), Err(BadTag));
        for hash in [HmacHash::Sha256, HmacHash::Sha384, HmacHash::Sha512] {
            assert_eq!(HmacKey::new(hash, b"k").tag(&[]).as_ref().len(), hash.length());
        }
    }
}
