//! `store-disk-full` and `ledger-disk-full`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bonafide_wire::types::Problem;

use super::{
    admin::{Operator, entry, refused},
    agent::Agent,
    case::{Case, Report, Stage},
    issuing::Issuing,
    room::Room,
    server::{PATIENCE, Server, Settings},
    writers::Writers,
};
use crate::agent::Workload;

pub(crate) const STORE: Case = Case {
    name: "store-disk-full",
    fault: "the disk of the store is full; the ledger has its own",
    promise: "writes are refused with `store.full` and what to do, all else goes on; it heals by itself",
    short: true,
    run: |stage| Box::pin(run(stage, Full::Store)),
};

pub(crate) const LEDGER: Case = Case {
    name: "ledger-disk-full",
    fault: "the disk of the issuance log is full; the store has its own",
    promise: "nothing is issued unlogged: `ledger.full`; what workloads have is served; it heals by itself",
    short: true,
    run: |stage| Box::pin(run(stage, Full::Ledger)),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Ledger,
    Store,
}

const STORE_BYTES: u64 = 24 << 20;
const LEDGER_BYTES: u64 = 8 << 20;
/// A shorter life is allowed to nobody.
const TTL: u32 = 10;
/// Writes and certificates at most, until the disk must be full.
const ENOUGH: usize = 20_000;
const GOES_ON: usize = 200;

async fn run(stage: &Stage, full: Full) -> Result<Report> {
    let data = stage.path("room");
    let store = Room::at(&data, STORE_BYTES)?;
    let settings = Settings { data: Some(data.join("authority")), ..Settings::default() };
    let mut server = Server::init(stage, &settings).await?;
    let ledger = Room::at(&server.data().join("ledger"), LEDGER_BYTES)?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    let mut web = entry("web", &[("unix.uid", &nix::unistd::geteuid().to_string())]);
    web.x509_ttl = TTL;
    operator.put(web).await.map_err(refused)?;
    let mut agent = Agent::new(stage, "agent");
    agent.join(&operator.join_word().await?).await?;
    let mut issuing = Issuing::join(&mut operator).await?;
    let mut writers = Writers::new(4);
    ensure!(writers.write_once(&operator).await.is_empty(), "a write before the fault");
    issuing.issue().await?.map_err(refused)?;
    let (mut workload, _) = Workload::open(agent.socket()).await?;

    if full == Full::Store {
        store.fill()?
    } else {
        ledger.fill()?
    };
    let problem = until_refused(full, &mut writers, &operator, &mut issuing).await?;
    let code = if full == Full::Store { "store.full" } else { "ledger.full" };
    ensure!(
        problem.code == code,
        "refused with `{}` ({}) in place of `{code}`",
        problem.code,
        problem.message
    );
    ensure!(problem.hint.contains("make room"), "`{code}` does not say what to do: {}", problem.hint);
    // Everything else goes on.
    let mut renewals = 0;
    match full {
        Full::Store => {
            for _ in 0..GOES_ON {
                issuing.issue().await?.map_err(refused)?;
            }
            let life = Duration::from_secs(TTL.into());
            for _ in 0..stage.times(4, 1) {
                // The next one comes before the last one ends.
                ensure!(
                    tokio::time::timeout(life, workload.next()).await.is_ok_and(|next| next.is_ok()),
                    "a workload's SVID was not renewed"
                );
                renewals += 1;
            }
        }
        Full::Ledger => {
            for _ in 0..GOES_ON / 4 {
                let refused = writers.write_once(&operator).await;
                ensure!(refused.is_empty(), "the store refuses, too: {refused:?}");
            }
            Workload::open(agent.socket()).await?;
        }
    }
    operator.registrations().await?;
    ensure!(server.look()?.is_none(), "the authority has ended: {}", server.last_words());

    if full == Full::Store {
        store.make_room()?
    } else {
        ledger.make_room()?
    };
    let began = Instant::now();
    loop {
        let healed = match full {
            Full::Store => writers.write_once(&operator).await.is_empty(),
            Full::Ledger => issuing.issue().await?.is_ok(),
        };
        if healed {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "it did not heal");
    }
    let healed = began.elapsed().as_secs_f64();
    if full == Full::Ledger {
        let renewed = tokio::time::timeout(2 * PATIENCE, workload.next()).await;
        ensure!(renewed.is_ok_and(|next| next.is_ok()), "the workload's SVID was not renewed afterwards");
    }
    writers.check(&mut operator).await?;
    server.stop().await?;
    issuing.check_logged(server.data())?;
    Ok(Report {
        value: healed,
        unit: "s",
        at_most: Some(5.0),
        what: match full {
            Full::Store => format!(
                "room made → writes succeed; meanwhile {GOES_ON} certificates issued, {renewals} renewals in time, 0 writes lost"
            ),
            Full::Ledger => format!(
                "room made → certificates are issued; meanwhile 0 unlogged of {}, {} writes went on",
                issuing.given(),
                GOES_ON / 4
            ),
        },
    })
}

async fn until_refused(
    full: Full,
    writers: &mut Writers,
    operator: &Operator,
    issuing: &mut Issuing,
) -> Result<Problem> {
    for _ in 0..ENOUGH {
        let problem = match full {
            Full::Store => writers.write_once(operator).await.into_iter().next(),
            Full::Ledger => issuing.issue().await?.err(),
        };
        if let Some(problem) = problem {
            return Ok(problem);
        }
    }
    bail!("the full disk is noticed by nobody")
}
