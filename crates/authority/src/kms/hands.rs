//! What does the work: requests to the process that holds the secrets.
//!
//! Secrets are opened when they are first needed, and forgotten when nothing may use them any more.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bonafide_crypto::erased::Erased;
use bonafide_keyring::{Dispatch, Handled, KeyringError};
use bonafide_kms::algorithm::{KeyType, Scheme};
use bonafide_kms::ciphertext::{KeyId, Kind};
use bonafide_kms::context::ContextDigest;
use bonafide_kms::engine::{
    Answer, MAX_ANSWER, MAX_ITEMS, MAX_REQUEST, Outcome, Request, decode_outcomes, encode_requests,
};
use bonafide_kms::material::Flags;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::records::KeyVersion;
use crate::refusal::Refusal;

/// Secrets that stay open.
const MAX_OPEN: usize = 8192;
/// After which a secret that could not be closed is closed.
const AGAIN: Duration = Duration::from_millis(100);
/// Bytes of a request beside what the caller gave.
const OVERHEAD: usize = 128;

/// One version of one key.
pub(crate) type Which = (KeyId, u32);

/// What is to be done, with all it needs. What is secret among it is erased when it is dropped.
pub(crate) enum Task {
    Generate { key: KeyId, version: u32, key_type: KeyType, flags: Flags },
    Import { key: KeyId, version: u32, key_type: KeyType, flags: Flags, secret: Erased },
    Open { key: KeyId, version: u32, wrapped: Bytes },
    Encrypt { handle: u32, context: ContextDigest, plaintext: Bytes },
    Decrypt { handle: u32, context: ContextDigest, kind: Kind, body: Bytes },
    Rewrap { handle: u32, to: u32, context: ContextDigest, kind: Kind, body: Bytes },
    Mac { handle: u32, message: Bytes },
    VerifyMac { handle: u32, message: Bytes, tag: Bytes },
    Sign { handle: u32, scheme: Scheme, prehashed: bool, message: Bytes },
    Verify { handle: u32, scheme: Scheme, prehashed: bool, message: Bytes, signature: Bytes },
    DataKey { handle: u32, context: ContextDigest, length: u8, plaintext: bool },
    Export { handle: u32 },
    Destroy { key: KeyId, version: u32, wrapped: Bytes },
}

/// A secret that was just made or taken in.
pub(crate) struct Born {
    pub(crate) wrapped: Bytes,
    pub(crate) public: Bytes,
}

/// Speaks to the worker. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hands {
    dispatch: Arc<Dispatch>,
    open: Arc<Mutex<HashMap<Which, u32>>>,
}

impl Task {
    fn request(&self) -> Request<'_> {
        match self {
            Self::Generate { key, version, key_type, flags } => {
                Request::Generate { key: *key, version: *version, key_type: *key_type, flags: *flags }
            }
            Self::Import { key, version, key_type, flags, secret } => {
                Request::Import { key: *key, version: *version, key_type: *key_type, flags: *flags, secret }
            }
            Self::Open { key, version, wrapped } => Request::Open { key: *key, version: *version, wrapped },
            Self::Encrypt { handle, context, plaintext } => {
                Request::Encrypt { handle: *handle, context: *context, plaintext }
            }
            Self::Decrypt { handle, context, kind, body } => {
                Request::Decrypt { handle: *handle, context: *context, kind: *kind, body }
            }
            Self::Rewrap { handle, to, context, kind, body } => {
                Request::Rewrap { handle: *handle, to: *to, context: *context, kind: *kind, body }
            }
            Self::Mac { handle, message } => Request::Mac { handle: *handle, message },
            Self::VerifyMac { handle, message, tag } => Request::VerifyMac { handle: *handle, message, tag },
            Self::Sign { handle, scheme, prehashed, message } => {
                Request::Sign { handle: *handle, scheme: *scheme, prehashed: *prehashed, message }
            }
            Self::Verify { handle, scheme, prehashed, message, signature } => Request::Verify {
                handle: *handle,
                scheme: *scheme,
                prehashed: *prehashed,
                message,
                signature,
            },
            Self::DataKey { handle, context, length, plaintext } => Request::DataKey {
                handle: *handle,
                context: *context,
                length: *length,
                plaintext: *plaintext,
            },
            Self::Export { handle } => Request::Export { handle: *handle },
            Self::Destroy { key, version, wrapped } => {
                Request::Destroy { key: *key, version: *version, wrapped }
            }
        }
    }

    /// Bytes that its answer has at most.
    fn answer_size(&self) -> usize {
        match self {
            Self::Generate { .. } | Self::Import { .. } | Self::Open { .. } | Self::Export { .. } => {
                12 * 1024
            }
            Self::VerifyMac { .. } | Self::Verify { .. } | Self::Destroy { .. } => OVERHEAD,
            Self::Encrypt { plaintext: bytes, .. }
            | Self::Decrypt { body: bytes, .. }
            | Self::Rewrap { body: bytes, .. } => bytes.len() + 4096,
            Self::Mac { .. } | Self::Sign { .. } | Self::DataKey { .. } => 6 * 1024,
        }
    }

    /// Bytes that it takes in a frame, at most.
    fn size(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Import { secret, .. } => secret.len(),
                Self::Open { wrapped, .. } | Self::Destroy { wrapped, .. } => wrapped.len(),
                Self::Encrypt { plaintext: bytes, .. }
                | Self::Decrypt { body: bytes, .. }
                | Self::Rewrap { body: bytes, .. }
                | Self::Mac { message: bytes, .. }
                | Self::Sign { message: bytes, .. } => bytes.len(),
                Self::VerifyMac { message, tag: proof, .. }
                | Self::Verify { message, signature: proof, .. } => message.len() + proof.len(),
                Self::Generate { .. } | Self::DataKey { .. } | Self::Export { .. } => 0,
            }
    }
}

