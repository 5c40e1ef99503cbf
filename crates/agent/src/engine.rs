//! Runs the core: one lock, effects done in order, time, and the ends of processes.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bonafide_attest::SelectorSet;
use bonafide_identity::{
    Certificate, Revocations, TrustDomain,
    bundle::{BundleMap, TrustBundle},
    time::{Clock, UnixTime},
    x509::X509Svid,
};
use bonafide_net::drain::Shutdown;
use bonafide_tls::{IdentitySlot, Trust};
use bonafide_wire::{
    node::{AgentMessage, AuthorityMessage, agent_message},
    types::Problem,
};
use bytes::Bytes;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, mpsc, oneshot, watch},
    task::AbortHandle,
};
use tonic::transport::Channel;

use crate::{
    core::{Core, Disconnect, Effect, LaunchKey, LaunchState},
    credential::Credential,
    keys::NodeKeys,
    process::{Evidence, Process},
    refusal::{Refusal, problem},
    storage::{SavedNode, Storage},
};

/// However far away the next event is, the wall clock is looked at this often: it may have been set, and
/// a machine may have slept.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// A token and the end of its validity, or why there is none.
pub(crate) type JwtAnswer = Result<(String, UnixTime), Refusal>;

/// A core with its surroundings.
#[derive(Debug)]
pub(crate) struct Engine {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
    storage: Storage,
    trust_domain: TrustDomain,
    identity: Arc<IdentitySlot>,
    trust: Trust,
    keys: Arc<NodeKeys>,
    published: watch::Sender<Arc<Published>>,
    registrations: watch::Sender<u64>,
    policies: watch::Sender<u64>,
    rescheduled: Notify,
    tickets: AtomicU64,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Inner {
    core: Core,
    node: Option<SavedNode>,
    stream: Option<Stream>,
    launches: HashMap<LaunchKey, watch::Sender<u64>>,
    watched: HashMap<LaunchKey, AbortHandle>,
    jwts: HashMap<u64, oneshot::Sender<JwtAnswer>>,
    connection: Connection,
}

#[derive(Debug)]
struct Stream {
    messages: mpsc::Sender<AgentMessage>,
    broken: Arc<Notify>,
    channel: Channel,
}

/// How the agent stands with its authority.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection {
    pub(crate) connected: bool,
    pub(crate) problem: Option<Problem>,
}

/// The trust bundle, in the forms in which it is served.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) version: u64,
    pub(crate) bundles: Arc<BundleMap>,
    /// What the authority has revoked. In `bundles`, too; a change of it alone leaves `version` as it is.
    pub(crate) revocations: Option<Arc<Revocations>>,
    /// Concatenated DER.
    pub(crate) x509: Bytes,
    /// JWKS with JWT keys only.
    pub(crate) jwt: Bytes,
}

impl Engine {
    pub(crate) fn new(
        core: Core,
        clock: Arc<dyn Clock>,
        storage: Storage,
        trust_domain: TrustDomain,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        let keys = NodeKeys::new(Arc::clone(&clock), Arc::clone(core.random()));
        Arc::new(Self {
            inner: Mutex::new(Inner {
                core,
                node: None,
                stream: None,
                launches: HashMap::new(),
                watched: HashMap::new(),
                jwts: HashMap::new(),
                connection: Connection::default(),
            }),
            clock,
            storage,
            trust_domain,
            identity: IdentitySlot::new(),
            trust: Trust::default(),
            keys,
            published: watch::Sender::default(),
            registrations: watch::Sender::new(0),
            policies: watch::Sender::new(0),
            rescheduled: Notify::new(),
            tickets: AtomicU64::new(0),
            shutdown,
        })
    }

