//! Servers as witnesses of each other's ledgers.
//!
//! With its mark in the store, once a minute at most, a server publishes its checkpoint, and proofs from what the others
//! say that they hold. Each of them keeps the highest of every other server on its own disk, cosigns it, and says so in the
//! store. A checkpoint that does not continue the one that it holds it does not cosign: it says again what it holds, which
//! the server of that ledger has signed itself, and so can't deny: an honest one that was put back stops on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bonafide_crypto::key::Signer;
use bonafide_identity::time::UnixTime;
use bonafide_ledger::{Checkpoint, Cosignature, Discontinuity, Hash, Ledger, LedgerError, SignedCheckpoint};
use bytes::Bytes;

use super::{MAX_NOTE, MAX_SHOWN, key_of, proof};
use crate::records::{LedgerMark, LedgerWitness, Object, RecordChange, ledger_mark::Proof};
use crate::state::State;

/// What this server has seen of the others' ledgers.
pub(crate) struct Peers {
    ledger: Arc<Ledger>,
    signer: Arc<dyn Signer>,
    server: String,
    prefix: String,
    directory: PathBuf,
    held: Mutex<BTreeMap<String, SignedCheckpoint>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Peers").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Peers {
    /// With what lies in `directory`. `signer`: the key of this server's own ledger.
    pub(crate) fn open(
        directory: &Path,
        ledger: &Arc<Ledger>,
        signer: Arc<dyn Signer>,
        server: &str,
        state: &State,
    ) -> std::io::Result<Self> {
        let held = proof::kept(directory, ledger, state)?;
        let held = held.into_iter().filter(|(_, is_own)| !is_own).map(|(checkpoint, _)| {
            let name = checkpoint.checkpoint().origin.rsplit('/').next().unwrap_or_default();
            (name.to_owned(), checkpoint)
        });
        let origin = ledger.verifier_key().name();
        Ok(Self {
            prefix: origin.strip_suffix(server).unwrap_or_default().to_owned(),
            ledger: Arc::clone(ledger),
            signer,
            server: server.to_owned(),
            directory: directory.to_owned(),
            held: Mutex::new(held.collect()),
        })
    }

    /// Looks at the marks of all other servers. What the store should be told. Blocks for writes of files.
    pub(crate) fn look(&self, state: &State, now: UnixTime) -> Vec<RecordChange> {
        let mut changes = Vec::new();
        let others = state.ledger_marks().filter(|(server, _)| ***server != *self.server);
        for (server, mark) in others.take(MAX_SHOWN) {
            let Some(held) = self.see(state, server, mark) else { continue };
            let name = format!("{server}/{}", self.server);
            if state.ledger_witness(&name).is_some_and(|known| known.note == held.note().as_bytes()) {
                continue;
            }
            let at = u64::try_from(now.as_secs()).unwrap_or_default();
            match Cosignature::sign(&held, self.ledger.verifier_key().name(), at, &*self.signer) {
                Ok(cosignature) => {
                    let witness = LedgerWitness {
                        note: Bytes::copy_from_slice(held.note().as_bytes()),
                        cosignature: cosignature.line().to_owned(),
                    };
                    changes.push(RecordChange::Put(Object::LedgerWitness(name.into(), Arc::new(witness))));
                }
                Err(error) => {
                    tracing::error!(code = error.code(), "a peer's checkpoint is not cosigned: {error}");
                }
            }
        }
        changes
    }

    /// What is held of this server after its mark was looked at.
    fn see(&self, state: &State, server: &str, mark: &LedgerMark) -> Option<SignedCheckpoint> {
        let held = self.lock_held().get(server).cloned();
        if mark.note.is_empty() || mark.note.len() > MAX_NOTE {
            // Of an older version.
            return held;
        }
        let key = key_of(state, &self.ledger, &self.prefix, &mark.note);
        let key = key.filter(|key| key.name().strip_prefix(&self.prefix) == Some(server));
        let next = key.and_then(|key| SignedCheckpoint::parse(&mark.note, &key).ok());
        let Some(next) = next else {
            tracing::error!(code = "ledger.malformed", server, "another server's checkpoint is not its own");
            return held;
        };
        match judge(held.as_ref().map(SignedCheckpoint::checkpoint), next.checkpoint(), &mark.proofs) {
            Verdict::Known => return held,
            Verdict::Unproved => {
                tracing::info!(server, "another server's checkpoint comes without a proof yet");
                return held;
            }
            Verdict::Contradicts(why) => {
                let code = match why {
                    Discontinuity::Shrunk { .. } => "ledger.rolled-back",
                    Discontinuity::Forked { .. } => "ledger.forked",
                    Discontinuity::StoreBehind { .. } => "store.rolled-back",
                };
                tracing::error!(
                    code,
                    server,
                    "another server was rolled back, or has another history: {why}"
                );
                return held;
            }
            Verdict::Continues => {}
        }
        // What it says that it holds it must still hold tomorrow.
        if let Err(error) = proof::keep(&self.directory, &next) {
            tracing::error!(server, "another server's checkpoint can't be kept: {error}");
            return held;
        }
        self.lock_held().insert(server.to_owned(), next.clone());
        Some(next)
    }

    fn lock_held(&self) -> MutexGuard<'_, BTreeMap<String, SignedCheckpoint>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to make of a server's checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Known,
    Continues,
    /// Nothing leads from what is held to it. The next mark will have a proof, for the store says what is held.
    Unproved,
    Contradicts(Discontinuity),
}

