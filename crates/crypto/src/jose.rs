//! JSON Web Signatures in compact form and JSON Web Keys, as far as JWT-SVIDs use them (JWT-SVID section 2).
//!
//! Nine algorithms, all of them with a public key. There is no HMAC and no `none`: neither type nor code path
//! exists, so a token can't choose them.

mod algorithm;
mod jwk;
mod jws;
mod strict_json;

pub use algorithm::JwsAlgorithm;
pub use jwk::{Jwk, JwkError};
pub use jws::{CompactJws, Header, JwsError, Limits, sign_compact, sign_compact_each};
pub use strict_json::{JsonError, parse_object};

#[cfg(test)]
mod tests;
