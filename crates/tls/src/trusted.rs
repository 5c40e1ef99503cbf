use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Context,
};

use arc_swap::{ArcSwap, Guard};
use bonafide_identity::{
    bundle::BundleMap,
    x509::{VerifiedX509Svid, X509Error},
};

use crate::{
    PeerError, TlsError,
    ending::{Direction, Ending},
};

/// The bundles by which peers are judged, revocations included, exchanged as a whole when they change.
///
/// It knows the open connections whose peers were judged by it. When what is stored revokes a peer, its connections end:
/// pending reads and writes fail at once, later ones when they are tried.
#[derive(Debug, Default)]
pub struct Trusted {
    bundles: ArcSwap<BundleMap>,
    /// Held while they are read to be replaced: bundles and revocations may come by two ways.
    replacing: Mutex<()>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    connections: HashMap<u64, Arc<Peer>>,
    last: u64,
}

/// The peer of one open connection.
#[derive(Debug)]
struct Peer {
    svid: Arc<VerifiedX509Svid>,
    ending: Ending<X509Error>,
}

/// Ends when its connection does.
#[derive(Debug)]
pub(crate) struct Place {
    peer: Arc<Peer>,
    number: u64,
    trusted: Weak<Trusted>,
}

impl Trusted {
    /// Judges by `bundles`.
    pub fn new(bundles: impl Into<Arc<BundleMap>>) -> Self {
        Self { bundles: ArcSwap::new(bundles.into()), ..Self::default() }
    }

    /// What peers are judged by now.
    pub fn load(&self) -> Guard<Arc<BundleMap>> {
        self.bundles.load()
    }

    /// As [`Self::load`], to keep.
    pub fn load_full(&self) -> Arc<BundleMap> {
        self.bundles.load_full()
    }

    /// Judges by `bundles` from the next handshake on, and ends connections to peers that they revoke.
    pub fn store(&self, bundles: Arc<BundleMap>) {
        self.update(|_| bundles);
    }

    /// As [`Self::store`], with what follows from the bundles of this moment. No other change comes in between.
    pub fn update(&self, next: impl FnOnce(&BundleMap) -> Arc<BundleMap>) {
        {
            let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
            self.bundles.store(next(&self.load()));
        }
        let open: Vec<Arc<Peer>> = self.open().connections.values().cloned().collect();
        let bundles = self.load();
        for peer in open {
            peer.judge_again(&bundles);
        }
    }

    /// How many connections are open to peers that were judged by this.
    pub fn connections(&self) -> usize {
        self.open().connections.len()
    }

    pub(crate) fn enter(self: &Arc<Self>, svid: &Arc<VerifiedX509Svid>) -> Place {
        let peer = Arc::new(Peer { svid: Arc::clone(svid), ending: Ending::new() });
        let number = {
            let mut open = self.open();
            open.last += 1;
            let number = open.last;
            open.connections.insert(number, Arc::clone(&peer));
            number
        };
        // What was stored since the handshake has not seen this connection.
        peer.judge_again(&self.load());
        Place { peer, number, trusted: Arc::downgrade(self) }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    fn judge_again(&self, bundles: &BundleMap) {
        let Err(error) = self.svid.check_revocations(bundles) else { return };
        if self.ending.end(error) {
            tracing::info!(peer = %self.svid.id(), "a connection ends: its peer was revoked");
        }
    }
}

impl Place {
    /// # Errors
    /// Once the peer is revoked: [`TlsError::of_io`] finds the reason in it.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.peer.ending.why() {
            None => Ok(()),
            Some(error) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                TlsError::Peer(PeerError::Svid(error.clone())),
            )),
        }
    }

    /// Wakes the task when the peer is revoked.
    ///
    /// # Errors
    /// As [`Self::check`]: it may be so already.
    pub(crate) fn wait(&self, direction: Direction, cx: &Context<'_>) -> io::Result<()> {
        self.peer.ending.wait(direction, cx);
        self.check()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(trusted) = self.trusted.upgrade() {
            trusted.open().connections.remove(&self.number);
        }
    }
}
