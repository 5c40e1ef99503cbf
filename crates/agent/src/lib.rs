//! The security companion of workloads, one per node.

pub mod attestor;
mod convert;
mod core;
pub mod credential;
pub mod peer;
pub mod process;
pub mod refusal;
mod view;

pub use crate::core::LaunchKey;
