//! Running the long-lived roles: logs, signals, and an orderly end.

use std::{pin::pin, sync::Arc};

use bonafide_agent::{Agent, AgentConfig, AgentError};
use bonafide_authority::keys::application_keys;
use bonafide_authority::{Authority, AuthorityConfig, StartError};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::SystemClock;
use bonafide_keyholder::{Keyholder, KeyholderConfig, Refusal};
use bonafide_keyring::WorkerProgram;
use bonafide_net::telemetry;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Console, Failure};

/// What makes this program the worker of an authority. Not a command: no person needs it.
pub const KEY_WORKER: &str = "key-worker";

/// What makes this program the process of a keyholder's share. Not a command either.
pub const SHARE_WORKER: &str = "share-worker";

/// A running authority.
pub type RunningAuthority = bonafide_authority::Running;
/// A running agent.
pub type RunningAgent = bonafide_agent::Running;

/// Logs to standard error from now on; `BONAFIDE_LOG` says what.
///
/// # Errors
/// When `BONAFIDE_LOG` is no filter.
pub fn init_logs(default_filter: &str) -> Result<(), Failure> {
    telemetry::init(default_filter, telemetry::Format::Text)
        .map_err(|cause| Failure::of(cause.code(), &cause, cause.hint()))
}

/// From now on this process can be told to end, by SIGTERM or ctrl-c; resolves when it is. To be called before anything is
/// begun that should be ended well.
///
/// # Errors
/// When the system gives no signals.
pub fn told_to_end() -> Result<impl Future<Output = ()>, Failure> {
    let failed =
        |cause| Failure::of("process.no-signals", cause, "see whether this user may start more threads");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Makes the data directory of a new authority.
///
/// # Errors
/// When there is one already, and when it cannot be written.
pub async fn create_authority(config: &AuthorityConfig, console: &Console) -> Result<(), Failure> {
    Authority::init(&with_worker(config.clone()), Arc::clone(console.clock()), &SystemRandom)
        .await
        .map_err(|cause| authority_failure(&cause))
}

/// Makes the data directory of one more authority, with keyring and seal of the one in `of`.
///
/// # Errors
/// When there is one already, and when its store can't be opened.
pub async fn create_authority_beside(
    config: &AuthorityConfig,
    of: &std::path::Path,
    console: &Console,
) -> Result<(), Failure> {
    Authority::init_beside(
        &with_worker(config.clone()),
        of,
        Arc::clone(console.clock()),
        Arc::new(SystemRandom),
    )
    .await
    .map_err(|cause| authority_failure(&cause))
}

/// Holds the keys of the authority that started this process.
///
/// # Errors
/// When a person starts it: it is no command.
pub fn serve_key_worker() -> Result<(), Failure> {
    let random = Arc::new(SystemRandom);
    bonafide_keyring::serve_worker_with(Arc::clone(&random) as _, application_keys(random))
        .map_err(|cause| Failure::of(cause.code(), &cause, cause.hint()))
}

/// Holds the share of the keyholder that started this process.
///
/// # Errors
/// When a person starts it: it is no command.
pub fn serve_share_worker() -> Result<(), Failure> {
    let random = Arc::new(SystemRandom);
    let handler = bonafide_keyholder::share_handler(Arc::new(SystemClock), Arc::clone(&random) as _);
    bonafide_keyring::serve_worker_with(random, handler)
        .map_err(|cause| Failure::of(cause.code(), &cause, cause.hint()))
}

/// Makes the data directory of a new keyholder.
///
/// # Errors
/// When there is one already, and when it cannot be written.
pub async fn create_keyholder(mut config: KeyholderConfig, console: &Console) -> Result<(), Failure> {
    config.worker = Some(WorkerProgram::this([SHARE_WORKER]));
    let made = Keyholder::init(&config, Arc::clone(console.clock()), Arc::new(SystemRandom)).await;
    made.map_err(|cause| keyholder_failure(&cause))
}

/// Runs a keyholder until it is told to end, with its share in a process of its own.
///
/// # Errors
/// Why it ended, unless it was told to.
pub async fn serve_keyholder(mut config: KeyholderConfig, console: &Console) -> Result<(), Failure> {
    harden();
    config.worker = Some(WorkerProgram::this([SHARE_WORKER]));
    let mut told = pin!(told_to_end()?);
    let starting = Keyholder::start(config, Arc::clone(console.clock()), Arc::new(SystemRandom));
    let mut running = tokio::select! {
        biased;
        () = &mut told => return Ok(()),
        started = starting => started.map_err(|cause| keyholder_failure(&cause))?,
    };
    console.note(format!("the keyholder answers on {}", running.address()));
    tokio::select! {
        ended = running.ended() => ended.map_err(|cause| keyholder_failure(&cause)),
        () = &mut told => {
            running.stop().await;
            Ok(())
        }
    }
}

/// Starts an authority, with its live keys in a process of their own.
///
/// # Errors
/// What keeps it from starting.
pub async fn start_authority(
    config: AuthorityConfig,
    console: &Console,
) -> Result<RunningAuthority, Failure> {
    let started =
        Authority::start(with_worker(config), Arc::clone(console.clock()), Arc::new(SystemRandom)).await;
    started.map_err(|cause| authority_failure(&cause))
}

/// Live keys are in a process of this same program.
fn with_worker(mut config: AuthorityConfig) -> AuthorityConfig {
    config.key_worker.get_or_insert_with(|| WorkerProgram::this([KEY_WORKER]));
    config
}

/// Runs an authority until it is told to end.
///
/// # Errors
/// Why it ended, unless it was told to.
pub async fn serve_authority(config: AuthorityConfig, console: &Console) -> Result<(), Failure> {
    harden();
    let mut told = pin!(told_to_end()?);
    let mut running = tokio::select! {
        biased;
        // What it had begun is as after a crash, which it is made for.
        () = &mut told => return Ok(()),
        started = start_authority(config, console) => started?,
    };
    console.note(format!("the authority serves agents on {}", running.node_address()));
    console.note(format!("export BONAFIDE_ADMIN_SOCKET={}", running.admin_socket().display()));
    tokio::select! {
        ended = running.wait() => ended.map_err(|cause| authority_failure(&cause)),
        () = &mut told => stop_authority(running).await,
    }
}

/// Lets open requests finish, and stops.
///
/// # Errors
/// Why it did not end well.
pub async fn stop_authority(running: RunningAuthority) -> Result<(), Failure> {
    running.shutdown().await.map_err(|cause| authority_failure(&cause))
}

/// Starts an agent.
///
/// # Errors
/// What keeps it from starting.
pub async fn start_agent(config: AgentConfig, console: &Console) -> Result<RunningAgent, Failure> {
    let started = Agent::start(config, Arc::clone(console.clock()), Arc::new(SystemRandom)).await;
    started.map_err(|cause| agent_failure(&cause))
}

/// Runs an agent until it is told to end.
///
/// # Errors
/// Why it ended, unless it was told to.
pub async fn serve_agent(config: AgentConfig, console: &Console) -> Result<(), Failure> {
    harden();
    let socket = config.socket.clone();
    let mut told = pin!(told_to_end()?);
    let mut running = tokio::select! {
        biased;
        () = &mut told => return Ok(()),
        started = start_agent(config, console) => started?,
    };
    console.note(format!("export SPIFFE_ENDPOINT_SOCKET=unix://{}", socket.display()));
    tokio::select! {
        ended = running.ended() => ended.map_err(|cause| agent_failure(&cause)),
        () = &mut told => stop_agent(running).await,
    }
}

/// Ends an agent and waits until it has.
///
/// # Errors
/// Why it did not end well.
pub async fn stop_agent(running: RunningAgent) -> Result<(), Failure> {
    running.stop().await.map_err(|cause| agent_failure(&cause))
}

/// Before the first key is opened: no other process of this user reads this one's memory, and no crash writes it to
/// disk.
fn harden() {
    let hardening = bonafide_secmem::harden_process();
    if !(hardening.no_core && hardening.not_dumpable) {
        tracing::warn!(
            no_core = hardening.no_core,
            not_dumpable = hardening.not_dumpable,
            "this process can't keep its memory from core dumps and from other processes of this user"
        );
    }
}

pub(crate) fn agent_failure(cause: &AgentError) -> Failure {
    Failure::of(cause.code(), cause, cause.hint())
}

fn keyholder_failure(cause: &Refusal) -> Failure {
    Failure::of(cause.code(), cause, cause.hint())
}

fn authority_failure(cause: &StartError) -> Failure {
    Failure::of(cause.code(), cause, cause.hint())
}
