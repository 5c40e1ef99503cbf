//! The Merkle tree of RFC 6962 section 2.1, and proofs about it.

use bonafide_crypto::digest::{Sha256, sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// A proof does not prove what it should.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the proof does not fit")]
pub struct InvalidProof;

/// The hash of an entry.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update(&[0]);
    hash.update(entry);
    hash.finish()
}

pub(crate) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut input = [1; 65];
    let (_, hashes) = input.split_at_mut(1);
    let (first, second) = hashes.split_at_mut(32);
    first.copy_from_slice(left);
    second.copy_from_slice(right);
    sha256(&input)
}

/// The hash of the tree without leaves.
pub(crate) fn empty_root() -> Hash {
    sha256(b"")
}

/// The root over hashes that each stand for a subtree of one size.
pub(crate) fn root_of(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [hash] => *hash,
        _ => {
            let (left, right) = hashes.split_at(largest_power_below(hashes.len() as u64) as usize);
            node_hash(&root_of(left), &root_of(right))
        }
    }
}

/// The largest power of two that is smaller than `n`, which is at least 2.
const fn largest_power_below(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// Where hashes of perfect subtrees come from.
pub(crate) trait Nodes {
    type Error;

    /// The hash over the leaves from `index << level` up to the next multiple of `1 << level`.
    fn node(&self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// The hash over the leaves from `low` up to `high`: a subtree of some tree, so that `low` is a multiple of the
/// largest power of two in the range.
pub(crate) fn range_hash<N: Nodes>(nodes: &N, low: u64, high: u64) -> Result<Hash, N::Error> {
    let count = high.saturating_sub(low);
    if count == 0 {
        return Ok(empty_root());
    }
    if count.is_power_of_two() {
        let level = count.trailing_zeros();
        return nodes.node(level, low >> level);
    }
    let middle = low + largest_power_below(count);
    Ok(node_hash(&range_hash(nodes, low, middle)?, &range_hash(nodes, middle, high)?))
}

/// RFC 6962 section 2.1.1: the hashes that lead from leaf `index` to the root over `size` leaves.
pub(crate) fn prove_inclusion<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let mut proof = Vec::new();
    let (mut low, mut high) = (0, size);
    while high - low > 1 {
        let middle = low + largest_power_below(high - low);
        if index < middle {
            proof.push(range_hash(nodes, middle, high)?);
            high = middle;
        } else {
            proof.push(range_hash(nodes, low, middle)?);
            low = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// RFC 6962 section 2.1.2: the hashes that show that the tree of size `old` is the beginning of that of size `new`.
pub(crate) fn prove_consistency<N: Nodes>(nodes: &N, old: u64, new: u64) -> Result<Vec<Hash>, N::Error> {
    let mut proof = Vec::new();
    let (mut low, mut high) = (0, new);
    if old == 0 {
        return Ok(proof);
    }
    while old < high {
        let middle = low + largest_power_below(high - low);
        if old <= middle {
            proof.push(range_hash(nodes, middle, high)?);
            high = middle;
        } else {
            proof.push(range_hash(nodes, low, middle)?);
            low = middle;
        }
    }
    // The old root itself is known to who asks.
    if low > 0 {
        proof.push(range_hash(nodes, low, high)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that a leaf is at `index` in the tree with `size` leaves and `root` (RFC 9162 section 2.1.3.2).
///
/// # Errors
/// [`InvalidProof`] if it does not show that.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), InvalidProof> {
    if index >= size {
        return Err(InvalidProof);
    }
    let (mut first, mut second) = (index, size - 1);
    let mut hash = *leaf;
    for part in proof {
        if second == 0 {
            return Err(InvalidProof);
        }
        if first & 1 == 1 || first == second {
            hash = node_hash(part, &hash);
            while first & 1 == 0 && first != 0 {
                first >>= 1;
                second >>= 1;
            }
        } else {
            hash = node_hash(&hash, part);
        }
        first >>= 1;
        second >>= 1;
    }
    if second == 0 && hash == *root { Ok(()) } else { Err(InvalidProof) }
}

/// Checks that the tree with `old_size` leaves and `old_root` is the beginning of the one with `new_size` leaves and
/// `new_root` (RFC 9162 section 2.1.4.2). Every tree begins with the empty one.
///
/// # Errors
/// [`InvalidProof`] if it does not show that.
pub fn verify_consistency(
    (old_size, old_root): (u64, &Hash),
    (new_size, new_root): (u64, &Hash),
    proof: &[Hash],
) -> Result<(), InvalidProof> {
    if old_size > new_size {
        return Err(InvalidProof);
    }
    if old_size == new_size || old_size == 0 {
        let known = if old_size == new_size { *new_root } else { empty_root() };
        return if proof.is_empty() && *old_root == known { Ok(()) } else { Err(InvalidProof) };
    }
    let (mut first, mut second) = (old_size - 1, new_size - 1);
    while first & 1 == 1 {
        first >>= 1;
        second >>= 1;
    }
    let mut parts = proof.iter();
    let start = if first == 0 { *old_root } else { *parts.next().ok_or(InvalidProof)? };
    let (mut old, mut new) = (start, start);
    for part in parts {
        if second == 0 {
            return Err(InvalidProof);
        }
        if first & 1 == 1 || first == second {
            old = node_hash(part, &old);
            new = node_hash(part, &new);
            while first & 1 == 0 && first != 0 {
                first >>= 1;
                second >>= 1;
            }
        } else {
            new = node_hash(&new, part);
        }
        first >>= 1;
        second >>= 1;
    }
    if second == 0 && old == *old_root && new == *new_root { Ok(()) } else { Err(InvalidProof) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definitions of RFC 6962 section 2.1, word for word.
    mod naive {
        use super::*;

        fn split(n: usize) -> usize {
            let mut k = 1;
            while k * 2 < n {
                k *= 2;
            }
            k
        }

        pub(super) fn root(leaves: &[Hash]) -> Hash {
            match leaves.len() {
                0 => sha256(b""),
                1 => leaves[0],
                n => {
                    let k = split(n);
                    node_hash(&root(&leaves[..k]), &root(&leaves[k..]))
                }
            }
        }

        pub(super) fn path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
            let n = leaves.len();
            if n == 1 {
                return vec![];
            }
            let k = split(n);
            let (mut path, last) = if m < k {
                (path(m, &leaves[..k]), root(&leaves[k..]))
            } else {
                (path(m - k, &leaves[k..]), root(&leaves[..k]))
            };
            path.push(last);
            path
        }

        pub(super) fn subproof(m: usize, leaves: &[Hash], complete: bool) -> Vec<Hash> {
            let n = leaves.len();
            if m == n {
                return if complete { vec![] } else { vec![root(leaves)] };
            }
            let k = split(n);
            let (mut proof, last) = if m <= k {
                (subproof(m, &leaves[..k], complete), root(&leaves[k..]))
            } else {
                (subproof(m - k, &leaves[k..], false), root(&leaves[..k]))
            };
            proof.push(last);
            proof
        }
    }

    struct Leaves(Vec<Hash>);

    impl Nodes for Leaves {
        type Error = std::convert::Infallible;

        fn node(&self, level: u32, index: u64) -> Result<Hash, Self::Error> {
            let low = (index << level) as usize;
            Ok(root_of(&self.0[low..low + (1 << level)]))
        }
    }

    fn leaves(count: u64) -> Leaves {
        Leaves((0..count).map(|index| leaf_hash(&index.to_be_bytes())).collect())
    }

    #[test]
    fn the_known_vectors() {
        // RFC 6962 implementations share these: the empty tree, an empty leaf, and certificate-transparency-go's tree.
        let hex = |hash: Hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let hashes: Vec<Hash> = inputs.iter().map(|input| leaf_hash(input)).collect();
        for (size, root) in [
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(hex(root_of(&hashes[..size])), root, "{size}");
        }
    }

    proptest! {
        #[test]
        fn roots_and_proofs_are_those_of_the_naive_tree(size in 1..300_u64, a in any::<u64>(), b in any::<u64>()) {
            let tree = leaves(size);
            let root = naive::root(&tree.0);
            prop_assert_eq!(root_of(&tree.0), root);
            prop_assert_eq!(range_hash(&tree, 0, size).unwrap(), root);

            let index = a % size;
            let proof = prove_inclusion(&tree, index, size).unwrap();
            prop_assert_eq!(&proof, &naive::path(index as usize, &tree.0));
            let leaf = tree.0[index as usize];
            prop_assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));

            let old = b % size + 1;
            let old_root = naive::root(&tree.0[..old as usize]);
            let proof = prove_consistency(&tree, old, size).unwrap();
            prop_assert_eq!(&proof, &naive::subproof(old as usize, &tree.0, true));
            prop_assert_eq!(verify_consistency((old, &old_root), (size, &root), &proof), Ok(()));
        }

        #[test]
        fn wrong_proofs_are_refused(size in 2..200_u64, a in any::<u64>(), b in any::<u64>(), at in any::<prop::sample::Index>()) {
            let tree = leaves(size);
            let root = root_of(&tree.0);
            let index = a % size;
            let leaf = tree.0[index as usize];
            let proof = prove_inclusion(&tree, index, size).unwrap();
            let refused = |leaf: &Hash, index, size, proof: &[Hash], root: &Hash| {
                verify_inclusion(leaf, index, size, proof, root).is_err()
            };
            prop_assert!(refused(&leaf_hash(b"other"), index, size, &proof, &root));
            prop_assert!(refused(&leaf, (index + 1 + b % (size - 1)) % size, size, &proof, &root));
            prop_assert!(refused(&leaf, size, size, &proof, &root));
            prop_assert!(refused(&leaf, index, size, &proof[1..], &root));
            prop_assert!(refused(&leaf, index, size, &[proof.as_slice(), &[leaf]].concat(), &root));
            let mut flipped = proof.clone();
            flipped[at.index(proof.len())][0] ^= 1;
            prop_assert!(refused(&leaf, index, size, &flipped, &root));

            let old = b % (size - 1) + 1;
            let old_root = root_of(&tree.0[..old as usize]);
            let proof = prove_consistency(&tree, old, size).unwrap();
            let refused = |old: (u64, &Hash), new: (u64, &Hash), proof: &[Hash]| {
                verify_consistency(old, new, proof).is_err()
            };
            prop_assert!(refused((old, &leaf_hash(b"")), (size, &root), &proof));
            prop_assert!(refused((old, &old_root), (size, &leaf_hash(b"")), &proof));
            prop_assert!(refused((size, &root), (old, &old_root), &proof));
            prop_assert!(refused((old, &old_root), (size, &root), &proof[1..]));
            prop_assert!(refused((old, &old_root), (size, &root), &[proof.as_slice(), &[root]].concat()));
            let mut flipped = proof.clone();
            flipped[at.index(proof.len())][0] ^= 1;
            prop_assert!(refused((old, &old_root), (size, &root), &flipped));
        }
    }

    #[test]
    fn the_empty_tree_begins_every_tree() {
        let tree = leaves(5);
        let root = root_of(&tree.0);
        assert_eq!(prove_consistency(&tree, 0, 5).unwrap(), [] as [Hash; 0]);
        assert_eq!(verify_consistency((0, &empty_root()), (5, &root), &[]), Ok(()));
        assert_eq!(verify_consistency((0, &empty_root()), (0, &empty_root()), &[]), Ok(()));
        assert!(verify_consistency((0, &root), (5, &root), &[]).is_err());
    }
}
