//! One authority server: opens what lies in its data directory, puts the parts together, serves, and stops.

mod boot;
pub(crate) mod checkpoints;
mod database;
pub(crate) mod identity;
mod keys;
mod replication;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bonafide_crypto::digest::sha256;
use bonafide_crypto::random::Random;
use bonafide_identity::reserved;
use bonafide_identity::time::Clock;
use bonafide_keyring::KeyringError;
use bonafide_ledger::{Ledger, LedgerConfig, LedgerError, SignedCheckpoint};
use bonafide_net::drain::Shutdown;
use bonafide_net::http::HttpLimits;
use bonafide_net::{tls_listener, unix};
use bonafide_store::Store;
use bonafide_tls::{Authorizer, Clients, IdentitySlot, TlsLimits, Trust};
use bonafide_wire::kms::keys_server::KeysServer;
use bonafide_wire::node::node_server::NodeServer;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use self::boot::{OpenKeys, Opened};
use self::checkpoints::{Accepted, Checkpoints};
pub use self::error::StartError;
use self::identity::ServerIdentity;
use self::replication::Replication;
use crate::admin::{Admin, LedgerStatus, LocalAdmins, ServerInfo};
use crate::config::AuthorityConfig;
use crate::issuance::lineages::Lineages;
use crate::issuance::moves::Moves;
use crate::issuance::{Issuer, IssuerParts};
use crate::journal::Journal;
use crate::keys::{Keys, Rotation, Upstream, Vault};
use crate::kms::grpc::MAX_MESSAGE as MAX_BATCH;
use crate::lease::Holder;
use crate::node::{JoinTokens, MAX_ATTESTATION, MAX_MESSAGE, NodeService, NodeShared, X509Pop};
use crate::presence::Presence;
use crate::rates::Rates;
use crate::refusal::Refusal;
use crate::seals::Seals;
use crate::stream::feed::Feed;
use crate::stream::places::Places;
use crate::vault::{self, Vault as VaultApi};
use crate::witnesses::{Peers, RolledBack, Witnesses};

mod error;

/// Makes and starts authority servers.
#[derive(Clone, Copy, Debug)]
pub struct Authority;

/// A server that is serving.
#[derive(Debug)]
pub struct Running {
    node_address: SocketAddr,
    admin_socket: PathBuf,
    key_worker: Option<u32>,
    keys: Arc<Keys>,
    shutdown: Shutdown,
    tasks: TaskTracker,
    failure: watch::Receiver<Option<Broken>>,
    /// Until it is closed.
    open: Option<Open>,
}

/// What stopped the server.
#[derive(Clone, Debug)]
struct Broken {
    code: &'static str,
    hint: &'static str,
    why: String,
}

/// What is closed last.
#[derive(Debug)]
struct Open {
    store: Arc<dyn Store>,
    ledger: Arc<Ledger>,
    key_ledger: Arc<Ledger>,
    checkpoints: Checkpoints,
}

impl Authority {
    /// Makes the data directory of a new trust domain, or of a new server: seal, keyring and an empty store.
    ///
    /// # Errors
    /// [`StartError::Exists`] if there is one already.
    pub async fn init(
        config: &AuthorityConfig,
        clock: Arc<dyn Clock>,
        random: &dyn Random,
    ) -> Result<(), StartError> {
        config.check()?;
        boot::create(config, clock, random).await
    }

