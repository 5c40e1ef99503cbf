//! The revision log: state as a fold over a dense, authenticated log of changes.
//!
//! A [`Store`] holds objects under keys. Each change of an object has a revision of its own, 1, 2, 3 … without a
//! gap, and [`Store::commit`] names the revision that it expects to be the last one: of several writers that saw the
//! same state, one wins and the others look again. A reader folds a [`Snapshot`] and the [`Change`]s after it into
//! memory, and asserts that no revision is missing.
//!
//! Whoever can write the database must not own the trust domain. Therefore every row carries a MAC under keys that
//! the database never sees, the log is a chain of MACs, and the head binds the chain's tip and the set of all
//! objects. [`SqliteStore::open`] checks everything, and refuses with the place of the first thing that is wrong.
//! It can't notice that the *whole* database was replaced by an older copy of itself: that is what the ledger's
//! checkpoints, which bind incarnation and revision, are for.

mod authentication;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod follower;
mod postgres;
mod record;
mod sql;
mod sqlite;
mod walk;
mod worker;

use std::{fmt, future::Future, pin::Pin, time::Duration};

pub use self::{
    error::{Place, StoreError},
    postgres::{Duplex, Encryption, PostgresAddress, PostgresStore},
    record::{Batch, Change, Head, Incarnation, MAX_CHANGES, MAX_KEY, MAX_VALUE, Object, Revision, Snapshot},
    sqlite::SqliteStore,
};

/// A boxed future, so that a store can stand behind `Arc<dyn Store>`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A log of changes with dense revisions, and the objects that it folds to.
///
/// Nothing on a hot path calls this: servers fold the log into memory.
pub trait Store: fmt::Debug + Send + Sync {
    /// Where the log stands.
    ///
    /// # Errors
    /// Fails when the database can't be read, or was tampered with.
    fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>>;

    /// Appends `batch` if the last revision still is `expect`: all of it or nothing. What it returns, the last
    /// revision, is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else committed first. [`StoreError::Full`] and the other errors that
    /// [`StoreError::is_clean`] names left nothing behind.
    fn commit(&self, expect: Revision, batch: Batch) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// At most `max` changes, from the one after `since` on, without a gap. Empty when there is none yet.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when changes after `since` are gone: take a snapshot.
    fn changes(&self, since: Revision, max: usize) -> BoxFuture<'_, Result<Vec<Change>, StoreError>>;

    /// Every object, and the revision of which this is the state. Each object and their set have been verified.
    ///
    /// # Errors
    /// Fails when the database can't be read, or was tampered with.
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>>;

    /// Waits until there is a revision after `after`, or until `timeout` has passed. Returns the last revision
    /// either way.
    ///
    /// # Errors
    /// Fails when the database can't be read, or was tampered with.
    fn wait(&self, after: Revision, timeout: Duration) -> BoxFuture<'_, Result<Revision, StoreError>>;
}
