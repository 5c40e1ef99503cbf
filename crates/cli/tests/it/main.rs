//! The command line from outside: arguments, output, errors, and the real programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod arguments;
mod golden;
mod inspecting;
mod key_worker;
mod ledger;
mod output;
#[path = "../support/pair.rs"]
mod pair;
mod policy;
mod program;
mod resources;
mod revocation;
mod secret;
mod signals;
mod story;
