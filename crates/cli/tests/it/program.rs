//! The real program's edges: streams and exit codes.

use std::process::{Command, Output};

use crate::golden::check_text;

/// Runs `bonafide` without anything of this environment that would steer it.
pub(crate) fn bonafide(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide"));
    command.args(arguments).env_remove("BONAFIDE_ADMIN_SOCKET").env_remove("SPIFFE_ENDPOINT_SOCKET");
    command.output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_missing_socket_is_told_with_a_hint() {
    let output = bonafide(&["entry", "list", "--socket", "/nonexistent/admin.sock"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    check_text("error-socket-missing.txt", &text(&output.stderr));
}

#[test]
fn a_socket_that_nobody_serves_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let output = bonafide(&["explain", "--socket", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).starts_with("error[socket.silent]: no agent serves "),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn usage_errors_have_our_form_and_their_own_exit_code() {
    for (name, arguments) in [
        ("error-unknown-flag.txt", ["entry", "list", "--sight=a"].as_slice()),
        ("error-unknown-command.txt", &["entrys", "list"]),
        ("error-bad-duration.txt", &["join", "--ttl", "3600"]),
        ("error-template.txt", &["entry", "create", "spiffe://td/{unix.user}", "-s", "unix.uid:1"]),
    ] {
        let output = bonafide(arguments);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert_eq!(text(&output.stdout), "", "{name}");
        check_text(name, &text(&output.stderr));
    }
}

#[test]
fn help_and_completion_are_data() {
    for arguments in [["--help"].as_slice(), &["--version"], &["completion", "bash"], &["completion", "zsh"]]
    {
        let output = bonafide(arguments);
        assert!(output.status.success(), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}
