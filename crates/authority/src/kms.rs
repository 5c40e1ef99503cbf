//! Keys of applications: what workloads do with them, who may, what is written down, and how keys live.
//!
//! ```text
//! gRPC, HTTP ─▶ service (who, may he, execute, write down) ─▶ hands (the worker process, which holds the secrets)
//!                  │ callers · guard · book · leasing
//! admin API ───▶ lifecycle (a change of a record, and its ledger) ◀── schedule
//! ```
//!
//! Every server of a trust domain holds the same keys: their secrets lie in the store, wrapped by the keyring that all
//! servers share, and are opened in each server's own worker. Nothing here sees a secret, except data keys on their way to whoever
//! asked for them.

pub(crate) mod book;
pub(crate) mod callers;
pub(crate) mod described;
pub(crate) mod ends;
pub(crate) mod grpc;
pub(crate) mod guard;
pub(crate) mod hands;
pub(crate) mod leases;
pub(crate) mod leasing;
pub(crate) mod lifecycle;
mod name;
mod record;
pub(crate) mod schedule;
pub(crate) mod service;

pub use self::record::KeyRecord;
