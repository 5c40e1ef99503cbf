//! What is attested of a workload, and which registrations that earns: selectors, the subset matcher, ID templates,
//! registrations in typed form, the lineage transcript, and the join line of a new node.

pub mod join;
pub mod lineage;
pub mod matcher;
pub mod registration;
mod selector;
pub mod template;

pub use selector::{MAX_KEY, MAX_SET, MAX_VALUE, PEER_KEY, Selector, SelectorError, SelectorSet};
