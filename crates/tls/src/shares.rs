//! How many connections one verified peer has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bonafide_identity::{InstanceId, SpiffeId, VerifiedX509Svid};

/// One launch of a workload; where its SVID says nothing of that, all that share the SPIFFE ID. Another SVID of the same
/// peer is no way around.
type Peer = (SpiffeId, Option<InstanceId>);

/// Counts the connections of each verified peer.
#[derive(Debug)]
pub(crate) struct Shares {
    most: usize,
    open: Mutex<HashMap<Peer, usize>>,
}

/// One connection that is counted, until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    peer: Peer,
}

impl Shares {
    /// `most`: of one peer.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// Counts one more of this peer, unless it has as many as it may.
    pub(crate) fn take(self: &Arc<Self>, svid: &VerifiedX509Svid) -> Option<Share> {
        let instance = svid.attributes().and_then(|attributes| attributes.instance);
        self.take_of((svid.id().clone(), instance))
    }

    fn take_of(self: &Arc<Self>, peer: Peer) -> Option<Share> {
        let mut open = self.open();
        let count = open.entry(peer.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { shares: Arc::clone(self), peer })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Peer, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.open();
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_share_and_gives_it_back() {
        let shares = Shares::new(2);
        let id: SpiffeId = "spiffe://example.org/web".parse().unwrap();
        let one = (id.clone(), Some(InstanceId::from_bytes([1; 16])));
        let both = [shares.take_of(one.clone()).unwrap(), shares.take_of(one.clone()).unwrap()];
        assert!(shares.take_of(one.clone()).is_none());
        for other in [(id.clone(), Some(InstanceId::from_bytes([2; 16]))), (id, None)] {
            assert!(shares.take_of(other).is_some(), "others have theirs");
        }
        drop(both);
        assert!(shares.take_of(one).is_some());
        assert!(shares.open().is_empty());
    }
}
