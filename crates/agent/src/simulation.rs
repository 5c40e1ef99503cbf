//! An agent without sockets, files and processes, for simulations: its state machines, and what it stores as values.
//! What [`SimulatedAgent::act`] does is what `engine` does, in one thread; it can crash between any two effects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bonafide_attest::{SelectorSet, registration::digest_item};
use bonafide_crypto::{
    digest::SetDigest,
    key::{KeyAlgorithm, PrivateKey},
    random::Random,
};
use bonafide_identity::{
    BundleMap, InstanceId, Revocations, SpiffeId, TrustDomain,
    bundle::{BundleError, TrustBundle},
    time::UnixTime,
};
use bonafide_wire::{
    node::{AuthorityMessage, Hello, Update, agent_message},
    types::Problem,
};
use bytes::Bytes;

use crate::{
    core::{Core, Disconnect, Effect, Habits, LaunchKey, Saved},
    credential::{Credential, StrictLeaf},
    process::Image,
};

/// One agent.
#[derive(Debug)]
pub struct SimulatedAgent {
    trust_domain: TrustDomain,
    random: Arc<dyn Random>,
    core: Core,
    disk: Disk,
    sent: Vec<agent_message::Kind>,
    /// Effects that are done before the agent crashes.
    crash_after: Option<usize>,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
struct Disk {
    saved: BTreeMap<InstanceId, Saved>,
    view: Option<Update>,
    node: Option<(Arc<Credential>, UnixTime)>,
    /// The last one that was published.
    bundle: Bytes,
}

/// An SVID that is on the agent's disk, of a launch or of the pool.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its instance.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: u64,
    /// Registration that it was drawn under.
    pub registration: String,
    /// DER, leaf first.
    pub chain: Vec<Bytes>,
    /// Process of the launch that it is bound to.
    pub pid: Option<i32>,
    /// When it should be renewed.
    pub renew_after: UnixTime,
}

/// What a launch has of one registration.
#[derive(Clone, Debug)]
pub struct Held {
    /// The registration.
    pub registration: String,
    /// Identity that it makes, if it can.
    pub spiffe_id: Option<SpiffeId>,
    /// Its SVID.
    pub svid: Option<HeldSvid>,
    /// Why there is none, or no newer one.
    pub problem: String,
    /// Its instance was revoked.
    pub withheld: bool,
}

/// An SVID that a process gets.
#[derive(Clone, Debug)]
pub struct HeldSvid {
    /// Its instance.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: u64,
    /// DER, leaf first.
    pub chain: Vec<Bytes>,
    /// Its end.
    pub not_after: UnixTime,
    /// When it should be renewed.
    pub renew_after: UnixTime,
}

impl SimulatedAgent {
    /// An agent that has joined.
    ///
    /// # Errors
    /// If the chain does not fit the key.
    pub fn new(
        trust_domain: TrustDomain,
        random: Arc<dyn Random>,
        chain: Vec<Bytes>,
        key: Arc<PrivateKey>,
        renew_after: UnixTime,
        bundle: Bytes,
    ) -> Result<Self, crate::credential::CredentialError> {
        let node = Arc::new(Credential::new(chain, key, &StrictLeaf)?);
        let mut core = empty(&trust_domain, &random);
        core.set_node(Arc::clone(&node), renew_after);
        let disk = Disk { node: Some((node, renew_after)), bundle, ..Disk::default() };
        Ok(Self { trust_domain, random, core, disk, sent: Vec::new(), crash_after: None })
    }

