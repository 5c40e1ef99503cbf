//! Sealed secrets: encrypted offline to a policy, opened in the memory of the workload that satisfies it, with the blind help of
//! t of n keyholders.
//!
//! BBF-1, suite `BBF-V01-CS02`: the threshold key encapsulation of Boneh and Franklin on BLS12-381, with additively blinded
//! decapsulation. The hash of the exact bytes of a policy is a point Q; a key k, shared among the keyholders, has the public key
//! Y = k·G. Who seals draws r, publishes U = r·G, and encrypts under e(Y, Q)^r. Who opens draws b, and asks with A = U + b·G,
//! which tells nothing of U. Keyholder i judges the policy and answers e(A, k_i·Q). Answers of t of them, with their Lagrange
//! coefficients, are e(U + b·G, Q)^k, of which e(b·Y, Q) is taken away.
//!
//! | what | module |
//! |---|---|
//! | the groups, as types that carry their rules | [`group`] |
//! | documents: one encoding each, and signatures | [`document`] |
//! | the owner: a root of several keys, and what it delegates | [`owner`] |
//! | what is sealed to: tenant, keyset, policy, label | [`identity`] |
//! | what is sealed with | [`params`] |
//! | who the keyholders are, and what they trust | [`roster`] |
//! | what is public of the shares of an epoch | [`epoch`] |
//! | what is revoked | [`deny`] |
//! | a sealed secret, as bytes and as text | [`object`], [`armour`] |
//! | sealing and rewrapping | [`mod@seal`] |
//! | a share, and what a keyholder does with it | [`share`], [`proof`] |
//! | questions and answers; what a node says beside | [`exchange`], [`witness`] |
//! | blinding, combining, blaming, opening | [`blind`], [`opening`] |
//! | keys and shares are made, refreshed and handed on | [`ceremony`] |
//!
//! There is no I/O and no clock here: times, in seconds since 1970, and randomness are parameters. Policies are bytes: who reads
//! them is somebody else.

pub mod armour;
pub mod blind;
mod cbor;
pub mod ceremony;
pub mod deny;
pub mod document;
pub mod epoch;
pub mod exchange;
pub mod group;
pub mod identity;
mod kem;
pub mod object;
pub mod opening;
pub mod owner;
pub mod params;
mod payload;
pub mod proof;
pub mod roster;
pub mod seal;
pub mod share;
pub mod trust;
pub mod witness;

pub use kem::WRAPPED;
pub use payload::{CHUNK, MAX_PAYLOAD, MAX_SECRET};
