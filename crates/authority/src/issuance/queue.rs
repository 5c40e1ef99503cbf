//! A bounded queue with two lanes, worked off in batches by threads of its own.
//!
//! Signatures and proof-of-possession checks are tens of microseconds of pure computation each. On the runtime's own
//! threads they would stall every stream; as one blocking task each they would cost a wake-up apiece. So they queue
//! here, and a thread that wakes takes a fair share of all that waits, or a handful if that is more.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What one wake-up takes at most. Enough to spread its costs, few enough to keep the first answer quick.
const MAX_BATCH: usize = 32;
/// So much work pays for waking one more thread. Where one is awake already, less than this waits for it: at most as
/// long as a batch takes, which is less than the disk will.
const HANDFUL: usize = 16;

/// Who goes first. A workload that starts waits for its first SVID; a renewal has half a lifetime left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    First,
    Renewal,
}

/// The queue and its threads. Dropping it ends the threads after the batch at hand; what still waits is dropped.
pub(crate) struct Queue<Job> {
    shared: Arc<Shared<Job>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<Job> {
    lanes: Mutex<Lanes<Job>>,
    ready: Condvar,
    threads: usize,
}

struct Lanes<Job> {
    first: VecDeque<Job>,
    renewals: VecDeque<Job>,
    capacity: usize,
    /// Threads that wait.
    idle: usize,
    /// Those of them that were woken, and did not come yet.
    called: usize,
    /// Threads with a batch.
    at_work: usize,
    closed: bool,
}

/// Says that the batch is done, even if its work panics: nobody shall wait for a thread that is gone.
struct AtWork<'a, Job>(&'a Shared<Job>);

impl<Job: Send + 'static> Queue<Job> {
    /// Starts `threads` threads; each calls `work` with a batch at a time.
    pub(crate) fn start(
        threads: usize,
        capacity: usize,
        work: impl Fn(Vec<Job>) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { lanes: Mutex::new(Lanes::new(capacity)), ready: Condvar::new(), threads });
        let work = Arc::new(work);
        let mut queue = Self { shared, threads: Vec::with_capacity(threads) };
        for number in 0..threads {
            let (shared, work) = (Arc::clone(&queue.shared), Arc::clone(&work));
            let thread = std::thread::Builder::new().name(format!("sign-{number}")).spawn(move || {
                while let Some(batch) = shared.next_batch() {
                    let _at_work = AtWork(&shared);
                    work(batch);
                }
            })?;
            queue.threads.push(thread);
        }
        Ok(queue)
    }

    /// Queues all that there is room for, under one lock and with one wake-up; gives the others back.
    pub(crate) fn push(&self, jobs: impl IntoIterator<Item = (Lane, Job)>) -> Vec<Job> {
        let mut refused = Vec::new();
        let mut lanes = self.shared.lock();
        for (lane, job) in jobs {
            if lanes.closed || lanes.len() >= lanes.capacity {
                refused.push(job);
                continue;
            }
            match lane {
                Lane::First => lanes.first.push_back(job),
                Lane::Renewal => lanes.renewals.push_back(job),
            }
        }
        let wake = lanes.to_wake();
        lanes.called += wake;
        drop(lanes);
        for _ in 0..wake {
            self.shared.ready.notify_one();
        }
        refused
    }
}

impl<Job> Drop for Queue<Job> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_all();
        let own = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last owner may be a job that one of the threads has just finished.
            if thread.thread().id() != own {
                let _ended = thread.join();
            }
        }
    }
}

impl<Job> std::fmt::Debug for Queue<Job> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Queue").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl<Job> Shared<Job> {
    fn lock(&self) -> MutexGuard<'_, Lanes<Job>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until there is work; none once the queue is closed.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut lanes = self.lock();
        loop {
            if lanes.closed {
                return None;
            }
            if lanes.len() > 0 {
                lanes.at_work += 1;
                return Some(lanes.take_batch(self.threads));
            }
            lanes.idle += 1;
            lanes = self.ready.wait(lanes).unwrap_or_else(PoisonError::into_inner);
            lanes.idle -= 1;
            lanes.called = lanes.called.saturating_sub(1);
        }
    }
}

impl<Job> Drop for AtWork<'_, Job> {
    fn drop(&mut self) {
        self.0.lock().at_work -= 1;
    }
}

