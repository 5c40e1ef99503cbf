//! `commit`, `commit-postgres`: what a change costs the store, many at once and one at a time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bonafide_crypto::{mac::MacKey, random::SystemRandom};
use bonafide_store::{Batch, PostgresAddress, PostgresStore, Revision, SqliteStore, Store};
use bonafide_testkit::Postgres;

use crate::{Options, clock::CpuClock, figure::Figure, pairs::median};

/// About what a registration has.
const VALUE: usize = 250;
/// A group of the registry is about so large under load.
const GROUP: usize = 256;
const GROUPS: usize = 60;
const ALONE: usize = 200;

/// The store of one server.
pub(crate) async fn figure(options: &Options) -> Result<Figure> {
    let directory = options.directory()?;
    let store = SqliteStore::open(
        directory.path().join("store.sqlite"),
        MacKey::from_bytes(&[7; 32]),
        &SystemRandom,
    )?;
    measure("commit", &store, "on SQLite").await
}

/// The store of several servers; `None`, and a word about it, if PostgreSQL is not installed.
pub(crate) async fn postgres_figure() -> Result<Option<Figure>> {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await? else { return Ok(None) };
    let address: PostgresAddress = server.database().url().parse().ok().context("an address")?;
    let key = MacKey::from_bytes(&[7; 32]);
    PostgresStore::create(&address, &key, &SystemRandom).await?;
    let store = PostgresStore::open(address, &key).await?;
    let figure = measure("commit-postgres", &store, "on PostgreSQL, its own work aside").await?;
    drop(store);
    tokio::task::spawn_blocking(move || drop(server)).await?;
    Ok(Some(figure))
}

async fn measure(name: &'static str, store: &dyn Store, on: &str) -> Result<Figure> {
    let grouped = rounds(store, GROUP, GROUPS).await?;
    let alone = rounds(store, 1, ALONE).await?;
    Ok(Figure {
        name,
        value: grouped.cpu,
        unit: "µs",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(20.0),
        what: format!(
            "CPU time of a change in a group of {GROUP} {on}, {:.1} ms for the group on the disk; alone {:.0} µs and {:.1} ms",
            grouped.wall.as_secs_f64() * 1e3,
            alone.cpu,
            alone.wall.as_secs_f64() * 1e3
        ),
    })
}

/// Medians.
struct Cost {
    /// Microseconds of each change.
    cpu: f64,
    /// Of each commit.
    wall: Duration,
}

async fn rounds(store: &dyn Store, group: usize, rounds: usize) -> Result<Cost> {
    let (mut cpu, mut wall) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for round in 0..rounds {
        let at = store.head().await?.revision;
        let batch = (0..group).fold(Batch::default(), |batch, number| {
            batch.put(format!("registration/{group}-{round}-{number}"), vec![7; VALUE])
        });
        let (began, clock) = (Instant::now(), CpuClock::process().now()?);
        let Revision(_) = store.commit(at, batch).await?;
        cpu.push((CpuClock::process().now()? - clock).as_secs_f64() * 1e6 / group as f64);
        wall.push(began.elapsed().as_secs_f64());
    }
    Ok(Cost { cpu: median(cpu), wall: Duration::from_secs_f64(median(wall)) })
}
