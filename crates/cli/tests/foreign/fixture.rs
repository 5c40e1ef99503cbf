//! One trust domain for a test: authority and agent in one real process, and a short-lived identity for this user.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use bonafide_testkit::two_servers;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getuid},
};
use tempfile::TempDir;

use crate::pair::Pair;

/// Short enough for a test to see rotation, which comes at half of it.
pub(crate) const TTL: &str = "10s";
pub(crate) const ID: &str = "spiffe://foreign.test/foreign/client";

/// A running `bonafide dev`, or two servers in place of its one; ended when dropped.
pub(crate) struct TrustDomain {
    dev: Option<Child>,
    pair: Option<Pair>,
    folder: TempDir,
}

impl TrustDomain {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more words for `dev`, and for `authority init`.
    pub(crate) fn start_with(more: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("bf").tempdir().unwrap();
        let mut domain = Self { dev: None, pair: None, folder };
        if two_servers() {
            domain.pair = Some(Pair::start(domain.path(), "foreign.test", more));
        } else {
            let mut dev = bonafide();
            dev.args(["dev", "--trust-domain", "foreign.test", "--data"]).arg(domain.path()).args(more);
            let dev = domain.dev.insert(dev.stdout(Stdio::piped()).spawn().unwrap());
            // `dev` prints what to do next once it is ready, and nothing before.
            let mut line = String::new();
            BufReader::new(dev.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "`bonafide dev` ended before it was ready");
        }
        // One identity is enough, and the developer's own is not the one that is looked for.
        domain.run(&["entry", "delete", "me", "--wait"]);
        let selector = format!("unix.uid:{}", getuid());
        domain.run(&[
            "entry",
            "create",
            ID,
            "-s",
            &selector,
            "--x509-ttl",
            TTL,
            "--hint",
            "foreign",
            "--wait",
        ]);
        domain
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `unix:///…`, as `SPIFFE_ENDPOINT_SOCKET` wants it.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.agent_socket().display())
    }

    /// What the agent keeps of its own SVID.
    pub(crate) fn agent_state(&self) -> Vec<u8> {
        fs::read(self.path().join("agent/node")).unwrap()
    }

    /// `host:port` of the authority.
    pub(crate) fn authority_address(&self) -> String {
        let status: serde_json::Value =
            serde_json::from_str(&self.run(&["status", "--output", "json"])).unwrap();
        status["authority"]["running"]["address"].as_str().unwrap().to_owned()
    }

    fn agent_socket(&self) -> PathBuf {
        self.path().join("agent.sock")
    }

    /// Our program, told of the sockets.
    pub(crate) fn command(&self) -> Command {
        let admin = self.pair.as_ref().map(|pair| {
            pair.step();
            pair.admin_socket()
        });
        let admin = admin.unwrap_or_else(|| self.path().join("authority/admin.sock"));
        let mut command = bonafide();
        command.env("SPIFFE_ENDPOINT_SOCKET", self.endpoint()).env("BONAFIDE_ADMIN_SOCKET", admin);
        command
    }

    /// Runs a command of ours and returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().unwrap();
        succeeded(&output, arguments);
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for TrustDomain {
    fn drop(&mut self) {
        if let Some(pair) = self.pair.take().filter(|_| !std::thread::panicking()) {
            pair.stop();
        }
        let Some(dev) = &mut self.dev else { return };
        let pid = Pid::from_raw(dev.id().try_into().unwrap());
        // It may have ended by itself, which the test then tells.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = dev.wait();
    }
}

fn bonafide() -> Command {
    Command::new(env!("CARGO_BIN_EXE_bonafide"))
}

#[track_caller]
pub(crate) fn succeeded(output: &Output, what: &[&str]) {
    assert!(
        output.status.success(),
        "{what:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// Whether a tool that is not ours is there; says so when it is not.
pub(crate) fn present(tier: &str, probe: &mut Command) -> bool {
    let there =
        probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: {tier} (not installed)");
    }
    there
}
