//! A server without threads, sockets and files, for simulations: the parts that decide, on a store, a clock and a
//! randomness that are parameters, and with its streams as values. What [`Stream::hear`] and [`Stream::advance`] do is
//! what `stream::driver` does, in one thread.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bonafide_ca::rotation::Order;
use bonafide_crypto::random::Random;
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_identity::{InstanceId, SpiffeId, TrustDomain, VerifiedX509Svid, reserved, x509};
use bonafide_keyring::LiveKeys;
use bonafide_ledger::LedgerError;
use bonafide_net::drain::Shutdown;
use bonafide_store::{Change, Incarnation, Store};
use bonafide_tls::{IdentitySlot, Trust};
use bonafide_wire::node::agent_message::Kind as Said;
use bonafide_wire::node::authority_message::Kind;
use bonafide_wire::node::{Hello, RenewAgent, Renewals, Report, Reported};
use bonafide_wire::types;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use prost::Message;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tonic::Code;

use crate::admin::{Admin, LedgerStatus, LocalAdmins, ServerInfo};
use crate::config::{KeysConfig, Lifetimes};
use crate::entry::{self, Entry, entry::Kind as EntryKind};
use crate::issuance::lineages::Lineages;
use crate::issuance::moves::Moves;
use crate::issuance::{Ask, Asker, IssuerParts, Job};
use crate::journal::Journal;
use crate::keys::{Family, Keys, KeysError, Rotation, Vault};
use crate::lease::Holder;
use crate::presence::Presence;
use crate::records::signing_key::{State as KeyState, Use};
use crate::records::{Agent, Object, RecordError, SigningKey};
use crate::refusal::Refusal;
use crate::registration::{admitted_attestation, attestation_of};
use crate::registry::Registry;
use crate::server::checkpoints::replay;
use crate::server::identity::ServerIdentity;
use crate::state::State;
use crate::stream::feed::{Feed, Subscription};
use crate::stream::outbound::{Outbound, Sender, channel};
use crate::stream::session::Session;

/// Requests without an answer on one stream, as a server allows them by default.
const IN_FLIGHT: usize = 256;
/// How long an operator waits for agents.
const PATIENCE: Duration = Duration::from_secs(300);
const ACTOR: &str = "simulation";

/// A ledger in memory. Cheap to clone: all clones are the same ledger.
#[derive(Clone, Debug, Default)]
pub struct Pages(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    entries: Vec<Vec<u8>>,
    full: bool,
}

/// What a ledger says of an X509-SVID that was to be released.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Whose it is.
    pub instance: InstanceId,
    /// Its place in the lineage.
    pub generation: u64,
    /// Of its public key.
    pub key_id: Bytes,
    /// Its ID.
    pub spiffe_id: String,
    /// The site whose evidence earned it.
    pub site: String,
}

/// What a server is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its name.
    pub server: String,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The revision log.
    pub store: Arc<dyn Store>,
    /// Makes and opens its keys.
    pub keys: Arc<dyn LiveKeys>,
    /// Its ledger, which outlives it.
    pub pages: Pages,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its randomness.
    pub random: Arc<dyn Random>,
    /// How long keys and SVIDs live.
    pub lifetimes: Lifetimes,
}

/// A server that runs on the current runtime.
#[derive(Debug)]
pub struct Server {
    registry: Registry,
    feed: Arc<Feed>,
    presence: Presence,
    issuer: Arc<IssuerParts>,
    rotation: Rotation,
    admin: Admin,
    trust: Trust,
    identity: Arc<IdentitySlot>,
    shutdown: Shutdown,
}

/// One agent's stream.
#[derive(Debug)]
pub struct Stream {
    asker: Arc<Asker>,
    svid: VerifiedX509Svid,
    record: Arc<Agent>,
    session: Session,
    changes: Subscription,
    sender: Sender,
    outbound: Outbound,
    updates: Vec<Kind>,
}

