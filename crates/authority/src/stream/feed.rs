//! The newest changes of the log, sorted by site: what streams tell their agents.
//!
//! A change wakes the streams that it concerns, and no other; nothing is read again from the state.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bonafide_attest::registration::Registration;
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::SpiffeId;
use bonafide_identity::bundle::TrustBundle;
use bonafide_ledger::Bindings;
use bonafide_net::drain::Shutdown;
use bonafide_wire::types;
use bytes::Bytes;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::task::TaskTracker;

use super::revoked::RevocationRing;
use super::session::{AgentChange, AgentView, Changes, Head};
use crate::convert;
use crate::presence::{Concern, Presence};
use crate::records::{Agent, Object};
use crate::registry::{Applied, Registry};
use crate::state::{AppliedChange, State};

/// Changes that are remembered of each site. An agent that was away for more gets a snapshot.
const MAX_CHANGES: usize = 16_384;

/// The ring of every site.
#[derive(Debug)]
pub(crate) struct Feed {
    registry: Registry,
    presence: Presence,
    rings: Mutex<Rings>,
    /// The revision up to which the rings are complete.
    revision: watch::Sender<u64>,
    /// The newest bundle document, by its sequence.
    document: Mutex<Option<(Option<u64>, Bytes)>>,
}

/// What one agent may see.
#[derive(Debug)]
pub(crate) struct View<'a> {
    feed: &'a Feed,
    state: Arc<State>,
    agent: &'a Agent,
    concern: &'a Concern,
}

/// A stream that is woken when there is something to tell, until this is dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    feed: Arc<Feed>,
    site: String,
    agent: SpiffeId,
    stream: Arc<Listener>,
}

#[derive(Debug)]
struct Listener {
    concern: Arc<Concern>,
    wake: Notify,
}

#[derive(Debug)]
struct Rings {
    sites: HashMap<String, Ring>,
    /// By site, then by agent.
    streams: HashMap<String, HashMap<SpiffeId, Vec<Arc<Listener>>>>,
    revision: u64,
    /// Of sites that have no ring yet.
    floor: u64,
    bundle: Option<Arc<TrustBundle>>,
    bundle_revision: u64,
    incarnation: [u8; 16],
    /// Of all registrations of all sites.
    digest: SetDigest,
    /// Of all sites: every agent gets all of them.
    revocations: RevocationRing,
}

#[derive(Debug, Default)]
struct Ring {
    changes: VecDeque<Touched>,
    floor: u64,
}

/// A registration that was put, moved or removed.
#[derive(Clone, Debug)]
struct Touched {
    revision: u64,
    id: Arc<str>,
    before: Option<Arc<Registration>>,
    after: Option<(Arc<Registration>, Arc<types::Registration>)>,
}

impl Feed {
    /// Follows `registry` until `shutdown`.
    pub(crate) fn start(
        registry: Registry,
        presence: Presence,
        tasks: &TaskTracker,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        let applied = registry.subscribe();
        let state = registry.state();
        let rings = Rings::at(&state);
        let feed = Arc::new(Self {
            registry,
            presence,
            revision: watch::Sender::new(rings.revision),
            rings: Mutex::new(rings),
            document: Mutex::new(None),
        });
        tasks.spawn(Arc::clone(&feed).follow(applied, shutdown));
        feed
    }

    /// Wakes a stream of `agent` whenever there is something to tell it. `concern` says how far.
    pub(crate) fn subscribe(self: &Arc<Self>, agent: &Agent, concern: Arc<Concern>) -> Subscription {
        let stream = Arc::new(Listener { concern, wake: Notify::new() });
        let (site, agent) = (agent.site.clone(), agent.id.clone());
        let mut rings = self.rings();
        let streams = rings.streams.entry(site.clone()).or_default().entry(agent.clone()).or_default();
        streams.push(Arc::clone(&stream));
        drop(rings);
        Subscription { feed: Arc::clone(self), site, agent, stream }
    }

