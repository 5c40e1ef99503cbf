//! The snapshot that decides now.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::snapshot::Snapshot;

/// Holds a snapshot that is replaced while others decide with it. Nobody waits: a decision keeps what it began with.
#[derive(Debug)]
pub struct Live(ArcSwap<Snapshot>);

/// A snapshot for the time of one decision.
#[derive(Debug)]
pub struct Current(arc_swap::Guard<Arc<Snapshot>>);

impl Live {
    /// Begins with a snapshot.
    pub fn new(snapshot: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(snapshot))
    }

    /// The snapshot that decides now. It is for one decision: held for long, it makes others slower.
    pub fn current(&self) -> Current {
        Current(self.0.load())
    }

    /// Lets another snapshot decide from now on. The one before it, for a way back.
    pub fn replace(&self, snapshot: impl Into<Arc<Snapshot>>) -> Arc<Snapshot> {
        self.0.swap(snapshot.into())
    }
}

impl std::ops::Deref for Current {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}
