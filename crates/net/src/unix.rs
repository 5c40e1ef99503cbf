//! The Unix socket on which local processes speak to us.
//!
//! Every connection carries its [`Caller`]: process, user and group as the kernel recorded them when the peer connected,
//! and a pidfd, so that a recycled PID can't take over what another process asked for.
//!
//! One [`Listener`] serves gRPC (HTTP/2 with prior knowledge) and HTTP/1.1 (JSON, for `curl --unix-socket`); see
//! [`Listener::serve`].

mod authority;
mod bind;
mod caller;
mod connection;
mod hpack;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::Stream;
use tokio::{net::UnixListener, runtime::Handle};

pub use authority::AuthorityFilter;
pub use bind::BindError;
pub use caller::{Caller, CallerError};
pub use connection::Connection;

use crate::{
    drain::Shutdown,
    http::{HttpLimits, HttpService, Server},
};
use bind::SocketFile;
use connection::Slots;

/// How many connections may be open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In total.
    pub connections: usize,
    /// Of one user. Root is a user like any other.
    pub connections_per_uid: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 8192, connections_per_uid: 1024 }
    }
}

/// A bound Unix socket. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct Listener {
    inner: UnixListener,
    file: SocketFile,
    slots: Slots,
}

impl Listener {
    /// Binds `path` with exactly the permission bits of `mode` (as `0o777` gives to everybody) and, if given, the group.
    ///
    /// The socket never exists with other permissions, not even for a moment. A stale file of a dead server is replaced;
    /// while a server is alive on it, binding is refused. The parent directory must belong to us or to root, and others
    /// must not be able to replace the socket in it.
    ///
    /// # Errors
    /// [`BindError`], with a code and a hint.
    pub fn bind(path: impl AsRef<Path>, mode: u32, gid: Option<u32>) -> Result<Self, BindError> {
        let (inner, file) = bind::bind(path.as_ref(), mode, gid)?;
        Ok(Self { inner, file, slots: Slots::new(Limits::default()) })
    }

    /// Sets other limits than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.slots = Slots::new(limits);
        self
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The next connection whose caller could be pinned and that is within the limits. Others are closed.
    ///
    /// Dropping the future loses no connection.
    ///
    /// # Errors
    /// Only if the socket itself is broken. Running out of file descriptors is not: it waits.
    pub async fn accept(&self) -> io::Result<Connection> {
        loop {
            let stream = match self.inner.accept().await {
                Ok((stream, _)) => stream,
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "can't accept a local connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let caller = match Caller::of(&stream) {
                Ok(caller) => caller,
                Err(error) => {
                    tracing::debug!(%error, code = error.code(), "refused a local connection");
                    continue;
                }
            };
            match self.slots.take(caller.uid) {
                Some(slot) => return Ok(Connection::new(stream, caller, slot)),
                None => tracing::warn!(uid = caller.uid, pid = caller.pid, "too many local connections"),
            }
        }
    }

    /// All connections, as `tonic`'s `serve_with_incoming_shutdown` takes them. [`Caller`] is the connect info.
    pub fn into_incoming(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        futures_util::stream::unfold(self, |listener| async {
            let next = listener.accept().await;
            Some((next, listener))
        })
    }

    /// Serves `service` (an `axum::Router`, or tonic's `Routes::into_axum_router()` merged with one) over HTTP/2 and
    /// HTTP/1.1 until `shutdown`. The [`Caller`] stands in the extensions of every request.
    ///
    /// On shutdown no connection is accepted any more, open ones get [`HttpLimits::grace`] to finish.
    ///
    /// # Errors
    /// When the socket breaks.
    pub async fn serve<S: HttpService>(
        self,
        service: S,
        limits: HttpLimits,
        shutdown: &Shutdown,
    ) -> io::Result<()> {
        self.serve_with(service, limits, shutdown, Caller::clone).await
    }

    /// As [`Listener::serve`], but what `look` makes of the [`Caller`] stands in the extensions of every request. It is
    /// called once for each connection, when that is accepted, and must not block.
    ///
    /// # Errors
    /// When the socket breaks.
    pub async fn serve_with<S, X>(
        self,
        service: S,
        limits: HttpLimits,
        shutdown: &Shutdown,
        look: impl Fn(&Caller) -> X,
    ) -> io::Result<()>
    where
        S: HttpService,
        X: Clone + Send + Sync + 'static,
    {
        let server = Server::new(shutdown.clone());
        let here = Handle::current();
        let outcome = loop {
            match shutdown.unless_triggered(self.accept()).await {
                None => break Ok(()),
                Some(Ok(connection)) => {
                    let seen = look(connection.caller());
                    server.spawn(connection, service.clone(), limits, &here, move |extensions| {
                        extensions.insert(seen.clone());
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

/// Serves `router` on `listener` with the usual limits; see [`Listener::serve`].
///
/// # Errors
/// When the socket breaks.
pub async fn serve<S: HttpService>(listener: Listener, router: S, shutdown: &Shutdown) -> io::Result<()> {
    listener.serve(router, HttpLimits::local(), shutdown).await
}

/// Errors of `accept` that say nothing about the listening socket (accept(2)).
fn is_passing(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
        || matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

/// The longest path that fits a socket address, without the final zero byte (unix(7)).
const MAX_PATH: usize = 107;

fn too_long(path: &Path) -> bool {
    path.as_os_str().len() > MAX_PATH
}

/// Names the temporary directory beside a socket, in which it is made ready.
fn template(parent: &Path) -> PathBuf {
    parent.join(".XXXXXX")
}