    /// What `agent` may see now. Not to be kept: the registry pays for old states.
    pub(crate) fn view<'a>(&'a self, agent: &'a Agent, concern: &'a Concern) -> View<'a> {
        View { feed: self, state: self.registry.state(), agent, concern }
    }

    /// Waits until the rings know all that the state knew when this was called.
    pub(crate) async fn caught_up(&self) {
        let revision = self.registry.state().revision();
        let mut reached = self.revision.subscribe();
        let _closed = reached.wait_for(|reached| *reached >= revision).await;
    }

    /// What a checkpoint of the ledger says of the store. It does not know of the ledger's lives.
    pub(crate) fn bindings(&self) -> Bindings {
        let rings = self.rings();
        Bindings {
            incarnation: rings.incarnation,
            revision: rings.revision,
            set_digest: rings.digest.bytes(),
            life: 0,
        }
    }

    /// The bundle document, encoded once for all.
    pub(crate) fn document(&self, bundle: &Arc<TrustBundle>) -> Bytes {
        let mut document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        match &*document {
            Some((sequence, bytes)) if *sequence == bundle.sequence => bytes.clone(),
            _ => {
                let bytes = Bytes::from(bundle.to_json());
                *document = Some((bundle.sequence, bytes.clone()));
                bytes
            }
        }
    }

    async fn follow(self: Arc<Self>, mut applied: broadcast::Receiver<Applied>, shutdown: Shutdown) {
        loop {
            let next = tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                next = applied.recv() => next,
            };
            match next {
                Ok(applied) if !applied.reset => self.note(&applied),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => self.start_over(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn note(&self, applied: &Applied) {
        let bundle = Arc::clone(self.registry.state().bundle());
        let mut rings = self.rings();
        if applied.revision <= rings.revision {
            return;
        }
        let known = rings.revision;
        let new = || applied.changes.iter().filter(|change| change.revision > known);
        for change in new() {
            rings.note(change.revision, change.before.as_ref(), change.after.as_ref());
        }
        rings.revocations.seal();
        rings.wake_concerned(new(), applied.revision);
        rings.revision = applied.revision;
        // Two copies of the state take turns, each with a bundle of its own: the sequence tells.
        if rings.bundle.as_ref().is_none_or(|known| known.sequence != bundle.sequence) {
            rings.bundle = Some(bundle);
            rings.bundle_revision = applied.revision;
            rings.wake_all(applied.revision);
        }
        drop(rings);
        self.presence.noted(applied.revision);
        self.revision.send_replace(applied.revision);
    }

    /// Changes were missed: everybody gets a snapshot.
    fn start_over(&self) {
        let state = self.registry.state();
        let revision = state.revision();
        let mut rings = self.rings();
        let streams = std::mem::take(&mut rings.streams);
        *rings = Rings { bundle_revision: revision, streams, ..Rings::at(&state) };
        rings.wake_all(revision);
        drop(rings);
        self.presence.noted(revision);
        self.revision.send_replace(revision);
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The stream has begun with the state of this revision; what came since may concern it.
    pub(crate) fn begin(&self, told: u64) {
        let rings = self.feed.rings();
        self.stream.concern.begin(told.max(rings.revision));
        if rings.revision > told {
            self.stream.wake.notify_one();
        }
    }

    /// Resolves when there may be something to tell.
    pub(crate) async fn changed(&self) {
        self.stream.wake.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut rings = self.feed.rings();
        if let Some(agents) = rings.streams.get_mut(&self.site) {
            if let Some(streams) = agents.get_mut(&self.agent) {
                streams.retain(|stream| !Arc::ptr_eq(stream, &self.stream));
                if streams.is_empty() {
                    agents.remove(&self.agent);
                }
            }
            if agents.is_empty() {
                rings.streams.remove(&self.site);
            }
        }
    }
}

impl Listener {
    fn wake(&self, revision: u64) {
        self.concern.reach(revision);
        self.wake.notify_one();
    }
}

impl AgentView for View<'_> {
    fn head(&self) -> Head {
        Head {
            incarnation: *self.state.incarnation().as_bytes(),
            revision: self.state.revision(),
            digest: self.state.digest_of(self.agent),
            bundle: self.feed.document(self.state.bundle()),
            revocations: Arc::clone(self.state.revocations()),
            policies: self.state.policies_of(self.agent),
        }
    }

    fn hosted(&self) -> Vec<types::Registration> {
        let hosted = self.state.registrations_of(self.agent);
        hosted.map(|registration| convert::wire::for_agents(&registration)).collect()
    }

    fn changes(&self, since: u64) -> Option<Changes> {
        let rings = self.feed.rings();
        // Marked under the same lock: of all that is in the rings, nothing after that concerns the agent.
        if self.concern.revision() <= since && since <= rings.revision {
            let revision = rings.revision;
            let revocations = rings.revocations.since(revision);
            return Some(Changes {
                revision,
                registrations: Vec::new(),
                bundle: None,
                revocations,
                policies: None,
            });
        }
        let ring = rings.sites.get(&self.agent.site);
        if since < ring.map_or(rings.floor, |ring| ring.floor) {
            return None;
        }
        let mut registrations = Vec::new();
        if let Some(ring) = ring {
            let start = ring.changes.partition_point(|change| change.revision <= since);
            registrations.extend(ring.changes.range(start..).filter_map(|change| change.seen_by(self.agent)));
        }
        let bundle = if rings.bundle_revision > since { rings.bundle.clone() } else { None };
        let revision = rings.revision;
        let revocations = rings.revocations.since(since);
        drop(rings);
        let bundle = bundle.map(|bundle| self.feed.document(&bundle));
        // The state may be ahead of the rings, and never behind them.
        let policies = Some(self.feed.registry.state().policies_of(self.agent));
        Some(Changes { revision, registrations, bundle, revocations, policies })
    }
}

impl Rings {
    fn at(state: &State) -> Self {
        Self {
            revision: state.revision(),
            floor: state.revision(),
            bundle: Some(Arc::clone(state.bundle())),
            incarnation: *state.incarnation().as_bytes(),
            digest: state.digest(),
            revocations: RevocationRing::at(state.revocations(), state.revision()),
            sites: HashMap::new(),
            streams: HashMap::new(),
            bundle_revision: 0,
        }
    }

    /// Wakes the streams that have something to tell because of changes, which lead to `revision`.
    fn wake_concerned<'a>(&self, changes: impl Iterator<Item = &'a AppliedChange>, revision: u64) {
        let mut sites = BTreeSet::new();
        for object in changes.flat_map(|change| change.before.iter().chain(&change.after)) {
            match object {
                Object::Registration(registration) => match &registration.parent {
                    Some(parent) => self.wake(&registration.site, parent, revision),
                    None => _ = sites.insert(registration.site.as_str()),
                },
                // Banned, perhaps.
                Object::Agent(agent) => self.wake(&agent.site, &agent.id, revision),
                Object::Site(site) => _ = sites.insert(site.name.as_ref()),
                Object::Policy(policy) if policy.sites.is_empty() => return self.wake_all(revision),
                Object::Policy(policy) => sites.extend(policy.sites.iter().map(String::as_str)),
                // Who is vouched for by a key that is not trusted any more must go.
                Object::SigningKey(_) | Object::Revocation(_) => return self.wake_all(revision),
                _ => {}
            }
        }
        let agents = sites.into_iter().filter_map(|site| self.streams.get(site)).flat_map(HashMap::values);
        agents.flatten().for_each(|stream| stream.wake(revision));
    }

    fn wake(&self, site: &str, agent: &SpiffeId, revision: u64) {
        let streams = self.streams.get(site).and_then(|agents| agents.get(agent));
        streams.into_iter().flatten().for_each(|stream| stream.wake(revision));
    }

    fn wake_all(&self, revision: u64) {
        let agents = self.streams.values().flat_map(HashMap::values);
        agents.flatten().for_each(|stream| stream.wake(revision));
    }

    fn note(&mut self, revision: u64, before: Option<&Object>, after: Option<&Object>) {
        self.revocations.note(revision, before, after);
        let registration = |object: Option<&Object>| match object {
            Some(Object::Registration(registration)) => Some(Arc::clone(registration)),
            _ => None,
        };
        let (before, after) = (registration(before), registration(after));
        if let Some(before) = &before {
            self.digest.remove(&before.digest_item());
        }
        if let Some(after) = &after {
            self.digest.insert(&after.digest_item());
        }
        let Some(id) =
            after.as_ref().or(before.as_ref()).map(|registration| Arc::from(registration.id.as_str()))
        else {
            return;
        };
        let after = after.map(|after| {
            let wire = Arc::new(convert::wire::for_agents(&after));
            (after, wire)
        });
        let site = after.as_ref().map(|(after, _)| after.site.clone());
        let left =
            before.as_ref().map(|before| before.site.clone()).filter(|left| Some(left) != site.as_ref());
        let touched = Touched { revision, id, before, after };
        for site in site.into_iter().chain(left) {
            let floor = self.floor;
            let ring = self.sites.entry(site).or_insert_with(|| Ring { floor, ..Ring::default() });
            ring.push(touched.clone());
        }
    }
}

impl Ring {
    fn push(&mut self, touched: Touched) {
        if self.changes.len() >= MAX_CHANGES
            && let Some(oldest) = self.changes.pop_front()
        {
            self.floor = oldest.revision;
        }
        self.changes.push_back(touched);
    }
}

impl Touched {
    /// None if it is none of the agent's business.
    fn seen_by(&self, agent: &Agent) -> Option<AgentChange> {
        let hosted = |registration: &&Arc<Registration>| {
            registration.site == agent.site
                && registration.parent.as_ref().is_none_or(|parent: &SpiffeId| *parent == agent.id)
        };
        let before = self.before.as_ref().filter(hosted).map(|before| before.revision);
        let after = self.after.as_ref().filter(|(after, _)| hosted(&after)).map(|(_, wire)| Arc::clone(wire));
        (before.is_some() || after.is_some()).then(|| AgentChange { id: Arc::clone(&self.id), before, after })
    }
}
