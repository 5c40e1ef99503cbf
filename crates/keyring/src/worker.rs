//! A process for live keys.
//!
//! The parent starts it, usually from its own program, with one end of a socket pair as standard input: the *lifeline*.
//! The first message on it carries the *lanes*, a socket pair for each thread that signs. When the lifeline ends, so
//! does the worker, whatever it does; and what is gone on either side is never restarted in silence.
//!
//! On a lane there is one request at a time, and one answer to each. Both are frames: a length, then a [`message`].
//! A signing thread sends all that it has to sign in one frame, so that neither the socket nor the switch between the
//! processes shows beside the signatures.
//!
//! A worker that is to look after the seals of a keyring, and to change them, is another one, which opens no keyring and ends
//! after its answer: the one that signs can open no file any more, and is not disturbed.
//!
//! There is no request that yields a private key, the root key, or a wrapping key. A [`Handler`](crate::Handler) answers
//! requests of its own; what the keyring holds for others is out of its reach.

mod client;
mod frame;
mod message;
mod server;

pub use client::{Unsealed, Worker, WorkerProgram};
pub use server::{serve_worker, serve_worker_with};

/// Both sides must speak the same one: they are one program.
const PROTOCOL: u8 = 2;
/// Lanes, and so threads of the worker.
const MAX_LANES: usize = 64;
