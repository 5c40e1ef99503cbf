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

pub mod config;
mod issuance;
pub mod rates;
mod stream;

pub use config::{AuthorityConfig, ConfigError};
pub use generated::entry;
