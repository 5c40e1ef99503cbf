//! `fsync-error` and `torn-write`: the disk lies, or keeps half of what it was given.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    admin::Operator,
    case::{Case, Report, Stage, below},
    issuing::Issuing,
    server::{PATIENCE, Server, Settings},
    shim::{Files, Shim},
    writers::Writers,
};

pub(crate) const ERROR: Case = Case {
    name: "fsync-error",
    fault: "a sync of the store, or of the ledger, fails once with EIO, under writes and issuance",
    promise: "what it was for is not acknowledged; the authority ends rather than try again, and recovers",
    short: true,
    run: |stage| Box::pin(run(stage, false)),
};

pub(crate) const TORN: Case = Case {
    name: "torn-write",
    fault: "a part of a write reaches the store or the ledger, then the power is gone",
    promise: "nothing acknowledged is lost, nothing half-applied, and the authority starts",
    short: true,
    run: |stage| Box::pin(run(stage, true)),
};

const WRITERS: usize = 4;

async fn run(stage: &Stage, torn: bool) -> Result<Report> {
    let shim = Shim::new(&stage.path(""))?;
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.preload(&shim);
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    let mut issuing = Issuing::join(&mut operator).await?;
    let mut writers = Writers::new(WRITERS);
    let (mut slowest, mut faults) = (Duration::ZERO, 0);
    for round in 0..stage.times(20, 3) {
        for files in [Files::Store, Files::Ledger] {
            let nth = 1 + i64::try_from(round)?;
            if torn {
                shim.tear_write(files, nth, i64::from(below(1000)))?;
            } else {
                shim.fail_sync(files, nth)?;
            }
            let (_, _, ended) = tokio::join!(
                writers.write(&operator),
                issuing.issue_until_it_fails(),
                server.ended(PATIENCE),
            );
            let status = ended?;
            ensure!(!status.success(), "the authority ended as if nothing had happened");
            faults += 1;
            ensure!(shim.hits()? == faults, "the fault did not happen");
            shim.heal()?;
            slowest = slowest.max(server.start().await?);
            operator = Operator(server.admin().await?);
            writers.check(&mut operator).await?;
            issuing.reconnect().await?;
        }
    }
    server.stop().await?;
    issuing.check_logged(server.data())?;
    Ok(Report {
        value: slowest.as_secs_f64() * 1e3,
        unit: "ms",
        at_most: Some(1000.0),
        what: format!(
            "slowest recovery; {faults} faults, {} writes and {} certificates acknowledged, 0 lost",
            writers.total(),
            issuing.given()
        ),
    })
}
