//! Handshakes between friends, strangers and attackers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod foreign;
mod handshake;
mod listener;
mod pinned;

use std::sync::Arc;

use bonafide_identity::{BundleMap, Clock, X509Svid};
use bonafide_testkit::{TestClock, TestDomain};
use bonafide_tls::{
    Authorizer, ClientConfig, Clients, IdentitySlot, ServerConfig, TlsError, TlsStream, Trust, Trusted,
    client_config, server_config,
};
use tokio::io::DuplexStream;

/// One end: what it presents, and whom it trusts.
struct End {
    slot: Arc<IdentitySlot>,
    trust: Trust,
}

impl End {
    fn new(svid: Option<&X509Svid>, bundles: BundleMap) -> Self {
        let slot = IdentitySlot::new();
        if let Some(svid) = svid {
            slot.set(svid);
        }
        Self { slot, trust: Arc::new(Trusted::new(bundles)) }
    }

    fn server(&self, clients: Clients, clock: &Arc<TestClock>) -> Arc<ServerConfig> {
        server_config(&self.slot, &self.trust, clients, Arc::clone(clock) as _).unwrap()
    }

    fn client(&self, servers: Authorizer, clock: &Arc<TestClock>) -> Arc<ClientConfig> {
        client_config(Some(&self.slot), &self.trust, servers, Arc::clone(clock) as _).unwrap()
    }

    fn anonymous(&self, servers: Authorizer, clock: &Arc<TestClock>) -> Arc<ClientConfig> {
        client_config(None, &self.trust, servers, Arc::clone(clock) as _).unwrap()
    }
}

/// A trust domain with two ends that get along.
struct World {
    clock: Arc<TestClock>,
    domain: TestDomain,
    server: End,
    client: End,
}

impl World {
    fn new() -> Self {
        let clock = TestClock::new();
        let domain = TestDomain::new("example.org", clock.now());
        let server = End::new(Some(&domain.svid("/server", clock.now())), domain.bundles());
        let client = End::new(Some(&domain.svid("/client", clock.now())), domain.bundles());
        Self { clock, domain, server, client }
    }

    fn members(&self) -> Authorizer {
        Authorizer::member_of(self.domain.trust_domain().clone())
    }

    fn server_config(&self) -> Arc<ServerConfig> {
        self.server.server(Clients::Required(self.members()), &self.clock)
    }

    fn client_config(&self) -> Arc<ClientConfig> {
        self.client.client(self.members(), &self.clock)
    }

    /// What a handshake between the two comes to, on the server's side and on the client's.
    async fn meet(&self) -> (Outcome, Outcome) {
        meet(&self.server_config(), &self.client_config()).await
    }
}

type Outcome = Result<TlsStream<DuplexStream>, TlsError>;

async fn meet(server: &ServerConfig, client: &ClientConfig) -> (Outcome, Outcome) {
    let (here, there) = tokio::io::duplex(64 * 1024);
    tokio::join!(server.accept(here), client.connect(there))
}

fn code(outcome: &Outcome) -> &'static str {
    outcome.as_ref().err().map_or("ok", TlsError::code)
}

fn peer(outcome: &Outcome) -> String {
    outcome.as_ref().unwrap().peer().unwrap().id().to_string()
}
