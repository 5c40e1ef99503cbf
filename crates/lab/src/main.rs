//! Benchmarks of the whole. Each prints CPU time per operation (unless its name says latency), and beside it what the
//! cryptography or the disk alone costs, measured in the same run and in turns with it.

mod agent;
mod append;
mod authority;
mod chaos;
mod clock;
mod commit;
mod decide;
mod figure;
mod fill;
mod handshake;
mod kms;
mod kms_remote;
mod matching;
mod mint;
mod node;
mod pairs;
mod permission;
mod push;
mod scale;
mod sealing;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use bonafide_crypto::random::SystemRandom;
use clap::Parser;
use nix::sys::statfs;

use crate::{figure::Figure, fill::Filled, kms_remote::Remote, mint::Mint, scale::Crowd};

/// As the program that is measured has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAMES: &[&str] = &[
    "mint",
    "mint-1",
    "jwt-mint",
    "match-1m",
    "push-latency-p99",
    "cold-start-latency",
    "handshake",
    "ledger-append",
    "commit",
    "commit-postgres",
    "memory-100k",
    "memory-1m",
    "start-100k",
    "agents-1000-memory",
    "agents-1000-cpu",
    "push-fanout",
    "reconnect-1000",
    "ext-authz",
    "authzen",
    "decide-10k",
    "decide-10k-p99",
    "decide-alloc",
    "decide-100k",
    "decide-grid",
    "decide-shared-prefix",
    "policy-load-10k",
    "kms-local-encrypt-1k",
    "kms-agent-encrypt-1k",
    "kms-grpc-encrypt-1k",
    "kms-http-encrypt-1k",
    "kms-http-encrypt-batch100",
    "kms-http-hmac",
    "kms-http-sign-p256",
    "keyholder-eval",
    "keyholder-eval-cold",
    "keyholder-proof",
    "secret-seal",
    "secret-blind",
    "secret-combine",
    "secret-open-cpu",
    #[cfg(feature = "engines")]
    "decide-cedar-10k",
    #[cfg(feature = "engines")]
    "decide-regorus-10k",
];

/// Measures, and compares with what is physically possible.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// One JSON object per line in place of a table
    #[arg(long)]
    json: bool,
    /// Only print the names
    #[arg(long)]
    list: bool,
    /// Where ledgers are written; should be on a real disk
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// Be the authority of a benchmark
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    serve_authority: Option<PathBuf>,
    /// Fill the store of an authority, which then isn't started
    #[arg(long, hide = true, value_names = ["DIRECTORY", "ENTRIES"], num_args = 2)]
    fill_authority: Option<Vec<String>>,
    /// Be the agent of a benchmark
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    serve_agent: Option<PathBuf>,
    /// Which figures; all of them without
    names: Vec<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Break things, and look what holds
    Chaos(chaos::ChaosArgs),
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    /// A fresh directory on the disk.
    fn directory(&self) -> Result<tempfile::TempDir> {
        if statfs::statfs(&self.directory)?.filesystem_type() == statfs::TMPFS_MAGIC {
            bail!("`{}` is in memory: name a directory on a disk with --directory", self.directory.display());
        }
        Ok(tempfile::Builder::new().prefix("bonafide-lab-").tempdir_in(&self.directory)?)
    }
}

fn main() -> ExitCode {
    // Before there is a second thread.
    if std::env::args_os().nth(1).is_some_and(|first| first == authority::KEY_WORKER) {
        let random = Arc::new(SystemRandom);
        let applications = bonafide_authority::keys::application_keys(Arc::clone(&random) as _);
        let served = bonafide_keyring::serve_worker_with(random, applications);
        return finish(served.map(|()| true).map_err(Into::into));
    }
    let options = Options::parse();
    finish(
        bonafide_net::runtime::start()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(run(&options))),
    )
}

