//! The store in a PostgreSQL database, which several servers may share.
//!
//! The same statements, rows and MACs as in SQLite. A commit moves the one row of table `head` first, if it still is
//! where the writer expects it: the lock of that row makes the order of commits the order of revisions, a commit that
//! is rolled back leaves no gap, and of two writers that saw the same state one wins. Nothing rests on sequences,
//! advisory locks or notifications: a notification wakes a reader early, a short poll wakes it anyway.
//!
//! Each server remembers how far it has followed the log (a `Follower`). A database that does not continue that, because it was restored or has
//! failed over without its end, is refused by whatever meets it first ([`StoreError::WentBack`]).
//!
//! A connection that is lost is opened again. One that is lost in a commit leaves open what became of it: then the
//! database is asked, under the lock of the head, whether the last change of the batch stands there with its MAC.

mod encryption;
mod rows;
mod schema;
mod session;
mod settings;
mod verification;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bonafide_crypto::{mac::MacKey, random::Random};
use tokio::{sync::watch, time::Instant};
use tokio_postgres::types::ToSql;

use self::session::{Link, Session, error, in_time, open};
pub use self::{
    encryption::{Duplex, Encryption},
    settings::PostgresAddress,
};
use crate::{
    Batch, BoxFuture, Change, Head, Incarnation, Revision, Snapshot, Store, StoreError,
    authentication::{HeadRow, Keys},
    follower::{Follower, Position},
    walk::ChangeWalk,
};

/// Runs something that only reads, on the session of readers. Once more on a new session if the first one was lost.
macro_rules! read {
    ($shared:expr, $session:ident => $work:expr) => {{
        let mut guard = $shared.reader.session().await?;
        let mut result = {
            let $session = open(&guard)?;
            $work.await
        };
        if matches!(result, Err(StoreError::Io(_))) {
            // Whatever it is in the middle of.
            *guard = None;
            drop(guard);
            guard = $shared.reader.session().await?;
            result = {
                let $session = open(&guard)?;
                $work.await
            };
            if matches!(result, Err(StoreError::Io(_))) {
                *guard = None;
            }
        }
        drop(guard);
        result
    }};
}
use read;

/// How often [`Store::wait`] looks at the database although nobody told it to.
const POLL: Duration = Duration::from_millis(100);
/// How many changes one call of [`Store::changes`] returns at most, whatever the caller asks for.
const MAX_PAGE: usize = 10_000;

/// A store in a PostgreSQL database, beside those of other servers on the same one.
#[derive(Debug)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    keys: Keys,
    follower: Mutex<Follower>,
    reader: Link,
    writer: Link,
    /// Counts whatever may have moved the log.
    wake: watch::Sender<u64>,
}

impl PostgresStore {
    /// Makes an empty store with an incarnation drawn from `random`, unless there is one. Whether it did.
    ///
    /// # Errors
    /// [`StoreError::NotDurable`], and that the database can't be reached or written.
    pub async fn create(
        address: &PostgresAddress,
        key: &MacKey,
        random: &dyn Random,
    ) -> Result<bool, StoreError> {
        let keys = Keys::derive(key);
        let head = HeadRow::empty(Incarnation::from_bytes(random.array()), &keys);
        let (mut client, driver) = session::connect(address, None).await?;
        let made = match schema::exists(&client).await {
            Ok(true) => Ok(false),
            Ok(false) => schema::create(&mut client, &head, &keys).await,
            Err(cause) => Err(cause),
        };
        driver.abort();
        made
    }

    /// Opens the store, which must be there. Verifies everything, and may take a while.
    ///
    /// # Errors
    /// [`StoreError::Broken`] when any row was changed, exchanged, removed, replayed or added, or when `key` is not
    /// the key that the rows were written under; [`StoreError::NotDurable`].
    pub async fn open(address: PostgresAddress, key: &MacKey) -> Result<Self, StoreError> {
        let keys = Keys::derive(key);
        let wake = watch::Sender::new(0);
        {
            let (client, driver) = session::connect(&address, None).await?;
            let there = match schema::exists(&client).await {
                // A session prepares statements, which needs the tables.
                Ok(true) => schema::verify(&client).await,
                Ok(false) => Err(StoreError::Missing(address.to_string())),
                Err(cause) => Err(cause),
            };
            driver.abort();
            there?;
        }
        let reader = Link::new(address.clone(), Some(wake.clone()));
        let (_, follower) = verification::verify(open(&reader.session().await?)?, &keys).await?;
        let writer = Link::new(address, None);
        let follower = Mutex::new(follower);
        Ok(Self { shared: Arc::new(Shared { keys, follower, reader, writer, wake }) })
    }

    /// Gives the store a new incarnation, drawn from `random`, as [`SqliteStore::renew_incarnation`] does. Other servers
    /// on it notice, and stop.
    ///
    /// [`SqliteStore::renew_incarnation`]: crate::SqliteStore::renew_incarnation
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and of writing.
    pub async fn renew_incarnation(
        address: PostgresAddress,
        key: &MacKey,
        random: &dyn Random,
    ) -> Result<Incarnation, StoreError> {
        let incarnation = Incarnation::from_bytes(random.array());
        let store = Self::open(address, key).await?;
        store.shared.renew(incarnation).await?;
        Ok(incarnation)
    }

