//! `postgres-…`: the database of two servers is killed, fails over, gets slow, or can be heard no more.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use super::{
    admin::{Operator, entry, refused},
    case::{Case, Report, Stage, between},
    issuing::Issuing,
    postgres::{Postgres, url},
    proxy::{Proxy, Weather},
    server::{PATIENCE, Server, Settings},
    writers::Writers,
};
use crate::pairs::quantile;

pub(crate) const KILLED: Case = Case {
    name: "postgres-killed",
    fault: "kill -9 of PostgreSQL under writes, and it is started again",
    promise: "nothing acknowledged is lost, nothing half-applied; certificates are issued meanwhile; both servers \
              go on by themselves",
    short: true,
    run: |stage| Box::pin(killed(stage)),
};

pub(crate) const FAILED_OVER: Case = Case {
    name: "postgres-failed-over",
    fault: "the primary dies, and a standby that lacks the last writes takes over",
    promise: "every server stops rather than go on with a store that forgot what it knew; once one is told to \
              accept it, both work",
    short: true,
    run: |stage| Box::pin(failed_over(stage)),
};

pub(crate) const SLOW: Case = Case {
    name: "postgres-slow",
    fault: "each answer of PostgreSQL comes 300 ms late",
    promise: "writes are slow, and go on in groups; certificates are issued as fast as before",
    short: true,
    run: |stage| Box::pin(slow(stage)),
};

pub(crate) const ONE_WAY: Case = Case {
    name: "postgres-one-way",
    fault: "PostgreSQL hears a server, and its answers get lost",
    promise: "a write is refused or its outcome is said to be unknown within a minute; certificates are issued \
              meanwhile; the server goes on by itself; nothing acknowledged is lost",
    short: false,
    run: |stage| Box::pin(one_way(stage)),
};

/// Certificates that are issued while there is no database.
const ISSUED: usize = 50;

/// Two servers on one database, a node at the first one, and writers at both.
struct Pair {
    a: Server,
    b: Server,
    issuing: Issuing,
    at_a: Writers,
    at_b: Writers,
}

impl Pair {
    async fn start(stage: &Stage, store: &str) -> Result<Self> {
        let settings = Settings { name: Some("a"), store: Some(store), ..Settings::default() };
        let mut a = Server::init(stage, &settings).await?;
        a.start().await?;
        let mut operator = Operator(a.admin().await?);
        operator.put_site(3600).await?;
        let beside = Settings { name: Some("b"), beside: Some(&a), ..settings };
        let mut b = Server::init(stage, &beside).await?;
        b.start().await?;
        let issuing = Issuing::join(&mut operator).await?;
        Ok(Self { a, b, issuing, at_a: Writers::named("a", 4), at_b: Writers::named("b", 4) })
    }

    async fn operators(&self) -> Result<(Operator, Operator)> {
        Ok((Operator(self.a.admin().await?), Operator(self.b.admin().await?)))
    }

    /// Waits until both write again; how long that took.
    async fn both_write(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let (a, b) = self.operators().await?;
        loop {
            let (of_a, of_b) = tokio::join!(self.at_a.write_once(&a), self.at_b.write_once(&b));
            if of_a.is_empty() && of_b.is_empty() {
                return Ok(began.elapsed());
            }
            let words = || (self.a.last_words(), self.b.last_words());
            ensure!(
                began.elapsed() < 2 * PATIENCE,
                "the servers do not go on: {of_a:?} {of_b:?} {:?}",
                words()
            );
        }
    }

