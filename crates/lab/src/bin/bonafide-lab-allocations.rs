//! Prints how often a decision takes memory, on average: a program of its own, because its allocator counts.

#[path = "../decide/workload.rs"]
mod workload;

use std::{alloc::System, hint::black_box, io::Write as _};

use anyhow::{Result, ensure};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use self::workload::Workload;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> Result<()> {
    let workloads = [Workload::mixed(10_000)?, Workload::grid(10_000)?, Workload::shared_prefix(10_000)?];
    let (mut decisions, mut taken) = (0_u64, 0_usize);
    for workload in &workloads {
        let (snapshot, loaded, edited) = (workload.snapshot()?, workload.load()?, workload.reload()?);
        ensure!(snapshot.len() == loaded.len() && snapshot.len() == edited.len(), "rules were lost");
        let requests: Vec<_> = workload.requests.iter().map(|scenario| scenario.request()).collect();
        let region = Region::new(ALLOCATOR);
        for request in &requests {
            black_box(snapshot.decide(black_box(request)));
        }
        let change = region.change();
        taken += change.allocations + change.reallocations;
        decisions += requests.len() as u64;
    }
    writeln!(std::io::stdout(), "{}", taken as f64 / decisions as f64)?;
    Ok(())
}
