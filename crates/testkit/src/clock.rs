use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bonafide_identity::time::{Clock, UnixTime};

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// Noon of 1 January 2026.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_767_268_800)))
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let seconds = i64::try_from(by.as_secs()).expect("a test does not last so long");
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Sets the time.
    pub fn set(&self, now: UnixTime) {
        self.0.store(now.as_secs(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixTime {
        UnixTime::from_secs(self.0.load(Ordering::SeqCst))
    }
}
