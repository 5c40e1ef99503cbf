//! The asynchronous runtime of a server.

use std::{io, num::NonZero, thread};

use tokio::runtime::{Builder, Handle, Runtime};

/// How much less than others threads are worth that work for strangers: about a tenth, when both want the processor.
const LOBBY_NICENESS: i32 = 10;
/// Calls of strangers that compute.
const LOBBY_BLOCKING_THREADS: usize = 2;

/// A runtime with a worker for every two cores.
///
/// Signatures and disks have threads of their own, so all that is left for workers is to move bytes. More of them
/// would wake each other up for work that one does in less time than that takes.
///
/// # Errors
/// If this user may not start more threads.
pub fn start() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(workers()).enable_all().build()
}

fn workers() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2)
}

/// Where those wait who have not shown who they are: a runtime of its own, with threads of low priority. Ends with what
/// it does when it is dropped.
#[derive(Debug)]
pub(crate) struct Lobby {
    handle: Handle,
    /// Until it is dropped.
    runtime: Option<Runtime>,
}

impl Lobby {
    /// # Errors
    /// If this user may not start more threads.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers())
            .max_blocking_threads(LOBBY_BLOCKING_THREADS)
            .thread_name("lobby")
            .on_thread_start(|| {
                // On Linux this is the priority of the thread. Without it, strangers only cost others more.
                if let Err(error) = rustix::process::nice(LOBBY_NICENESS) {
                    tracing::debug!(%error, "a thread keeps its priority");
                }
            })
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Lobby {
    fn drop(&mut self) {
        // Where this is dropped, nobody may wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
