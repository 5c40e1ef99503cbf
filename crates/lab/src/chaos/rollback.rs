//! `rolled-back`: the authority is put back to yesterday's copy of everything, and an agent has seen more.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bonafide_wire::admin::StatusRequest;

use super::{
    admin::{Operator, entry, refused},
    agent::Agent,
    case::{Case, Report, Stage},
    server::{Server, Settings},
};

pub(crate) const CASE: Case = Case {
    name: "rolled-back",
    fault: "the authority is put back to yesterday's copy of all of its files, 50 times; one agent lives on",
    promise: "it stops within a minute of its start, names the fault, and starts again only when it is told to",
    short: true,
    run: |stage| Box::pin(run(stage)),
};

const PATIENCE: Duration = Duration::from_secs(90);

async fn run(stage: &Stage) -> Result<Report> {
    let drills = stage.times(50, 1);
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    let mut agent = Agent::new(stage, "agent");
    agent.join(&operator.join_word().await?).await?;
    let mut slowest = Duration::ZERO;
    for drill in 0..drills {
        let size = operator.0.status(StatusRequest {}).await?.into_inner().ledger_size;
        server.stop().await?;
        let yesterday = stage.path(&format!("yesterday-{drill}"));
        copy(server.data(), &yesterday)?;
        server.start().await?;
        // Today.
        operator = Operator(server.admin().await?);
        operator.put(entry(&format!("today-{drill}"), &[("unix.user", "today")])).await.map_err(refused)?;
        witnessed(&mut server, &agent, size).await?;
        server.stop().await?;

        put_back(&yesterday, server.data())?;
        let began = Instant::now();
        server.start().await?;
        let status = server.ended(PATIENCE).await?;
        slowest = slowest.max(began.elapsed());
        let said = server.last_words();
        ensure!(!status.success(), "it ends as if nothing had happened");
        ensure!(said.contains("rolled-back"), "it does not name the fault: {said}");
        // The next day, when nobody is there to show it.
        let said = server.refuses(&[]).await?;
        ensure!(said.contains("ledger.rolled-back"), "the next start is refused with: {said}");
        // The operator says that it is so.
        let began = Instant::now();
        server.spawn(&["--accept-restore"])?;
        server.serving(began).await?;
        operator = Operator(server.admin().await?);
        agent.until("connected to what was restored", |status| status.connected).await?;
    }
    Ok(Report {
        value: slowest.as_secs_f64(),
        unit: "s",
        at_most: Some(60.0),
        what: format!(
            "start of a copy → stopped by what the agent has seen, at most, of {drills} drills; then refused to start until it was accepted"
        ),
    })
}

/// Waits until the agent has seen a checkpoint of today: of a ledger beyond `size`, and of the store as it is.
async fn witnessed(server: &mut Server, agent: &Agent, size: u64) -> Result<()> {
    server.stop().await?;
    server.start().await?;
    agent.until("connected", |status| status.connected).await?;
    let mut admin = server.admin().await?;
    let began = Instant::now();
    loop {
        let status = admin.status(StatusRequest {}).await?.into_inner();
        if status.witnesses > 0 && status.witnessed_size > size {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "the agent has not witnessed the ledger");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn put_back(copied: &Path, data: &Path) -> Result<()> {
    fs::remove_dir_all(data)?;
    copy(copied, data)?;
    Ok(())
}

/// All files, with their modes; sockets stay.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for file in fs::read_dir(from)? {
        let file = file?;
        let (source, target): (PathBuf, PathBuf) = (file.path(), to.join(file.file_name()));
        if file.file_type()?.is_dir() {
            copy(&source, &target)?;
        } else if file.file_type()?.is_file() {
            fs::copy(source, target)?;
        }
    }
    Ok(())
}
