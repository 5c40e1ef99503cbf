//! What is attested of a workload, and which registrations that earns: selectors, the subset matcher, ID templates,
//! registrations in typed form, the lineage transcript, what control groups say, and how a new node joins.

pub mod catalog;
pub mod cgroup;
pub mod join;
pub mod lineage;
pub mod matcher;
pub mod registration;
mod selector;
pub mod template;
pub mod x509pop;

pub use selector::{MAX_KEY, MAX_SET, MAX_VALUE, PEER_KEY, Selector, SelectorError, SelectorSet};
