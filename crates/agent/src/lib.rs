//! The security companion of workloads, one per node.
//!
//! - [`process`], [`peer`]: who is on the socket. A pidfd, never a bare process number.
//! - [`attestor`]: what is known of that process.
//! - `view`, `core`: what the authority has told, and who holds which SVID; state machines without I/O.
//! - `engine`, `link`, `storage`: their surroundings.
//! - `keys`: what is leased of applications' keys, for the instances of this node and for their processes.
//! - `api`: SPIFFE Workload API, the agent's own service, and the same as JSON.
//!
//! # What a compromise gives
//!
//! Whoever is root on the node, or in the agent, has every identity that the node may host, now and until
//! the authority bans the agent; never one outside of its site's scope. Whoever has a workload's user on
//! the node can take over that workload's process, and so its identity, without the agent's help.

mod addresses;
mod agent;
mod api;
pub mod attestor;
mod config;
mod convert;
mod core;
pub mod credential;
mod decisions;
mod engine;
mod guard;
mod keys;
mod link;
pub mod peer;
pub mod process;
pub mod refusal;
#[cfg(feature = "simulation")]
pub mod simulation;
mod storage;
#[cfg(test)]
mod testing;
mod view;
mod witness;
mod x509pop;

pub use crate::{
    agent::{Agent, AgentError, Running},
    config::{AgentConfig, AgentLimits},
    core::LaunchKey,
    storage::StorageError,
    x509pop::{JoinByCertificate, KeyFiles, X509PopError},
};
