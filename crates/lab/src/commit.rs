//! `commit`: what a change costs the store, many at once and one at a time.

use std::time::{Duration, Instant};

use anyhow::Result;
use bonafide_crypto::{mac::MacKey, random::SystemRandom};
use bonafide_store::{Batch, Revision, SqliteStore, Store};

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
    let grouped = rounds(&store, GROUP, GROUPS).await?;
    let alone = rounds(&store, 1, ALONE).await?;
    Ok(Figure {
        name: "commit",
        value: grouped.cpu,
        unit: "µs",
        floor: None,
        ratio: None,
        target: Some(20.0),
        what: format!(
            "CPU time of a change in a group of {GROUP} on SQLite, {:.1} ms for the group on the disk; alone {:.0} µs and {:.1} ms",
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
