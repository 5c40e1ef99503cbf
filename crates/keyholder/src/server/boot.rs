//! Making a keyholder, and starting one.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_crypto::random::Random;
use bonafide_identity::BundleMap;
use bonafide_identity::time::Clock;
use bonafide_keyring::{
    DeviceAccess, Dispatch, Keyring, KeyringError, LiveKeys, LocalKeys, SealSource, Worker,
};
use bonafide_ledger::{Ledger, LedgerConfig};
use bonafide_net::drain::Shutdown;
use bonafide_net::http::HttpLimits;
use bonafide_net::tls_listener::{Listener, TlsLimits};
use bonafide_net::unix;
use bonafide_secmem::SecretBytes;
use bonafide_tls::{Authorizer, Clients, IdentitySlot, Trusted, server_config};
use bonafide_wire::keyholder::keyholder_admin_server::KeyholderAdminServer;
use bonafide_wire::keyholder::keyholder_server::KeyholderServer;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use zeroize::Zeroizing;

use super::{Engine, Keyholder, Known, Running};
use crate::config::{KeyholderConfig, SealConfig};
use crate::disk::Disk;
use crate::error::Refusal;
use crate::generated::worker::{self, request::Ask};
use crate::holder::STATE;
use crate::peers::Peers;
use crate::service::{Local, Public, refused};
use crate::svid;
use crate::worker::share_handler;

/// Threads that ask the share's process, each on a lane of its own.
const THREADS: usize = 2;
/// The ledger's key, wrapped; and its folder, beside which its public key lies.
const LEDGER_KEY: &str = "ledger.key";
const LEDGER: &str = "ledger";
/// The most bytes of a passphrase.
const MAX_PASSPHRASE: u64 = 4096;
/// The most bytes of a question with what goes with it, and of documents that an operator installs.
const MAX_QUESTION: usize = 64 << 10;
const MAX_DOCUMENTS: usize = 4 << 20;

/// The keyring, wherever it is open.
struct Open {
    live: Arc<dyn LiveKeys>,
    worker: Option<(u32, oneshot::Receiver<KeyringError>)>,
    missing: Vec<String>,
}

