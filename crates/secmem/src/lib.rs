//! Protected buffers and process hardening: the only unsafe code of ours, but for the door to blst in `sealing`.

mod confine;
mod process;
mod secret;
mod slot;

pub use confine::{Confinement, Missing, defer_signals};
pub use process::{Hardening, harden_process};
pub use secret::{SecretBytes, SecretError};
pub use slot::{Protection, SLOT, SecretSlot};
