//! `flood`: strangers open connections, shake hands and begin streams, as many as they can.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bonafide_attest::join::JoinLine;
use bonafide_identity::time::SystemClock;
use bonafide_tls::{ClientConfig, pinned_client_config};
use bonafide_wire::node::{AttestRequest, node_client::NodeClient};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tonic::transport::{Channel, Endpoint};

use super::{
    admin::{Operator, refused},
    cage::Cage,
    case::{Case, Report, Stage},
    issuing::Issuing,
    server::{Server, Settings},
};
use crate::pairs::quantile;

pub(crate) const CASE: Case = Case {
    name: "flood",
    fault: "strangers from 40 addresses open connections that say nothing, shake hands, and begin streams that never \
            end, against an authority with 256 MB",
    promise: "it lives, and 99 of 100 certificates of a good node take at most twice as long as before",
    short: false,
    run: |stage| Box::pin(run(stage)),
};

const MEMORY: u64 = 256 << 20;
/// What strangers do, by the name that the other process is told.
const KINDS: [&str; 3] = ["silence", "handshakes", "streams"];
const SOURCES: u8 = 40;
/// Of each source; more than it is allowed.
const SILENT: usize = 80;
const BUSY: usize = 2;
const STREAMS: usize = 100;
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

/// Another process, which leaves the processor to those who are measured. Killed when dropped.
struct Flood(Child);

impl Flood {
    fn start(kind: &str, word: &str) -> Result<Self> {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe()?).args(["chaos", "--flood", kind, word]);
        Ok(Self(command.stdin(Stdio::null()).spawn().context("start `nice`")?))
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
        for _ in 0..if kind == "silence" { SILENT } else { BUSY } {
            let (config, kind) = (Arc::clone(&config), kind.to_owned());
            strangers.spawn(async move {
                loop {
                    let tried = match kind.as_str() {
                        "silence" => be_silent(server, source).await,
                        "handshakes" => shake_hands(server, source, &config).await,
                        "streams" => begin_streams(server, source, &config).await,
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

async fn dial(server: SocketAddr, source: u8) -> Result<TcpStream> {
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
