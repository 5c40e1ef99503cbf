//! Agents, and the other servers ([`peers`]), as witnesses of this server's ledger, and of the store behind it.
//!
//! Agents keep the highest checkpoint of each server, and show them at connect. They are signed by the servers' own ledger
//! keys, so no agent can make one up; and a server that is behind one of them was put back to an older state, together with
//! all that it could have noticed that by itself. It stops, and keeps the proof, so that it does not start again until an
//! operator accepts that.
//!
//! Checkpoints go to each agent at connect, and then rarely, to a few of them at a time: what one of them has seen is
//! enough.

mod cosigned;
mod peers;
mod proof;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::PublicKey;
use bonafide_crypto::random::Random;
use bonafide_ledger::{Cosignature, Ledger, LedgerError, SignedCheckpoint, VerifierKey};
use bonafide_store::Store;
use bonafide_wire::node::Checkpoint;
use bytes::Bytes;
use tokio::sync::Notify;

use self::cosigned::Cosigned;
pub(crate) use self::peers::{Peers, held_by_others, mark};
pub(crate) use self::proof::{Behind, keep, kept, ledger_behind, store_behind};
use crate::records::signing_key;
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::state::State;

/// Checkpoints that an agent may show, and bytes of each.
const MAX_SHOWN: usize = 16;
const MAX_NOTE: usize = 8 * 1024;
/// Notes that are remembered as good, so that a fleet that connects costs one look.
const MAX_GOOD: usize = 1024;
/// Agents that are asked to witness one checkpoint, beside those that connect.
const SAMPLE: usize = 8;

/// What streams need to have this server witnessed.
pub(crate) struct Witnesses {
    ledger: Arc<Ledger>,
    registry: Registry,
    /// Asked for its head only when this server may just not have caught up.
    store: Weak<dyn Store>,
    /// What the names of all ledgers of this trust domain begin with.
    prefix: String,
    life: u64,
    newest: ArcSwapOption<SignedCheckpoint>,
    good: Mutex<HashSet<[u8; 32]>>,
    seats: Mutex<Seats>,
    cosigned: Mutex<Cosigned>,
    /// Other servers that have cosigned, and what size of the log.
    peers: Mutex<BTreeMap<Arc<str>, u64>>,
}

/// The streams that may be asked.
#[derive(Debug, Default)]
struct Seats {
    next: u64,
    open: BTreeMap<u64, Arc<Notify>>,
}

/// One stream's part.
#[derive(Debug)]
pub(crate) struct Seat {
    witnesses: Arc<Witnesses>,
    number: u64,
    called: Arc<Notify>,
    /// Life and size of the log that the agent holds.
    holds: (u64, u64),
    sent: Option<Arc<SignedCheckpoint>>,
    /// Whether it has still to say what it makes of `sent`.
    waiting: bool,
}

/// Stops the server for good, and says why.
pub(crate) struct RolledBack(Box<Stop>);

type Stop = dyn Fn(Behind, &SignedCheckpoint) -> Refusal + Send + Sync;

/// What an agent showed that is not behind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    /// Life and size of this server's ledger in the checkpoint that the agent holds.
    holds: (u64, u64),
}

impl RolledBack {
    pub(crate) fn new(stop: impl Fn(Behind, &SignedCheckpoint) -> Refusal + Send + Sync + 'static) -> Self {
        Self(Box::new(stop))
    }

    /// Stops it.
    pub(crate) fn stop(&self, behind: Behind, proof: &SignedCheckpoint) -> Refusal {
        (self.0)(behind, proof)
    }
}

impl std::fmt::Debug for RolledBack {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RolledBack")
    }
}

impl std::fmt::Debug for Witnesses {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Witnesses").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Witnesses {
    pub(crate) fn new(
        ledger: Arc<Ledger>,
        registry: Registry,
        store: &Arc<dyn Store>,
        life: u64,
        newest: SignedCheckpoint,
    ) -> Self {
        let origin = ledger.verifier_key().name();
        let prefix = origin.rsplit_once('/').map_or_else(String::new, |(prefix, _)| format!("{prefix}/"));
        Self {
            ledger,
            registry,
            store: Arc::downgrade(store),
            prefix,
            life,
            newest: ArcSwapOption::from_pointee(newest),
            good: Mutex::default(),
            seats: Mutex::default(),
            cosigned: Mutex::default(),
            peers: Mutex::default(),
        }
    }

