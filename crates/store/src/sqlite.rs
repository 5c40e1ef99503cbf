//! The store in a SQLite file: WAL, `synchronous=FULL`, one thread that writes and one that reads.

mod database;
mod rows;
mod verification;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use bonafide_crypto::{mac::MacKey, random::Random};
use rusqlite::Connection;
use tokio::{sync::watch, time::Instant};

use self::{verification::Verified, writer::Writer};
use crate::{
    Batch, BoxFuture, Change, Head, Incarnation, Revision, Snapshot, Store, StoreError, authentication::Keys,
    worker::Worker,
};

/// How often [`Store::wait`] looks at the database although nobody told it to: only this process may write it, and
/// whoever does so nevertheless is to be found out.
const POLL: Duration = Duration::from_secs(10);
/// How many changes one call of [`Store::changes`] returns at most, whatever the caller asks for.
const MAX_PAGE: usize = 10_000;

/// A store in a SQLite file. One process at a time: a second one is refused.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    writer: Worker<Writer>,
    reader: Worker<Reader>,
    committed: watch::Receiver<Revision>,
    // Dropped, and so unlocked, after the threads have ended.
    _lock: File,
}

#[derive(Debug)]
struct Reader {
    connection: Connection,
    keys: Keys,
    /// What was verified when the store was opened, for the first one who asks: nothing is verified twice.
    verified: Option<Snapshot>,
}

impl SqliteStore {
    /// Opens the store at `path`, or makes an empty one with an incarnation drawn from `random` if no file is there.
    ///
    /// Verifies everything, and may take a while: about a second for half a million rows. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Broken`] when any row was changed, exchanged, removed, replayed or added, or when `key` is not
    /// the key that the rows were written under; [`StoreError::Locked`] when the store is in use.
    pub fn open(path: impl AsRef<Path>, key: MacKey, random: &dyn Random) -> Result<Self, StoreError> {
        let lock = database::lock(path.as_ref())?;
        if !path.as_ref().exists() {
            database::create(path.as_ref(), &Keys::derive(&key), random)?;
        }
        Self::start(path.as_ref(), &key, lock)
    }

    /// Like [`open`](Self::open), but never makes a store: for a server that knows that it had one.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none, and those of [`open`](Self::open).
    pub fn open_existing(path: impl AsRef<Path>, key: MacKey) -> Result<Self, StoreError> {
        if !path.as_ref().exists() {
            return Err(StoreError::Missing(path.as_ref().display().to_string()));
        }
        let lock = database::lock(path.as_ref())?;
        Self::start(path.as_ref(), &key, lock)
    }

    /// Gives the store at `path` a new incarnation, drawn from `random`. Its objects stay; its log begins anew after the
    /// last revision, so that no row of the old incarnation fits into it. For a store that was restored: changes that
    /// the restoring took back would otherwise still fit behind it. Verifies everything before. Blocks.
    ///
    /// # Errors
    /// Those of [`open_existing`](Self::open_existing), and of writing. Then nothing has changed.
    pub fn renew_incarnation(
        path: impl AsRef<Path>,
        key: MacKey,
        random: &dyn Random,
    ) -> Result<Incarnation, StoreError> {
        let path = path.as_ref();
        let _lock = database::lock(path)?;
        let keys = Keys::derive(&key);
        let mut connection = database::connect(path)?;
        let mut reader = database::connect_read_only(path)?;
        let Verified { head: row, digest, .. } = verification::verify(&mut connection, &mut reader, &keys)?;
        drop(reader);
        let incarnation = Incarnation::from_bytes(random.array());
        let (sender, _) = watch::channel(row.revision);
        Writer::new(connection, keys, row, digest, sender).renew(incarnation)?;
        Ok(incarnation)
    }

    /// Forgets the changes up to and including `floor`; the objects stay. The rest of the chain remains verifiable.
    ///
    /// Does nothing when that much is forgotten already.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when `floor` is after the last revision; [`StoreError::Broken`] when what is to be
    /// forgotten was tampered with.
    pub async fn compact(&self, floor: Revision) -> Result<Head, StoreError> {
        self.writer.call(move |writer| writer.compact(floor)).await
    }

    /// Where the database is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn start(path: &Path, key: &MacKey, lock: File) -> Result<Self, StoreError> {
        let keys = Keys::derive(key);
        let mut connection = database::connect(path)?;
        let mut reader = database::connect_read_only(path)?;
        let Verified { head: row, digest, objects } =
            verification::verify(&mut connection, &mut reader, &keys)?;
        let verified = Some(Snapshot { head: row.head(), objects });
        let (sender, committed) = watch::channel(row.revision);
        let reader = Reader { connection: reader, keys: keys.clone(), verified };
        let writer = Writer::new(connection, keys, row, digest, sender);
        Ok(Self {
            path: path.to_owned(),
            writer: Worker::start("store-writer", writer)?,
            reader: Worker::start("store-reader", reader)?,
            committed,
            _lock: lock,
        })
    }
}

impl Store for SqliteStore {
    fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(self.reader.call(Reader::head))
    }

    fn commit(&self, expect: Revision, batch: Batch) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            batch.check()?;
            self.writer.call(move |writer| writer.commit(expect, &batch)).await
        })
    }

    fn changes(&self, since: Revision, max: usize) -> BoxFuture<'_, Result<Vec<Change>, StoreError>> {
        Box::pin(self.reader.call(move |reader| reader.changes(since, max.min(MAX_PAGE))))
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        Box::pin(self.reader.call(Reader::snapshot))
    }

    fn wait(&self, after: Revision, timeout: Duration) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            let mut committed = self.committed.clone();
            let started = Instant::now();
            loop {
                let revision = *committed.borrow_and_update();
                if revision > after {
                    return Ok(revision);
                }
                let left = timeout.saturating_sub(started.elapsed());
                match tokio::time::timeout(left.min(POLL), committed.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(StoreError::Closed),
                    Err(_) => {
                        let revision = self.head().await?.revision;
                        if revision > after || started.elapsed() >= timeout {
                            return Ok(revision);
                        }
                    }
                }
            }
        })
    }
}

impl Reader {
    fn head(&mut self) -> Result<Head, StoreError> {
        let row = rows::head(&self.connection, &self.keys)?;
        Ok(row.head())
    }

    fn changes(&mut self, since: Revision, max: usize) -> Result<Vec<Change>, StoreError> {
        let transaction = self.connection.transaction().map_err(database::error)?;
        let head = rows::head(&transaction, &self.keys)?;
        if since < head.floor {
            return Err(StoreError::Compacted { floor: head.floor });
        }
        let mut changes = Vec::new();
        if since >= head.revision {
            return Ok(changes);
        }
        let previous = if since == head.floor { head.anchor } else { rows::change_mac(&transaction, since)? };
        rows::each_change(&transaction, &self.keys, &head, (since, previous), max, |change| {
            changes.push(change.to_owned());
        })?;
        Ok(changes)
    }

    fn snapshot(&mut self) -> Result<Snapshot, StoreError> {
        let transaction = self.connection.transaction().map_err(database::error)?;
        let row = rows::head(&transaction, &self.keys)?;
        if let Some(verified) = self.verified.take()
            && verified.head == row.head()
        {
            return Ok(verified);
        }
        let mut objects = Vec::new();
        let walk = rows::each_object(&transaction, &self.keys, &row, |object| {
            objects.push(object.to_owned());
            Ok(())
        })?;
        walk.finish()?;
        Ok(Snapshot { head: row.head(), objects })
    }
}
