//! Requests of many callers to the handler, gathered: the switch between two processes is what costs, and each batch costs it
//! once.
//!
//! A few threads take what has come in the meantime, ask, and tell each caller its answer. A caller alone waits for nobody.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::handler::MAX_HANDLED;
use crate::{KeyringError, LiveKeys};
use bonafide_crypto::erased::Erased;

/// Requests that go together.
const MAX_TOGETHER: usize = 64;
/// Bytes of them.
const MAX_BYTES_TOGETHER: usize = 2 * 1024 * 1024;
/// Requests that wait.
const MAX_WAITING: usize = 4096;
/// Bytes of them.
const MAX_BYTES_WAITING: usize = 64 * 1024 * 1024;

/// What a caller is told.
pub type Handled = Result<Erased, KeyringError>;

/// Asks the handler of live keys for many callers. Dropping it ends its threads; who waits is told that it is gone.
pub struct Dispatch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    live: Arc<dyn LiveKeys>,
    threads: usize,
    waiting: Mutex<Waiting>,
    come: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    bytes: usize,
    closed: bool,
}

struct Request {
    bytes: Erased,
    tell: Box<dyn FnOnce(Handled) + Send>,
}

impl Dispatch {
    /// Starts `threads` threads: as many as the worker has lanes serve it best.
    ///
    /// # Errors
    /// [`KeyringError::WorkerStart`] if there can be no such threads.
    pub fn start(live: Arc<dyn LiveKeys>, threads: usize) -> Result<Self, KeyringError> {
        let threads = threads.clamp(1, 64);
        let shared = Shared { live, threads, waiting: Mutex::default(), come: Condvar::new() };
        let mut dispatch = Self { shared: Arc::new(shared), threads: Vec::with_capacity(threads) };
        for number in 0..threads {
            let shared = Arc::clone(&dispatch.shared);
            let thread = std::thread::Builder::new().name(format!("dispatch-{number}"));
            let thread = thread.spawn(move || shared.serve()).map_err(KeyringError::WorkerStart)?;
            dispatch.threads.push(thread);
        }
        Ok(dispatch)
    }

    /// Hands in a request. `tell` is called with its answer, once, on a thread of this dispatch: it must not block.
    pub fn submit(&self, request: Erased, tell: impl FnOnce(Handled) + Send + 'static) {
        if request.len() > MAX_HANDLED {
            return tell(Err(KeyringError::WorkerProtocol("a request that is too large")));
        }
        let mut waiting = self.shared.lock();
        let bytes = waiting.bytes.saturating_add(request.len());
        if waiting.requests.len() >= MAX_WAITING || bytes > MAX_BYTES_WAITING {
            drop(waiting);
            return tell(Err(KeyringError::Busy));
        }
        waiting.bytes = bytes;
        waiting.requests.push_back(Request { bytes: request, tell: Box::new(tell) });
        drop(waiting);
        self.shared.come.notify_one();
    }

    /// Hands in a request and waits for the answer.
    ///
    /// # Errors
    /// Those of [`LiveKeys::handle`]; [`KeyringError::Busy`] if too many wait.
    pub fn ask(&self, request: Erased) -> Handled {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        self.submit(request, move |answer| drop(tell.send(answer)));
        told.recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        while let Some(mut batch) = self.next() {
            while !batch.is_empty() {
                let requests: Vec<&[u8]> = batch.iter().map(|request| request.bytes.as_slice()).collect();
                let answers = self.live.handle(&requests);
                match answers {
                    // Fewer are there when the answers were long: the others have not been looked at.
                    Ok(answers) if !answers.is_empty() && answers.len() <= batch.len() => {
                        for (request, answer) in batch.drain(..answers.len()).zip(answers) {
                            (request.tell)(Ok(answer));
                        }
                    }
                    Ok(_) => {
                        refuse(&mut batch, &KeyringError::WorkerProtocol("an answer to another question"))
                    }
                    Err(error) => refuse(&mut batch, &error),
                }
            }
        }
    }

    /// What waits, or what comes next; none at the end.
    fn next(&self) -> Option<Vec<Request>> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                let mut rest: Vec<Request> = waiting.requests.drain(..).collect();
                drop(waiting);
                refuse(&mut rest, &gone());
                return None;
            }
            if !waiting.requests.is_empty() {
                break;
            }
            waiting = self.come.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        // A share for each thread, so that several cores work on a long queue.
        let share = waiting.requests.len().div_ceil(self.threads).clamp(1, MAX_TOGETHER);
        let mut batch = Vec::with_capacity(share);
        let mut bytes = 0;
        while batch.len() < share {
            let Some(next) = waiting.requests.pop_front() else { break };
            bytes += next.bytes.len();
            if bytes > MAX_BYTES_TOGETHER && !batch.is_empty() {
                waiting.requests.push_front(next);
                break;
            }
            waiting.bytes = waiting.bytes.saturating_sub(next.bytes.len());
            batch.push(next);
        }
        if !waiting.requests.is_empty() {
            self.come.notify_one();
        }
        Some(batch)
    }
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.come.notify_all();
        for thread in self.threads.drain(..) {
            // What is told may drop the last of it.
            if thread.thread().id() != std::thread::current().id() {
                let _ended = thread.join();
            }
        }
    }
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

/// Each is told the same.
fn refuse(batch: &mut Vec<Request>, error: &KeyringError) {
    for request in batch.drain(..) {
        (request.tell)(Err(error.again()));
    }
}

fn gone() -> KeyringError {
    KeyringError::WorkerGone("the server is ending".to_owned())
}