    /// Judges the checkpoints that an agent holds. Whatever is not signed by the key of a server is nothing; the agent gets
    /// none the wiser for having sent it.
    ///
    /// # Errors
    /// What proves that this server, or the store, is behind.
    pub(crate) async fn shown(
        self: &Arc<Self>,
        notes: &[Bytes],
    ) -> Result<Shown, (Behind, SignedCheckpoint)> {
        let mut shown = Shown::default();
        for note in notes.iter().filter(|note| note.len() <= MAX_NOTE).take(MAX_SHOWN) {
            let known = self.lock_good().contains(&sha256(note));
            let state = self.registry.state();
            let Some(key) = key_of(&state, &self.ledger, &self.prefix, note) else { continue };
            let state = if known { None } else { Some(state) };
            let Ok(signed) = SignedCheckpoint::parse(note, &key) else { continue };
            let is_own = key == *self.ledger.verifier_key();
            let (size, bindings) = (signed.checkpoint().size, signed.checkpoint().bindings);
            if let Some(state) = state {
                let behind_store = proof::store_behind(&state, &bindings);
                drop(state);
                if let Some(behind) = behind_store
                    && self.is_head_behind(bindings.incarnation, bindings.revision).await
                {
                    return Err((behind, signed));
                }
                if is_own {
                    let (this, judged) = (Arc::clone(self), signed.clone());
                    let judged = tokio::task::spawn_blocking(move || {
                        proof::ledger_behind(&this.ledger, this.life, judged.checkpoint())
                    });
                    match judged.await {
                        Ok(Ok(None)) => {}
                        Ok(Ok(Some(behind))) => return Err((behind, signed)),
                        // The ledger can't be read: that is told by others, and nothing is proved.
                        Ok(Err(_)) | Err(_) => continue,
                    }
                }
                let mut good = self.lock_good();
                if good.len() >= MAX_GOOD {
                    good.clear();
                }
                good.insert(sha256(note));
            }
            if is_own {
                shown.holds = shown.holds.max((bindings.life, size));
            }
        }
        Ok(shown)
    }

