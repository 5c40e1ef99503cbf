//! What proves that a server was put back to an older state, and where that is kept.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bonafide_ledger::{Bindings, Checkpoint, Ledger, LedgerError, SignedCheckpoint};
use bonafide_store::Incarnation;

use super::{MAX_NOTE, MAX_SHOWN, key_of};
use crate::state::State;

/// What is older than somebody has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// This server's ledger.
    Ledger { found: u64, seen: u64, what: &'static str },
    /// The store.
    Store { found: u64, found_incarnation: Incarnation, seen: u64, seen_incarnation: Incarnation },
}

/// Whether the ledger, in its present life, is behind a checkpoint of its own. Blocks for reads of files.
pub(crate) fn ledger_behind(
    ledger: &Ledger,
    life: u64,
    seen: &Checkpoint,
) -> Result<Option<Behind>, LedgerError> {
    let found = ledger.size();
    let behind = |what| Ok(Some(Behind::Ledger { found, seen: seen.size, what }));
    if seen.bindings.life < life {
        // An operator has accepted that what came after is lost.
        return Ok(None);
    }
    if seen.bindings.life > life || seen.size > found {
        return behind("entries that were witnessed are missing");
    }
    if ledger.root_at(seen.size)? != seen.root {
        return behind("it does not begin with the entries that were witnessed");
    }
    Ok(None)
}

/// Whether the state is behind what a checkpoint says of the store.
pub(crate) fn store_behind(state: &State, seen: &Bindings) -> Option<Behind> {
    let (found, seen_incarnation) = (state.incarnation(), Incarnation::from_bytes(seen.incarnation));
    let same = found == seen_incarnation;
    if (same && seen.revision <= state.revision()) || (!same && state.succeeds(&seen_incarnation)) {
        return None;
    }
    Some(Behind::Store {
        found: state.revision(),
        found_incarnation: found,
        seen: seen.revision,
        seen_incarnation,
    })
}

/// The proofs in `directory` that are signed by keys of this trust domain's servers; with each, whether it is of this
/// server's own ledger.
pub(crate) fn kept(
    directory: &Path,
    ledger: &Ledger,
    state: &State,
) -> io::Result<Vec<(SignedCheckpoint, bool)>> {
    let mut kept = Vec::new();
    let files = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(kept),
        files => files?,
    };
    let own = ledger.verifier_key();
    let prefix = own.name().rsplit_once('/').map_or_else(String::new, |(prefix, _)| format!("{prefix}/"));
    for file in files.take(MAX_SHOWN) {
        let path = file?.path();
        if path.metadata()?.len() > MAX_NOTE as u64 {
            continue;
        }
        let note = fs::read(&path)?;
        if let Some(key) = key_of(state, ledger, &prefix, &note)
            && let Ok(signed) = SignedCheckpoint::parse(&note, &key)
        {
            kept.push((signed, key == *own));
        }
    }
    Ok(kept)
}

/// Keeps a proof. One for each ledger: the last one.
pub(crate) fn keep(directory: &Path, proof: &SignedCheckpoint) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let server = proof.checkpoint().origin.rsplit('/').next().unwrap_or_default();
    write(&directory.join(server), proof.note().as_bytes())?;
    directory.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Writes a file so that it is there, whole, after a crash.
pub(crate) fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = fs::OpenOptions::new();
    let mut file = file.create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
