use std::sync::Arc;

use bonafide_crypto::digest::sha256;
use bonafide_identity::{BundleMap, Clock, TrustDomain};
use bonafide_testkit::TestDomain;
use bonafide_tls::{Clients, pinned_client_config};

use super::{End, World, code, meet, peer};

/// An authority's server, as it waits for agents that join.
fn authority(world: &World, domain: &TestDomain) -> Arc<bonafide_tls::ServerConfig> {
    let server = End::new(Some(&domain.authority_svid("one", world.clock.now())), BundleMap::new());
    server.server(Clients::Optional(world.members()), &world.clock)
}

fn pinned(world: &World, name: &str, pin: [u8; 32]) -> Arc<bonafide_tls::ClientConfig> {
    let trust_domain: TrustDomain = name.parse().unwrap();
    pinned_client_config(trust_domain, pin, Arc::clone(&world.clock) as _).unwrap()
}

#[tokio::test]
async fn the_pin_is_enough_to_know_the_authority() {
    let world = World::new();
    let pin = sha256(world.domain.root().der());
    let (accepted, connected) =
        meet(&authority(&world, &world.domain), &pinned(&world, "example.org", pin)).await;
    assert_eq!(peer(&connected), "spiffe://example.org/bonafide/authority/one");
    assert!(accepted.unwrap().peer().is_none());
}

#[tokio::test]
async fn another_root_under_the_same_name_is_refused() {
    let world = World::new();
    let pin = sha256(world.domain.root().der());
    let impostor = TestDomain::new("example.org", world.clock.now());
    let (_, connected) = meet(&authority(&world, &impostor), &pinned(&world, "example.org", pin)).await;
    assert_eq!(code(&connected), "tls.root-not-pinned");
}

#[tokio::test]
async fn the_pinned_root_beside_another_chain_helps_nobody() {
    let world = World::new();
    let impostor = TestDomain::new("example.org", world.clock.now());
    let svid = impostor.authority_svid("one", world.clock.now());
    // The genuine root is public: an impostor may send it along with his own leaf and intermediate.
    let mut chain = svid.chain().to_vec();
    chain.pop();
    chain.push(world.domain.root().clone());
    let forged = bonafide_identity::X509Svid::new(chain, Arc::clone(svid.key()), None).unwrap();
    let server = End::new(Some(&forged), BundleMap::new());
    let server = server.server(Clients::Optional(world.members()), &world.clock);
    let pin = sha256(world.domain.root().der());
    let (_, connected) = meet(&server, &pinned(&world, "example.org", pin)).await;
    assert_eq!(code(&connected), "x509.unknown-authority");
}

#[tokio::test]
async fn a_workload_of_the_trust_domain_is_not_its_authority() {
    let world = World::new();
    let svid = world.domain.svid("/server", world.clock.now());
    let mut chain = svid.chain().to_vec();
    chain.push(world.domain.root().clone());
    let with_root = bonafide_identity::X509Svid::new(chain, Arc::clone(svid.key()), None).unwrap();
    let server = End::new(Some(&with_root), BundleMap::new());
    let server = server.server(Clients::Optional(world.members()), &world.clock);
    let pin = sha256(world.domain.root().der());
    let (_, connected) = meet(&server, &pinned(&world, "example.org", pin)).await;
    assert_eq!(code(&connected), "tls.peer-not-authority");
}

#[tokio::test]
async fn the_pin_of_another_trust_domain_does_not_do() {
    let world = World::new();
    let pin = sha256(world.domain.root().der());
    let (_, connected) = meet(&authority(&world, &world.domain), &pinned(&world, "other.org", pin)).await;
    assert_eq!(code(&connected), "x509.unknown-trust-domain");
}
