//! Connections that somebody else encrypts: this crate knows no TLS.

use std::{
    fmt::Debug,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Socket,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};

use crate::BoxFuture;

/// What can be read and written.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Encrypts a connection to a database.
pub trait Encryption: Debug + Send + Sync {
    /// The connection, encrypted to a server that has proved to be `host`: a name or an IP address, as in the database's
    /// address.
    ///
    /// # Errors
    /// If it has not, or the connection broke.
    fn encrypt<'a>(
        &'a self,
        host: &'a str,
        plain: Box<dyn Duplex>,
    ) -> BoxFuture<'a, io::Result<Box<dyn Duplex>>>;
}

/// For one host.
pub(super) struct Encrypter {
    encryption: Arc<dyn Encryption>,
    host: String,
}

/// For any host.
pub(super) struct MakeEncrypter(pub(super) Arc<dyn Encryption>);

pub(super) struct Encrypted(Box<dyn Duplex>);

impl MakeTlsConnect<Socket> for MakeEncrypter {
    type Stream = Encrypted;
    type TlsConnect = Encrypter;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Encrypter> {
        Ok(Encrypter { encryption: Arc::clone(&self.0), host: host.to_owned() })
    }
}

impl TlsConnect<Socket> for Encrypter {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Encrypted>>;

    fn connect(self, plain: Socket) -> Self::Future {
        Box::pin(async move { self.encryption.encrypt(&self.host, Box::new(plain)).await.map(Encrypted) })
    }
}

impl TlsStream for Encrypted {
    /// None: the server's certificate is verified, so nobody stands between whose channel would be another one.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
