//! Listeners, limits, drain, health, telemetry.
//!
//! - [`unix`]: the socket on which workloads meet their agent, and operators their authority. The caller is what the
//!   kernel says it is.
//! - [`http`]: gRPC and HTTP/1.1 on one listener, with limits on everything that a peer can make us hold.
//! - [`drain`]: one token that tells every part of a process to finish.

pub mod drain;
pub mod http;
pub mod unix;
