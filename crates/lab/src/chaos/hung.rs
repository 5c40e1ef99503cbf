//! `hung`: the authority is stopped in the middle of everything, and its connections stay open.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bonafide_wire::workload::{
    JwtsvidRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use nix::sys::signal::Signal;
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use super::{
    admin::{Operator, entry, refused},
    agent::Agent,
    case::{Case, Report, Stage},
    server::{Server, Settings},
};
use crate::{
    agent::Workload,
    authority::socket,
    pairs::{median, quantile},
};

pub(crate) const CASE: Case = Case {
    name: "hung",
    fault: "the authority is stopped (SIGSTOP): it takes connections and never answers",
    promise: "99 of 100 answers from what the agent holds take at most 10 ms, new launches start, what it does \
              not hold fails within 2 s, and it goes on by itself afterwards",
    short: true,
    run: |stage| Box::pin(run(stage)),
};

/// What an answer that only the authority could give may take to be refused.
const REFUSAL: Duration = Duration::from_secs(2);

async fn run(stage: &Stage) -> Result<Report> {
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    operator
        .put(entry("web", &[("unix.uid", &nix::unistd::geteuid().to_string())]))
        .await
        .map_err(refused)?;
    let mut agent = Agent::new(stage, "agent");
    agent.join(&operator.join_word().await?).await?;
    Workload::open(agent.socket()).await?;
    agent.until("ready for launches", |status| status.pooled >= 2).await?;
    let path = agent.socket().to_str().context("the path is not UTF-8")?;
    let mut client = SpiffeWorkloadApiClient::new(socket(path).await?);
    jwt(&mut client, "known").await?;

    server.signal(Signal::SIGSTOP)?;
    let (mut x509s, mut jwts) = (Vec::new(), Vec::new());
    // Long enough, in its full form, for the agent to notice that nobody is there.
    let ends = Instant::now() + Duration::from_secs(if stage.short { 2 } else { 25 });
    while Instant::now() < ends {
        for _ in 0..20 {
            let began = Instant::now();
            let stream = client.fetch_x509svid(request(X509svidRequest {})).await?;
            stream.into_inner().message().await?.context("no SVID")?;
            x509s.push(began.elapsed().as_secs_f64() * 1e3);
            let began = Instant::now();
            jwt(&mut client, "known").await?;
            jwts.push(began.elapsed().as_secs_f64() * 1e3);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    ensure!(jwt(&mut client, "unknown").await.is_err(), "somebody has signed a new token");
    let refusal = began.elapsed();
    ensure!(refusal < REFUSAL, "a new token was refused only after {refusal:.1?}");
    // A launch: another process, which has never asked.
    let mut launch = Command::new(stage.program());
    launch.args(["svid", "x509", "-q", "--socket"]).arg(agent.socket());
    let began = Instant::now();
    let launched = tokio::task::spawn_blocking(move || launch.output()).await??;
    let launch = began.elapsed();
    ensure!(launched.status.success(), "no launch: {}", String::from_utf8_lossy(&launched.stderr));

    server.signal(Signal::SIGCONT)?;
    let back = agent.until("connected again", |status| status.connected).await?;
    let began = Instant::now();
    while jwt(&mut client, "unknown").await.is_err() {
        ensure!(began.elapsed() < Duration::from_secs(30), "new tokens are not signed afterwards");
    }
    let count = x509s.len() + jwts.len();
    let typical = median(x509s.clone());
    Ok(Report {
        value: quantile(x509s, 0.99).max(quantile(jwts, 0.99)),
        unit: "ms",
        at_most: Some(10.0),
        what: format!(
            "99 of 100 cached answers of {count} (median {typical:.2} ms); a new process had its SVID after {:.0} ms, a new token was refused after {:.1} s; connected {:.1} s after it went on",
            launch.as_secs_f64() * 1e3,
            refusal.as_secs_f64(),
            back.as_secs_f64()
        ),
    })
}

async fn jwt(client: &mut SpiffeWorkloadApiClient<Channel>, audience: &str) -> Result<()> {
    let ask = JwtsvidRequest { audience: vec![audience.to_owned()], ..Default::default() };
    client.fetch_jwtsvid(request(ask)).await?.into_inner().svids.first().context("no token")?;
    Ok(())
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}
