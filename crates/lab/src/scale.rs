//! `agents-1000-memory`, `agents-1000-cpu`, `push-fanout`, `reconnect-1000`: an authority and a thousand agents.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bonafide_simulation::{Fleet, Plan};

use crate::{Options, authority::AuthorityProcess, figure::Figure};

const AGENTS: usize = 1000;
/// Agents of another site, which a change of the first one does not concern.
const BYSTANDERS: usize = 200;
const SETTLE: Duration = Duration::from_secs(5);
/// The longest silence of a stream: once in it, each of them says that nothing has changed.
const IDLE: Duration = Duration::from_secs(300);
const CHANGES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a thousand agents cost that do nothing.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    pub(crate) memory: Figure,
    pub(crate) cpu: Figure,
}

impl Crowd {
    pub(crate) async fn measure(options: &Options) -> Result<Self> {
        let directory = options.directory()?;
        let authority = AuthorityProcess::start(&directory.path().join("authority")).await?;
        tokio::time::sleep(SETTLE).await;
        let process = authority.process()?;
        let before = process.usage()?;
        let fleet = Fleet::start(authority.admin(), plan("crowd", AGENTS), |_| ()).await?;
        let joined = process.usage()?;
        tokio::time::sleep(SETTLE).await;
        let (cpu, traffic) = (process.cpu()?, fleet.traffic());
        let began = Instant::now();
        tokio::time::sleep(IDLE).await;
        let share = (process.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        let bytes = fleet.traffic().since(traffic);
        let after = process.usage()?;
        fleet.stop().await;
        let figure = |name, value, unit, target, what| Figure {
            name,
            value,
            unit,
            floor: None,
            ratio: None,
            peer_ratio: None,
            target: Some(target),
            what,
        };
        let each = (after.memory as f64 - before.memory as f64) / AGENTS as f64 / 1e3;
        let set_up = (joined.cpu_seconds - before.cpu_seconds) / AGENTS as f64 * 1e3;
        let rate = (bytes.to_agents + bytes.from_agents) as f64 / IDLE.as_secs_f64() / AGENTS as f64;
        Ok(Self {
            memory: figure(
                "agents-1000-memory",
                each,
                "KB",
                60.0,
                format!(
                    "memory of a connected agent with one entry, of {AGENTS}; it joined and connected for {set_up:.1} ms of CPU time"
                ),
            ),
            cpu: figure(
                "agents-1000-cpu",
                share * 100.0,
                "%",
                0.1,
                format!(
                    "of a core, for {AGENTS} agents that are idle; {rate:.1} bytes a second each, both ways"
                ),
            ),
        })
    }
}

/// One change to every agent of a site.
pub(crate) async fn push_figure(options: &Options) -> Result<Figure> {
    let directory = options.directory()?;
    let authority = AuthorityProcess::start(&directory.path().join("authority")).await?;
    let fleet = Fleet::start(authority.admin(), plan("crowd", AGENTS), |_| ()).await?;
    let others = Fleet::start(authority.admin(), plan("others", BYSTANDERS), |_| ()).await?;
    fleet.settle().await?;
    tokio::time::sleep(SETTLE).await;
    fleet.tally().take();
    let (silent, cpu) = (others.traffic(), authority.process()?.cpu()?);
    let began = Instant::now();
    for _ in 0..CHANGES {
        fleet.change_and_wait(0, AGENTS).await?;
    }
    let cpu = (authority.process()?.cpu()? - cpu).as_secs_f64() * 1e6 / (CHANGES * AGENTS) as f64;
    let bytes = others.traffic().since(silent).to_agents;
    let took = began.elapsed();
    let change = fleet.tally().take().change;
    fleet.stop().await;
    others.stop().await;
    Ok(Figure {
        name: "push-fanout",
        value: change.p99_ms,
        unit: "ms",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(250.0),
        what: format!(
            "a change → acknowledged by {AGENTS} agents that need it, 99 of 100, {cpu:.0} µs of CPU time each; {bytes} bytes to {BYSTANDERS} others in {:.1} s",
            took.as_secs_f64()
        ),
    })
}

/// All agents come back.
pub(crate) async fn reconnect_figure(options: &Options) -> Result<Figure> {
    let directory = options.directory()?;
    let directory = directory.path().join("authority");
    let authority = AuthorityProcess::start(&directory).await?;
    let fleet = Fleet::start(authority.admin(), plan("crowd", AGENTS), |_| ()).await?;
    fleet.settle().await?;
    let mut synced = fleet.synced();
    let began = Instant::now();
    drop(authority);
    tokio::time::timeout(PATIENCE, synced.wait_for(|synced| *synced == 0)).await??;
    let authority = AuthorityProcess::serve(&directory).await?;
    // What it returns is a lock that the agents need.
    let all_are_back =
        tokio::time::timeout(PATIENCE, synced.wait_for(|synced| *synced == AGENTS)).await.is_ok();
    if !all_are_back {
        bail!("the agents did not come back within {PATIENCE:?}: {:?}", fleet.tally().take().errors);
    }
    let value = began.elapsed().as_secs_f64();
    let cpu = authority.process()?.cpu()?.as_secs_f64();
    fleet.stop().await;
    Ok(Figure {
        name: "reconnect-1000",
        value,
        unit: "s",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(20.0),
        what: format!(
            "the authority is killed and started again → all of {AGENTS} agents have what they need; {cpu:.2} s of its CPU time"
        ),
    })
}

/// One entry for each agent, and one that is everybody's.
fn plan(site: &str, agents: usize) -> Plan {
    Plan { site: site.to_owned(), agents, entries: agents + 1, workloads: 0, ttl: 3600, reuse_keys: false }
}
