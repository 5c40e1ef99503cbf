use std::io;

use bonafide_identity::{SpiffeId, x509::X509Error};

use crate::NotAuthorized;

/// Why a peer was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    /// It is who it says, but is not welcome.
    #[error(transparent)]
    NotAuthorized(#[from] NotAuthorized),
    /// Bootstrap only: the peer is of the right trust domain, but is no server of its authority.
    #[error("`{0}` is not a server of the authority")]
    NotAuthority(SpiffeId),
    /// Bootstrap only: no certificate that the peer sent has the pinned digest.
    #[error("the server's root certificate is not the pinned one")]
    NotPinned,
    /// Its certificates prove nothing to us.
    #[error(transparent)]
    Svid(#[from] X509Error),
}

impl PeerError {
    /// A stable name for what happened.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAuthorized(_) => "tls.peer-not-authorized",
            Self::NotAuthority(_) => "tls.peer-not-authority",
            Self::NotPinned => "tls.root-not-pinned",
            Self::Svid(error) => error.code(),
        }
    }

    /// What to do about it. May be empty.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotAuthorized(_) => "connect to another peer, or allow this SPIFFE ID",
            Self::NotAuthority(_) => "check the address: something else than the authority answers there",
            Self::NotPinned => {
                "the join line is of another authority, or of an earlier life of this one: make a new one"
            }
            Self::Svid(error) => error.hint(),
        }
    }
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// TLS itself failed: no common version or algorithm, a broken or foreign protocol.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
    /// The connection broke.
    #[error("the connection broke during the TLS handshake: {0}")]
    Io(io::Error),
    /// We have nothing to present: no SVID has come yet, or the last one has expired.
    #[error("this process has no identity at the moment")]
    NoIdentity,
    /// We refused the peer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer ended the handshake, or the young connection, with an alert: it doesn't accept us.
    #[error("the peer refused this process' identity: {0}")]
    Refused(String),
    /// Roots that servers with names are to be judged by can't be read.
    #[error("the root certificates can't be used: {0}")]
    Roots(String),
    /// The peer took too long.
    #[error("the TLS handshake took too long")]
    Timeout,
}

impl TlsError {
    /// A stable name for what happened.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "tls.handshake",
            Self::Io(_) => "tls.io",
            Self::NoIdentity => "tls.no-identity",
            Self::Peer(error) => error.code(),
            Self::Refused(_) => "tls.refused-by-peer",
            Self::Roots(_) => "tls.roots",
            Self::Timeout => "tls.timeout",
        }
    }

    /// What to do about it. May be empty.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "check that the other side speaks TLS 1.3 and presents an X509-SVID",
            Self::Io(_) => "",
            Self::NoIdentity => "ask the agent why: `bonafide explain`",
            Self::Peer(error) => error.hint(),
            Self::Refused(_) => "the reason stands in the peer's log",
            Self::Roots(_) => "name a PEM file with the certificates of the CAs that servers are to be under",
            Self::Timeout => "check the network between the two, and the peer's load",
        }
    }

    /// The peer's refusal, or ours because the peer was revoked, inside an I/O error of an established
    /// [`TlsStream`](crate::TlsStream); `None` if it is about something else.
    pub fn of_io(error: &io::Error) -> Option<Self> {
        if let Some(own) = error.get_ref()?.downcast_ref::<Self>() {
            return own.duplicate();
        }
        match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) => Some(Self::Refused(describe(*alert))),
            _ => None,
        }
    }

    /// The same error once more, for who finds it in a chain of causes; `None` for [`TlsError::Io`], which can't be copied.
    pub fn duplicate(&self) -> Option<Self> {
        match self {
            Self::Handshake(text) => Some(Self::Handshake(text.clone())),
            Self::Io(_) => None,
            Self::NoIdentity => Some(Self::NoIdentity),
            Self::Peer(error) => Some(Self::Peer(error.clone())),
            Self::Refused(text) => Some(Self::Refused(text.clone())),
            Self::Roots(text) => Some(Self::Roots(text.clone())),
            Self::Timeout => Some(Self::Timeout),
        }
    }

    /// The error of a handshake, once the verifier's own verdict has been asked for.
    pub(crate) fn of_handshake(error: io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Io(error);
        };
        match tls {
            rustls::Error::AlertReceived(alert) => Self::Refused(describe(*alert)),
            other => Self::Handshake(other.to_string()),
        }
    }
}

fn describe(alert: rustls::AlertDescription) -> String {
    format!("TLS alert `{alert:?}`")
}
