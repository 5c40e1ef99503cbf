//! gRPC with tonic over mutual TLS.
//!
//! ```no_run
//! # use bonafide_sdk::{Authorizer, Error, X509Source, grpc};
//! # async fn example(source: X509Source, clients: Authorizer) -> Result<(), Box<dyn std::error::Error>> {
//! let incoming = grpc::Incoming::bind("0.0.0.0:7001", &source, clients).await?;
//! let services = tonic::service::Routes::default(); // .add_service(YourServiceServer::new(..))
//! tonic::transport::Server::builder().add_routes(services).serve_with_incoming(incoming).await?;
//! # Ok(())
//! # }
//! ```
//!
//! In a handler, [`Caller::of`](crate::Caller::of)`(&request)?` says who called.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwapOption;
use bonafide_tls::{Authorizer, ClientStream, ServerStream, TcpConnection, TlsError};
use futures_util::Stream;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, ToSocketAddrs},
};
use tonic::{
    Status,
    transport::{Uri, server::Connected},
};
use tower_service::Service;

use crate::{Caller, Error, X509Source, tls};

/// Connections for tonic's `serve_with_incoming`, each from a caller that proved who it is and is welcome.
pub struct Incoming {
    address: SocketAddr,
    stream: Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>,
}

impl Incoming {
    /// Listens on an address, as `"0.0.0.0:7001"`.
    ///
    /// # Errors
    /// [`Error::Io`] if the address can't be bound.
    pub async fn bind(
        address: impl ToSocketAddrs,
        source: &X509Source,
        clients: Authorizer,
    ) -> Result<Self, Error> {
        let config = tls::server_config(source, clients)?.with_protocols(&[b"h2"]);
        let listener = bonafide_tls::TlsListener::bind(address, &config).await?;
        let address = listener.local_addr();
        let stream = futures_util::stream::unfold(Some(listener), |listener| async {
            let mut listener = listener?;
            let next = listener.accept().await.and_then(|stream| {
                let caller = tls::caller_of(&stream).map_err(io::Error::other)?;
                Ok(Connection { stream, caller })
            });
            let listener = next.is_ok().then_some(listener);
            Some((next, listener))
        });
        Ok(Self { address, stream: Box::pin(stream) })
    }

    /// The address that it is bound to, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Incoming").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().stream.as_mut().poll_next(cx)
    }
}

/// One of the [`Incoming`] connections.
#[derive(Debug)]
pub struct Connection {
    stream: ServerStream<TcpConnection>,
    caller: Caller,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

bonafide_tls::delegate_stream!(Connection, stream);

/// A channel for generated clients. It connects again when the connection is lost, with the identity of that moment.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: tonic::transport::Channel,
    newest: Arc<Newest>,
}

/// What is known of the newest connection of a channel.
#[derive(Debug, Default)]
struct Newest {
    callee: ArcSwapOption<Caller>,
    /// The alert with which the server ended it. HTTP/2 only passes its text on, so it is kept here.
    refusal: ArcSwapOption<TlsError>,
}

/// Connects to `address` (`host:port`), where one of `servers` must answer.
///
/// # Errors
/// [`Error::Io`] if nobody answers, [`Error::Tls`] if somebody else does, or if this process has no identity. That the
/// server does not want *us* shows at the first call: give its status to [`Error::of_status`].
pub async fn channel(source: &X509Source, address: &str, servers: Authorizer) -> Result<Channel, Error> {
    let config = tls::client_config(source, servers)?.with_protocols(&[b"h2"]);
    // TLS is the connector's affair; to tonic the connection is plain.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).map_err(|_| {
        Error::Io(io::Error::new(io::ErrorKind::InvalidInput, "the address is not `host:port`"))
    })?;
    let newest = Arc::new(Newest::default());
    let (place, seen) = (address.to_owned(), Arc::clone(&newest));
    let connector = tower::service_fn(move |_: Uri| {
        let (config, place, newest) = (Arc::clone(&config), place.clone(), Arc::clone(&seen));
        async move {
            let tcp = TcpStream::connect(place).await.map_err(TlsError::Io)?;
            let _ = tcp.set_nodelay(true); // if that fails, small messages only come later
            let stream = config.connect(tcp).await?;
            newest.callee.store(stream.peer().cloned().map(Caller::new).map(Arc::new));
            newest.refusal.store(None);
            Ok::<_, TlsError>(TokioIo::new(Watched { stream, newest }))
        }
    });
    let inner = endpoint.connect_with_connector(connector).await.map_err(Error::of_transport)?;
    Ok(Channel { inner, newest })
}

impl Channel {
    /// Who answers at the other end, as of the newest connection.
    pub fn callee(&self) -> Option<Arc<Caller>> {
        self.newest.callee.load_full()
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<tonic::body::Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::poll_ready(&mut self.inner, cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let answer = Service::call(&mut self.inner, request);
        let newest = Arc::clone(&self.newest);
        Box::pin(async move {
            let error = match answer.await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(refusal) = newest.refusal.load_full() else { return Err(error.into()) };
            let mut status = Status::unauthenticated(refusal.to_string());
            status.set_source(refusal);
            Err(status.into())
        })
    }
}

/// Remembers the alert that ends a connection.
#[derive(Debug)]
struct Watched {
    stream: ClientStream<TcpStream>,
    newest: Arc<Newest>,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, out);
        if let Poll::Ready(Err(error)) = &read
            && let Some(refusal) = TlsError::of_io(error)
        {
            this.newest.refusal.store(Some(Arc::new(refusal)));
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
