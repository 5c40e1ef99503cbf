//! Sealed secrets, through what this crate shows: as an owner, a client, a keyholder and attackers use it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod attacks;
mod blame;
mod ceremony;
mod cluster;
mod formats;
mod group;
mod reference;
mod seal;
mod trust;
mod vectors;
mod world;
