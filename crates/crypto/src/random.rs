//! Randomness as a parameter, so that a test can own it.

use std::fmt::{self, Debug, Formatter};
use std::sync::{Mutex, PoisonError};

/// A source of unpredictable bytes.
pub trait Random: Debug + Send + Sync {
    /// Fills `out` with random bytes.
    fn fill(&self, out: &mut [u8]);
}

impl dyn Random + '_ {
    /// `N` random bytes.
    #[must_use]
    pub fn array<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}

/// Randomness that was drawn in advance, for many small draws: each draw from a generator has its own price. Every
/// byte is given once; when there are none left, the source is asked again. Not for secrets: what was drawn and not
/// given is not erased.
pub struct DrawnAhead<'a> {
    source: &'a dyn Random,
    drawn: Mutex<Vec<u8>>,
}

impl<'a> DrawnAhead<'a> {
    /// Draws `count` bytes from `source`.
    #[must_use]
    pub fn new(source: &'a dyn Random, count: usize) -> Self {
        let mut drawn = vec![0; count];
        source.fill(&mut drawn);
        Self { source, drawn: Mutex::new(drawn) }
    }
}

impl Random for DrawnAhead<'_> {
    fn fill(&self, out: &mut [u8]) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let left = drawn.len().checked_sub(out.len());
        match left.and_then(|left| drawn.get(left..).map(|taken| out.copy_from_slice(taken)).map(|()| left)) {
            Some(left) => drawn.truncate(left),
            None => self.source.fill(out),
        }
    }
}

impl Debug for DrawnAhead<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DrawnAhead").finish_non_exhaustive()
    }
}

/// The generator of the operating system, through AWS-LC's DRBG.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) {
        // A process that can't draw randomness must not issue a key, a serial or a nonce; nothing above this
        // call could do better than to stop.
        if aws_lc_rs::rand::fill(out).is_err() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    /// 0, 1, 2, …
    #[derive(Debug, Default)]
    struct Counter(AtomicU8);

    impl Random for Counter {
        fn fill(&self, out: &mut [u8]) {
            out.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed));
        }
    }

    #[test]
    fn every_byte_is_given_once() {
        let source = Counter::default();
        let ahead = DrawnAhead::new(&source, 8);
        let ahead: &dyn Random = &ahead;
        let mut given: Vec<u8> = [ahead.array::<3>(), ahead.array(), ahead.array(), ahead.array()].concat();
        given.extend(ahead.array::<2>());
        given.sort_unstable();
        // Eight were drawn ahead: two threes and the two fit, the others came from the source.
        assert_eq!(given, (0..14).collect::<Vec<u8>>());
    }
}
