//! The right edge of the tree: all that appending, roots and tiles need.

use crate::{
    Hash,
    merkle::{self, node_hash, root_of},
    tile::{Kind, Tile, TileFile, WIDTH, encode_entries},
};

/// The tiles that are not full yet, one for each level, and the entries of the lowest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    size: u64,
    levels: Vec<Vec<Hash>>,
    entries: Vec<Vec<u8>>,
}

impl Tree {
    /// A tree that was built before. `levels` holds what is not full of each level; the size must be a multiple of
    /// the width, so that there are no entries.
    pub(crate) const fn restore(size: u64, levels: Vec<Vec<Hash>>) -> Self {
        Self { size, levels, entries: Vec::new() }
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the tile of `level` that is not full.
    pub(crate) fn partial(&self, level: usize) -> &[Hash] {
        self.levels.get(level).map_or(&[], Vec::as_slice)
    }

    /// The entry, if it is in the bundle that is not full.
    pub(crate) fn entry(&self, index: u64) -> Option<&[u8]> {
        let first = self.size - self.entries.len() as u64;
        let offset = usize::try_from(index.checked_sub(first)?).ok()?;
        self.entries.get(offset).map(Vec::as_slice)
    }

    /// Appends an entry whose hash is `leaf`. Tiles that it fills are handed to `filled`.
    pub(crate) fn push(&mut self, entry: Vec<u8>, leaf: Hash, mut filled: impl FnMut(TileFile)) {
        self.entries.push(entry);
        self.size += 1;
        let mut hash = leaf;
        let mut count = self.size;
        for level in 0.. {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(usize::from(level)) else { return };
            hashes.push(hash);
            if hashes.len() < WIDTH as usize {
                return;
            }
            count /= WIDTH;
            if level == 0 {
                let contents = encode_entries(&self.entries);
                self.entries.clear();
                filled(TileFile { tile: Tile::full(Kind::Entries, count - 1), contents });
            }
            hash = root_of(hashes);
            let contents = hashes.concat();
            hashes.clear();
            filled(TileFile { tile: Tile::full(Kind::Hashes { level }, count - 1), contents });
        }
    }

    pub(crate) fn root(&self) -> Hash {
        // The tree is a chain of perfect subtrees, the largest first; it is hashed from its right end.
        let mut root: Option<Hash> = None;
        for hashes in &self.levels {
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let smallest = 1_usize << rest.len().trailing_zeros();
                let (before, subtree) = rest.split_at(rest.len() - smallest);
                let left = root_of(subtree);
                root = Some(root.map_or(left, |right| node_hash(&left, &right)));
                rest = before;
            }
        }
        root.unwrap_or_else(merkle::empty_root)
    }

    /// The partial tiles that a checkpoint of this size needs.
    pub(crate) fn partial_tiles(&self) -> impl Iterator<Item = Tile> + '_ {
        let levels = (0..).zip(&self.levels).scan(self.size, |count, (level, _)| {
            let tile = Tile {
                kind: Kind::Hashes { level },
                index: *count / WIDTH,
                partial: u8::try_from(*count % WIDTH).ok().filter(|width| *width > 0),
            };
            *count /= WIDTH;
            Some(tile)
        });
        let entries = levels.clone().take(1).map(|tile| Tile { kind: Kind::Entries, ..tile });
        entries.chain(levels).filter(|tile| tile.partial.is_some())
    }

    /// What is in one of [`partial_tiles`](Self::partial_tiles).
    pub(crate) fn partial_contents(&self, tile: &Tile) -> Vec<u8> {
        match tile.kind {
            Kind::Entries => encode_entries(&self.entries),
            Kind::Hashes { level } => self.partial(usize::from(level)).concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::leaf_hash;

    #[test]
    fn roots_and_tiles_are_those_of_all_leaves() {
        let mut tree = Tree::default();
        let mut leaves = Vec::new();
        let mut files = Vec::new();
        assert_eq!(tree.root(), root_of(&leaves));
        for index in 0..66_000_u32 {
            let entry = index.to_be_bytes().to_vec();
            let leaf = leaf_hash(&entry);
            leaves.push(leaf);
            tree.push(entry, leaf, |file| files.push(file));
            if index < 600 || index % 997 == 0 || (65_530..65_540).contains(&index) {
                assert_eq!(tree.root(), root_of(&leaves), "{index}");
            }
        }
        let count = |kind| files.iter().filter(|file| file.tile.kind == kind).count();
        assert_eq!(count(Kind::Entries), 257);
        assert_eq!(count(Kind::Hashes { level: 0 }), 257);
        assert_eq!(count(Kind::Hashes { level: 1 }), 1);
        let above = files.iter().find(|file| file.tile.kind == Kind::Hashes { level: 1 }).unwrap();
        let expected: Vec<Hash> = leaves[..65_536].chunks(256).map(root_of).collect();
        assert_eq!(above.contents, expected.concat());
        let partial: Vec<_> = tree.partial_tiles().collect();
        let tile = |kind, index, width| Tile { kind, index, partial: Some(width) };
        assert_eq!(
            partial,
            [
                tile(Kind::Entries, 257, 208),
                tile(Kind::Hashes { level: 0 }, 257, 208),
                tile(Kind::Hashes { level: 1 }, 1, 1),
                tile(Kind::Hashes { level: 2 }, 0, 1),
            ]
        );
        assert_eq!(tree.entry(65_999), Some(&65_999_u32.to_be_bytes()[..]));
        assert_eq!((tree.entry(65_791), tree.entry(66_000)), (None, None));
    }
}
