//! How many peers that nobody knows may come from one place.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts the connections of each source that have shown no certificate. As large as there are such connections.
#[derive(Debug)]
pub(crate) struct Sources {
    limit: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection that is counted, until this is dropped.
#[derive(Debug)]
pub(crate) struct Stranger {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default() })
    }

    /// Counts one more, unless there are as many as may be.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Stranger> {
        let source = source(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&source).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        open.insert(source, count + 1);
        Some(Stranger { sources: Arc::clone(self), source })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut open = self.sources.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

/// What one party has: an IPv4 address, or the /64 of an IPv6 address, in which it may choose freely.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_share_and_gets_it_back() {
        let sources = Sources::new(2);
        let enter = |address: &str| sources.enter(address.parse().unwrap());
        let both = (enter("192.0.2.1").unwrap(), enter("::ffff:192.0.2.1").unwrap());
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        drop(both);
        assert!(enter("192.0.2.1").is_some());
        let _both = (enter("2001:db8::1").unwrap(), enter("2001:db8:0:0:ffff::1").unwrap());
        assert!(enter("2001:db8::2").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
        drop(_both);
        assert!(sources.open.lock().unwrap().is_empty());
    }
}