impl Pages {
    /// Whether the disk has no room.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// X509-SVIDs that were written after the first `read` entries, and how many entries there are.
    #[must_use]
    pub fn issued_after(&self, read: usize) -> (Vec<Logged>, usize) {
        let written = self.lock();
        let new = written.entries.iter().skip(read);
        let issued = new.filter_map(|bytes| match Entry::decode(&**bytes).ok()?.kind? {
            EntryKind::X509Svid(svid) => Some(Logged {
                instance: InstanceId::from_bytes(<[u8; 16]>::try_from(&*svid.instance).ok()?),
                generation: svid.generation,
                key_id: svid.key_id,
                spiffe_id: svid.spiffe_id,
                site: svid.site,
            }),
            _ => None,
        });
        (issued.collect(), written.entries.len())
    }

    fn entries(&self) -> Vec<Entry> {
        self.lock().entries.iter().filter_map(|bytes| Entry::decode(&**bytes).ok()).collect()
    }

    pub(crate) fn append(&self, mut entries: Vec<Vec<u8>>) -> Result<u64, LedgerError> {
        let mut written = self.lock();
        if written.full {
            return Err(LedgerError::Full);
        }
        let first = written.entries.len() as u64;
        written.entries.append(&mut entries);
        Ok(first)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Starts as a server does: folds the store, makes the keys that are missing, remembers lineages.
    ///
    /// # Errors
    /// In words, why it does not start.
    pub async fn start(parts: Parts) -> Result<Self, String> {
        let Parts { server, trust_domain, store, keys, pages, clock, random, lifetimes } = parts;
        let registry = Registry::open(store, trust_domain.clone(), Arc::clone(&clock))
            .await
            .map_err(|error| error.to_string())?;
        let vault = Vault::new(keys, KeysConfig::default(), Arc::clone(&random));
        let journal = Arc::new(Journal::simulated(pages.clone()));
        let (presence, shutdown, tasks) = (Presence::new(), Shutdown::new(), TaskTracker::new());
        let lineages = Arc::new(Lineages::of(&server));
        let kinds = pages.entries().into_iter().filter_map(|entry| entry.kind);
        replay(kinds, &lineages, &presence, clock.now());
        let feed = Feed::start(registry.clone(), presence.clone(), &tasks, shutdown.clone());
        let rotation = Rotation {
            lineages: Arc::clone(&lineages),
            lease: Holder::new("keys", &server),
            upstream: None,
            registry: registry.clone(),
            vault: vault.clone(),
            journal: Arc::clone(&journal),
            presence: presence.clone(),
            clock: Arc::clone(&clock),
            trust_domain: trust_domain.clone(),
            server: server.clone(),
            lifetimes,
            started_at: clock.now(),
        };
        let (trust, slot) = (Trust::default(), IdentitySlot::new());
        let started = async {
            rotation.catch_up().await?;
            let keys = Keys::open(&registry, vault, server.clone(), Arc::clone(&trust), clock.now())?;
            let identity = ServerIdentity {
                keys: Arc::new(keys),
                journal: Arc::clone(&journal),
                clock: Arc::clone(&clock),
                random: Arc::clone(&random),
                slot: Arc::clone(&slot),
                trust_domain,
                server: server.clone(),
                lifetimes,
                dns_names: Vec::new(),
            };
            let renew_after = identity.renew().await?;
            Ok::<_, KeysError>((identity, renew_after))
        };
        let (identity, renew_after) = match started.await {
            Ok(started) => started,
            Err(error) => {
                shutdown.trigger();
                return Err(error.to_string());
            }
        };
        let keys = Arc::clone(&identity.keys);
        tasks.spawn(rotation.clone().run(Arc::clone(&keys), shutdown.clone()));
        tasks.spawn(identity.run(renew_after, shutdown.clone()));
        let (known, judged_by) = (Arc::clone(&lineages), Arc::clone(&clock));
        let site_of_instance = move |instance| {
            let agent = known.agent_of(instance, judged_by.now())?;
            reserved::agent_site(&agent).map(ToOwned::to_owned)
        };
        let name = server.clone();
        let info = ServerInfo {
            server,
            version: String::new(),
            address: String::new(),
            seal: String::new(),
            started_at: clock.now(),
            local: LocalAdmins { own_uid: 0, gid: None },
            ledger: Arc::new(LedgerStatus::default),
            site_of_instance: Arc::new(site_of_instance),
        };
        let admin =
            Admin::new(registry.clone(), presence.clone(), Arc::clone(&clock), Arc::clone(&random), info)
                .with_rotation(rotation.clone());
        let moves = Arc::new(Moves {
            registry: registry.clone(),
            lineages: Arc::clone(&lineages),
            journal: Arc::clone(&journal),
            clock: Arc::clone(&clock),
            server: name.into(),
            runtime: Handle::current(),
            tasks,
            shutdown: shutdown.clone(),
        });
        moves.follow();
        let issuer = Arc::new(IssuerParts {
            registry: registry.clone(),
            keys,
            journal,
            lineages,
            moves,
            queue: OnceLock::new(),
            clock,
            random,
            backdate: lifetimes.backdate.as_duration(),
            agent_lifetime: lifetimes.agent.as_duration(),
        });
        Ok(Self { registry, feed, presence, issuer, rotation, admin, trust, identity: slot, shutdown })
    }

    /// What it knows, and the way to change it.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What operators call.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// What it shows to agents (DER, leaf first, with the root).
    #[must_use]
    pub fn certificates(&self) -> Vec<Bytes> {
        let svid = self.identity.current();
        let chain = svid.iter().flat_map(|svid| svid.chain());
        chain.map(|certificate| Bytes::copy_from_slice(certificate.der())).collect()
    }

    /// Code of the failure that makes a real server stop: it can't follow the log any more.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.registry.failed().now_or_never().map(|error| error.code().to_owned())
    }

