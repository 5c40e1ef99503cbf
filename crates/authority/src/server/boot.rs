//! The data directory: `keyring`, `seal.key`, `store.sqlite`, `ledger/`, `admin.sock`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bonafide_crypto::mac::MacKey;
use bonafide_crypto::random::Random;
use bonafide_identity::time::Clock;
use bonafide_keyring::{
    DeviceAccess, DeviceConfig, Keyring, KeyringError, LiveKeys, LocalKeys, Opened as KeyringOpened,
    SealSource, Unsealed, Worker, WorkerProgram,
};
use bonafide_store::{PostgresStore, SqliteStore, Store};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{StartError, database};
use crate::config::{AuthorityConfig, StoreConfig};
use crate::keys::application_keys;
use crate::registry::Registry;
use crate::seals;

/// Purpose of the MAC key that authenticates the store's rows.
const STORE: &str = "store";
/// For tasks that have been told to end.
const CLOSE_TIME: Duration = Duration::from_secs(10);

/// What a server works on.
pub(super) struct Opened {
    pub(super) keys: OpenKeys,
    pub(super) store: Arc<dyn Store>,
    pub(super) registry: Registry,
    /// What the root key rests under.
    pub(super) seal: String,
}

/// The opened keyring, wherever it is.
pub(super) struct OpenKeys {
    pub(super) live: Arc<dyn LiveKeys>,
    /// The process that holds it, and word of its end.
    pub(super) worker: Option<(u32, oneshot::Receiver<KeyringError>)>,
    seal: String,
}

/// Makes a data directory.
pub(super) async fn create(
    config: &AuthorityConfig,
    clock: Arc<dyn Clock>,
    random: &dyn Random,
) -> Result<(), StartError> {
    let path = create_directory(config)?;
    let key = create_keyring(config, &path, random)?;
    let store = match create_store(config, &key, &clock, random).await {
        Ok(store) => store,
        Err(cause) => {
            // Keys to nothing would be in the way of the next attempt.
            let _gone = fs::remove_file(&path);
            if let Some(path) = seal_file(config) {
                let _gone = fs::remove_file(path);
            }
            return Err(cause);
        }
    };
    // Writes the settings: from now on the store is this trust domain's.
    drop(Registry::open(Arc::clone(&store), config.trust_domain.clone(), clock).await?);
    close(store).await;
    Ok(())
}

