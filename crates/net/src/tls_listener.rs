//! The TCP port on which servers and agents speak to each other, over mutual TLS.

use std::{io, net::SocketAddr, sync::Arc};

use bonafide_tls::{ServerConfig, TlsListener, VerifiedX509Svid};
use tokio::{
    net::{TcpListener, ToSocketAddrs},
    runtime::Handle,
};

pub use bonafide_tls::TlsLimits;

use crate::{
    drain::Shutdown,
    http::{HttpLimits, HttpService, Server},
    runtime::Lobby,
};

/// Who the peer is: what was verified in its handshake. `None` if it came without a certificate, where that is allowed.
#[derive(Clone, Debug)]
pub struct PeerSvid(pub Option<Arc<VerifiedX509Svid>>);

/// Where the peer connects from. For logs and limits: it proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// A TLS listener that serves gRPC (and HTTP/1.1).
///
/// Handshakes, and requests of peers without a certificate, are the work of threads of low priority: a flood of strangers
/// leaves the processor to those who are known.
#[derive(Debug)]
pub struct Listener {
    inner: TlsListener,
    lobby: Lobby,
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
        let lobby = Lobby::start()?;
        Ok(Self { inner: TlsListener::with_lobby(listener, &config, limits, lobby.handle())?, lobby })
    }

    /// The address that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    /// Serves `known` (an `axum::Router`, as of tonic's `Routes::into_axum_router()`) until `shutdown`; and `strangers` to
    /// those who have shown no certificate. [`PeerSvid`] and [`PeerAddress`] stand in the extensions of every request.
    ///
    /// On shutdown, and at [`HttpLimits::age`], connections get [`HttpLimits::grace`] to finish.
    ///
    /// # Errors
    /// When the listening socket broke.
    pub async fn serve<S: HttpService>(
        mut self,
        known: (S, HttpLimits),
        strangers: (S, HttpLimits),
        shutdown: &Shutdown,
    ) -> io::Result<()> {
        let server = Server::new(shutdown.clone());
        let here = Handle::current();
        let outcome = loop {
            match shutdown.unless_triggered(self.inner.accept()).await {
                None => break Ok(()),
                Some(Ok(stream)) => {
                    let peer = PeerSvid(stream.peer().cloned());
                    let address = PeerAddress(stream.io().address());
                    let ((service, limits), on) = match &peer.0 {
                        None => (&strangers, self.lobby.handle()),
                        Some(_) => (&known, &here),
                    };
                    server.spawn(stream, service.clone(), *limits, on, move |extensions| {
                        extensions.insert(peer.clone());
                        extensions.insert(address);
                    });
                }
                Some(Err(error)) => break Err(error),
            }
        };
        // Nobody else is let in; those in the lobby have as much time as others.
        drop(self.inner);
        server.drain().await;
        outcome
    }
}
