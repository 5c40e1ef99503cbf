//! The security companion of workloads, one per node.

pub mod attestor;
pub mod peer;
pub mod process;
pub mod refusal;
