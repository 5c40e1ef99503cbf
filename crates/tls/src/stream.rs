use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bonafide_identity::x509::VerifiedX509Svid;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{PeerError, TlsError, Trust, ending::Direction, trusted::Place, verifier::Verdict};

/// A TLS connection, and who is at the other end.
#[derive(Debug)]
pub struct TlsStream<IO> {
    inner: tokio_rustls::TlsStream<IO>,
    peer: Option<Arc<VerifiedX509Svid>>,
    /// Tells when the peer is revoked.
    place: Option<Place>,
}

/// What a server gets of [`ServerConfig::accept`](crate::ServerConfig::accept).
pub type ServerStream<IO> = TlsStream<IO>;

/// What a client gets of [`ClientConfig::connect`](crate::ClientConfig::connect).
pub type ClientStream<IO> = TlsStream<IO>;

/// Who is at the other end: exactly what was verified in the handshake. `None` only at a server that lets clients in
/// without a certificate.
pub fn peer_svid<IO>(stream: &TlsStream<IO>) -> Option<Arc<VerifiedX509Svid>> {
    stream.peer.clone()
}

impl<IO> TlsStream<IO> {
    pub(crate) fn new(
        handshake: io::Result<tokio_rustls::TlsStream<IO>>,
        verdict: Verdict,
        trust: Option<&Trust>,
    ) -> Result<Self, TlsError> {
        let verdict: Option<Result<_, PeerError>> = verdict.get().cloned();
        match (handshake, verdict) {
            (_, Some(Err(refused))) => Err(refused.into()),
            (Err(error), _) => Err(TlsError::of_handshake(error)),
            (Ok(inner), Some(Ok(peer))) => {
                let place = trust.map(|trust| trust.enter(&peer));
                Ok(Self { inner, peer: Some(peer), place })
            }
            (Ok(inner), None) => Ok(Self { inner, peer: None, place: None }),
        }
    }

    /// As [`peer_svid`].
    pub fn peer(&self) -> Option<&Arc<VerifiedX509Svid>> {
        self.peer.as_ref()
    }

    /// The connection below.
    pub fn io(&self) -> &IO {
        self.inner.get_ref().0
    }

    pub(crate) fn io_mut(&mut self) -> &mut IO {
        self.inner.get_mut().0
    }

    /// The application protocol that both agreed on.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.inner.get_ref().1.alpn_protocol()
    }

    /// The key exchange of this connection, as `X25519MLKEM768`.
    pub fn key_exchange(&self) -> Option<String> {
        self.inner.get_ref().1.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO> {
    /// Does `io` as long as the peer is not revoked.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        io: impl FnOnce(Pin<&mut tokio_rustls::TlsStream<IO>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(place) = &self.place {
            place.check()?;
        }
        let polled = io(Pin::new(&mut self.inner), cx);
        if let (Poll::Pending, Some(place)) = (&polled, &self.place) {
            place.wait(direction, cx)?;
        }
        polled
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(cx, Direction::Read, |inner, cx| inner.poll_read(cx, out))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll(cx, Direction::Write, |inner, cx| inner.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll(cx, Direction::Write, |inner, cx| inner.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(cx, Direction::Write, |inner, cx| inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Never refused: it is how a connection ends.
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
