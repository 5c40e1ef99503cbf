//! The keyholder role: one share of a sealing key, blind answers, ceremonies.
//!
//! ```text
//! callers, other keyholders ══ mutual TLS ══ server ── socket pair ── share's process
//!                                              │                       documents, policy, deny-list, rate,
//!                                         files, ledger                share, ceremonies, signatures
//! ```
//!
//! Two processes. The server ([`Keyholder`]) speaks TLS, writes files and the ledger, and carries messages between keyholders. The
//! share's process ([`share_handler`]) has neither network nor files; it verifies callers by the anchors of the roster, and evaluates
//! the very policy bytes that the answer is about. So the server is no oracle: with all of it, an attacker has no more than a
//! network in the middle: he can refuse, delay, and bring back an old state of the disk.
//!
//! What a copy of the data directory gives: nothing without the seal's secret; with it, the share of the epochs whose seal keys are
//! in it. Keep the seal elsewhere, and take no snapshots of the disk: they undo the erasure that a refresh is for.

mod audit;
mod config;
mod disk;
mod error;
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated code"
)]
mod generated;
mod holder;
mod judge;
#[cfg(test)]
#[path = "../tests/support/owner.rs"]
mod owner;
mod peers;
mod server;
mod service;
mod share;
mod svid;
mod trust;
mod worker;

pub use config::{ConfigError, KeyholderConfig, SealConfig, SvidFiles};
pub use error::Refusal;
pub use judge::caller_message;
pub use server::{Keyholder, Running};
pub use worker::share_handler;
