//! The authority as its callers see it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "a failed test is a panic"
)]

mod admin;
mod admin_rights;
mod agents;
mod apply;
mod attacks;
mod database;
mod devices;
mod issuance;
mod kms;
mod moves;
mod peers;
mod records;
mod registry;
mod revocations;
mod rollback;
mod scope_property;
mod servers;
mod streams;
mod support;
mod tampering;
mod token;
mod upstream;
mod witnesses;
mod world;
mod x509pop;
