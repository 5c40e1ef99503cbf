//! The TLS port: who called stands in every request, and connections end in time.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router, routing::get};
use bonafide_net::{
    drain::Shutdown,
    http::HttpLimits,
    tls_listener::{Listener, PeerAddress, PeerSvid},
};
use bonafide_testkit::{TestClock, TestDomain};
use bonafide_tls::{Authorizer, Clients, IdentitySlot, TlsStream, Trust, client_config, server_config};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Serves `/who` and `/where`, and connects to that, with or without a certificate.
async fn connect(limits: HttpLimits, shutdown: &Shutdown, anonymous: bool) -> TlsStream<TcpStream> {
    use bonafide_identity::Clock;
    let clock = TestClock::new();
    let domain = TestDomain::new("example.org", clock.now());
    let trust: Trust = Arc::default();
    trust.store(Arc::new(domain.bundles()));
    let members = Authorizer::member_of(domain.trust_domain().clone());
    let slot = |path| {
        let slot = IdentitySlot::new();
        slot.set(&domain.svid(path, clock.now()));
        slot
    };
    let config =
        server_config(&slot("/server"), &trust, Clients::Optional(members.clone()), Arc::clone(&clock) as _)
            .unwrap();
    let listener = Listener::bind("127.0.0.1:0", &config).await.unwrap();
    let address = listener.local_addr();
    let who = |Extension(peer): Extension<PeerSvid>, Extension(from): Extension<PeerAddress>| async move {
        assert!(from.0.ip().is_loopback());
        peer.0.map_or("nobody".to_owned(), |svid| svid.id().to_string())
    };
    let place = || async {
        let niceness = rustix::process::getpriority_process(None).unwrap();
        format!("{:?} {niceness}", std::thread::current().name())
    };
    let router = Router::new().route("/who", get(who)).route("/where", get(place));
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let (known, strangers) = if anonymous {
            ((router.clone(), HttpLimits::remote()), (router, limits))
        } else {
            ((router.clone(), limits), (router, HttpLimits::strangers()))
        };
        listener.serve(known, strangers, &stop).await
    });

    let identity = (!anonymous).then(|| slot("/client"));
    let client = client_config(identity.as_ref(), &trust, members, clock).unwrap();
    client.connect(TcpStream::connect(address).await.unwrap()).await.unwrap()
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    ask_for("/who", stream).await
}

async fn ask_for(path: &str, stream: &mut TlsStream<TcpStream>) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply).await;
    reply
}

#[tokio::test]
async fn the_verified_peer_stands_in_every_request() {
    let shutdown = Shutdown::new();
    let mut stream = connect(HttpLimits::remote(), &shutdown, false).await;
    assert!(ask(&mut stream).await.ends_with("spiffe://example.org/client"));
    let mut stream = connect(HttpLimits::strangers(), &shutdown, true).await;
    assert!(ask(&mut stream).await.ends_with("nobody"));
}

#[tokio::test]
async fn strangers_are_the_work_of_threads_of_low_priority() {
    let shutdown = Shutdown::new();
    let own = rustix::process::getpriority_process(None).unwrap();
    let name = format!("{:?}", std::thread::current().name());
    let mut stream = connect(HttpLimits::remote(), &shutdown, false).await;
    assert!(ask_for("/where", &mut stream).await.ends_with(&format!("{name} {own}")));
    let mut stream = connect(HttpLimits::strangers(), &shutdown, true).await;
    let low = format!(r#"Some("lobby") {}"#, (own + 10).min(19));
    assert!(ask_for("/where", &mut stream).await.ends_with(&low));
}

#[tokio::test]
async fn old_connections_end_even_if_they_are_idle() {
    let shutdown = Shutdown::new();
    let mut limits = HttpLimits::remote();
    limits.age = Some(Duration::from_millis(1));
    let mut stream = connect(limits, &shutdown, false).await;
    let mut byte = [0];
    assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn connections_without_a_certificate_end_soon() {
    let shutdown = Shutdown::new();
    let mut limits = HttpLimits::strangers();
    assert_eq!(limits.age, Some(Duration::from_secs(60)));
    limits.age = Some(Duration::from_millis(1));
    let mut stream = connect(limits, &shutdown, true).await;
    let mut byte = [0];
    assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
}