impl Hands {
    pub(crate) fn new(dispatch: Dispatch) -> Self {
        Self { dispatch: Arc::new(dispatch), open: Arc::default() }
    }

    /// Does all of these, and gives their outcomes in the same order.
    pub(crate) async fn all(&self, tasks: Vec<Task>) -> Result<Vec<Outcome>, Refusal> {
        let mut asked = Vec::new();
        let mut rest = tasks.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at_checked(fitting(rest)).unwrap_or((rest, &[]));
            let requests: Vec<Request<'_>> = now.iter().map(Task::request).collect();
            asked.push((now.len(), self.ask(&requests)?));
            rest = later;
        }
        let mut outcomes = Vec::with_capacity(tasks.len());
        for (count, answer) in asked {
            let answer = answer.await.map_err(|_| gone())?.map_err(|error| unanswered(&error))?;
            outcomes.extend(decode_outcomes(&answer, count).map_err(refusal)?);
        }
        Ok(outcomes)
    }

    /// Does one.
    pub(crate) async fn one(&self, task: Task) -> Result<Answer, Refusal> {
        let outcome = self.all(vec![task]).await?.pop().ok_or_else(gone)?;
        outcome.map_err(refusal)
    }

    /// The handle of a version, which is opened if it is not.
    pub(crate) async fn open(&self, record: &KeyVersion) -> Result<u32, Refusal> {
        let id = <[u8; 16]>::try_from(record.key.as_ref()).map_err(|_| gone())?;
        let which = (KeyId::from_bytes(id), record.number);
        if let Some(handle) = lock(&self.open).get(&which) {
            return Ok(*handle);
        }
        let (hands, wrapped) = (self.clone(), record.wrapped.clone());
        finished(async move { hands.open_now(which, wrapped).await }).await
    }

    async fn open_now(&self, which: Which, wrapped: Bytes) -> Result<u32, Refusal> {
        let task = Task::Open { key: which.0, version: which.1, wrapped };
        let Answer::Opened { handle, .. } = self.one(task).await? else { return Err(gone()) };
        let mut open = lock(&self.open);
        let known = *open.entry(which).or_insert(handle);
        let mut over = Vec::new();
        if known != handle {
            // Another caller was faster.
            over.push(handle);
        }
        if open.len() > MAX_OPEN
            && let Some(other) = open.keys().find(|other| **other != which).copied()
        {
            over.extend(open.remove(&other));
        }
        drop(open);
        self.forget_handles(over);
        Ok(known)
    }

    /// Closes a version, if it is open: its secret is erased.
    pub(crate) fn forget(&self, which: &Which) {
        let handle = lock(&self.open).remove(which);
        self.forget_handles(handle.into_iter().collect());
    }

    /// Has the device destroy what an external version names.
    pub(crate) async fn destroy(&self, record: &KeyVersion) -> Result<(), Refusal> {
        let id = <[u8; 16]>::try_from(record.key.as_ref()).map_err(|_| gone())?;
        let (key, version) = (KeyId::from_bytes(id), record.number);
        self.forget(&(key, version));
        self.one(Task::Destroy { key, version, wrapped: record.wrapped.clone() }).await.map(|_| ())
    }

    /// What is open now.
    pub(crate) fn opened(&self) -> Vec<Which> {
        lock(&self.open).keys().copied().collect()
    }

    /// Draws a secret, or takes in one that was made elsewhere. It is wrapped, and closed again.
    pub(crate) async fn born(
        &self,
        which: Which,
        key_type: KeyType,
        flags: Flags,
        secret: Option<Erased>,
    ) -> Result<Born, Refusal> {
        let (key, version) = which;
        let task = match secret {
            None => Task::Generate { key, version, key_type, flags },
            Some(secret) => Task::Import { key, version, key_type, flags, secret },
        };
        let hands = self.clone();
        finished(async move {
            let Answer::Opened { handle, public, wrapped, .. } = hands.one(task).await? else {
                return Err(gone());
            };
            hands.forget_handles(vec![handle]);
            Ok(Born { wrapped: wrapped.into(), public: public.into() })
        })
        .await
    }

    /// Erases secrets. Nobody waits; what finds the queue full comes again.
    fn forget_handles(&self, handles: Vec<u32>) {
        for handle in handles {
            let hands = self.clone();
            tokio::spawn(async move {
                while let Ok(told) = hands.ask(&[Request::Forget { handle }]) {
                    match told.await {
                        Ok(Err(KeyringError::Busy)) => tokio::time::sleep(AGAIN).await,
                        _ => return,
                    }
                }
            });
        }
    }

    fn ask(&self, requests: &[Request<'_>]) -> Result<oneshot::Receiver<Handled>, Refusal> {
        let batch = encode_requests(requests).map_err(refusal)?;
        let (tell, told) = oneshot::channel();
        // Fails when the caller is gone.
        self.dispatch.submit(batch, move |answer| drop(tell.send(answer)));
        Ok(told)
    }
}

