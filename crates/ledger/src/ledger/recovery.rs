//! Opening: what the tail holds is true; tiles are made of it again.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    Hash, LedgerError, SignedCheckpoint, VerifierKey, merkle,
    segment::{self, End, Segment},
    tile::{self, Kind, Tile, TileFile, WIDTH},
    tree::Tree,
    writer::{self, Shared, State, View},
};

pub(super) struct Recovered {
    pub(super) lock: File,
    pub(super) shared: Shared,
    pub(super) segment: Segment,
    pub(super) segment_first: u64,
    pub(super) backed: Vec<Tile>,
}

pub(super) fn recover(directory: &Path, key: &VerifierKey) -> Result<Recovered, LedgerError> {
    let tail = directory.join("tail");
    fs::create_dir_all(&tail).map_err(|cause| LedgerError::io(&tail, &cause))?;
    let lock = lock(directory)?;
    let mut segments = segments(directory)?;
    if segments.is_empty() {
        if directory.join("tile").exists() || directory.join("checkpoint").exists() {
            return Err(LedgerError::broken("tail", "it is missing"));
        }
        drop(Segment::create(directory, 0)?);
        writer::sync_directory(&tail)?;
        writer::sync_directory(directory)?;
        segments.push(0);
    }

    let start = segments.first().copied().unwrap_or_default();
    let mut tree = Tree::restore(start, right_edge(directory, start)?);
    let mut backed = Vec::new();
    let mut older: Vec<(Vec<Tile>, PathBuf)> = Vec::new();
    let mut current = None;
    for (number, first) in (1..).zip(&segments) {
        let name = segment::name(*first);
        if *first != tree.size() {
            let what = format!("it begins with entry {first}, but the log before it ends at {}", tree.size());
            return Err(LedgerError::broken(name, what));
        }
        let path = directory.join(&name);
        let contents = fs::read(&path).map_err(|cause| LedgerError::io(&path, &cause))?;
        let end = segment::read(&name, *first, &contents, |_, entry, hash| {
            let mut filled = Vec::new();
            tree.push(entry.to_vec(), *hash, |file| filled.push(file));
            filled.into_iter().try_for_each(|file| {
                backed.push(file.tile);
                restore_tile(directory, &file)
            })
        })?;
        let is_last = number == segments.len();
        current = match end {
            End::Torn(at) if !is_last => {
                let what = format!("the group at byte {at} is damaged, and another segment follows");
                return Err(LedgerError::broken(name, what));
            }
            End::Torn(0) => Some((Segment::create(directory, *first)?, *first)),
            End::Torn(at) => {
                tracing::warn!(byte = at, "the ledger was not closed: what was being appended is dropped");
                Some((Segment::reopen(&path, at)?, *first))
            }
            End::Clean(end) => Some((Segment::reopen(&path, end)?, *first)),
        };
        if !is_last {
            older.push((std::mem::take(&mut backed), path));
        }
    }
    for (tiles, path) in older {
        writer::retire(directory, &tiles, &path)?;
    }
    let (segment, segment_first) = current.ok_or(LedgerError::Closed)?;

    let shared = Shared::new(directory.to_owned(), State { tree, ..State::default() });
    check_against_checkpoint(&shared, key)?;
    Ok(Recovered { lock, shared, segment, segment_first, backed })
}

/// The indexes at which the segments of the tail begin.
pub(crate) fn segments(directory: &Path) -> Result<Vec<u64>, LedgerError> {
    let tail = directory.join("tail");
    let io = |cause| LedgerError::io(&tail, &cause);
    let mut segments = Vec::new();
    for file in fs::read_dir(&tail).map_err(io)? {
        let file = file.map_err(io)?.file_name();
        let first = file.to_str().and_then(|name| name.parse().ok());
        match first {
            Some(first) if segment::name(first).file_name() == Some(file.as_os_str()) => segments.push(first),
            _ => return Err(LedgerError::broken(Path::new("tail").join(file), "it is not of this ledger")),
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The hashes of each level that are in no full tile, when the log has `size` entries, a multiple of the width.
fn right_edge(directory: &Path, size: u64) -> Result<Vec<Vec<Hash>>, LedgerError> {
    if !size.is_multiple_of(WIDTH) {
        return Err(LedgerError::broken(segment::name(size), "no segment begins there"));
    }
    let mut levels = vec![Vec::new()];
    let mut count = size / WIDTH;
    for level in 0.. {
        if count == 0 {
            break;
        }
        let edge = (count - count % WIDTH..count)
            .map(|index| {
                let tile = Tile::full(Kind::Hashes { level }, index);
                let contents = writer::read_tile(directory, &tile)?;
                Ok(merkle::root_of(&tile::split_hashes(&tile, &contents)?))
            })
            .collect::<Result<_, LedgerError>>()?;
        levels.push(edge);
        count /= WIDTH;
    }
    Ok(levels)
}

/// Writes a tile again, unless it is there: a crash may have taken it, or a part of it.
fn restore_tile(directory: &Path, file: &TileFile) -> Result<(), LedgerError> {
    let path = directory.join(file.tile.path());
    if fs::read(&path).is_ok_and(|there| there == file.contents) {
        return Ok(());
    }
    writer::write_file(&path, "writer", &file.contents, false)
}

/// What was published must still be there, as it was.
fn check_against_checkpoint(shared: &Shared, key: &VerifierKey) -> Result<(), LedgerError> {
    let path = shared.directory.join("checkpoint");
    let note = match fs::read(&path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|cause| LedgerError::io(&path, &cause))?,
    };
    let signed = SignedCheckpoint::parse(&note, key)?;
    let checkpoint = signed.checkpoint();
    let state = shared.lock().clone();
    if checkpoint.size > state.tree.size() {
        let what = format!(
            "it has {} entries, but the log ends at {}: entries were lost",
            checkpoint.size,
            state.tree.size()
        );
        return Err(LedgerError::broken("checkpoint", what));
    }
    let root = merkle::range_hash(&View { shared, state: &state }, 0, checkpoint.size)?;
    if root != checkpoint.root {
        return Err(LedgerError::broken("checkpoint", "its root is not that of the log"));
    }
    Ok(())
}

/// How long the lock is waited for: a predecessor that is ending, or a program that it was just starting, may hold it
/// for a moment longer.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

fn lock(directory: &Path) -> Result<File, LedgerError> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|cause| LedgerError::io(&path, &cause))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Err(LedgerError::Locked(directory.to_owned())),
            Err(TryLockError::Error(cause)) => return Err(LedgerError::io(&path, &cause)),
        }
    }
}