    pub(crate) fn now(&self) -> UnixTime {
        self.clock.now()
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The agent's own SVID, as connections to the authority present it.
    pub(crate) fn identity(&self) -> &Arc<IdentitySlot> {
        &self.identity
    }

    /// Whom connections to the authority trust.
    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What is leased to this node.
    pub(crate) fn keys(&self) -> &Arc<NodeKeys> {
        &self.keys
    }

    /// The bundle that is served, and its changes.
    pub(crate) fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// Changes whenever some registration does.
    pub(crate) fn registrations(&self) -> watch::Receiver<u64> {
        self.registrations.subscribe()
    }

    /// Changes whenever some policy does.
    pub(crate) fn policies(&self) -> watch::Receiver<u64> {
        self.policies.subscribe()
    }

    /// Changes whenever what this launch may hold does.
    pub(crate) fn launch(&self, key: LaunchKey) -> watch::Receiver<u64> {
        let mut inner = self.lock();
        // Those that nobody listens to any more.
        if inner.launches.len() > 64 && inner.launches.len() > inner.watched.len().saturating_mul(2) {
            inner.launches.retain(|_, sender| sender.receiver_count() > 0);
        }
        inner.launches.entry(key).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Reads, or lets something happen, and does what follows from it.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Core, UnixTime) -> R) -> R {
        let now = self.now();
        let mut inner = self.lock();
        let before = inner.core.next_tick();
        inner.core.observe(now);
        let result = act(&mut inner.core, now);
        let effects = inner.core.take_effects();
        let mut view_changed = false;
        for effect in effects {
            self.perform(&mut inner, effect, &mut view_changed);
        }
        if view_changed && let Err(error) = self.storage.save_view(&inner.core.view.to_snapshot()) {
            tracing::error!(%error, "registrations are not stored: a restart without the authority will not know them");
        }
        if inner.core.next_tick() != before {
            self.rescheduled.notify_one();
        }
        result
    }

    /// A process asks for its SVIDs.
    pub(crate) fn attach(
        self: &Arc<Self>,
        process: &Process,
        key: LaunchKey,
        selectors: SelectorSet,
    ) -> Result<(), Refusal> {
        self.with(|core, now| core.attach(key, selectors, now))?;
        self.watch_end(process, key)
    }

    /// What a launch may be given now, and whether more can come.
    pub(crate) fn launch_state(&self, key: &LaunchKey) -> (LaunchState, bool) {
        let inner = self.lock();
        (inner.core.launch_state(key), inner.core.is_synced())
    }

    #[cfg(test)]
    pub(crate) fn watched(&self) -> usize {
        self.lock().watched.len()
    }

