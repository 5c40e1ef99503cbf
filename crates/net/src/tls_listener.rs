//! The TCP port on which servers and agents speak to each other, over mutual TLS.

use std::{io, net::SocketAddr, sync::Arc};

use bonafide_tls::{ServerConfig, ServerStream, TcpConnection, TlsListener, VerifiedX509Svid};
use futures_util::Stream;
use tokio::net::{TcpListener, ToSocketAddrs};
use tonic::transport::server::Connected;

pub use bonafide_tls::TlsLimits;

use crate::{
    drain::Shutdown,
    http::{HttpLimits, HttpService, Server},
};

/// Who the peer is: what was verified in its handshake. `None` if it came without a certificate, where that is allowed.
#[derive(Clone, Debug)]
pub struct PeerSvid(pub Option<Arc<VerifiedX509Svid>>);

/// Where the peer connects from. For logs and limits: it proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// A TLS listener that serves gRPC (and HTTP/1.1).
#[derive(Debug)]
pub struct Listener {
    inner: TlsListener,
}

impl Listener {
    /// Binds an address with the usual limits.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn bind(address: impl ToSocketAddrs, config: &Arc<ServerConfig>) -> io::Result<Self> {
        Self::new(TcpListener::bind(address).await?, config, TlsLimits::default())
    }

    /// Accepts on a socket that is already bound. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the socket has no address.
    pub fn new(listener: TcpListener, config: &Arc<ServerConfig>, limits: TlsLimits) -> io::Result<Self> {
        let config = config.with_protocols(&[b"h2", b"http/1.1"]);
        Ok(Self { inner: TlsListener::new(listener, &config, limits)? })
    }

    /// The address that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    /// The next connection whose peer was verified and is welcome.
    ///
    /// # Errors
    /// When the listening socket broke.
    pub async fn accept(&mut self) -> io::Result<Connection> {
        Ok(Connection { stream: self.inner.accept().await? })
    }

    /// All connections, as `tonic`'s `serve_with_incoming_shutdown` takes them. [`PeerSvid`] is the connect info.
    pub fn into_incoming(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        futures_util::stream::unfold(Some(self), |listener| async {
            let mut listener = listener?;
            let next = listener.accept().await;
            let listener = next.is_ok().then_some(listener);
            Some((next, listener))
        })
    }

    /// Serves `service` (an `axum::Router`, as of tonic's `Routes::into_axum_router()`) until `shutdown`. [`PeerSvid`] and
    /// [`PeerAddress`] stand in the extensions of every request.
    ///
    /// On shutdown, and at [`HttpLimits::age`] or [`HttpLimits::stranger_age`], connections get [`HttpLimits::grace`] to finish.
    ///
    /// # Errors
    /// When the listening socket broke.
    pub async fn serve<S: HttpService>(
        mut self,
        service: S,
        limits: HttpLimits,
        shutdown: &Shutdown,
    ) -> io::Result<()> {
        let server = Server::new(service, limits, shutdown.clone());
        let outcome = loop {
            match shutdown.unless_triggered(self.accept()).await {
                None => break Ok(()),
                Some(Ok(connection)) => {
                    let (peer, address) = (connection.connect_info(), connection.address());
                    let age = if peer.0.is_some() { limits.age } else { limits.stranger_age };
                    server.spawn(connection, age, move |extensions| {
                        extensions.insert(peer.clone());
                        extensions.insert(address);
                    });
                }
                Some(Err(error)) => break Err(error),
            }
        };
        drop(self);
        server.drain().await;
        outcome
    }
}

/// One accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: ServerStream<TcpConnection>,
}

impl Connection {
    /// Where the peer connects from.
    pub fn address(&self) -> PeerAddress {
        PeerAddress(self.stream.io().address())
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerSvid;

    fn connect_info(&self) -> PeerSvid {
        PeerSvid(self.stream.peer().cloned())
    }
}

bonafide_tls::delegate_stream!(Connection, stream);
