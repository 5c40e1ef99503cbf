//! `pid-reuse`: the number of a process that has connected is given to another one.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    admin::{Operator, entry, refused},
    agent::Agent,
    case::{Case, Report, Stage, need_root},
    server::{Server, Settings},
    shim::compile,
};

pub(crate) const CASE: Case = Case {
    name: "pid-reuse",
    fault: "100,000 times a process connects to the agent and ends, and one with an identity gets its number",
    promise: "the connection never gets that identity, and the agent's open files stay as they were",
    short: true,
    run: |stage| Box::pin(run(stage)),
};

const RACER: &str = include_str!("racer.c");
/// Users that nobody has.
const STRANGER: &str = "64001";
const KNOWN: &str = "64002";
/// Connections that end just now hold files for a moment.
const SLACK: usize = 8;

async fn run(stage: &Stage) -> Result<Report> {
    need_root()?;
    let races = stage.times(100_000, 1000);
    let (source, racer) = (stage.path("racer.c"), stage.path("racer"));
    std::fs::write(&source, RACER)?;
    compile(&[], &source, &racer)?;
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    operator.put(entry("known", &[("unix.uid", KNOWN)])).await.map_err(refused)?;
    let mut agent = Agent::new(stage, "agent");
    agent.join(&operator.join_word().await?).await?;
    agent.until("ready for launches", |status| status.pooled >= 1).await?;
    let before = agent.open_files()?;
    let mut race = Command::new(racer);
    race.arg(agent.socket()).args([&races.to_string(), STRANGER, KNOWN]);
    let began = Instant::now();
    let raced = tokio::task::spawn_blocking(move || race.output()).await??;
    let took = began.elapsed();
    match raced.status.code() {
        Some(0) => {}
        Some(4) => bail!("a process with an entry does not get its identity"),
        code => bail!("the racer ended with {code:?}"),
    }
    let said = String::from_utf8(raced.stdout)?;
    let mut numbers = said.split_whitespace().map(str::parse::<usize>);
    let mut number = || numbers.next().and_then(Result::ok).context("the racer said nothing");
    let (played, wrong, answers) = (number()?, number()?, number()?);
    ensure!(played == races, "only {played} of {races} numbers were given again");
    ensure!(wrong == 0, "{wrong} connections got the identity of another process");
    let mut after = agent.open_files()?;
    let settled = Instant::now();
    while after > before + SLACK && settled.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        after = agent.open_files()?;
    }
    ensure!(after <= before + SLACK, "the agent had {before} files open, and has {after}");
    Ok(Report {
        value: wrong as f64,
        unit: "wrong",
        at_most: Some(0.0),
        what: format!(
            "identities, of {played} numbers used again in {:.0} s, {answers} of them answered; open files {before} before, {after} after",
            took.as_secs_f64()
        ),
    })
}