/// How many of these go into one batch: one at least.
fn fitting(tasks: &[Task]) -> usize {
    let (mut bytes, mut answers) = (0, 0);
    let fits = |task: &&Task| {
        bytes += task.size();
        answers += task.answer_size();
        bytes <= MAX_REQUEST && answers <= MAX_ANSWER
    };
    tasks.iter().take(MAX_ITEMS).take_while(fits).count().max(1)
}

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").field("open", &lock(&self.open).len()).finish_non_exhaustive()
    }
}

/// What the engine refuses, for a caller.
pub(crate) fn refusal(why: bonafide_kms::error::Refusal) -> Refusal {
    use bonafide_kms::error::Refusal as Why;
    let refusal = match why {
        Why::Ciphertext | Why::Signature | Why::Mac | Why::Import | Why::TooLong => {
            Refusal::invalid(why.code(), why.to_string())
        }
        Why::Unfit | Why::NotExportable | Why::External | Why::NoDevice => {
            Refusal::precondition(why.code(), why.to_string())
        }
        Why::Wrapped => Refusal::new(tonic::Code::DataLoss, why.code(), why.to_string()),
        _ => Refusal::unavailable(why.code(), why.to_string()),
    };
    refusal.hint(why.hint())
}

fn unanswered(error: &KeyringError) -> Refusal {
    if matches!(error, KeyringError::Busy) {
        return Refusal::unavailable("kms.busy", "more is asked of keys than this server can do")
            .hint("try again in a moment");
    }
    tracing::error!(code = error.code(), "the process that holds the keys did not answer: {error}");
    gone()
}

fn gone() -> Refusal {
    Refusal::unavailable("kms.worker", "the process that holds the keys does not answer")
        .hint("look at the authority's log; the server stops when that process is gone")
}

/// Goes on to its end when the caller gives up: what he has opened would stay open, and nobody would know of it.
async fn finished<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(gone()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
