//! The ledger of keys: what was done with them, on this server's own disk.
//!
//! What a caller gets was written before, and is on the disk. If it can't be written, nobody gets anything: what was computed
//! meanwhile is thrown away, and the next call is refused before anything is done.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bonafide_identity::time::UnixTime;
use bonafide_ledger::{Ledger, LedgerError};
use prost::Message;
use tokio::time::Instant;

use super::guard::Denied;
use crate::key_entry::{self, KeyEntry, key_entry::Kind};
use crate::rates::{Limit, Rates};
use crate::refusal::Refusal;

/// Refusals of one caller that are written down, per second.
const REFUSALS: Limit = Limit { per_second: 5, burst: 50 };
/// Errors of one kind that are logged when the ledger can't be written.
const COMPLAINTS: Limit = Limit { per_second: 1, burst: 1 };

/// Where entries go.
pub(crate) trait Pages: Send + Sync {
    /// Begins to write entries, one after the other, and calls `then` once, when they are on the disk or can't be.
    ///
    /// # Errors
    /// What is known at once; `then` is not called.
    fn append_then(
        &self,
        entries: Vec<Vec<u8>>,
        then: Box<dyn FnOnce(Result<u64, LedgerError>) + Send>,
    ) -> Result<(), LedgerError>;
}

impl Pages for Ledger {
    fn append_then(
        &self,
        entries: Vec<Vec<u8>>,
        then: Box<dyn FnOnce(Result<u64, LedgerError>) + Send>,
    ) -> Result<(), LedgerError> {
        Self::append_then(self, entries, then)
    }
}

/// Writes entries.
pub(crate) struct Book {
    pages: Arc<dyn Pages>,
    refusals: Rates<String>,
    complaints: Rates<&'static str>,
    number: AtomicU64,
}

impl Book {
    /// `first`: drawn, so that the numbers of two lives of a server are not the same.
    pub(crate) fn new(pages: Arc<dyn Pages>, first: u64) -> Self {
        Self { pages, refusals: Rates::new(), complaints: Rates::new(), number: AtomicU64::new(first) }
    }

    /// For an intent and what comes of it.
    pub(crate) fn number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes entries; they are on the disk when this returns.
    ///
    /// # Errors
    /// `kms.audit-full`, `kms.audit`: then nothing may be released.
    pub(crate) async fn append(&self, now: UnixTime, kinds: Vec<Kind>) -> Result<(), Refusal> {
        if kinds.is_empty() {
            return Ok(());
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        // Fails when the caller is gone: the entry is written all the same.
        let then = Box::new(move |written| drop(reply.send(written)));
        self.pages.append_then(encode(now, kinds), then).map_err(|error| self.failed(&error))?;
        answer.await.unwrap_or(Err(LedgerError::Closed)).map(drop).map_err(|error| self.failed(&error))
    }

    /// Begins to write entries on which nothing depends.
    pub(crate) fn append_soon(&self, now: UnixTime, kinds: Vec<Kind>) {
        if let Err(error) = self.pages.append_then(encode(now, kinds), Box::new(drop)) {
            let _told = self.failed(&error);
        }
    }

    /// Notes that somebody asked for what he may not have.
    pub(crate) fn refused(
        &self,
        now: UnixTime,
        actor: &key_entry::Actor,
        operation: &str,
        key: &str,
        denied: &Denied,
    ) {
        if self.refusals.take(actor.id.as_str(), REFUSALS, Instant::now()).is_err() {
            return;
        }
        tracing::warn!(
            caller = actor.id,
            instance = crate::journal::hex(&actor.instance),
            operation,
            code = denied.code,
            by = denied.by,
            "refused the use of a key"
        );
        let refusal = key_entry::Refusal {
            actor: Some(actor.clone()),
            operation: operation.to_owned(),
            key: key.chars().take(super::name::MAX).collect(),
            code: denied.code.to_owned(),
            by: denied.by.clone(),
        };
        self.append_soon(now, vec![Kind::Refusal(refusal)]);
    }

    fn failed(&self, why: &LedgerError) -> Refusal {
        if self.complaints.take(&why.code(), COMPLAINTS, Instant::now()).is_ok() {
            tracing::error!(
                code = why.code(),
                "the ledger of keys can't be written, so no key is used: {why}"
            );
        }
        match why {
            LedgerError::Full => Refusal::unavailable(
                "kms.audit-full",
                "the disk of the ledger of keys is full, so no key is used",
            )
            .hint("make room on the disk of the authority's `key-ledger`; no restart is needed"),
            LedgerError::Overloaded => Refusal::unavailable(
                "kms.audit-busy",
                "more is done with keys than the ledger of keys can take",
            )
            .hint("try again in a moment"),
            _ => Refusal::unavailable("kms.audit", "the ledger of keys can't be written, so no key is used")
                .hint("look at the authority's log, and at the disk of its `key-ledger`"),
        }
    }
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book").finish_non_exhaustive()
    }
}

fn encode(now: UnixTime, kinds: Vec<Kind>) -> Vec<Vec<u8>> {
    kinds.into_iter().map(|kind| KeyEntry { at: now.as_secs(), kind: Some(kind) }.encode_to_vec()).collect()
}
