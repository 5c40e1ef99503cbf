//! SPIFFE IDs, X509- and JWT-SVIDs, trust bundles: parse, build, validate, verify.
//!
//! Everything here is pure: bytes and a time go in, a value that cannot be wrong comes out. What a type
//! holds was checked by its one constructor, and what was verified is read from the verified bytes alone.

mod asn1;
pub mod attributes;
mod dns;
mod id;
mod instance;
mod pattern;
pub mod reserved;
pub mod time;

pub use crate::dns::{DnsError, DnsName, DnsPattern};
pub use crate::id::{IdError, MAX_ID_LENGTH, MAX_TRUST_DOMAIN_LENGTH, SpiffeId, TrustDomain, check_segment};
pub use crate::instance::{InstanceId, InstanceIdError};
pub use crate::pattern::SpiffeIdPattern;
