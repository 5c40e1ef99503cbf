//! A copy of what a ledger has published, in a directory of another disk or a mounted bucket: checkpoint and tiles, without
//! the tail. What was appended since the last copy is what a lost server takes along.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Ledger, LedgerError, SignedCheckpoint, VerifierKey,
    tile::{self, Kind, Tile, WIDTH},
    writer::{Shared, State, read_tile, sync_directory, write_file},
};

/// Tells a replica from a ledger that has lost its tail.
pub(crate) const MARKER: &str = "replica";
const MARKER_TEXT: &[u8] = b"bonafide ledger replica v1\n";

/// Copies the published part of a ledger into a directory, bit by bit. Blocks.
#[derive(Debug)]
pub struct Replica {
    shared: Arc<Shared>,
    key: VerifierKey,
    directory: PathBuf,
    /// Entries that the last checkpoint there speaks of.
    size: u64,
}

impl Ledger {
    /// Opens a replica of this ledger in `directory`, or begins one. Does not keep the ledger open.
    ///
    /// # Errors
    /// [`LedgerError::Broken`] if there is something else, the replica of another ledger, or one that knows more than
    /// this ledger does: then that is evidence, and is not overwritten.
    pub fn replica(&self, directory: impl AsRef<Path>) -> Result<Replica, LedgerError> {
        let directory = directory.as_ref().to_owned();
        fs::create_dir_all(&directory).map_err(|cause| LedgerError::io(&directory, &cause))?;
        let key = self.verifier_key().clone();
        let size = match replicated(&directory, &key)? {
            Some(signed) => {
                let there = signed.checkpoint();
                if there.size > self.size() {
                    let what = format!("it has {} entries, but the ledger {}", there.size, self.size());
                    return Err(LedgerError::broken(directory.join("checkpoint"), what));
                }
                if self.root_at(there.size)? != there.root {
                    let what = "it is not of the beginning of the ledger";
                    return Err(LedgerError::broken(directory.join("checkpoint"), what));
                }
                there.size
            }
            None => {
                write_file(&directory.join(MARKER), "replica", MARKER_TEXT, true)?;
                sync_directory(&directory)?;
                0
            }
        };
        Ok(Replica { shared: Arc::clone(self.shared()), key, directory, size })
    }
}

/// The checkpoint of the replica in `directory`; `None` if it has none yet, or there is no replica.
///
/// # Errors
/// [`LedgerError::Broken`] if there is something else than a replica of the ledger with this key.
pub fn replicated(
    directory: impl AsRef<Path>,
    key: &VerifierKey,
) -> Result<Option<SignedCheckpoint>, LedgerError> {
    let directory = directory.as_ref();
    let read = |name: &str| {
        let path = directory.join(name);
        match fs::read(&path) {
            Ok(contents) => Ok(Some(contents)),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(LedgerError::io(&path, &cause)),
        }
    };
    if read(MARKER)?.is_none() {
        return match fs::read_dir(directory).map(|mut files| files.next().is_none()) {
            Ok(false) => Err(LedgerError::broken(directory, "it is no replica, and not empty")),
            Ok(true) => Ok(None),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(LedgerError::io(directory, &cause)),
        };
    }
    read("checkpoint")?.map(|note| SignedCheckpoint::parse(&note, key)).transpose()
}

/// Whether `directory` says that it is a replica.
pub(crate) fn is_replica(directory: &Path) -> bool {
    directory.join(MARKER).exists()
}

impl Replica {
    /// Entries that are safe there: those that its checkpoint speaks of.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Brings the replica up to a checkpoint that this ledger has published. Whoever reads it meanwhile finds the last
    /// checkpoint with all that it needs.
    ///
    /// # Errors
    /// What can't be read or written. Then the last checkpoint remains, and this can be tried again.
    pub fn copy(&mut self, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
        let size = signed.checkpoint().size;
        if signed.checkpoint().origin != self.key.name() || size < self.size {
            return Err(LedgerError::Invalid("a replica follows its own ledger, forwards"));
        }
        let state = self.shared.lock().clone();
        let mut directories = BTreeSet::new();
        for tile in tiles(self.size, size) {
            let contents = self.contents(&state, &tile)?;
            let path = self.directory.join(tile.path());
            write_file(&path, "replica", &contents, true)?;
            directories.extend(tile.path().ancestors().skip(1).map(|parent| self.directory.join(parent)));
        }
        for directory in &directories {
            sync_directory(directory)?;
        }
        let note = self.directory.join("checkpoint");
        write_file(&note, "replica", signed.note().as_bytes(), true)?;
        sync_directory(&self.directory)?;
        let before = std::mem::replace(&mut self.size, size);
        self.tidy(before, size);
        Ok(())
    }