impl<Job> Lanes<Job> {
    fn new(capacity: usize) -> Self {
        Self {
            first: VecDeque::new(),
            renewals: VecDeque::new(),
            capacity,
            idle: 0,
            called: 0,
            at_work: 0,
            closed: false,
        }
    }

    fn len(&self) -> usize {
        self.first.len() + self.renewals.len()
    }

    /// How many of the idle threads are worth waking: one for each handful, and one at least if none is awake.
    fn to_wake(&self) -> usize {
        let wanted = match self.len() {
            waiting if self.at_work + self.called == 0 => waiting.div_ceil(HANDFUL),
            waiting => (waiting / HANDFUL).saturating_sub(self.called),
        };
        wanted.min(self.idle.saturating_sub(self.called))
    }

    /// A fair share of what waits, or a handful. Renewals get at least a quarter of a full batch, so that a flood of launches
    /// can't let running workloads expire.
    fn take_batch(&mut self, threads: usize) -> Vec<Job> {
        let share = self.len().div_ceil(threads.max(1)).clamp(HANDFUL, MAX_BATCH).min(self.len());
        let for_renewals = self.renewals.len().min((share / 4).max(share.saturating_sub(self.first.len())));
        let from_first = share - for_renewals;
        let mut batch = Vec::with_capacity(share);
        batch.extend(self.first.drain(..from_first.min(self.first.len())));
        batch.extend(self.renewals.drain(..for_renewals));
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_job_is_taken_once_and_batches_are_bounded(first in 0..200_usize, renewals in 0..200_usize, threads in 1..8_usize) {
            let mut lanes = Lanes::new(usize::MAX);
            lanes.first.extend((0..first).map(|job| (Lane::First, job)));
            lanes.renewals.extend((0..renewals).map(|job| (Lane::Renewal, job)));
            let mut taken = Vec::new();
            while lanes.len() > 0 {
                let renewals_waited = lanes.renewals.len();
                let batch = lanes.take_batch(threads);
                prop_assert!(!batch.is_empty() && batch.len() <= MAX_BATCH);
                if renewals_waited > MAX_BATCH && batch.len() == MAX_BATCH {
                    prop_assert!(batch.iter().filter(|(lane, _)| *lane == Lane::Renewal).count() >= MAX_BATCH / 4);
                }
                taken.extend(batch);
            }
            prop_assert_eq!(taken.len(), first + renewals);
            let order: Vec<_> = taken.iter().filter(|(lane, _)| *lane == Lane::First).map(|(_, job)| *job).collect();
            prop_assert_eq!(order, (0..first).collect::<Vec<_>>());
        }
    }

    #[test]
    fn launches_go_before_renewals() {
        let mut lanes = Lanes::new(100);
        lanes.renewals.extend([10, 11, 12]);
        lanes.first.extend([1, 2]);
        assert_eq!(lanes.take_batch(2), [1, 2, 10, 11, 12]);
    }

    #[test]
    fn threads_are_woken_for_work_enough() {
        let mut lanes = Lanes::new(100);
        lanes.idle = 4;
        assert_eq!(lanes.to_wake(), 0);
        lanes.first.push_back(0);
        assert_eq!(lanes.to_wake(), 1, "a lone job is never left lying");
        lanes.called = 1;
        assert_eq!(lanes.to_wake(), 0, "who was called takes it");
        (lanes.idle, lanes.called, lanes.at_work) = (3, 0, 1);
        assert_eq!(lanes.to_wake(), 0, "who is at work takes it next");
        lanes.first.extend(1..40);
        assert_eq!(lanes.to_wake(), 2);
        lanes.called = 1;
        assert_eq!(lanes.to_wake(), 1);
        (lanes.idle, lanes.called) = (1, 0);
        assert_eq!(lanes.to_wake(), 1);
    }

    #[test]
    fn a_full_queue_gives_jobs_back() {
        let (started, starts) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let queue = Queue::start(1, 2, move |batch: Vec<u32>| {
            started.send(batch).unwrap();
            let _open = gate.lock().unwrap().recv();
        })
        .unwrap();
        assert!(queue.push([(Lane::First, 0)]).is_empty());
        assert_eq!(starts.recv().unwrap(), [0]);
        assert_eq!(queue.push((1..5).map(|job| (Lane::First, job))), [3, 4]);
        release.send(()).unwrap();
        assert_eq!(starts.recv().unwrap(), [1, 2]);
        drop(release);
    }
}
