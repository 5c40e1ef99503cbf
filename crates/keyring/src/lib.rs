//! Seals, root key, wrapping keys and wrapped keys.
//!
//! A *seal* wraps the root key: a key file, a passphrase, later a device. The root key encrypts the *keyring*, a small
//! file with the versions of the wrapping key and one more secret. The newest version wraps; every version unwraps.
//!
//! ```text
//! seal ── root key ── keyring ─┬─ wrapping key, version 1 … n ── wrapped private keys, in the store
//!                              └─ MAC secret ── MAC keys by purpose, of the store's rows
//! ```
//!
//! The MAC secret is never rotated: every row of the store is authenticated under a key that is derived from it, and
//! rows that were written years ago must still verify. It encrypts nothing, so there is no volume of ciphertext that
//! would wear it out. Who learns it can forge rows of the store; the answer to that is a new keyring and a new store.
//!
//! What this protects: a copy of the data directory without the seal's secret holds no key. What it does not: a key
//! file that lies beside the data is copied with it, and live keys are in the memory of the process that opened them.

mod codec;
mod error;
mod file;
mod keyring;
mod seal;

pub use self::{
    error::KeyringError,
    keyring::Keyring,
    seal::{KeyFileSeal, PassphraseCost, PassphraseSeal, Seal},
};
