//! PostgreSQL servers: a primary, and standbys that follow it asynchronously.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};

use super::{
    case::Skipped,
    server::{PATIENCE, free_address, last_words},
};

/// Where Debian puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A server with its own directory. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    programs: PathBuf,
    home: tempfile::TempDir,
    address: SocketAddr,
    process: Option<Child>,
}

impl Postgres {
    /// A new primary.
    pub(crate) fn primary() -> Result<Self> {
        let this = Self::empty()?;
        this.run("initdb", |command| {
            command.args(["-U", "bonafide", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
            command.arg("-D").arg(this.data());
        })?;
        Ok(this)
    }

    /// A standby of it, with all that it has now.
    pub(crate) fn standby_of(primary: &Self) -> Result<Self> {
        let this = Self::empty()?;
        this.run("pg_basebackup", |command| {
            command.args(["-h", "127.0.0.1", "-p", &primary.address.port().to_string(), "-U", "bonafide"]);
            command.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(this.data());
        })?;
        Ok(this)
    }

    /// Starts it, and waits until it answers. How long that took.
    pub(crate) async fn start(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let mut command = self.command("postgres")?;
        command.arg("-D").arg(self.data()).arg("-k").arg(self.home.path());
        command.args(["-h", "127.0.0.1", "-p", &self.address.port().to_string()]);
        for setting in ["max_connections=60", "shared_buffers=32MB", "autovacuum=off", "wal_level=replica"] {
            command.args(["-c", setting]);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        self.process = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        while self.sql("SELECT 1").is_err() {
            ensure!(began.elapsed() < PATIENCE, "PostgreSQL does not start: {}", last_words(&self.log()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(began.elapsed())
    }

    /// `kill -9` of the server and of all that it has started.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            for backend in self.backends(process.id()) {
                // It may have ended by itself.
                let _ = kill(backend, Signal::SIGKILL);
            }
            process.kill()?;
            process.wait()?;
            // Of the same process number, as a crash leaves it; the next start looks whether that one is alive.
            let _ = fs::remove_file(self.data().join("postmaster.pid"));
        }
        Ok(())
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) -> Result<()> {
        self.sql("SELECT pg_promote(true, 30)").map(|_| ())
    }

    /// What it answers, a line for each row.
    pub(crate) fn sql(&self, statements: &str) -> Result<String> {
        let out = Command::new(self.programs.join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "bonafide", "-d", "postgres"])
            .args(["-h", "127.0.0.1", "-p", &self.address.port().to_string(), "-c", statements])
            .env("PGCONNECT_TIMEOUT", "5")
            .output()?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    fn empty() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("bonafide-chaos-pg-").tempdir()?;
        if geteuid().is_root() {
            // The server refuses to run as root.
            let user = postgres_user()?;
            chown(home.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(Self { programs: programs()?, home, address: free_address()?, process: None })
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir("/");
        if geteuid().is_root() {
            let user = postgres_user()?;
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        Ok(command)
    }

    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command)) -> Result<()> {
        let mut command = self.command(program)?;
        arguments(&mut command);
        let out = command.output()?;
        ensure!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }

    fn backends(&self, of: u32) -> Vec<Pid> {
        let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // It has nothing that is worth keeping; a stopped one must hear it, too.
        let _ = self.kill();
    }
}

/// The address of a database for a server, at these hosts, whichever of them can be written.
pub(crate) fn url(hosts: &[SocketAddr]) -> String {
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    format!("postgres://bonafide@{}/postgres", hosts.join(","))
}

/// Of the newest version.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir(Path::new(VERSIONS)).into_iter().flatten().flatten();
    let found = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        let programs = version.path().join("bin");
        programs.join("postgres").exists().then_some((number, programs))
    });
    let missing = || Skipped(format!("PostgreSQL is not installed below {VERSIONS}"));
    Ok(found.max().map(|(_, programs)| programs).ok_or_else(missing)?)
}

fn postgres_user() -> Result<User> {
    User::from_name("postgres")?.context("there is no user `postgres`")
}
