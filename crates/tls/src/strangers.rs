//! Peers that have not shown who they are: how many there may be, of one place and at all, and who goes when there are
//! too many.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{TlsLimits, ending::Ending};

/// A handshake takes less. Whoever is a stranger for longer gives way to others when there are too many.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sources whose rate is remembered. Above it, those that were quiet are forgotten; if none was, newcomers are refused.
const MAX_SOURCES: usize = 65_536;
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Counts the connections whose peers have shown no certificate.
#[derive(Debug)]
pub(crate) struct Strangers {
    limits: TlsLimits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By source, and in the order in which they came.
    open: HashMap<IpAddr, BTreeMap<u64, Open>>,
    count: usize,
    last: u64,
    rates: HashMap<IpAddr, Bucket>,
    swept_at: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    ending: Arc<Ending<GaveWay>>,
}

/// What a source may still begin.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

/// One connection that is counted, until this is dropped.
#[derive(Debug)]
pub(crate) struct Stranger {
    strangers: Arc<Strangers>,
    source: IpAddr,
    number: u64,
    ending: Arc<Ending<GaveWay>>,
}

/// Why a stranger's connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it gave way to others, having shown no certificate")]
pub(crate) struct GaveWay;

/// Why a stranger is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Crowded {
    #[error("too many connections without a certificate")]
    Everywhere,
    #[error("its source begins too many connections that show no certificate")]
    Rate,
    #[error("too many connections without a certificate from its source")]
    Source,
}

