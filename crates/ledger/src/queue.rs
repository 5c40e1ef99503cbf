//! What waits for the disk. Callers put entries in; the writer takes all that there are at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::{LedgerError, MAX_ENTRY};

/// How many entries and bytes may wait. At the rate of a slow disk this is some seconds of work.
const MAX_WAITING: usize = 65_536;
const MAX_WAITING_BYTES: usize = 128 << 20;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    items: Vec<Item>,
    entries: usize,
    bytes: usize,
    writer_sleeps: bool,
    closed: bool,
}

/// What one caller appends, and where to tell it the index of its first entry.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) entries: Entries,
    pub(crate) reply: oneshot::Sender<Result<u64, LedgerError>>,
}

#[derive(Debug)]
pub(crate) enum Entries {
    Many(Vec<Vec<u8>>),
    One(Vec<u8>),
}

impl Entries {
    fn as_slice(&self) -> &[Vec<u8>] {
        match self {
            Self::Many(entries) => entries,
            Self::One(entry) => std::slice::from_ref(entry),
        }
    }
}

impl Queue {
    pub(crate) fn put(
        &self,
        entries: Entries,
    ) -> Result<oneshot::Receiver<Result<u64, LedgerError>>, LedgerError> {
        let (count, bytes) = {
            let entries = entries.as_slice();
            if entries.is_empty() || entries.iter().any(|entry| entry.len() > MAX_ENTRY) {
                return Err(LedgerError::Invalid("entries have at most 65535 bytes each, and there is one"));
            }
            (entries.len(), entries.iter().map(Vec::len).sum::<usize>())
        };
        let (reply, answer) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(LedgerError::Closed);
        }
        if state.entries.saturating_add(count) > MAX_WAITING
            || state.bytes.saturating_add(bytes) > MAX_WAITING_BYTES
        {
            return Err(LedgerError::Overloaded);
        }
        state.entries += count;
        state.bytes += bytes;
        state.items.push(Item { entries, reply });
        let wake = std::mem::take(&mut state.writer_sleeps);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(answer)
    }

    /// Waits for something to write; puts it into `items`, which is empty. `false` when the queue is closed and empty.
    pub(crate) fn take(&self, items: &mut Vec<Item>) -> bool {
        let mut state = self.lock();
        while state.items.is_empty() {
            if state.closed {
                return false;
            }
            state.writer_sleeps = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut state.items, items);
        state.entries = 0;
        state.bytes = 0;
        true
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
