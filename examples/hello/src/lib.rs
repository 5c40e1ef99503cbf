//! The service of the example, as generated from `proto/hello.proto` by `cargo xtask codegen`.

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

pub use generated::*;
