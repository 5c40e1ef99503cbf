//! The real agent in a process of its own: `bonafide agent run`.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bonafide_wire::agent::{AgentStatus, StatusRequest, agent_client::AgentClient};
use tonic::{Request, metadata::MetadataValue};

use super::{
    case::Stage,
    server::{PATIENCE, last_words},
    shim::Shim,
};
use crate::authority::socket;

/// An agent. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    program: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    authority: Option<SocketAddr>,
    environment: Vec<(OsString, OsString)>,
    process: Option<Child>,
}

impl Agent {
    /// Of a node with this name, which has not joined yet.
    pub(crate) fn new(stage: &Stage, name: &str) -> Self {
        Self {
            program: stage.program().to_owned(),
            data: stage.memory(name),
            socket: stage.memory(&format!("{name}.sock")),
            log: stage.path(&format!("{name}.log")),
            authority: None,
            environment: Vec::new(),
            process: None,
        }
    }

    /// Its next starts are under `shim`.
    pub(crate) fn preload(&mut self, shim: &Shim) {
        self.environment =
            shim.environment().into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    }

    /// Where it finds the authority, whatever the join word says.
    pub(crate) const fn dial(&mut self, authority: SocketAddr) {
        self.authority = Some(authority);
    }

    /// Joins, and waits until it has a stream.
    pub(crate) async fn join(&mut self, word: &str) -> Result<()> {
        let file = self.data.with_extension("join");
        std::fs::write(&file, word)?;
        self.spawn(Some(&file))?;
        self.until("connected", |status| status.connected).await?;
        Ok(())
    }

    /// Starts it.
    pub(crate) fn spawn(&mut self, join: Option<&Path>) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(["agent", "run", "--data"]).arg(&self.data).arg("--socket").arg(&self.socket);
        if let Some(join) = join {
            command.arg("--join-file").arg(join);
        }
        if let Some(authority) = self.authority {
            command.args(["--authority", &authority.to_string()]);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn()?);
        Ok(())
    }

    /// How it stands.
    pub(crate) async fn status(&self) -> Result<AgentStatus> {
        let path = self.socket.to_str().context("the path is not UTF-8")?;
        let mut request = Request::new(StatusRequest {});
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        Ok(AgentClient::new(socket(path).await?).status(request).await?.into_inner())
    }

    /// Waits until its status is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&AgentStatus) -> bool) -> Result<Duration> {
        let began = Instant::now();
        loop {
            if let Ok(status) = self.status().await
                && wanted(&status)
            {
                return Ok(began.elapsed());
            }
            let words = || last_words(&self.log);
            ensure!(began.elapsed() < 2 * PATIENCE, "the agent is not {what}: {}", words());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> Result<usize> {
        let id = self.process.as_ref().context("it does not run")?.id();
        Ok(std::fs::read_dir(format!("/proc/{id}/fd"))?.count())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It has nothing that is worth keeping.
        let _ = self.kill();
    }
}
