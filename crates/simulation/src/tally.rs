//! Latencies and errors, counted by all agents together.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;

/// Steps between one power of two and the next: values are known to about 1.5 percent.
const STEPS: u32 = 64;

/// What agents have seen so far.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Clone, Debug, Default)]
struct Counts {
    joins: Histogram,
    syncs: Histogram,
    first_svids: Histogram,
    renewals: Histogram,
    changes: Histogram,
    reconnects: u64,
    errors: BTreeMap<String, u64>,
}

/// One kind of what takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// From the first byte to the agent's SVID.
    Join,
    /// From the first byte of a connection to all registrations.
    Sync,
    /// From the request to the first SVID of an instance.
    FirstSvid,
    /// From the request to a renewed SVID.
    Renewal,
    /// From the call of an admin to the acknowledgement of an agent.
    Change,
}

/// Everything that was counted.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Joining: handshake, attestation, the agent's SVID.
    pub join: Latencies,
    /// Connecting: handshake, stream, all registrations.
    pub sync: Latencies,
    /// First SVIDs of instances.
    pub first_svid: Latencies,
    /// Renewals of SVIDs of workloads.
    pub renewal: Latencies,
    /// Changes, until one agent that needs it has acknowledged it.
    pub change: Latencies,
    /// Streams that were opened again.
    pub reconnects: u64,
    /// Refusals and failures, by code.
    pub errors: BTreeMap<String, u64>,
}

/// How long something took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latencies {
    /// How often it happened.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// All but one in a hundred took no longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Tally {
    pub(crate) fn record(&self, event: Event, took: Duration) {
        let mut counts = self.counts();
        let histogram = match event {
            Event::Join => &mut counts.joins,
            Event::Sync => &mut counts.syncs,
            Event::FirstSvid => &mut counts.first_svids,
            Event::Renewal => &mut counts.renewals,
            Event::Change => &mut counts.changes,
        };
        histogram.record(took);
    }

    pub(crate) fn error(&self, code: &str) {
        let mut counts = self.counts();
        match counts.errors.get_mut(code) {
            Some(count) => *count += 1,
            None => _ = counts.errors.insert(code.to_owned(), 1),
        }
    }

    pub(crate) fn reconnected(&self) {
        self.counts().reconnects += 1;
    }

    /// Forgets all that was counted, and says what it was.
    pub fn take(&self) -> Outcome {
        std::mem::take(&mut *self.counts()).into()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counters are whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Counts> for Outcome {
    fn from(counts: Counts) -> Self {
        Self {
            join: counts.joins.latencies(),
            sync: counts.syncs.latencies(),
            first_svid: counts.first_svids.latencies(),
            renewal: counts.renewals.latencies(),
            change: counts.changes.latencies(),
            reconnects: counts.reconnects,
            errors: counts.errors,
        }
    }
}

/// Counts of microseconds, in steps that grow with the value.
#[derive(Clone, Debug, Default)]
struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Histogram {
    fn record(&mut self, took: Duration) {
        let bin = bin(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= bin {
            self.counts.resize(bin + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bin) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(took);
    }

    fn latencies(&self) -> Latencies {
        let max_ms = self.max.as_secs_f64() * 1e3;
        Latencies {
            count: self.count,
            p50_ms: self.quantile(0.5).min(max_ms),
            p99_ms: self.quantile(0.99).min(max_ms),
            max_ms,
        }
    }

    /// In milliseconds.
    fn quantile(&self, part: f64) -> f64 {
        let wanted = (self.count as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bin, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return upper_end(bin) as f64 / 1e3;
            }
        }
        0.0
    }
}

fn bin(value: u64) -> usize {
    let steps = u64::from(STEPS);
    if value < steps {
        return value as usize;
    }
    let doublings = (value / steps).ilog2();
    let step = (value >> doublings) - steps;
    (steps * (u64::from(doublings) + 1) + step) as usize
}

/// The largest value of a bin.
fn upper_end(bin: usize) -> u64 {
    let steps = u64::from(STEPS);
    let (doublings, step) = (bin as u64 / steps, bin as u64 % steps);
    if doublings == 0 { step } else { ((steps + step + 1) << (doublings - 1)).saturating_sub(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_narrow_and_in_order() {
        let mut last = None;
        for value in (0..5000).chain([1 << 20, 1 << 40]) {
            let bin = bin(value);
            let end = upper_end(bin);
            assert!(end >= value && end - value <= value / u64::from(STEPS), "{value} in {bin} to {end}");
            assert!(last.is_none_or(|last| last <= bin));
            last = Some(bin);
        }
    }

    #[test]
    fn quantiles_of_a_hundred() {
        let tally = Tally::default();
        for millisecond in 1..=100 {
            tally.record(Event::Renewal, Duration::from_millis(millisecond));
        }
        tally.error("a.b");
        tally.error("a.b");
        let outcome = tally.take();
        let renewal = outcome.renewal;
        assert_eq!((renewal.count, renewal.max_ms), (100, 100.0));
        assert!((50.0..51.0).contains(&renewal.p50_ms), "{}", renewal.p50_ms);
        assert!((99.0..=100.0).contains(&renewal.p99_ms), "{}", renewal.p99_ms);
        assert_eq!(outcome.errors.get("a.b"), Some(&2));
        assert_eq!(tally.take().renewal, Latencies::default());
    }
}
