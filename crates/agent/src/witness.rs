//! What this node has seen of the ledgers of its authority. No I/O.
//!
//! Of each server's ledger the highest checkpoint is kept, and shown to whichever server the agent connects to: a server
//! that is behind it, or that went another way, was rolled back. A checkpoint that does not continue the one that is
//! kept is not believed, and the agent does not speak to the server that has sent it.
//!
//! What key a ledger has, the agent learns from the server whose ledger it is, over a connection on which that server has
//! proved by its SVID who it is. So no server can speak for another one, or take its place here.

use std::collections::BTreeMap;

use bonafide_identity::TrustDomain;
use bonafide_ledger::{Discontinuity, Hash, SignedCheckpoint, VerifierKey};
use bonafide_wire::{node::Checkpoint, types::Problem};
use bytes::Bytes;

use crate::refusal::problem;

/// Servers whose ledgers are kept in mind. No trust domain has so many.
const MAX_SERVERS: usize = 16;
/// Bytes of a note, and of a key.
const MAX_NOTE: usize = 8 * 1024;
const MAX_KEY: usize = 512;
/// Hashes of a proof: two for each level of the largest log.
const MAX_PROOF: usize = 128;

/// The checkpoints that are kept.
#[derive(Debug)]
pub(crate) struct Witness {
    /// What the name of every ledger of this trust domain begins with.
    prefix: String,
    kept: BTreeMap<String, Kept>,
}

#[derive(Clone, Debug)]
struct Kept {
    key: VerifierKey,
    checkpoint: SignedCheckpoint,
}

/// A ledger as it is stored: its key, and the note.
pub(crate) type Stored = (String, String);

/// A checkpoint that can't be true if what this node has seen before is.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Contradiction {
    #[error("the authority sent a checkpoint of its ledger that can't be read: {0}")]
    Malformed(String),
    #[error("the ledger `{0}` has another key than it had")]
    OtherKey(String),
    #[error("the server `{server}` sent a checkpoint of the ledger `{origin}`, which is not its own")]
    OtherServer { server: String, origin: String },
    #[error("the ledger `{origin}` has {now} entries, and this node has seen {seen}")]
    Shrunk { origin: String, now: u64, seen: u64 },
    #[error("the ledger `{origin}` does not begin with the {seen} entries that this node has seen")]
    Forked { origin: String, seen: u64 },
    #[error("the store behind the ledger `{origin}` is at revision {now}, and this node has seen {seen}")]
    StoreBehind { origin: String, now: u64, seen: u64 },
}

impl Contradiction {
    pub(crate) fn into_problem(self) -> Problem {
        let code = match &self {
            Self::Malformed(_) => "agent.protocol",
            Self::OtherKey(_) => "ledger.other-key",
            Self::OtherServer { .. } => "ledger.other-server",
            Self::Forked { .. } => "ledger.forked",
            Self::Shrunk { .. } => "ledger.rolled-back",
            Self::StoreBehind { .. } => "store.rolled-back",
        };
        let hint = match &self {
            Self::Malformed(_) => "look at the authority's log; its version may not fit the agent's",
            Self::OtherKey(_) => {
                "if the authority was made anew on purpose, remove this agent's data directory and join again"
            }
            Self::OtherServer { .. } => "find out who runs that server, and who has its keys",
            Self::Forked { .. } | Self::Shrunk { .. } | Self::StoreBehind { .. } => {
                "the authority was rolled back, or shows others another history. If its operator restored a backup, he starts it with `--accept-restore`"
            }
        };
        problem(code, self, hint)
    }
}

impl Witness {
    pub(crate) fn new(trust_domain: &TrustDomain) -> Self {
        Self { prefix: format!("{trust_domain}/bonafide/authority/"), kept: BTreeMap::new() }
    }

