//! What this server's root key rests under, and its change while the server goes on.
//!
//! The process that holds the live keys can write no file any more, and is not disturbed: another one is started for each look and
//! each change, opens the keyring with a seal that the settings name, and ends. What the keyring holds stays the same.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bonafide_crypto::random::Random;
use bonafide_identity::time::Clock;
use bonafide_keyring::{
    DeviceAccess, DeviceConfig, KeyringError, SealChange, SealName, SealSource, Seals as Report, Worker,
    WorkerProgram, change_seals, inspect_seals,
};
use bonafide_secmem::{Confinement, SecretBytes};
use zeroize::Zeroizing;

use crate::config::{AuthorityConfig, SealConfig};
use crate::entry::{self, entry::Kind, seal_change::Stage};
use crate::journal::Journal;
use crate::refusal::Refusal;

/// A passphrase is not longer.
const MAX_PASSPHRASE: u64 = 4096;

/// Looks after the seals of one server.
#[derive(Debug)]
pub(crate) struct Seals {
    /// With the seals that were added since the start.
    config: Mutex<AuthorityConfig>,
    journal: Arc<Journal>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// The seals of the keyring, and the ones that the server knows, which [`Report`] numbers.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) report: Report,
    pub(crate) sources: Vec<String>,
}

/// A change that an operator wants.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Add { name: SealName, seal: SealConfig },
    Remove(Vec<SealName>),
    Renew,
}

impl Seals {
    pub(crate) fn new(
        config: AuthorityConfig,
        journal: Arc<Journal>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self { config: Mutex::new(config), journal, clock, random }
    }

    /// Tries every seal that the server knows.
    pub(crate) async fn look(self: &Arc<Self>) -> Result<Looked, Refusal> {
        self.blocking(None).await
    }

    /// Makes a change. It is on the ledger before, and what came of it after.
    pub(crate) async fn change(self: &Arc<Self>, actor: &str, wanted: Wanted) -> Result<Looked, Refusal> {
        let entry = |stage: Stage, code: &str| {
            let (change, seals, kind) = wanted.told();
            let (actor, code) = (actor.to_owned(), code.to_owned());
            Kind::SealChange(entry::SealChange { change, seals, kind, actor, stage: stage.into(), code })
        };
        self.journal.append(self.clock.now(), vec![entry(Stage::Intent, "")]).await?;
        let done = self.blocking(Some(wanted.clone())).await;
        let outcome = match &done {
            Ok(_) => entry(Stage::Done, ""),
            Err(refusal) => entry(Stage::Failed, refusal.code()),
        };
        if let Err(refusal) = self.journal.append(self.clock.now(), vec![outcome]).await {
            tracing::error!(
                code = refusal.code(),
                "what came of a change of the seals is not on the ledger: {refusal}"
            );
        }
        if done.is_ok() {
            tracing::info!(actor, change = wanted.told().0, "the seals have changed");
        }
        done
    }

    /// A change is made to its end, also when nobody waits for it any more.
    async fn blocking(self: &Arc<Self>, wanted: Option<Wanted>) -> Result<Looked, Refusal> {
        let this = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || this.carry_out(wanted)).await;
        done.unwrap_or_else(|_| Err(KeyringError::WorkerGone("it was given up".to_owned()).into()))
    }

    fn carry_out(&self, wanted: Option<Wanted>) -> Result<Looked, Refusal> {
        // One at a time: two would each write what they have read.
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let (shown, device) =
            (sources(&config), device(&config).map_err(|cause| unreadable(&config, &cause))?);
        let mut names = descriptions(&config);
        let mut added = None;
        let change = match wanted {
            None => None,
            Some(Wanted::Add { name, seal }) => {
                let source = source(&config, &seal);
                names.push(describe(&config, &seal));
                added = Some(seal);
                Some(SealChange::Add { name, source })
            }
            Some(Wanted::Remove(names)) => Some(SealChange::Remove(names)),
            Some(Wanted::Renew) => Some(SealChange::Renew),
        };
        let path = config.data_dir.join("keyring");
        let report = match &config.key_worker {
            Some(program) => {
                let worker = Worker::start(&fitted(program, &config), drop)?;
                worker.seals(&path, &shown, change.as_ref(), device.as_ref())?
            }
            None => {
                let device = DeviceAccess::open(device.as_ref());
                match &change {
                    None => inspect_seals(&path, &shown, &device)?,
                    Some(change) => change_seals(&path, &shown, change, &device, &*self.random)?,
                }
            }
        };
        config.seals.extend(added);
        Ok(Looked { report, sources: names })
    }
}

