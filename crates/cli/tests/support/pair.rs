//! What `bonafide dev` makes, of real programs: a site for all of a trust domain, a rule for this user, and an agent; and two
//! servers on one PostgreSQL, of which the first is killed.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use bonafide_testkit::{Doom, Postgres};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// For whatever takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);
/// Commands of a test, before one of which the first server is killed.
const STEPS: u32 = 3;

/// A trust domain.
pub(crate) struct Pair {
    folder: PathBuf,
    first: Mutex<Option<Process>>,
    doom: Doom,
    second: Process,
    agent: Process,
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn end(mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

fn bonafide() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide"));
    command.env_remove("BONAFIDE_ADMIN_SOCKET").env_remove("SPIFFE_ENDPOINT_SOCKET");
    command
}

/// What a command that must succeed printed.
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Starts a server on what `init` has made, and says where it serves agents.
fn serve(config: &Path) -> (Process, String) {
    let mut child =
        bonafide().args(["authority", "run", "--config"]).arg(config).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.find_map(|line| Some(line.split_once("the authority serves agents on ")?.1.to_owned()));
    let address = told.expect("it serves");
    assert!(lines.any(|line| line.contains("BONAFIDE_ADMIN_SOCKET=")));
    // Keep reading, so that it never waits for us.
    std::thread::spawn(move || lines.for_each(drop));
    (Process(child), address)
}

impl Pair {
    /// In this folder, as `dev` has it: `authority` and `agent`, and `first` for the server that is killed. `more`: what else
    /// `init` is told.
    pub(crate) fn start(folder: &Path, trust_domain: &str, more: &[&str]) -> Self {
        let database = Postgres::shared().expect("PostgreSQL is installed").database();
        let init = |name: &str, beside: Option<&str>| {
            let config = folder.join(name).with_extension("toml");
            let mut command = bonafide();
            command.args(["authority", "init", "--trust-domain", trust_domain, "--listen", "127.0.0.1:0"]);
            command.args(["--server", name, "--store", &database.url()]).args(more);
            command.arg("--config").arg(&config).arg("--data").arg(folder.join(name));
            if let Some(beside) = beside {
                command.arg("--beside").arg(folder.join(beside));
            }
            said(&command.output().unwrap());
            serve(&config)
        };
        let (first, one) = init("first", None);
        let (second, other) = init("authority", Some("first"));

        let admin = folder.join("first/admin.sock");
        let resources = folder.join("dev.yaml");
        let user = nix::unistd::geteuid();
        let text = format!(
            "kind: Site\nname: local\nspec:\n  scope:\n    spiffeIds: [\"spiffe://{trust_domain}/**\"]\n    maxX509Ttl: 24h\n  \
             x509Ttl: 1h\n---\nkind: Rule\nname: me\nspec:\n  site: local\n  \
             template: \"spiffe://{trust_domain}/user/{{unix.user}}\"\n  selectors: [\"unix.uid:{user}\"]\n"
        );
        fs::write(&resources, text).unwrap();
        said(&bonafide().args(["apply", "-f"]).arg(&resources).arg("--socket").arg(&admin).output().unwrap());
        let join = bonafide().args(["join", "local", "-q", "--socket"]).arg(&admin).output().unwrap();
        let word = folder.join("join");
        fs::write(&word, said(&join)).unwrap();
        let mut agent = bonafide();
        agent.args(["agent", "run", "--authority", &one, "--authority", &other]);
        agent.arg("--join-file").arg(&word).arg("--data").arg(folder.join("agent"));
        agent.arg("--socket").arg(folder.join("agent.sock"));
        let agent = Process(agent.stderr(Stdio::null()).spawn().unwrap());
        let folder = folder.to_owned();
        let doom = Doom::of_this_test(STEPS);
        let pair = Self { folder, first: Mutex::new(Some(first)), doom, second, agent };
        pair.until("the agent is connected", || {
            let first = pair.status("first");
            let second = pair.status("authority");
            [first, second].iter().any(|status| status["agents_connected"] == 1)
        });
        pair
    }

    /// What the operator of a server sees.
    fn status(&self, server: &str) -> serde_json::Value {
        let socket = self.folder.join(server).join("admin.sock");
        let mut status = bonafide();
        status.args(["status", "--authority", "-o", "json"]).env("BONAFIDE_ADMIN_SOCKET", socket);
        let mut said: serde_json::Value = serde_json::from_slice(&status.output().unwrap().stdout).unwrap();
        said["authority"]["running"].take()
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "not so: {what}");
            std::thread::yield_now();
        }
    }

    /// A step of the test begins, which the first server may not live to see. If it does not, this returns when the other one
    /// knows all that it has said, and has its agent.
    pub(crate) fn step(&self) {
        if !self.doom.strikes() {
            return;
        }
        let first = self.first.lock().unwrap().take();
        let known = self.status("first")["revision"].as_u64();
        assert!(known.is_some());
        self.until("the other server follows", || self.status("authority")["revision"].as_u64() >= known);
        drop(first);
        self.until("it has the agent", || self.status("authority")["agents_connected"] == 1);
    }

    /// Where the operator is: at the first server, as long as it lives.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        let server = if self.first.lock().unwrap().is_some() { "first" } else { "authority" };
        self.folder.join(server).join("admin.sock")
    }

    /// Ends whatever is left, in order.
    pub(crate) fn stop(self) {
        self.agent.end();
        self.second.end();
        if let Some(first) = self.first.into_inner().unwrap() {
            first.end();
        }
    }
}
