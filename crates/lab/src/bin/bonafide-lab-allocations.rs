//! Prints how often a decision takes memory, on average: a program of its own, because its allocator counts.

#[path = "../decide/workload.rs"]
mod workload;

use std::{alloc::System, hint::black_box, io::Write as _};

use anyhow::Result;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> Result<()> {
    let workload = workload::Workload::mixed(10_000)?;
    let snapshot = workload.snapshot()?;
    // As many as the figures use, but the first of all may make something once.
    black_box(workload.load()?.len() + workload.reload()?.len());
    let region = Region::new(ALLOCATOR);
    let mut count = 0_u64;
    for scenario in &workload.requests {
        black_box(snapshot.decide(black_box(&scenario.request())));
        count += 1;
    }
    let change = region.change();
    let taken = (change.allocations + change.reallocations) as f64 / count as f64;
    writeln!(std::io::stdout(), "{taken}")?;
    Ok(())
}
