use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};

use crate::{
    ServerConfig, ServerStream, TlsError,
    sources::{Sources, Stranger},
};

/// How much a TLS listener takes on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsLimits {
    /// Handshakes that go on at a time. More wait in the kernel's queue.
    pub handshakes: usize,
    /// Open connections. More are closed as soon as they come. Half of them are for peers with a certificate: strangers from
    /// many places keep nobody out whom the listener knows.
    pub connections: usize,
    /// Connections from one source, an IPv4 address or an IPv6 /64, whose peer has shown no certificate, or not yet.
    /// More are closed as soon as they come. Should be far below `handshakes`: silent peers hold a turn each.
    pub strangers_per_source: usize,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self { handshakes: 1024, connections: 16_384, strangers_per_source: 64 }
    }
}

/// A TCP connection that keeps its place in the [`TlsLimits`] until it is dropped.
#[derive(Debug)]
pub struct TcpConnection {
    stream: TcpStream,
    address: SocketAddr,
    _place: OwnedSemaphorePermit,
    /// `None` once the peer was verified.
    stranger: Option<Stranger>,
    /// Of a peer that has shown no certificate when it was to.
    strangers_place: Option<OwnedSemaphorePermit>,
}

impl TcpConnection {
    /// Where the peer connects from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

crate::delegate_stream!(TcpConnection, stream);

/// Accepts TLS connections. Handshakes run side by side, so that a slow peer holds up nobody.
#[derive(Debug)]
pub struct TlsListener {
    accepted: mpsc::Receiver<ServerStream<TcpConnection>>,
    address: SocketAddr,
    task: AbortHandle,
}

impl TlsListener {
    /// Binds an address, as `"0.0.0.0:8443"`.
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
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(16);
        let task = tokio::spawn(accept_all(listener, Arc::clone(config), limits, sender)).abort_handle();
        Ok(Self { accepted, address, task })
    }

    /// The address that it is bound to, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection whose peer was verified and is welcome. Those that fail are logged and closed.
    ///
    /// Dropping the future loses no connection.
    ///
    /// # Errors
    /// When the listening socket broke.
    pub async fn accept(&mut self) -> io::Result<ServerStream<TcpConnection>> {
        self.accepted.recv().await.ok_or_else(|| io::Error::other("the listening socket broke"))
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_all(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: TlsLimits,
    accepted: mpsc::Sender<ServerStream<TcpConnection>>,
) {
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    let places = Arc::new(Semaphore::new(limits.connections));
    let strangers = Arc::new(Semaphore::new(limits.connections.div_ceil(2)));
    let sources = Sources::new(limits.strangers_per_source);
    // Dropping the set, when this task is aborted, ends the handshakes too.
    let mut running = JoinSet::new();
    loop {
        while running.try_join_next().is_some() {}
        let Ok(turn) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(new) => new,
            Err(error) if is_fatal(&error) => {
                tracing::error!(%error, "the listening socket broke");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(stranger) = sources.enter(address.ip()) else {
            tracing::debug!(%address, "too many connections without a certificate from one source");
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%address, "too many connections");
            continue;
        };
        let (config, accepted, strangers) = (Arc::clone(&config), accepted.clone(), Arc::clone(&strangers));
        running.spawn(async move {
            // Small messages must not wait for an acknowledgement; if that can't be set, they only come later.
            let _ = stream.set_nodelay(true);
            let stranger = Some(stranger);
            let tcp = TcpConnection { stream, address, _place: place, stranger, strangers_place: None };
            let done = config.accept(tcp).await;
            drop(turn);
            match done {
                Ok(mut stream) => {
                    if stream.peer().is_some() {
                        stream.io_mut().stranger = None;
                    } else if let Ok(place) = strangers.try_acquire_owned() {
                        stream.io_mut().strangers_place = Some(place);
                    } else {
                        tracing::warn!(%address, "too many connections without a certificate");
                        return;
                    }
                    // A receiver that is gone has closed the listener.
                    drop(accepted.send(stream).await);
                }
                Err(error @ TlsError::Peer(_)) => {
                    tracing::info!(%address, code = error.code(), %error, "refused a peer");
                }
                Err(error) => tracing::debug!(%address, code = error.code(), %error, "a handshake failed"),
            }
        });
    }
}

/// Whether `accept` will never work again: the descriptor is no listening socket (accept(2): EBADF, EINVAL, ENOTSOCK).
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(9 | 22 | 88))
}
