//! The asynchronous runtime of a server.

use std::{io, num::NonZero, thread};

use tokio::runtime::{Builder, Runtime};

/// A runtime with a worker for every two cores.
///
/// Signatures and disks have threads of their own, so all that is left for workers is to move bytes. More of them
/// would wake each other up for work that one does in less time than that takes.
///
/// # Errors
/// If this user may not start more threads.
pub fn start() -> io::Result<Runtime> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    Builder::new_multi_thread().worker_threads(cores.div_ceil(2)).enable_all().build()
}
