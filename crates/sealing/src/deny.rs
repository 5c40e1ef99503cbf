//! What keyholders answer no more: policies, labels, identities, old versions.
//!
//! A list expires: a keyholder that hears nothing from the owner answers nothing. The owner alone adds to it; what is on it
//! stays there, because a removal would undo a revocation for whoever held the removing key.

use std::collections::BTreeSet;

use bonafide_crypto::digest::sha256;

use crate::cbor::{Reader, Writer};
use crate::document::{Digest, Document, Signed};
use crate::identity::{Identity, Keyset, MAX_KEYSET, Tenant};
use crate::owner::{Owner, Purpose};
use crate::trust::{TrustError, ensure};

/// The most entries of each kind.
pub const MAX_ENTRIES: usize = 4096;

/// What is denied in one keyset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyList {
    /// Whose.
    pub tenant: Tenant,
    /// Of which key.
    pub keyset: Keyset,
    /// Rises with each.
    pub serial: u64,
    /// When it ceases to count: seconds since 1970.
    pub expires: u64,
    /// Versions below are answered no more.
    pub min_version: u64,
    /// SHA-256 of policies.
    pub policies: BTreeSet<Digest>,
    /// SHA-256 of labels.
    pub labels: BTreeSet<Digest>,
    /// Digests of identities: one policy under one label.
    pub identities: BTreeSet<Digest>,
}

/// A list that the owner has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedDenyList(DenyList);

/// Why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The list has expired.
    #[error("the deny-list of this keyholder has expired")]
    Stale,
    /// The version is retired.
    #[error("this version of the sealing key is retired")]
    Version,
    /// Policy, label or both are on the list.
    #[error("this secret is revoked")]
    Revoked,
}

impl TrustedDenyList {
    /// A list that this owner has signed. `before` is the newest that was seen here.
    ///
    /// # Errors
    /// [`TrustError`] if it is another tenant's, not signed, not newer than the one before, or lacks what stood there.
    pub fn verify(
        owner: &Owner,
        signed: &Signed<DenyList>,
        before: Option<&Self>,
    ) -> Result<Self, TrustError> {
        let list = &signed.body;
        ensure(list.tenant == *owner.tenant(), TrustError::Mismatch(DenyList::NAME))?;
        owner.verify(Purpose::Deny, signed)?;
        if let Some(Self(before)) = before {
            ensure(list.keyset == before.keyset, TrustError::Mismatch(DenyList::NAME))?;
            ensure(list.serial > before.serial, TrustError::Stale(DenyList::NAME))?;
            let kept = list.min_version >= before.min_version
                && list.policies.is_superset(&before.policies)
                && list.labels.is_superset(&before.labels)
                && list.identities.is_superset(&before.identities);
            ensure(kept, TrustError::Chain(DenyList::NAME))?;
        }
        Ok(Self(list.clone()))
    }

    /// What stands in it.
    #[must_use]
    pub fn list(&self) -> &DenyList {
        &self.0
    }

    /// Whether a request may be answered at this moment, in seconds since 1970.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check(&self, identity: &Identity, label: &[u8], version: u64, now: u64) -> Result<(), Denied> {
        if now >= self.0.expires {
            return Err(Denied::Stale);
        }
        if version < self.0.min_version {
            return Err(Denied::Version);
        }
        let revoked = self.0.policies.contains(identity.policy_digest())
            || self.0.identities.contains(identity.digest())
            || self.0.labels.contains(&sha256(label));
        if revoked { Err(Denied::Revoked) } else { Ok(()) }
    }
}

impl Denied {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Stale => "sealing.deny-list-stale",
            Self::Version => "sealing.version-retired",
            Self::Revoked => "sealing.revoked",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Stale => "the owner must sign a new deny-list; until then this keyholder answers nothing",
            Self::Version => "rewrap the secret for the newest version, or seal it again",
            Self::Revoked => "the owner has revoked it; seal a new secret",
        }
    }
}

impl Document for DenyList {
    const NAME: &'static str = "deny-list";
    const MAX: usize = 256 + 3 * MAX_ENTRIES * 34;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(8).number(1).bytes(self.tenant.as_bytes()).number(2).text(self.keyset.as_str());
        out.number(3).number(self.serial).number(4).number(self.expires).number(5).number(self.min_version);
        for (key, set) in (6..).zip([&self.policies, &self.labels, &self.identities]) {
            out.number(key).array(set.len());
            for digest in set {
                out.bytes(digest);
            }
        }
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let tenant = Tenant::from_bytes(*reader.fixed()?);
        map.required(&mut reader, 2)?;
        let keyset = Keyset::new(reader.text(MAX_KEYSET)?).ok()?;
        map.required(&mut reader, 3)?;
        let serial = reader.number()?;
        map.required(&mut reader, 4)?;
        let expires = reader.number()?;
        map.required(&mut reader, 5)?;
        let min_version = reader.number()?;
        let mut sets = [(); 3].map(|()| BTreeSet::new());
        for (key, set) in (6..).zip(&mut sets) {
            map.required(&mut reader, key)?;
            let entries = reader.list(MAX_ENTRIES, |reader| reader.fixed::<32>().copied())?;
            if !entries.is_sorted_by(|a, b| a < b) {
                return None;
            }
            set.extend(entries);
        }
        map.end()?;
        reader.finish()?;
        let [policies, labels, identities] = sets;
        Some(Self { tenant, keyset, serial, expires, min_version, policies, labels, identities })
    }
}
