//! `cut-renewals`: the network breaks while an answer to a renewal is on its way.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bonafide_identity::{
    Certificate,
    time::{Clock as _, SystemClock},
};
use bonafide_sdk::X509Source;

use super::{
    admin::{Operator, entry, refused},
    agent::Agent,
    case::{Case, Report, Stage},
    proxy::{Proxy, Weather},
    server::{Server, Settings},
};

pub(crate) const CASE: Case = Case {
    name: "cut-renewals",
    fault: "1,000 answers to renewals, of agents' SVIDs and of workloads', are cut at different bytes",
    promise: "no agent is stuck, no workload is without a valid SVID at any time, and no clone alarm is raised",
    short: false,
    run: |stage| Box::pin(run(stage)),
};

/// Short lives, so that something is renewed all the time.
const LIVES: &str = "\n[lifetimes]\nagent = \"20s\"\n";
const TTL: u32 = 10;
const ENTRIES: usize = 3;
/// After this time without a word the next one is an answer to a renewal.
const QUIET: Duration = Duration::from_millis(200);

async fn run(stage: &Stage) -> Result<Report> {
    let (agents, cuts) = (stage.times(40, 6), stage.times(1000, 30));
    let mut server = Server::init(stage, &Settings { more: LIVES, ..Settings::default() }).await?;
    server.start().await?;
    let proxy = Proxy::start(server.address()).await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    let own = nix::unistd::geteuid().to_string();
    for number in 0..ENTRIES {
        let mut web = entry(&format!("web-{number}"), &[("unix.uid", &own)]);
        web.x509_ttl = TTL;
        operator.put(web).await.map_err(refused)?;
    }
    let (mut nodes, mut sources) = (Vec::new(), Vec::new());
    for number in 0..agents {
        let mut agent = Agent::new(stage, &format!("agent-{number}"));
        agent.dial(proxy.address());
        agent.join(&operator.join_word().await?).await?;
        let endpoint = format!("unix://{}", agent.socket().display());
        sources.push(X509Source::connect_to(&endpoint).await?);
        nodes.push(agent);
    }
    proxy.set(Weather { cut_after_quiet: Some(QUIET), ..Weather::default() });
    let began = Instant::now();
    let mut expired = 0;
    while proxy.cuts() < cuts {
        ensure!(began.elapsed() < Duration::from_secs(400), "only {} answers were cut", proxy.cuts());
        expired += sources.iter().filter(|source| !is_valid(source)).count();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    proxy.set(Weather::default());
    // Everything that lives now is renewed once more before this is over.
    let calm = SystemClock.now().saturating_add(Duration::from_secs(TTL.into()));
    let began = Instant::now();
    let mut stuck = nodes.len();
    while stuck > 0 && began.elapsed() < Duration::from_secs(60) {
        stuck = 0;
        for (agent, source) in nodes.iter().zip(&sources) {
            let connected = agent.status().await.is_ok_and(|status| status.connected);
            let renewed = expiry(source).is_some_and(|at| at > calm);
            stuck += usize::from(!(connected && renewed));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = began.elapsed();
    ensure!(expired == 0, "a workload was seen without a valid SVID {expired} times");
    ensure!(!server.log()?.contains("was cloned"), "a lost answer was taken for a clone");
    Ok(Report {
        value: stuck as f64,
        unit: "stuck",
        at_most: Some(0.0),
        what: format!(
            "agents, of {agents}, after {} answers were cut; all had renewed everything {:.1} s after it was over",
            proxy.cuts(),
            took.as_secs_f64()
        ),
    })
}

fn expiry(source: &X509Source) -> Option<bonafide_identity::UnixTime> {
    source.svid().ok()?.chain().first().map(Certificate::not_after)
}

fn is_valid(source: &X509Source) -> bool {
    expiry(source).is_some_and(|at| at > SystemClock.now())
}
