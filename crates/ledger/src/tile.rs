//! The files of C2SP tlog-tiles: where they lie, and what is in them.

use std::path::PathBuf;

use crate::{Hash, LedgerError, MAX_ENTRY};

/// How many hashes or entries a full tile has.
pub(crate) const WIDTH: u64 = 256;

/// What a tile holds.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    Entries,
    Hashes { level: u8 },
}

/// One tile: the `index`-th of its kind, full or the beginning of one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Tile {
    pub(crate) kind: Kind,
    pub(crate) index: u64,
    /// 1 to 255, or `None` for a full tile.
    pub(crate) partial: Option<u8>,
}

/// A tile with its contents.
#[derive(Clone, Debug)]
pub(crate) struct TileFile {
    pub(crate) tile: Tile,
    pub(crate) contents: Vec<u8>,
}

impl Tile {
    pub(crate) const fn full(kind: Kind, index: u64) -> Self {
        Self { kind, index, partial: None }
    }

    /// Relative to the ledger's directory.
    pub(crate) fn path(&self) -> PathBuf {
        let mut path = self.path_of_full();
        if let Some(width) = self.partial {
            path.as_mut_os_string().push(".p");
            path.push(width.to_string());
        }
        path
    }

    /// The directory of the partial tiles of this tile.
    pub(crate) fn partials(&self) -> PathBuf {
        let mut path = self.path_of_full();
        path.as_mut_os_string().push(".p");
        path
    }

    fn path_of_full(&self) -> PathBuf {
        let mut path = PathBuf::from("tile");
        match self.kind {
            Kind::Entries => path.push("entries"),
            Kind::Hashes { level } => path.push(level.to_string()),
        }
        let mut rest = self.index;
        let mut parts = vec![format!("{:03}", rest % 1000)];
        while rest >= 1000 {
            rest /= 1000;
            parts.push(format!("x{:03}", rest % 1000));
        }
        path.extend(parts.iter().rev());
        path
    }

    /// The inverse of [`path`](Self::path), for paths with `/`.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix("tile/")?.split('/');
        let kind = match parts.next()? {
            "entries" => Kind::Entries,
            level => Kind::Hashes { level: level.parse().ok()? },
        };
        let mut index: u64 = 0;
        let mut partial = None;
        while let Some(part) = parts.next() {
            let part = match part.strip_suffix(".p") {
                Some(part) => {
                    partial = Some(parts.next()?.parse().ok()?);
                    part
                }
                None => part,
            };
            let digits: u64 = part.strip_prefix('x').unwrap_or(part).parse().ok()?;
            index = index.checked_mul(1000)?.checked_add(digits)?;
        }
        let tile = Self { kind, index, partial };
        // Whatever was not in its one canonical form is somebody else's.
        (partial != Some(0) && tile.path().to_str() == Some(path)).then_some(tile)
    }
}

pub(crate) fn encode_entries(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.iter().map(|entry| entry.len() + 2).sum());
    for entry in entries {
        put_entry(&mut out, entry);
    }
    out
}

/// Appends an entry after its length. It must have been checked not to be longer than [`MAX_ENTRY`].
pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &[u8]) {
    debug_assert!(entry.len() <= MAX_ENTRY);
    out.extend_from_slice(&u16::try_from(entry.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(entry);
}

/// Cuts `contents` into entries. `Err` says at which byte it can't be.
pub(crate) fn split_entries(contents: &[u8]) -> Result<Vec<&[u8]>, usize> {
    let mut entries = Vec::new();
    let mut rest = contents;
    while !rest.is_empty() {
        let entry = rest
            .split_first_chunk()
            .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        let Some((entry, after)) = entry else { return Err(contents.len() - rest.len()) };
        entries.push(entry);
        rest = after;
    }
    Ok(entries)
}

pub(crate) fn split_hashes(tile: &Tile, contents: &[u8]) -> Result<Vec<Hash>, LedgerError> {
    let width = tile.partial.map_or(WIDTH as usize, usize::from);
    let (hashes, rest) = contents.as_chunks::<32>();
    if hashes.len() != width || !rest.is_empty() {
        let what = format!("it has {} bytes, not {}", contents.len(), width * 32);
        return Err(LedgerError::broken(tile.path(), what));
    }
    Ok(hashes.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = |level, index, partial| {
            let tile = Tile { kind: Kind::Hashes { level }, index, partial };
            tile.path().to_str().unwrap().to_owned()
        };
        assert_eq!(tile(0, 1_234_067, None), "tile/0/x001/x234/067");
        assert_eq!(tile(0, 0, None), "tile/0/000");
        assert_eq!(tile(2, 999, Some(17)), "tile/2/999.p/17");
        assert_eq!(tile(1, 1000, Some(255)), "tile/1/x001/000.p/255");
        assert_eq!(Tile::full(Kind::Entries, 7).path().to_str(), Some("tile/entries/007"));
    }

    #[test]
    fn only_canonical_paths_are_tiles() {
        for path in [
            "tile/0/0",
            "tile/0/x000/001",
            "tile/0/1000",
            "tile/00/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p",
            "tile/0/x001",
            "tile/0/001/002",
            "tile/256/000",
            "tile/entries",
            "tile/0/000/",
            "tile/0//000",
            "tile/0/+01",
            "tile/x/000",
            "tail/0/000",
            "tile/0/x001.p/3/002",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn parsing_inverts_paths(level in prop::option::of(0..63_u8), index in any::<u64>(), partial in prop::option::of(1..=255_u8)) {
            let kind = level.map_or(Kind::Entries, |level| Kind::Hashes { level });
            let tile = Tile { kind, index, partial };
            prop_assert_eq!(Tile::parse(tile.path().to_str().unwrap()), Some(tile));
        }

        #[test]
        fn splitting_inverts_encoding(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20), noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let encoded = encode_entries(&entries);
            let split = split_entries(&encoded).unwrap();
            prop_assert!(split.iter().eq(entries.iter()));
            if let Ok(split) = split_entries(&noise) {
                let entries: Vec<_> = split.into_iter().map(<[u8]>::to_vec).collect();
                prop_assert_eq!(encode_entries(&entries), noise);
            }
        }
    }
}
