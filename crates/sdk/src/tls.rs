//! Mutual TLS for any protocol over TCP: streams, and who is at their end.

use std::{net::SocketAddr, sync::Arc};

use bonafide_tls::{Authorizer, Clients, TcpConnection};
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::{Caller, Error, X509Source};

pub use bonafide_tls::{ClientConfig, ClientStream, ServerConfig, ServerStream, TlsStream};

/// Accepts TLS connections from callers that prove who they are and that are welcome. Others are logged and closed.
#[derive(Debug)]
pub struct TlsListener {
    inner: bonafide_tls::TlsListener,
}

impl TlsListener {
    /// Listens on an address, as `"0.0.0.0:7000"`.
    ///
    /// # Errors
    /// [`Error::Io`] if the address can't be bound.
    pub async fn bind(
        address: impl ToSocketAddrs,
        source: &X509Source,
        clients: Authorizer,
    ) -> Result<Self, Error> {
        let config = server_config(source, clients)?;
        Ok(Self { inner: bonafide_tls::TlsListener::bind(address, &config).await? })
    }

    /// The address that it is bound to, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    /// The next connection, and who called.
    ///
    /// # Errors
    /// [`Error::Io`] if the listening socket broke.
    pub async fn accept(&mut self) -> Result<(ServerStream<TcpConnection>, Caller), Error> {
        let stream = self.inner.accept().await?;
        let caller = caller_of(&stream)?;
        Ok((stream, caller))
    }
}

/// Connects to a server that must prove that it is one of `servers`; returns the stream, and who answered.
///
/// # Errors
/// [`Error::Tls`] if the server is not who it must be, or if this process has no identity. That the server does not want
/// *us* shows at the first read: [`TlsError::of_io`](crate::TlsError::of_io) tells it from a broken connection.
pub async fn connect(
    address: impl ToSocketAddrs,
    source: &X509Source,
    servers: Authorizer,
) -> Result<(ClientStream<TcpStream>, Caller), Error> {
    let config = client_config(source, servers)?;
    let tcp = TcpStream::connect(address).await?;
    let _ = tcp.set_nodelay(true); // if that fails, small messages only come later
    let stream = config.connect(tcp).await?;
    let caller = caller_of(&stream)?;
    Ok((stream, caller))
}

/// For streams that are not TCP: how to accept on them.
///
/// # Errors
/// [`Error::Tls`] if TLS 1.3 is not available.
pub fn server_config(source: &X509Source, clients: Authorizer) -> Result<Arc<ServerConfig>, Error> {
    Ok(bonafide_tls::server_config(
        source.slot(),
        source.trust(),
        Clients::Required(clients),
        source.clock(),
    )?)
}

/// For streams that are not TCP: how to connect on them.
///
/// # Errors
/// As [`server_config`].
pub fn client_config(source: &X509Source, servers: Authorizer) -> Result<Arc<ClientConfig>, Error> {
    Ok(bonafide_tls::client_config(Some(source.slot()), source.trust(), servers, source.clock())?)
}

pub(crate) fn caller_of<IO>(stream: &TlsStream<IO>) -> Result<Caller, Error> {
    // Both configurations demand a certificate.
    bonafide_tls::peer_svid(stream).map(Caller::new).ok_or(Error::NoSvid("the peer presented none"))
}
