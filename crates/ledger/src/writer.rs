//! The thread that appends, and the one that tidies up behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use bonafide_crypto::key::Signer;
use tokio::sync::{oneshot, watch};

use crate::{
    Bindings, Checkpoint, Hash, LedgerError, SignedCheckpoint,
    merkle::{self, Nodes, root_of},
    queue::{Entries, Item, Pace, Queue},
    segment::{Leaf, MAX_GROUP, MAX_GROUP_BYTES, Segment},
    tile::{self, Kind, Tile, TileFile, WIDTH},
    tree::Tree,
};

/// What the threads and the callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: PathBuf,
    state: Mutex<State>,
    /// Why nothing can be appended any more.
    pub(crate) failure: watch::Sender<Option<LedgerError>>,
}

/// The log as of the last fsync.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) tree: Tree,
    /// Full tiles that are not in their files yet.
    pub(crate) unwritten: BTreeMap<Tile, Arc<[u8]>>,
}

impl Shared {
    pub(crate) fn new(directory: PathBuf, state: State) -> Self {
        Self { directory, state: Mutex::new(state), failure: watch::Sender::new(None) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The contents of a full tile.
    pub(crate) fn full_tile(&self, state: &State, tile: &Tile) -> Result<Vec<u8>, LedgerError> {
        match state.unwritten.get(tile) {
            Some(contents) => Ok(contents.to_vec()),
            None => read_tile(&self.directory, tile),
        }
    }
}

/// The log at one moment, as a source of hashes.
pub(crate) struct View<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) state: &'a State,
}

impl Nodes for View<'_> {
    type Error = LedgerError;

    fn node(&self, level: u32, index: u64) -> Result<Hash, LedgerError> {
        let (tile_level, height) = (level / 8, level % 8);
        let first = index << height;
        let (tile, offset) = (first / WIDTH, (first % WIDTH) as usize);
        let complete = self.state.tree.size() >> (8 * tile_level) >= (tile + 1) * WIDTH;
        let kind = Kind::Hashes { level: u8::try_from(tile_level).unwrap_or(u8::MAX) };
        let hashes = if complete {
            let tile = Tile::full(kind, tile);
            tile::split_hashes(&tile, &self.shared.full_tile(self.state, &tile)?)?
        } else {
            self.state.tree.partial(tile_level as usize).to_vec()
        };
        let range = offset..offset.saturating_add(1 << height);
        hashes.get(range).map(root_of).ok_or(LedgerError::Invalid("the log does not reach that far"))
    }
}

pub(crate) fn read_tile(directory: &Path, tile: &Tile) -> Result<Vec<u8>, LedgerError> {
    let path = directory.join(tile.path());
    fs::read(&path).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => LedgerError::broken(tile.path(), "it is missing"),
        _ => LedgerError::io(&path, &cause),
    })
}

/// Appends what comes through the queue.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) segment: Segment,
    /// The index at which the segment begins, and how many entries a segment has.
    pub(crate) segment_first: u64,
    pub(crate) segment_length: u64,
    /// The tiles that the segment backs.
    pub(crate) backed: Vec<Tile>,
    pub(crate) publisher: mpsc::Sender<Job>,
}

impl Writer {
    pub(crate) fn run(mut self, queue: &Queue) {
        let mut items = Vec::new();
        let mut leaves = Vec::new();
        let mut pace = Pace::new();
        while queue.take(&mut items, &mut pace) {
            self.write(&mut items, &mut leaves);
        }
        // A tidy end, which the next start does not need.
        let _ = self.segment.cut();
    }

    fn write(&mut self, items: &mut Vec<Item>, leaves: &mut Vec<Leaf>) {
        let mut next = self.shared.lock().tree.size();
        let mut waiting = Vec::with_capacity(items.len());
        for Item { entries, reply } in items.drain(..) {
            let first = next;
            let mut add = |entry: Vec<u8>| {
                leaves.push(Leaf { hash: merkle::leaf_hash(&entry), entry });
                next += 1;
            };
            match entries {
                Entries::Many(entries) => entries.into_iter().for_each(&mut add),
                Entries::One(entry) => add(entry),
            }
            waiting.push((first, next, reply));
        }
        let mut result = Ok(());
        while result.is_ok() && !leaves.is_empty() {
            result = self.write_group(leaves);
        }
        leaves.clear();
        let durable = self.shared.lock().tree.size();
        if let Err(error @ LedgerError::Failed(_)) = &result {
            tracing::error!(%error, "the ledger can no longer be written");
            self.shared.failure.send_replace(Some(error.clone()));
        }
        for (first, end, reply) in waiting {
            let answer = match &result {
                Err(error) if end > durable => Err(error.clone()),
                _ => Ok(first),
            };
            reply.send(answer);
        }
    }