impl Strangers {
    pub(crate) fn new(limits: TlsLimits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default() })
    }

    /// Counts one more, unless there are as many as may be. Where all places are taken, a source that has more of them
    /// than the newcomer's loses its oldest connection; so do those who are strangers for too long.
    ///
    /// # Errors
    /// [`Crowded`]
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Stranger, Crowded> {
        let source = source(address);
        let mut table = self.table();
        let own = table.open.get(&source).map_or(0, BTreeMap::len);
        if own >= self.limits.strangers_per_source {
            return Err(Crowded::Source);
        }
        table.take(source, &self.limits, now)?;
        if table.count >= self.limits.strangers {
            table.make_room(source, now)?;
        }
        table.last += 1;
        table.count += 1;
        let (number, ending) = (table.last, Arc::new(Ending::new()));
        let open = Open { since: now, ending: Arc::clone(&ending) };
        table.open.entry(source).or_default().insert(number, open);
        Ok(Stranger { strangers: Arc::clone(self), source, number, ending })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    /// Ends when it has to give way.
    pub(crate) fn ending(&self) -> &Ending<GaveWay> {
        &self.ending
    }

    /// It is none any more; that it came counts for nothing.
    pub(crate) fn verified(self) {
        if let Some(bucket) = self.strangers.table().rates.get_mut(&self.source) {
            bucket.tokens += 1.0;
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.table().remove(self.source, self.number);
    }
}

impl Table {
    fn take(&mut self, source: IpAddr, limits: &TlsLimits, now: Instant) -> Result<(), Crowded> {
        if !self.rates.contains_key(&source) && self.rates.len() >= MAX_SOURCES && !self.sweep(limits, now) {
            return Err(Crowded::Rate);
        }
        let bucket = self.rates.entry(source).or_insert_with(|| Bucket::full(limits, now));
        bucket.fill(limits, now);
        if bucket.tokens < 1.0 {
            return Err(Crowded::Rate);
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// Forgets sources that were quiet; says whether there is room now. Under a flood of new sources each of them would
    /// otherwise pay for the whole table.
    fn sweep(&mut self, limits: &TlsLimits, now: Instant) -> bool {
        if self.swept_at.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_EVERY) {
            return false;
        }
        self.swept_at = Some(now);
        self.rates.retain(|_, bucket| {
            bucket.fill(limits, now);
            bucket.tokens < Bucket::capacity(limits)
        });
        self.rates.len() < MAX_SOURCES
    }

    /// For one of this source. Networks have equal rights, and within each of them, sources: who has many addresses side by
    /// side is one.
    fn make_room(&mut self, newcomer: IpAddr, now: Instant) -> Result<(), Crowded> {
        let mut networks: HashMap<IpAddr, usize> = HashMap::new();
        for (source, open) in &self.open {
            *networks.entry(network(*source)).or_default() += open.len();
        }
        let home = network(newcomer);
        let own = networks.get(&home).copied().unwrap_or_default();
        let (most, largest) =
            networks.iter().map(|(network, count)| (*count, *network)).max().ok_or(Crowded::Everywhere)?;
        let crowded = if own == most { home } else { largest };
        let of_source = |(source, open): (&IpAddr, &BTreeMap<u64, Open>)| {
            let (number, oldest) = open.first_key_value().filter(|_| network(*source) == crowded)?;
            Some((open.len(), std::cmp::Reverse(*number), *source, oldest.since))
        };
        let largest = self.open.iter().filter_map(of_source).max();
        let (count, number, source, since) = largest.ok_or(Crowded::Everywhere)?;
        let (theirs, own) = if crowded == home {
            (count, self.open.get(&newcomer).map_or(0, BTreeMap::len))
        } else {
            (most, own)
        };
        // Not for an equal: of many who come at once, each would end the one before it.
        if theirs <= own + 1 && now.saturating_duration_since(since) < PATIENCE {
            return Err(Crowded::Everywhere);
        }
        if let Some(open) = self.remove(source, number.0) {
            open.ending.end(GaveWay);
        }
        Ok(())
    }

    fn remove(&mut self, source: IpAddr, number: u64) -> Option<Open> {
        let open = self.open.get_mut(&source)?;
        let removed = open.remove(&number)?;
        if open.is_empty() {
            self.open.remove(&source);
        }
        self.count -= 1;
        Some(removed)
    }
}

impl Bucket {
    fn full(limits: &TlsLimits, now: Instant) -> Self {
        Self { tokens: Self::capacity(limits), filled_at: now }
    }

    /// As many as may be open: who comes with that many does not wait.
    fn capacity(limits: &TlsLimits) -> f64 {
        f64::from(u32::try_from(limits.strangers_per_source).unwrap_or(u32::MAX))
    }

    fn fill(&mut self, limits: &TlsLimits, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        let filled = self.tokens + elapsed * f64::from(limits.strangers_per_second);
        (self.tokens, self.filled_at) = (filled.min(Self::capacity(limits)), now);
    }
}

/// What one party has: an IPv4 address, or the /64 of an IPv6 address, in which it may choose freely.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// What one party can easily have many sources of: an IPv4 /24, an IPv6 /48.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(address) => std::net::Ipv4Addr::from_bits(address.to_bits() & !0xff).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 48)).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: TlsLimits = TlsLimits {
        connections: 100,
        connections_per_peer: 10,
        strangers: 4,
        strangers_per_source: 3,
        strangers_per_second: 1_000_000,
    };

    fn has_ended(stranger: &Stranger) -> bool {
        stranger.ending().why().is_some()
    }

    #[tokio::test]
    async fn a_source_has_its_share_and_gets_it_back() {
        let strangers = Strangers::new(TlsLimits { strangers: 100, strangers_per_source: 2, ..LIMITS });
        let mut now = Instant::now();
        let mut enter = |address: &str| {
            now += Duration::from_millis(1);
            strangers.enter(address.parse().unwrap(), now)
        };
        let both = (enter("192.0.2.1").unwrap(), enter("::ffff:192.0.2.1").unwrap());
        assert_eq!(enter("192.0.2.1").unwrap_err(), Crowded::Source);
        assert!(enter("192.0.2.2").is_ok());
        drop(both);
        assert!(enter("192.0.2.1").is_ok());
        let both = (enter("2001:db8::1").unwrap(), enter("2001:db8:0:0:ffff::1").unwrap());
        assert_eq!(enter("2001:db8::2").unwrap_err(), Crowded::Source);
        assert!(enter("2001:db8:0:1::1").is_ok());
        drop(both);
        assert!(strangers.table().open.is_empty());
        assert_eq!(strangers.table().count, 0);
    }

    #[tokio::test]
    async fn who_has_many_gives_way_to_who_has_few() {
        let strangers = Strangers::new(LIMITS);
        let now = Instant::now();
        let enter = |last: u8| strangers.enter([192, 0, 2, last].into(), now);
        let first: Vec<_> = (0..3).map(|_| enter(1).unwrap()).collect();
        let second = enter(2).unwrap();
        let third = enter(3).unwrap();
        assert_eq!(first.iter().map(has_ended).collect::<Vec<_>>(), [true, false, false], "the oldest");
        // Now the first has two, and all others one: nobody has more than a newcomer of theirs would.
        assert_eq!(enter(2).unwrap_err(), Crowded::Everywhere);
        let fourth = enter(4).unwrap();
        assert_eq!(first.iter().map(has_ended).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(enter(5).unwrap_err(), Crowded::Everywhere, "equals don't end each other");
        drop(first);
        let fifth = enter(5).unwrap();
        assert!(![second, third, fourth, fifth].iter().any(has_ended));
        assert_eq!(strangers.table().count, 0);
    }

    /// One party has as many addresses as there are places, side by side.
    #[tokio::test]
    async fn a_network_of_many_sources_is_one() {
        for (theirs, ours) in [
            (["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"], ["198.51.100.1", "198.51.100.2"]),
            (
                ["2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1"],
                ["2001:db8:1::1", "192.0.2.1"],
            ),
        ] {
            let strangers = Strangers::new(LIMITS);
            let now = Instant::now();
            let enter = |address: &str| strangers.enter(address.parse().unwrap(), now);
            let flood: Vec<_> = theirs.iter().map(|address| enter(address).unwrap()).collect();
            let welcome: Vec<_> = ours.iter().map(|address| enter(address).unwrap()).collect();
            assert_eq!(flood.iter().map(has_ended).collect::<Vec<_>>(), [true, true, false, false]);
            assert!(!welcome.iter().any(has_ended));
            assert_eq!(enter(theirs[0]).unwrap_err(), Crowded::Everywhere);
        }
    }

    #[tokio::test]
    async fn strangers_for_long_give_way_to_anybody() {
        let strangers = Strangers::new(LIMITS);
        let began = Instant::now();
        let enter = |last: u8, at| strangers.enter([192, 0, 2, last].into(), at);
        let all: Vec<_> = (0..4).map(|last| enter(last, began).unwrap()).collect();
        assert_eq!(enter(9, began + PATIENCE / 2).unwrap_err(), Crowded::Everywhere);
        let _late = enter(9, began + PATIENCE).unwrap();
        assert_eq!(all.iter().map(has_ended).collect::<Vec<_>>(), [true, false, false, false]);
    }

    #[tokio::test]
    async fn a_source_pays_for_those_who_stay_strangers() {
        let limits = TlsLimits { strangers_per_source: 2, strangers_per_second: 10, ..LIMITS };
        let strangers = Strangers::new(limits);
        let now = Instant::now();
        let enter = |now| strangers.enter([192, 0, 2, 1].into(), now);
        for _ in 0..100 {
            enter(now).unwrap().verified();
        }
        drop((enter(now).unwrap(), enter(now).unwrap()));
        assert_eq!(enter(now).unwrap_err(), Crowded::Rate);
        assert!(strangers.enter([192, 0, 2, 2].into(), now).is_ok(), "sources don't share");
        assert!(enter(now + Duration::from_millis(100)).is_ok());
        assert_eq!(enter(now + Duration::from_millis(100)).unwrap_err(), Crowded::Rate);
    }

    #[tokio::test]
    async fn a_flood_of_sources_does_not_grow_the_table_for_ever() {
        let strangers = Strangers::new(TlsLimits { strangers_per_second: 1, ..LIMITS });
        let now = Instant::now();
        let enter = |number: u32, now| strangers.enter(std::net::Ipv4Addr::from_bits(number).into(), now);
        let entered = (0..100_000).filter(|&number| enter(number, now).is_ok()).count();
        assert_eq!(entered, MAX_SOURCES);
        assert!(enter(100_001, now + Duration::from_secs(10)).is_ok(), "quiet ones are forgotten");
    }

    proptest! {
        #[test]
        fn no_source_is_kept_out_by_those_who_have_more(comings in prop::collection::vec((0_u8..6, any::<bool>()), 1..200)) {
            let strangers = Strangers::new(LIMITS);
            let mut now = Instant::now();
            let mut inside: Vec<Stranger> = Vec::new();
            for (last, leaves) in comings {
                // Long enough for the rate, and no time at all for patience.
                now += Duration::from_millis(1);
                let of = |inside: &[Stranger], source: IpAddr| {
                    inside.iter().filter(|each| each.source == source && !has_ended(each)).count()
                };
                let source = IpAddr::from([192, 0, 2, last]);
                let own = of(&inside, source);
                let most = (0..6).map(|last| of(&inside, [192, 0, 2, last].into())).max().unwrap();
                let entered = strangers.enter(source, now);
                prop_assert!(entered.is_ok() || own >= LIMITS.strangers_per_source || own + 1 >= most);
                inside.extend(entered);
                if leaves && !inside.is_empty() {
                    inside.remove(0);
                }
                let open = inside.iter().filter(|each| !has_ended(each)).count();
                prop_assert!(open <= LIMITS.strangers);
                prop_assert_eq!(strangers.table().count, open);
            }
        }
    }
}