    /// What is in a tile, full or not, whether or not it is full by now.
    fn contents(&self, state: &State, tile: &Tile) -> Result<Vec<u8>, LedgerError> {
        let Some(width) = tile.partial else { return self.shared.full_tile(state, tile) };
        let width = usize::from(width);
        let level = match tile.kind {
            Kind::Entries => 0,
            Kind::Hashes { level } => level,
        };
        let is_full = state.tree.size() >> (8 * (u32::from(level) + 1)) > tile.index;
        let whole = match tile.kind {
            _ if is_full => self.shared.full_tile(state, &Tile { partial: None, ..*tile })?,
            Kind::Hashes { level } => state.tree.partial(usize::from(level)).concat(),
            Kind::Entries => {
                let first = tile.index * WIDTH;
                let entries: Option<Vec<Vec<u8>>> = (first..first + width as u64)
                    .map(|index| state.tree.entry(index).map(<[u8]>::to_vec))
                    .collect();
                tile::encode_entries(&entries.ok_or(LedgerError::Invalid("the log does not reach that far"))?)
            }
        };
        let length = match tile.kind {
            Kind::Hashes { .. } => width * 32,
            Kind::Entries => {
                let damaged = || LedgerError::broken(tile.path(), "its entries are damaged");
                let entries = tile::split_entries(&whole).map_err(|_| damaged())?;
                entries.iter().take(width).map(|entry| entry.len() + 2).sum()
            }
        };
        let what = || LedgerError::broken(tile.path(), "it is too short");
        whole.get(..length).map(<[u8]>::to_vec).ok_or_else(what)
    }

    /// Removes beginnings of tiles that nobody needs any more. Best effort: they do no harm.
    fn tidy(&self, before: u64, size: u64) {
        for old in tiles(before, before).into_iter().filter(|tile| tile.partial.is_some()) {
            let kept =
                tiles(size, size).into_iter().find(|tile| (tile.kind, tile.index) == (old.kind, old.index));
            let kept = kept.and_then(|tile| tile.partial).map(|width| width.to_string());
            let folder = self.directory.join(old.partials());
            if kept.is_none() {
                let _ = fs::remove_dir_all(folder);
                continue;
            }
            for file in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if kept.as_deref().map(OsStr::new) != Some(&file.file_name()) {
                    let _ = fs::remove_file(file.path());
                }
            }
        }
    }
}

/// The tiles that a log of `to` entries needs, and one of `from` entries did not have in full.
fn tiles(from: u64, to: u64) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut of_level = |kind, level: u32| {
        let (first, full) = (from >> (8 * (level + 1)), to >> (8 * (level + 1)));
        tiles.extend((first..full).map(|index| Tile::full(kind, index)));
        let width = u8::try_from((to >> (8 * level)) % WIDTH).ok().filter(|width| *width > 0);
        tiles.extend(width.map(|width| Tile { kind, index: full, partial: Some(width) }));
    };
    of_level(Kind::Entries, 0);
    for level in 0..7_u8 {
        if to >> (8 * u32::from(level)) == 0 {
            break;
        }
        of_level(Kind::Hashes { level }, u32::from(level));
    }
    tiles
}

/// The entries of a replica that are in no full bundle: those of its partial one.
pub(crate) fn last_bundle(directory: &Path, size: u64) -> Result<Option<(Tile, Vec<u8>)>, LedgerError> {
    let Some(width) = u8::try_from(size % WIDTH).ok().filter(|width| *width > 0) else { return Ok(None) };
    let tile = Tile { kind: Kind::Entries, index: size / WIDTH, partial: Some(width) };
    read_tile(directory, &tile).map(|contents| Some((tile, contents)))
}

#[cfg(test)]
mod tests;
