//! The control plane: registration, sites, issuance, agent streams, bundles, admin API.

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

pub mod admin;
pub mod audit;
pub mod certified;
pub mod config;
mod convert;
mod idempotency;
mod issuance;
mod journal;
pub mod keys;
pub mod kms;
mod lease;
pub mod node;
pub mod policy;
pub mod presence;
pub mod rates;
pub mod records;
mod refusal;
pub mod registration;
pub mod registry;
pub mod scope;
mod seals;
pub mod server;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod site;
pub mod state;
mod stream;
pub mod token;
mod vault;
mod witnesses;

pub use config::{AuthorityConfig, ConfigError};
pub use generated::{entry, key_entry};
pub use refusal::Refusal;
pub use server::{Authority, Running, StartError};
