//! `Connect`: one bidirectional stream for each agent.

pub(crate) mod driver;
pub(crate) mod feed;
pub(crate) mod outbound;
pub(crate) mod places;
pub(crate) mod policies;
pub(crate) mod revoked;
pub(crate) mod session;
