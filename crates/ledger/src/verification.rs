//! Verification of a whole ledger from its files, with nothing but the public key.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Checkpoint, Hash, LedgerError, SignedCheckpoint, VerifierKey, leaf_hash,
    ledger::segments,
    replica,
    segment::{self, End},
    tile::{self, Kind, Tile, TileFile, WIDTH},
    tree::Tree,
    writer::read_tile,
};

/// What [`verify`] found to be true.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// How many entries the log has.
    pub size: u64,
    /// The last published checkpoint; `None` if the log never had one, or somebody removed it.
    pub checkpoint: Option<Checkpoint>,
    /// How many entries came after the checkpoint. They are protected against accident, but not signed.
    pub unsigned: u64,
}

/// Verifies the ledger in `directory`, which no process should be appending to: every file, entry and hash, and the
/// root that `key` signed. Reads the whole log; writes nothing.
///
/// What it can't see is that the whole directory was replaced by an older copy of itself. That is what others, who
/// have kept a later checkpoint, see.
///
/// # Errors
/// [`LedgerError::Broken`], with the first place that is wrong. After a crash that is the torn end of the tail, which
/// opening the ledger repairs.
pub fn verify(directory: impl AsRef<Path>, key: &VerifierKey) -> Result<Report, LedgerError> {
    verify_entries(directory, key, &mut |_, _| ())
}

/// As [`verify`], and shows each entry with its index to `visit`. What was shown is true only once this returns
/// without an error.
///
/// # Errors
/// As [`verify`].
pub fn verify_entries(
    directory: impl AsRef<Path>,
    key: &VerifierKey,
    visit: &mut dyn FnMut(u64, &[u8]),
) -> Result<Report, LedgerError> {
    let directory = directory.as_ref();
    let mut files = Files::list(directory)?;
    let checkpoint = read_checkpoint(directory, key)?;
    let published = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);

    if replica::is_replica(directory) {
        return verify_replica(directory, files, checkpoint, visit);
    }
    let starts = segments(directory)?;
    let Some(start) = starts.first().copied() else {
        return Err(LedgerError::broken("tail", "it is missing"));
    };
    if !start.is_multiple_of(WIDTH) {
        return Err(LedgerError::broken(segment::name(start), "no segment begins there"));
    }
    let mut walk =
        Walk { directory, files: &mut files, tree: Tree::default(), checkpoint: checkpoint.as_ref(), visit };
    walk.check_root()?;
    // Up to the tail, the log is in its tiles.
    for index in 0..start / WIDTH {
        walk.push_bundle(index)?;
    }
    // From there on it is in the tail, and the tiles repeat it. What was not published may not be in tiles yet.
    for (number, first) in (1..).zip(&starts) {
        let name = segment::name(*first);
        if walk.tree.size() != *first {
            let what =
                format!("it begins with entry {first}, but the log before it ends at {}", walk.tree.size());
            return Err(LedgerError::broken(name, what));
        }
        let path = directory.join(&name);
        let contents = fs::read(&path).map_err(|cause| LedgerError::io(&path, &cause))?;
        let end = segment::read(&name, *first, &contents, |_, entry, hash| {
            walk.push(entry.to_vec(), *hash, |tile, size| tile.index < start / WIDTH || size <= published)
        })?;
        if let End::Torn(at) = end {
            let what = if number == starts.len() {
                format!("the last group, at byte {at}, is damaged or was not written whole")
            } else {
                format!("the group at byte {at} is damaged")
            };
            return Err(LedgerError::broken(name, what));
        }
    }
    let size = walk.tree.size();
    if published > size {
        let what = format!("it has {published} entries, but the log ends at {size}");
        return Err(LedgerError::broken("checkpoint", what));
    }
    if let Some(tile) = files.tiles.first() {
        return Err(LedgerError::broken(tile.path(), "it is beyond the end of the log"));
    }
    Ok(Report { size, checkpoint, unsigned: size - published })
}

/// A replica ends with its checkpoint. What lies beyond that was copied before the next one was, and says nothing yet.
fn verify_replica(
    directory: &Path,
    mut files: Files,
    checkpoint: Option<Checkpoint>,
    visit: &mut dyn FnMut(u64, &[u8]),
) -> Result<Report, LedgerError> {
    if directory.join("tail").exists() {
        return Err(LedgerError::broken("tail", "a replica has none"));
    }
    let size = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
    let mut walk =
        Walk { directory, files: &mut files, tree: Tree::default(), checkpoint: checkpoint.as_ref(), visit };
    walk.check_root()?;
    for index in 0..size / WIDTH {
        walk.push_bundle(index)?;
    }
    if let Some((tile, contents)) = replica::last_bundle(directory, size)? {
        let entries = tile::split_entries(&contents)
            .map_err(|at| LedgerError::broken(tile.path(), format!("the entry at byte {at} is damaged")))?;
        if entries.len() as u64 != size % WIDTH {
            return Err(LedgerError::broken(tile.path(), format!("it has {} entries", entries.len())));
        }
        for entry in entries {
            walk.push(entry.to_vec(), leaf_hash(entry), |_, _| true)?;
        }
    }
    Ok(Report { size, checkpoint, unsigned: 0 })
}

