//! How many streams one agent has. A stream that begins may make the server build and hold a snapshot of all that the
//! agent's node may host, so an agent that opens streams and reads none of them must not get far: the newest one takes
//! the place of the oldest, and they can't follow each other too fast.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bonafide_identity::SpiffeId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::rates::{Limit, Rates, TooMany};

/// Streams of one agent: for a moment two, when it connects again before the end of the old stream is noticed.
const MAX_STREAMS: usize = 2;
/// Streams that one agent may begin.
const BEGIN: Limit = Limit { per_second: 2, burst: 20 };

/// The streams of all agents.
#[derive(Debug, Default)]
pub(crate) struct Places {
    open: Mutex<HashMap<SpiffeId, VecDeque<Arc<CancellationToken>>>>,
    begun: Rates<SpiffeId>,
}

/// One stream's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    places: &'a Places,
    agent: &'a SpiffeId,
    replaced: Arc<CancellationToken>,
}

impl Places {
    /// Whether the agent may begin another stream so soon.
    pub(crate) fn begin(&self, agent: &SpiffeId, now: Instant) -> Result<(), TooMany> {
        self.begun.take(agent, BEGIN, now)
    }

    /// A place for a stream of `agent`.
    pub(crate) fn take<'a>(&'a self, agent: &'a SpiffeId) -> Place<'a> {
        let replaced = Arc::new(CancellationToken::new());
        let mut open = self.lock();
        let streams = open.entry(agent.clone()).or_default();
        if streams.len() >= MAX_STREAMS
            && let Some(oldest) = streams.pop_front()
        {
            oldest.cancel();
        }
        streams.push_back(Arc::clone(&replaced));
        drop(open);
        Place { places: self, agent, replaced }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, VecDeque<Arc<CancellationToken>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Resolves when newer streams of the agent have taken its place.
    pub(crate) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        if let Some(streams) = open.get_mut(self.agent) {
            streams.retain(|stream| !Arc::ptr_eq(stream, &self.replaced));
            if streams.is_empty() {
                open.remove(self.agent);
            }
        }
    }
}
