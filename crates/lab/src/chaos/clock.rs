//! `clock-forward` and `clock-back`: the wall clock of a running process goes wrong, and comes right again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bonafide_identity::{
    Certificate,
    time::{Clock as _, SystemClock},
};
use bonafide_wire::workload::X509svidResponse;

use super::{
    admin::{Operator, entry, refused},
    agent::Agent,
    case::{Case, Report, Stage},
    server::{Server, Settings},
    shim::Shim,
};
use crate::agent::Workload;

pub(crate) const FORWARD: Case = Case {
    name: "clock-forward",
    fault: "the clock of a running authority goes 30 days forward, then that of a running agent; each comes back",
    promise: "workloads keep what is valid, nobody is given what is not valid yet, and both go on by themselves",
    short: true,
    run: |stage| Box::pin(run(stage, 30 * 86_400)),
};

pub(crate) const BACK: Case = Case {
    name: "clock-back",
    fault: "the clock of a running authority goes one hour back, then that of a running agent; each comes right",
    promise: "workloads keep what is valid, nobody is given what has expired, and both go on by themselves",
    short: true,
    run: |stage| Box::pin(run(stage, -3600)),
};

/// A shorter life is allowed to nobody.
const TTL: u32 = 10;

async fn run(stage: &Stage, shift: i64) -> Result<Report> {
    let shim = Shim::new(&stage.path(""))?;
    let of_agent = shim.another("agent")?;
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.preload(&shim);
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    // One that lives on all the while, and one that is renewed all the while.
    let own = ("unix.uid", nix::unistd::geteuid().to_string());
    for (id, ttl) in [("lasting", 3600), ("short", TTL)] {
        let mut entry = entry(id, &[(own.0, &own.1)]);
        entry.x509_ttl = ttl;
        operator.put(entry).await.map_err(refused)?;
    }
    let mut agent = Agent::new(stage, "agent");
    agent.preload(&of_agent);
    agent.join(&operator.join_word().await?).await?;
    let (mut workload, first) = Workload::open(agent.socket()).await?;
    let lasting = leaf_of(&first, "lasting")?;
    let mut slowest = Duration::ZERO;
    for wrong in [&shim, &of_agent] {
        wrong.shift_clock(shift)?;
        // Over two renewals.
        let ends = Instant::now() + Duration::from_secs(u64::from(TTL) * if stage.short { 1 } else { 3 });
        while Instant::now() < ends {
            match tokio::time::timeout_at(ends.into(), workload.next()).await {
                Ok(Ok(said)) => check(&said)?,
                // An agent to which everything has expired may end the stream; it must not give what is not valid.
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(_) => {}
            }
        }
        ensure!(server.look()?.is_none(), "the authority has ended: {}", server.last_words());
        if std::ptr::eq(wrong, &shim) {
            let (_, said) = Workload::open(agent.socket()).await?;
            ensure!(
                leaf_of(&said, "lasting")? == lasting,
                "what is valid for an hour was taken away or exchanged"
            );
        }
        wrong.shift_clock(0)?;
        let began = Instant::now();
        slowest = slowest.max(recovered(&mut operator, &agent).await.map(|()| began.elapsed())?);
        (workload, _) = Workload::open(agent.socket()).await?;
    }
    // It is as good as new: restarts, and takes new nodes.
    server.stop().await?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    let mut another = Agent::new(stage, "another");
    another.join(&operator.join_word().await?).await?;
    let (_, said) = Workload::open(another.socket()).await?;
    check(&said)?;
    Ok(Report {
        value: slowest.as_secs_f64(),
        unit: "s",
        at_most: Some(60.0),
        what: "clock right again → the agent is connected and has a new SVID for a changed entry, at most"
            .to_owned(),
    })
}

/// A change reaches the agent, and leads to an SVID that is valid now.
async fn recovered(operator: &mut Operator, agent: &Agent) -> Result<()> {
    let own = nix::unistd::geteuid().to_string();
    let id = format!("after-{}", operator.revision().await?);
    operator.put(entry(&id, &[("unix.uid", &own)])).await.map_err(refused)?;
    let began = Instant::now();
    loop {
        if let Ok((_, said)) = Workload::open(agent.socket()).await
            && leaf_of(&said, &id).is_ok()
            && leaf_of(&said, "short").is_ok()
            && check(&said).is_ok()
        {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(90), "nothing new after the clock came right");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether everything that a workload was given is valid by this process' clock, which is right.
fn check(said: &X509svidResponse) -> Result<()> {
    let now = SystemClock.now();
    for svid in &said.svids {
        for certificate in Certificate::many_from_der(&svid.x509_svid, 8)? {
            let valid = certificate.not_before() <= now && now < certificate.not_after();
            ensure!(
                valid,
                "`{}` was given a certificate that is valid from {} to {}, and it is {}",
                svid.spiffe_id,
                certificate.not_before(),
                certificate.not_after(),
                now
            );
        }
    }
    Ok(())
}

fn leaf_of(said: &X509svidResponse, id: &str) -> Result<Vec<u8>> {
    let svid = said.svids.iter().find(|svid| svid.spiffe_id.ends_with(&format!("/{id}")));
    Ok(svid.ok_or_else(|| anyhow::anyhow!("there is no SVID of `{id}`"))?.x509_svid.to_vec())
}
