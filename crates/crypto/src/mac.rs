//! Message authentication with a key that never leaves the process. Not reachable from [`crate::jose`].

use std::fmt;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;

/// An HMAC-SHA-256 key over lists of parts.
#[derive(Clone)]
pub struct MacKey(hmac::Key);

/// The tag does not belong to these parts under this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the authentication tag does not match")]
pub struct BadTag;

impl MacKey {
    /// A key from its bytes.
    #[must_use]
    pub fn from_bytes(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The tag of `parts`. Each part is preceded by its length, so that moving a byte from one part to the next
    /// changes the tag.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let tag = context.sign();
        let mut out = [0; 32];
        // INVARIANT: the output of SHA-256 is 32 bytes.
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Checks a tag in constant time.
    ///
    /// # Errors
    /// [`BadTag`] if it does not match.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> Result<(), BadTag> {
        if bool::from(self.tag(parts).ct_eq(tag)) { Ok(()) } else { Err(BadTag) }
    }
}

impl BadTag {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "crypto.tag-mismatch"
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey([secret])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_boundary_changes_the_tag() {
        let key = MacKey::from_bytes(&[7; 32]);
        let tag = key.tag(&[b"ab", b"c"]);
        assert_eq!(key.verify(&[b"ab", b"c"], &tag), Ok(()));
        assert_eq!(key.verify(&[b"a", b"bc"], &tag), Err(BadTag));
        assert_eq!(key.verify(&[b"abc"], &tag), Err(BadTag));
        assert_eq!(key.verify(&[b"ab", b"c", b""], &tag), Err(BadTag));
        assert_eq!(key.verify(&[b"ab", b"c"], &tag[..31]), Err(BadTag));
        assert_eq!(MacKey::from_bytes(&[8; 32]).verify(&[b"ab", b"c"], &tag), Err(BadTag));
        assert!(!format!("{key:?}").contains('7'));
    }
}
