//! The newest changes of the log, sorted by site: what streams tell their agents.
//!
//! A change costs each stream a wake-up, and those of its site the look at it; nothing is read again from the state.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bonafide_attest::registration::Registration;
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::SpiffeId;
use bonafide_identity::bundle::TrustBundle;
use bonafide_ledger::Bindings;
use bonafide_net::drain::Shutdown;
use bonafide_wire::types;
use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio_util::task::TaskTracker;

use super::revoked::RevocationRing;
use super::session::{AgentChange, AgentView, Changes, Head};
use crate::convert;
use crate::records::{Agent, Object};
use crate::registry::{Applied, Registry};
use crate::state::State;

/// Changes that are remembered of each site. An agent that was away for more gets a snapshot.
const MAX_CHANGES: usize = 16_384;

/// The ring of every site.
#[derive(Debug)]
pub(crate) struct Feed {
    registry: Registry,
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
}

#[derive(Debug)]
struct Rings {
    sites: HashMap<String, Ring>,
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
    pub(crate) fn start(registry: Registry, tasks: &TaskTracker, shutdown: Shutdown) -> Arc<Self> {
        let applied = registry.subscribe();
        let state = registry.state();
        let rings = Rings::at(&state);
        let feed = Arc::new(Self {
            registry,
            revision: watch::Sender::new(rings.revision),
            rings: Mutex::new(rings),
            document: Mutex::new(None),
        });
        tasks.spawn(Arc::clone(&feed).follow(applied, shutdown));
        feed
    }

    /// Wakes whenever there may be something to tell.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// What `agent` may see now. Not to be kept: the registry pays for old states.
    pub(crate) fn view<'a>(&'a self, agent: &'a Agent) -> View<'a> {
        View { feed: self, state: self.registry.state(), agent }
    }

    /// Waits until the rings know all that the state knew when this was called.
    pub(crate) async fn caught_up(&self) {
        let revision = self.registry.state().revision();
        let mut reached = self.revision.subscribe();
        let _closed = reached.wait_for(|reached| *reached >= revision).await;
    }

    /// What a checkpoint of the ledger says of the store.
    pub(crate) fn bindings(&self) -> Bindings {
        let rings = self.rings();
        Bindings {
            incarnation: rings.incarnation,
            revision: rings.revision,
            set_digest: rings.digest.bytes(),
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
        for change in applied.changes.iter() {
            if change.revision > rings.revision {
                rings.note(change.revision, change.before.as_ref(), change.after.as_ref());
            }
        }
        rings.revocations.seal();
        rings.revision = applied.revision;
        // Two copies of the state take turns, each with a bundle of its own: the sequence tells.
        if rings.bundle.as_ref().is_none_or(|known| known.sequence != bundle.sequence) {
            rings.bundle = Some(bundle);
            rings.bundle_revision = applied.revision;
        }
        drop(rings);
        self.revision.send_replace(applied.revision);
    }

    /// Changes were missed: everybody gets a snapshot.
    fn start_over(&self) {
        let state = self.registry.state();
        let revision = state.revision();
        let mut rings = self.rings();
        *rings = Rings { bundle_revision: revision, ..Rings::at(&state) };
        drop(rings);
        self.revision.send_replace(revision);
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digest of all registrations of all sites.
pub(crate) fn set_digest(state: &State) -> SetDigest {
    let mut digest = SetDigest::default();
    for registration in state.registrations_after("") {
        digest.insert(&registration.digest_item());
    }
    digest
}

impl AgentView for View<'_> {
    fn head(&self) -> Head {
        Head {
            incarnation: *self.state.incarnation().as_bytes(),
            revision: self.state.revision(),
            digest: self.state.digest_of(self.agent),
            bundle: self.feed.document(self.state.bundle()),
            revocations: Arc::clone(self.state.revocations()),
        }
    }

    fn hosted(&self) -> Vec<types::Registration> {
        let hosted = self.state.registrations_of(self.agent);
        hosted.map(|registration| convert::wire::for_agents(registration)).collect()
    }

    fn changes(&self, since: u64) -> Option<Changes> {
        let rings = self.feed.rings();
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
        Some(Changes { revision, registrations, bundle, revocations })
    }
}

impl Rings {
    fn at(state: &State) -> Self {
        Self {
            revision: state.revision(),
            floor: state.revision(),
            bundle: Some(Arc::clone(state.bundle())),
            incarnation: *state.incarnation().as_bytes(),
            digest: set_digest(state),
            revocations: RevocationRing::at(state.revocations(), state.revision()),
            sites: HashMap::new(),
            bundle_revision: 0,
        }
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
