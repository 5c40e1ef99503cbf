//! A thread that owns a value and runs jobs on it, one after the other. SQLite blocks; an executor must not.

use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

use crate::StoreError;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// Ends its thread, after the jobs that it was given, when dropped.
#[derive(Debug)]
pub(crate) struct Worker<T> {
    jobs: Option<mpsc::Sender<Job<T>>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    pub(crate) fn start(name: &str, mut value: T) -> Result<Self, StoreError> {
        let (jobs, inbox) = mpsc::channel::<Job<T>>();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                for job in inbox {
                    job(&mut value);
                }
            })
            .map_err(|error| StoreError::Io(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `job`, also when nobody waits for its answer any more.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(Box::new(move |value| {
            // Fails when the caller is gone: then nobody wants to know.
            let _ = reply.send(job(value));
        }))
        .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has closed its channel, and every caller has heard of it.
            let _ = thread.join();
        }
    }
}
