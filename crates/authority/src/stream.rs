//! `Connect`: one bidirectional stream for each agent.

#[allow(dead_code, reason = "the session joins it when the crates below it land")]
pub(crate) mod outbound;