    /// Makes the data directory of one more server of a trust domain, on the store of the others: `of` is the data
    /// directory of one of them, or a copy of its keyring and `seal.key`.
    ///
    /// # Errors
    /// [`StartError::Exists`]; a store that is not shared, or not authentic under that keyring.
    pub async fn init_beside(
        config: &AuthorityConfig,
        of: &Path,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<(), StartError> {
        config.check()?;
        boot::create_beside(config, of, clock, random).await
    }

    /// Opens the data directory and serves until [`Running::shutdown`].
    ///
    /// # Errors
    /// [`StartError`] says what is missing, broken or in use.
    pub async fn start(
        config: AuthorityConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Running, StartError> {
        config.check()?;
        let mut accepted = Accepted::default();
        loop {
            let started = attempt(config.clone(), Arc::clone(&clock), Arc::clone(&random), accepted).await;
            let Err(error) = &started else { return started };
            match error {
                StartError::LedgerRolledBack { .. } if config.accept_restore && !accepted.ledger => {
                    accepted.ledger = true;
                }
                StartError::RolledBack { found_incarnation, .. }
                    if config.accept_restore && accepted.store.is_none() =>
                {
                    boot::renew_incarnation(&config, &clock, Arc::clone(&random)).await?;
                    accepted.store = Some(*found_incarnation);
                }
                _ => return started,
            }
            tracing::warn!(code = error.code(), "accepted, because it was told to: {error}");
        }
    }
}

/// Starts, or leaves everything closed.
async fn attempt(
    config: AuthorityConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    accepted: Accepted,
) -> Result<Running, StartError> {
    let opened = boot::open(&config, Arc::clone(&clock), Arc::clone(&random)).await?;
    let store = Arc::clone(&opened.store);
    let (shutdown, tasks) = (Shutdown::new(), TaskTracker::new());
    let started = assemble(config, opened, clock, random, shutdown.clone(), tasks.clone(), accepted).await;
    if started.is_err() {
        shutdown.trigger();
        tasks.close();
        tasks.wait().await;
        boot::close(store).await;
    }
    started
}

/// Puts the parts together, from the disk upwards.
async fn assemble(
    config: AuthorityConfig,
    opened: Opened,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    shutdown: Shutdown,
    tasks: TaskTracker,
    accepted: Accepted,
) -> Result<Running, StartError> {
    let Opened { keys: OpenKeys { live, worker, .. }, store, registry, seal } = opened;
    let vault = Vault::new(Arc::clone(&live), config.keys.clone(), Arc::clone(&random));
    let ledger_key = vault.ledger_key(&registry, &config.server, &*clock).await?;
    let peers_signer = Arc::clone(&ledger_key);
    let key_ledger = keys::open_ledger(&config, Arc::clone(&ledger_key)).await?;
    let directory = config.data_dir.join("ledger");
    let origin = format!("{}/bonafide/authority/{}", config.trust_domain, config.server);
    let ledger =
        tokio::task::spawn_blocking(move || Ledger::open(directory, LedgerConfig { origin }, ledger_key));
    let ledger = Arc::new(ledger.await.map_err(|_| StartError::Stopped)??);
    let verifier = config.data_dir.join("ledger.pub");
    std::fs::write(&verifier, format!("{}\n", ledger.verifier_key()))
        .map_err(|cause| StartError::io(&format!("`{}`", verifier.display()), cause))?;
    let journal = Arc::new(Journal::new(Arc::clone(&ledger)));
    let beginning =
        checkpoints::check_not_rolled_back(&config, &registry, &ledger, &journal, clock.now(), accepted)
            .await?;
    let life = beginning.life;
    let witnesses = Witnesses::new(Arc::clone(&ledger), registry.clone(), &store, life, beginning.checkpoint);
    let witnesses = Arc::new(witnesses);
    checkpoints::announce(&registry, &config.server, clock.now()).await?;

    let (lineages, presence, now) = (Lineages::of(&config.server), Presence::new(), clock.now());
    let lineages = Arc::new(lineages);
    let (remembered, seen, reader) = (Arc::clone(&lineages), presence.clone(), Arc::clone(&ledger));
    tokio::task::spawn_blocking(move || checkpoints::remember(&reader, &remembered, &seen, now))
        .await
        .map_err(|_| StartError::Stopped)??;
    let feed = Feed::start(registry.clone(), presence.clone(), &tasks, shutdown.clone());
    let rotation = Rotation {
        registry: registry.clone(),
        vault: vault.clone(),
        journal: Arc::clone(&journal),
        presence: presence.clone(),
        lineages: Arc::clone(&lineages),
        clock: Arc::clone(&clock),
        trust_domain: config.trust_domain.clone(),
        server: config.server.clone(),
        lifetimes: config.lifetimes,
        upstream: config
            .upstream
            .clone()
            .map(|files| Arc::new(Upstream::new(files, config.trust_domain.clone()))),
        started_at: clock.now(),
        lease: Holder::new("keys", &config.server),
    };
    rotation.catch_up().await?;
    let trust = Trust::default();
    let keys = Keys::open(&registry, vault, config.server.clone(), Arc::clone(&trust), clock.now())?;
    let keys = Arc::new(keys);
    tasks.spawn(rotation.clone().run(Arc::clone(&keys), shutdown.clone()));

    let slot = IdentitySlot::new();
    let identity = ServerIdentity {
        keys: Arc::clone(&keys),
        journal: Arc::clone(&journal),
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        slot: Arc::clone(&slot),
        trust_domain: config.trust_domain.clone(),
        server: config.server.clone(),
        lifetimes: config.lifetimes,
        dns_names: config.dns_names.clone(),
    };
    let renew_after = identity.renew().await?;
    tasks.spawn(identity.run(renew_after, shutdown.clone()));

    let moves = Arc::new(Moves {
        registry: registry.clone(),
        lineages: Arc::clone(&lineages),
        journal: Arc::clone(&journal),
        clock: Arc::clone(&clock),
        server: config.server.as_str().into(),
        runtime: Handle::current(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    });
    moves.follow();
    let issuer = Issuer::start(
        IssuerParts {
            registry: registry.clone(),
            keys: Arc::clone(&keys),
            journal: Arc::clone(&journal),
            lineages: Arc::clone(&lineages),
            moves,
            queue: OnceLock::new(),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            backdate: config.lifetimes.backdate.as_duration(),
            agent_lifetime: config.lifetimes.agent.as_duration(),
        },
        config.limits.signing_threads,
        config.limits.signing_queue,
    )
    .map_err(|cause| StartError::io("the signing threads", cause))?;
    let replication = config.ledger.replica.clone();
    let replication = replication.map(|directory| Replication::start(directory, &ledger)).transpose();
    let replication = replication.map_err(|cause| StartError::io("the thread of the replica", cause))?;
    let (failed, failure) = watch::channel(None);
    let (data_dir, stopped, stopper) = (config.data_dir.clone(), failed.clone(), shutdown.clone());
    let rolled_back = move |behind, proof: &SignedCheckpoint| {
        let broken = checkpoints::rolled_back(&data_dir, behind, proof);
        let refusal = Refusal::new(tonic::Code::FailedPrecondition, broken.code, &broken.why);
        stop_for(broken.clone(), &stopped, &stopper);
        refusal.hint(broken.hint)
    };
    let rolled_back = Arc::new(RolledBack::new(rolled_back));
    let peers = config.data_dir.join(checkpoints::PEERS);
    let peers = Peers::open(&peers, &ledger, peers_signer, &config.server, &registry.state())
        .map_err(|cause| StartError::io(&format!("`{}`", peers.display()), cause))?;
    let checkpoints = Checkpoints {
        feed: Arc::clone(&feed),
        ledger: Arc::clone(&ledger),
        registry: registry.clone(),
        server: config.server.clone(),
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        witnesses: Arc::clone(&witnesses),
        data_dir: config.data_dir.clone(),
        life,
        replication,
        peers: Arc::new(peers),
        rolled_back: Arc::clone(&rolled_back),
    };
    tasks.spawn(checkpoints.clone().run(shutdown.clone()));

    let tokens_key = live.mac_key(vault::PURPOSE)?;
    let vault_random = Arc::clone(&random);
    let needs = keys::Needs {
        registry: registry.clone(),
        live,
        keys: Arc::clone(&keys),
        lineages: Arc::clone(&lineages),
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
    };
    let seals = Seals::new(config.clone(), Arc::clone(&journal), Arc::clone(&clock), Arc::clone(&random));
    let applications = keys::start(&config, needs, &key_ledger, &feed, &tasks, &shutdown)?;
    let node = NodeService(Arc::new(NodeShared {
        keys: applications.service.clone(),
        registry: registry.clone(),
        feed,
        presence: presence.clone(),
        issuer,
        journal,
        lineages: Arc::clone(&lineages),
        attestors: vec![Arc::new(JoinTokens), Arc::new(X509Pop::new(Arc::clone(&random)))],
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        limits: config.limits,
        signatures: Rates::new(),
        reports: Rates::new(),
        attestations: Rates::new(),
        sources: Rates::new(),
        places: Places::default(),
        witnesses,
        rolled_back,
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    }));

    let tls = bonafide_tls::server_config(
        &slot,
        &trust,
        Clients::Optional(Authorizer::member_of(config.trust_domain.clone())),
        Arc::clone(&clock),
    )?;
    let listening = |cause| StartError::io(&format!("`{}`", config.listen), cause);
    let socket = TcpListener::bind(config.listen).await.map_err(listening)?;
    let limits = TlsLimits {
        connections: config.limits.connections,
        connections_per_peer: config.limits.connections_per_peer,
        strangers: config.limits.strangers.min(config.limits.connections.div_ceil(2)),
        strangers_per_source: config.limits.strangers_per_source,
        strangers_per_second: config.limits.strangers_per_second,
    };
    let listener = tls_listener::Listener::new(socket, &tls, limits).map_err(listening)?;
    let node_address = listener.local_addr();
    let copies = checkpoints.replication.clone();
    let (sized, seen) = (Arc::clone(&ledger), Arc::downgrade(&checkpoints.witnesses));
    let ledger_status = move || {
        let (witnessed_size, witnesses) =
            seen.upgrade().map(|witnesses| witnesses.witnessed()).unwrap_or_default();
        let peers = seen.upgrade().map(|witnesses| witnesses.peers()).unwrap_or_default();
        let replica = copies.as_ref().map(Replication::status);
        LedgerStatus { size: sized.size(), witnessed_size, witnesses, peers, replica }
    };
    let judged_by = Arc::clone(&clock);
    let site_of_instance = move |instance| {
        let agent = lineages.agent_of(instance, judged_by.now())?;
        reserved::agent_site(&agent).map(ToOwned::to_owned)
    };
    let admin = Admin::new(
        registry.clone(),
        presence,
        Arc::clone(&clock),
        random,
        ServerInfo {
            server: config.server.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: config.address.clone().unwrap_or_else(|| node_address.to_string()),
            seal,
            started_at: clock.now(),
            local: LocalAdmins { own_uid: boot::own_uid(), gid: config.admin_gid },
            ledger: Arc::new(ledger_status),
            site_of_instance: Arc::new(site_of_instance),
        },
    )
    .with_rotation(rotation)
    .with_seals(Arc::new(seals))
    .with_keys(applications.service.clone());
    let vault = VaultApi::new(
        admin.clone(),
        applications.clone(),
        tokens_key,
        Arc::clone(&clock),
        vault_random,
        config.server.clone(),
        config.trust_domain.clone(),
    );
    let admin_socket = config.admin_socket_path();
    let mode = if config.admin_gid.is_some() { 0o660 } else { 0o600 };
    let local = unix::Listener::bind(&admin_socket, mode, config.admin_gid)?;

    let port = |largest| {
        Routes::new(NodeServer::new(node.clone()).max_decoding_message_size(largest))
            .add_service(admin.clone().into_service())
    };
    let users_of_keys = KeysServer::new(applications).max_decoding_message_size(MAX_BATCH);
    let known = port(MAX_MESSAGE).add_service(users_of_keys).into_axum_router().merge(vault.clone().routes());
    let known = (known, HttpLimits::remote());
    // Some of them log in with a JWT-SVID.
    let strangers = port(MAX_ATTESTATION).into_axum_router().merge(vault.routes());
    let strangers = (strangers, HttpLimits::strangers());
    let (stop, report) = (shutdown.clone(), failed.clone());
    tasks.spawn(async move {
        let served = listener.serve(known, strangers, &stop).await;
        report_failure(served, &report, &stop);
    });
    let (stop, report) = (shutdown.clone(), failed.clone());
    let router = Routes::new(admin.into_service()).into_axum_router();
    tasks.spawn(async move {
        let served = unix::serve(local, router, &stop).await;
        report_failure(served, &report, &stop);
    });
    let registry_broken = async move {
        let error = registry.failed().await;
        Broken { code: error.code(), hint: error.hint(), why: error.to_string() }
    };
    tasks.spawn(stop_when(registry_broken, failed.clone(), shutdown.clone()));
    tasks.spawn(stop_when(ledger_broken(ledger.failed()), failed.clone(), shutdown.clone()));
    tasks.spawn(stop_when(ledger_broken(key_ledger.failed()), failed.clone(), shutdown.clone()));
    let key_worker = worker.as_ref().map(|(process, _)| *process);
    if let Some((_, end)) = worker {
        tasks.spawn(stop_when(worker_gone(end), failed, shutdown.clone()));
    }
    tasks.close();
    tracing::info!(trust_domain = %config.trust_domain, server = config.server, address = %node_address, "the authority serves");
    let open = Some(Open { store, ledger, key_ledger, checkpoints });
    Ok(Running { node_address, admin_socket, key_worker, keys, shutdown, tasks, failure, open })
}

impl Running {
    /// Where agents connect.
    pub fn node_address(&self) -> SocketAddr {
        self.node_address
    }

    /// The local admin socket.
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    /// The process that holds the live keys, if they are not in this one: to measure what it costs.
    pub fn key_worker(&self) -> Option<u32> {
        self.key_worker
    }

    /// SHA-256 of the root above this server's intermediate: what join lines pin.
    pub fn root_pin(&self) -> [u8; 32] {
        sha256(self.keys.current().root().der())
    }

    /// Stops from elsewhere: triggers it on a signal, for example.
    pub fn stopper(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Resolves when the server has stopped by itself, or was stopped: with the reason, if it failed.
    ///
    /// # Errors
    /// [`StartError::Failed`] if a listener, the store or the ledger broke.
    pub async fn wait(&mut self) -> Result<(), StartError> {
        self.tasks.wait().await;
        if let Some(Open { store, ledger, key_ledger, checkpoints }) = self.open.take() {
            // Ours, that of `checkpoints`, of its witnesses and of its peers: then nobody appends any more, and the last checkpoint
            // is of everything.
            boot::quiet(&ledger, 4).await;
            // One that is behind changes the store no more: each change would make that look newer.
            let ended_well = self.failure.borrow().is_none();
            checkpoints.finish(ended_well).await;
            boot::close(store).await;
            boot::close(ledger).await;
            boot::close(key_ledger).await;
        }
        match self.failure.borrow().clone() {
            None => Ok(()),
            Some(Broken { code, hint, why }) => Err(StartError::Failed { code, hint, why }),
        }
    }

    /// Lets open requests finish, and stops.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub async fn shutdown(mut self) -> Result<(), StartError> {
        self.shutdown.trigger();
        self.wait().await
    }
}

fn report_failure(served: io::Result<()>, failed: &watch::Sender<Option<Broken>>, shutdown: &Shutdown) {
    if let Err(error) = served {
        let why = format!("a listener broke: {error}");
        let broken = Broken { code: "authority.failed", hint: "look at the log, then start it again", why };
        stop_for(broken, failed, shutdown);
    }
}

/// A ledger whose end nobody knows takes no more entries, so nothing can be issued. Only a new start, which recovers it,
/// helps: a supervisor must see that this one is over.
async fn ledger_broken(failed: impl Future<Output = LedgerError>) -> Broken {
    let error = failed.await;
    Broken { code: error.code(), hint: error.hint().unwrap_or_default(), why: error.to_string() }
}

/// Nothing can be signed any more. It is not started again from here: what ended it may be an attack, and a supervisor
/// that starts the server again leaves a trace.
async fn worker_gone(end: oneshot::Receiver<KeyringError>) -> Broken {
    match end.await {
        Ok(error) => Broken { code: error.code(), hint: error.hint(), why: error.to_string() },
        // It was told to end, with the last of its keys.
        Err(_) => std::future::pending().await,
    }
}

async fn stop_when(
    broken: impl Future<Output = Broken>,
    failed: watch::Sender<Option<Broken>>,
    shutdown: Shutdown,
) {
    if let Some(broken) = shutdown.unless_triggered(broken).await {
        stop_for(broken, &failed, &shutdown);
    }
}

/// The first reason counts.
fn stop_for(broken: Broken, failed: &watch::Sender<Option<Broken>>, shutdown: &Shutdown) {
    tracing::error!(code = broken.code, "the server stops: {}", broken.why);
    failed.send_modify(|known| _ = known.get_or_insert(broken));
    shutdown.trigger();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ledger_that_failed_stops_the_server_and_says_why() {
        let (failed, failure) = watch::channel(None);
        let shutdown = Shutdown::new();
        let lost = std::future::ready(LedgerError::Failed("the disk is gone".into()));
        stop_when(ledger_broken(lost), failed, shutdown.clone()).await;
        shutdown.triggered().await;
        let broken = failure.borrow().clone().unwrap();
        assert_eq!(broken.code, "ledger.failed");
        assert!(broken.hint.contains("start the server again") && broken.why.contains("the disk is gone"));
    }
}
