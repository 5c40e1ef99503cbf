//! Append-only verifiable logs: tiles, checkpoints, proofs (C2SP tlog-tiles).
//!
//! A [`Ledger`] is a directory. [`Ledger::append`] returns once the entry is on the disk; many callers share one
//! fsync. Entries are the leaves of a Merkle tree (RFC 6962 section 2.1), whose hashes lie beside them as tiles, so
//! that any static file server can serve the log and any C2SP client can check it:
//!
//! ```text
//! checkpoint            the last published size and root, signed (C2SP tlog-checkpoint, signed note)
//! tile/<L>/<N>[.p/<W>]  256 hashes of level 8·L, or the first W of them
//! tile/entries/<N>      256 entries, each after its length in two bytes
//! tail/<start>          what was appended last, with digests that find a torn write
//! ```
//!
//! The tail is what makes entries durable. Tiles are derived from it and are only synced when a part of the tail is
//! given up; what a crash took of them is written again from the tail when the ledger is opened.
//!
//! A checkpoint also binds the store: incarnation, revision and set digest stand in its extension lines. Who has seen
//! it notices both a log that was edited and a store that was rolled back. What was appended after the last
//! checkpoint is protected against accident, by digests, but not against somebody who can write the directory:
//! publish a checkpoint often enough, and have others keep it.

mod checkpoint;
mod continuity;
mod cosignature;
mod error;
mod ledger;
mod merkle;
mod queue;
mod replica;
mod segment;
mod tile;
mod tree;
mod verification;
mod writer;

pub use self::{
    checkpoint::{Bindings, Checkpoint, SignedCheckpoint, VerifierKey},
    continuity::Discontinuity,
    cosignature::Cosignature,
    error::LedgerError,
    ledger::{Ledger, LedgerConfig},
    merkle::{Hash, InvalidProof, leaf_hash, verify_consistency, verify_inclusion},
    replica::{Replica, replicated},
    verification::{Report, verify, verify_entries},
};

/// The longest entry, in bytes: its length stands in two (C2SP tlog-tiles, "Entry bundles").
pub const MAX_ENTRY: usize = 65_535;
