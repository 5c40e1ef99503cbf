//! `token-race`: a join token is used by many at once, at two servers.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use anyhow::{Result, ensure};
use bonafide_attest::join::JoinLine;
use bonafide_crypto::{
    csr,
    key::{KeyAlgorithm, PrivateKey},
};
use bonafide_identity::time::SystemClock;
use bonafide_tls::{ClientConfig, pinned_client_config};
use bonafide_wire::{
    node::{AttestBegin, AttestRequest, attest_request, attest_response, node_client::NodeClient},
    problem_of,
};
use futures_util::future::join_all;
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tonic::transport::{Channel, Endpoint};

use super::{
    admin::Operator,
    case::{Case, Report, Stage},
    postgres::{Postgres, url},
    server::{Server, Settings},
};

pub(crate) const CASE: Case = Case {
    name: "token-race",
    fault: "one join token is used 200 times at once, at two servers",
    promise: "one use succeeds, all others are told that it is spent",
    short: true,
    run: |stage| Box::pin(run(stage)),
};

const USES: usize = 200;
/// The limits that protect the authority from strangers are not what is tried here.
const LIMITS: &str = "\n[limits]\nattestations_per_source = 100000\n";

async fn run(stage: &Stage) -> Result<Report> {
    let rounds = stage.times(20, 2);
    let mut database = Postgres::primary()?;
    database.start().await?;
    let store = url(&[database.address()]);
    let settings = Settings { name: Some("a"), store: Some(&store), more: LIMITS, ..Settings::default() };
    let mut a = Server::init(stage, &settings).await?;
    a.start().await?;
    let mut operator = Operator(a.admin().await?);
    operator.put_site(3600).await?;
    let mut b = Server::init(stage, &Settings { name: Some("b"), beside: Some(&a), ..settings }).await?;
    b.start().await?;
    let mut at_b = Operator(b.admin().await?);
    let mut wins = [0; 2];
    let mut slowest: f64 = 0.0;
    for _ in 0..rounds {
        let line: JoinLine = operator.join_word().await?.parse()?;
        let last = operator.revision().await?;
        while at_b.revision().await? < last {
            tokio::task::yield_now().await;
        }
        let config = pinned_client_config(line.trust_domain.clone(), line.root_pin, Arc::new(SystemClock))?
            .with_protocols(&[b"h2"]);
        // Everybody is connected before the first one asks.
        let mut channels = Vec::new();
        for number in 0..USES {
            let server = if number % 2 == 0 { a.address() } else { b.address() };
            channels.push((number % 2, channel(server, number, &config).await?));
        }
        let began = Instant::now();
        let uses = channels.into_iter().map(|(server, channel)| {
            let line = &line;
            async move { (server, attest(channel, line).await) }
        });
        let mut won = 0;
        for (server, outcome) in join_all(uses).await {
            match outcome {
                Ok(()) => {
                    won += 1;
                    if let Some(wins) = wins.get_mut(server) {
                        *wins += 1;
                    }
                }
                Err(code) => ensure!(code == "token.invalid", "a use fails with `{code}`"),
            }
        }
        slowest = slowest.max(began.elapsed().as_secs_f64() * 1e3);
        ensure!(won == 1, "{won} of {USES} uses of one token succeed");
    }
    let [first, second] = wins;
    Ok(Report {
        value: slowest,
        unit: "ms",
        at_most: None,
        what: format!(
            "until {USES} uses were answered, at most; {rounds} tokens, one success each: {first} at one server, {second} at the other"
        ),
    })
}

/// A connection from an address of its own.
async fn channel(server: SocketAddr, number: usize, config: &Arc<ClientConfig>) -> Result<Channel> {
    let socket = TcpSocket::new_v4()?;
    let last = u8::try_from(1 + number % 250)?;
    socket.bind((Ipv4Addr::new(127, 3, 0, last), 0).into())?;
    let tcp = socket.connect(server).await?;
    let stream = config.connect(tcp).await?;
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let closed = || std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
        std::future::ready(stream.take().map(TokioIo::new).ok_or_else(closed))
    });
    Ok(Endpoint::from_static("http://authority").connect_with_connector(connector).await?)
}

async fn attest(channel: Channel, line: &JoinLine) -> Result<(), String> {
    let own = |error: &dyn std::fmt::Display| error.to_string();
    let key = PrivateKey::generate(KeyAlgorithm::EcP256).map_err(|error| own(&error))?;
    let begin = AttestBegin {
        attestor: "join_token".to_owned(),
        evidence: line.token.expose().to_vec().into(),
        csr: csr::build(&key).map_err(|error| own(&error))?.into(),
        agent_version: "chaos".to_owned(),
    };
    let begin = AttestRequest { step: Some(attest_request::Step::Begin(begin)) };
    let answer = async {
        let mut answers = NodeClient::new(channel).attest(tokio_stream::once(begin)).await?.into_inner();
        answers.message().await
    };
    match answer.await.map_err(|status| problem_of(&status).code)?.and_then(|answer| answer.step) {
        Some(attest_response::Step::Attested(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