    /// Writes as many of `leaves` as fit into one group, and takes them out.
    fn write_group(&mut self, leaves: &mut Vec<Leaf>) -> Result<(), LedgerError> {
        if let Some(error) = self.shared.failure.borrow().clone() {
            return Err(error);
        }
        self.write_tiles()?;
        let first = self.shared.lock().tree.size();
        if first >= self.segment_first + self.segment_length {
            self.rotate(first)?;
        }
        let room = (self.segment_first + self.segment_length - first).min(MAX_GROUP as u64);
        let mut bytes: usize = 0;
        let count = leaves
            .iter()
            .take(usize::try_from(room).unwrap_or(MAX_GROUP))
            .take_while(|leaf| {
                bytes = bytes.saturating_add(leaf.entry.len() + 2);
                bytes <= MAX_GROUP_BYTES
            })
            .count();
        let (group, _) = leaves.split_at(count);
        self.segment.append(first, group)?;
        let mut state = self.shared.lock();
        let State { tree, unwritten } = &mut *state;
        for leaf in leaves.drain(..count) {
            tree.push(leaf.entry, leaf.hash, |TileFile { tile, contents }| {
                self.backed.push(tile);
                unwritten.insert(tile, contents.into());
            });
        }
        let full = !unwritten.is_empty();
        drop(state);
        // The entries are safe: what fails here is tried again before the next group.
        if full && let Err(error) = self.write_tiles() {
            tracing::warn!(%error, "a tile of the ledger could not be written yet");
        }
        Ok(())
    }

    /// Writes the full tiles that are not in their files.
    pub(crate) fn write_tiles(&self) -> Result<(), LedgerError> {
        loop {
            let next =
                self.shared.lock().unwritten.first_key_value().map(|(tile, file)| (*tile, file.clone()));
            let Some((tile, contents)) = next else { return Ok(()) };
            write_file(&self.shared.directory.join(tile.path()), "writer", &contents, false)?;
            self.shared.lock().unwritten.remove(&tile);
        }
    }

    /// Begins a new segment. The old one is removed when the tiles that it backs are on the disk.
    fn rotate(&mut self, first: u64) -> Result<(), LedgerError> {
        let directory = &self.shared.directory;
        let old = directory.join(crate::segment::name(self.segment_first));
        let segment = Segment::create(directory, first)?;
        sync_directory(&directory.join("tail"))?;
        self.segment = segment;
        self.segment_first = first;
        let job = Job::Retire { tiles: std::mem::take(&mut self.backed), segment: old };
        self.publisher.send(job).map_err(|_| LedgerError::Closed)
    }
}

/// What the publisher does.
pub(crate) enum Job {
    /// Sync tiles, and then remove the segment that backs them.
    Retire { tiles: Vec<Tile>, segment: PathBuf },
    /// Publish a checkpoint.
    Publish { bindings: Bindings, reply: oneshot::Sender<Result<SignedCheckpoint, LedgerError>> },
}

/// Does what must not delay an append.
pub(crate) struct Publisher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) origin: String,
    pub(crate) signer: Arc<dyn Signer>,
}

impl Publisher {
    pub(crate) fn run(&self, jobs: &mpsc::Receiver<Job>) {
        for job in jobs {
            match job {
                Job::Retire { tiles, segment } => {
                    if let Err(error) = retire(&self.shared.directory, &tiles, &segment) {
                        // It is retired when the ledger is opened next.
                        tracing::warn!(%error, "a part of the ledger's tail could not be given up");
                    }
                }
                Job::Publish { bindings, reply } => {
                    // Fails when the caller is gone: the checkpoint is published all the same.
                    let _ = reply.send(self.publish(bindings));
                }
            }
        }
    }

