//! The only place that names rustls: SPIFFE verifiers, rotating identities, authorizers.
//!
//! - TLS 1.3 only, with aws-lc-rs as the explicit provider; the hybrid X25519MLKEM768 is preferred.
//! - Sessions are never resumed, on neither side: a resumed session would skip the certificates, and with them today's
//!   bundle (rustls verifies no chain on resumption).
//! - A peer is who [`bonafide_identity::x509::verify`] says, at the time of the handshake, under the [`Trust`] of that
//!   moment, and only if the [`Authorizer`] agrees. What it verified is kept beside the connection ([`peer_svid`]): nobody
//!   parses the certificate a second time.
//! - A connection ends when its peer is revoked ([`Trusted`]), not only when its SVID does.
//! - [`IdentitySlot`] holds what we present. Setting it changes new handshakes; open connections live on.
//!
//! In TLS 1.3 a client has finished before the server has looked at the client's certificate. So a server's refusal
//! reaches the client with its first read: see [`TlsError::of_io`].

mod authorizer;
mod config;
mod delegate;
mod ending;
mod error;
mod listener;
mod named;
mod shares;
mod slot;
mod strangers;
mod stream;
mod trusted;
mod verifier;

pub use bonafide_identity::x509::VerifiedX509Svid;

pub use authorizer::{Authorizer, NotAuthorized};
pub use config::{ClientConfig, Clients, ServerConfig, client_config, pinned_client_config, server_config};
pub use error::{PeerError, TlsError};
pub use listener::{TcpConnection, TlsLimits, TlsListener};
pub use named::NamedServers;
pub use slot::IdentitySlot;
pub use stream::{ClientStream, ServerStream, TlsStream, peer_svid};
pub use trusted::Trusted;

/// [`Trusted`], shared by those who change it and those who judge by it.
pub type Trust = std::sync::Arc<Trusted>;
