//! The ledger: opened, appended to, read and proved.

mod recovery;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use bonafide_crypto::key::Signer;
use tokio::sync::oneshot;

use self::recovery::Recovered;
pub(crate) use self::recovery::segments;
use crate::{
    Bindings, Hash, LedgerError, SignedCheckpoint, VerifierKey, merkle,
    queue::{Entries, Queue},
    tile::{self, Kind, Tile, WIDTH},
    writer::{Job, Publisher, Shared, State, View, Writer},
};

/// How many entries a segment of the tail has: a compromise between how much is read again after a crash, and how
/// often tiles are synced.
const SEGMENT: u64 = 64 * WIDTH;

/// What a ledger is called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LedgerConfig {
    /// The name of the log in its checkpoints, such as `example.org/bonafide/authority/a`. It never changes.
    pub origin: String,
}

/// An append-only log in a directory. One process at a time: a second one is refused. Can be shared.
#[derive(Debug)]
pub struct Ledger {
    key: VerifierKey,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    publisher: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    // Released after the threads have ended.
    _lock: File,
}

impl Ledger {
    /// Opens the ledger in `directory`, or makes an empty one there. Repairs what a crash has left: an append that
    /// was not acknowledged, and tiles that were not synced. Blocks.
    ///
    /// Checks the tail and the last checkpoint, not the whole log: [`verify`](crate::verify) does that.
    ///
    /// # Errors
    /// [`LedgerError::Broken`] when what is there is not what was written, or entries of the last checkpoint are
    /// missing; [`LedgerError::Locked`]; [`LedgerError::Invalid`] for a name or key that no checkpoint can have.
    pub fn open(
        directory: impl AsRef<Path>,
        config: LedgerConfig,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, LedgerError> {
        Self::open_with(directory.as_ref(), config, signer, SEGMENT)
    }

    fn open_with(
        directory: &Path,
        config: LedgerConfig,
        signer: Arc<dyn Signer>,
        segment_length: u64,
    ) -> Result<Self, LedgerError> {
        let key = VerifierKey::new(&config.origin, signer.public_key().clone())?;
        let Recovered { lock, shared, segment, segment_first, backed } = recovery::recover(directory, &key)?;
        let shared = Arc::new(shared);
        let queue = Arc::new(Queue::default());
        let (publisher, jobs) = mpsc::channel();
        let writer = Writer {
            shared: Arc::clone(&shared),
            segment,
            segment_first,
            segment_length,
            backed,
            publisher: publisher.clone(),
        };
        let work = Publisher { shared: Arc::clone(&shared), origin: config.origin, signer };
        let mut ledger = Self {
            key,
            queue: Arc::clone(&queue),
            shared,
            publisher: Some(publisher),
            threads: Vec::new(),
            _lock: lock,
        };
        ledger.spawn("ledger-writer", move || writer.run(&queue))?;
        ledger.spawn("ledger-publish", move || work.run(&jobs))?;
        Ok(ledger)
    }

    /// Appends an entry of at most [`MAX_ENTRY`](crate::MAX_ENTRY) bytes. Returns its index once it is on the disk.
    /// A caller that does not wait for that does not take it back.
    ///
    /// # Errors
    /// [`LedgerError::Full`] and [`LedgerError::Overloaded`] pass; [`LedgerError::Failed`] stays. After any error the
    /// entry may only then be in the log if it is [`LedgerError::Failed`] or [`LedgerError::Closed`].
    pub async fn append(&self, entry: Vec<u8>) -> Result<u64, LedgerError> {
        self.put(Entries::One(entry))?.await
    }

    /// Appends several entries, one after the other. Returns the index of the first once all are on the disk.
    ///
    /// # Errors
    /// Those of [`append`](Self::append). Some of the entries may be in the log then.
    pub async fn append_batch(&self, entries: Vec<Vec<u8>>) -> Result<u64, LedgerError> {
        self.append_soon(entries)?.await
    }

    /// Begins to append several entries, from any thread and without waiting. What is returned resolves as
    /// [`append_batch`](Self::append_batch) does; who drops it does not take the entries back.
    ///
    /// # Errors
    /// Those of [`append`](Self::append) that are known at once.
    pub fn append_soon(
        &self,
        entries: Vec<Vec<u8>>,
    ) -> Result<impl Future<Output = Result<u64, LedgerError>> + Send + use<>, LedgerError> {
        self.put(Entries::Many(entries))
    }

    /// Begins to append several entries, from any thread and without waiting. What [`append_batch`](Self::append_batch)
    /// would return is given to `then`, which is called once, on the thread that writes: it is to be quick, and must
    /// not wait for this ledger. That spares a waiting task two wake-ups.
    ///
    /// # Errors
    /// Those of [`append`](Self::append) that are known at once; `then` is not called.
    pub fn append_then(
        &self,
        entries: Vec<Vec<u8>>,
        then: impl FnOnce(Result<u64, LedgerError>) + Send + 'static,
    ) -> Result<(), LedgerError> {
        self.queue.put(Entries::Many(entries), then)
    }

    /// Resolves when nothing can be appended any more, with the [`LedgerError::Failed`] that says why; with
    /// [`LedgerError::Closed`] when the ledger is closed first. Whoever waits for it does not keep the ledger open.
    pub fn failed(&self) -> impl Future<Output = LedgerError> + Send + use<> {
        let mut failure = self.shared.failure.subscribe();
        async move {
            let failed = failure.wait_for(Option::is_some).await;
            failed.ok().and_then(|error| error.clone()).unwrap_or(LedgerError::Closed)
        }
    }

    /// How many entries are on the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.lock().tree.size()
    }

