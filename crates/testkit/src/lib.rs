//! Fakes, clocks and throw-away trust domains for tests.
#![allow(clippy::expect_used, reason = "only tests use it, and a failed test is a panic")]

mod clock;
mod domain;

pub use bonafide_ca::Validity;
pub use clock::TestClock;
pub use domain::TestDomain;
