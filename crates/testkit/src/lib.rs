//! Fakes, clocks, throw-away trust domains and databases for tests.
#![allow(clippy::expect_used, reason = "only tests use it, and a failed test is a panic")]

mod clock;
mod domain;
mod doom;
mod postgres;
mod softhsm;

pub use bonafide_ca::Validity;
pub use clock::TestClock;
pub use domain::TestDomain;
pub use doom::{Doom, Scaffold, two_servers};
pub use postgres::{Database, Encrypted, Postgres};
pub use softhsm::SoftHsm;