/// The log, built up entry by entry and compared with the files on the way.
struct Walk<'a> {
    directory: &'a Path,
    files: &'a mut Files,
    tree: Tree,
    checkpoint: Option<&'a Checkpoint>,
    visit: &'a mut dyn FnMut(u64, &[u8]),
}

impl Walk<'_> {
    fn push_bundle(&mut self, index: u64) -> Result<(), LedgerError> {
        let bundle = Tile::full(Kind::Entries, index);
        let contents = read_tile(self.directory, &bundle)?;
        let entries = tile::split_entries(&contents)
            .map_err(|at| LedgerError::broken(bundle.path(), format!("the entry at byte {at} is damaged")))?;
        if entries.len() as u64 != WIDTH {
            return Err(LedgerError::broken(bundle.path(), format!("it has {} entries", entries.len())));
        }
        let above = Tile::full(Kind::Hashes { level: 0 }, index);
        let hashes = tile::split_hashes(&above, &read_tile(self.directory, &above)?)?;
        for (number, (entry, expected)) in (index * WIDTH..).zip(entries.into_iter().zip(hashes)) {
            let hash = leaf_hash(entry);
            if hash != expected {
                let what = format!("entry {number} and its hash in `{}` don't fit", above.path().display());
                return Err(LedgerError::broken(bundle.path(), what));
            }
            self.push(entry.to_vec(), hash, |_, _| true)?;
        }
        Ok(())
    }

    /// Adds an entry. A full tile must be there if `required` says so for it and the size at which it was full.
    fn push(
        &mut self,
        entry: Vec<u8>,
        hash: Hash,
        required: impl Fn(&Tile, u64) -> bool,
    ) -> Result<(), LedgerError> {
        (self.visit)(self.tree.size(), &entry);
        let mut filled = Vec::new();
        self.tree.push(entry, hash, |file| filled.push(file));
        for TileFile { tile, contents } in filled {
            if !self.files.tiles.remove(&tile) {
                if required(&tile, self.tree.size()) {
                    return Err(LedgerError::broken(tile.path(), "it is missing"));
                }
                continue;
            }
            compare(&tile, &read_tile(self.directory, &tile)?, &contents)?;
        }
        for tile in self.tree.partial_tiles() {
            if self.files.tiles.remove(&tile) {
                compare(&tile, &read_tile(self.directory, &tile)?, &self.tree.partial_contents(&tile))?;
            } else if self.checkpoint.is_some_and(|checkpoint| checkpoint.size == self.tree.size())
                // It may have been compared at a smaller size already, or the full tile has taken its place.
                && !self.directory.join(tile.path()).exists()
                && !self.directory.join(Tile::full(tile.kind, tile.index).path()).exists()
            {
                return Err(LedgerError::broken(tile.path(), "it is missing"));
            }
        }
        self.check_root()
    }

    /// At the size of the checkpoint, the root must be that of the checkpoint.
    fn check_root(&self) -> Result<(), LedgerError> {
        match self.checkpoint {
            Some(checkpoint)
                if checkpoint.size == self.tree.size() && checkpoint.root != self.tree.root() =>
            {
                let what = format!("its root is not that of the first {} entries", checkpoint.size);
                Err(LedgerError::broken("checkpoint", what))
            }
            _ => Ok(()),
        }
    }
}

/// The tiles that are there, until they have been compared.
struct Files {
    tiles: BTreeSet<Tile>,
}

impl Files {
    /// Lists all files, and refuses what is not of a ledger. Unfinished files, `*.new`, are not looked at.
    fn list(directory: &Path) -> Result<Self, LedgerError> {
        let mut files = Self { tiles: BTreeSet::new() };
        let mut open = vec![PathBuf::new()];
        while let Some(folder) = open.pop() {
            let path = directory.join(&folder);
            let io = |cause| LedgerError::io(&path, &cause);
            for file in fs::read_dir(&path).map_err(io)? {
                let file = file.map_err(io)?;
                let name = folder.join(file.file_name());
                if file.file_type().map_err(io)?.is_dir() {
                    open.push(name);
                } else if name.extension().is_none_or(|extension| extension != "new") {
                    files.add(&name)?;
                }
            }
        }
        Ok(files)
    }

    fn add(&mut self, name: &Path) -> Result<(), LedgerError> {
        let text = name.to_str().unwrap_or_default();
        match Tile::parse(text) {
            Some(tile) => {
                self.tiles.insert(tile);
                Ok(())
            }
            // Segments are listed, and checked, on their own.
            None if ["checkpoint", "lock", replica::MARKER].contains(&text) || text.starts_with("tail/") => {
                Ok(())
            }
            None => Err(LedgerError::broken(name, "it is not of this ledger")),
        }
    }
}

fn compare(tile: &Tile, there: &[u8], expected: &[u8]) -> Result<(), LedgerError> {
    if there == expected {
        return Ok(());
    }
    let at = there.iter().zip(expected).take_while(|(a, b)| a == b).count();
    Err(LedgerError::broken(tile.path(), format!("byte {at} is not what the log has there")))
}

fn read_checkpoint(directory: &Path, key: &VerifierKey) -> Result<Option<Checkpoint>, LedgerError> {
    let path = directory.join("checkpoint");
    match fs::read(&path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(LedgerError::io(&path, &cause)),
        Ok(note) => Ok(Some(SignedCheckpoint::parse(&note, key)?.checkpoint().clone())),
    }
}
