//! `push-latency-p99` and `cold-start-latency`: how long people wait.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};
use bonafide_wire::types::Selector;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getuid},
};

use crate::{
    Options,
    agent::{AgentProcess, Workload},
    authority::{AuthorityProcess, TRUST_DOMAIN},
    figure::Figure,
    pairs::{median, quantile},
};

const TRIALS: usize = 200;
const COLD_STARTS: usize = 7;

/// From the call of the admin API to the SVID on an open stream of a workload, through a real agent.
pub(crate) async fn push_figure(options: &Options) -> Result<Figure> {
    let directory = options.directory()?;
    let mut authority = AuthorityProcess::start(&directory.path().join("authority")).await?;
    let own = || vec![Selector { key: "unix.uid".to_owned(), value: getuid().to_string() }];
    authority.put_entry("always", "/lab/always", own()).await?;
    // Where agents keep their keys: in memory.
    let memory = Path::new("/dev/shm");
    let memory = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
    let agent = AgentProcess::start(memory.path(), &authority.join_word().await?)?;
    let (mut workload, _) = Workload::open(agent.socket()).await?;
    let mut latencies = Vec::with_capacity(TRIALS);
    for trial in 0..TRIALS {
        let id = format!("spiffe://{TRUST_DOMAIN}/lab/push/{trial}");
        let start = Instant::now();
        authority.put_entry("pushed", &format!("/lab/push/{trial}"), own()).await?;
        workload.until(|said| said.svids.iter().any(|svid| svid.spiffe_id == id)).await?;
        latencies.push(start.elapsed().as_secs_f64() * 1e3);
        authority.remove_entry("pushed").await?;
        workload.until(|said| said.svids.iter().all(|svid| svid.spiffe_id != id)).await?;
    }
    let typical = median(latencies.clone());
    Ok(Figure {
        name: "push-latency-p99",
        value: quantile(latencies, 0.99),
        unit: "ms",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(50.0),
        what: format!("entry created → new SVID on an open stream; {TRIALS} trials, median {typical:.1} ms"),
    })
}

/// From the start of `bonafide dev` to the first SVID of a process.
pub(crate) async fn cold_start_figure(options: &Options) -> Result<Figure> {
    // Built beside this program.
    let program = std::env::current_exe()?.with_file_name("bonafide");
    let mut latencies = Vec::with_capacity(COLD_STARTS);
    for _ in 0..COLD_STARTS {
        let directory = options.directory()?;
        let start = Instant::now();
        let mut process = Command::new(&program)
            .args(["dev", "--data"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start `{}`", program.display()))?;
        let opened = Workload::open(&directory.path().join("agent.sock")).await;
        latencies.push(start.elapsed().as_secs_f64() * 1e3);
        kill(Pid::from_raw(process.id().try_into()?), Signal::SIGTERM)?;
        process.wait()?;
        opened?;
    }
    Ok(Figure {
        name: "cold-start-latency",
        value: median(latencies),
        unit: "ms",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(1000.0),
        what: format!("`bonafide dev` started → first SVID of a process; median of {COLD_STARTS}"),
    })
}
