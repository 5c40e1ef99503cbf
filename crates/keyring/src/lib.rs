//! Seals, root key, wrapping keys and wrapped keys.
//!
//! A *seal* wraps the root key: a key file, a passphrase, a device. There may be several, each with a name; any one of them
//! opens it ([`change_seals`]). The root key encrypts the *keyring*, a small
//! file with the versions of the wrapping key and one more secret. The newest version wraps; every version unwraps.
//!
//! ```text
//! seals ── root key ── keyring ─┬─ wrapping key, version 1 … n ── wrapped private keys, in the store
//!                               └─ MAC secret ── MAC keys by purpose, of the store's rows
//! ```
//!
//! The MAC secret is never rotated: every row of the store is authenticated under a key that is derived from it, and
//! rows that were written years ago must still verify. It encrypts nothing, so there is no volume of ciphertext that
//! would wear it out. Who learns it can forge rows of the store; the answer to that is a new keyring and a new store.
//!
//! Live private keys are reached through [`LiveKeys`]. A server lets a [`Worker`] hold them: a process of its own, which
//! unseals the keyring by itself, has no network, and answers to its parent alone. What reaches the server are
//! signatures, wrapped keys, and the MAC keys of its store. [`LocalKeys`] is the same in one process.
//!
//! Other secrets can live in that process too, with code of their own: a [`Handler`] is a function of bytes with the keyring at
//! hand, limited to what it has wrapped itself. [`Dispatch`] gathers what many callers ask it.
//!
//! What this protects: a copy of the data directory without the seal's secret holds no key. What it does not: a key
//! file that lies beside the data is copied with it, and who is root reads the worker's memory too. An attacker in the server's process can have anything
//! signed while he is there; he can't take the key along.

mod access;
mod codec;
#[cfg_attr(not(feature = "pkcs11"), path = "device/absent.rs")]
mod device;
mod dispatch;
mod error;
mod file;
mod handler;
mod keyring;
mod live;
mod seal;
mod sealed;
mod seals;
mod worker;

pub use self::{
    access::DeviceAccess,
    device::{Device, DeviceConfig, ExternalKey},
    dispatch::{Dispatch, Handled},
    error::KeyringError,
    handler::{Handler, MAX_HANDLED, Wrapping},
    keyring::{Keyring, Opened},
    live::{KeySpec, LiveKeys, LocalKeys, NewKey},
    seal::{KeyFileSeal, PassphraseCost, PassphraseSeal, Seal, SealSource},
    seals::{SealChange, SealName, SealState, Seals, change_seals, inspect_seals},
    worker::{Unsealed, Worker, WorkerProgram, serve_worker, serve_worker_with},
};
