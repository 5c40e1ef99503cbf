//! Keys of applications, through what this crate shows: as the authority, an agent and an attacker use it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod engine;
mod external;
mod key;
mod lease;
mod messages;
mod vectors;
mod xaes;

use std::sync::Arc;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::random::SystemRandom;
use bonafide_kms::algorithm::KeyType;
use bonafide_kms::ciphertext::KeyId;
use bonafide_kms::context::{Context, ContextDigest};
use bonafide_kms::engine::{Answer, Engine, Request, Wrapping};
use bonafide_kms::error::Refusal;
use bonafide_kms::material::Flags;

/// A keyring that hides nothing, and still tells contexts apart.
pub(crate) struct Glass;

impl Wrapping for Glass {
    fn wrap(&self, context: &str, secret: &[u8]) -> Option<Vec<u8>> {
        Some([context.as_bytes(), b"\0", secret].concat())
    }

    fn unwrap(&self, context: &str, wrapped: &[u8]) -> Option<Erased> {
        let secret = wrapped.strip_prefix(context.as_bytes())?.strip_prefix(b"\0")?;
        Some(Erased::new(secret.to_vec()))
    }
}

pub(crate) const KEY: KeyId = KeyId::from_bytes([7; 16]);
pub(crate) const EXPORTABLE: Flags = Flags { exportable: true, convergent: false, external: false };

pub(crate) fn engine() -> Engine {
    Engine::new(Arc::new(SystemRandom))
}

pub(crate) fn context(pairs: &[(&str, &str)]) -> ContextDigest {
    Context::new(pairs.iter().copied()).unwrap().digest()
}

pub(crate) fn none() -> ContextDigest {
    Context::default().digest()
}

pub(crate) fn generate(engine: &Engine, version: u32, key_type: KeyType, flags: Flags) -> (u32, Vec<u8>) {
    opened(engine.one(&Glass, &Request::Generate { key: KEY, version, key_type, flags }).unwrap())
}

pub(crate) fn import(engine: &Engine, key_type: KeyType, secret: &[u8]) -> Result<u32, Refusal> {
    let request = Request::Import { key: KEY, version: 1, key_type, flags: EXPORTABLE, secret };
    engine.one(&Glass, &request).map(|answer| opened(answer).0)
}

/// Handle and wrapped secret.
pub(crate) fn opened(answer: Answer) -> (u32, Vec<u8>) {
    match answer {
        Answer::Opened { handle, wrapped, .. } => (handle, wrapped),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn bytes(answer: Answer) -> Vec<u8> {
    match answer {
        Answer::Bytes(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}
