//! The real agent, in a process of its own, and this process as its workload.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bonafide_agent::{Agent, AgentConfig};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::time::SystemClock;
use bonafide_wire::workload::{
    X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use tonic::{Request, Streaming, metadata::MetadataValue};

use crate::authority::socket;

/// Nothing takes this long but a fault.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent that is killed when dropped.
#[derive(Debug)]
pub(crate) struct AgentProcess {
    process: Child,
    socket: PathBuf,
}

impl AgentProcess {
    /// Starts this program once more, as an agent with its data in `directory`.
    pub(crate) fn start(directory: &Path, join: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let line = directory.join("join");
        std::fs::write(&line, join)?;
        let process = Command::new(std::env::current_exe()?)
            .arg("--serve-agent")
            .arg(directory)
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Self { process, socket: directory.join("agent.sock") })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // It has nothing that is worth keeping.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the other process does: serves until its input ends.
pub(crate) async fn serve(directory: &Path) -> Result<()> {
    let config = AgentConfig {
        socket: directory.join("agent.sock"),
        data_dir: directory.join("data"),
        join_line_file: Some(directory.join("join")),
        ..AgentConfig::default()
    };
    let mut running = Agent::start(config, Arc::new(SystemClock), Arc::new(SystemRandom)).await?;
    let parent = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    tokio::select! {
        ended = running.ended() => Ok(ended?),
        _ = parent => Ok(()),
    }
}

/// A workload's open stream of X509-SVIDs.
#[derive(Debug)]
pub(crate) struct Workload(Streaming<X509svidResponse>);

impl Workload {
    /// Opens the stream as soon as the agent has an identity for this process.
    pub(crate) async fn open(socket: &Path) -> Result<(Self, X509svidResponse)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_open(socket).await {
                Ok(opened) => return Ok(opened),
                Err(error) if Instant::now() > deadline => return Err(error),
                // The agent is starting, or does not know the entry yet: this is how workloads wait too.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Waits until a message says what is wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&X509svidResponse) -> bool) -> Result<()> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.message()).await;
            let Ok(next) = next else { bail!("the agent did not say it within {PATIENCE:?}") };
            if wanted(&next?.context("the agent closed the stream")?) {
                return Ok(());
            }
        }
    }

    /// What the agent says next.
    pub(crate) async fn next(&mut self) -> Result<X509svidResponse> {
        self.0.message().await?.context("the agent closed the stream")
    }

    async fn try_open(path: &Path) -> Result<(Self, X509svidResponse)> {
        let path = path.to_str().context("the path is not UTF-8")?;
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let mut client = SpiffeWorkloadApiClient::new(socket(path).await?);
        let mut stream = client.fetch_x509svid(request).await?.into_inner();
        let first = stream.message().await?.context("the agent closed the stream")?;
        Ok((Self(stream), first))
    }
}
