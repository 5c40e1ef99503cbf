//! A write that is sent twice, because its answer was lost, happens once.
//!
//! The key is the caller's own: two callers can't see or spoil each other's. It is kept for a day, in the same commit
//! as the write.

use std::{sync::Arc, time::Duration};

use bonafide_crypto::digest::{Sha256, sha256};
use bonafide_identity::time::UnixTime;
use tonic::Code;

use crate::{
    records::{self, Object, RecordChange},
    refusal::Refusal,
    state::State,
};

/// For how long a key is remembered.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Longest key.
const MAX_KEY: usize = 128;

/// The idempotency key of one request; without a key it does nothing.
#[derive(Clone, Debug)]
pub(crate) struct Idempotency {
    key: Option<Arc<str>>,
    request: [u8; 32],
}

/// What was answered the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    /// Revision of the write.
    pub(crate) revision: u64,
    /// Name of what was written.
    pub(crate) name: String,
}

impl Idempotency {
    /// `request` is its encoding, all of it; `caller` tells callers apart.
    pub(crate) fn new(caller: &str, rpc: &str, key: &str, request: &[u8]) -> Result<Self, Refusal> {
        if key.len() > MAX_KEY || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::invalid(
                "idempotency.key",
                "an idempotency key has at most 128 printable ASCII characters",
            )
            .hint("use a fresh UUID for each request"));
        }
        let stored = (!key.is_empty()).then(|| hex(&digest(&[caller.as_bytes(), key.as_bytes()])).into());
        Ok(Self { key: stored, request: digest(&[rpc.as_bytes(), request]) })
    }

    /// What the key was answered with before.
    ///
    /// # Errors
    /// It was used for another request.
    pub(crate) fn replay(&self, state: &State, now: UnixTime) -> Result<Option<Replay>, Refusal> {
        let Some(known) = self.key.as_ref().and_then(|key| state.idempotency(key)) else { return Ok(None) };
        if known.expires_at <= now.as_secs() {
            return Ok(None);
        }
        if known.request_sha256 != self.request.as_slice() {
            return Err(Refusal::new(
                Code::AlreadyExists,
                "idempotency.reused",
                "this idempotency key was used for another request",
            )
            .hint("use a fresh key for each request"));
        }
        Ok(Some(Replay { revision: known.revision, name: known.name.clone() }))
    }

    /// The change that remembers the answer.
    pub(crate) fn remember(&self, revision: u64, name: &str, now: UnixTime) -> Option<RecordChange> {
        let record = records::Idempotency {
            request_sha256: self.request.to_vec().into(),
            revision,
            name: name.to_owned(),
            expires_at: now.saturating_add(KEPT).as_secs(),
        };
        let key = self.key.clone()?;
        Some(RecordChange::Put(Object::Idempotency(key, Arc::new(record))))
    }
}

/// Of parts that can't be shifted into each other.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut whole = Sha256::new();
    for part in parts {
        whole.update(&sha256(part));
    }
    whole.finish()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
