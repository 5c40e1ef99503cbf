//! Generated protobuf of every API, and the only conversions to identity types.

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

mod problem;
mod secret;

pub use generated::{admin, agent, node, types, workload};
pub use problem::{IntoStatus, problem_of};
