//! `flood`: strangers open connections, shake hands and begin streams, as many as they can.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use bonafide_attest::join::JoinLine;
use bonafide_identity::time::SystemClock;
use bonafide_tls::{ClientConfig, pinned_client_config};
use bonafide_wire::node::{AttestRequest, node_client::NodeClient};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tonic::transport::{Channel, Endpoint};

use super::{
    admin::{Operator, refused},
    cage::Cage,
    case::{Case, Report, Skipped, Stage},
    issuing::Issuing,
    server::{Server, Settings},
};
use crate::pairs::quantile;

pub(crate) const CASE: Case = Case {
    name: "flood",
    fault: "strangers from 40 addresses open connections that say nothing, shake hands, begin streams that never end, \
            and messages that never end, against an authority with 256 MB",
    promise: "it lives, and 99 of 100 certificates of a good node take at most twice as long as before",
    short: false,
    run: |stage| Box::pin(run(stage)),
};

const MEMORY: u64 = 256 << 20;
/// What strangers do, by the name that the other process is told.
const KINDS: [&str; 4] = ["silence", "handshakes", "streams", "messages"];
const SOURCES: u8 = 40;
/// Of each source; more than it is allowed.
const MANY: usize = 80;
const BUSY: usize = 2;
const STREAMS: usize = 100;
/// The longest message that is taken of somebody without a certificate.
const LONG: usize = 64 * 1024;
/// For the flood to rise.
const RISE: Duration = Duration::from_secs(2);

async fn run(stage: &Stage) -> Result<Report> {
    let cage = Cage::new(MEMORY)?;
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.enter(&cage);
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    let mut issuing = Issuing::join(&mut operator).await?;
    let word = operator.join_word().await?;
    let count = stage.times(3000, 300);
    latency(&mut issuing, count).await?;
    let before = latency(&mut issuing, count).await?;
    let mut worst: f64 = 0.0;
    let mut files = 0;
    let mut told = Vec::new();
    for kind in KINDS {
        let flood = Flood::start(kind, &word)?;
        tokio::time::sleep(RISE).await;
        let during = latency(&mut issuing, count).await?;
        files = files.max(std::fs::read_dir(format!("/proc/{}/fd", server.id()?))?.count());
        ensure!(server.look()?.is_none(), "the authority has ended: {}", server.last_words());
        drop(flood);
        worst = worst.max(during / before);
        told.push(format!("{kind} {during:.1} ms"));
    }
    let peak = cage.peak()? as f64 / 1e6;
    server.stop().await?;
    issuing.check_logged(server.data())?;
    Ok(Report {
        value: worst,
        unit: "×",
        at_most: Some(2.0),
        what: format!(
            "99 of 100 certificates, to {before:.1} ms before: {}; at most {files} files open and {peak:.0} MB of {} MB",
            told.join(", "),
            MEMORY >> 20
        ),
    })
}

/// Milliseconds within which 99 of 100 certificates were issued, one after the other.
async fn latency(issuing: &mut Issuing, count: usize) -> Result<f64> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        issuing.issue().await?.map_err(refused)?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(quantile(took, 0.99))
}

/// Another process, which leaves the processor to those who are measured: strangers have machines of their own. So it runs
/// only where nobody else wants to; less than that, as lowest priority is, would make others wait for the end of its turn.
/// Killed when dropped.
struct Flood(Child);

impl Flood {
    fn start(kind: &str, word: &str) -> Result<Self> {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(std::env::current_exe()?).args(["chaos", "--flood", kind, word]);
        let missing = |_| Skipped("there is no `chrt` (util-linux)".to_owned());
        Ok(Self(command.stdin(Stdio::null()).spawn().map_err(missing)?))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the other process does, for ever.
pub(crate) async fn flood(kind: &str, word: &str) -> Result<()> {
    let line: JoinLine = word.parse()?;
    let server: SocketAddr = line.address.parse()?;
    let config = pinned_client_config(line.trust_domain.clone(), line.root_pin, Arc::new(SystemClock))?
        .with_protocols(&[b"h2"]);
    let mut strangers = JoinSet::new();
    for source in 1..=SOURCES {
        for _ in 0..if matches!(kind, "silence" | "messages") { MANY } else { BUSY } {
            let (config, kind) = (Arc::clone(&config), kind.to_owned());
            strangers.spawn(async move {
                loop {
                    let tried = match kind.as_str() {
                        "silence" => be_silent(server, source).await,
                        "handshakes" => shake_hands(server, source, &config).await,
                        "streams" => begin_streams(server, source, &config).await,
                        "messages" => begin_messages(server, source, &config).await,
                        _ => return,
                    };
                    if tried.is_err() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            });
        }
    }
    strangers.join_next().await;
    bail!("there is no flood `{kind}`")
}

/// Connects from one of many addresses.
pub(super) async fn dial(server: SocketAddr, source: u8) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 4, 0, source), 0).into())?;
    Ok(socket.connect(server).await?)
}

async fn be_silent(server: SocketAddr, source: u8) -> Result<()> {
    // Until it is closed.
    dial(server, source).await?.read_u8().await?;
    Ok(())
}

async fn shake_hands(server: SocketAddr, source: u8, config: &ClientConfig) -> Result<()> {
    config.connect(dial(server, source).await?).await?;
    Ok(())
}

async fn begin_streams(server: SocketAddr, source: u8, config: &ClientConfig) -> Result<()> {
    let mut stream = Some(config.connect(dial(server, source).await?).await?);
    let connector = tower::service_fn(move |_| {
        let closed = || std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
        std::future::ready(stream.take().map(TokioIo::new).ok_or_else(closed))
    });
    let channel: Channel =
        Endpoint::from_static("http://authority").connect_with_connector(connector).await?;
    let mut open = JoinSet::new();
    for _ in 0..STREAMS {
        let mut client = NodeClient::new(channel.clone());
        open.spawn(async move {
            let _refused = client.attest(tokio_stream::pending::<AttestRequest>()).await;
        });
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), open.join_all()).await;
    Ok(())
}

/// Messages of which all but the last byte comes.
async fn begin_messages(server: SocketAddr, source: u8, config: &ClientConfig) -> Result<()> {
    let tls = TokioIo::new(config.connect(dial(server, source).await?).await?);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), tls).await?;
    let mut open = JoinSet::new();
    open.spawn(async move {
        let _ended = connection.await;
    });
    for _ in 0..STREAMS {
        let mut sender = sender.clone();
        open.spawn(async move {
            let length = u32::try_from(LONG).unwrap_or(u32::MAX).to_be_bytes();
            let parts = [[&[0], length.as_slice()].concat(), vec![0; LONG - 1]];
            let parts = stream::iter(parts.map(|part| Ok::<_, Infallible>(Frame::data(Bytes::from(part)))));
            let body = StreamBody::new(parts.chain(stream::pending()));
            let ask = http::Request::post("http://authority/bonafide.node.v1.Node/Attest")
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            if let Ok(ask) = ask.body(BodyExt::boxed_unsync(body))
                && let Ok(answer) = sender.send_request(ask).await
            {
                let _refused = answer.into_body().collect().await;
            }
        });
    }
    // Until the connection is closed.
    open.join_next().await;
    Ok(())
}
