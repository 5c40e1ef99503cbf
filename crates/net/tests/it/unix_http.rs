//! One socket, two protocols, every kind of client.

use std::{path::PathBuf, time::Duration};

use axum::{Extension, Router, routing::get};
use bonafide_net::{
    drain::Shutdown,
    http::HttpLimits,
    unix::{Caller, Listener},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
};

struct Running {
    path: PathBuf,
    shutdown: Shutdown,
    task: JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

fn start(limits: HttpLimits) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = Listener::bind(&path, 0o600, None).unwrap();
    let who = get(|Extension(caller): Extension<Caller>| async move { format!("pid {}", caller.pid) });
    let stuck = get(|| async { std::future::pending::<()>().await });
    let router = Router::new().route("/who", who).route("/stuck", stuck);
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let task = tokio::spawn(async move { listener.serve(router, limits, &stop).await });
    Running { path, shutdown, task, _dir: dir }
}

fn expected() -> String {
    format!("pid {}", std::process::id())
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    out.extend_from_slice(payload);
    out
}

/// GET /who with the given field for `:authority`.
fn request(stream: u8, authority: &[u8]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, 4];
    block.extend_from_slice(b"/who");
    block.extend_from_slice(authority);
    frame(1, 0x5, stream, &block)
}

/// Reads frames until the stream's data or reset.
async fn answer(socket: &mut UnixStream, stream: u8) -> Result<String, u8> {
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload).await.unwrap();
        match head[3] {
            0 if head[8] == stream => return Ok(String::from_utf8(payload).unwrap()),
            3 | 7 => return Err(head[3]),
            _ => {}
        }
    }
}

#[tokio::test]
async fn http1_with_json_clients() {
    let server = start(HttpLimits::local());
    let mut socket = UnixStream::connect(&server.path).await.unwrap();
    socket.write_all(b"GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK") && reply.ends_with(&expected()), "{reply}");
}

#[tokio::test]
async fn http2_with_the_socket_path_as_authority() {
    let server = start(HttpLimits::local());
    let mut socket = UnixStream::connect(&server.path).await.unwrap();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    // Literal with incremental indexing: goes into the dynamic table.
    bytes.extend(request(1, b"\x41\x0b/agent.sock"));
    socket.write_all(&bytes).await.unwrap();
    assert_eq!(answer(&mut socket, 1).await, Ok(expected()));
    // The client refers to its table from now on.
    socket.write_all(&request(3, &[0xbe])).await.unwrap();
    assert_eq!(answer(&mut socket, 3).await, Ok(expected()));
    // `/tmp` in Huffman code (6, 5, 6 and 6 bits, one of padding), and from the table again.
    socket.write_all(&request(5, &[0x41, 0x83, 0b0110_0001, 0b0011_0100, 0b1101_0111])).await.unwrap();
    assert_eq!(answer(&mut socket, 5).await, Ok(expected()));
    socket.write_all(&request(7, &[0xbe])).await.unwrap();
    assert_eq!(answer(&mut socket, 7).await, Ok(expected()));
    // The entry before it has moved by one.
    socket.write_all(&request(9, &[0xbf])).await.unwrap();
    assert_eq!(answer(&mut socket, 9).await, Ok(expected()));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_dropped() {
    tokio::time::pause();
    let server = start(HttpLimits::local());
    for beginning in [&b""[..], b"G", &PREFACE[..10], b"GET /who HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut socket = UnixStream::connect(&server.path).await.unwrap();
        socket.write_all(beginning).await.unwrap();
        let mut reply = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut reply)).await.unwrap();
    }
}

#[tokio::test]
async fn shutdown_waits_for_requests_but_not_for_ever() {
    let server = start(HttpLimits::local());
    let mut stuck = UnixStream::connect(&server.path).await.unwrap();
    stuck.write_all(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut done = UnixStream::connect(&server.path).await.unwrap();
    done.write_all(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    done.read_exact(&mut byte).await.unwrap(); // both have been accepted
    tokio::time::pause();
    server.shutdown.trigger();
    server.task.await.unwrap().unwrap();
    let mut rest = Vec::new();
    stuck.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert!(!server.path.exists());
}

#[tokio::test]
async fn connections_end_when_they_are_old() {
    let mut limits = HttpLimits::local();
    limits.age = Some(Duration::from_secs(100));
    let server = start(limits);
    let mut socket = UnixStream::connect(&server.path).await.unwrap();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(request(1, b"\x41\x04name"));
    socket.write_all(&bytes).await.unwrap();
    assert_eq!(answer(&mut socket, 1).await, Ok(expected()));
    tokio::time::pause();
    assert_eq!(answer(&mut socket, 3).await, Err(7), "GOAWAY");
}
