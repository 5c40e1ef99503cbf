//! Programs that are told to end while they start.

use std::{
    fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::program::{bonafide, text};

/// Starts a program, and tells it, and whatever it has started, to end as soon as `when` is so.
fn told_to_end(arguments: &[&str], when: impl Fn(&Child) -> bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide"));
    let mut child = command.args(arguments).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    while !when(&child) {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    kill(Pid::from_raw(-i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    child.wait_with_output().unwrap()
}

/// Before it could listen to anybody, a program has begun nothing.
fn has_not_begun(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGTERM as i32)
}

fn has_a_child(child: &Child) -> bool {
    let id = child.id();
    fs::read_to_string(format!("/proc/{id}/task/{id}/children")).is_ok_and(|children| !children.is_empty())
        || fs::read_dir(format!("/proc/{id}/task")).is_ok_and(|threads| {
            threads.flatten().any(|thread| {
                fs::read_to_string(thread.path().join("children")).is_ok_and(|children| !children.is_empty())
            })
        })
}

fn authority(folder: &Path) -> [String; 2] {
    let [config, data] = ["authority.toml", "data"].map(|name| folder.join(name).display().to_string());
    let init = ["authority", "init", "--trust-domain", "example.org", "--listen", "127.0.0.1:0"];
    let made = bonafide(&[&init, ["--config", &config, "--data", &data].as_slice()].concat());
    assert!(made.status.success(), "{}", text(&made.stderr));
    [config, data]
}

#[test]
fn an_authority_that_is_told_to_end_at_once_leaves_its_store_whole() {
    let folder = tempfile::tempdir().unwrap();
    let [config, data] = authority(folder.path());
    let run = ["authority", "run", "--config", &config];
    let admin = Path::new(&data).join("admin.sock");
    for round in 0..4 {
        let at_once = told_to_end(&run, |_| true);
        let clean = at_once.status.success() || has_not_begun(at_once.status);
        assert!(clean, "round {round}: {}: {}", at_once.status, text(&at_once.stderr));
        // The first that it does is to start the process for its keys: then it has begun.
        let starting = told_to_end(&run, has_a_child);
        assert!(starting.status.success(), "round {round}: {}: {}", starting.status, text(&starting.stderr));
    }
    let _ = fs::remove_file(&admin);
    let served = told_to_end(&run, |_| admin.exists());
    assert!(served.status.success(), "{}: {}", served.status, text(&served.stderr));
}

#[test]
fn an_agent_that_is_told_to_end_at_once_ends() {
    let folder = tempfile::tempdir().unwrap();
    let [data, socket] = ["agent", "agent.sock"].map(|name| folder.path().join(name).display().to_string());
    let word = bonafide_attest::join::JoinLine {
        // Nobody is there.
        address: "127.0.0.1:1".into(),
        trust_domain: "example.org".parse().unwrap(),
        root_pin: [1; 32],
        token: bonafide_attest::join::Token::from_bytes(&[2; 32]).unwrap(),
    };
    let word = word.to_word();
    let run = ["agent", "run", "--data", &data, "--socket", &socket, "--join", &word];
    for round in 0..4 {
        let at_once = told_to_end(&run, |_| true);
        let clean = at_once.status.success() || has_not_begun(at_once.status);
        assert!(clean, "round {round}: {}: {}", at_once.status, text(&at_once.stderr));
        let _ = fs::remove_dir_all(&data);
        let starting = told_to_end(&run, |_| Path::new(&data).exists());
        assert!(starting.status.success(), "round {round}: {}: {}", starting.status, text(&starting.stderr));
    }
}
