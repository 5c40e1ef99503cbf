//! Who owns a secret, and what it is sealed to: tenant, keyset, and the hash of the exact bytes of a policy.

use std::fmt;

use bonafide_crypto::digest::sha256;
use bonafide_crypto::random::Random;

use crate::document::{Digest, FormatError, SUITE, framed};
use crate::group::{G2Point, GroupError};

/// The most bytes of a policy.
pub const MAX_POLICY: usize = 8 << 10;
/// The most bytes of a label.
pub const MAX_LABEL: usize = 256;
/// The most bytes of the name of a keyset.
pub const MAX_KEYSET: usize = 64;

/// Domain separation of the hash to the second group.
pub const IDENTITY_TAG: &[u8] = b"BBF-V01-CS02-ID-with-BLS12381G2_XMD:SHA-256_SSWU_RO_";

/// A tenant: a random number that stays, whatever happens to keys. Never derived of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant([u8; 16]);

/// The name of a sealing key of a tenant: letters, digits, `-`, `_` and `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keyset(String);

/// What a secret is sealed to. The version of the key is not in it, so that a secret can be sealed anew under the next one.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    bytes: Vec<u8>,
    digest: Digest,
    policy: Digest,
}

impl Tenant {
    /// A new tenant.
    #[must_use]
    pub fn random(random: &dyn Random) -> Self {
        Self(random.array())
    }

    /// A tenant from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl Keyset {
    /// A name.
    ///
    /// # Errors
    /// [`FormatError`] if it is empty, too long, or has other characters.
    pub fn new(name: &str) -> Result<Self, FormatError> {
        if name.len() > MAX_KEYSET {
            return Err(FormatError::TooLong("keyset name"));
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(FormatError::Malformed("keyset name"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Identity {
    /// The identity of a policy, given as the exact bytes that keyholders will evaluate, under a label, which may be empty. The
    /// policy is not looked at here.
    ///
    /// # Errors
    /// [`FormatError`] for an empty policy, and for one, or a label, that is too long.
    pub fn new(tenant: &Tenant, keyset: &Keyset, policy: &[u8], label: &[u8]) -> Result<Self, FormatError> {
        if policy.len() > MAX_POLICY {
            return Err(FormatError::TooLong("policy"));
        }
        if policy.is_empty() {
            return Err(FormatError::Malformed("policy"));
        }
        if label.len() > MAX_LABEL {
            return Err(FormatError::TooLong("label"));
        }
        let policy = sha256(policy);
        let bytes = framed(&[SUITE.as_bytes(), &tenant.0, keyset.0.as_bytes(), &policy, label]);
        let digest = sha256(&bytes);
        Ok(Self { bytes, digest, policy })
    }

    /// Its bytes: `lp(suite) lp(tenant) lp(keyset) lp(SHA256(policy)) lp(label)`.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of its bytes.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// SHA-256 of the policy.
    #[must_use]
    pub fn policy_digest(&self) -> &Digest {
        &self.policy
    }

    /// Its public key: a point of the second group. Takes a fifth of a millisecond.
    ///
    /// # Errors
    /// [`GroupError::G2`] if the hash is infinity, which happens to nobody.
    pub fn point(&self) -> Result<G2Point, GroupError> {
        G2Point::hash(&self.bytes, IDENTITY_TAG).ok_or(GroupError::G2)
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tenant({self})")
    }
}

impl fmt::Display for Keyset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Keyset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyset({self})")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(")?;
        self.digest.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}