    /// What an agent gets that has been admitted: chain, when to renew it, and the trust bundle (JWKS).
    #[must_use]
    pub fn join(&self, agent: &SpiffeId, csr: Vec<u8>) -> Option<(Vec<Bytes>, UnixTime, Bytes)> {
        let (sender, mut outbound) = channel(1);
        let connection = self.presence.connect(agent.clone(), UnixTime::EPOCH, "");
        let asker = Arc::new(Asker { agent: agent.clone(), attestation: 0, site: String::new(), connection });
        let ticket = sender.answers.ticket(1)?;
        let ask = Ask::Agent(RenewAgent { request: 1, csr: csr.into() });
        self.issuer.work(vec![Job { ticket, asker, ask, taken: None }]);
        // It has no stream yet.
        self.presence.forget(agent);
        match outbound.next().now_or_never()??.ok()?.kind? {
            Kind::X509Issued(issued) => {
                let bundle = self.registry.state().bundle().to_json();
                Some((issued.chain, UnixTime::from_secs(issued.renew_after), bundle.into()))
            }
            _ => None,
        }
    }

    /// An operator replaces the root, or the JWT key, and revokes the one before if he is told to, each step as soon as
    /// agents have done their part. Returns how that ended.
    pub fn replace(&self, root: bool, revoke: bool) -> impl Future<Output = String> + Send + use<> {
        let (rotation, registry) = (self.rotation.clone(), self.registry.clone());
        let (family, usage) = if root { (Family::Root, Use::Root) } else { (Family::Jwt, Use::Jwt) };
        async move {
            let signs = |key: &&Arc<SigningKey>| key.r#use() == usage && key.state() == KeyState::Active;
            let before = registry.state().signing_keys().find(signs).map(|key| key.id.clone());
            let replaced = async {
                let id = rotation.prepare(ACTOR, family).await?.authority.id.clone();
                rotation.order(ACTOR, Order::Activate { id, force: false }, PATIENCE).await?;
                if let (true, Some(id)) = (revoke, before) {
                    let taint = Order::Taint { id: id.clone(), force: false };
                    rotation.order(ACTOR, taint, PATIENCE).await?;
                    rotation.order(ACTOR, Order::Revoke { id, force: false }, PATIENCE).await?;
                }
                Ok::<_, Refusal>(())
            };
            replaced.await.map_or_else(|refusal| refusal.code().to_owned(), |()| "done".to_owned())
        }
    }

