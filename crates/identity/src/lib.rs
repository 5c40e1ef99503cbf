//! SPIFFE IDs, X509- and JWT-SVIDs, trust bundles: parse, build, validate, verify.
//!
//! Everything here is pure: bytes and a time go in, a value that cannot be wrong comes out. What a type
//! holds was checked by its one constructor, and what was verified is read from the verified bytes alone.

pub mod attributes;
pub mod bundle;
mod certificate;
mod der;
mod dns;
mod id;
mod instance;
pub mod jwt;
mod pattern;
pub mod reserved;
pub mod revocation;
pub mod time;
pub mod x509;

pub use crate::bundle::{BundleMap, TrustBundle};
pub use crate::certificate::{
    BasicConstraints, Certificate, CertificateError, ExtendedKeyUsage, KeyUsage, MAX_CERTIFICATE_LENGTH,
};
pub use crate::dns::{DnsError, DnsName, DnsPattern};
pub use crate::id::{IdError, MAX_ID_LENGTH, MAX_TRUST_DOMAIN_LENGTH, SpiffeId, TrustDomain, check_segment};
pub use crate::instance::{InstanceId, InstanceIdError};
pub use crate::jwt::{JwtClaims, JwtSvid};
pub use crate::pattern::SpiffeIdPattern;
pub use crate::revocation::{Revocation, Revocations};
pub use crate::time::{Clock, SystemClock, UnixTime};
pub use crate::x509::{VerifiedX509Svid, X509Svid};
