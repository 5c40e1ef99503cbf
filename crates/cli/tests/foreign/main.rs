//! Other people's software against our agent: the public SPIFFE clients, unmodified, and certificate linters.
//!
//! Python, pkilint and Go run where their toolchains are: `./test` installs what it can, and each tier that is left
//! out says so on standard error.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod clients;
mod envoy;
mod fixture;
mod lint;
#[path = "../support/pair.rs"]
mod pair;
mod vault;
