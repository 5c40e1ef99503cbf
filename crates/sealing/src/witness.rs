//! The second witness: a statement, signed with a node's key, of what the node itself has measured.
//!
//! An authority that registers an attacker's program under the right ID makes every certificate right. A policy with a witness is
//! therefore judged on what stands here: the claims are the node's own, and the chain of its certificate ends in a site's root
//! of the roster, which no authority can change. Chain and claims are for the keyholder to judge; this module says what is
//! signed, and that every field is what the keyholder itself has seen.

use crate::document::{Digest, FormatError, Signature, framed};
use crate::group::{G1Point, Index};
use crate::identity::Identity;

/// The most bytes of measured claims.
pub const MAX_CLAIMS: usize = 8 << 10;
/// For how long a statement counts, in seconds before and after its time.
pub const VALIDITY: u64 = 60;

/// What a keyholder knows of a question by itself.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Digest of its roster.
    pub roster: &'a Digest,
    /// Its own index.
    pub keyholder: Index,
    /// What is asked about.
    pub identity: &'a Identity,
    /// Which version.
    pub version: u64,
    /// The blinded point.
    pub point: &'a G1Point,
    /// SHA-256 of the caller's certificate: the exporter of TLS 1.3 does not cover it.
    pub certificate: &'a Digest,
    /// Keying material exported of the connection (RFC 9266).
    pub exporter: &'a [u8; 32],
    /// The keyholder's nonce.
    pub nonce: &'a [u8; 16],
}

/// What a node says, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it has measured, in a form of the agents'.
    pub claims: Vec<u8>,
    /// When: seconds since 1970.
    pub issued: u64,
}

impl Statement {
    /// What the node signs.
    ///
    /// # Errors
    /// [`FormatError::TooLong`] for more claims than are looked at.
    pub fn message(&self, circumstances: &Circumstances<'_>) -> Result<Vec<u8>, FormatError> {
        if self.claims.len() > MAX_CLAIMS {
            return Err(FormatError::TooLong("witness statement"));
        }
        let fields = framed(&[
            circumstances.roster,
            &[circumstances.keyholder.number()],
            circumstances.identity.bytes(),
            &circumstances.version.to_be_bytes(),
            &circumstances.point.encode(),
            circumstances.certificate,
            circumstances.exporter,
            &self.claims,
            &self.issued.to_be_bytes(),
            circumstances.nonce,
        ]);
        Ok([b"bbf-witness-v1".as_slice(), &fields].concat())
    }

    /// Whether this node's key has signed this statement about these circumstances, at this time. `verify` is the node's
    /// certified key, as the keyholder has verified it.
    #[must_use]
    pub fn holds(
        &self,
        circumstances: &Circumstances<'_>,
        signature: &Signature,
        verify: impl FnOnce(&[u8], &[u8]) -> bool,
        now: u64,
    ) -> bool {
        let fresh = now.abs_diff(self.issued) <= VALIDITY;
        fresh && self.message(circumstances).is_ok_and(|message| verify(&message, &signature.value))
    }
}
