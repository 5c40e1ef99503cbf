//! The security companion of workloads, one per node.
