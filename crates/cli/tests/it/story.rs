//! The real programs, from an empty folder to an identity.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use bonafide_identity::time::{Clock as _, SystemClock};
use bonafide_testkit::{TestDomain, two_servers};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{pair::Pair, program::text};

/// A running `bonafide dev` in a folder of its own; or, if the suite runs on two servers, what takes its place.
pub(crate) struct Dev {
    running: Running,
    folder: tempfile::TempDir,
}

enum Running {
    Dev(Process),
    Pair(Box<Pair>),
}

struct Process(Child);

impl Drop for Process {
    /// A test that fails leaves nothing running.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Dev {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if two_servers() {
            let pair = Pair::start(folder.path(), "dev.local", &[]);
            return Self { running: Running::Pair(Box::new(pair)), folder };
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_bonafide"))
            .args(["dev", "--data"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It is ready once it tells what to do next.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("export BONAFIDE_ADMIN_SOCKET=")));
        // Keep reading, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self { running: Running::Dev(Process(child)), folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let admin = match &self.running {
            Running::Dev(_) => self.path("authority/admin.sock"),
            Running::Pair(pair) => {
                pair.step();
                pair.admin_socket()
            }
        };
        Command::new(env!("CARGO_BIN_EXE_bonafide"))
            .args(arguments)
            .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", self.path("agent.sock").display()))
            .env("BONAFIDE_ADMIN_SOCKET", admin)
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[arguments, &["-o", "json"]].concat())).unwrap()
    }

    pub(crate) fn stop(self) -> tempfile::TempDir {
        match self.running {
            Running::Dev(mut dev) => {
                kill(Pid::from_raw(i32::try_from(dev.0.id()).unwrap()), Signal::SIGTERM).unwrap();
                assert!(dev.0.wait().unwrap().success());
            }
            Running::Pair(pair) => pair.stop(),
        }
        self.folder
    }
}

