//! Token buckets: how often a site or a source address may ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Keys that one table remembers. Above it, buckets that are full again are forgotten; if none is, newcomers share
/// the fate of a full table and are refused.
const MAX_KEYS: usize = 65_536;
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What a bucket allows: `per_second` on average, `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Refill rate.
    pub per_second: u32,
    /// Capacity.
    pub burst: u32,
}

/// One table of buckets. Cheap: a hash look-up under a lock that is never held across an await.
#[derive(Debug)]
pub struct Rates<Key> {
    table: Mutex<Table<Key>>,
}

/// The bucket is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; the next one is welcome in {} s", .retry_after.as_secs().max(1))]
pub struct TooMany {
    /// When there will be room again.
    pub retry_after: Duration,
}

#[derive(Debug)]
struct Table<Key> {
    buckets: HashMap<Key, Bucket>,
    swept_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl Limit {
    /// `per_second`, with a burst of two seconds' worth.
    pub fn per_second(per_second: u32) -> Self {
        Self { per_second, burst: per_second.saturating_mul(2) }
    }
}

impl<Key: Eq + Hash + Clone> Rates<Key> {
    /// An empty table.
    pub fn new() -> Self {
        Self { table: Mutex::new(Table { buckets: HashMap::new(), swept_at: None }) }
    }

    /// Takes one token of `key`'s bucket.
    pub fn take<Borrowed>(&self, key: &Borrowed, limit: Limit, now: Instant) -> Result<(), TooMany>
    where
        Key: std::borrow::Borrow<Borrowed>,
        Borrowed: Eq + Hash + ToOwned<Owned = Key> + ?Sized,
    {
        self.charge(key, 1, limit, now)
    }

    /// Takes `cost` tokens of `key`'s bucket, if there is one. What it does not have it owes: what is larger than the
    /// bucket passes too, and is paid for afterwards.
    pub fn charge<Borrowed>(
        &self,
        key: &Borrowed,
        cost: u32,
        limit: Limit,
        now: Instant,
    ) -> Result<(), TooMany>
    where
        Key: std::borrow::Borrow<Borrowed>,
        Borrowed: Eq + Hash + ToOwned<Owned = Key> + ?Sized,
    {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = table.buckets.get_mut(key) {
            return bucket.take(cost, limit, now);
        }
        if table.buckets.len() >= MAX_KEYS && !table.sweep(limit, now) {
            return Err(TooMany { retry_after: SWEEP_EVERY });
        }
        let mut bucket = Bucket { tokens: f64::from(limit.burst), filled_at: now };
        let taken = bucket.take(cost, limit, now);
        table.buckets.insert(key.to_owned(), bucket);
        taken
    }
}

impl<Key: Eq + Hash + Clone> Default for Rates<Key> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Key> Table<Key> {
    /// Forgets full buckets; says whether there is room now. Not more often than once a second: under a flood of
    /// new keys each of them would pay for the whole table.
    fn sweep(&mut self, limit: Limit, now: Instant) -> bool {
        if self.swept_at.is_some_and(|swept_at| now.saturating_duration_since(swept_at) < SWEEP_EVERY) {
            return false;
        }
        self.swept_at = Some(now);
        self.buckets.retain(|_, bucket| !bucket.is_full(limit, now));
        self.buckets.len() < MAX_KEYS
    }
}

impl Bucket {
    fn take(&mut self, cost: u32, limit: Limit, now: Instant) -> Result<(), TooMany> {
        self.tokens = self.level(limit, now);
        self.filled_at = now;
        if self.tokens >= 1.0 {
            self.tokens -= f64::from(cost);
            return Ok(());
        }
        let missing = 1.0 - self.tokens;
        let seconds = if limit.per_second == 0 { 60.0 } else { missing / f64::from(limit.per_second) };
        Err(TooMany { retry_after: Duration::from_secs_f64(seconds) })
    }

    fn level(&self, limit: Limit, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        (self.tokens + elapsed * f64::from(limit.per_second)).min(f64::from(limit.burst))
    }

    fn is_full(&self, limit: Limit, now: Instant) -> bool {
        self.level(limit, now) >= f64::from(limit.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let rates = Rates::<String>::new();
        let start = Instant::now();
        let limit = Limit { per_second: 10, burst: 20 };
        let taken = (0..100).filter(|_| rates.take("x", limit, start).is_ok()).count();
        assert_eq!(taken, 20);
        let later = start + Duration::from_secs(1);
        let taken = (0..100).filter(|_| rates.take("x", limit, later).is_ok()).count();
        assert_eq!(taken, 10);
        assert!(rates.take("y", limit, start).is_ok(), "keys don't share");
    }

    #[test]
    fn the_wait_that_is_named_suffices() {
        let rates = Rates::<String>::new();
        let mut now = Instant::now();
        let limit = Limit { per_second: 3, burst: 1 };
        rates.take("x", limit, now).unwrap();
        for _ in 0..50 {
            let wait = rates.take("x", limit, now).unwrap_err().retry_after;
            now += wait + Duration::from_micros(1);
            rates.take("x", limit, now).unwrap();
        }
    }

    #[test]
    fn what_costs_more_is_welcome_less_often() {
        let rates = Rates::<String>::new();
        let mut now = Instant::now();
        let limit = Limit { per_second: 10, burst: 20 };
        let start = now;
        for _ in 0..10 {
            if let Err(TooMany { retry_after }) = rates.charge("x", 100, limit, now) {
                now += retry_after + Duration::from_micros(1);
                rates.charge("x", 100, limit, now).unwrap();
            }
        }
        // The first is paid with the burst, and nine times a hundred had to come in.
        assert!((80..=90).contains(&(now - start).as_secs()), "{:?}", now - start);
    }

    #[test]
    fn a_flood_of_keys_does_not_grow_the_table_for_ever() {
        let rates = Rates::<u32>::new();
        let start = Instant::now();
        let limit = Limit { per_second: 1, burst: 2 };
        let accepted = (0..100_000_u32).filter(|key| rates.take(key, limit, start).is_ok()).count();
        assert_eq!(accepted, MAX_KEYS);
        assert!(
            rates.take(&100_001, limit, start + Duration::from_secs(10)).is_ok(),
            "full buckets are forgotten"
        );
    }
}
