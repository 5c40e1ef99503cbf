//! CPU time of one match at a million entries: about 20 attested selectors, one selector on a third of all entries.
//! `cargo bench -p bonafide-attest --bench matcher [entries]`
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark, not a library"
)]

use std::{hint::black_box, time::Instant};

use bonafide_attest::{Selector, SelectorSet, matcher::SubsetIndex};

/// xorshift64*: the same entries in every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    /// Small numbers are much more frequent.
    fn skewed(&mut self, bound: u64) -> u64 {
        let first = self.below(bound) + 1;
        self.below(first)
    }
}

fn selector(key: &str, value: u64) -> Selector {
    Selector::new(key, &value.to_string()).unwrap()
}

fn main() {
    let entries: u64 =
        std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let mut index = SubsetIndex::new();
    let start = Instant::now();
    for id in 0..entries {
        let mut own =
            vec![selector("k8s.ns", rng.skewed(4000)), selector("k8s.sa", rng.below(entries / 8 + 1))];
        if rng.below(3) == 0 {
            own.push(selector("k8s.cluster", 1));
        }
        index.insert(id, &SelectorSet::collect(own).unwrap()).unwrap();
    }
    let build = start.elapsed();
    let workloads: Vec<SelectorSet> = (0..10_000)
        .map(|_| {
            let mut own = vec![
                selector("k8s.ns", rng.skewed(4000)),
                selector("k8s.sa", rng.below(entries / 8 + 1)),
                selector("k8s.cluster", 1),
            ];
            own.extend((0..17).map(|n| selector(&format!("pod.label{n}"), rng.below(1000))));
            SelectorSet::collect(own).unwrap()
        })
        .collect();
    let rounds = 20;
    let mut found = 0;
    let start = Instant::now();
    for _ in 0..rounds {
        for workload in &workloads {
            index.for_each_match(black_box(workload), |_| found += 1);
        }
    }
    let per_match = start.elapsed().as_secs_f64() * 1e6 / (rounds * workloads.len()) as f64;
    println!(
        "{entries} entries: built in {:.2} s, {per_match:.2} us per match with interning of 20 selectors, \
         {found} found, longest posting {}",
        build.as_secs_f64(),
        index.longest_posting(),
    );
}