    /// The size, and the root of the tree over that many entries.
    #[must_use]
    pub fn root(&self) -> (u64, Hash) {
        let state = self.shared.lock();
        (state.tree.size(), state.tree.root())
    }

    /// The root of the tree over the first `size` entries. Blocks for reads of files.
    ///
    /// # Errors
    /// [`LedgerError::Invalid`] unless `size <= self.size()`.
    pub fn root_at(&self, size: u64) -> Result<Hash, LedgerError> {
        let state = self.state();
        if size > state.tree.size() {
            return Err(LedgerError::Invalid("the size is at most the log's"));
        }
        merkle::range_hash(&View { shared: &self.shared, state: &state }, 0, size)
    }

    /// The key that checkpoints are to be verified with.
    #[must_use]
    pub const fn verifier_key(&self) -> &VerifierKey {
        &self.key
    }

    /// Signs the log as it is on the disk, bound to a state of the store, and publishes that with the tiles that it
    /// needs. Costs some fsyncs: for a timer, not for each append.
    ///
    /// # Errors
    /// When signing or writing fails. Then the last checkpoint remains.
    pub async fn checkpoint(&self, bindings: &Bindings) -> Result<SignedCheckpoint, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let publisher = self.publisher.as_ref().ok_or(LedgerError::Closed)?;
        publisher.send(Job::Publish { bindings: *bindings, reply }).map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// Reads an entry. Blocks for one read of a file.
    ///
    /// # Errors
    /// [`LedgerError::Invalid`] when there is no such entry; [`LedgerError::Broken`] when its hash does not fit.
    pub fn read(&self, index: u64) -> Result<Vec<u8>, LedgerError> {
        let state = self.state();
        if index >= state.tree.size() {
            return Err(LedgerError::Invalid("there is no such entry"));
        }
        if let Some(entry) = state.tree.entry(index) {
            return Ok(entry.to_vec());
        }
        let tile = Tile::full(Kind::Entries, index / WIDTH);
        let contents = self.shared.full_tile(&state, &tile)?;
        let entry = tile::split_entries(&contents)
            .ok()
            .and_then(|entries| entries.get((index % WIDTH) as usize).map(|entry| entry.to_vec()))
            .ok_or_else(|| LedgerError::broken(tile.path(), "it does not have 256 entries"))?;
        let hash = merkle::Nodes::node(&View { shared: &self.shared, state: &state }, 0, index)?;
        if merkle::leaf_hash(&entry) != hash {
            return Err(LedgerError::broken(tile.path(), format!("entry {index} does not have its hash")));
        }
        Ok(entry)
    }

    /// Proves that the entry at `index` is in the tree of the first `size` entries. Blocks for reads of files.
    ///
    /// # Errors
    /// [`LedgerError::Invalid`] unless `index < size <= self.size()`.
    pub fn prove_inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        let state = self.state();
        if index >= size || size > state.tree.size() {
            return Err(LedgerError::Invalid("the index is below the size, and that is at most the log's"));
        }
        merkle::prove_inclusion(&View { shared: &self.shared, state: &state }, index, size)
    }

    /// Proves that the tree of the first `old` entries is the beginning of that of the first `new`. Blocks for reads
    /// of files.
    ///
    /// # Errors
    /// [`LedgerError::Invalid`] unless `old <= new <= self.size()`.
    pub fn prove_consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, LedgerError> {
        let state = self.state();
        if old > new || new > state.tree.size() {
            return Err(LedgerError::Invalid("sizes grow, and the last is at most the log's"));
        }
        merkle::prove_consistency(&View { shared: &self.shared, state: &state }, old, new)
    }

    fn put(
        &self,
        entries: Entries,
    ) -> Result<impl Future<Output = Result<u64, LedgerError>> + Send + use<>, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.queue.put(entries, move |result| {
            // Fails when the caller is gone: the entry is logged all the same.
            let _ = reply.send(result);
        })?;
        Ok(async move { answer.await.map_err(|_| LedgerError::Closed)? })
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn state(&self) -> State {
        self.shared.lock().clone()
    }

    fn spawn(&mut self, name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), LedgerError> {
        let last_words = LastWords { name, shared: Arc::clone(&self.shared), queue: Arc::clone(&self.queue) };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _last_words = last_words;
                work();
            })
            .map_err(|cause| LedgerError::Failed(cause.to_string()))?;
        self.threads.push(thread);
        Ok(())
    }
}

/// What a thread that panics leaves behind: nobody waits for it, and whoever runs the ledger hears of it.
struct LastWords {
    name: &'static str,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if thread::panicking() {
            let failed = LedgerError::Failed(format!("its thread `{}` panicked", self.name));
            self.shared.failure.send_modify(|known| _ = known.get_or_insert(failed));
            self.queue.abandon();
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.queue.close();
        drop(self.publisher.take());
        let own = thread::current().id();
        for thread in self.threads.drain(..) {
            // The last owner may be what an append was followed by.
            if thread.thread().id() == own {
                continue;
            }
            // A thread that panicked has closed its channel, and every caller has heard of it.
            let _ = thread.join();
        }
    }
}
