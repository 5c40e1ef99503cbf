//! Many virtual agents in one process, against one authority: what does the authority pay for them?
//!
//! Nothing on the line is pretended. Each agent joins with a token of its own, has a mutual TLS connection and a stream
//! of its own, keeps the registrations that it is sent and acknowledges them with their digest. Each workload has a key
//! and an instance; its SVIDs are renewed with lineage, when the authority said. What is virtual is the node below: no
//! process is attested, no socket is served, and nothing is stored.
//!
//! It knows the wire and no role, so the command line and the benchmarks use it alike, against an authority in any
//! process.

mod agent;
mod fleet;
mod line;
mod meter;
mod plan;
mod process;
mod tally;
mod workload;

pub use fleet::{Fleet, FleetError, Progress};
pub use meter::Traffic;
pub use plan::Plan;
pub use process::{Process, Usage};
pub use tally::{Latencies, Outcome, Tally};
