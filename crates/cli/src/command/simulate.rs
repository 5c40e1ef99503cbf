//! `simulate`: what an authority pays for very many agents.

use std::{
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use bonafide_crypto::random::{Random, SystemRandom};
use bonafide_simulation::{Fleet, FleetError, Plan, Process, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};

use crate::{
    Console, Failure, admin,
    demo::END_WITH_PARENT,
    duration, socket,
    text::hex,
    view::simulation::{Phase, SimulationView},
};

const TRUST_DOMAIN: &str = "simulation.test";
/// For an authority of our own to begin and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Descriptors beside those of the agents' connections.
const DESCRIPTORS: u64 = 256;

/// `simulate`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// Nodes: each joins, and has a mutual TLS stream of its own
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    agents: u32,
    /// Registrations, spread over the agents; one, or all if there are no more than agents, for every agent
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    entries: u32,
    /// Launches with an SVID that is renewed, spread over the agents
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    workloads: u32,
    /// Lifetime of SVIDs; they are renewed at half of it
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration::parse)]
    ttl: u32,
    /// How long to measure once everything is there
    #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = duration::parse)]
    length: u32,
    /// Change so many registrations in a minute, and time their delivery
    #[arg(long, value_name = "COUNT", default_value_t = 60)]
    changes: u32,
    /// Draw the keys of workloads from a small pool in place of making each one: spares this machine, not the authority
    #[arg(long)]
    reuse_keys: bool,
    /// Measure the authority of this admin socket [default: one that is started for this, and ended]
    #[arg(long, value_name = "SOCKET", value_parser = socket::parse)]
    authority: Option<PathBuf>,
    /// Where the files of an authority that is started for this lie; removed at the end
    #[arg(long, value_name = "DIR", conflicts_with = "authority", default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// What keeps the authority from starting, and what it refused while the agents were made. What it refuses later is
/// counted.
pub async fn run(arguments: SimulateArgs, console: &Console) -> Result<(), Failure> {
    allow_connections(arguments.agents)?;
    let Some(path) = &arguments.authority else {
        let authority = OwnAuthority::start(&arguments.directory).await?;
        let result = measure(&arguments, &authority.socket(), true, console).await;
        let stopped = authority.stop().await;
        return result.and(stopped);
    };
    measure(&arguments, path, false, console).await
}

async fn measure(arguments: &SimulateArgs, path: &Path, own: bool, console: &Console) -> Result<(), Failure> {
    // Who serves a Unix socket is who has made it: nobody else's CPU time is measured.
    let stream =
        UnixStream::connect(path).await.map_err(|cause| Failure::socket("authority", path, &cause))?;
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok());
    drop(stream);
    let process = pid.and_then(|pid| Process::of(pid).ok());
    let used = || process.as_ref().and_then(|process| process.usage().ok());
    let client = admin::connect(path).await?;
    let random: &dyn Random = &SystemRandom;
    let plan = Plan {
        site: format!("simulation-{}", hex(&random.array::<4>())),
        agents: arguments.agents as usize,
        entries: arguments.entries as usize,
        workloads: arguments.workloads as usize,
        ttl: arguments.ttl,
        reuse_keys: arguments.reuse_keys,
    };
    let bar = Bar::new(console);
    let (began, before) = (Instant::now(), used());
    let fleet =
        Fleet::start(client, plan, |progress| bar.show(progress)).await.map_err(|cause| failed(&cause))?;
    fleet.settle().await.map_err(|cause| failed(&cause))?;
    let (ready, traffic) = (used(), fleet.traffic());
    let set_up = Phase::new(began.elapsed(), before, ready, traffic, fleet.tally().take());

    let began = Instant::now();
    let changed = steady(arguments, &fleet, &bar, began).await;
    let outcome = fleet.tally().take();
    let steady = Phase::new(began.elapsed(), ready, used(), fleet.traffic().since(traffic), outcome);
    bar.clear();
    if own {
        fleet.stop().await;
    } else {
        fleet.clear().await.map_err(|cause| failed(&cause))?;
    }
    changed?;
    console.show(&SimulationView {
        agents: arguments.agents,
        entries: arguments.entries,
        workloads: arguments.workloads,
        ttl_seconds: arguments.ttl,
        reused_keys: arguments.reuse_keys,
        set_up,
        steady,
    })
}

