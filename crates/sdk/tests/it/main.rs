//! The SDK against a Workload API and peers, all in this process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod fake_agent;
mod foreign_clients;
mod grpc;
mod guard;
mod jwt_source;
mod keys;
mod tls;
mod x509_source;