    /// An agent that has not started yet, with a copy of this one's disk: a clone.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self {
            trust_domain: self.trust_domain.clone(),
            random: Arc::clone(&self.random),
            core: empty(&self.trust_domain, &self.random),
            disk: self.disk.clone(),
            sent: Vec::new(),
            crash_after: None,
        }
    }

    /// Does only so many effects of the next events, then crashes.
    pub fn crash_after(&mut self, effects: usize) {
        self.crash_after = Some(effects);
    }

    /// Starts again from what was stored; `running` are the processes that still live.
    pub fn restart(&mut self, running: &BTreeSet<(i32, u64)>, now: UnixTime) {
        self.crash_after = None;
        self.sent.clear();
        let mut core = empty(&self.trust_domain, &self.random);
        if let Some((credential, renew_after)) = &self.disk.node {
            core.set_node(Arc::clone(credential), *renew_after);
        }
        let lives = |key: &LaunchKey| running.contains(&(key.pid, key.image.start_time));
        core.restore(self.disk.view.clone(), self.disk.saved.values().cloned().collect(), lives, now);
        self.core = core;
        let _crashed = self.act(now, |_, _| ());
    }

    /// A stream is open to this server.
    pub fn connected(&mut self, server: &str) -> Hello {
        self.core.connected(server)
    }

    /// The stream is gone. `None`: the agent has crashed.
    pub fn disconnected(&mut self, now: UnixTime) -> Option<()> {
        self.act(now, Core::disconnected)
    }

    /// The authority has refused a connection, with this code. `None`: the agent has crashed.
    pub fn refused(&mut self, code: &str, now: UnixTime) -> Option<()> {
        let problem = Problem { code: code.to_owned(), ..Problem::default() };
        self.act(now, |core, now| core.refused(&problem, now).is_err()).map(|_| ())
    }

    /// A message of the authority; `Some(Err)` when the stream must be closed. `None`: the agent has crashed.
    pub fn message(&mut self, message: AuthorityMessage, now: UnixTime) -> Option<Result<(), String>> {
        let heard = self.act(now, |core, now| core.message(message, now))?;
        Some(heard.map_err(|why| match why {
            Disconnect::Violation(violation) => violation.to_string(),
            Disconnect::Banned => "banned".to_owned(),
            Disconnect::Contradiction(contradiction) => contradiction.to_string(),
        }))
    }

    /// Time has passed. `None`: the agent has crashed.
    pub fn tick(&mut self, now: UnixTime) -> Option<()> {
        self.act(now, Core::tick)
    }

    /// When it wants to be called next.
    #[must_use]
    pub fn next_tick(&self) -> Option<UnixTime> {
        self.core.next_tick()
    }

    /// A process asks for its SVIDs. `None`: the agent has crashed.
    pub fn launch(&mut self, process: (i32, u64), selectors: SelectorSet, now: UnixTime) -> Option<bool> {
        self.act(now, |core, now| core.attach(launch_key(process), selectors, now).is_ok())
    }

    /// A process has ended. `None`: the agent has crashed.
    pub fn end(&mut self, process: (i32, u64), now: UnixTime) -> Option<()> {
        self.act(now, |core, now| core.ended(launch_key(process), now))
    }

    /// What is to be sent since this was last asked.
    pub fn take_sent(&mut self) -> Vec<agent_message::Kind> {
        std::mem::take(&mut self.sent)
    }

    /// Whether the authority has confirmed on the present stream that it is up to date.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.core.is_synced()
    }

    /// Incarnation and revision that it follows.
    #[must_use]
    pub fn position(&self) -> (Bytes, u64) {
        (self.core.view.to_snapshot().incarnation, self.core.view.revision())
    }

    /// Digest of the registrations that it has, computed from them.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = SetDigest::default();
        for registration in self.core.view.to_snapshot().upserts {
            digest.insert(&digest_item(&registration.id, registration.revision));
        }
        digest.bytes()
    }

    /// The trust bundle that it serves and judges by (JWKS).
    #[must_use]
    pub fn bundle(&self) -> &Bytes {
        &self.disk.bundle
    }

    /// What it knows to be revoked.
    #[must_use]
    pub fn revocations(&self) -> &Arc<Revocations> {
        self.core.view.revocations()
    }

    /// Whom it judges by.
    ///
    /// # Errors
    /// A bundle that can't be read.
    pub fn trust(&self) -> Result<BundleMap, BundleError> {
        let bundle = TrustBundle::parse(&self.trust_domain, &self.disk.bundle)?;
        Ok(BundleMap::from(bundle).with_revocations(Arc::clone(self.revocations())))
    }

    /// Its own SVID (DER, leaf first).
    #[must_use]
    pub fn node_chain(&self) -> Vec<Bytes> {
        self.disk.node.iter().flat_map(|(credential, _)| credential.chain().to_vec()).collect()
    }

    /// End of its own SVID.
    #[must_use]
    pub fn node_expiry(&self) -> Option<UnixTime> {
        self.core.node_expiry()
    }

    /// Every SVID that lives here.
    #[must_use]
    pub fn kept(&self) -> Vec<Kept> {
        let living = self.disk.saved.values().filter(|saved| saved.ended_at.is_none());
        living
            .map(|saved| Kept {
                instance: saved.id,
                generation: saved.generation,
                registration: saved.registration.clone(),
                chain: saved.chain.clone(),
                pid: saved.binding.as_ref().map(|binding| binding.launch.pid),
                renew_after: saved.renew_after,
            })
            .collect()
    }

    /// What a process is given: nothing while the agent is cut off.
    #[must_use]
    pub fn held(&self, process: (i32, u64)) -> Vec<Held> {
        if self.core.check_ready().is_err() {
            return Vec::new();
        }
        let identities = self.core.identities(&launch_key(process)).into_iter();
        identities
            .map(|identity| Held {
                registration: identity.registration.id.clone(),
                spiffe_id: identity.spiffe_id,
                svid: identity.held.map(|held| HeldSvid {
                    instance: held.instance,
                    generation: held.generation,
                    chain: held.credential.chain().to_vec(),
                    not_after: held.credential.not_after(),
                    renew_after: held.renew_after,
                }),
                withheld: identity.is_withheld,
                problem: identity.problem.map(|problem| problem.code).unwrap_or_default(),
            })
            .collect()
    }

    /// Registrations that a process with these selectors should have.
    #[must_use]
    pub fn matching(&self, selectors: &SelectorSet, now: UnixTime) -> BTreeSet<String> {
        self.core.matches(selectors, now).into_iter().map(|(id, _)| id.to_string()).collect()
    }

    /// Lets something happen, and does what follows from it, in order.
    fn act<R>(&mut self, now: UnixTime, act: impl FnOnce(&mut Core, UnixTime) -> R) -> Option<R> {
        self.core.observe(now);
        let result = act(&mut self.core, now);
        let mut view_changed = false;
        for effect in self.core.take_effects() {
            if let Some(left) = &mut self.crash_after {
                *left = left.checked_sub(1)?;
            }
            match effect {
                Effect::Send(kind) | Effect::Witnessed(kind) => self.sent.push(kind),
                Effect::Save(saved) => {
                    self.disk.saved.insert(saved.id, *saved);
                }
                Effect::Forget(id) => {
                    self.disk.saved.remove(&id);
                }
                Effect::SaveView => view_changed = true,
                Effect::Node(credential, renew_after) => self.disk.node = Some((credential, renew_after)),
                Effect::Banned(_) => self.disk = Disk::default(),
                Effect::Trust => self.disk.bundle = self.core.view.bundle().clone(),
                Effect::Current
                | Effect::InstanceBack(_)
                | Effect::InstanceOver(..)
                | Effect::Launch(_)
                | Effect::LeasesEnded(_)
                | Effect::Policies
                | Effect::Registrations
                | Effect::Revocations
                | Effect::Silent
                | Effect::Jwt(..) => {}
            }
        }
        if view_changed {
            self.disk.view = Some(self.core.view.to_snapshot());
        }
        Some(result)
    }
}

fn empty(trust_domain: &TrustDomain, random: &Arc<dyn Random>) -> Core {
    let key = KeyAlgorithm::EcP256;
    let habits = Habits { pool_size: 1, pool_limit: 100, max_launches: 100, weak: false, key };
    Core::new(trust_domain.clone(), habits, Arc::clone(random), Arc::new(StrictLeaf))
}

fn launch_key((pid, start_time): (i32, u64)) -> LaunchKey {
    LaunchKey { pid, image: Image { start_time, exe_device: 1, exe_inode: 1, layout: [1; 5] } }
}
