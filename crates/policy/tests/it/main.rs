//! The language as its users see it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod analysis;
mod canonical;
mod decide;
mod generate;
mod oracle;
mod page;
mod read;
mod rego;
mod secret;
