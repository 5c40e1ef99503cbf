//! The authority's live keys in their own process, with the real program.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use bonafide_testkit::SoftHsm;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::program::{bonafide, text};

/// A running `bonafide authority run`.
struct Authority {
    child: Child,
    errors: BufReader<ChildStderr>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn start(more: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), more)
    }

    fn start_in(folder: tempfile::TempDir, more: &[&str]) -> Self {
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (config, data) = (at("authority.toml"), at("data"));
        let init = ["authority", "init", "--trust-domain", "example.org", "--listen", "127.0.0.1:0"];
        let init = [&init, ["--config", &config, "--data", &data].as_slice(), more].concat();
        let made = bonafide(&init);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let mut child = Command::new(env!("CARGO_BIN_EXE_bonafide"))
            .args(["authority", "run", "--config", &config])
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("BONAFIDE_ADMIN_SOCKET=") {
            line.clear();
            assert!(errors.read_line(&mut line).unwrap() > 0, "it ended: {line}");
        }
        Self { child, errors, folder }
    }

    /// The processes that it started.
    fn children(&self) -> Vec<i32> {
        let of = |path: &Path| {
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
            (parent == self.child.id().to_string()).then(|| path.file_name()?.to_str()?.parse().ok())?
        };
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| of(&entry.unwrap().path())).collect()
    }

    /// All that is written until the last process that has the pipe is gone: the worker has it too.
    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.errors.read_to_string(&mut rest).unwrap();
        rest
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_worker_outlives_its_authority_in_no_case() {
    let mut authority = Authority::start(&["--ca-key", "ec-p384", "--jwt-key", "rsa-2048"]);
    let children = authority.children();
    assert_eq!(children.len(), 1, "one worker");
    let arguments = std::fs::read(format!("/proc/{}/cmdline", children[0])).unwrap();
    assert_eq!(text(&arguments), "/proc/self/exe\0key-worker\0");
    let worker =
        pidfd_open(rustix::process::Pid::from_raw(children[0]).unwrap(), PidfdFlags::empty()).unwrap();
    authority.child.kill().unwrap();
    authority.rest();
    let minute = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&worker, PollFlags::IN)], Some(&minute)).unwrap(), 1, "it is gone");
}

#[test]
fn an_authority_without_its_worker_stops_and_says_why() {
    let mut authority = Authority::start(&[]);
    kill(Pid::from_raw(authority.children()[0]), Signal::SIGKILL).unwrap();
    let told = authority.rest();
    assert!(told.contains("error[keyring.worker-gone]"), "{told}");
    assert!(told.contains("hint"), "{told}");
    assert_eq!(authority.child.wait().unwrap().code(), Some(1));
}

#[test]
fn an_authority_that_is_told_to_end_takes_its_worker_along() {
    let mut authority = Authority::start(&[]);
    let group = Pid::from_raw(-i32::try_from(authority.child.id()).unwrap());
    // As ctrl-c does, and a service manager: the worker is told too, and still serves until the authority has ended.
    kill(Pid::from_raw(authority.children()[0]), Signal::SIGTERM).unwrap();
    kill(group, Signal::SIGINT).unwrap();
    let told = authority.rest();
    assert!(!told.contains("error["), "{told}");
    assert!(authority.child.wait().unwrap().success());
}

#[test]
fn nobody_else_starts_a_worker() {
    let refused = bonafide(&["key-worker"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).starts_with("error[keyring.worker-protocol]"), "{}", text(&refused.stderr));
}

#[test]
fn kinds_of_keys_that_the_standards_refuse_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, data) = (at("authority.toml"), at("data"));
    for (flag, kind, code) in [
        ("--jwt-key", "ed25519", "config.value"),
        ("--ca-key", "ec-p521", "config.value"),
        ("--ca-key", "dsa", "config.malformed"),
    ] {
        let init =
            ["authority", "init", "--trust-domain", "example.org", "--config", &config, "--data", &data];
        let refused = bonafide(&[&init, [flag, kind].as_slice()].concat());
        let told = text(&refused.stderr);
        assert!(
            told.starts_with(&format!("error[{code}]"))
                && told.contains("use `ec-p") | told.contains("use ec-p"),
            "{told}"
        );
        assert!(!Path::new(&config).exists() && !Path::new(&data).exists());
    }
}

