//! `ledger-append`: the CPU time of making an entry durable, many at once.

use std::{sync::Arc, time::Instant};

use anyhow::Result;
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_ledger::{Ledger, LedgerConfig};
use tokio::task::JoinSet;

use crate::{Options, clock::CpuClock, figure::Figure, pairs::median};

const IN_FLIGHT: u64 = 64;
const PER_TASK: u64 = 200;
const ROUNDS: usize = 9;

pub(crate) async fn figure(options: &Options) -> Result<Figure> {
    let directory = options.directory()?;
    let signer = Arc::new(PrivateKey::generate(KeyAlgorithm::Ed25519)?);
    let config = LedgerConfig { origin: "lab.example/ledger".to_owned() };
    let ledger = Arc::new(Ledger::open(directory.path().join("ledger"), config, signer)?);
    let mut rounds = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (cpu, wall) = (CpuClock::process().now()?, Instant::now());
        let mut tasks = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let ledger = Arc::clone(&ledger);
            tasks.spawn(async move {
                for entry in 0..PER_TASK {
                    ledger.append(vec![entry as u8; 300]).await?;
                }
                anyhow::Ok(())
            });
        }
        tasks.join_all().await.into_iter().collect::<Result<()>>()?;
        let count = (IN_FLIGHT * PER_TASK) as f64;
        rounds.push((CpuClock::process().now()? - cpu).as_secs_f64() * 1e6 / count);
        rates.push(count / wall.elapsed().as_secs_f64());
    }
    Ok(Figure {
        name: "ledger-append",
        value: median(rounds),
        unit: "µs",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(3.0),
        what: format!("entry of 300 bytes on the disk, {IN_FLIGHT} callers, {:.0}/s", median(rates)),
    })
}
