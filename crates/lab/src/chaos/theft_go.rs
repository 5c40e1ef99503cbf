//! `stolen-root-go`: somebody has the key of the root, and a workload with the public Go library looks at its bundles only.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bonafide_tls::ClientConfig;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use super::{
    admin::{Operator, entry, refused},
    agent::Agent,
    case::{Case, Report, Skipped, Stage},
    peers::Peer,
    server::{Server, Settings},
    theft::{Forged, Stolen, Thief, drill},
};

pub(crate) const CASE: Case = Case {
    name: "stolen-root-go",
    fault: "the key of the root is stolen, the drill is played, and a workload uses go-spiffe, unmodified",
    promise: "it refuses what the thief signs within 10 s, and lets honest callers in again",
    short: false,
    run: |stage| Box::pin(run(stage)),
};

const SOURCES: [(&str, &str); 3] = [
    ("go.mod", include_str!("go/go.mod")),
    ("go.sum", include_str!("go/go.sum")),
    ("main.go", include_str!("go/main.go")),
];
const PATIENCE: Duration = Duration::from_secs(60);

async fn run(stage: &Stage) -> Result<Report> {
    let program = build(stage)?;
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.start().await?;
    server.stop().await?;
    let thief = Thief::at(server.data()).await?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    let own = nix::unistd::geteuid().to_string();
    operator.put(entry("web", &[("unix.uid", &own)])).await.map_err(refused)?;
    let (mut near, mut far) = (Agent::new(stage, "near"), Agent::new(stage, "far"));
    near.join(&operator.join_word().await?).await?;
    far.join(&operator.join_word().await?).await?;
    let honest = Peer::of(&far).await?;
    let workload = Workload::start(&program, &near)?;
    let id = thief.id_of(Stolen::Root).to_owned();
    let forged = Forged::new(&thief.by_root()?);
    ensure!(workload.lets_in(&honest.client).await == Some(true), "it refuses honest callers");
    ensure!(workload.lets_in(&forged.client(&honest)?).await == Some(true), "the theft is not real");

    let began = Instant::now();
    let mut drill = drill(stage, &server, Stolen::Root, &id);
    let drilled = tokio::task::spawn_blocking(move || drill.output());
    let mut let_in = 0;
    loop {
        // Whom the thief believes is not what is tried here.
        match workload.lets_in(&forged.client(&honest)?).await {
            Some(false) => break,
            Some(true) => let_in += 1,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
        ensure!(began.elapsed() < PATIENCE, "the thief is still let in");
    }
    let refused_after = began.elapsed();
    let drilled = drilled.await??;
    let whole = began.elapsed();
    ensure!(drilled.status.success(), "the drill: {}", String::from_utf8_lossy(&drilled.stderr));
    let settled = Instant::now();
    while workload.lets_in(&honest.client).await != Some(true) {
        ensure!(settled.elapsed() < PATIENCE, "it refuses honest callers for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let again = workload.lets_in(&forged.client(&honest)?).await;
    ensure!(again == Some(false), "the thief is let in again");
    Ok(Report {
        value: refused_after.as_secs_f64(),
        unit: "s",
        at_most: Some(10.0),
        what: format!(
            "the drill begins → go-spiffe refuses the thief, who was let in {let_in} times meanwhile; the whole drill took {:.1} s, honest callers were let in {:.1} s after it",
            whole.as_secs_f64(),
            settled.elapsed().as_secs_f64()
        ),
    })
}

/// The program of the workload.
fn build(stage: &Stage) -> Result<PathBuf> {
    let sources = stage.path("go");
    std::fs::create_dir(&sources)?;
    for (name, text) in SOURCES {
        std::fs::write(sources.join(name), text)?;
    }
    let program = stage.path("workload");
    let built =
        Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(&sources).output();
    let built = built.map_err(|_| Skipped("there is no Go toolchain `go`".to_owned()))?;
    let said = String::from_utf8_lossy(&built.stderr);
    let why = || Skipped(format!("the Go workload can't be built here: {}", said.trim()));
    built.status.success().then_some(program).ok_or_else(|| why().into())
}

/// The process of the workload. Killed when dropped.
struct Workload {
    process: Child,
    address: SocketAddr,
}

impl Workload {
    fn start(program: &Path, agent: &Agent) -> Result<Self> {
        let endpoint = format!("unix://{}", agent.socket().display());
        let mut command = Command::new(program);
        command.env("SPIFFE_ENDPOINT_SOCKET", endpoint).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut started = Self { process: command.spawn()?, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let said = started.process.stdout.take().context("it has no output")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        started.address = line.trim().parse().context("the Go workload does not serve")?;
        Ok(started)
    }

    /// Whether it lets a caller in; `None` if it is the caller who does not want to.
    async fn lets_in(&self, client: &Arc<ClientConfig>) -> Option<bool> {
        let mut stream = client.connect(TcpStream::connect(self.address).await.ok()?).await.ok()?;
        // A client has finished before the server has looked at it.
        Some(stream.read_u8().await.is_ok())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
