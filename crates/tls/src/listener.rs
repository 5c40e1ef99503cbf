use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::{
    ServerConfig, ServerStream, TlsError,
    ending::Direction,
    shares::{Share, Shares},
    strangers::{Stranger, Strangers},
};

/// How much a TLS listener takes on at a time.
///
/// A *stranger* is a connection whose peer has shown no certificate, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsLimits {
    /// Open connections. More are closed as soon as they come.
    pub connections: usize,
    /// Of those, connections of one verified peer: of one launch of a workload, or of one SPIFFE ID where SVIDs do not
    /// tell launches apart. More are closed after the handshake.
    pub connections_per_peer: usize,
    /// Of those, strangers. For one more, a network (/24, or /48 of IPv6) or a source that has more
    /// strangers than the newcomer's loses its oldest; so does one whose strangers are that for longer than a handshake takes. If there is none, the newcomer is closed.
    pub strangers: usize,
    /// Strangers of one source: an IPv4 address or an IPv6 /64. More are closed as soon as they come.
    pub strangers_per_source: usize,
    /// Connections that one source may begin in a second, after as many as may be open, and that remain strangers: those
    /// whose peer is verified don't count. More are closed before the handshake, which is what costs.
    pub strangers_per_second: u32,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_peer: 1024,
            strangers: 1024,
            strangers_per_source: 64,
            strangers_per_second: 20,
        }
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
    /// The verified peer's.
    share: Option<Share>,
}

impl TcpConnection {
    /// Where the peer connects from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the network with the runtime of the caller, whichever did so before.
    fn move_here(&mut self) -> io::Result<()> {
        let socket = self.stream.as_fd().try_clone_to_owned()?;
        self.stream = TcpStream::from_std(socket.into())?;
        Ok(())
    }

    /// Does `io` unless a stranger has to give way.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        io: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let polled = io(Pin::new(&mut self.stream), cx);
        let Some(stranger) = &self.stranger else { return polled };
        if polled.is_pending() {
            stranger.ending().wait(direction, cx);
        }
        match stranger.ending().why() {
            Some(why) => Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, *why))),
            None => polled,
        }
    }
}

impl AsyncRead for TcpConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(cx, Direction::Read, |stream, cx| stream.poll_read(cx, out))
    }
}

impl AsyncWrite for TcpConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll(cx, Direction::Write, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll(cx, Direction::Write, |stream, cx| stream.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(cx, Direction::Write, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Never refused: it is how a connection ends.
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Accepts TLS connections. Handshakes run side by side, so that a slow peer holds up nobody.
#[derive(Debug)]
pub struct TlsListener {
    accepted: mpsc::Receiver<ServerStream<TcpConnection>>,
    address: SocketAddr,
    task: AbortHandle,
    /// Whether verified peers come from another runtime.
    has_lobby: bool,
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
        Ok(Self { accepted, address, task, has_lobby: false })
    }

    /// As [`Self::new`], but handshakes are the work of another runtime, and so is waiting for what strangers send. A
    /// connection whose peer is verified moves to the runtime that calls [`Self::accept`], so that nobody who is known
    /// stands in line behind strangers.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_lobby(
        listener: TcpListener,
        config: &Arc<ServerConfig>,
        limits: TlsLimits,
        lobby: &Handle,
    ) -> io::Result<Self> {
        let listener = listener.into_std()?;
        let _there = lobby.enter();
        let mut listener = Self::new(TcpListener::from_std(listener)?, config, limits)?;
        listener.has_lobby = true;
        Ok(listener)
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
        loop {
            let accepted = self.accepted.recv().await;
            let mut stream = accepted.ok_or_else(|| io::Error::other("the listening socket broke"))?;
            if self.has_lobby
                && stream.peer().is_some()
                && let Err(error) = stream.io_mut().move_here()
            {
                tracing::warn!(%error, address = %stream.io().address(), "can't keep a connection");
                continue;
            }
            return Ok(stream);
        }
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
    let places = Arc::new(Semaphore::new(limits.connections));
    let strangers = Strangers::new(limits);
    let shares = Shares::new(limits.connections_per_peer);
    // Dropping the set, when this task is aborted, ends the handshakes too.
    let mut running = JoinSet::new();
    loop {
        while running.try_join_next().is_some() {}
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
        let stranger = match strangers.enter(address.ip(), Instant::now()) {
            Ok(stranger) => stranger,
            Err(crowded) => {
                tracing::debug!(%address, "a connection is refused: {crowded}");
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%address, "too many connections");
            continue;
        };
        let (config, accepted, shares) = (Arc::clone(&config), accepted.clone(), Arc::clone(&shares));
        running.spawn(async move {
            // Small messages must not wait for an acknowledgement; if that can't be set, they only come later.
            let _ = stream.set_nodelay(true);
            let tcp = TcpConnection { stream, address, _place: place, stranger: Some(stranger), share: None };
            match config.accept(tcp).await {
                Ok(mut stream) => {
                    if let Some(peer) = stream.peer().cloned() {
                        if let Some(stranger) = stream.io_mut().stranger.take() {
                            stranger.verified();
                        }
                        let Some(share) = shares.take(&peer) else {
                            tracing::warn!(%address, peer = %peer.id(), "too many connections of one peer");
                            return;
                        };
                        stream.io_mut().share = Some(share);
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
