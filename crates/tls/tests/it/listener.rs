use std::time::Duration;

use bonafide_tls::{Clients, TlsLimits, TlsListener};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::World;

async fn listener(world: &World, limits: TlsLimits) -> TlsListener {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    TlsListener::new(tcp, &world.server_config(), limits).unwrap()
}

#[tokio::test]
async fn a_slow_peer_holds_up_nobody() {
    let world = World::new();
    let mut listener =
        listener(&world, TlsLimits { handshakes: 2, connections: 8, ..TlsLimits::default() }).await;
    let _silent = TcpStream::connect(listener.local_addr()).await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
    let client = world.client_config();
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
    assert_eq!(accepted.unwrap().io().address(), connected.unwrap().io().local_addr().unwrap());
}

#[tokio::test]
async fn when_all_turns_are_taken_the_next_peer_waits_for_one() {
    let world = World::new();
    let mut listener =
        listener(&world, TlsLimits { handshakes: 1, connections: 8, ..TlsLimits::default() }).await;
    let silent = TcpStream::connect(listener.local_addr()).await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
    let client = world.client_config().with_handshake_time(Duration::from_secs(60));
    let both = async { tokio::join!(listener.accept(), client.connect(tcp)) };
    tokio::pin!(both);
    for _ in 0..100 {
        tokio::select! {
            biased;
            _ = &mut both => panic!("there was no turn"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(silent);
    let (accepted, connected) = both.await;
    accepted.unwrap();
    connected.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_places_come_back() {
    let world = World::new();
    let mut listener =
        listener(&world, TlsLimits { handshakes: 4, connections: 1, ..TlsLimits::default() }).await;
    let client = world.client_config();
    let connect = || async { TcpStream::connect(listener.local_addr()).await.unwrap() };
    let (tcp, mut second) = (connect().await, connect().await);
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
    connected.unwrap();
    assert!(matches!(second.read(&mut [0]).await, Ok(0) | Err(_)));
    drop(accepted);
    let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
    accepted.unwrap();
    connected.unwrap();
}

#[tokio::test]
async fn one_source_cannot_hold_every_turn() {
    let world = World::new();
    let limits = TlsLimits { handshakes: 3, strangers_per_source: 2, ..TlsLimits::default() };
    let mut listener = listener(&world, limits).await;
    let address = listener.local_addr();
    let connect = || TcpStream::connect(address);
    let _first = connect().await.unwrap();
    let _second = connect().await.unwrap();
    let mut third = connect().await.unwrap();
    assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "beyond its share");

    // From another address, there is a turn.
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let tcp = other.connect(address).await.unwrap();
    let client = world.client_config();
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
    accepted.unwrap();
    connected.unwrap();
}

#[tokio::test]
async fn verified_peers_are_no_strangers() {
    let world = World::new();
    let mut listener = listener(&world, TlsLimits { strangers_per_source: 1, ..TlsLimits::default() }).await;
    let client = world.client_config();
    let mut open = Vec::new();
    for _ in 0..3 {
        let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
        open.push((accepted.unwrap(), connected.unwrap()));
    }
}

#[tokio::test]
async fn peers_without_a_certificate_stay_strangers() {
    let world = World::new();
    let server = world.server.server(Clients::Optional(world.members()), &world.clock);
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = TlsLimits { strangers_per_source: 1, ..TlsLimits::default() };
    let mut listener = TlsListener::new(tcp, &server, limits).unwrap();
    let client = world.client.anonymous(world.members(), &world.clock);
    let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
    let (_accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
    connected.unwrap();
    let mut second = TcpStream::connect(listener.local_addr()).await.unwrap();
    assert!(matches!(second.read(&mut [0]).await, Ok(0) | Err(_)));
}

/// From many places, each within its share.
#[tokio::test]
async fn strangers_take_half_of_the_places_at_most() {
    let world = World::new();
    let server = world.server.server(Clients::Optional(world.members()), &world.clock);
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = TlsLimits { handshakes: 2, connections: 4, ..TlsLimits::default() };
    let mut listener = TlsListener::new(tcp, &server, limits).unwrap();
    let (stranger, known) = (world.client.anonymous(world.members(), &world.clock), world.client_config());
    let mut open = Vec::new();
    for _ in 0..2 {
        let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), stranger.connect(tcp));
        open.push((accepted.unwrap(), connected.unwrap()));
    }
    for _ in 0..3 {
        let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
        let mut refused = stranger.connect(tcp).await.unwrap();
        assert!(matches!(refused.read(&mut [0]).await, Ok(0) | Err(_)));
    }
    for _ in 0..2 {
        let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), known.connect(tcp));
        open.push((accepted.unwrap(), connected.unwrap()));
    }
}