/// Makes the data directory of one more server, with keyring and seal of the one in `of`.
pub(super) async fn create_beside(
    config: &AuthorityConfig,
    of: &Path,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<(), StartError> {
    if matches!(config.store, StoreConfig::Sqlite) {
        return Err(StartError::StoreNotShared);
    }
    let keyring = create_directory(config)?;
    let mut copies = vec![(of.join("keyring"), keyring)];
    if let Some(path) = seal_file(config).filter(|path| !path.exists()) {
        copies.push((of.join("seal.key"), path));
    }
    for (from, to) in &copies {
        let failed =
            |cause| StartError::io(&format!("`{}`, copied to `{}`", from.display(), to.display()), cause);
        let content = Zeroizing::new(fs::read(from).map_err(failed)?);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
        file.write_all(&content).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    let opened = open(config, clock, random).await;
    if opened.is_err() {
        for (_, to) in &copies {
            let _gone = fs::remove_file(to);
        }
    }
    let Opened { store, registry, .. } = opened?;
    drop(registry);
    close(store).await;
    Ok(())
}

/// Makes the directory, where no authority may be. Where its keyring will be.
fn create_directory(config: &AuthorityConfig) -> Result<PathBuf, StartError> {
    let directory = &config.data_dir;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|cause| StartError::io(&format!("`{}`", directory.display()), cause))?;
    check_directory(directory)?;
    let keyring = directory.join("keyring");
    if keyring.exists() { Err(StartError::Exists(directory.clone())) } else { Ok(keyring) }
}

/// Makes seal and keyring. The key of the store's rows.
fn create_keyring(config: &AuthorityConfig, path: &Path, random: &dyn Random) -> Result<MacKey, StartError> {
    let (source, device) = (seals::source(config, &config.seal), device(config)?);
    if let Some(program) = &config.key_worker {
        let worker = Worker::start(&fitted(program, config), drop)?;
        worker.create(path, &source, device.as_ref())?;
        return Ok(worker.mac_key(STORE)?);
    }
    let device = DeviceAccess::open(device.as_ref());
    if let Some(problem) = device.problem() {
        return Err(problem.into());
    }
    let seal = source.create(&device, random)?;
    Ok(Keyring::create(path, &*seal, random)?.mac_key(STORE))
}

async fn create_store(
    config: &AuthorityConfig,
    key: &MacKey,
    clock: &Arc<dyn Clock>,
    random: &dyn Random,
) -> Result<Arc<dyn Store>, StartError> {
    if let Some(address) = database::address(config, clock)? {
        if !PostgresStore::create(&address, key, random).await? {
            return Err(StartError::StoreExists(address.to_string()));
        }
        return Ok(Arc::new(PostgresStore::open(address, key).await?));
    }
    Ok(Arc::new(SqliteStore::open(store_path(config), key.clone(), random)?))
}

/// Opens the store, which must be there.
async fn open_store(
    config: &AuthorityConfig,
    key: MacKey,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Store>, StartError> {
    if let Some(address) = database::address(config, clock)? {
        return Ok(Arc::new(PostgresStore::open(address, &key).await?));
    }
    let path = store_path(config);
    let store = tokio::task::spawn_blocking(move || SqliteStore::open_existing(path, key));
    Ok(Arc::new(store.await.map_err(|_| StartError::Stopped)??))
}

/// Opens a data directory.
pub(super) async fn open(
    config: &AuthorityConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<Opened, StartError> {
    let directory = &config.data_dir;
    if !directory.join("keyring").exists() {
        return Err(StartError::NotInitialised(directory.clone()));
    }
    check_directory(directory)?;
    let keys = unseal(config, random).await?;
    let store = open_store(config, keys.live.mac_key(STORE)?, &clock).await?;
    let registry = Registry::open(Arc::clone(&store), config.trust_domain.clone(), clock).await?;
    let seal = keys.seal.clone();
    Ok(Opened { keys, store, registry, seal })
}

/// Opens the keyring: in a process of its own, if there is a program for it.
async fn unseal(config: &AuthorityConfig, random: Arc<dyn Random>) -> Result<OpenKeys, StartError> {
    let path = config.data_dir.join("keyring");
    let program = config.key_worker.as_ref().map(|program| fitted(program, config));
    let (sources, device) = (seals::sources(config), device(config)?);
    let names = seals::descriptions(config);
    let opened = tokio::task::spawn_blocking(move || {
        let kind = |opened: &KeyringOpened| {
            for (place, error) in &opened.problems {
                tracing::warn!(
                    code = error.code(),
                    seal = names.get(*place).map_or("", String::as_str),
                    "a seal does not open the keyring, another one does: {error}"
                );
            }
            sources.get(opened.by).map_or("", SealSource::kind).to_owned()
        };
        let warn_device = |problem: &KeyringError| {
            tracing::warn!(
                code = problem.code(),
                "without the PKCS#11 device, the keys that are in it can't be used until the server is started again: {problem}"
            );
        };
        let Some(program) = program else {
            let device = DeviceAccess::open(device.as_ref());
            device.problem().iter().for_each(warn_device);
            let (keyring, opened) = Keyring::unseal(&path, &sources, &device)?;
            let live: Arc<dyn LiveKeys> = Arc::new(
                LocalKeys::new(keyring, Arc::clone(&random))
                    .with_device(device)
                    .with_handler(application_keys(random)),
            );
            return Ok(OpenKeys { live, worker: None, seal: kind(&opened) });
        };
        let (ended, end) = oneshot::channel();
        // Nobody listens any more when the server has stopped.
        let worker = Worker::start(&program, move |error| drop(ended.send(error)))?;
        let Unsealed { missing, opened, device } = worker.unseal(&path, &sources, device.as_ref())?;
        device.iter().for_each(warn_device);
        if !missing.is_empty() {
            tracing::warn!(
                missing = missing.join(","),
                "the key worker holds the keys without all of its protections; this system does not grant them"
            );
        }
        let (process, seal) = (worker.process(), kind(&opened));
        Ok(OpenKeys { live: Arc::new(worker), worker: Some((process, end)), seal })
    });
    opened.await.map_err(|_| StartError::Stopped)?
}

/// The worker's program, with a lane for each thread that asks it.
fn fitted(program: &WorkerProgram, config: &AuthorityConfig) -> WorkerProgram {
    let mut program = seals::fitted(program, config);
    // One for each thread that signs for agents, one for the server itself, and those of applications' keys.
    program.lanes += 1 + super::keys::threads();
    program
}

/// Waits until only `owners` use it.
pub(super) async fn quiet<T: ?Sized>(used: &Arc<T>, owners: usize) {
    let last = async {
        while Arc::strong_count(used) > owners {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(CLOSE_TIME, last).await.is_err() {
        tracing::warn!("some task does not end; the data directory stays locked until the process ends");
    }
}

/// Gives the store a new incarnation: what was written after the moment that it was rolled back to is not to come back.
pub(super) async fn renew_incarnation(
    config: &AuthorityConfig,
    clock: &Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<(), StartError> {
    let keys = unseal(config, Arc::clone(&random)).await?;
    let (path, key) = (store_path(config), keys.live.mac_key(STORE)?);
    if let Some(address) = database::address(config, clock)? {
        PostgresStore::renew_incarnation(address, &key, &*random).await?;
        return Ok(());
    }
    let renewed = tokio::task::spawn_blocking(move || SqliteStore::renew_incarnation(path, key, &*random));
    renewed.await.map_err(|_| StartError::Stopped)??;
    Ok(())
}

/// Waits for the others that use it, and closes it: whoever opens the files next finds them unlocked.
pub(super) async fn close<T: ?Sized + Send + Sync + 'static>(used: Arc<T>) {
    quiet(&used, 1).await;
    let _ended = tokio::task::spawn_blocking(move || drop(used)).await;
}

/// The user that the server runs as.
pub(super) fn own_uid() -> u32 {
    // Not the owner of `/proc/self`: that is root when the process is not dumpable.
    rustix::process::geteuid().as_raw()
}

fn check_directory(directory: &Path) -> Result<(), StartError> {
    let metadata = fs::metadata(directory)
        .map_err(|cause| StartError::io(&format!("`{}`", directory.display()), cause))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(StartError::DataDirectory(directory.to_owned()));
    }
    Ok(())
}

fn device(config: &AuthorityConfig) -> Result<Option<DeviceConfig>, StartError> {
    seals::device(config).map_err(|cause| {
        let file = config.keys.pkcs11.as_ref().map(|pkcs11| pkcs11.pin_file.display().to_string());
        StartError::io(&format!("the PIN in `{}`", file.unwrap_or_default()), cause)
    })
}

/// The key file that is made with the data directory.
fn seal_file(config: &AuthorityConfig) -> Option<PathBuf> {
    seals::key_file(config, &config.seal)
}

fn store_path(config: &AuthorityConfig) -> PathBuf {
    config.data_dir.join("store.sqlite")
}