    /// Who shows this chain, as the TLS handshake and the call judge it.
    ///
    /// # Errors
    /// The refusal of the connection.
    pub fn accept(&self, chain: &[Bytes]) -> Result<VerifiedX509Svid, Refusal> {
        let refused = |code: &'static str, why: String| Refusal::new(Code::Unauthenticated, code, why);
        let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        let svid = x509::verify(&chain, &self.trust.load(), self.issuer.clock.now())
            .map_err(|error| refused(error.code(), error.to_string()))?;
        if reserved::agent_site(svid.id()).is_none() {
            return Err(refused("stream.no-agent", "only an agent may connect".to_owned()));
        }
        self.admitted(&svid)?;
        Ok(svid)
    }

    /// An agent's stream begins.
    ///
    /// # Errors
    /// The refusal that ends it at once.
    pub async fn stream(&self, svid: VerifiedX509Svid, hello: &Hello) -> Result<Stream, Refusal> {
        let record = self.admitted(&svid)?;
        self.issuer.journal.arrived(&self.presence, &svid, self.issuer.clock.now());
        let connection = self.presence.connect(svid.id().clone(), svid.not_after(), "");
        let changes = self.feed.subscribe(&record, Arc::clone(connection.concern()));
        self.feed.caught_up().await;
        let record = self.admitted(&svid)?;
        self.vouched_for(&svid)?;
        let (session, updates) = Session::begin(hello, &self.feed.view(&record, connection.concern()));
        changes.begin(session.told());
        let asker = Arc::new(Asker {
            agent: svid.id().clone(),
            attestation: attestation_of(&svid),
            site: record.site.clone(),
            connection,
        });
        let (sender, outbound) = channel(IN_FLIGHT);
        Ok(Stream { asker, svid, record, session, changes, sender, outbound, updates })
    }

    fn admitted(&self, svid: &VerifiedX509Svid) -> Result<Arc<Agent>, Refusal> {
        let state = self.registry.state();
        admitted_attestation(&state, svid.id(), attestation_of(svid)).map(Arc::clone)
    }

    fn vouched_for(&self, svid: &VerifiedX509Svid) -> Result<(), Refusal> {
        if self.registry.state().vouches(svid.authorities()) {
            return Ok(());
        }
        Err(Refusal::new(Code::Unauthenticated, "stream.authority-revoked", "an authority was revoked"))
    }

    /// Its process is gone: nothing of it runs any more.
    pub fn crash(self) {
        self.shutdown.trigger();
    }
}

impl Stream {
    /// Takes in one message of the agent.
    ///
    /// # Errors
    /// Why the stream ends.
    pub fn hear(&mut self, server: &Server, said: Said) -> Result<(), String> {
        let job = |ask: Ask, request| {
            self.sender.answers.ticket(request).map(|ticket| Job {
                ticket,
                asker: Arc::clone(&self.asker),
                ask,
                taken: None,
            })
        };
        let job = match said {
            Said::Hello(_) => return Err("the agent said hello twice".to_owned()),
            Said::Acknowledge(acknowledge) => {
                let view = server.feed.view(&self.record, self.asker.connection.concern());
                let told =
                    self.session.acknowledge(&acknowledge, &view).map_err(|error| error.to_string())?;
                self.updates.extend(told);
                self.asker.connection.acknowledge(self.session.acknowledged());
                return Ok(());
            }
            Said::Report(report) => return self.report(server, report),
            Said::Renewals(Renewals { revision, remaining }) => {
                self.asker.connection.renewals(revision, remaining);
                return Ok(());
            }
            // There is no checkpoint of a ledger in memory to be witnessed.
            Said::Cosigned(_) => return Ok(()),
            Said::IssueX509(ask) => job(Ask::First(ask.clone()), ask.request),
            Said::RenewX509(ask) => job(Ask::Renewal(Box::new(ask.clone())), ask.request),
            Said::IssueJwt(ask) => job(Ask::Jwt(ask.clone()), ask.request),
            Said::RenewAgent(ask) => job(Ask::Agent(ask.clone()), ask.request),
        };
        match job {
            Some(job) => server.issuer.work(vec![job]),
            None => return Err("the agent has too many requests in flight".to_owned()),
        }
        Ok(())
    }

