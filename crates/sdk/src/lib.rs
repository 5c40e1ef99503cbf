//! What a workload links: an identity that rotates by itself, and mutual TLS that knows who is at the other end.
//!
//! A program needs no key, token or password. It asks the agent of its node, over the SPIFFE Workload API, and proves who
//! it is by being itself: the agent looks at the process. Any agent that speaks the SPIFFE Workload API will do.
//!
//! ```no_run
//! use bonafide_sdk::{Authorizer, Caller, X509Source, grpc, tls};
//! # async fn example() -> Result<(), bonafide_sdk::Error> {
//! // From the socket in SPIFFE_ENDPOINT_SOCKET. Renews itself as long as it lives.
//! let source = X509Source::connect().await?;
//! println!("I am {}", source.id()?);
//!
//! // Any protocol: a stream, and who is at its end.
//! let friends = Authorizer::member_of(source.id()?.trust_domain().clone());
//! let mut listener = tls::TlsListener::bind("127.0.0.1:7000", &source, friends.clone()).await?;
//! let (mut stream, caller): (_, Caller) = listener.accept().await?;
//! println!("{} called, instance {:?}", caller.id(), caller.instance());
//!
//! // gRPC with tonic: give the channel to any generated client.
//! let channel = grpc::channel(&source, "127.0.0.1:7001", friends).await?;
//! println!("{:?} answered", channel.callee().map(|callee| callee.id().clone()));
//! # Ok(())
//! # }
//! ```
//!
//! - [`X509Source`]: the process' X509-SVID and the bundles of those it trusts, always fresh.
//! - [`JwtSource`]: JWT-SVIDs for places where TLS ends early, and their validation without a round trip.
//! - [`grpc`] and [`tls`]: servers and clients. A rotation changes new handshakes; open connections live on.
//! - What the authority has revoked is refused at each handshake, and open connections to it end, at most seconds later.
//!   That takes an agent of Bonafide; with another one the lifetime of an SVID is the bound.
//! - [`Guard`]: may this caller do this to that? Decided in this process, by policies that come and change by themselves.
//! - [`Keys`]: encrypt, decrypt, sign and verify with keys that the authority keeps; in this process where that may be.
//! - [`Authorizer`]: who may be at the other end. [`Caller`]: who is.

mod backoff;
mod caller;
mod endpoint;
mod error;
pub mod grpc;
#[cfg(feature = "policy")]
pub mod guard;
mod jwt_source;
#[cfg(feature = "kms")]
pub mod keys;
mod messages;
mod revocations;
mod task;
pub mod tls;
mod x509_source;

pub use bonafide_identity::{
    InstanceId, SpiffeId, SpiffeIdPattern, TrustDomain,
    bundle::{BundleMap, TrustBundle},
    jwt::JwtSvid,
    time::{Clock, SystemClock, UnixTime},
    x509::{VerifiedX509Svid, X509Svid},
};
pub use bonafide_tls::{Authorizer, NotAuthorized, TlsError};

pub use caller::Caller;
pub use endpoint::{DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, Endpoint};
pub use error::Error;
#[cfg(feature = "policy")]
pub use guard::{Denied, Guard, On};
pub use jwt_source::JwtSource;
#[cfg(feature = "kms")]
pub use keys::{Context, Keys};
pub use x509_source::{Options, Pick, Updates, X509Source};
