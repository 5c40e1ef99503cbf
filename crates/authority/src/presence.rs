//! Which agents are connected, and how far each has followed the log. In memory: it belongs to the streams.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bonafide_identity::{SpiffeId, time::UnixTime};
use tokio::sync::Notify;

/// The agents that have a stream to this server, or had one.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    agents: Mutex<BTreeMap<SpiffeId, AgentPresence>>,
    /// The revision up to which every [`Concern`] is complete.
    noted: AtomicU64,
    /// Counts changes.
    count: AtomicU64,
    changed: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            agents: Mutex::default(),
            noted: AtomicU64::new(0),
            count: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }
}

/// Changes of who is there and how far along. Those who wait are woken in the order in which they began to, so that the
/// same history of events is always the same history of servers.
#[derive(Debug)]
pub struct PresenceChanges {
    shared: Arc<Shared>,
    seen: u64,
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
    /// Of the newest stream.
    concern: Arc<Concern>,
}

/// The last revision with something to tell one stream. Whoever has acknowledged it knows all that there is after it,
/// too; so a change costs nothing for those whom it does not concern.
#[derive(Debug)]
pub struct Concern(AtomicU64);

impl Default for Concern {
    /// Everything concerns a stream that has not begun.
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Concern {
    /// The last revision with something to tell.
    pub(crate) fn revision(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The stream begins with the state of this revision.
    pub(crate) fn begin(&self, revision: u64) {
        self.0.store(revision, Ordering::Release);
    }

    /// There is something to tell at this revision.
    pub(crate) fn reach(&self, revision: u64) {
        self.0.fetch_max(revision, Ordering::AcqRel);
    }
}

impl PartialEq for Concern {
    fn eq(&self, other: &Self) -> bool {
        self.revision() == other.revision()
    }
}

impl Eq for Concern {}

impl Shared {
    fn tell(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}

impl PresenceChanges {
    /// What has changed until now does not count.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.count.load(Ordering::Acquire);
    }

    /// Resolves when something has changed since this was last asked.
    pub async fn changed(&mut self) {
        loop {
            // Listens before it looks.
            let told = self.shared.changed.notified();
            let count = self.shared.count.load(Ordering::Acquire);
            if count != self.seen {
                self.seen = count;
                return;
            }
            told.await;
        }
    }
}

impl AgentPresence {
    /// Whether a stream is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.streams > 0
    }

    /// As it is once all concerns are known up to `noted`: whoever knows what concerns it knows everything.
    fn at(&self, noted: u64) -> Self {
        let mut presence = self.clone();
        if self.is_connected() && self.concern.revision() <= self.acknowledged {
            presence.acknowledged = self.acknowledged.max(noted);
        }
        presence
    }

    /// `noted`: whether the concern knows of `revision`.
    fn is_behind(&self, revision: u64, noted: bool) -> bool {
        self.is_connected()
            && self.acknowledged < revision
            && !(noted && self.concern.revision() <= self.acknowledged)
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
        let concern: Arc<Concern> = Arc::default();
        self.update(&agent, |presence| {
            presence.streams += 1;
            presence.newest += 1;
            presence.acknowledged = 0;
            presence.renewed = 0;
            presence.svid_expires_at = Some(svid_expires_at);
            version.clone_into(&mut presence.version);
            presence.concern = Arc::clone(&concern);
            stream = presence.newest;
        });
        Connection { presence: self.clone(), agent, stream, concern }
    }

    /// An agent that was here before this server started again, as its ledger has it. `renewed`: it got an SVID here, and
    /// counts only if it was connected then.
    pub(crate) fn remember(&self, agent: SpiffeId, svid_expires_at: UnixTime, renewed: bool) {
        let mut agents = self.agents();
        if renewed && !agents.contains_key(&agent) {
            return;
        }
        let known = &mut agents.entry(agent).or_default().svid_expires_at;
        *known = (*known).max(Some(svid_expires_at));
    }

    /// Whether this server has seen what an agent shows, or something that lives longer.
    pub(crate) fn knows(&self, agent: &SpiffeId, svid_expires_at: UnixTime) -> bool {
        let agents = self.agents();
        let known = agents.get(agent).and_then(|presence| presence.svid_expires_at);
        known.is_some_and(|end| end >= svid_expires_at)
    }

    /// One agent; `None` if it never connected to this server.
    #[must_use]
    pub fn agent(&self, agent: &SpiffeId) -> Option<AgentPresence> {
        let noted = self.shared.noted.load(Ordering::Acquire);
        self.agents().get(agent).map(|presence| presence.at(noted))
    }

    /// All up to `revision` has reached the [`Concern`]s of the streams.
    pub(crate) fn noted(&self, revision: u64) {
        self.shared.noted.fetch_max(revision, Ordering::AcqRel);
        self.shared.tell();
    }

    /// How many agents are connected, of those that `filter` lets through.
    pub fn connected(&self, filter: impl Fn(&SpiffeId) -> bool) -> usize {
        self.agents().iter().filter(|(id, presence)| presence.is_connected() && filter(id)).count()
    }

    /// Connected agents that have not acknowledged `revision`, of those that `filter` lets through.
    pub fn behind(&self, revision: u64, filter: impl Fn(&SpiffeId) -> bool) -> Vec<SpiffeId> {
        let noted = self.is_noted(revision);
        self.agents()
            .iter()
            .filter(|(id, presence)| presence.is_behind(revision, noted) && filter(id))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Agents of which something that is in use may not be as `done` says: those that are connected, and those that were,
    /// until what they went away with has expired. After that nobody believes them, so they can't be harmed.
    pub fn missing(&self, now: UnixTime, done: impl Fn(&AgentPresence) -> bool) -> Vec<SpiffeId> {
        let counts = |presence: &AgentPresence| {
            presence.is_connected() || presence.svid_expires_at.is_some_and(|end| end > now)
        };
        let noted = self.shared.noted.load(Ordering::Acquire);
        let agents = self.agents();
        let missing = agents.iter().filter(|(_, presence)| counts(presence) && !done(&presence.at(noted)));
        missing.map(|(id, _)| id.clone()).collect()
    }

    /// The first agent from `from` on that is behind.
    fn first_behind(
        &self,
        revision: u64,
        from: Bound<&SpiffeId>,
        filter: impl Fn(&SpiffeId) -> bool,
    ) -> Option<SpiffeId> {
        let noted = self.is_noted(revision);
        let agents = self.agents();
        let mut later = agents.range::<SpiffeId, _>((from, Bound::Unbounded));
        later
            .find(|(id, presence)| presence.is_behind(revision, noted) && filter(id))
            .map(|(id, _)| id.clone())
    }

    fn is_noted(&self, revision: u64) -> bool {
        revision <= self.shared.noted.load(Ordering::Acquire)
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
            // Whoever is behind is waited for; those before have caught up. So an acknowledgement costs one look.
            let mut waited_for: Option<SpiffeId> = None;
            loop {
                changed.mark_unchanged();
                let from = waited_for.as_ref().map_or(Bound::Unbounded, Bound::Included);
                waited_for = match self.first_behind(revision, from, &filter) {
                    // One may have connected in the meantime.
                    None => self.first_behind(revision, Bound::Unbounded, &filter),
                    behind => behind,
                };
                if waited_for.is_none() {
                    return;
                }
                changed.changed().await;
            }
        };
        // Whether in time or not, the answer is what is true now.
        let _ = tokio::time::timeout(timeout, caught_up).await;
        self.behind(revision, &filter)
    }

    /// Wakes at every connection, acknowledgement and disconnection.
    #[must_use]
    pub fn changes(&self) -> PresenceChanges {
        let seen = self.shared.count.load(Ordering::Acquire);
        PresenceChanges { shared: Arc::clone(&self.shared), seen }
    }

    /// Forgets an agent that was removed.
    pub fn forget(&self, agent: &SpiffeId) {
        self.agents().remove(agent);
    }

    fn update(&self, agent: &SpiffeId, change: impl FnOnce(&mut AgentPresence)) {
        change(self.agents().entry(agent.clone()).or_default());
        self.shared.tell();
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
    concern: Arc<Concern>,
}

impl Connection {
    /// The last revision with something to tell this stream.
    #[must_use]
    pub(crate) fn concern(&self) -> &Arc<Concern> {
        &self.concern
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_waited_for_only_by_those_whom_it_concerns() {
        let presence = Presence::new();
        let connect = |name: &str| {
            let agent = format!("spiffe://td/bonafide/agent/edge/{name}").parse().unwrap();
            presence.connect(agent, UnixTime::from_secs(0), "")
        };
        let (one, two) = (connect("one"), connect("two"));
        assert_eq!(presence.behind(5, |_| true).len(), 2, "everything concerns a stream that has not begun");
        for connection in [&one, &two] {
            connection.concern().begin(5);
            connection.acknowledge(5);
        }
        presence.noted(5);
        assert!(presence.behind(5, |_| true).is_empty());
        assert_eq!(presence.behind(8, |_| true).len(), 2, "nobody knows yet whom it concerns");
        two.concern().reach(8);
        presence.noted(9);
        assert_eq!(presence.behind(8, |_| true), std::slice::from_ref(&two.agent));
        assert_eq!(presence.agent(&one.agent).unwrap().acknowledged, 9);
        assert_eq!(presence.agent(&two.agent).unwrap().acknowledged, 5);
        assert_eq!(
            presence.wait(8, Duration::from_secs(1), |_| true).await,
            std::slice::from_ref(&two.agent)
        );
        let waiting = presence.wait(8, Duration::from_secs(60), |_| true);
        let acknowledged = async { two.acknowledge(8) };
        assert!(tokio::join!(waiting, acknowledged).0.is_empty());
    }
}