impl Keyholder {
    /// Makes the data directory: keyring, seal, the key of the roster, the ledger's key.
    ///
    /// # Errors
    /// When there is one already, or it can't be written.
    pub async fn init(
        config: &KeyholderConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<(), Refusal> {
        let disk = Disk::new(&config.data_dir);
        disk.create()?;
        if disk.path(STATE).exists() {
            let hint = "start it, or make another one elsewhere";
            let message = format!("there is a keyholder in `{}`", config.data_dir.display());
            return Err(Refusal::new("keyholder.exists", message, hint));
        }
        let opened = open(config, true, clock, random).await?;
        let done = tokio::task::spawn_blocking(move || {
            let key = PrivateKey::generate(KeyAlgorithm::Ed25519).map_err(KeyringError::from)?;
            let wrapped = opened.live.import(LEDGER_KEY, &key.to_pkcs8_der())?.wrapped;
            disk.put(LEDGER_KEY, &wrapped)?;
            let request = worker::Request { ask: Some(Ask::Create(worker::Create {})) };
            let request = prost::Message::encode_to_vec(&request);
            let answer = opened.live.handle(&[&request])?.pop();
            let answer = answer.ok_or(KeyringError::WorkerProtocol("no answer"))?;
            let reply: Result<worker::Reply, _> = prost::Message::decode(answer.as_slice());
            let reply = reply.map_err(|_| KeyringError::WorkerProtocol("an answer that can't be read"))?;
            super::steps_on(&disk, refused(reply)?.steps)?;
            Ok::<_, Refusal>(())
        });
        done.await.unwrap_or_else(|_| Err(Refusal::not_ready("the program is ending")))
    }

    /// Starts a keyholder.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn start(
        config: KeyholderConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Running, Refusal> {
        let disk = Disk::new(&config.data_dir);
        let opened = open(&config, false, Arc::clone(&clock), random).await?;
        let signer = opened.live.open(LEDGER_KEY, &disk.read(LEDGER_KEY)?)?;
        let slot = IdentitySlot::new();
        slot.set(&svid::read(&config.svid)?);
        let id = slot.current().map(|svid| svid.id().to_string()).unwrap_or_default();
        let origin = format!("{}/ledger", id.trim_start_matches("spiffe://"));
        let ledger = Ledger::open(disk.path(LEDGER), LedgerConfig { origin }, signer)
            .map_err(|error| Refusal::new(error.code(), &error, error.hint().unwrap_or_default()))?;
        disk.put(&format!("{LEDGER}.pub"), format!("{}\n", ledger.verifier_key()).as_bytes())?;
        let trust = Arc::new(Trusted::new(BundleMap::new()));
        let (shutdown, tasks) = (Shutdown::new(), TaskTracker::new());
        let peers = Arc::new(Peers {
            addresses: config.peers.clone(),
            slot: Arc::clone(&slot),
            trust: Arc::clone(&trust),
            clock: Arc::clone(&clock),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
            patience: config.ceremony(),
            outboxes: Mutex::default(),
        });
        let (failed, failure) = oneshot::channel();
        let engine = Arc::new(Engine {
            dispatch: Dispatch::start(opened.live, THREADS)?,
            disk: disk.clone(),
            ledger,
            changes: tokio::sync::Mutex::default(),
            known: watch::Sender::new(Arc::new(Known::default())),
            trust: Arc::clone(&trust),
            slot: Arc::clone(&slot),
            peers,
            is_current: false.into(),
            heard: Mutex::default(),
            ceremony_time: config.ceremony(),
            missing: opened.missing,
            failed: Mutex::new(Some(failed)),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
        });
        let ask = Ask::Open(worker::Open { state: disk.read(STATE)?.into(), seals: disk.seals()? });
        engine.change(ask).await?;

        let everybody = Clients::Required(Authorizer::custom(|_| true));
        let unfit = |error: bonafide_tls::TlsError| Refusal::new("keyholder.tls", error, "");
        let tls = server_config(&slot, &trust, everybody, clock).map_err(unfit)?;
        let listening = |cause: std::io::Error| {
            let hint = "see whether another process listens there";
            Refusal::new("keyholder.listen", format!("`{}`: {cause}", config.listen), hint)
        };
        let socket = TcpListener::bind(config.listen).await.map_err(listening)?;
        let listener = Listener::new(socket, &tls, TlsLimits::default()).map_err(listening)?;
        let address = listener.local_addr();
        let local = unix::Listener::bind(config.admin_socket(), 0o600, None)
            .map_err(|error| Refusal::new(error.code(), &error, error.hint()))?;

        let public =
            KeyholderServer::new(Public(Arc::clone(&engine))).max_decoding_message_size(MAX_QUESTION);
        let public = Routes::new(public).into_axum_router();
        let (stop, known) = (shutdown.clone(), (public.clone(), HttpLimits::remote()));
        tasks.spawn(async move {
            if let Err(error) = listener.serve(known, (public, HttpLimits::strangers()), &stop).await {
                tracing::error!("the listener broke: {error}");
                stop.trigger();
            }
        });
        let admin = KeyholderAdminServer::new(Local(Arc::clone(&engine)));
        let admin = Routes::new(admin.max_decoding_message_size(MAX_DOCUMENTS)).into_axum_router();
        let stop = shutdown.clone();
        tasks.spawn(async move {
            if let Err(error) = local.serve(admin, HttpLimits::local(), &stop).await {
                tracing::error!("the operator's socket broke: {error}");
                stop.trigger();
            }
        });
        tasks.spawn(Arc::clone(&engine).exchange(config.exchange()));
        tasks.spawn(Arc::clone(&engine).tend(config.svid.clone()));
        let mut process = None;
        if let Some((number, end)) = opened.worker {
            process = Some(number);
            let (watched, stop) = (Arc::downgrade(&engine), shutdown.clone());
            tasks.spawn(async move {
                if let Some(Ok(error)) = stop.unless_triggered(end).await
                    && let Some(engine) = watched.upgrade()
                {
                    engine.fail(error.into());
                }
            });
        }
        tracing::info!(%address, id, "the keyholder serves");
        Ok(Running { address, worker: process, engine, tasks, failure })
    }
}

/// Opens the keyring, or makes it; in a process of its own, if there is a program for it.
async fn open(
    config: &KeyholderConfig,
    create: bool,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<Open, Refusal> {
    let path = config.data_dir.join("keyring");
    let source = match &config.seal {
        SealConfig::KeyFile => SealSource::KeyFile(config.data_dir.join("seal.key")),
        SealConfig::KeyFileAt { path } => SealSource::KeyFile(path.clone()),
        SealConfig::Passphrase { file } => SealSource::Passphrase(passphrase(file)?),
    };
    let program = config.worker.clone().map(|mut program| {
        program.lanes = THREADS + 1;
        program
    });
    let opened = tokio::task::spawn_blocking(move || {
        let Some(program) = program else {
            let device = DeviceAccess::open(None);
            let keyring = if create {
                let seal = source.create(&device, random.as_ref())?;
                Keyring::create(&path, &*seal, random.as_ref())?
            } else {
                Keyring::unseal(&path, std::slice::from_ref(&source), &device)?.0
            };
            let handler = share_handler(clock, Arc::clone(&random));
            let live = Arc::new(LocalKeys::new(keyring, random).with_handler(handler));
            return Ok(Open { live, worker: None, missing: Vec::new() });
        };
        let (ended, end) = oneshot::channel();
        let worker = Worker::start(&program, move |error| drop(ended.send(error)))?;
        let unsealed = if create {
            worker.create(&path, &source, None)?
        } else {
            worker.unseal(&path, std::slice::from_ref(&source), None)?
        };
        let missing = unsealed.missing;
        if !missing.is_empty() {
            tracing::warn!(
                missing = missing.join(","),
                "the share's process runs without all of its protections; this system does not grant them"
            );
        }
        Ok(Open { worker: Some((worker.process(), end)), live: Arc::new(worker), missing })
    });
    opened.await.unwrap_or_else(|_| Err(Refusal::not_ready("the program is ending")))
}

fn passphrase(path: &Path) -> Result<SecretBytes, Refusal> {
    let failed = |cause: String| {
        let message = format!("the passphrase in `{}`: {cause}", path.display());
        Refusal::new(
            "keyholder.passphrase",
            message,
            "write one line into the file, for this user alone to read",
        )
    };
    let file = fs::File::open(path).map_err(|cause| failed(cause.to_string()))?;
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_PASSPHRASE).unwrap_or(0)));
    file.take(MAX_PASSPHRASE).read_to_end(&mut text).map_err(|cause| failed(cause.to_string()))?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    if line.is_empty() {
        return Err(failed("it is empty".to_owned()));
    }
    SecretBytes::new(line.len(), |secret| secret.copy_from_slice(line))
        .map_err(|error| failed(error.to_string()))
}
