use std::{sync::Arc, time::Duration};

use bonafide_crypto::random::Random;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);

/// How long to wait before the next attempt: doubling, with half of it random, so that the workloads of a node don't all
/// come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    random: Arc<dyn Random>,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(random: Arc<dyn Random>) -> Self {
        Self { random, next: FIRST }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LONGEST);
        let fraction = f64::from(u16::from_be_bytes(self.random.array())) / f64::from(u16::MAX);
        whole.mul_f64(0.5 + fraction / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use bonafide_crypto::random::SystemRandom;

    use super::*;

    #[test]
    fn grows_to_a_limit_and_starts_over() {
        let mut backoff = Backoff::new(Arc::new(SystemRandom));
        let first = backoff.next();
        assert!(first >= FIRST / 2 && first <= FIRST);
        for _ in 0..20 {
            assert!(backoff.next() <= LONGEST);
        }
        assert!(backoff.next() >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
