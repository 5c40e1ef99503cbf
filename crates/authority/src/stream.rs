//! `Connect`: one bidirectional stream for each agent.

#[allow(dead_code, reason = "the service joins it when the crates below it land")]
pub(crate) mod outbound;
#[allow(dead_code, reason = "the service joins it when the crates below it land")]
pub(crate) mod session;