#[test]
fn from_nothing_to_an_identity() {
    let dev = Dev::start();

    let svids = dev.json(&["svid", "x509"]);
    assert!(svids[0]["spiffe_id"].as_str().unwrap().starts_with("spiffe://dev.local/user/"), "{svids}");
    let explained = dev.ok(&["explain"]);
    assert!(explained.contains("✓ registration") && explained.contains("has 1 identity"), "{explained}");
    let status = dev.json(&["status"]);
    assert_eq!(status["agent"]["running"]["connected"], true, "{status}");

    let uid = format!("unix.uid:{}", nix::unistd::geteuid());
    let create =
        ["entry", "create", "spiffe://dev.local/web", "-s", &uid, "--id", "web", "--label", "tier=front"];
    let refused = dev.run(&[create.as_slice(), &["--wait"]].concat());
    assert!(text(&refused.stderr).starts_with("error[scope.label"), "{}", text(&refused.stderr));
    let entry = dev.json(&[&create[..7], &["--wait"]].concat());
    assert_eq!(entry["spiffe_id"], "spiffe://dev.local/web");
    assert_eq!(entry["site"], "local");
    assert!(dev.ok(&["entry", "list", "-q"]).lines().any(|id| id == "web"));
    let twice = dev.run(&create[..7]);
    assert_eq!(twice.status.code(), Some(1), "{}", text(&twice.stdout));

    let files = dev.path("svid");
    let write =
        ["svid", "x509", "--spiffe-id", "spiffe://dev.local/web", "--write", files.to_str().unwrap(), "-q"];
    assert_eq!(dev.ok(&write).trim(), "spiffe://dev.local/web");
    let file = |name: &str| files.join(name).to_str().unwrap().to_owned();
    let bundle = dev.path("bundle.json");
    std::fs::write(&bundle, dev.ok(&["bundle", "show"])).unwrap();
    let chain = file("svid.pem");
    let bare = dev.ok(&["inspect", &chain]);
    assert!(bare.contains("· not verified") && bare.contains("spiffe://dev.local/web"), "{bare}");
    for trusted in [bundle.to_str().unwrap(), &file("svid_bundle.pem")] {
        let verified = dev.ok(&["inspect", &chain, "--bundle", trusted, "--trust-domain", "dev.local"]);
        assert!(verified.contains("✓ verified"), "{verified}");
    }

    let jwt = ["svid", "jwt", "--audience", "db", "--spiffe-id", "spiffe://dev.local/web", "-q"];
    let token = dev.ok(&jwt);
    let valid = dev.ok(&["svid", "validate", "--audience", "db", token.trim(), "-q"]);
    assert_eq!(valid.trim(), "spiffe://dev.local/web");
    let invalid = dev.run(&["svid", "validate", "--audience", "cache", token.trim()]);
    assert_eq!(invalid.status.code(), Some(1));

    let join = dev.ok(&["join"]);
    let word = join.trim().strip_prefix("echo ").unwrap();
    let word = word.strip_suffix(" | bonafide agent run --join -").unwrap();
    let word_file = dev.path("word");
    std::fs::write(&word_file, word).unwrap();
    let shown = dev.ok(&["inspect", word_file.to_str().unwrap()]);
    assert!(shown.contains("dev.local") && shown.contains("secret, not shown"), "{shown}");
    assert_eq!(dev.json(&["token", "list"]).as_array().unwrap().len(), 1);
    assert!(dev.json(&["ca", "show"]).as_array().unwrap().len() >= 3);
    assert_eq!(dev.json(&["agent", "list"])[0]["state"], "connected");

    dev.ok(&["entry", "delete", "web", "me", "--wait"]);
    let refused = dev.run(&["svid", "x509", "--timeout", "5s"]);
    assert!(
        text(&refused.stderr).starts_with("error[workload.no-registration]"),
        "{}",
        text(&refused.stderr)
    );
    let explained = dev.run(&["explain"]);
    assert_eq!(explained.status.code(), Some(1));
    assert!(text(&explained.stdout).contains("✗ registration"), "{}", text(&explained.stdout));

    // What was issued can be read from the files of the log, and the state serves another run.
    let folder = dev.stop();
    // Each server has one.
    let ledgers = ["authority/ledger", "first/ledger"].map(|name| folder.path().join(name));
    let ledgers: Vec<PathBuf> = ledgers.into_iter().filter(|ledger| ledger.exists()).collect();
    let log = |command: &str, more: &[&str]| {
        let of = |ledger: &PathBuf| {
            let output =
                crate::program::bonafide(&[&["log", command, ledger.to_str().unwrap()], more].concat());
            text(&output.stdout) + &text(&output.stderr)
        };
        ledgers.iter().map(of).collect::<String>()
    };
    let about = log("show", &["--about", "spiffe://dev.local/web"]);
    assert!(about.contains("x509-svid spiffe://dev.local/web"), "{about}");
    let proof = log("verify", &["--certificate", &chain]);
    assert!(proof.contains("was logged in entry"), "{proof}");
    let other = TestDomain::new("dev.local", SystemClock.now());
    let foreign = folder.path().join("foreign.der").to_str().unwrap().to_owned();
    std::fs::write(&foreign, other.root().der()).unwrap();
    let unknown = log("verify", &["--certificate", &foreign]);
    assert_eq!(unknown.matches("error[ledger.not-logged]").count(), ledgers.len(), "{unknown}");
}

/// Every observation of the demo must hold, whoever runs it.
#[test]
fn the_demo_holds() {
    let output = crate::program::bonafide(&["demo", "-o", "json"]);
    let story = text(&output.stdout);
    assert!(output.status.success(), "{story}\n{}", text(&output.stderr));
    let scenes: serde_json::Value = serde_json::from_str(&story).unwrap();
    assert_eq!(scenes.as_array().unwrap().len(), 16, "{story}");
    assert!(!story.contains("\"state\": \"failed\""), "{story}");
}
