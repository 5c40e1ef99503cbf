//! Certificate profiles and templates, the linter, the certificate authority, and the rotation of its keys.
//!
//! A certificate is made in four steps, each of which only takes what the one before it made:
//!
//! 1. [`template`] lays it out, and is the only module that does: [`Tbs`](template::Tbs).
//! 2. [`lint`] reads the bytes again, with code of its own, and compares them with RFC 5280, X509-SVID, the issuer
//!    and the order: [`LintedTbs`](lint::LintedTbs).
//! 3. [`CertificateAuthority`] signs nothing but that.
//!
//! [`rotation`] decides when keys are prepared, published, activated and retired. It has no clock and does no I/O.

mod authority;
pub mod lint;
pub mod rotation;
pub mod template;
mod validity;

pub use authority::{CertificateAuthority, IssueError, self_sign_root, sign_intermediate};
pub use validity::{BACKDATE, SerialNumber, Validity};