/// Lets the agents live, and changes registrations at an even pace.
async fn steady(arguments: &SimulateArgs, fleet: &Fleet, bar: &Bar, began: Instant) -> Result<(), Failure> {
    let length = Duration::from_secs(arguments.length.into());
    let pace = (arguments.changes > 0).then(|| Duration::from_secs(60) / arguments.changes);
    let mut next_change = pace.map(|pace| began + pace);
    let mut changes = 0_usize;
    loop {
        let elapsed = began.elapsed();
        bar.show(Progress {
            stage: "measuring",
            done: usize::try_from(elapsed.as_secs()).unwrap_or(usize::MAX),
            total: arguments.length as usize,
        });
        if elapsed >= length {
            return Ok(());
        }
        if let (Some(at), Some(pace)) = (next_change, pace)
            && at <= Instant::now()
        {
            next_change = Some(at + pace);
            // Not the first one, which may be everybody's; neighbours in turn belong to different agents.
            let number = 1 + changes % (arguments.entries as usize).saturating_sub(1).max(1);
            changes += 1;
            fleet.change(number % arguments.entries as usize).await.map_err(|cause| failed(&cause))?;
            continue;
        }
        let rest = length.saturating_sub(elapsed).min(Duration::from_secs(1));
        let until_change = next_change.map(|at| at.saturating_duration_since(Instant::now()));
        tokio::time::sleep(until_change.map_or(rest, |change| change.min(rest))).await;
    }
}

/// An authority in a process of its own, in a folder of its own. Both are gone when this is dropped.
#[derive(Debug)]
struct OwnAuthority {
    folder: PathBuf,
    process: Option<Child>,
}

impl OwnAuthority {
    async fn start(directory: &Path) -> Result<Self, Failure> {
        let random: &dyn Random = &SystemRandom;
        let folder = directory.join(format!("bonafide-simulate-{}", hex(&random.array::<6>())));
        // Fails if somebody else made the folder first.
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|source| Failure::write(&folder, source))?;
        let mut authority = Self { folder, process: None };
        let settings = ["--trust-domain", TRUST_DOMAIN, "--listen", "127.0.0.1:0", "--data"];
        let status = authority
            .command("init")?
            .args(settings)
            .arg(authority.folder.join("authority"))
            .status()
            .await
            .map_err(|cause| not_started(&cause, &authority.log()))?;
        if !status.success() {
            return Err(not_started(&status, &authority.log()));
        }
        let process = authority.command("run")?.spawn();
        authority.process = Some(process.map_err(|cause| not_started(&cause, &authority.log()))?);
        let deadline = Instant::now() + PATIENCE;
        while let Err(cause) = UnixStream::connect(authority.socket()).await {
            if Instant::now() > deadline {
                return Err(not_started(&cause, &authority.log()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(authority)
    }

    fn command(&self, verb: &str) -> Result<Command, Failure> {
        let log = self.folder.join("authority.log");
        let opened = fs::OpenOptions::new().create(true).append(true).open(&log);
        let opened = opened.map_err(|source| Failure::write(&log, source))?;
        let program = std::env::current_exe().map_err(|cause| not_started(&cause, ""))?;
        let mut command = Command::new(program);
        command
            .env(END_WITH_PARENT, "1")
            .env("BONAFIDE_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(opened)
            .kill_on_drop(true);
        command.args(["authority", verb, "--config"]).arg(self.folder.join("authority.toml"));
        Ok(command)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("authority").join("admin.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("authority.log")).unwrap_or_default()
    }

    async fn stop(mut self) -> Result<(), Failure> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended already: then waiting tells.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = tokio::time::timeout(PATIENCE, process.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Failure::of(
                "simulation.authority-failed",
                format!("the authority ended with {status}"),
                self.log(),
            )),
            Ok(Err(cause)) => Err(not_started(&cause, &self.log())),
            Err(_) => {
                Err(Failure::TimedOut { what: "stopping the authority".into(), limit: PATIENCE.as_secs() })
            }
        }
    }
}

impl Drop for OwnAuthority {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.start_kill();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A bar on standard error, if that is a terminal.
#[derive(Debug)]
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new(console: &Console) -> Self {
        let wanted = !console.is_quiet() && io::stderr().is_terminal();
        Self(wanted.then(|| {
            let style = ProgressStyle::with_template("{msg:22} {bar:30} {pos}/{len} {elapsed}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }))
    }

    fn show(&self, progress: Progress) {
        if let Some(bar) = &self.0 {
            if bar.message() != progress.stage {
                bar.set_message(progress.stage);
                bar.reset_elapsed();
            }
            bar.set_length(progress.total as u64);
            bar.set_position(progress.done as u64);
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Each agent has a connection, here and in an authority that is started from here.
fn allow_connections(agents: u32) -> Result<(), Failure> {
    let hint = "raise it with `ulimit -n`, or simulate fewer agents";
    let failed = |cause: nix::Error| Failure::of("process.descriptors", cause, hint);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    let needed = u64::from(agents) + DESCRIPTORS;
    if soft >= needed {
        return Ok(());
    }
    if hard < needed {
        let message = format!("{agents} agents need {needed} open files, and this process may have {hard}");
        return Err(Failure::of("process.descriptors", message, hint));
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard).map_err(failed)
}

fn failed(cause: &FleetError) -> Failure {
    Failure::of(cause.code(), cause, cause.hint())
}

fn not_started(cause: &impl ToString, log: &str) -> Failure {
    let hint = log.lines().last().unwrap_or("see whether there is room for the files, with --directory");
    Failure::of(
        "simulation.authority-failed",
        format!("the authority did not start: {}", cause.to_string()),
        hint,
    )
}
