//! Randomness as a parameter, so that a test can own it.

use std::fmt::Debug;

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
