use std::net::SocketAddr;

use bonafide_tls::{Clients, TlsLimits, TlsListener};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::World;

async fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    socket.connect(address).await.unwrap()
}

async fn listener(world: &World, limits: TlsLimits) -> TlsListener {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    TlsListener::new(tcp, &world.server_config(), limits).unwrap()
}

#[tokio::test]
async fn a_slow_peer_holds_up_nobody() {
    let world = World::new();
    let mut listener =
        listener(&world, TlsLimits { strangers: 2, connections: 8, ..TlsLimits::default() }).await;
    let _silent = TcpStream::connect(listener.local_addr()).await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
    let client = world.client_config();
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
    assert_eq!(accepted.unwrap().io().address(), connected.unwrap().io().local_addr().unwrap());
}

#[tokio::test]
async fn strangers_beyond_the_limit_are_closed_and_places_come_back() {
    let world = World::new();
    let mut listener = listener(&world, TlsLimits { strangers: 1, ..TlsLimits::default() }).await;
    let connect = || TcpStream::connect(listener.local_addr());
    let (silent, mut second) = (connect().await.unwrap(), connect().await.unwrap());
    assert!(matches!(second.read(&mut [0]).await, Ok(0) | Err(_)));
    drop(silent);
    // Until the listener has seen that it is gone.
    let client = world.client_config();
    let connected = loop {
        let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
        if let Ok(connected) = client.connect(tcp).await {
            break connected;
        }
    };
    assert_eq!(listener.accept().await.unwrap().io().address(), connected.io().local_addr().unwrap());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_places_come_back() {
    let world = World::new();
    let mut listener =
        listener(&world, TlsLimits { strangers: 4, connections: 1, ..TlsLimits::default() }).await;
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
async fn one_source_cannot_hold_every_place() {
    let world = World::new();
    let limits = TlsLimits { strangers: 3, strangers_per_source: 2, ..TlsLimits::default() };
    let mut listener = listener(&world, limits).await;
    let address = listener.local_addr();
    let connect = || TcpStream::connect(address);
    let _first = connect().await.unwrap();
    let _second = connect().await.unwrap();
    let mut third = connect().await.unwrap();
    assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "beyond its share");

    // From another address, there is a place.
    let tcp = connect_from("127.0.0.2", address).await;
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

#[tokio::test]
async fn strangers_take_their_share_of_the_places_at_most() {
    let world = World::new();
    let server = world.server.server(Clients::Optional(world.members()), &world.clock);
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = TlsLimits { strangers: 2, connections: 4, ..TlsLimits::default() };
    let mut listener = TlsListener::new(tcp, &server, limits).unwrap();
    let address = listener.local_addr();
    let (stranger, known) = (world.client.anonymous(world.members(), &world.clock), world.client_config());
    let mut open = Vec::new();
    for _ in 0..2 {
        let tcp = TcpStream::connect(address).await.unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), stranger.connect(tcp));
        open.push((accepted.unwrap(), connected.unwrap()));
    }
    for _ in 0..3 {
        let tcp = TcpStream::connect(address).await.unwrap();
        assert!(stranger.connect(tcp).await.is_err());
    }
    for _ in 0..2 {
        let tcp = connect_from("127.0.0.2", address).await;
        let (accepted, connected) = tokio::join!(listener.accept(), known.connect(tcp));
        open.push((accepted.unwrap(), connected.unwrap()));
    }
}

#[tokio::test]
async fn many_strangers_of_one_source_make_room_for_another() {
    let world = World::new();
    let mut listener = listener(&world, TlsLimits { strangers: 3, ..TlsLimits::default() }).await;
    let address = listener.local_addr();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(connect_from("127.0.0.1", address).await);
    }
    let tcp = connect_from("127.0.0.2", address).await;
    let client = world.client_config();
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
    accepted.unwrap();
    connected.unwrap();
    assert!(matches!(silent[0].read(&mut [0]).await, Ok(0) | Err(_)), "the oldest gives way");
    assert_eq!(silent[1].try_read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn strangers_who_come_again_and_again_have_to_wait() {
    let world = World::new();
    let limits = TlsLimits { strangers_per_source: 2, strangers_per_second: 1, ..TlsLimits::default() };
    let listener = listener(&world, limits).await;
    let client = world.client.anonymous(world.members(), &world.clock);
    let mut welcome = 0;
    for _ in 0..10 {
        let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
        let mut refused = match client.connect(tcp).await {
            Ok(connected) => connected,
            Err(_) => continue,
        };
        welcome += 1;
        // The server wants a certificate; its alert ends the connection.
        let _ = refused.read(&mut [0]).await;
    }
    assert!((2..5).contains(&welcome), "{welcome}");
}

#[tokio::test]
async fn verified_peers_leave_the_lobby() {
    let world = World::new();
    let lobby = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = world.server.server(Clients::Optional(world.members()), &world.clock);
    let mut listener = TlsListener::with_lobby(tcp, &server, TlsLimits::default(), lobby.handle()).unwrap();
    let address = listener.local_addr();
    let mut meet = async |client: &bonafide_tls::ClientConfig| {
        let tcp = TcpStream::connect(address).await.unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
        (accepted.unwrap(), connected.unwrap())
    };
    let (mut accepted, mut connected) = meet(&world.client_config()).await;
    let (mut stranger, _connected) = meet(&world.client.anonymous(world.members(), &world.clock)).await;
    lobby.shutdown_background();
    for word in [b"ping", b"pong"] {
        let mut heard = [0; 4];
        let said = async {
            connected.write_all(word).await.unwrap();
            connected.flush().await.unwrap();
        };
        let (_, read) = tokio::join!(said, accepted.read_exact(&mut heard));
        read.unwrap();
        assert_eq!(&heard, word);
    }
    assert!(stranger.read(&mut [0]).await.is_err(), "a stranger stays there");
}
