//! `rogue-writer`: somebody writes into the database.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    admin::{Operator, entry, refused},
    case::{Case, Report, Stage},
    postgres::{Postgres, url},
    server::{Server, Settings},
};

pub(crate) const CASE: Case = Case {
    name: "rogue-writer",
    fault: "somebody who owns PostgreSQL adds an entry, widens a scope, cuts the end of the log",
    promise: "every server refuses it, while it runs and when it starts, and names the place",
    short: true,
    run: |stage| Box::pin(run(stage)),
};

/// What is done while the server is down, and the place that it must name.
const AT_REST: [(&str, &str); 6] = [
    (
        "INSERT INTO object SELECT 'registration/mine', revision, value, mac FROM object WHERE key = 'registration/web'",
        "key `registration/mine`",
    ),
    (
        "UPDATE head SET revision = revision + 1; INSERT INTO change SELECT (SELECT revision FROM head), 'registration/mine', value, mac FROM change WHERE key = 'registration/web'",
        "table `head`",
    ),
    (
        "UPDATE object SET value = replace(encode(value, 'escape'), '/**', '/xx')::bytea WHERE key = 'site/chaos'",
        "key `site/chaos`",
    ),
    ("DELETE FROM change WHERE revision = (SELECT revision FROM head)", "table `change`, revision"),
    (
        "DELETE FROM change WHERE revision = (SELECT revision FROM head); UPDATE head SET revision = revision - 1",
        "table `head`",
    ),
    ("UPDATE head SET incarnation = decode(repeat('ab', 16), 'hex')", "table `head`"),
];

/// What is done under a running server.
const LIVE: [(&str, &str); 3] = [
    (
        "UPDATE head SET revision = revision + 1; INSERT INTO change SELECT (SELECT revision FROM head), 'registration/mine', value, mac FROM change WHERE key = 'registration/web'",
        "table `head`",
    ),
    ("UPDATE head SET revision = revision - 1", "table `head`"),
    ("UPDATE head SET incarnation = decode(repeat('ab', 16), 'hex')", "table `head`"),
];

async fn run(stage: &Stage) -> Result<Report> {
    let mut database = Postgres::primary()?;
    database.start().await?;
    let store = url(&[database.address()]);
    let mut server = Server::init(stage, &Settings { store: Some(&store), ..Settings::default() }).await?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    operator.put(entry("web", &[("unix.user", "web")])).await.map_err(refused)?;
    server.stop().await?;
    for (attack, place) in AT_REST {
        keep(&database)?;
        database.sql(attack)?;
        let said = server.refuses(&[]).await?;
        ensure!(said.contains("store.broken") && said.contains(place), "after `{attack}` it says: {said}");
        put_back(&database)?;
    }
    let mut slowest = Duration::ZERO;
    for (attack, place) in LIVE {
        server.start().await?;
        keep(&database)?;
        let began = Instant::now();
        database.sql(attack)?;
        let status = server.ended(Duration::from_secs(30)).await?;
        slowest = slowest.max(began.elapsed());
        let said = server.last_words();
        ensure!(!status.success(), "it ends as if nothing had happened after `{attack}`");
        ensure!(said.contains("store.") && said.contains(place), "after `{attack}` it says: {said}");
        put_back(&database)?;
    }
    server.start().await?;
    Ok(Report {
        value: slowest.as_secs_f64() * 1e3,
        unit: "ms",
        at_most: Some(1000.0),
        what: format!(
            "a running server stops after, at most; {} attacks at rest and {} on a running server, all refused and named",
            AT_REST.len(),
            LIVE.len()
        ),
    })
}

/// Keeps the tables as they are, where no server looks.
fn keep(database: &Postgres) -> Result<()> {
    database.sql(
        "CREATE SCHEMA kept; CREATE TABLE kept.head AS TABLE public.head; \
         CREATE TABLE kept.change AS TABLE public.change; CREATE TABLE kept.object AS TABLE public.object",
    )?;
    Ok(())
}

fn put_back(database: &Postgres) -> Result<()> {
    database.sql(
        "DELETE FROM object; DELETE FROM change; DELETE FROM head; INSERT INTO head TABLE kept.head; \
         INSERT INTO change TABLE kept.change; INSERT INTO object TABLE kept.object; \
         SET client_min_messages = error; DROP SCHEMA kept CASCADE",
    )?;
    Ok(())
}