fn finish(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as it should be.
async fn run(options: &Options) -> Result<bool> {
    match &options.command {
        Some(Command::Chaos(args)) => chaos::run(args).await,
        None => measure(options).await.map(|()| true),
    }
}

async fn measure(options: &Options) -> Result<()> {
    if let Some(directory) = &options.serve_authority {
        return authority::serve(directory).await;
    }
    if let Some([directory, entries]) = options.fill_authority.as_deref() {
        return fill::fill(Path::new(directory), entries.parse()?).await;
    }
    if let Some(directory) = &options.serve_agent {
        return agent::serve(directory).await;
    }
    if let Some(unknown) = options.names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("there is no figure `{unknown}`; there are {}", NAMES.join(", "));
    }
    let mut out = std::io::stdout();
    if options.list {
        writeln!(out, "{}", NAMES.join("\n"))?;
        return Ok(());
    }
    let mut figures: Vec<Figure> = Vec::new();
    let mut mint: Option<Mint> = None;
    let mut filled = Filled::default();
    let mut crowd: Option<Crowd> = None;
    let mut kms: Option<Remote> = None;
    for name in NAMES.iter().copied().filter(|name| options.wants(name)) {
        if name.contains("mint") && mint.is_none() {
            mint = Some(Mint::start(options).await?);
        }
        if name.starts_with("agents-1000") && crowd.is_none() {
            crowd = Some(Crowd::measure(options).await?);
        }
        if name.starts_with("kms-") && name != "kms-local-encrypt-1k" && kms.is_none() {
            kms = Some(Remote::start(options).await?);
        }
        let figure = match (name, &mut mint) {
            ("mint", Some(mint)) => mint.x509_figure().await?,
            ("mint-1", Some(mint)) => mint.latency_figure().await?,
            ("jwt-mint", Some(mint)) => mint.jwt_figure().await?,
            ("match-1m", _) => tokio::task::spawn_blocking(matching::figure).await??,
            ("push-latency-p99", _) => push::push_figure(options).await?,
            ("cold-start-latency", _) => push::cold_start_figure(options).await?,
            ("handshake", _) => handshake::figure().await?,
            (name, _) if name.starts_with("decide") || name == "policy-load-10k" => {
                tokio::task::spawn_blocking(move || decide::figure(name)).await??
            }
            ("kms-agent-encrypt-1k", _) => kms.as_ref().context("started before")?.agent_figure().await?,
            ("kms-grpc-encrypt-1k", _) => kms.as_ref().context("started before")?.grpc_figure().await?,
            (name, _) if name.starts_with("kms-http-") => {
                kms.as_ref().context("started before")?.http_figure(name).await?
            }
            (name, _) if name.starts_with("keyholder-") || name.starts_with("secret-") => {
                tokio::task::spawn_blocking(move || sealing::figure(name)).await??
            }
            ("kms-local-encrypt-1k", _) => tokio::task::spawn_blocking(kms::local_encrypt_figure).await??,
            ("commit", _) => commit::figure(options).await?,
            ("commit-postgres", _) => match commit::postgres_figure().await? {
                Some(figure) => figure,
                None => continue,
            },
            ("memory-100k", _) => filled.memory_figure(options, "memory-100k", 100_000, 80.0).await?,
            ("memory-1m", _) => filled.memory_figure(options, "memory-1m", 1_000_000, 400.0).await?,
            ("start-100k", _) => filled.start_figure(options).await?,
            ("agents-1000-memory", _) => crowd.as_ref().context("measured before")?.memory.clone(),
            ("agents-1000-cpu", _) => crowd.as_ref().context("measured before")?.cpu.clone(),
            ("push-fanout", _) => scale::push_figure(options).await?,
            ("ext-authz", _) => permission::ext_authz_figure(options).await?,
            ("authzen", _) => permission::authzen_figure(options).await?,
            ("reconnect-1000", _) => scale::reconnect_figure(options).await?,
            _ => append::figure(options).await?,
        };
        if options.json {
            figure.print_json()?;
        }
        figures.push(figure);
    }
    if !options.json {
        writeln!(out, "{}", figure::table(&figures))?;
    }
    Ok(())
}
