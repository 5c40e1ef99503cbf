//! What is done with keys: who asks, may he, do it, write it down, answer. Whatever protocol asked: no gRPC is in here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::random::Random;
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_kms::algorithm::{KeyType, Operation, Scheme};
use bonafide_kms::ciphertext::{self, Ciphertext, Header, Kind};
use bonafide_kms::context::{Context, ContextDigest};
use bonafide_kms::engine::{Answer, Outcome};
use bonafide_kms::error::Refusal as EngineRefusal;
use bonafide_kms::key::KeyError;
use bonafide_policy::AssertedProps;
use bytes::Bytes;

use super::book::Book;
use super::callers::Caller;
use super::ends::{Ending, Ends};
use super::guard::{Ask, Denied, Guard};
use super::hands::{self, Hands, Task};
use super::leases::Leases;
use super::record::KeyRecord;
use crate::key_entry::{self, key_entry::Kind as EntryKind, operation};
use crate::records::KeyVersion;
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::state::State;

/// Items of one call, and bytes of all of them.
pub(crate) const MAX_ITEMS: usize = 256;
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Random bytes of one call.
const MAX_RANDOM: usize = 64 * 1024;
/// A server counts as current for so long after it has looked, whatever a key says: it looks every half minute.
const LEAST_STALE: Duration = Duration::from_secs(60);

/// Keys, as callers use them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Service(Arc<Parts>);

/// What it is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) registry: Registry,
    pub(crate) guard: Guard,
    pub(crate) hands: Hands,
    pub(crate) book: Arc<Book>,
    pub(crate) ends: Arc<Ends>,
    pub(crate) leases: Mutex<Leases>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
}

/// One item of a call.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) what: What,
    /// What the caller says of it, in any order.
    pub(crate) context: BTreeMap<String, String>,
}

/// What is to be done. A version that is not named is the primary one.
pub(crate) enum What {
    Encrypt { plaintext: Bytes, version: Option<u32> },
    Decrypt { ciphertext: Bytes },
    Rewrap { ciphertext: Bytes, version: Option<u32> },
    Mac { message: Bytes, version: Option<u32> },
    VerifyMac { message: Bytes, mac: Bytes },
    Sign { message: Bytes, prehashed: bool, scheme: Option<Scheme>, version: Option<u32> },
    Verify { message: Bytes, prehashed: bool, signature: Bytes },
    DataKey { bytes: u8, wrapped_only: bool, version: Option<u32> },
    PublicKey { version: Option<u32> },
    Fetch { version: Option<u32> },
}

/// What became of an item. All bytes are whole: with their headers.
pub(crate) enum Done {
    Ciphertext { bytes: Vec<u8>, version: u32 },
    Plaintext { bytes: Erased, version: u32 },
    Mac { bytes: Vec<u8>, version: u32 },
    Signature { bytes: Vec<u8>, raw: Vec<u8>, scheme: Scheme, version: u32 },
    Verified { valid: bool, version: u32 },
    DataKey { plaintext: Option<Erased>, wrapped: Vec<u8>, version: u32 },
    PublicKey { spki: Bytes, key_type: KeyType, version: u32 },
    Material { bytes: Erased, key_type: KeyType, version: u32 },
}

/// An item that may be executed.
struct Ready<'a> {
    what: &'a What,
    digest: ContextDigest,
    /// Under which it is, or shall be.
    version: Arc<KeyVersion>,
    /// To which it is rewrapped.
    to: Option<Arc<KeyVersion>>,
    header: Header,
    /// Of what is decrypted or checked.
    body: Bytes,
    scheme: Option<Scheme>,
    by: String,
}

/// What policies say about items that are alike.
#[derive(Clone)]
struct Judged<'a> {
    about: (Operation, Option<Scheme>, &'a BTreeMap<String, String>),
    digest: ContextDigest,
    decided: Result<String, Denied>,
}

/// Why an item is not executed.
enum Stopped {
    Denied(Denied),
    Refused(Refusal),
}

type Results = Vec<Result<Done, Refusal>>;

