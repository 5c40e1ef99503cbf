//! Listeners, limits, drain, health, telemetry.
//!
//! - [`unix`]: the socket on which workloads meet their agent, and operators their authority. The caller is what the
//!   kernel says it is.
//! - [`http`]: gRPC and HTTP/1.1 on one listener, with limits on everything that a peer can make us hold.
//! - [`tls_listener`]: the port on which servers and agents speak to each other.
//! - [`drain`]: one token that tells every part of a process to finish.
//! - [`runtime`]: the threads on which all of that runs.
//! - [`telemetry`]: the logs of a process.

pub mod drain;
pub mod http;
pub mod runtime;
pub mod telemetry;
pub mod tls_listener;
pub mod unix;
