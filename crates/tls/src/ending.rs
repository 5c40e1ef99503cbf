use std::{
    sync::{Mutex, OnceLock, PoisonError},
    task::{Context, Waker},
};

/// Tells whoever reads from a connection, or writes to it, that it is over, and why.
#[derive(Debug)]
pub(crate) struct Ending<Why> {
    why: OnceLock<Why>,
    /// Of who waits for a read, and of who waits for a write.
    waiting: Mutex<[Option<Waker>; 2]>,
}

/// What a task waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl<Why> Ending<Why> {
    pub(crate) fn new() -> Self {
        Self { why: OnceLock::new(), waiting: Mutex::default() }
    }

    /// Ends it, and wakes whoever waits. Whether it was not over yet.
    pub(crate) fn end(&self, why: Why) -> bool {
        let first = self.why.set(why).is_ok();
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().flatten().for_each(Waker::wake);
        first
    }

    /// Why it is over, once it is.
    pub(crate) fn why(&self) -> Option<&Why> {
        self.why.get()
    }

    /// Wakes the task when it is over. Look at [`Self::why`] afterwards: it may be so already.
    pub(crate) fn wait(&self, direction: Direction, cx: &Context<'_>) {
        let [read, write] = &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waker = match direction {
            Direction::Read => read,
            Direction::Write => write,
        };
        match waker {
            Some(known) => known.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }
}