    /// Tells what has changed, if something has.
    ///
    /// # Errors
    /// The refusal that ends the stream.
    pub fn advance(&mut self, server: &Server) -> Result<(), Refusal> {
        if self.changes.changed().now_or_never().is_none() {
            return Ok(());
        }
        self.record = server.admitted(&self.svid)?;
        let told = self.session.advance(&server.feed.view(&self.record, self.asker.connection.concern()));
        self.updates.extend(told);
        server.vouched_for(&self.svid)?;
        self.asker.connection.acknowledge(self.session.acknowledged());
        Ok(())
    }

    /// Nothing has happened for a while.
    pub fn bookmark(&mut self, server: &Server) {
        let told = self.session.advance(&server.feed.view(&self.record, self.asker.connection.concern()));
        self.updates.extend(told);
        let bookmark = self.session.bookmark();
        self.updates.push(bookmark);
    }

    /// The highest revision that the agent is known to have applied.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.session.acknowledged()
    }

    /// What goes to the agent: answers overtake updates.
    pub fn take_messages(&mut self) -> Vec<Kind> {
        let mut messages = Vec::new();
        while let Some(Some(Ok(message))) = self.outbound.next().now_or_never() {
            messages.extend(message.kind);
        }
        messages.append(&mut self.updates);
        messages
    }

    fn report(&mut self, server: &Server, report: Report) -> Result<(), String> {
        let agent = self.asker.agent.to_string();
        let launches = report.launches.into_iter().map(|launch| {
            EntryKind::Launch(entry::Launch {
                instance: launch.instance,
                registration: launch.registration,
                agent: agent.clone(),
                selectors: Vec::new(),
                launched_at: launch.launched_at,
            })
        });
        let mut entries: Vec<EntryKind> = launches.collect();
        for end in report.ends {
            let instance = <[u8; 16]>::try_from(&*end.instance).map_err(|_| "a malformed report")?;
            server.issuer.lineages.end(InstanceId::from_bytes(instance), &self.asker.agent);
            let (instance, agent) = (end.instance, agent.clone());
            entries.push(EntryKind::End(entry::End { instance, agent, ended_at: end.ended_at }));
        }
        let now = server.issuer.clock.now();
        let Some(ticket) = self.sender.answers.ticket(report.request) else {
            return Err("the agent has too many requests in flight".to_owned());
        };
        match server.issuer.journal.append_soon(now, entries).now_or_never() {
            Some(Ok(())) => ticket.answer(Kind::Reported(Reported { request: report.request })),
            Some(Err(refusal)) => ticket.refuse(refusal.to_problem(), 5),
            None => {}
        }
        Ok(())
    }
}

/// The log's next change, folded in.
///
/// # Errors
/// A record that can't be read.
pub fn fold(state: &mut State, change: &Change) -> Result<(), RecordError> {
    state.apply(change.revision.0, &change.key, change.value.as_deref()).map(|_| ())
}

/// Nothing folded in yet.
#[must_use]
pub fn nothing(trust_domain: TrustDomain, incarnation: Incarnation) -> State {
    State::empty(trust_domain, incarnation)
}

/// A site's record from its message.
///
/// # Errors
/// What is wrong with it.
pub fn site(wire: &types::Site, trust_domain: &TrustDomain, now: UnixTime) -> Result<Object, Refusal> {
    Ok(Object::Site(Arc::new(crate::convert::wire::to_site(wire, trust_domain, now)?)))
}

/// A registration's record from its message.
///
/// # Errors
/// What is wrong with it.
pub fn registration(
    wire: &types::Registration,
    trust_domain: &TrustDomain,
    now: UnixTime,
) -> Result<Object, Refusal> {
    let typed = crate::convert::wire::to_registration(wire, trust_domain, &wire.id, now)?;
    Ok(Object::Registration(Arc::new(typed)))
}
