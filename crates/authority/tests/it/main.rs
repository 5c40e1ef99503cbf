//! The authority as its callers see it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod admin;
mod admin_rights;
mod records;
mod registry;
mod scope_property;
mod support;
mod token;