impl Wanted {
    fn told(&self) -> (String, Vec<String>, String) {
        let (change, seals, kind) = match self {
            Self::Add { name, seal } => ("add", vec![name.to_string()], seal.kind()),
            Self::Remove(names) => ("remove", names.iter().map(ToString::to_string).collect(), ""),
            Self::Renew => ("renew", Vec::new(), ""),
        };
        (change.to_owned(), seals, kind.to_owned())
    }
}

impl From<KeyringError> for Refusal {
    fn from(error: KeyringError) -> Self {
        let (code, hint) = (error.code(), error.hint());
        Self::precondition(code, error.to_string()).hint(hint)
    }
}

/// The seals that are configured, in their order, with what each needs to be opened.
pub(crate) fn sources(config: &AuthorityConfig) -> Vec<SealSource> {
    config.all_seals().map(|seal| source(config, seal)).collect()
}

/// Each of them, for people.
pub(crate) fn descriptions(config: &AuthorityConfig) -> Vec<String> {
    config.all_seals().map(|seal| describe(config, seal)).collect()
}

fn describe(config: &AuthorityConfig, seal: &SealConfig) -> String {
    match (seal, key_file(config, seal)) {
        (_, Some(path)) => format!("key file `{}`", path.display()),
        (SealConfig::Passphrase { file }, _) => format!("passphrase in `{}`", file.display()),
        _ => "PKCS#11 device".to_owned(),
    }
}

/// What a seal needs. A secret that can't be read keeps nobody from trying the others.
pub(crate) fn source(config: &AuthorityConfig, seal: &SealConfig) -> SealSource {
    match (seal, key_file(config, seal)) {
        (_, Some(path)) => SealSource::KeyFile(path),
        (SealConfig::Passphrase { file }, _) => match read_passphrase(file) {
            Ok(passphrase) => SealSource::Passphrase(passphrase),
            Err(cause) => SealSource::Missing {
                kind: seal.kind(),
                why: format!("the passphrase in `{}`: {cause}", file.display()),
            },
        },
        _ => SealSource::Device,
    }
}

/// Where the key of a key file is.
pub(crate) fn key_file(config: &AuthorityConfig, seal: &SealConfig) -> Option<PathBuf> {
    match seal {
        SealConfig::KeyFile => Some(config.data_dir.join("seal.key")),
        SealConfig::KeyFileAt { path } => Some(path.clone()),
        SealConfig::Passphrase { .. } | SealConfig::Pkcs11 => None,
    }
}

/// The device that is configured.
pub(crate) fn device(config: &AuthorityConfig) -> io::Result<Option<DeviceConfig>> {
    let Some(pkcs11) = &config.keys.pkcs11 else { return Ok(None) };
    let pin = read_passphrase(&pkcs11.pin_file)?;
    Ok(Some(DeviceConfig { module: pkcs11.module.clone(), token: pkcs11.token.clone(), pin }))
}

/// The worker's program, with as many lanes as threads that sign, and what the module of a device needs.
pub(crate) fn fitted(program: &WorkerProgram, config: &AuthorityConfig) -> WorkerProgram {
    let mut program = program.clone();
    if config.limits.signing_threads > 0 {
        program.lanes = config.limits.signing_threads;
    }
    if let Some(pkcs11) = &config.keys.pkcs11 {
        program.confinement = Confinement { network: pkcs11.network, foreign_code: true };
        let variable = |(name, value): (&String, &String)| (name.into(), value.into());
        program.environment = pkcs11.environment.iter().map(variable).collect();
    }
    program
}

/// A passphrase or PIN, without the end of its line.
pub(crate) fn read_passphrase(file: &Path) -> io::Result<SecretBytes> {
    use std::io::Read as _;
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE as usize + 1));
    std::fs::File::open(file)?.take(MAX_PASSPHRASE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_PASSPHRASE {
        return Err(io::Error::other("it is longer than 4096 bytes"));
    }
    let passphrase = text.strip_suffix(b"\n").unwrap_or(&text);
    let passphrase = passphrase.strip_suffix(b"\r").unwrap_or(passphrase);
    if passphrase.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    SecretBytes::new(passphrase.len(), |secret| secret.copy_from_slice(passphrase)).map_err(io::Error::other)
}

fn unreadable(config: &AuthorityConfig, cause: &io::Error) -> Refusal {
    let file = config.keys.pkcs11.as_ref().map(|pkcs11| pkcs11.pin_file.display().to_string());
    let message = format!("the PIN in `{}`: {cause}", file.unwrap_or_default());
    Refusal::precondition("keyring.device-pin", message).hint("put the PIN back where the settings say")
}
