//! Which agents are connected, and how far each has followed the log. In memory: it belongs to the streams.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bonafide_identity::{SpiffeId, time::UnixTime};
use tokio::sync::watch;

/// The agents that have a stream to this server, or had one.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    agents: Mutex<BTreeMap<SpiffeId, AgentPresence>>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { agents: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

/// One agent, as its stream shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentPresence {
    /// Streams that are open now: for a moment two, when it reconnects.
    pub streams: u32,
    /// Highest revision that it has acknowledged on the newest stream.
    pub acknowledged: u64,
    /// End of the SVID that it connected or was renewed with.
    pub svid_expires_at: Option<UnixTime>,
    /// Highest revision of a bundle of whose tainted authorities it uses nothing any more, nor do its workloads.
    pub renewed: u64,
    /// What it says of itself.
    pub version: String,
    /// Which stream may still move `acknowledged`.
    newest: u64,
}

impl AgentPresence {
    /// Whether a stream is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.streams > 0
    }
}

impl Presence {
    /// Nobody is there.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A stream has opened. Hold what is returned as long as it is open.
    #[must_use]
    pub fn connect(&self, agent: SpiffeId, svid_expires_at: UnixTime, version: &str) -> Connection {
        let mut stream = 0;
        self.update(&agent, |presence| {
            presence.streams += 1;
            presence.newest += 1;
            presence.acknowledged = 0;
            presence.renewed = 0;
            presence.svid_expires_at = Some(svid_expires_at);
            version.clone_into(&mut presence.version);
            stream = presence.newest;
        });
        Connection { presence: self.clone(), agent, stream }
    }

    /// One agent; `None` if it never connected to this server.
    #[must_use]
    pub fn agent(&self, agent: &SpiffeId) -> Option<AgentPresence> {
        self.agents().get(agent).cloned()
    }

    /// How many agents are connected, of those that `filter` lets through.
    pub fn connected(&self, filter: impl Fn(&SpiffeId) -> bool) -> usize {
        self.agents().iter().filter(|(id, presence)| presence.is_connected() && filter(id)).count()
    }

    /// Connected agents that have not acknowledged `revision`, of those that `filter` lets through.
    pub fn behind(&self, revision: u64, filter: impl Fn(&SpiffeId) -> bool) -> Vec<SpiffeId> {
        self.agents()
            .iter()
            .filter(|(id, presence)| {
                presence.is_connected() && presence.acknowledged < revision && filter(id)
            })
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Agents of which something that is in use may not be as `done` says: those that are connected, and those that were,
    /// until what they went away with has expired. After that nobody believes them, so they can't be harmed.
    pub fn missing(&self, now: UnixTime, done: impl Fn(&AgentPresence) -> bool) -> Vec<SpiffeId> {
        let counts = |presence: &AgentPresence| {
            presence.is_connected() || presence.svid_expires_at.is_some_and(|end| end > now)
        };
        let agents = self.agents();
        let missing = agents.iter().filter(|(_, presence)| counts(presence) && !done(presence));
        missing.map(|(id, _)| id.clone()).collect()
    }

    /// Waits until no agent is behind, or the time is up; returns those that still are.
    pub async fn wait(
        &self,
        revision: u64,
        timeout: Duration,
        filter: impl Fn(&SpiffeId) -> bool,
    ) -> Vec<SpiffeId> {
        let mut changed = self.changes();
        let caught_up = async {
            loop {
                changed.mark_unchanged();
                if self.behind(revision, &filter).is_empty() || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whether in time or not, the answer is what is true now.
        let _ = tokio::time::timeout(timeout, caught_up).await;
        self.behind(revision, &filter)
    }

    /// Wakes at every connection, acknowledgement and disconnection.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Forgets an agent that was removed.
    pub fn forget(&self, agent: &SpiffeId) {
        self.agents().remove(agent);
    }

    fn update(&self, agent: &SpiffeId, change: impl FnOnce(&mut AgentPresence)) {
        change(self.agents().entry(agent.clone()).or_default());
        self.shared.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<SpiffeId, AgentPresence>> {
        // Each critical section leaves the map whole, so a panic elsewhere did not break it.
        self.shared.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open stream; dropping it tells that it has ended.
#[derive(Debug)]
pub struct Connection {
    presence: Presence,
    agent: SpiffeId,
    stream: u64,
}

impl Connection {
    /// The agent has applied everything up to `revision`. Acknowledgements of a stream that has been replaced, and
    /// lower ones, change nothing.
    pub fn acknowledge(&self, revision: u64) {
        self.presence.update(&self.agent, |presence| {
            if presence.newest == self.stream {
                presence.acknowledged = presence.acknowledged.max(revision);
            }
        });
    }

    /// What the agent still uses of the authorities that were tainted up to `revision`.
    pub fn renewals(&self, revision: u64, remaining: u32) {
        self.presence.update(&self.agent, |presence| {
            if presence.newest == self.stream {
                presence.renewed = if remaining == 0 { presence.renewed.max(revision) } else { 0 };
            }
        });
    }

    /// The agent's own SVID was renewed on this stream.
    pub fn renewed(&self, svid_expires_at: UnixTime) {
        self.presence.update(&self.agent, |presence| presence.svid_expires_at = Some(svid_expires_at));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.presence.update(&self.agent, |presence| presence.streams = presence.streams.saturating_sub(1));
    }
}