    /// The notes to show to a server.
    pub(crate) fn notes(&self) -> Vec<Bytes> {
        self.kept.values().map(|kept| Bytes::copy_from_slice(kept.checkpoint.note().as_bytes())).collect()
    }

    /// Looks at a checkpoint that `server`, which has proved that it is that, has sent. What is returned is kept from now on, and may be cosigned once it
    /// is stored; nothing is, if more ledgers are kept than there can be.
    ///
    /// # Errors
    /// [`Contradiction`]; what is kept stays.
    pub(crate) fn look_at(
        &mut self,
        sent: &Checkpoint,
        server: &str,
    ) -> Result<Option<SignedCheckpoint>, Contradiction> {
        let malformed = |why: &dyn std::fmt::Display| Contradiction::Malformed(why.to_string());
        if sent.note.len() > MAX_NOTE || sent.key.len() > MAX_KEY || sent.consistency.len() > MAX_PROOF {
            return Err(malformed(&"it is too long"));
        }
        let key: VerifierKey = sent.key.parse().map_err(|error| malformed(&error))?;
        if key.name().strip_prefix(&self.prefix) != Some(server) {
            return Err(Contradiction::OtherServer {
                server: server.to_owned(),
                origin: key.name().to_owned(),
            });
        }
        let kept = self.kept.get(key.name());
        if kept.is_some_and(|kept| kept.key != key) {
            return Err(Contradiction::OtherKey(key.name().to_owned()));
        }
        let next = SignedCheckpoint::parse(&sent.note, &key).map_err(|error| malformed(&error))?;
        match kept {
            Some(kept) => continues(&kept.checkpoint, &next, &sent.consistency)?,
            None if self.kept.len() >= MAX_SERVERS => return Ok(None),
            None => {}
        }
        self.kept.insert(key.name().to_owned(), Kept { key, checkpoint: next.clone() });
        Ok(Some(next))
    }

    /// What is to be stored.
    pub(crate) fn to_stored(&self) -> Vec<Stored> {
        self.kept.values().map(|kept| (kept.key.to_string(), kept.checkpoint.note().to_owned())).collect()
    }

    /// Takes in what was stored; what makes no sense, or is of another trust domain, is left out.
    pub(crate) fn restore(&mut self, stored: Vec<Stored>) {
        for (key, note) in stored.into_iter().take(MAX_SERVERS) {
            let Ok(key) = key.parse::<VerifierKey>() else { continue };
            if let Ok(checkpoint) = SignedCheckpoint::parse(note.as_bytes(), &key)
                && key.name().starts_with(&self.prefix)
            {
                self.kept.insert(key.name().to_owned(), Kept { key, checkpoint });
            }
        }
    }
}

/// Whether `next` may come after `before`.
fn continues(
    before: &SignedCheckpoint,
    next: &SignedCheckpoint,
    proof: &[Bytes],
) -> Result<(), Contradiction> {
    let (before, next) = (before.checkpoint(), next.checkpoint());
    let origin = || next.origin.clone();
    // A proof that is none proves nothing.
    let proof: Vec<Hash> =
        proof.iter().map(|hash| Hash::try_from(&**hash)).collect::<Result<_, _>>().unwrap_or_default();
    next.continues(before, &proof).map_err(|discontinuity| match discontinuity {
        Discontinuity::Shrunk { now, seen } => Contradiction::Shrunk { origin: origin(), now, seen },
        Discontinuity::Forked { seen } => Contradiction::Forked { origin: origin(), seen },
        Discontinuity::StoreBehind { now, seen } => {
            Contradiction::StoreBehind { origin: origin(), now, seen }
        }
    })?;
    if next.bindings.life != before.bindings.life {
        tracing::warn!(
            origin = origin(),
            "the authority's operator has accepted that its ledger lost entries"
        );
    }
    if next.bindings.incarnation != before.bindings.incarnation {
        tracing::warn!(
            origin = origin(),
            "the authority's operator has accepted that its store was restored"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
