//! X509-SVIDs: holding one, and verifying another's (X509-SVID.md, RFC 5280 section 6).

mod client;
mod error;
mod path;
pub mod profile;
mod svid;

pub use self::client::{MAX_CLIENT_CHAIN, VerifiedClient, check_client_authority, verify_client};
pub use self::error::X509Error;
pub use self::path::{MAX_CHAIN_LENGTH, VerifiedX509Svid, verify};
pub use self::svid::{X509Svid, X509SvidError};