    /// Judges what other servers hold of this one's ledger, and notes whose cosignatures are good.
    ///
    /// # Errors
    /// As [`Self::shown`].
    pub(crate) async fn heard(self: &Arc<Self>, server: &str) -> Result<(), (Behind, SignedCheckpoint)> {
        let state = self.registry.state();
        let held = held_by_others(&state, &self.ledger, server);
        for (by, checkpoint, witness) in &held {
            let size = checkpoint.checkpoint().size;
            if self.lock_peers().get(by).is_some_and(|known| *known == size) {
                continue;
            }
            let origin = format!("{}{by}", self.prefix);
            let ledgers = state.signing_keys().filter(|key| key.r#use() == signing_key::Use::Ledger);
            let key = ledgers.filter(|key| *key.server == **by).find_map(|key| {
                let key = PublicKey::from_spki_der(&key.public_key).ok()?;
                Cosignature::verify(&witness.cosignature, checkpoint, &origin, &key).ok()
            });
            if key.is_some() {
                self.lock_peers().insert(Arc::clone(by), size);
            }
        }
        drop(state);
        let notes: Vec<Bytes> = held.iter().map(|(_, _, witness)| witness.note.clone()).collect();
        self.shown(&notes).await.map(drop)
    }

    /// Other servers that have cosigned this one's ledger, and what size of it.
    pub(crate) fn peers(&self) -> Vec<(String, u64)> {
        self.lock_peers().iter().map(|(by, size)| (by.to_string(), *size)).collect()
    }

    /// Whether the store itself, not just what this server has read of it, is behind.
    async fn is_head_behind(&self, incarnation: [u8; 16], revision: u64) -> bool {
        let Some(store) = self.store.upgrade() else { return false };
        match store.head().await {
            Ok(head) => *head.incarnation.as_bytes() != incarnation || head.revision.0 < revision,
            // It can't be asked now. Another time, then.
            Err(_) => false,
        }
    }

    /// A place for the stream of an agent that witnesses.
    pub(crate) fn seat(self: &Arc<Self>, shown: Shown) -> Seat {
        let called = Arc::new(Notify::new());
        let mut seats = self.lock_seats();
        let number = seats.next;
        seats.next += 1;
        seats.open.insert(number, Arc::clone(&called));
        drop(seats);
        Seat { witnesses: Arc::clone(self), number, called, holds: shown.holds, sent: None, waiting: false }
    }

    /// A newer checkpoint was published.
    pub(crate) fn published(&self, checkpoint: SignedCheckpoint) {
        self.newest.store(Some(Arc::new(checkpoint)));
    }

    /// The newest checkpoint.
    pub(crate) fn newest(&self) -> Option<SignedCheckpoint> {
        self.newest.load_full().map(|newest| (*newest).clone())
    }

    /// Asks a few agents, drawn by lot, to witness the newest checkpoint.
    pub(crate) fn call(&self, random: &dyn Random) {
        let seats = self.lock_seats();
        let start = u64::from_be_bytes(random.array::<8>()) % seats.next.max(1);
        let (before, after) = (seats.open.range(..start), seats.open.range(start..));
        for (_, called) in after.chain(before).take(SAMPLE) {
            called.notify_one();
        }
    }

    /// Size of the log that was witnessed last, and by how many agents.
    pub(crate) fn witnessed(&self) -> (u64, usize) {
        self.lock_cosigned().witnessed()
    }

    /// Writes down who has witnessed what, if that is news. Blocks.
    pub(crate) fn save(&self, file: &Path) {
        let note = self.lock_cosigned().news();
        if let Some(note) = note
            && let Err(error) = proof::write(file, note.as_bytes())
        {
            tracing::error!(path = %file.display(), "what agents have witnessed can't be written: {error}");
        }
    }

    fn lock_peers(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, u64>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_good(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_cosigned(&self) -> MutexGuard<'_, Cosigned> {
        self.cosigned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Resolves when the agent should witness what is newest.
    pub(crate) async fn called(&self) {
        self.called.notified().await;
    }

    /// The newest checkpoint for the agent, with the proof from what it holds; nothing, if it has that.
    pub(crate) async fn offer(&mut self) -> Result<Option<Checkpoint>, LedgerError> {
        let Some(newest) = self.witnesses.newest.load_full() else { return Ok(None) };
        let checkpoint = newest.checkpoint();
        let (life, size) = (checkpoint.bindings.life, checkpoint.size);
        if self.sent.as_ref().is_some_and(|sent| sent.checkpoint() == checkpoint) {
            return Ok(None);
        }
        // Of an earlier life nothing can be proved, and nothing needs to be.
        let from = if self.holds.0 == life { self.holds.1 } else { 0 };
        let proof = if from == 0 || from == size {
            Vec::new()
        } else {
            let ledger = Arc::clone(&self.witnesses.ledger);
            tokio::task::spawn_blocking(move || ledger.prove_consistency(from, size))
                .await
                .map_err(|_| LedgerError::Closed)??
        };
        let message = Checkpoint {
            note: Bytes::copy_from_slice(newest.note().as_bytes()),
            key: self.witnesses.ledger.verifier_key().to_string(),
            consistency: proof.iter().map(|hash| Bytes::copy_from_slice(hash)).collect(),
        };
        self.holds = (life, size);
        self.sent = Some(newest);
        self.waiting = true;
        Ok(Some(message))
    }

    /// Takes what the agent says of the last checkpoint that it was sent.
    ///
    /// # Errors
    /// If that is no cosignature of it. One that nobody has asked for is not looked at.
    pub(crate) fn cosigned(&mut self, line: &str, agent: &str, key: &PublicKey) -> Result<(), LedgerError> {
        let Some(sent) = self.sent.as_ref().filter(|_| std::mem::take(&mut self.waiting)) else {
            return Ok(());
        };
        // Enough is enough: each costs a verification.
        if !self.witnesses.lock_cosigned().wants(sent) {
            return Ok(());
        }
        let cosignature = Cosignature::verify(line, sent, agent, key)?;
        self.witnesses.lock_cosigned().add(sent, cosignature);
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.witnesses.lock_seats().open.remove(&self.number);
    }
}

/// The key of the server whose ledger a note says it is of.
fn key_of(state: &State, own: &Ledger, prefix: &str, note: &[u8]) -> Option<VerifierKey> {
    let origin = SignedCheckpoint::origin_of(note)?;
    if origin == own.verifier_key().name() {
        return Some(own.verifier_key().clone());
    }
    let server = origin.strip_prefix(prefix)?;
    let record =
        state.signing_keys().find(|key| key.r#use() == signing_key::Use::Ledger && key.server == server)?;
    VerifierKey::new(origin, PublicKey::from_spki_der(&record.public_key).ok()?).ok()
}
