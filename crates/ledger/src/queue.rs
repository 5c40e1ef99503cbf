//! What waits for the disk. Callers put entries in; the writer takes all that there are at once.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{LedgerError, MAX_ENTRY};

/// How many entries and bytes may wait. At the rate of a slow disk this is some seconds of work.
const MAX_WAITING: usize = 65_536;
const MAX_WAITING_BYTES: usize = 128 << 20;

/// A group of so many entries shows that callers are many, and will be back soon.
const BUSY: usize = 8;
/// How long after the last group began the next one begins at the latest, while callers are many.
const WINDOW: Duration = Duration::from_millis(4);
/// Every so many groups it is tried whether a larger one comes together.
const TRIAL: u32 = 8;
/// The writer is not waiting.
const NEVER: usize = usize::MAX;

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    items: Vec<Item>,
    entries: usize,
    bytes: usize,
    /// How many entries wake the writer.
    wake_at: usize,
    closed: bool,
}

/// When the next group begins. At once, unless callers are many: then when as many entries are there as came together
/// before, but not later than [`WINDOW`] after the last one began.
///
/// Without this, the first caller that is back gets an fsync for himself, for which all others wait. An fsync costs as
/// much CPU time as the checks and signatures of two certificates.
#[derive(Debug)]
pub(crate) struct Pace {
    goal: usize,
    groups: u32,
    began: Instant,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { goal: 0, groups: 0, began: Instant::now() }
    }

    /// How many entries are enough to begin, and how long to wait for them.
    fn wanted(&self) -> (usize, Duration) {
        let left =
            if self.goal >= BUSY { WINDOW.saturating_sub(self.began.elapsed()) } else { Duration::ZERO };
        (if left.is_zero() { 1 } else { self.goal }, left)
    }

    fn begins(&mut self, entries: usize) {
        self.began = Instant::now();
        self.groups = self.groups.wrapping_add(1);
        // What came together within the window is what can be had; now and then a little more is asked for.
        self.goal =
            if self.groups.is_multiple_of(TRIAL) { entries.saturating_add(entries / 2) } else { entries };
    }
}

/// What one caller appends, and where to tell it the index of its first entry.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) entries: Entries,
    pub(crate) reply: Reply,
}

/// What is to be done with the index of the first entry, once.
pub(crate) struct Reply(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<u64, LedgerError>) + Send>;

impl Reply {
    pub(crate) fn new(reply: impl FnOnce(Result<u64, LedgerError>) + Send + 'static) -> Self {
        Self(Some(Box::new(reply)))
    }

    pub(crate) fn send(mut self, result: Result<u64, LedgerError>) {
        if let Some(reply) = self.0.take() {
            reply(result);
        }
    }
}

impl Drop for Reply {
    /// Nobody waits for ever, whatever became of the writer.
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply(Err(LedgerError::Closed));
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Reply")
    }
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

impl Default for Queue {
    fn default() -> Self {
        let state = State { items: Vec::new(), entries: 0, bytes: 0, wake_at: NEVER, closed: false };
        Self { state: Mutex::new(state), wake: Condvar::new() }
    }
}

impl Queue {
    /// Queues entries. `reply` is called on the writer's thread, if this returns without an error.
    pub(crate) fn put(
        &self,
        entries: Entries,
        reply: impl FnOnce(Result<u64, LedgerError>) + Send + 'static,
    ) -> Result<(), LedgerError> {
        let (count, bytes) = {
            let entries = entries.as_slice();
            if entries.is_empty() || entries.iter().any(|entry| entry.len() > MAX_ENTRY) {
                return Err(LedgerError::Invalid("entries have at most 65535 bytes each, and there is one"));
            }
            (entries.len(), entries.iter().map(Vec::len).sum::<usize>())
        };
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
        state.items.push(Item { entries, reply: Reply::new(reply) });
        let wake = state.entries >= state.wake_at;
        if wake {
            state.wake_at = NEVER;
        }
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits for something to write, and gathers as long as that pays; puts it into `items`, which is empty. `false`
    /// when the queue is closed and empty.
    pub(crate) fn take(&self, items: &mut Vec<Item>, pace: &mut Pace) -> bool {
        let mut state = self.lock();
        while !state.closed {
            let (enough, left) = pace.wanted();
            if state.entries >= enough {
                break;
            }
            state.wake_at = enough;
            state = if left.is_zero() {
                self.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            };
            state.wake_at = NEVER;
        }
        pace.begins(state.entries);
        std::mem::swap(&mut state.items, items);
        state.entries = 0;
        state.bytes = 0;
        !items.is_empty()
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Nobody writes any more: those who wait are told so.
    pub(crate) fn abandon(&self) {
        self.close();
        // Not under the lock: they may append.
        let items = std::mem::take(&mut self.lock().items);
        drop(items);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(queue: &Queue, count: usize) {
        for _ in 0..count {
            queue.put(Entries::One(vec![]), |_| ()).unwrap();
        }
    }

    #[test]
    fn a_lone_caller_never_waits() {
        let (queue, mut pace, mut items) = (Queue::default(), Pace::new(), Vec::new());
        for _ in 0..20 {
            put(&queue, 1);
            assert_eq!(pace.wanted(), (1, Duration::ZERO));
            assert!(queue.take(&mut items, &mut pace));
            assert_eq!(items.drain(..).count(), 1);
        }
    }

    #[test]
    fn many_callers_are_gathered_but_not_for_longer_than_the_window() {
        let (queue, mut pace, mut items) = (Queue::default(), Pace::new(), Vec::new());
        for _ in 0..20 {
            put(&queue, 64);
            let start = Instant::now();
            assert!(queue.take(&mut items, &mut pace));
            assert_eq!(items.drain(..).count(), 64);
            assert!(start.elapsed() < Duration::from_secs(1));
            let (enough, left) = pace.wanted();
            assert!(left <= WINDOW && (enough == 1 || (64..=96).contains(&enough)), "{enough}");
        }
        // All but one have gone: that one waits for the rest of the window, and the next time not at all.
        put(&queue, 1);
        assert!(queue.take(&mut items, &mut pace));
        assert_eq!((items.len(), pace.wanted().1), (1, Duration::ZERO));
    }

    #[test]
    fn a_closed_queue_gives_what_it_has_and_ends() {
        let (queue, mut pace, mut items) = (Queue::default(), Pace::new(), Vec::new());
        put(&queue, 3);
        queue.close();
        assert!(queue.take(&mut items, &mut pace));
        assert_eq!(items.drain(..).count(), 3);
        assert!(!queue.take(&mut items, &mut pace));
        assert!(queue.put(Entries::One(vec![]), |_| ()).is_err());
    }
}
