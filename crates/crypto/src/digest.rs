//! Digests of bytes and of sets.

use std::fmt;

/// SHA-256 of `data`.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    bytes(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data))
}

/// SHA-384 of `data`.
#[must_use]
pub fn sha384(data: &[u8]) -> [u8; 48] {
    let mut out = [0; 48];
    // INVARIANT: the output of SHA-384 is 48 bytes.
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, data).as_ref());
    out
}

/// SHA-512 of `data`.
#[must_use]
pub fn sha512(data: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    // INVARIANT: the output of SHA-512 is 64 bytes.
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, data).as_ref());
    out
}

/// SHA-256 of data that arrives in pieces.
#[derive(Clone)]
pub struct Sha256(aws_lc_rs::digest::Context);

/// The digest of a multiset: the same items in any order give the same digest.
///
/// LtHash (Bellare and Micciancio, 1997; Lewi, Kim, Maykov and Weis, 2019): each item is expanded to 1024 lanes of
/// 16 bits by BLAKE3, and lanes are added. Finding two sets with one digest is a short-vector problem of about 200 bits; the
/// shorter sums that are often used instead fall to Wagner's generalized birthday attack.
#[derive(Clone, PartialEq, Eq)]
pub struct SetDigest(Box<[u16; LANES]>);

const LANES: usize = 1024;

impl Sha256 {
    /// An empty digest.
    #[must_use]
    pub fn new() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }

    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all that was added.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        bytes(&self.0.finish())
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256(..)")
    }
}

impl SetDigest {
    /// Adds one occurrence of `item`.
    pub fn insert(&mut self, item: &[u8]) {
        self.each(item, u16::wrapping_add);
    }

    /// Takes one occurrence of `item` away. Nothing checks that it was there.
    pub fn remove(&mut self, item: &[u8]) {
        self.each(item, u16::wrapping_sub);
    }

    fn each(&mut self, item: &[u8], combine: impl Fn(u16, u16) -> u16) {
        let mut stream = [0; 2 * LANES];
        let mut hash = blake3::Hasher::new();
        hash.update(b"bonafide set digest v1 item").update(item);
        hash.finalize_xof().fill(&mut stream);
        for (lane, pair) in self.0.iter_mut().zip(stream.as_chunks::<2>().0) {
            *lane = combine(*lane, u16::from_le_bytes(*pair));
        }
    }

    /// Adds every occurrence of every item of another set.
    pub fn merge(&mut self, other: &Self) {
        for (lane, add) in self.0.iter_mut().zip(other.0.iter()) {
            *lane = lane.wrapping_add(*add);
        }
    }

    /// The digest as 32 bytes, to send and to compare. The empty set has a digest too.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"bonafide set digest v1 sum");
        let mut encoded = [0; 2 * LANES];
        for (pair, lane) in encoded.as_chunks_mut::<2>().0.iter_mut().zip(self.0.iter()) {
            *pair = lane.to_le_bytes();
        }
        hash.update(&encoded);
        hash.finish()
    }
}

impl Default for SetDigest {
    fn default() -> Self {
        Self(Box::new([0; LANES]))
    }
}

impl fmt::Debug for SetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SetDigest(")?;
        for byte in self.bytes() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

fn bytes(digest: &aws_lc_rs::digest::Digest) -> [u8; 32] {
    let mut out = [0; 32];
    // INVARIANT: the output of SHA-256 is 32 bytes.
    out.copy_from_slice(digest.as_ref());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_empty_digest_is_that_of_the_standard() {
        let mut hash = Sha256::new();
        hash.update(b"a");
        hash.update(b"bc");
        assert_eq!(hash.finish(), sha256(b"abc"));
        assert_eq!(sha256(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    }

    /// Both sides of a stream compute this digest, perhaps in different releases: it must never change.
    #[test]
    fn a_set_digest_is_stable() {
        let mut set = SetDigest::default();
        set.insert(b"one");
        set.insert(b"two");
        assert_eq!(
            format!("{set:?}"),
            "SetDigest(2766b979597477d52d5002c33e361fddf4a1d095d00d80380b73d747e90e838f)"
        );
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_removal_undoes(
            mut items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 1..12),
            extra in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let digest = |items: &[Vec<u8>]| {
                let mut set = SetDigest::default();
                items.iter().for_each(|item| set.insert(item));
                set
            };
            let before = digest(&items);
            let mut with = before.clone();
            with.insert(&extra);
            prop_assert_ne!(with.bytes(), before.bytes());
            with.remove(&extra);
            prop_assert_eq!(&with, &before);
            let mut merged = digest(&items[..1]);
            merged.merge(&digest(&items[1..]));
            prop_assert_eq!(&merged, &before);
            items.reverse();
            prop_assert_eq!(digest(&items).bytes(), before.bytes());
            let first = items[0].clone();
            items.push(first);
            prop_assert_ne!(digest(&items).bytes(), before.bytes());
        }
    }
}
