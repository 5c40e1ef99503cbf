//! Who has cosigned the newest checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use bonafide_ledger::{Cosignature, SignedCheckpoint};

/// Cosignatures that are kept of one checkpoint. Each of them is proof enough.
const ENOUGH: usize = 16;

/// The highest checkpoint that was cosigned, and by whom.
#[derive(Debug, Default)]
pub(super) struct Cosigned {
    checkpoint: Option<Arc<SignedCheckpoint>>,
    by: BTreeMap<String, Cosignature>,
    is_news: bool,
}

impl Cosigned {
    /// Whether one more cosignature of this checkpoint is of use.
    pub(super) fn wants(&self, checkpoint: &SignedCheckpoint) -> bool {
        match self.rank(checkpoint) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => self.by.len() < ENOUGH,
            std::cmp::Ordering::Greater => true,
        }
    }

    pub(super) fn add(&mut self, checkpoint: &Arc<SignedCheckpoint>, cosignature: Cosignature) {
        if !self.wants(checkpoint) {
            return;
        }
        if self.rank(checkpoint).is_gt() {
            self.checkpoint = Some(Arc::clone(checkpoint));
            self.by.clear();
        }
        self.by.insert(cosignature.witness().to_owned(), cosignature);
        self.is_news = true;
    }

    /// Size of the log, and how many have cosigned it.
    pub(super) fn witnessed(&self) -> (u64, usize) {
        (self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.checkpoint().size), self.by.len())
    }

    /// The note, once for each change.
    pub(super) fn news(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.is_news) {
            return None;
        }
        self.checkpoint.as_ref().map(|checkpoint| checkpoint.cosigned(self.by.values()))
    }

    /// How this checkpoint stands to the one that is kept.
    fn rank(&self, other: &SignedCheckpoint) -> std::cmp::Ordering {
        let key = |checkpoint: &SignedCheckpoint| {
            let checkpoint = checkpoint.checkpoint();
            (checkpoint.bindings.life, checkpoint.size, checkpoint.bindings.revision)
        };
        match &self.checkpoint {
            Some(kept) => key(other).cmp(&key(kept)),
            None => std::cmp::Ordering::Greater,
        }
    }
}
