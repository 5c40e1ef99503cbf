//! Five keyholders over mutual TLS, from the first key to the refresh, and a client that opens a secret.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod opening;
#[path = "../support/owner.rs"]
mod owner;
mod ring;