/// Root, intermediate, JWT keys and seal in a device; nothing that opens the keyring lies beside it.
#[test]
fn a_device_holds_keys_and_seal() {
    let Some(hsm) = SoftHsm::with_token("hsm") else { return };
    let folder = tempfile::tempdir().unwrap();
    let pin = folder.path().join("pin").to_str().unwrap().to_owned();
    std::fs::write(&pin, format!("{}\n", SoftHsm::PIN)).unwrap();
    let variable = format!("SOFTHSM2_CONF={}", hsm.settings().display());
    let device = ["--pkcs11-module", SoftHsm::MODULE, "--pkcs11-token", "hsm", "--pkcs11-pin-file", &pin];
    let kinds = ["--pkcs11-env", &variable, "--ca-key", "ec-p384", "--jwt-key", "rsa-2048"];
    let mut authority = Authority::start_in(folder, &[device, kinds].concat());
    let data = authority.folder.path().join("data");
    assert!(!data.join("seal.key").exists());
    let socket = data.join("admin.sock");
    let shown = bonafide(&["ca", "show", "--socket", socket.to_str().unwrap(), "-o", "json"]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let module = |process: u32| {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
        maps.contains("softhsm")
    };
    // Both can only be read by root, because they can't be dumped.
    if nix::unistd::geteuid().is_root() {
        assert!(module(u32::try_from(authority.children()[0]).unwrap()));
        assert!(!module(authority.child.id()), "no vendor's library in the process with the network");
    }
    kill(Pid::from_raw(i32::try_from(authority.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let told = authority.rest();
    assert!(authority.child.wait().unwrap().success(), "{told}");
    assert!(!told.contains(SoftHsm::PIN));
}

/// From the key file of the beginning to a passphrase, without a stop; and what the settings have to say then.
#[test]
fn seals_are_added_and_removed_on_the_running_authority() {
    let mut authority = Authority::start(&[]);
    let at = |name: &str| authority.folder.path().join(name).to_str().unwrap().to_owned();
    let (socket, words, config) = (at("data/admin.sock"), at("words"), at("authority.toml"));
    std::fs::write(&words, "four words of some kind\n").unwrap();
    let seal = |arguments: &[&str]| {
        bonafide(&[["authority", "seal"].as_slice(), arguments, &["--socket", &socket]].concat())
    };
    let worker = authority.children();
    let added = seal(&["add", "recovery", "--passphrase-file", &words]);
    let told = text(&added.stderr);
    assert!(added.status.success(), "{told}");
    let (_, snippet) = told.split_once("[[seals]]\n").unwrap();
    let listed = seal(&["list"]);
    let listed = text(&listed.stdout);
    assert!(listed.contains("key-file") && listed.contains(&format!("passphrase in `{words}`")), "{listed}");
    let refused = seal(&["add", "recovery", "--pkcs11"]);
    assert!(text(&refused.stderr).contains("error[keyring."), "{}", text(&refused.stderr));
    assert!(seal(&["renew"]).status.success());
    assert!(seal(&["remove", "key-file"]).status.success());
    let last = seal(&["remove", "recovery"]);
    assert!(text(&last.stderr).contains("error[keyring.last-seal]"), "{}", text(&last.stderr));
    assert!(seal(&["add", "two", "--pkcs11", "--key-file", "/x"]).status.code() == Some(2));
    assert_eq!(authority.children(), worker, "the process of the live keys is the same, and the only one");

    kill(Pid::from_raw(i32::try_from(authority.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    authority.rest();
    let run = || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bonafide"))
            .args(["authority", "run", "--config", &config])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = errors.find(|line| line.contains("error[") || line.contains("BONAFIDE_ADMIN_SOCKET="));
        (child, line.unwrap())
    };
    // The settings name the key file alone.
    let (mut child, line) = run();
    assert!(line.contains("error[keyring.wrong-seal-kind]"), "{line}");
    child.wait().unwrap();
    let snippet: String =
        snippet.lines().take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    let settings = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{settings}\n[[seals]]\n{snippet}")).unwrap();
    let (child, line) = run();
    authority.child = child;
    assert!(!line.contains("error["), "{line}");
}