    /// What was acknowledged by either is known to both.
    async fn check(&mut self) -> Result<()> {
        let (mut a, mut b) = self.operators().await?;
        let last = a.revision().await?.max(b.revision().await?);
        let began = Instant::now();
        while a.revision().await? < last || b.revision().await? < last {
            ensure!(began.elapsed() < PATIENCE, "one server does not follow the other one");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.at_a.check(&mut b).await?;
        self.at_b.check(&mut a).await?;
        self.at_a.check(&mut a).await?;
        self.at_b.check(&mut b).await
    }

    fn total(&self) -> u64 {
        self.at_a.total() + self.at_b.total()
    }
}

async fn killed(stage: &Stage) -> Result<Report> {
    let rounds = stage.times(10, 2);
    let mut database = Postgres::primary()?;
    database.start().await?;
    let mut pair = Pair::start(stage, &url(&[database.address()])).await?;
    let mut recoveries = Vec::new();
    for _ in 0..rounds {
        let (a, b) = pair.operators().await?;
        let moment = between(Duration::from_millis(50), Duration::from_millis(500));
        let enough = AtomicBool::new(false);
        let kill = async {
            tokio::time::sleep(moment).await;
            database.kill()?;
            for _ in 0..ISSUED {
                pair.issuing.issue().await?.map_err(refused)?;
            }
            database.start().await?;
            anyhow::Ok(Instant::now())
        };
        let kill = async {
            let answers = kill.await;
            enough.store(true, Ordering::Relaxed);
            answers
        };
        // Whose write is under way is told what became of it, once somebody knows.
        let ((), (), answers) =
            tokio::join!(pair.at_a.write_until(&a, &enough), pair.at_b.write_until(&b, &enough), kill);
        let answers = answers?;
        pair.both_write().await?;
        recoveries.push(answers.elapsed().as_secs_f64());
        pair.check().await?;
    }
    for server in [&mut pair.a, &mut pair.b] {
        server.stop().await?;
    }
    pair.issuing.check_logged(pair.a.data())?;
    Ok(Report {
        value: quantile(recoveries, 1.0),
        unit: "s",
        at_most: Some(15.0),
        what: format!(
            "PostgreSQL answers → both servers write, at most; {rounds} kills, {} writes acknowledged, 0 lost; {} certificates issued without it",
            pair.total(),
            rounds * ISSUED
        ),
    })
}

async fn failed_over(stage: &Stage) -> Result<Report> {
    let mut primary = Postgres::primary()?;
    primary.start().await?;
    let mut standby = Postgres::standby_of(&primary)?;
    standby.start().await?;
    let mut pair = Pair::start(stage, &url(&[primary.address(), standby.address()])).await?;
    pair.both_write().await?;
    // The standby hears of nothing more.
    let caught_up = Instant::now();
    while standby.sql("SELECT pg_last_wal_replay_lsn()")? != primary.sql("SELECT pg_current_wal_lsn()")? {
        ensure!(caught_up.elapsed() < PATIENCE, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    standby.kill()?;
    let mut lost = 0;
    let (mut a, mut b) = pair.operators().await?;
    for number in 0..20 {
        let id = format!("lost-{number}");
        a.put(entry(&id, &[("unix.user", "lost")])).await.map_err(refused)?;
        lost += 1;
    }
    let last = a.revision().await?;
    while b.revision().await? < last {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    primary.kill()?;
    standby.start().await?;
    standby.promote()?;
    let mut said = Vec::new();
    for server in [&mut pair.a, &mut pair.b] {
        let status = server.ended(2 * PATIENCE).await?;
        ensure!(!status.success(), "a server ended as if nothing had happened");
        said.push(server.last_words());
    }
    let stopped = began.elapsed();
    ensure!(said.iter().all(|said| said.contains("store.went-back")), "they do not say why: {said:?}");
    for server in [&mut pair.a, &mut pair.b] {
        let said = server.refuses(&[]).await?;
        ensure!(said.contains("store.rolled-back") && said.contains("--accept-restore"), "it says: {said}");
    }
    let began = Instant::now();
    pair.a.spawn(&["--accept-restore"])?;
    pair.a.serving(began).await?;
    pair.b.start().await?;
    pair.both_write().await?;
    pair.check().await?;
    let (mut a, _) = pair.operators().await?;
    let there = a.registrations().await?;
    ensure!(there.keys().all(|id| !id.starts_with("lost-")), "the lost tail came back");
    Ok(Report {
        value: stopped.as_secs_f64(),
        unit: "s",
        at_most: Some(30.0),
        what: format!("primary dead → both servers have stopped, and say that {lost} writes are missing"),
    })
}

async fn slow(stage: &Stage) -> Result<Report> {
    let mut database = Postgres::primary()?;
    database.start().await?;
    let proxy = Proxy::start(database.address()).await?;
    let mut pair = Pair::start(stage, &url(&[proxy.address()])).await?;
    pair.both_write().await?;
    let delay = Duration::from_millis(300);
    let before = issue_some(&mut pair.issuing).await?;
    proxy.set(Weather { delay, ..Weather::default() });
    let began = Instant::now();
    let total = pair.total();
    let rounds = stage.times(10, 2);
    let mut during = Vec::new();
    for _ in 0..rounds {
        let (a, b) = pair.operators().await?;
        let (of_a, of_b, issued) =
            tokio::join!(pair.at_a.write_once(&a), pair.at_b.write_once(&b), issue_some(&mut pair.issuing));
        ensure!(of_a.is_empty() && of_b.is_empty(), "writes fail: {of_a:?} {of_b:?}");
        during.push(issued?);
    }
    let rate = (pair.total() - total) as f64 / began.elapsed().as_secs_f64();
    proxy.set(Weather::default());
    pair.both_write().await?;
    pair.check().await?;
    let ratio = quantile(during, 0.5) / before;
    Ok(Report {
        value: ratio,
        unit: "×",
        at_most: Some(2.0),
        what: format!(
            "median time of a certificate, to before; {rate:.0} writes a second went on through two servers"
        ),
    })
}

/// Typical milliseconds of a certificate.
async fn issue_some(issuing: &mut Issuing) -> Result<f64> {
    let mut took = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        issuing.issue().await?.map_err(refused)?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(quantile(took, 0.5))
}

async fn one_way(stage: &Stage) -> Result<Report> {
    let mut database = Postgres::primary()?;
    database.start().await?;
    let proxy = Proxy::start(database.address()).await?;
    let mut pair = Pair::start(stage, &url(&[proxy.address()])).await?;
    pair.both_write().await?;
    proxy.set(Weather { swallow_answers: true, ..Weather::default() });
    let began = Instant::now();
    let (a, _) = pair.operators().await?;
    let writes = tokio::time::timeout(Duration::from_secs(60), pair.at_a.write_once(&a));
    let issues = async {
        for _ in 0..50 {
            pair.issuing.issue().await?.map_err(refused)?;
        }
        anyhow::Ok(())
    };
    let (refusals, issued) = tokio::join!(writes, issues);
    issued?;
    let Ok(refusals) = refusals else { bail!("a write hangs for more than a minute") };
    let took = began.elapsed();
    ensure!(!refusals.is_empty(), "a write succeeds although nobody can say so");
    ensure!(refusals.iter().all(|problem| !problem.hint.is_empty()), "a refusal has no hint: {refusals:?}");
    proxy.set(Weather::default());
    let back = pair.both_write().await?;
    pair.check().await?;
    Ok(Report {
        value: took.as_secs_f64(),
        unit: "s",
        at_most: Some(60.0),
        what: format!(
            "until a write is refused, with `{}`; certificates were issued meanwhile; both servers write {:.1} s after it is over",
            refusals.first().map_or("", |problem| problem.code.as_str()),
            back.as_secs_f64()
        ),
    })
}
