//! Whether one checkpoint of a ledger may come after another.

use crate::{Checkpoint, merkle};

/// What can't be true if what was seen before is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Discontinuity {
    /// Entries are missing, or it is of an earlier life.
    #[error("the ledger has {now} entries, and {seen} were seen")]
    Shrunk {
        /// Entries that it has now.
        now: u64,
        /// Entries that it had.
        seen: u64,
    },
    /// Nothing proves that it begins with what was seen.
    #[error("the ledger does not begin with the {seen} entries that were seen")]
    Forked {
        /// Entries that it had.
        seen: u64,
    },
    /// The store behind it went back.
    #[error("the store behind the ledger is at revision {now}, and {seen} was seen")]
    StoreBehind {
        /// Revision of the store now.
        now: u64,
        /// Revision that it had.
        seen: u64,
    },
}

impl Checkpoint {
    /// Whether this one may come after `before`, of the same ledger. `proof`: that the tree of `before` is the beginning of
    /// this one's (RFC 6962 section 2.1.2). What an operator accepts, another life of the ledger or another incarnation of
    /// the store, is nothing that a proof can be given for: a witness should say that it saw that.
    ///
    /// # Errors
    /// [`Discontinuity`].
    pub fn continues(&self, before: &Self, proof: &[merkle::Hash]) -> Result<(), Discontinuity> {
        let (was, is) = (&before.bindings, &self.bindings);
        if is.life < was.life || (is.life == was.life && self.size < before.size) {
            return Err(Discontinuity::Shrunk { now: self.size, seen: before.size });
        }
        if is.life == was.life {
            merkle::verify_consistency((before.size, &before.root), (self.size, &self.root), proof)
                .map_err(|_| Discontinuity::Forked { seen: before.size })?;
        }
        let behind =
            is.revision < was.revision || (is.revision == was.revision && is.set_digest != was.set_digest);
        if is.incarnation == was.incarnation && behind {
            return Err(Discontinuity::StoreBehind { now: is.revision, seen: was.revision });
        }
        Ok(())
    }
}
