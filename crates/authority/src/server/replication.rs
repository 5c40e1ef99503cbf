//! Copies of what the ledger publishes, to a directory on another disk or in a mounted bucket. Nothing waits for them: a
//! mount that hangs holds up its own thread, and `status` tells how much a lost server would take along.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::Duration;

use bonafide_ledger::{Ledger, LedgerError, Replica, SignedCheckpoint};
use tokio::sync::oneshot;

use crate::admin::ReplicaStatus;

/// For the last copy of a server that stops.
const FINISH_TIME: Duration = Duration::from_secs(10);

/// The way to the thread that copies.
#[derive(Clone, Debug)]
pub(super) struct Replication {
    jobs: mpsc::Sender<Job>,
    status: Arc<Mutex<ReplicaStatus>>,
}

#[derive(Debug)]
struct Job {
    checkpoint: SignedCheckpoint,
    /// Dropped when it is done, or given up.
    last: Option<oneshot::Sender<()>>,
}

impl Replication {
    /// Starts the thread. It ends with the last clone; the process does not wait for it.
    pub(super) fn start(directory: PathBuf, ledger: &Arc<Ledger>) -> std::io::Result<Self> {
        let (jobs, received) = mpsc::channel();
        let status = Arc::<Mutex<ReplicaStatus>>::default();
        let worker =
            Worker { directory, ledger: Arc::downgrade(ledger), replica: None, status: Arc::clone(&status) };
        std::thread::Builder::new().name("ledger-replica".into()).spawn(move || worker.run(&received))?;
        Ok(Self { jobs, status })
    }

    /// A checkpoint was published: it is copied soon, unless a newer one is.
    pub(super) fn published(&self, checkpoint: SignedCheckpoint) {
        // The thread ends only after this.
        let _ = self.jobs.send(Job { checkpoint, last: None });
    }

    /// Copies the last checkpoint of a server that stops, if that does not take too long.
    pub(super) async fn finish(&self, checkpoint: SignedCheckpoint) {
        let (last, done) = oneshot::channel();
        let _ = self.jobs.send(Job { checkpoint, last: Some(last) });
        if tokio::time::timeout(FINISH_TIME, done).await.is_err() {
            tracing::warn!("the replica of the ledger is too slow: it lacks what came last");
        }
    }

    /// How it stands.
    pub(super) fn status(&self) -> ReplicaStatus {
        lock(&self.status).clone()
    }
}

struct Worker {
    directory: PathBuf,
    ledger: Weak<Ledger>,
    replica: Option<Replica>,
    status: Arc<Mutex<ReplicaStatus>>,
}

impl Worker {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(mut job) = jobs.recv() {
            // Only the newest counts.
            while let Ok(newer) = jobs.try_recv() {
                job = newer;
            }
            let outcome = self.copy(&job.checkpoint);
            let problem = outcome.err().map(|error| error.to_string());
            let mut status = lock(&self.status);
            if let Some(problem) = &problem
                && status.problem.as_ref() != Some(problem)
            {
                tracing::error!("the ledger is not copied to its replica: {problem}");
            }
            status.size = self.replica.as_ref().map_or(status.size, Replica::size);
            status.problem = problem;
            drop(status);
            drop(job.last);
        }
    }

    fn copy(&mut self, checkpoint: &SignedCheckpoint) -> Result<(), LedgerError> {
        let mut replica = match self.replica.take() {
            Some(replica) => replica,
            None => self.ledger.upgrade().ok_or(LedgerError::Closed)?.replica(&self.directory)?,
        };
        let copied = replica.copy(checkpoint);
        self.replica = Some(replica);
        copied
    }
}

fn lock(status: &Mutex<ReplicaStatus>) -> MutexGuard<'_, ReplicaStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
