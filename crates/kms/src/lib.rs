//! Keys of applications: what they can do, what their ciphertexts look like, and the life of their versions.
//!
//! | what | module |
//! |---|---|
//! | kinds of keys, and what can be done with each | [`algorithm`] |
//! | what a ciphertext is bound to, beside its key | [`context`] |
//! | a key and its versions: a state machine | [`key`] |
//! | the bytes of ciphertexts, signatures and MACs | [`ciphertext`] |
//! | the secret of one version, and every operation | [`material`] |
//! | encryption in the caller's own process, with a data key | [`envelope`] |
//! | what the process does that holds the secrets | [`engine`] |
//! | data keys that are lent for a time: the borrower's state machine | [`lease`] |
//!
//! There is no I/O and no clock here: times, randomness, and what wraps secrets are parameters. Times of keys are whole
//! seconds since 1970-01-01T00:00:00Z; times of leases are [`std::time::Duration`]s since a moment of the caller's choice.

pub mod algorithm;
pub mod ciphertext;
mod codec;
pub mod context;
pub mod engine;
pub mod envelope;
pub mod error;
pub mod key;
pub mod lease;
pub mod material;