    /// Forgets the changes up to and including `floor`; the objects stay. Servers that had not read them yet read the
    /// objects anew.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when `floor` is after the last revision; [`StoreError::Broken`] when what is to be
    /// forgotten was tampered with.
    pub async fn compact(&self, floor: Revision) -> Result<Head, StoreError> {
        self.run(move |shared| async move { shared.compact(floor).await }).await
    }

    /// Runs to its end, also when nobody waits for it any more: a transaction is not left half done.
    async fn run<T: Send + 'static, F: Future<Output = Result<T, StoreError>> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<T, StoreError> {
        tokio::spawn(work(Arc::clone(&self.shared))).await.map_err(|_| StoreError::Closed)?
    }
}

impl Store for PostgresStore {
    fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(self.run(|shared| async move { Ok(shared.head().await?.head()) }))
    }

    fn commit(&self, expect: Revision, batch: Batch) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            batch.check()?;
            self.run(move |shared| async move { shared.commit(expect, &batch).await }).await
        })
    }

    fn changes(&self, since: Revision, max: usize) -> BoxFuture<'_, Result<Vec<Change>, StoreError>> {
        Box::pin(self.run(move |shared| async move { shared.changes(since, max.min(MAX_PAGE)).await }))
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        Box::pin(self.run(|shared| async move { shared.snapshot().await }))
    }

    fn wait(&self, after: Revision, timeout: Duration) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            let mut wake = self.shared.wake.subscribe();
            let started = Instant::now();
            loop {
                wake.borrow_and_update();
                let revision = self.head().await?.revision;
                if revision > after || started.elapsed() >= timeout {
                    return Ok(revision);
                }
                let left = timeout.saturating_sub(started.elapsed());
                // Told or not, the next look decides.
                let _ = tokio::time::timeout(left.min(POLL), wake.changed()).await;
            }
        })
    }
}

impl Shared {
    fn follower(&self) -> MutexGuard<'_, Follower> {
        // Each critical section leaves it whole, so a panic elsewhere did not break it.
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn head(&self) -> Result<HeadRow, StoreError> {
        // What is known before the question is asked: an answer may be overtaken.
        let known = self.follower().position();
        let head = read!(self, session => in_time(verification::head(session, &self.keys)))?;
        known.admits(&head)?;
        Ok(head)
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let known = self.follower().position();
        let (head, snapshot) = read!(self, session => verification::snapshot(session, &self.keys))?;
        known.admits(&head)?;
        Ok(snapshot)
    }

    /// Reads changes; the follower goes along if they continue what it has seen.
    async fn changes(&self, since: Revision, max: usize) -> Result<Vec<Change>, StoreError> {
        let known = self.follower().position();
        let (head, changes) = read!(self, session => in_time(self.read_changes(session, known, since, max)))?;
        let mut follower = self.follower();
        for (change, mac) in &changes {
            if change.revision == follower.position().revision.next() {
                follower.follow(&self.keys, change, *mac);
            }
        }
        // At the end, also the set of objects must be what the head says.
        if follower.position() == Position::of(&head)
            && (follower.count() != head.objects || follower.set_tag(&self.keys) != head.set_tag)
        {
            return Err(StoreError::broken(
                crate::Place::Head,
                "its set of objects is not that of the changes",
            ));
        }
        drop(follower);
        Ok(changes.into_iter().map(|(change, _)| change).collect())
    }

    async fn read_changes(
        &self,
        session: &Session,
        known: Position,
        since: Revision,
        max: usize,
    ) -> Result<(HeadRow, Vec<(Change, [u8; 32])>), StoreError> {
        let (client, statements) = (&session.client, &session.statements);
        let limit = i64::try_from(max).unwrap_or(i64::MAX);
        // No change comes after what no revision can be.
        let after = rows::integer(since.0).unwrap_or(i64::MAX);
        let (at, page): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 2]) = ([&after], [&after, &limit]);
        // One round trip; what is read in it is of one moment.
        let (began, head, mac, found, ended) = tokio::join!(
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            client.query(&statements.head, &[]),
            client.query(&statements.change_mac, &at),
            client.query(&statements.changes, &page),
            client.batch_execute("ROLLBACK"),
        );
        began.and(ended).map_err(|cause| error(&cause))?;
        let (head, head_mac) = rows::head(&head.map_err(|cause| error(&cause))?)?;
        self.keys.verify_head(&head, &head_mac)?;
        known.admits(&head)?;
        if since < head.floor {
            return Err(StoreError::Compacted { floor: head.floor });
        }
        if since >= head.revision {
            return Ok((head, Vec::new()));
        }
        let previous = if since == head.floor {
            head.anchor
        } else {
            rows::change_mac(&mac.map_err(|cause| error(&cause))?, since)?
        };
        if since == known.revision && previous != known.tip {
            return Err(known.another_change());
        }
        let mut walk = ChangeWalk::new(&self.keys, &head, (since, previous));
        let mut changes = Vec::new();
        for row in &found.map_err(|cause| error(&cause))? {
            let expected = walk.expected();
            walk.arrive(rows::revision(row, expected)?)?;
            let change = rows::change(row, expected)?;
            walk.step(&change)?;
            if expected == known.revision && change.mac != known.tip {
                return Err(known.another_change());
            }
            changes.push((change.to_owned(), change.mac));
        }
        walk.finish(max)?;
        Ok((head, changes))
    }
}
