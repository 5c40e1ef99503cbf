//! `kill`: the authority is killed at any moment, while many write and certificates are issued.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    admin::Operator,
    case::{Case, Report, Stage, below, between},
    issuing::Issuing,
    server::{Server, Settings},
    writers::Writers,
};
use crate::pairs::quantile;

pub(crate) const CASE: Case = Case {
    name: "kill",
    fault: "kill -9 of the authority at random moments, also while it starts, under writes and issuance",
    promise: "nothing acknowledged is lost, nothing half-applied; 99 of 100 recoveries take at most 1 s",
    short: true,
    run: |stage| Box::pin(run(stage)),
};

const WRITERS: usize = 8;

async fn run(stage: &Stage) -> Result<Report> {
    let rounds = stage.times(100, 6);
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    let mut issuing = Issuing::join(&mut operator).await?;
    let mut writers = Writers::new(WRITERS);
    let mut recoveries = Vec::new();
    for round in 0..rounds {
        let moment = between(Duration::from_millis(1), Duration::from_millis(300));
        let kill = async {
            tokio::time::sleep(moment).await;
            server.kill()
        };
        let (_, _, killed) = tokio::join!(writers.write(&operator), issuing.issue_until_it_fails(), kill);
        killed?;
        if round % 4 == 3 {
            // Recovery itself is no safe time either.
            server.spawn(&[])?;
            tokio::time::sleep(Duration::from_millis(below(60).into())).await;
            server.kill()?;
        }
        let began = Instant::now();
        recoveries.push(server.start().await?.as_secs_f64() * 1e3);
        operator = Operator(server.admin().await?);
        writers.check(&mut operator).await?;
        issuing.reconnect().await?;
        // The first write and the first certificate count as well.
        issuing.issue().await?.map_err(super::admin::refused)?;
        let _all_of_it = began.elapsed();
    }
    server.stop().await?;
    issuing.check_logged(server.data())?;
    Ok(Report {
        value: quantile(recoveries.clone(), 0.99),
        unit: "ms",
        at_most: Some(1000.0),
        what: format!(
            "recovery, 99 of 100 (median {:.0} ms); {rounds} kills, {} writes and {} certificates acknowledged, 0 lost",
            quantile(recoveries, 0.5),
            writers.total(),
            issuing.given()
        ),
    })
}