fn judge(held: Option<&Checkpoint>, next: &Checkpoint, proofs: &[Proof]) -> Verdict {
    // The first one is believed, as agents do.
    let Some(held) = held else { return Verdict::Continues };
    if held == next {
        return Verdict::Known;
    }
    let lasts = held.bindings.life == next.bindings.life;
    let proof = if lasts && held.size < next.size && held.size > 0 {
        let proof = proofs.iter().find(|proof| proof.from == held.size);
        let Some(proof) = proof else { return Verdict::Unproved };
        let hashes = proof.hashes.iter().map(|hash| Hash::try_from(&**hash)).collect::<Result<Vec<_>, _>>();
        let Ok(hashes) = hashes else { return Verdict::Unproved };
        hashes
    } else {
        Vec::new()
    };
    match next.continues(held, &proof) {
        Ok(()) => Verdict::Continues,
        Err(why) => Verdict::Contradicts(why),
    }
}

/// What the others hold of this server's ledger, as the store says it.
pub(crate) fn held_by_others(
    state: &State,
    ledger: &Ledger,
    server: &str,
) -> Vec<(Arc<str>, SignedCheckpoint, Arc<LedgerWitness>)> {
    let own = ledger.verifier_key();
    let all = state.ledger_witnesses(server).take(MAX_SHOWN);
    let all = all.filter(|(_, witness)| witness.note.len() <= MAX_NOTE);
    all.filter_map(|(by, witness)| {
        let checkpoint = SignedCheckpoint::parse(&witness.note, own).ok()?;
        Some((by.into(), checkpoint, Arc::clone(witness)))
    })
    .collect()
}

/// The mark of a checkpoint, for the store, with proofs for all that hold an older one; nothing, if the store has it. Blocks
/// for reads of files.
pub(crate) fn mark(
    state: &State,
    ledger: &Ledger,
    server: &str,
    newest: &SignedCheckpoint,
) -> Result<Option<LedgerMark>, LedgerError> {
    let checkpoint = newest.checkpoint();
    let (size, life) = (checkpoint.size, checkpoint.bindings.life);
    let held = held_by_others(state, ledger, server);
    let older = held.iter().map(|(_, held, _)| held.checkpoint());
    let older = older.filter(|held| held.bindings.life == life && 0 < held.size && held.size < size);
    let mut from: Vec<u64> = older.map(|held| held.size).collect();
    from.sort_unstable();
    from.dedup();
    let is_there = state.ledger_mark(server).is_some_and(|mark| {
        let proved = |from: &u64| mark.proofs.iter().any(|proof| proof.from == *from);
        (mark.size, mark.life) == (size, life) && !mark.note.is_empty() && from.iter().all(proved)
    });
    if is_there {
        return Ok(None);
    }
    let prove = |from: u64| {
        let hashes = ledger.prove_consistency(from, size)?;
        let hashes = hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
        Ok(Proof { from, hashes })
    };
    Ok(Some(LedgerMark {
        size,
        root: Bytes::copy_from_slice(&checkpoint.root),
        life,
        note: Bytes::copy_from_slice(newest.note().as_bytes()),
        proofs: from.into_iter().map(prove).collect::<Result<_, LedgerError>>()?,
    }))
}

#[cfg(test)]
mod tests {
    use bonafide_ledger::Bindings;

    use super::*;

    fn checkpoint(size: u64, life: u64, revision: u64) -> Checkpoint {
        let bindings = Bindings { incarnation: [1; 16], revision, set_digest: [0; 32], life };
        Checkpoint { origin: "x".into(), size, root: [u8::try_from(size).unwrap(); 32], bindings }
    }

    #[test]
    fn nothing_is_believed_that_goes_back_or_comes_without_proof() {
        let held = checkpoint(7, 1, 9);
        let verdict = |next: &Checkpoint, proofs: &[Proof]| judge(Some(&held), next, proofs);
        assert_eq!(judge(None, &held, &[]), Verdict::Continues);
        assert_eq!(verdict(&held, &[]), Verdict::Known);
        assert_eq!(verdict(&checkpoint(8, 1, 9), &[]), Verdict::Unproved);
        let of_another = Proof { from: 6, hashes: vec![] };
        assert_eq!(verdict(&checkpoint(8, 1, 9), &[of_another]), Verdict::Unproved);
        let wrong = Proof { from: 7, hashes: vec![Bytes::from_static(&[0; 32])] };
        let forked = Verdict::Contradicts(Discontinuity::Forked { seen: 7 });
        assert_eq!(verdict(&checkpoint(8, 1, 9), &[wrong]), forked);
        let mut other = checkpoint(7, 1, 10);
        other.root = [0; 32];
        assert_eq!(verdict(&other, &[]), forked);
        let shrunk = |now| Verdict::Contradicts(Discontinuity::Shrunk { now, seen: 7 });
        assert_eq!(verdict(&checkpoint(6, 1, 10), &[]), shrunk(6));
        assert_eq!(verdict(&checkpoint(9, 0, 10), &[]), shrunk(9));
        let behind = Verdict::Contradicts(Discontinuity::StoreBehind { now: 8, seen: 9 });
        assert_eq!(verdict(&checkpoint(7, 1, 8), &[]), behind);
        // An operator has accepted that the ledger lost entries.
        assert_eq!(verdict(&checkpoint(2, 2, 10), &[]), Verdict::Continues);
    }
}
