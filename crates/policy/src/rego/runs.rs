//! The runs of one program: how many there are, and whether one is late.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Runs of one program at the same time. Each has a thread, and nothing stops one that is in a long step.
const MAX_RUNS: usize = 16;

/// The runs of one program.
#[derive(Debug, Default)]
pub(super) struct Runs {
    running: AtomicUsize,
    late: AtomicUsize,
}

/// A run, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Run {
    of: Arc<Runs>,
    is_late: AtomicBool,
}

impl Runs {
    /// Begins a run. `None` if there are as many as there may be.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Arc<Run>> {
        let more = |running| (running < MAX_RUNS).then_some(running + 1);
        self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Arc::new(Run { of: Arc::clone(self), is_late: AtomicBool::new(false) }))
    }

    /// Whether there is a run for which nobody waits any more.
    pub(super) fn is_one_late(&self) -> bool {
        self.late.load(Ordering::Acquire) > 0
    }
}

impl Run {
    /// Nobody waits for it any more. Nothing happens if it has ended.
    pub(super) fn give_up(run: &Weak<Self>) {
        // While this is held, the run does not end.
        let Some(run) = run.upgrade() else { return };
        if !run.is_late.swap(true, Ordering::AcqRel) {
            run.of.late.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if *self.is_late.get_mut() {
            self.of.late.fetch_sub(1, Ordering::AcqRel);
        }
        self.of.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_no_more_until_one_ends() {
        let runs = Arc::new(Runs::default());
        let mut held: Vec<_> = (0..MAX_RUNS).map(|_| runs.begin().unwrap()).collect();
        assert!(runs.begin().is_none());
        held.pop();
        let again = runs.begin();
        assert!(again.is_some() && runs.begin().is_none());
        assert!(!runs.is_one_late());
    }

    #[test]
    fn a_run_is_late_until_it_ends() {
        let runs = Arc::new(Runs::default());
        let (one, other) = (runs.begin().unwrap(), runs.begin().unwrap());
        for run in [&one, &one, &other] {
            Run::give_up(&Arc::downgrade(run));
        }
        drop(one);
        assert!(runs.is_one_late());
        let ended = Arc::downgrade(&other);
        drop(other);
        Run::give_up(&ended);
        assert!(!runs.is_one_late());
        assert_eq!(runs.running.load(Ordering::Acquire), 0);
    }
}