impl What {
    pub(crate) const fn operation(&self) -> Operation {
        match self {
            Self::Encrypt { .. } => Operation::Encrypt,
            Self::Decrypt { .. } => Operation::Decrypt,
            Self::Rewrap { .. } => Operation::Rewrap,
            Self::Mac { .. } => Operation::Mac,
            Self::VerifyMac { .. } => Operation::VerifyMac,
            Self::Sign { .. } => Operation::Sign,
            Self::Verify { .. } => Operation::Verify,
            Self::DataKey { .. } => Operation::DataKey,
            Self::PublicKey { .. } => Operation::PublicKey,
            Self::Fetch { .. } => Operation::Fetch,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Encrypt { plaintext: bytes, .. }
            | Self::Decrypt { ciphertext: bytes }
            | Self::Rewrap { ciphertext: bytes, .. }
            | Self::Mac { message: bytes, .. }
            | Self::Sign { message: bytes, .. } => bytes.len(),
            Self::VerifyMac { message, mac: proof } | Self::Verify { message, signature: proof, .. } => {
                message.len() + proof.len()
            }
            Self::DataKey { .. } | Self::PublicKey { .. } | Self::Fetch { .. } => 0,
        }
    }
}

/// The action that policies know an operation by.
pub(crate) const fn action(operation: Operation) -> &'static str {
    match operation {
        // What leaves is the key and not something that it made; policies have always called it so.
        Operation::Fetch => "fetch-key",
        other => other.as_str(),
    }
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Word for a stream of `agent` that leases are over.
    pub(crate) fn endings(&self, agent: &bonafide_identity::SpiffeId) -> Ending {
        self.0.ends.subscribe(agent)
    }

    /// What does the work.
    pub(crate) fn hands(&self) -> &Hands {
        &self.0.hands
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0
    }

    /// A key by its name, for a caller of a site that may know it: what a protocol must know of it to read a request.
    pub(crate) fn named(&self, caller: &Caller, name: &str) -> Option<Arc<KeyRecord>> {
        let state = self.parts().registry.state();
        state.key(name).filter(|record| record.is_for_site(caller.site())).cloned()
    }

    /// Does the items of one call, all with one key, and gives their results in the same order.
    ///
    /// # Errors
    /// A key that there is not, for this caller; more than one call may have; a server that does not know what holds; a ledger
    /// that can't be written. Nothing is given out then.
    pub(crate) async fn execute(
        &self,
        caller: &Caller,
        key: &str,
        items: &[Item],
    ) -> Result<Results, Refusal> {
        bound(items)?;
        let parts = self.parts();
        let now = parts.clock.now();
        let operation = items.first().map_or(Operation::Random, |item| item.what.operation());
        let (record, ready) = {
            let state = parts.registry.state();
            caller.check(&state, now)?;
            let record = self.key_for(&state, caller, key, action(operation), now)?;
            let ready = self.prepare(&state, &record, caller, items, now)?;
            (record, ready)
        };
        self.note_denied(caller, key, operation, &ready, now);
        let may_go_on = ready.iter().any(Result::is_ok);
        let number = parts.book.number();
        if may_go_on && record.key.audit_sync {
            let entry = self.entry(caller, &record, operation, number, &ready, None);
            parts.book.append(now, vec![entry]).await?;
        }
        let outcomes = if may_go_on { self.carry_out(&record, &ready).await? } else { Vec::new() };
        let mut outcomes = outcomes.into_iter();
        let results: Results = ready
            .iter()
            .map(|item| match item {
                Ok(item) => finish(item, outcomes.next().unwrap_or(Err(EngineRefusal::Library))),
                Err(Stopped::Denied(denied)) => Err(denied.refusal(action(operation), key)),
                Err(Stopped::Refused(refusal)) => Err(refusal.clone()),
            })
            .collect();
        if may_go_on {
            let entry = self.entry(caller, &record, operation, number, &ready, Some(&results));
            parts.book.append(now, vec![entry]).await?;
        }
        Ok(results)
    }

    /// Random bytes, for every workload of the trust domain.
    ///
    /// # Errors
    /// A caller whose SVID does not count any more; more than 64 KiB.
    pub(crate) fn random(&self, caller: &Caller, length: usize) -> Result<Erased, Refusal> {
        let parts = self.parts();
        caller.check(&parts.registry.state(), parts.clock.now())?;
        if length == 0 || length > MAX_RANDOM {
            return Err(Refusal::invalid(
                "kms.random-length",
                "between 1 and 65536 random bytes can be had at once",
            )
            .hint("ask several times"));
        }
        let mut bytes = Erased::new(vec![0; length]);
        parts.random.fill(&mut bytes);
        Ok(bytes)
    }

    /// The versions of a key that may be used, for a call that is about all of them.
    ///
    /// # Errors
    /// As for a key that there is not.
    pub(crate) fn usable_versions(
        &self,
        caller: &Caller,
        key: &str,
        operation: Operation,
    ) -> Result<Vec<u32>, Refusal> {
        let parts = self.parts();
        let record =
            self.key_for(&parts.registry.state(), caller, key, action(operation), parts.clock.now())?;
        let versions = record.key.versions.keys().copied();
        Ok(versions.filter(|number| record.key.version_for(operation, Some(*number)).is_ok()).collect())
    }

    /// A key by its name, for a caller of a site that may know it.
    pub(super) fn key_for(
        &self,
        state: &State,
        caller: &Caller,
        name: &str,
        action: &str,
        now: UnixTime,
    ) -> Result<Arc<KeyRecord>, Refusal> {
        let denied = match state.key(name) {
            Some(record) if record.is_for_site(caller.site()) => return Ok(Arc::clone(record)),
            Some(_) => Denied::because("kms.other-site"),
            None => Denied::because("kms.unknown-key"),
        };
        self.0.book.refused(now, &caller.actor(), action, name, &denied);
        Err(denied.refusal(action, name))
    }

    /// When this server last knew that nothing else holds than what it knows.
    ///
    /// # Errors
    /// `kms.stale`, if that is too long ago for this key.
    pub(super) fn current_at(&self, record: &KeyRecord, now: UnixTime) -> Result<UnixTime, Refusal> {
        let ago = self.0.registry.unread_for();
        if ago > record.key.max_stale.max(LEAST_STALE) {
            return Err(Refusal::unavailable(
                "kms.stale",
                format!("this server has not reached its store for {} s, so it can't know who may still use the key", ago.as_secs()),
            )
            .hint("ask another server; it passes when the store is reachable again"));
        }
        Ok(now.saturating_sub(ago))
    }

    fn prepare<'a>(
        &self,
        state: &State,
        record: &KeyRecord,
        caller: &Caller,
        items: &'a [Item],
        now: UnixTime,
    ) -> Result<Vec<Result<Ready<'a>, Stopped>>, Refusal> {
        let current_at = self.current_at(record, now)?;
        // Items of one call mostly have one context.
        let mut last: Option<Judged<'_>> = None;
        let prepared = items.iter().map(|item| {
            let about = (item.what.operation(), scheme(&item.what, record.key.key_type), &item.context);
            let judged = match &last {
                Some(judged) if judged.about == about => judged.clone(),
                _ => {
                    let (digest, props) = read_context(&item.context).map_err(Stopped::Refused)?;
                    let (operation, scheme, _) = about;
                    let algorithm = scheme.map(Scheme::as_str);
                    let ask = Ask { action: action(operation), context: &props, algorithm };
                    let decided = self.0.guard.decide(state, record, caller, ask, now, current_at);
                    last.insert(Judged { about, digest, decided }).clone()
                }
            };
            let by = judged.decided.map_err(Stopped::Denied)?;
            ready(state, record, &item.what, about.1, judged.digest, by).map_err(Stopped::Refused)
        });
        Ok(prepared.collect())
    }

    /// Executes what is ready, in order. Tried twice: a version may be closed in between.
    async fn carry_out(
        &self,
        record: &KeyRecord,
        ready: &[Result<Ready<'_>, Stopped>],
    ) -> Result<Vec<Outcome>, Refusal> {
        let mut outcomes = Vec::new();
        for _ in 0..2 {
            outcomes = self.try_once(ready).await?;
            if !outcomes.iter().any(|outcome| matches!(outcome, Err(EngineRefusal::NoHandle))) {
                break;
            }
            for item in ready.iter().flatten() {
                self.0.hands.forget(&(record.key.id, item.version.number));
            }
        }
        Ok(outcomes)
    }

    async fn try_once(&self, ready: &[Result<Ready<'_>, Stopped>]) -> Result<Vec<Outcome>, Refusal> {
        let mut handles: BTreeMap<u32, u32> = BTreeMap::new();
        let mut tasks = Vec::new();
        let mut places = Vec::new();
        for item in ready.iter().flatten() {
            if matches!(item.what, What::PublicKey { .. }) {
                places.push(false);
                continue;
            }
            for version in std::iter::once(&item.version).chain(&item.to) {
                if let Entry::Vacant(place) = handles.entry(version.number) {
                    place.insert(self.0.hands.open(version).await?);
                    // It may have been destroyed since this call has looked.
                    let id = item.header.key;
                    if self.0.registry.state().key_version(id.as_bytes(), version.number).is_none() {
                        self.0.hands.forget(&(id, version.number));
                    }
                }
            }
            let handle = handles.get(&item.version.number).copied().unwrap_or_default();
            let to = item.to.as_ref().and_then(|to| handles.get(&to.number)).copied().unwrap_or_default();
            tasks.push(task(item, handle, to));
            places.push(true);
        }
        let mut outcomes = self.0.hands.all(tasks).await?.into_iter();
        Ok(places
            .into_iter()
            .map(|executed| {
                if executed {
                    outcomes.next().unwrap_or(Err(EngineRefusal::Library))
                } else {
                    Ok(Answer::Done)
                }
            })
            .collect())
    }

    fn note_denied(
        &self,
        caller: &Caller,
        key: &str,
        operation: Operation,
        ready: &[Result<Ready<'_>, Stopped>],
        now: UnixTime,
    ) {
        let denied = ready.iter().find_map(|item| match item {
            Err(Stopped::Denied(denied)) => Some(denied),
            _ => None,
        });
        if let Some(denied) = denied {
            self.0.book.refused(now, &caller.actor(), action(operation), key, denied);
        }
    }

    /// What is written down: before it is executed without results, and then with them.
    fn entry(
        &self,
        caller: &Caller,
        record: &KeyRecord,
        operation: Operation,
        number: u64,
        ready: &[Result<Ready<'_>, Stopped>],
        results: Option<&Results>,
    ) -> EntryKind {
        let mut counts: BTreeMap<(u32, Bytes, String), u32> = BTreeMap::new();
        for (index, item) in ready.iter().enumerate() {
            let outcome = match (item, results.and_then(|results| results.get(index))) {
                (Err(Stopped::Denied(denied)), _) => denied.code.to_owned(),
                (Err(Stopped::Refused(refusal)), _) | (Ok(_), Some(Err(refusal))) => {
                    refusal.code().to_owned()
                }
                (Ok(_), Some(Ok(Done::Verified { valid: false, .. }))) => "kms.mismatch".to_owned(),
                (Ok(_), _) => String::new(),
            };
            let (version, context) = item.as_ref().map_or((0, Bytes::new()), |item| {
                (
                    item.to.as_ref().unwrap_or(&item.version).number,
                    Bytes::copy_from_slice(item.digest.as_bytes()),
                )
            });
            *counts.entry((version, context, outcome)).or_default() += 1;
        }
        let items = counts.into_iter().map(|((version, context_sha256, outcome), count)| operation::Items {
            count,
            version,
            context_sha256,
            outcome,
        });
        let stage = if results.is_some() { operation::Stage::Done } else { operation::Stage::Intent };
        EntryKind::Operation(key_entry::Operation {
            actor: Some(caller.actor()),
            operation: action(operation).to_owned(),
            key: record.name().to_owned(),
            key_id: Bytes::copy_from_slice(record.id()),
            items: items.collect(),
            stage: stage.into(),
            number,
            by: ready.iter().flatten().next().map(|item| item.by.clone()).unwrap_or_default(),
        })
    }

    pub(super) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.0.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a call is not too large.
fn bound(items: &[Item]) -> Result<(), Refusal> {
    let bytes: usize = items.iter().map(|item| item.what.size()).sum();
    if items.is_empty() || items.len() > MAX_ITEMS || bytes > MAX_BYTES {
        return Err(Refusal::invalid("kms.batch", "a call has 1 to 256 items, and at most 4 MiB")
            .hint("make several calls of it"));
    }
    Ok(())
}

/// A context, as ciphertexts are bound to it and as policies see it.
pub(super) fn read_context(
    context: &BTreeMap<String, String>,
) -> Result<(ContextDigest, AssertedProps), Refusal> {
    let canonical = Context::new(context.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .map_err(|error| Refusal::invalid(error.code(), error.to_string()).hint(error.hint()))?;
    // What policies can't see must not be bound: nobody could forbid it.
    let props = AssertedProps::new(context.iter()).map_err(|fault| {
        Refusal::invalid("kms.context-unfit", format!("the context can't be shown to policies: {fault}"))
            .hint(fault.hint())
    })?;
    Ok((canonical.digest(), props))
}

/// What a key may not do at the moment, for a caller.
pub(crate) fn key_refusal(error: &KeyError) -> Refusal {
    Refusal::precondition(error.code(), error.to_string()).hint(error.hint())
}

/// How it is to be signed, if it is.
fn scheme(what: &What, key_type: KeyType) -> Option<Scheme> {
    match what {
        What::Sign { scheme, .. } => scheme.or(key_type.default_scheme()),
        What::Verify { signature, .. } => Ciphertext::decode(signature)
            .ok()
            .and_then(|signature| signature.signature())
            .map(|(scheme, _)| scheme),
        _ => None,
    }
}

/// Checks an item against the key's state.
fn ready<'a>(
    state: &State,
    record: &KeyRecord,
    what: &'a What,
    scheme: Option<Scheme>,
    digest: ContextDigest,
    by: String,
) -> Result<Ready<'a>, Refusal> {
    let key = &record.key;
    let operation = what.operation();
    let may = |operation, asked| key.version_for(operation, asked).map_err(|error| key_refusal(&error));
    let material = |number: u32| {
        let version = state.key_version(record.id(), number).cloned();
        version.ok_or_else(|| {
            Refusal::new(
                tonic::Code::DataLoss,
                "kms.no-material",
                format!("the secret of version {number} is missing"),
            )
            .hint("restore the store from a backup")
        })
    };
    // What was made by a key names it: another one's is refused before anything is tried.
    let given = match what {
        What::Decrypt { ciphertext: bytes } | What::Rewrap { ciphertext: bytes, .. } => {
            Some((bytes, [Kind::Direct, Kind::Envelope, Kind::DataKey].as_slice()))
        }
        What::VerifyMac { mac: bytes, .. } => Some((bytes, [Kind::Mac].as_slice())),
        What::Verify { signature: bytes, .. } => Some((bytes, [Kind::Signature].as_slice())),
        _ => None,
    };
    let (header, body) = match given {
        Some((bytes, kinds)) => {
            let read = Ciphertext::decode(bytes)
                .map_err(|error| Refusal::invalid(error.code(), error.to_string()).hint(error.hint()))?;
            if read.header.key != key.id
                || read.header.key_type != key.key_type
                || !kinds.contains(&read.header.kind)
            {
                return Err(Refusal::invalid(
                    "kms.other-key",
                    "it was not made by this key, or is of another kind",
                )
                .hint("name the key that made it"));
            }
            let body = match read.signature() {
                Some((_, raw)) => bytes.slice_ref(raw),
                None => bytes.slice_ref(read.body),
            };
            (read.header, body)
        }
        None => {
            let (kind, asked) = match what {
                What::Encrypt { version, .. } => (Kind::Direct, *version),
                What::DataKey { version, .. } => (Kind::DataKey, *version),
                What::Mac { version, .. } => (Kind::Mac, *version),
                What::Sign { version, .. } | What::PublicKey { version } | What::Fetch { version } => {
                    (Kind::Signature, *version)
                }
                _ => (Kind::Direct, None),
            };
            let version = may(operation, asked)?;
            (Header { kind, key_type: key.key_type, key: key.id, version }, Bytes::new())
        }
    };
    may(operation, Some(header.version))?;
    if let What::Sign { .. } = what
        && !scheme.is_some_and(|scheme| scheme.fits(key.key_type))
    {
        return Err(Refusal::invalid(
            "kms.algorithm",
            format!("keys of type `{}` don't sign so", key.key_type),
        )
        .hint("leave the algorithm out, or look at `bonafide key show`"));
    }
    if let What::DataKey { bytes, .. } = what
        && !matches!(bytes, 16 | 32 | 64)
    {
        return Err(Refusal::invalid("kms.data-key-length", "a data key has 16, 32 or 64 bytes"));
    }
    let to = match what {
        // What comes out is encrypted anew: by the rules for encryption.
        What::Rewrap { version, .. } => Some(material(may(Operation::Encrypt, *version)?)?),
        _ => None,
    };
    Ok(Ready { what, digest, version: material(header.version)?, to, header, body, scheme, by })
}

fn task(item: &Ready<'_>, handle: u32, to: u32) -> Task {
    let (context, kind, body) = (item.digest, item.header.kind, || item.body.clone());
    let scheme = item.scheme.unwrap_or(Scheme::MlDsa65);
    match item.what {
        What::Encrypt { plaintext, .. } => Task::Encrypt { handle, context, plaintext: plaintext.clone() },
        What::Decrypt { .. } => Task::Decrypt { handle, context, kind, body: body() },
        What::Rewrap { .. } => Task::Rewrap { handle, to, context, kind, body: body() },
        What::Mac { message, .. } => Task::Mac { handle, message: message.clone() },
        What::VerifyMac { message, .. } => Task::VerifyMac { handle, message: message.clone(), tag: body() },
        What::Sign { message, prehashed, .. } => {
            Task::Sign { handle, scheme, prehashed: *prehashed, message: message.clone() }
        }
        What::Verify { message, prehashed, .. } => {
            let prehashed = *prehashed;
            Task::Verify { handle, scheme, prehashed, message: message.clone(), signature: body() }
        }

        What::DataKey { bytes, wrapped_only, .. } => {
            Task::DataKey { handle, context, length: *bytes, plaintext: !wrapped_only }
        }
        What::Fetch { .. } | What::PublicKey { .. } => Task::Export { handle },
    }
}

/// The answer of the worker, as the caller gets it.
fn finish(item: &Ready<'_>, outcome: Outcome) -> Result<Done, Refusal> {
    let version = item.header.version;
    let answer = match outcome {
        Ok(answer) => answer,
        // An answer, and not a failure.
        Err(EngineRefusal::Signature | EngineRefusal::Mac) => {
            return Ok(Done::Verified { valid: false, version });
        }
        Err(refusal) => return Err(hands::refusal(refusal)),
    };
    let Header { key_type, key, .. } = item.header;
    Ok(match (item.what, answer) {
        (What::Encrypt { .. }, Answer::Bytes(body)) => {
            Done::Ciphertext { bytes: item.header.with(&body), version }
        }
        (What::Rewrap { .. }, Answer::Bytes(body)) => {
            let version = item.to.as_ref().map_or(version, |to| to.number);
            Done::Ciphertext { bytes: Header { version, ..item.header }.with(&body), version }
        }
        (What::Decrypt { .. }, Answer::Bytes(bytes)) => Done::Plaintext { bytes, version },
        (What::Mac { .. }, Answer::Bytes(tag)) => Done::Mac { bytes: item.header.with(&tag), version },
        (What::Sign { .. }, Answer::Bytes(raw)) => {
            let scheme = item.scheme.unwrap_or(Scheme::MlDsa65);
            let bytes = ciphertext::signature(key_type, key, version, scheme, &raw);
            Done::Signature { bytes, raw: raw.to_vec(), scheme, version }
        }
        (What::VerifyMac { .. } | What::Verify { .. }, Answer::Done) => {
            Done::Verified { valid: true, version }
        }
        (What::DataKey { .. }, Answer::DataKey { plaintext, wrapped }) => {
            Done::DataKey { plaintext, wrapped: item.header.with(&wrapped), version }
        }
        (What::Fetch { .. }, Answer::Bytes(bytes)) => Done::Material { bytes, key_type, version },
        (What::PublicKey { .. }, Answer::Done) => {
            Done::PublicKey { spki: item.version.public_key.clone(), key_type, version }
        }
        _ => return Err(hands::refusal(EngineRefusal::Library)),
    })
}

impl std::fmt::Debug for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({} bytes)", self.operation(), self.size())
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Done")
    }
}

#[cfg(test)]
mod tests;
