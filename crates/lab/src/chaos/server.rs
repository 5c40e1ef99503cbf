//! The real authority in a process of its own: `bonafide authority run`.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bonafide_wire::admin::{StatusRequest, admin_client::AdminClient};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::transport::Channel;

use super::{cage::Cage, case::Stage, shim::Shim};
use crate::authority::socket;

pub(crate) const TRUST_DOMAIN: &str = "chaos.example";

/// Nothing takes this long but a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What differs from the defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings<'a> {
    /// Name of the server.
    pub(crate) name: Option<&'a str>,
    /// A PostgreSQL database.
    pub(crate) store: Option<&'a str>,
    /// The server whose keyring it shares.
    pub(crate) beside: Option<&'a Server>,
    /// The data directory, if it is somewhere special.
    pub(crate) data: Option<PathBuf>,
    /// What join lines tell agents.
    pub(crate) address: Option<SocketAddr>,
    /// More of the settings file.
    pub(crate) more: &'a str,
}

/// An authority. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    program: PathBuf,
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
    listen: SocketAddr,
    environment: Vec<(OsString, OsString)>,
    /// The control group that it enters.
    cage: Option<PathBuf>,
    process: Option<Child>,
}

impl Server {
    /// Makes its data directory.
    pub(crate) async fn init(stage: &Stage, settings: &Settings<'_>) -> Result<Self> {
        let name = settings.name.unwrap_or("a");
        let config = stage.path(&format!("{name}.toml"));
        let data = settings.data.clone().unwrap_or_else(|| stage.path(name));
        let listen = free_address()?;
        let mut init = Command::new(stage.program());
        init.args(["authority", "init", "--trust-domain", TRUST_DOMAIN, "--server", name, "--config"]);
        init.arg(&config).arg("--data").arg(&data).args(["--listen", &listen.to_string()]);
        if let Some(address) = settings.address {
            init.args(["--address", &address.to_string()]);
        }
        if let Some(store) = settings.store {
            init.args(["--store", store]);
        }
        if let Some(beside) = settings.beside {
            init.arg("--beside").arg(&beside.data);
        }
        let made = tokio::task::spawn_blocking(move || init.output()).await??;
        ensure!(made.status.success(), "authority init: {}", String::from_utf8_lossy(&made.stderr));
        OpenOptions::new().append(true).open(&config)?.write_all(settings.more.as_bytes())?;
        let log = stage.path(&format!("{name}.log"));
        let program = stage.program().to_owned();
        Ok(Self { program, config, data, log, listen, environment: Vec::new(), cage: None, process: None })
    }

    /// Its next starts are under `shim`.
    pub(crate) fn preload(&mut self, shim: &Shim) {
        self.environment =
            shim.environment().into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    }

    /// Its next starts are in `cage`.
    pub(crate) fn enter(&mut self, cage: &Cage) {
        self.cage = Some(cage.door());
    }

    /// Starts it. Returns how long it took until it answered.
    pub(crate) async fn start(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.spawn(&[])?;
        self.serving(began).await
    }

    /// Starts it, and does not wait.
    pub(crate) fn spawn(&mut self, arguments: &[&str]) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = match &self.cage {
            Some(door) => {
                let mut command = Command::new("sh");
                command.args(["-c", r#"echo $$ >"$0" && exec "$@""#]).arg(door).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(["authority", "run", "--config"]).arg(&self.config).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn()?);
        Ok(())
    }

    /// Until it answers; how long that is after `began`.
    pub(crate) async fn serving(&mut self, began: Instant) -> Result<Duration> {
        loop {
            if let Ok(mut admin) = self.admin().await {
                let status = tokio::time::timeout(PATIENCE, admin.status(StatusRequest {})).await;
                if matches!(status, Ok(Ok(_))) {
                    return Ok(began.elapsed());
                }
            }
            if let Some(status) = self.look()? {
                bail!("the authority ended with {status}: {}", self.last_words());
            }
            ensure!(began.elapsed() < PATIENCE, "the authority does not serve: {}", self.last_words());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Why it does not start.
    pub(crate) async fn refuses(&mut self, arguments: &[&str]) -> Result<String> {
        fs::write(&self.log, "")?;
        self.spawn(arguments)?;
        let status = self.ended(PATIENCE).await?;
        ensure!(!status.success(), "the authority starts and ends as if nothing were wrong");
        Ok(self.last_words())
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.look()? {
                self.process = None;
                return Ok(status);
            }
            ensure!(began.elapsed() < within, "the authority did not end by itself: {}", self.last_words());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether it has ended, and how.
    pub(crate) fn look(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.as_mut().context("it was not started")?.try_wait()?)
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Ends it as an operator does.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.ended(PATIENCE).await?;
        ensure!(status.success(), "the authority ended with {status}: {}", self.last_words());
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.id()?.try_into()?), signal)?)
    }

    pub(crate) fn id(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("it does not run")?.id())
    }

    /// Its admin API.
    pub(crate) async fn admin(&self) -> Result<AdminClient<Channel>> {
        let path = self.data.join("admin.sock");
        Ok(AdminClient::new(socket(path.to_str().context("the path is not UTF-8")?).await?))
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.listen
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// What it has written to its log.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// The end of that.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing that is worth keeping.
        let _ = self.kill();
    }
}

/// Nobody listens there now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// The end of a log.
pub(crate) fn last_words(log: &Path) -> String {
    let said = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = said.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
