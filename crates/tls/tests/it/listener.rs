use std::time::Duration;

use bonafide_tls::{TlsLimits, TlsListener};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use super::World;

async fn listener(world: &World, limits: TlsLimits) -> TlsListener {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    TlsListener::new(tcp, &world.server_config(), limits).unwrap()
}

#[tokio::test]
async fn a_slow_peer_holds_up_nobody() {
    let world = World::new();
    let mut listener = listener(&world, TlsLimits { handshakes: 2, connections: 8 }).await;
    let _silent = TcpStream::connect(listener.local_addr()).await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr()).await.unwrap();
    let client = world.client_config();
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(tcp));
    assert_eq!(accepted.unwrap().io().address(), connected.unwrap().io().local_addr().unwrap());
}

#[tokio::test]
async fn when_all_turns_are_taken_the_next_peer_waits_for_one() {
    let world = World::new();
    let mut listener = listener(&world, TlsLimits { handshakes: 1, connections: 8 }).await;
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
    let mut listener = listener(&world, TlsLimits { handshakes: 4, connections: 1 }).await;
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