    fn publish(&self, bindings: Bindings) -> Result<SignedCheckpoint, LedgerError> {
        let state = self.shared.lock().clone();
        let checkpoint = Checkpoint {
            origin: self.origin.clone(),
            size: state.tree.size(),
            root: state.tree.root(),
            bindings,
        };
        let signed = SignedCheckpoint::sign(checkpoint, self.signer.as_ref())?;
        let directory = &self.shared.directory;
        // Everything that the checkpoint speaks of must be there before it is.
        for (tile, contents) in &state.unwritten {
            write_file(&directory.join(tile.path()), "publisher", contents, false)?;
        }
        let mut directories = BTreeSet::new();
        for tile in state.tree.partial_tiles() {
            let contents = state.tree.partial_contents(&tile);
            let path = directory.join(tile.path());
            if fs::read(&path).is_ok_and(|there| there == contents) {
                continue;
            }
            write_file(&path, "publisher", &contents, true)?;
            directories.extend(path.parent().map(Path::to_owned));
        }
        for path in directories {
            sync_directory(&path)?;
        }
        write_file(&directory.join("checkpoint"), "publisher", signed.note().as_bytes(), true)?;
        sync_directory(directory)?;
        Ok(signed)
    }
}

pub(crate) fn retire(directory: &Path, tiles: &[Tile], segment: &Path) -> Result<(), LedgerError> {
    let mut directories = BTreeSet::new();
    for tile in tiles {
        // Best effort: the beginnings of a full tile are of no use, and do no harm. Only this thread writes them.
        let _ = fs::remove_dir_all(directory.join(tile.partials()));
        let path = directory.join(tile.path());
        File::open(&path).and_then(|file| file.sync_all()).map_err(|cause| LedgerError::io(&path, &cause))?;
        // New directories on the way are not on the disk before their parents are.
        directories.extend(tile.path().ancestors().skip(1).map(|parent| directory.join(parent)));
    }
    for path in directories {
        sync_directory(&path)?;
    }
    fs::remove_file(segment).map_err(|cause| LedgerError::io(segment, &cause))?;
    sync_directory(&directory.join("tail"))
}

/// Writes a file so that whoever reads it sees all of it. `by` keeps two threads apart that write the same.
pub(crate) fn write_file(path: &Path, by: &str, contents: &[u8], sync: bool) -> Result<(), LedgerError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{by}.new"));
    let unfinished = PathBuf::from(unfinished);
    let open = || OpenOptions::new().create(true).truncate(true).write(true).mode(0o644).open(&unfinished);
    let write = |mut file: File| {
        file.write_all(contents)?;
        if sync { file.sync_all() } else { Ok(()) }
    };
    let opened = match (open(), path.parent()) {
        (Err(cause), Some(parent)) if cause.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(parent).and_then(|()| open())
        }
        (opened, _) => opened,
    };
    opened.and_then(write).and_then(|()| fs::rename(&unfinished, path)).map_err(|cause| {
        // What is half written helps nobody; that it could not be written is what counts.
        let _ = fs::remove_file(&unfinished);
        LedgerError::io(path, &cause)
    })
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), LedgerError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|cause| LedgerError::io(path, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Reply;

    #[test]
    fn a_sync_that_failed_is_told_and_is_final() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::new(directory.path().to_owned(), State::default()));
        let (publisher, _jobs) = mpsc::channel();
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            segment: Segment::unsyncable(),
            segment_first: 0,
            segment_length: 256,
            backed: Vec::new(),
            publisher,
        };
        let mut append = || {
            let (reply, answer) = oneshot::channel();
            let reply = Reply::new(move |result| reply.send(result).unwrap());
            writer.write(&mut vec![Item { entries: Entries::One(vec![1]), reply }], &mut Vec::new());
            answer.blocking_recv().unwrap()
        };
        assert!(shared.failure.borrow().is_none());
        assert!(matches!(append(), Err(LedgerError::Failed(_))));
        assert!(matches!(&*shared.failure.borrow(), Some(LedgerError::Failed(_))));
        assert!(matches!(append(), Err(LedgerError::Failed(_))));
        assert_eq!(shared.lock().tree.size(), 0);
    }
}
