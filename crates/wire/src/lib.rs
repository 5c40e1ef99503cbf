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

mod codec;
mod problem;
mod revocation;
mod secret;

pub use generated::{admin, agent, external_auth, keyholder, kms, node, types, workload};
pub use problem::{IntoStatus, problem_of};
pub use revocation::{
    REVOCATIONS_PART, apply_revocations, from_revocation, from_subject, to_revocation, to_subject,
};
