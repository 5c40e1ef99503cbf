//! The agent with a real authority.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod authorities;
mod certificate;
mod keys;
mod policy;
mod restart;
mod rotation;
mod world;
