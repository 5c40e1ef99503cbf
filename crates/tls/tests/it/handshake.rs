use std::time::Duration;

use bonafide_identity::revocation::Subject;
use bonafide_identity::{BundleMap, Clock, Revocation, Revocations, SpiffeId};
use bonafide_testkit::{TestDomain, Validity};
use bonafide_tls::{Authorizer, Clients, IdentitySlot, TlsError, peer_svid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{End, World, code, meet, peer};

#[tokio::test]
async fn both_learn_who_the_other_is_and_keys_are_post_quantum() {
    let world = World::new();
    let (server, client) = world.meet().await;
    assert_eq!(peer(&server), "spiffe://example.org/client");
    assert_eq!(peer(&client), "spiffe://example.org/server");
    let (server, client) = (server.unwrap(), client.unwrap());
    assert_eq!(server.key_exchange().unwrap(), "X25519MLKEM768");
    assert_eq!(client.key_exchange().unwrap(), "X25519MLKEM768");

    let attested = peer_svid(&server).unwrap();
    let attributes = attested.attributes().unwrap();
    assert_eq!(attributes.instance, world.client.slot.current().unwrap().attributes().unwrap().instance);
    assert_eq!(attributes.label("env"), Some(&b"test"[..]));
}

#[tokio::test]
async fn application_protocols_are_negotiated() {
    let world = World::new();
    let (server, client) = (world.server_config(), world.client_config());
    let (accepted, connected) =
        meet(&server.with_protocols(&[b"h2"]), &client.with_protocols(&[b"h2"])).await;
    assert_eq!(accepted.unwrap().protocol(), Some(&b"h2"[..]));
    assert_eq!(connected.unwrap().protocol(), Some(&b"h2"[..]));
    let (accepted, _) = meet(&server.with_protocols(&[b"h2"]), &client.with_protocols(&[b"other"])).await;
    assert_eq!(code(&accepted), "tls.handshake");
}

#[tokio::test]
async fn a_stranger_is_refused_by_either_side() {
    let world = World::new();
    let stranger_domain = TestDomain::new("stranger.org", world.clock.now());
    let mut both = world.domain.bundles();
    both.insert(stranger_domain.bundle());
    let stranger = End::new(Some(&stranger_domain.svid("/client", world.clock.now())), both.clone());
    let anybody = Authorizer::custom(|_| true);

    // Of a trust domain that is not known at all.
    let (accepted, _) = meet(&world.server_config(), &stranger.client(anybody.clone(), &world.clock)).await;
    assert_eq!(code(&accepted), "x509.unknown-trust-domain");
    let (_, connected) =
        meet(&stranger.server(Clients::Required(anybody.clone()), &world.clock), &world.client_config())
            .await;
    assert_eq!(code(&connected), "x509.unknown-trust-domain");

    // Of one that is known, but not welcome.
    world.server.trust.store(both.clone().into());
    let (accepted, connected) =
        meet(&world.server_config(), &stranger.client(anybody.clone(), &world.clock)).await;
    assert_eq!(code(&accepted), "tls.peer-not-authorized");
    let error = connected.unwrap().read_u8().await.unwrap_err();
    assert_eq!(TlsError::of_io(&error).unwrap().code(), "tls.refused-by-peer");

    // Of one that only claims the name: another root under `example.org`.
    let impostor_domain = TestDomain::new("example.org", world.clock.now());
    let impostor = End::new(Some(&impostor_domain.svid("/client", world.clock.now())), both);
    let (accepted, _) = meet(&world.server_config(), &impostor.client(anybody, &world.clock)).await;
    assert_eq!(code(&accepted), "x509.unknown-authority");
}

#[tokio::test]
async fn authorizers_decide_by_id() {
    let world = World::new();
    let client = world.client_config();
    for (clients, expected) in [
        (Authorizer::id(world.domain.id("/client")), "ok"),
        (Authorizer::id(world.domain.id("/other")), "tls.peer-not-authorized"),
        (Authorizer::ids([]), "tls.peer-not-authorized"),
        (Authorizer::ids([world.domain.id("/other"), world.domain.id("/client")]), "ok"),
        (Authorizer::pattern("spiffe://example.org/*".parse().unwrap()), "ok"),
        (Authorizer::pattern("spiffe://example.org/ns/*".parse().unwrap()), "tls.peer-not-authorized"),
        (Authorizer::custom(|peer| peer.attributes().is_some()), "ok"),
        (Authorizer::custom(|_| false), "tls.peer-not-authorized"),
    ] {
        let server = world.server.server(Clients::Required(clients.clone()), &world.clock);
        let (accepted, _) = meet(&server, &client).await;
        assert_eq!(code(&accepted), expected, "{clients:?}");
        if let Err(TlsError::Peer(error)) = accepted {
            assert!(error.to_string().starts_with("`spiffe://example.org/client` is not "), "{error}");
        }
    }
}

#[tokio::test]
async fn lifetimes_are_judged_by_the_clock_of_the_verifier() {
    let world = World::new();
    world.clock.advance(Duration::from_secs(2 * 3600));
    let (accepted, connected) = world.meet().await;
    assert_eq!(code(&connected), "x509.expired");
    assert_eq!(code(&accepted), "tls.refused-by-peer");
    assert!(accepted.unwrap_err().to_string().contains("CertificateExpired"));

    let now = world.clock.now();
    world.server.slot.set(&world.domain.svid("/server", now));
    let (accepted, _) = world.meet().await;
    assert_eq!(code(&accepted), "x509.expired");

    let tomorrow = now.saturating_add(Duration::from_secs(86_400));
    let later = tomorrow.saturating_add(Duration::from_secs(3600));
    world.client.slot.set(&world.domain.svid_valid("/client", Validity::new(tomorrow, later).unwrap()));
    let (accepted, _) = world.meet().await;
    assert_eq!(code(&accepted), "x509.not-yet-valid");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_unless_it_is_optional() {
    let world = World::new();
    let anonymous = world.client.anonymous(world.members(), &world.clock);
    let (accepted, connected) = meet(&world.server_config(), &anonymous).await;
    assert_eq!(code(&accepted), "tls.handshake");
    let error = connected.unwrap().read_u8().await.unwrap_err();
    assert_eq!(TlsError::of_io(&error).unwrap().code(), "tls.refused-by-peer");

    let optional = world.server.server(Clients::Optional(world.members()), &world.clock);
    let (accepted, connected) = meet(&optional, &anonymous).await;
    assert!(accepted.unwrap().peer().is_none());
    assert_eq!(peer(&connected), "spiffe://example.org/server");

    // Optional does not mean that a bad one is ignored.
    let (accepted, _) = meet(&optional, &world.client_config()).await;
    assert_eq!(peer(&accepted), "spiffe://example.org/client");
    world.server.trust.store(BundleMap::new().into());
    let (accepted, _) = meet(&optional, &world.client_config()).await;
    assert_eq!(code(&accepted), "x509.unknown-trust-domain");
}

#[tokio::test]
async fn without_an_identity_nothing_is_attempted() {
    let world = World::new();
    world.client.slot.clear();
    let (here, there) = tokio::io::duplex(1024);
    drop(here);
    let error = world.client_config().connect(there).await.unwrap_err();
    assert_eq!(error.code(), "tls.no-identity");
    world.server.slot.clear();
    let (here, _there) = tokio::io::duplex(1024);
    assert_eq!(world.server_config().accept(here).await.unwrap_err().code(), "tls.no-identity");
}

#[tokio::test]
async fn a_removed_root_refuses_the_next_handshake_of_the_same_configuration() {
    let world = World::new();
    let (server, client) = (world.server_config(), world.client_config());
    let (accepted, _) = meet(&server, &client).await;
    assert_eq!(code(&accepted), "ok");

    let successor = TestDomain::new("example.org", world.clock.now());
    world.server.trust.store(successor.bundles().into());
    let (accepted, _) = meet(&server, &client).await;
    assert_eq!(code(&accepted), "x509.unknown-authority");
}

#[tokio::test]
async fn rotation_changes_new_handshakes_and_breaks_no_connection() {
    let world = World::new();
    let (server, client) = (world.server_config(), world.client_config());
    let (accepted, connected) = meet(&server, &client).await;
    let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());

    let mut changes = world.client.slot.changes();
    let rotated = world.domain.svid("/client", world.clock.now());
    world.client.slot.set(&rotated);
    changes.changed().await.unwrap();
    world.server.slot.set(&world.domain.svid("/server", world.clock.now()));

    connected.write_all(b"still here").await.unwrap();
    connected.flush().await.unwrap();
    let mut text = [0; 10];
    accepted.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still here");

    let (again, _) = meet(&server, &client).await;
    let seen = again.unwrap().peer().unwrap().leaf().der().to_vec();
    assert_eq!(seen, rotated.leaf().der());
    assert_ne!(accepted.peer().unwrap().leaf().der(), rotated.leaf().der());
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    tokio::time::pause();
    let world = World::new();
    let (here, _there) = tokio::io::duplex(1024);
    let server = world.server_config().with_handshake_time(Duration::from_secs(3));
    assert_eq!(server.accept(here).await.unwrap_err().code(), "tls.timeout");
    let (_here, there) = tokio::io::duplex(1024);
    assert_eq!(world.client_config().connect(there).await.unwrap_err().code(), "tls.timeout");
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_refused() {
    let world = World::new();
    let (here, mut there) = tokio::io::duplex(1024);
    there.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(world.server_config().accept(here).await.unwrap_err().code(), "tls.handshake");
    let (here, there) = tokio::io::duplex(1024);
    drop(there);
    assert_eq!(world.server_config().accept(here).await.unwrap_err().code(), "tls.io");
}

#[test]
fn an_empty_slot_has_nothing() {
    assert!(IdentitySlot::new().current().is_none());
}

/// Revokes the ID of the client, or of the server, where `end` looks.
fn revoke(world: &World, end: &End, path: &str) {
    let domain = world.domain.trust_domain().clone();
    let mut set = Revocations::new(domain.clone());
    let subject = Subject::Id(SpiffeId::new(&domain, path).unwrap());
    let expires_at = world.clock.now().saturating_add(Duration::from_secs(3600));
    set.insert(Revocation { subject, issued_before: None, expires_at }).unwrap();
    end.trust.update(|bundles| bundles.clone().with_revocations(set.into()).into());
}

#[tokio::test]
async fn a_revoked_peer_loses_the_connections_that_are_open() {
    for (path, revoked_where) in [("/client", true), ("/server", false)] {
        let world = World::new();
        let (accepted, connected) = world.meet().await;
        let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
        let (end, mut kept, mut other) = if revoked_where {
            (&world.server, accepted, connected)
        } else {
            (&world.client, connected, accepted)
        };
        assert_eq!(end.trust.connections(), 1);
        // One that waits for a read is woken.
        let read = tokio::spawn(async move {
            let error = kept.read_u8().await.unwrap_err();
            (TlsError::of_io(&error).unwrap(), kept)
        });
        tokio::task::yield_now().await;
        revoke(&world, end, path);
        let (error, mut kept) = read.await.unwrap();
        assert_eq!(error.code(), "x509.revoked-id");
        let error = kept.write_all(b"more").await.unwrap_err();
        assert_eq!(TlsError::of_io(&error).unwrap().code(), "x509.revoked-id");
        drop(kept);
        assert_eq!(end.trust.connections(), 0);
        assert!(other.read_u8().await.is_err());

        let (accepted, connected) = world.meet().await;
        if revoked_where {
            assert_eq!(code(&accepted), "x509.revoked-id");
            let error = connected.unwrap().read_u8().await.unwrap_err();
            assert!(TlsError::of_io(&error).unwrap().to_string().contains("CertificateRevoked"));
        } else {
            assert_eq!(code(&connected), "x509.revoked-id");
        }
    }
}

#[tokio::test]
async fn others_keep_their_connections() {
    let world = World::new();
    let (accepted, connected) = world.meet().await;
    let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
    revoke(&world, &world.server, "/somebody-else");
    world.server.trust.store(world.domain.bundles().into());
    connected.write_all(b"x").await.unwrap();
    connected.flush().await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
}
