//! Binding: modes, stale files, live servers, unsafe places.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

use bonafide_net::unix::{Limits, Listener};
use tokio::{io::AsyncReadExt, net::UnixStream};

/// Between fork and exec a child holds every descriptor of ours, and with it locks and listening sockets.
static FORKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    (dir, path)
}

#[tokio::test]
async fn the_socket_has_the_mode_it_was_asked_for_and_nothing_is_left_behind() {
    let (dir, path) = place();
    let gid = rustix::process::getegid().as_raw();
    let listener = Listener::bind(&path, 0o666, Some(gid)).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o666);
    assert_eq!(metadata.gid(), gid);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["agent.sock", "agent.sock.lock"]);
    drop(listener);
    assert_eq!(names(), ["agent.sock.lock"]);
}

#[tokio::test]
async fn the_caller_is_what_the_kernel_says() {
    let (_dir, path) = place();
    let listener = Listener::bind(&path, 0o600, None).unwrap();
    let _client = UnixStream::connect(&path).await.unwrap();
    let connection = listener.accept().await.unwrap();
    let caller = connection.caller();
    assert_eq!(caller.pid as u32, std::process::id());
    assert_eq!(caller.uid, rustix::process::geteuid().as_raw());
    if caller.pidfd.is_some() {
        assert_eq!(caller.has_exited(), Some(false));
    }
}

#[tokio::test]
async fn a_process_that_has_ended_is_seen_as_ended() {
    let _forking = FORKING.lock().await;
    let (_dir, path) = place();
    let listener = Listener::bind(&path, 0o600, None).unwrap();
    let mut child = tokio::process::Command::new("python3")
        .arg("-c")
        .arg("import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()")
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let connection = listener.accept().await.unwrap();
    let caller = connection.caller();
    assert_eq!(caller.pid as u32, child.id().unwrap());
    if caller.pidfd.is_none() {
        return; // a kernel before 6.5
    }
    assert_eq!(caller.has_exited(), Some(false));
    child.kill().await.unwrap();
    assert_eq!(caller.has_exited(), Some(true));
}

#[tokio::test]
async fn a_live_server_keeps_its_socket_and_a_dead_ones_is_replaced() {
    let _forking = FORKING.lock().await;
    let (_dir, path) = place();
    let first = Listener::bind(&path, 0o600, None).unwrap();
    assert_eq!(Listener::bind(&path, 0o600, None).unwrap_err().code(), "socket.in-use");
    drop(first);

    // A foreign server that knows nothing of our lock.
    let foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_eq!(Listener::bind(&path, 0o600, None).unwrap_err().code(), "socket.in-use");
    drop(foreign); // std leaves the file: stale
    assert!(path.exists());
    let again = Listener::bind(&path, 0o600, None).unwrap();
    UnixStream::connect(&path).await.unwrap();
    drop(again);
}

#[tokio::test]
async fn a_successors_socket_is_not_removed() {
    let (dir, path) = place();
    let listener = Listener::bind(&path, 0o600, None).unwrap();
    fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    let _successor = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
}

#[tokio::test]
async fn unsafe_or_impossible_places_are_refused() {
    let (dir, path) = place();
    fs::write(&path, "precious").unwrap();
    assert_eq!(Listener::bind(&path, 0o600, None).unwrap_err().code(), "socket.not-a-socket");
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    assert_eq!(Listener::bind("agent.sock", 0o600, None).unwrap_err().code(), "socket.path");
    let long = dir.path().join("x".repeat(120));
    assert_eq!(Listener::bind(long, 0o600, None).unwrap_err().code(), "socket.path");

    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let error = Listener::bind(open.join("s.sock"), 0o600, None).unwrap_err();
    assert_eq!(error.code(), "socket.parent-unsafe");
    assert!(!error.hint().is_empty());
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    Listener::bind(open.join("s.sock"), 0o600, None).unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let (_dir, path) = place();
    let limits = Limits { connections: 8, connections_per_uid: 1 };
    let listener = Listener::bind(&path, 0o600, None).unwrap().with_limits(limits);
    let _first_client = UnixStream::connect(&path).await.unwrap();
    let first = listener.accept().await.unwrap();
    let mut second_client = UnixStream::connect(&path).await.unwrap();
    let mut byte = [0];
    tokio::select! {
        read = second_client.read(&mut byte) => assert_eq!(read.unwrap(), 0),
        _ = listener.accept() => panic!("the user has had his share"),
    }
    drop(first);
    let _third_client = UnixStream::connect(&path).await.unwrap();
    listener.accept().await.unwrap();
}
