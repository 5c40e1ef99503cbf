//! Word for agents that leases of theirs are over, on the way to their streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bonafide_identity::SpiffeId;
use bonafide_wire::node::{LeaseEnded, LeasesEnded};
use tokio::sync::Notify;

/// Leases of one message.
const MAX_PART: usize = 1024;

/// The streams of agents, by their IDs.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    streams: Mutex<HashMap<SpiffeId, Vec<Arc<Stream>>>>,
}

/// One stream's share, until this is dropped.
#[derive(Debug)]
pub(crate) struct Ending {
    ends: Arc<Ends>,
    agent: SpiffeId,
    stream: Arc<Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    waiting: Mutex<Vec<LeaseEnded>>,
    wake: Notify,
    /// The agent holds leases: it is to hear often.
    given: Notify,
}

impl Ends {
    /// A stream of `agent` begins.
    pub(crate) fn subscribe(self: &Arc<Self>, agent: &SpiffeId) -> Ending {
        let stream = Arc::new(Stream::default());
        lock(&self.streams).entry(agent.clone()).or_default().push(Arc::clone(&stream));
        Ending { ends: Arc::clone(self), agent: agent.clone(), stream }
    }

    /// Whether the agent has a stream here: it hears of the end of a lease.
    pub(crate) fn reaches(&self, agent: &SpiffeId) -> bool {
        lock(&self.streams).contains_key(agent)
    }

    /// The agent has got leases.
    pub(crate) fn given(&self, agent: &SpiffeId) {
        lock(&self.streams).get(agent).into_iter().flatten().for_each(|stream| stream.given.notify_one());
    }

    /// Tells every stream of the agent. An agent that has none renews what it holds when it is back.
    pub(crate) fn tell(&self, agent: &SpiffeId, ended: &[LeaseEnded]) {
        let streams = lock(&self.streams).get(agent).cloned().unwrap_or_default();
        for stream in streams {
            lock(&stream.waiting).extend_from_slice(ended);
            stream.wake.notify_one();
        }
    }
}

impl Ending {
    /// Resolves when the agent has got leases.
    pub(crate) async fn given(&self) {
        self.stream.given.notified().await;
    }

    /// The next message for the agent, once there is one.
    pub(crate) async fn next(&self) -> LeasesEnded {
        loop {
            {
                let mut waiting = lock(&self.stream.waiting);
                if !waiting.is_empty() {
                    let part = waiting.len().min(MAX_PART);
                    let rest = waiting.split_off(part);
                    return LeasesEnded { ended: std::mem::replace(&mut *waiting, rest) };
                }
            }
            self.stream.wake.notified().await;
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut streams = lock(&self.ends.streams);
        if let Some(of_agent) = streams.get_mut(&self.agent) {
            of_agent.retain(|stream| !Arc::ptr_eq(stream, &self.stream));
            if of_agent.is_empty() {
                streams.remove(&self.agent);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_hear_of_their_own_agent_and_in_parts() {
        let ends = Arc::new(Ends::default());
        let id =
            |name: &str| -> SpiffeId { format!("spiffe://td/bonafide/agent/lab/{name}").parse().unwrap() };
        let (one, again, two) =
            (ends.subscribe(&id("one")), ends.subscribe(&id("one")), ends.subscribe(&id("two")));
        let ended = vec![LeaseEnded::default(); MAX_PART + 3];
        ends.tell(&id("one"), &ended);
        for stream in [&one, &again] {
            assert_eq!(stream.next().await.ended.len(), MAX_PART);
            assert_eq!(stream.next().await.ended.len(), 3);
        }
        ends.tell(&id("two"), &ended[..1]);
        assert_eq!(two.next().await.ended.len(), 1);
        drop((one, again));
        assert!(!ends.reaches(&id("one")) && ends.reaches(&id("two")));
    }
}
