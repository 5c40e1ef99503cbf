//! The socket from outside: a real listener, this process and children of it as callers, and an authority
//! that signs nothing.

use std::{
    io::{Read, Write},
    os::unix::{net::UnixStream as StdStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use bonafide_crypto::key::KeyAlgorithm;
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::time::{Clock, SystemClock, UnixTime};
use bonafide_net::{drain::Shutdown, unix::Listener};
use bonafide_wire::{
    kms::keys_server::KeysServer,
    node::{
        AgentMessage, AttestRequest, AttestResponse, AuthorityMessage,
        node_server::{Node, NodeServer},
    },
    problem_of,
    types::Problem,
    workload::{
        JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use futures_util::future::BoxFuture;
use tokio::{
    net::UnixStream,
    sync::{Notify, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming, transport::Channel};

use super::*;
use crate::{
    core::{Core, Habits},
    link::{self, Dial, Dialled},
    refusal::problem,
    storage::Storage,
    testing::{FakeAuthority, FakeLeaf, entry},
};

mod keys;

/// Sends what the fake authority has to say.
#[derive(Clone, Debug)]
struct Server(Arc<Line>);

#[derive(Debug)]
struct Line {
    authority: Mutex<FakeAuthority>,
    keys: keys::FakeKeys,
    /// What else it says.
    said: Mutex<Vec<AuthorityMessage>>,
    news: Notify,
    up: AtomicBool,
    cut: Notify,
}

#[tonic::async_trait]
impl Node for Server {
    type AttestStream = ReceiverStream<Result<AttestResponse, Status>>;
    type ConnectStream = ReceiverStream<Result<AuthorityMessage, Status>>;

    async fn attest(
        &self,
        _: Request<Streaming<AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut inbound = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let line = Arc::clone(&self.0);
        tokio::spawn(async move {
            line.authority.lock().unwrap().disconnected();
            loop {
                let answers = tokio::select! {
                    message = inbound.message() => match message {
                        Ok(Some(AgentMessage { kind: Some(kind) })) => {
                            line.authority.lock().unwrap().answer(kind, SystemClock.now())
                        }
                        _ => return,
                    },
                    () = line.news.notified() => {
                        let mut said = std::mem::take(&mut *line.said.lock().unwrap());
                        said.extend(line.authority.lock().unwrap().news());
                        said
                    }
                    () = line.cut.notified() => return,
                };
                for answer in answers {
                    if sender.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Dial for Server {
    fn dial(&self) -> BoxFuture<'_, Result<Dialled, Problem>> {
        Box::pin(async {
            if !self.0.up.load(Ordering::SeqCst) {
                return Err(problem("test.down", "down", ""));
            }
            let (near, far) = tokio::io::duplex(64 * 1024);
            let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
            let server = tonic::transport::Server::builder()
                .add_service(NodeServer::new(self.clone()))
                .add_service(KeysServer::new(self.0.keys.clone()));
            tokio::spawn(
                server.serve_with_incoming(tokio_stream::StreamExt::chain(incoming, tokio_stream::pending())),
            );
            let channel = link::over(near).await.map_err(|error| problem("test.dial", error, ""))?;
            Ok(Dialled { channel, server: "a".to_owned() })
        })
    }
}

/// The agent's clock, set wrong by some seconds.
#[derive(Debug, Default)]
struct Shifted(AtomicI64);

impl Clock for Shifted {
    fn now(&self) -> UnixTime {
        UnixTime::from_secs(SystemClock.now().as_secs() + self.0.load(Ordering::SeqCst))
    }
}

/// A running agent with its authority.
struct Bench {
    server: Server,
    engine: Arc<Engine>,
    clock: Arc<Shifted>,
    socket: PathBuf,
    directory: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.engine.shutdown().trigger();
    }
}

impl Bench {
    async fn start() -> Self {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let mut authority = FakeAuthority::new();
        authority.put(entry("web", "spiffe://example.org/web", &[("unix.uid", &uid)]));
        Self::with(authority).await
    }

    async fn with(authority: FakeAuthority) -> Self {
        Self::with_keys(authority, keys::FakeKeys::default()).await
    }

    async fn with_keys(authority: FakeAuthority, keys: keys::FakeKeys) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let line = Line {
            authority: Mutex::new(authority),
            keys,
            said: Mutex::default(),
            news: Notify::new(),
            up: AtomicBool::new(true),
            cut: Notify::new(),
        };
        let server = Server(Arc::new(line));
        let config = AgentConfig::default();
        let habits = Habits {
            pool_size: 2,
            pool_limit: 100,
            max_launches: 100,
            weak: false,
            key: KeyAlgorithm::EcP256,
        };
        let trust_domain: bonafide_identity::TrustDomain = "example.org".parse().unwrap();
        let core = Core::new(trust_domain.clone(), habits, Arc::new(SystemRandom), Arc::new(FakeLeaf));
        let storage = Storage::open(&directory.path().join("state")).unwrap();
        let clock = Arc::<Shifted>::default();
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let engine = Engine::new(core, shared, storage, trust_domain, Shutdown::new());
        let socket = directory.path().join("agent.sock");
        let listener = Listener::bind(&socket, 0o777, None).unwrap();
        drop(crate::agent::serve(&engine, &config, Evidence::Pidfd, &SystemRandom, listener));
        tokio::spawn(Arc::clone(&engine).run_timers());
        tokio::spawn(link::run(Arc::clone(&engine), Arc::new(server.clone()), Arc::new(SystemRandom)));
        let bench = Self { server, engine, clock, socket, directory };
        bench.until(|bench| bench.engine.read(|core| core.is_synced())).await;
        bench
    }

    /// Waits for a state.
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the state is reached");
    }

    async fn stocked(&self) {
        self.until(|bench| bench.engine.read(|core| core.counts().1) == 2).await;
    }

    async fn down(&self) {
        self.server.0.up.store(false, Ordering::SeqCst);
        // Who does not listen at this moment hears it the next time.
        self.until(|bench| {
            bench.server.0.cut.notify_waiters();
            !bench.engine.read(|core| core.is_synced())
        })
        .await;
    }

    fn change(&self, change: impl FnOnce(&mut FakeAuthority)) {
        change(&mut self.server.0.authority.lock().unwrap());
        self.server.0.news.notify_one();
    }

    async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        SpiffeWorkloadApiClient::new(link::over(stream).await.unwrap())
    }

    async fn x509(&self) -> Streaming<X509svidResponse> {
        self.client().await.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner()
    }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

fn jwt(audience: &[&str]) -> Request<JwtsvidRequest> {
    let audience = audience.iter().map(|each| (*each).to_owned()).collect();
    with_header(JwtsvidRequest { audience, spiffe_id: String::new() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_has_one_svid_on_all_its_streams() {
    let bench = Bench::start().await;
    let first = bench.x509().await.message().await.unwrap().unwrap();
    assert_eq!(first.svids.len(), 1);
    assert_eq!(first.svids[0].spiffe_id, "spiffe://example.org/web");
    let key = bonafide_crypto::key::PrivateKey::from_pkcs8_der(&first.svids[0].x509_svid_key).unwrap();
    let spki = key.public_key().spki_der();
    assert!(first.svids[0].x509_svid.windows(spki.len()).any(|part| part == spki));
    let second = bench.x509().await.message().await.unwrap().unwrap();
    assert_eq!(first, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_pushed_and_the_last_withdrawal_ends_the_stream() {
    let bench = Bench::start().await;
    let mut stream = bench.x509().await;
    let first = stream.message().await.unwrap().unwrap();
    let uid = rustix::process::geteuid().as_raw().to_string();
    bench.change(|authority| {
        let second = entry("second", "spiffe://example.org/second", &[("unix.uid", &uid)]);
        authority.put(bonafide_wire::types::Registration { created_at: 5, ..second });
    });
    let both = stream.message().await.unwrap().unwrap();
    assert_eq!(both.svids.len(), 2);
    assert_eq!(both.svids[0], first.svids[0], "the default stays the default");
    bench.change(|authority| authority.remove("web"));
    assert_eq!(stream.message().await.unwrap().unwrap().svids, both.svids[1..]);
    bench.change(|authority| authority.remove("second"));
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(problem_of(&status).code, "workload.no-registration");
    assert!(problem_of(&status).hint.contains("bonafide explain"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_the_header_or_an_audience_are_malformed() {
    let bench = Bench::start().await;
    let mut client = bench.client().await;
    let status = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(
        (status.code(), problem_of(&status).code.as_str()),
        (Code::InvalidArgument, "request.no-security-header")
    );
    for value in ["True", "false", ""] {
        let mut request = Request::new(X509BundlesRequest {});
        request.metadata_mut().insert("workload.spiffe.io", value.parse().unwrap());
        assert_eq!(client.fetch_x509_bundles(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(client.fetch_jwtsvid(jwt(&[])).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.fetch_jwtsvid(jwt(&["a", ""])).await.unwrap_err().code(), Code::InvalidArgument);
    let nonsense = ValidateJwtsvidRequest { audience: "a".into(), svid: "a.b.c".into() };
    assert_eq!(
        client.validate_jwtsvid(with_header(nonsense)).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let other = JwtsvidRequest { audience: vec!["a".into()], spiffe_id: "spiffe://example.org/root".into() };
    let status = client.fetch_jwtsvid(with_header(other)).await.unwrap_err();
    assert_eq!(problem_of(&status).code, "workload.other-identity");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_registration_gets_anything() {
    let bench = Bench::with(FakeAuthority::new()).await;
    let mut client = bench.client().await;
    let mut codes = vec![client.fetch_jwtsvid(jwt(&["a"])).await.unwrap_err().code()];
    let token = ValidateJwtsvidRequest { audience: "a".into(), svid: "a.b.c".into() };
    codes.push(client.validate_jwtsvid(with_header(token)).await.unwrap_err().code());
    codes.push(client.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap_err().code());
    let mut bundles =
        client.fetch_x509_bundles(with_header(X509BundlesRequest {})).await.unwrap().into_inner();
    codes.push(bundles.message().await.unwrap_err().code());
    assert_eq!(codes, [Code::PermissionDenied; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_start_while_the_authority_is_down() {
    let bench = Bench::start().await;
    bench.stocked().await;
    bench.down().await;
    let response = bench.x509().await.message().await.unwrap().unwrap();
    assert_eq!(response.svids.len(), 1);
    // The binding was stored before it was told.
    let stored = bench.engine.storage().load_instances().unwrap();
    assert_eq!(stored.iter().filter(|saved| saved.binding.is_some()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_expired_is_served_after_the_clock_has_leapt() {
    let bench = Bench::start().await;
    bench.stocked().await;
    bench.x509().await.message().await.unwrap().unwrap();
    bench.down().await;
    bench.clock.0.store(2 * crate::testing::LIFE, Ordering::SeqCst);
    let status = bench.x509().await.message().await.unwrap_err();
    assert_eq!(
        (status.code(), problem_of(&status).code.as_str()),
        (Code::Unavailable, "agent.authority-unavailable")
    );
}

/// A restart would take the key of a launch for one that nobody has.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_as_given_is_not_left_stored_as_free() {
    let bench = Bench::start().await;
    bench.stocked().await;
    std::fs::create_dir(bench.directory.path().join("state/writing")).unwrap();
    let given = bench.x509().await.message().await.unwrap().unwrap();
    let stored = bench.engine.storage().load_instances().unwrap();
    assert!(!stored.is_empty());
    assert!(stored.iter().all(|saved| saved.key.0.as_slice() != given.svids[0].x509_svid_key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_goes_on_with_execve_costs_no_more_than_one() {
    let bench = Bench::start().await;
    let process = crate::process::Process::open(std::process::id().cast_signed(), Evidence::Pidfd).unwrap();
    let uid = rustix::process::geteuid().as_raw().to_string();
    let attested = crate::testing::selectors(&[("unix.uid", &uid)]);
    for round in 0..20 {
        let mut image = process.image().unwrap();
        image.layout[0] += round;
        let key = LaunchKey { pid: process.pid(), image };
        bench.engine.attach(&process, key, attested.clone()).unwrap();
    }
    assert_eq!(bench.engine.watched(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jwts_are_remembered_and_served_without_the_authority() {
    let bench = Bench::start().await;
    bench.stocked().await;
    let mut client = bench.client().await;
    let first = client.fetch_jwtsvid(jwt(&["b", "a"])).await.unwrap().into_inner();
    let again = client.fetch_jwtsvid(jwt(&["a", "b", "a"])).await.unwrap().into_inner();
    assert_eq!(first, again);
    assert_eq!(bench.server.0.authority.lock().unwrap().jwts, 1);
    bench.down().await;
    assert_eq!(client.fetch_jwtsvid(jwt(&["a", "b"])).await.unwrap().into_inner(), first);
    let status = client.fetch_jwtsvid(jwt(&["c"])).await.unwrap_err();
    assert_eq!(
        (status.code(), problem_of(&status).code.as_str()),
        (Code::Unavailable, "agent.authority-unavailable")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_has_so_many_streams_and_no_more() {
    let bench = Bench::start().await;
    let mut client = bench.client().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let stream = client.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner();
        open.push(stream);
    }
    let status = client.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap_err();
    assert_eq!(problem_of(&status).code, "agent.too-many");
    open.clear();
    let process = crate::process::Process::open(std::process::id() as i32, Evidence::Pidfd).unwrap();
    let key = LaunchKey { pid: process.pid(), image: process.image().unwrap() };
    let again = async {
        while client.fetch_x509svid(with_header(X509svidRequest {})).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    assert!(matches!(bench.engine.launch_state(&key).0, crate::core::LaunchState::Ready(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_stay_flat_however_many_connections_fail() {
    let bench = Bench::start().await;
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    let garbage: [&[u8]; 3] = [b"", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 100]];
    for round in 0..10_000 {
        let mut stream = StdStream::connect(&bench.socket).unwrap();
        let _ = stream.write_all(garbage[round % garbage.len()]);
        drop(stream);
        if round % 100 == 0 {
            bench.until(|_| count() < before + 200).await;
        }
    }
    // Other tests of this process come and go.
    bench.until(|_| count() <= before + 100).await;
    let socket = bench.socket.clone();
    // Blocks until those before it are accepted.
    let alive = tokio::task::spawn_blocking(move || whoami(&mut StdStream::connect(socket).unwrap()).0);
    assert_eq!(alive.await.unwrap(), 200);
}

// === processes that change under the agent's eyes ===

const ROLE: &str = "BONAFIDE_TEST_ROLE";
const SOCKET: &str = "BONAFIDE_TEST_SOCKET";

/// One JSON request over HTTP/1.1 on a connection that stays open; the status code and the body.
fn whoami(stream: &mut StdStream) -> (u16, serde_json::Value) {
    let request = "GET /v1/whoami HTTP/1.1\r\nhost: agent\r\nworkload.spiffe.io: true\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.trim().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

fn inherited() -> StdStream {
    StdStream::from(std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().unwrap())
}

fn in_role(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "api::tests::other_processes", "--nocapture", "--test-threads=1"])
        .env(ROLE, role);
    command
}

/// Does nothing, unless it was started as another process of a test below.
#[test]
fn other_processes() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let connect = || StdStream::connect(std::env::var(SOCKET).unwrap()).unwrap();
    match role.as_str() {
        "exec" => {
            let mut stream = connect();
            assert_eq!(whoami(&mut stream).0, 200);
            let error = in_role("after-exec").stdin(std::os::fd::OwnedFd::from(stream)).exec();
            panic!("{error}");
        }
        "after-exec" => {
            let (status, body) = whoami(&mut inherited());
            assert_eq!((status, body["code"].as_str()), (403, Some("workload.changed")));
            assert_eq!(whoami(&mut connect()).0, 200, "a new connection is fine");
        }
        "hand-over" => {
            let stream = std::os::fd::OwnedFd::from(connect());
            #[expect(clippy::zombie_processes, reason = "to be survived by the child is the point")]
            in_role("heir").stdin(stream).spawn().unwrap();
        }
        "heir" => {
            let mut stream = inherited();
            // As long as the first process lives, it passes for it.
            while whoami(&mut stream).0 != 403 {
                std::thread::yield_now();
            }
            let (status, body) = whoami(&mut inherited());
            assert_eq!((status, body["code"].as_str()), (403, Some("workload.gone")));
        }
        other => panic!("no role `{other}`"),
    }
    println!("role {role} is done");
}

async fn play(role: &'static str, socket: &Path) -> String {
    let mut command = in_role(role);
    command.env(SOCKET, socket).stdin(Stdio::null()).stderr(Stdio::piped());
    // Ends when every heir has ended: all hold the pipe.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_after_connect_is_refused() {
    let bench = Bench::start().await;
    let output = play("exec", &bench.socket).await;
    assert!(output.contains("role after-exec is done"), "{output}");
}

/// While the process that connected lives, whoever holds its connection passes for it; when it has ended,
/// nobody does.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_dies_with_the_process_that_made_it() {
    let bench = Bench::start().await;
    let output = play("hand-over", &bench.socket).await;
    assert!(output.contains("role heir is done"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_tells_what_grpc_tells_and_wants_the_header() {
    let bench = Bench::start().await;
    let socket = bench.socket.clone();
    let ((status, body), bare) = tokio::task::spawn_blocking(move || {
        let known = whoami(&mut StdStream::connect(&socket).unwrap());
        let mut stream = StdStream::connect(&socket).unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").unwrap();
        let mut bare = String::new();
        stream.read_to_string(&mut bare).unwrap();
        (known, bare)
    })
    .await
    .unwrap();
    assert_eq!(status, 200);
    assert_eq!(body["pid"], std::process::id());
    assert_eq!(body["peerEvidence"], "pidfd");
    assert_eq!(body["identities"][0]["spiffeId"], "spiffe://example.org/web");
    assert!(bare.starts_with("HTTP/1.1 400 ") && bare.contains("request.no-security-header"), "{bare}");
}