    pub(crate) fn read<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        look(&self.lock().core)
    }

    /// Asks the authority for a JWT-SVID.
    pub(crate) fn want_jwt(
        &self,
        ask: impl FnOnce(&mut Core, u64, UnixTime),
    ) -> oneshot::Receiver<JwtAnswer> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().jwts.insert(ticket, sender);
        self.with(|core, now| ask(core, ticket, now));
        receiver
    }

    /// Takes over an SVID of the agent itself.
    pub(crate) fn set_node(&self, node: SavedNode, credential: Arc<Credential>) -> Result<(), Problem> {
        self.present(&credential)?;
        let bundle = node.bundle.clone();
        if let Err(error) = self.storage.save_node(&node) {
            tracing::error!(%error, "the agent's SVID is not stored: a restart will have to join again");
        }
        {
            let mut inner = self.lock();
            inner.core.set_node(credential, node.renew_after);
            if *inner.core.view.bundle() != bundle {
                self.publish(&bundle, inner.core.view.revocations());
            }
            inner.node = Some(node);
        }
        self.rescheduled.notify_one();
        Ok(())
    }

    /// The authority is another one: what was seen of the last one's ledgers says nothing of it.
    pub(crate) fn forget_witnessed(&self) {
        let mut inner = self.lock();
        inner.core.forget_witnessed();
        if let Err(error) = self.storage.save_witnessed(Vec::new()) {
            tracing::error!(%error, "what was seen of another authority's ledgers is not forgotten");
        }
    }

    /// The authority's address, and the site that the node belongs to.
    pub(crate) fn node_facts(&self) -> Option<(String, String)> {
        self.lock().node.as_ref().map(|node| (node.address.clone(), node.site.clone()))
    }

    pub(crate) fn connection(&self) -> Connection {
        self.lock().connection.clone()
    }

    pub(crate) fn set_problem(&self, problem: Option<Problem>) {
        self.lock().connection = Connection { connected: false, problem };
    }

    /// A stream is open to this server: the channel that the first message already lies in, and what tells that it broke.
    pub(crate) fn connected(
        &self,
        server: &str,
        channel: Channel,
    ) -> (mpsc::Receiver<AgentMessage>, Arc<Notify>) {
        // More than can ever be asked at a time.
        let (messages, receiver) = mpsc::channel(4096);
        let broken = Arc::new(Notify::new());
        let mut inner = self.lock();
        let hello = agent_message::Kind::Hello(inner.core.connected(server));
        let _ = messages.try_send(AgentMessage { kind: Some(hello) });
        inner.stream = Some(Stream { messages, broken: Arc::clone(&broken), channel });
        (receiver, broken)
    }

    pub(crate) fn message(&self, message: AuthorityMessage) -> Result<(), Disconnect> {
        self.with(|core, now| core.message(message, now))?;
        let mut inner = self.lock();
        if inner.core.is_synced() && !inner.connection.connected {
            inner.connection = Connection { connected: true, problem: None };
            if let Some(stream) = &inner.stream {
                self.keys.connected(stream.channel.clone());
            }
        }
        Ok(())
    }

    pub(crate) fn disconnected(&self) {
        {
            let mut inner = self.lock();
            inner.stream = None;
            inner.connection.connected = false;
        }
        self.keys.disconnected();
        self.with(|core, now| core.disconnected(now));
    }

    /// Publishes a bundle document with what is revoked. The last good one stays if this one can't be read.
    pub(crate) fn publish(&self, document: &[u8], revocations: &Arc<Revocations>) {
        let bundle = match TrustBundle::parse(&self.trust_domain, document) {
            Ok(bundle) => bundle,
            Err(error) => return tracing::error!(%error, "the authority sent a bundle that can't be read"),
        };
        for error in bundle.skipped() {
            tracing::error!(%error, code = error.code(), "left out a key of the bundle that the authority sent");
        }
        let x509 = bundle.x509_authorities().iter().flat_map(|authority| authority.der().to_vec()).collect();
        let jwt = bundle.to_jwt_json().into();
        let bundles = Arc::new(BundleMap::from(bundle).with_revocations(Arc::clone(revocations)));
        self.trust.store(Arc::clone(&bundles));
        self.published.send_modify(|published| {
            let version = published.version + 1;
            let revocations = Some(Arc::clone(revocations));
            *published = Arc::new(Published { version, bundles, revocations, x509, jwt });
        });
    }

    /// Publishes what is revoked beside the bundle that is served already.
    fn publish_revocations(&self, revocations: &Arc<Revocations>) {
        self.published.send_modify(|published| {
            let bundles = Arc::new((*published.bundles).clone().with_revocations(Arc::clone(revocations)));
            self.trust.store(Arc::clone(&bundles));
            *published = Arc::new(Published {
                version: published.version,
                bundles,
                revocations: Some(Arc::clone(revocations)),
                x509: published.x509.clone(),
                jwt: published.jwt.clone(),
            });
        });
    }

    /// Lets time pass until shutdown.
    pub(crate) async fn run_timers(self: Arc<Self>) {
        let shutdown = self.shutdown.clone();
        let run = async {
            loop {
                let next = self.lock().core.next_tick();
                let wait = next.map_or(CLOCK_CHECK, |at| at.since(self.now()).min(CLOCK_CHECK));
                tokio::select! {
                    () = tokio::time::sleep(wait) => self.with(|core, now| core.tick(now)),
                    () = self.rescheduled.notified() => {}
                }
            }
        };
        shutdown.unless_triggered(run).await;
    }

    /// Watches launches that were taken over from before a restart. They are pinned anew; one that ended
    /// meanwhile is ended.
    pub(crate) fn watch_restored(self: &Arc<Self>, evidence: Evidence) {
        for key in self.read(|core| core.launches().collect::<Vec<_>>()) {
            let pinned = Process::open(key.pid, evidence)
                .ok()
                .filter(|process| process.image().is_ok_and(|image| image == key.image));
            let watched = pinned.is_some_and(|process| self.watch_end(&process, key).is_ok());
            if !watched {
                self.with(|core, now| core.ended(key, now));
            }
        }
    }

    /// Watches for the end of a launch's process, as long as the launch lasts: one that `execve` has replaced costs
    /// nothing any more, however often its process goes on doing that.
    fn watch_end(self: &Arc<Self>, process: &Process, key: LaunchKey) -> Result<(), Refusal> {
        let mut inner = self.lock();
        if inner.watched.contains_key(&key) || !inner.core.has_launch(&key) {
            return Ok(());
        }
        let end = match end_of(process) {
            Ok(end) => end,
            Err(error) => {
                drop(inner);
                tracing::warn!(%error, "a process can't be watched");
                self.with(|core, now| core.ended(key, now));
                return Err(Refusal::busy());
            }
        };
        let engine = Arc::downgrade(self);
        let shutdown = self.shutdown.clone();
        let watch = tokio::spawn(async move {
            if shutdown.unless_triggered(end.readable()).await.is_some()
                && let Some(engine) = engine.upgrade()
            {
                engine.with(|core, now| core.ended(key, now));
                engine.lock().launches.remove(&key);
            }
        });
        inner.watched.insert(key, watch.abort_handle());
        Ok(())
    }

    fn perform(&self, inner: &mut Inner, effect: Effect, view_changed: &mut bool) {
        let stored = match effect {
            Effect::Send(kind) => {
                if let Some(stream) = &inner.stream
                    && stream.messages.try_send(AgentMessage { kind: Some(kind) }).is_err()
                {
                    stream.broken.notify_one();
                    inner.stream = None;
                }
                Ok(())
            }
            // Rather forgotten than left as it was: a restart would give the key of a launch to another one.
            Effect::Save(saved) => self.storage.save_instance(&saved).inspect_err(|_| {
                let _ = self.storage.forget_instance(saved.id);
            }),
            Effect::Forget(id) => self.storage.forget_instance(id),
            Effect::SaveView => {
                *view_changed = true;
                Ok(())
            }
            Effect::Launch(key) => {
                if let Some(launch) = inner.launches.get(&key) {
                    launch.send_modify(|count| *count += 1);
                }
                if !inner.core.has_launch(&key)
                    && let Some(watch) = inner.watched.remove(&key)
                {
                    watch.abort();
                }
                Ok(())
            }
            Effect::Current => {
                self.keys.heard();
                Ok(())
            }
            Effect::LeasesEnded(ended) => {
                self.keys.ended(&ended);
                Ok(())
            }
            Effect::InstanceOver(instance, svid_ends) => {
                self.keys.instance_over(instance, svid_ends);
                Ok(())
            }
            Effect::InstanceBack(instance) => {
                self.keys.instance_back(instance);
                Ok(())
            }
            Effect::Policies => {
                self.policies.send_modify(|count| *count += 1);
                Ok(())
            }
            Effect::Registrations => {
                self.registrations.send_modify(|count| *count += 1);
                Ok(())
            }
            Effect::Trust => {
                let document = inner.core.view.bundle().clone();
                self.publish(&document, inner.core.view.revocations());
                match &mut inner.node {
                    Some(node) => {
                        node.bundle = document;
                        self.storage.save_node(node)
                    }
                    None => Ok(()),
                }
            }
            Effect::Revocations => {
                self.publish_revocations(inner.core.view.revocations());
                Ok(())
            }
            Effect::Jwt(ticket, result) => {
                if let Some(waiting) = inner.jwts.remove(&ticket) {
                    let _ = waiting.send(result);
                }
                Ok(())
            }
            Effect::Witnessed(cosigned) => {
                let stored = self.storage.save_witnessed(inner.core.witnessed());
                if stored.is_ok()
                    && let Some(stream) = &inner.stream
                {
                    // Whoever reads nothing any more is noticed by what matters more.
                    let _ = stream.messages.try_send(AgentMessage { kind: Some(cosigned) });
                }
                stored
            }
            Effect::Silent => {
                if let Some(stream) = inner.stream.take() {
                    stream.broken.notify_one();
                }
                Ok(())
            }
            Effect::Node(credential, renew_after) => self.node_renewed(inner, &credential, renew_after),
            Effect::Banned(reason) => {
                inner.node = None;
                inner.stream = None;
                inner.connection = Connection { connected: false, problem: Some(reason) };
                self.identity.clear();
                self.keys.all_over();
                self.storage.forget_all()
            }
        };
        if let Err(error) = stored {
            tracing::error!(%error, code = error.code(), "what a restart needs is not stored");
        }
    }

    fn node_renewed(
        &self,
        inner: &mut Inner,
        credential: &Credential,
        renew_after: UnixTime,
    ) -> Result<(), crate::storage::StorageError> {
        if let Err(problem) = self.present(credential) {
            inner.connection.problem = Some(problem);
            return Ok(());
        }
        let Some(node) = &mut inner.node else { return Ok(()) };
        node.chain = credential.chain().to_vec();
        node.key = crate::core::SavedKey(credential.key().to_pkcs8_der());
        node.renew_after = renew_after;
        self.storage.save_node(node)
    }

    fn present(&self, credential: &Credential) -> Result<(), Problem> {
        let unfit = |error: &dyn std::fmt::Display| {
            problem("agent.issued-unfit", error, "look at the authority's log")
        };
        let mut chain = Vec::new();
        for der in credential.chain() {
            chain.push(Certificate::from_der(der).map_err(|error| unfit(&error))?);
        }
        let svid = X509Svid::new(chain, Arc::clone(credential.key()), None).map_err(|error| unfit(&error))?;
        self.identity.set(&svid);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readable once the process has ended. Its own descriptor: a shared one could be registered only once.
#[expect(
    deprecated,
    reason = "the replacement is unsafe; this descriptor is owned, and closed by nobody else"
)]
fn end_of(process: &Process) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(process.pidfd().try_clone()?, Interest::READABLE)
}
