//! Attacks and good variants, as tables.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod attributes;
mod bundle;
mod certificate;
mod forge;
mod id;
mod jwt;
mod pattern;
mod x509;
