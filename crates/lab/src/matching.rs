//! `match-1m`: which of a million entries match what was attested of a workload.

use std::hint::black_box;

use anyhow::Result;
use bonafide_attest::{Selector, SelectorSet, matcher::SubsetIndex};

use crate::{clock::CpuClock, figure::Figure, pairs::median};

const ENTRIES: u64 = 1_000_000;
const NAMESPACES: u64 = 4000;
const WORKLOADS: usize = 10_000;
const ROUNDS: usize = 21;

pub(crate) fn figure() -> Result<Figure> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let namespaces = Zipf::new(NAMESPACES);
    let mut index = SubsetIndex::new();
    let mut launched = Vec::with_capacity(WORKLOADS);
    for id in 0..ENTRIES {
        let own = own(&mut numbers, &namespaces)?;
        index.insert(id, &SelectorSet::collect(own.iter().cloned())?)?;
        if id % (ENTRIES / WORKLOADS as u64) == 0 {
            launched.push(own);
        }
    }
    // About twenty selectors each, as strings: interning them is a part of the work.
    let workloads = launched
        .into_iter()
        .map(|mut selectors| {
            selectors.push(selector("k8s.cluster", 1)?);
            for label in 0..17 {
                selectors.push(selector(&format!("pod.label{label}"), numbers.below(1000))?);
            }
            Ok(SelectorSet::collect(selectors)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut found = 0_u64;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = CpuClock::thread().now()?;
        for workload in &workloads {
            index.for_each_match(black_box(workload), |_| found += 1);
        }
        rounds.push((CpuClock::thread().now()? - start).as_secs_f64() * 1e6 / WORKLOADS as f64);
    }
    Ok(Figure {
        name: "match-1m",
        value: median(rounds),
        unit: "µs",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(2.0),
        what: format!("match of 20 selectors, {:.1} of a million entries found", {
            found as f64 / (ROUNDS * WORKLOADS) as f64
        }),
    })
}

/// A namespace by Zipf's law, an account, and on a third of all the one selector that all workloads have.
fn own(numbers: &mut Numbers, namespaces: &Zipf) -> Result<Vec<Selector>> {
    let mut selectors =
        vec![selector("k8s.ns", namespaces.draw(numbers))?, selector("k8s.sa", numbers.below(ENTRIES / 7))?];
    if numbers.below(10) < 3 {
        selectors.push(selector("k8s.cluster", 1)?);
    }
    Ok(selectors)
}

fn selector(key: &str, value: u64) -> Result<Selector> {
    Ok(Selector::new(key, &value.to_string())?)
}

/// xorshift64*: the same entries in every run.
struct Numbers(u64);

impl Numbers {
    const fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// Of `n` things the k-th is k times rarer than the first.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: u64) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=n)
                .map(|k| {
                    sum += 1.0 / k as f64;
                    sum
                })
                .collect(),
        )
    }

    fn draw(&self, numbers: &mut Numbers) -> u64 {
        let total = self.0.last().copied().unwrap_or_default();
        let at = numbers.below(1 << 50) as f64 / (1_u64 << 50) as f64 * total;
        self.0.partition_point(|sum| *sum < at) as u64
    }
}
