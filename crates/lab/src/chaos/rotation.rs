//! `ca-rotation`: root and JWT key are replaced by plan, under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bonafide_wire::admin::{
    ChangeAuthorityRequest, ListAuthoritiesRequest, PrepareAuthorityRequest, signing_authority::Kind,
};

use super::{
    admin::{Operator, entry, refused},
    agent::Agent,
    case::{Case, Report, Stage},
    peers::{Load, Peer},
    server::{Server, Settings},
};

pub(crate) const CASE: Case = Case {
    name: "ca-rotation",
    fault: "the root is prepared, activated, the old one tainted and revoked, while workloads shake hands",
    promise: "not one handshake fails, and every SVID is under the new root within a minute",
    short: false,
    run: |stage| Box::pin(run(stage)),
};

const AGENTS: usize = 3;
const TTL: u32 = 20;

async fn run(stage: &Stage) -> Result<Report> {
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    let mut web = entry("web", &[("unix.uid", &nix::unistd::geteuid().to_string())]);
    web.x509_ttl = TTL;
    operator.put(web).await.map_err(refused)?;
    let (mut agents, mut peers) = (Vec::new(), Vec::new());
    for number in 0..AGENTS {
        let mut agent = Agent::new(stage, &format!("agent-{number}"));
        agent.join(&operator.join_word().await?).await?;
        peers.push(Peer::of(&agent).await?);
        agents.push(agent);
    }
    let load = Load::start(&peers);
    let old = active_root(&mut operator).await?;
    let issuers: Vec<_> = peers.iter().map(Peer::issuer).collect();
    let request = PrepareAuthorityRequest { kind: Kind::Root.into() };
    let prepared = operator.0.prepare_authority(request).await?.into_inner();
    let next = prepared.authority.context("nothing was prepared")?.id;
    let change = |id: &str| ChangeAuthorityRequest { id: id.to_owned(), force: false, wait: 30 };
    let activated = operator.0.activate_authority(change(&next)).await?.into_inner();
    ensure!(activated.behind.is_empty(), "agents did not acknowledge the new root");
    let began = Instant::now();
    while peers.iter().zip(&issuers).any(|(peer, before)| peer.issuer() == *before) {
        ensure!(began.elapsed() < Duration::from_secs(120), "some SVID is still under the old root");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    operator.0.taint_authority(change(&old)).await?;
    // What was issued under it has been renewed; it may go.
    tokio::time::sleep(Duration::from_secs(TTL.into())).await;
    let revoked = operator.0.revoke_authority(change(&old)).await?.into_inner();
    ensure!(revoked.behind.is_empty(), "agents did not acknowledge that the old root is gone");
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(active_root(&mut operator).await? == next, "the new root does not sign");
    let (done, failures) = load.finish().await?;
    ensure!(failures.is_empty(), "handshakes failed, of {done}: {failures:?}");
    Ok(Report {
        value: took.as_secs_f64(),
        unit: "s",
        at_most: Some(60.0),
        what: format!("activated → every SVID is under the new root; {done} handshakes meanwhile, 0 failed"),
    })
}

/// ID of the root that signs.
pub(super) async fn active_root(operator: &mut Operator) -> Result<String> {
    let list = operator.0.list_authorities(ListAuthoritiesRequest {}).await?.into_inner().authorities;
    let found = list.into_iter().find(|key| key.kind() == Kind::Root && key.state == "active");
    Ok(found.context("no root signs")?.id)
}
