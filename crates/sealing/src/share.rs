//! One share of a sealing key, and the one thing that is done with it.

use std::fmt;

use bonafide_crypto::kept::{KeptKey, NoRoom};
use bonafide_crypto::random::Random;
use zeroize::Zeroizing;

use crate::document::{Digest, framed};
use crate::epoch::{EpochRecord, TrustedEpoch};
use crate::group::{G1Point, GroupError, Gt, Index, PreparedPoint, Scalar, pair};
use crate::identity::{Identity, Keyset, Tenant};
use crate::params::SealParams;
use crate::proof::{Proof, Statement};

/// Which share of which key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ShareName {
    /// Whose.
    pub tenant: Tenant,
    /// Of which key.
    pub keyset: Keyset,
    /// Of which version.
    pub version: u64,
    /// Of which epoch. Shares of different epochs do not fit together.
    pub epoch: u64,
    /// Whose share it is.
    pub index: Index,
}

/// A share. It lies in protected memory, and leaves it for as long as a policy is prepared or an answer proven; erased when dropped.
pub struct Share {
    name: ShareName,
    secret: KeptKey,
    public: G1Point,
}

/// What a share makes of an identity, once: the secret point, ready for pairings. Erased when dropped. It answers for one share
/// and identity, so it is kept by both, and goes when the epoch does.
pub struct PreparedPolicy {
    name: ShareName,
    identity: Digest,
    lines: PreparedPoint,
}

/// Why a share does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// The request, or what was prepared, is for another key, version or epoch.
    #[error("the request is for another keyset, version or epoch than this share is of")]
    OtherKey,
    /// The share does not fit the commitments of its epoch.
    #[error("the share does not fit the commitments of its epoch")]
    Inconsistent,
    /// A number was zero, which happens to nobody.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// There is no protected memory for it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl ShareName {
    /// What a stored share is bound to.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        framed(&[
            b"bbf-share-v1",
            self.tenant.as_bytes(),
            self.keyset.as_str().as_bytes(),
            &self.version.to_be_bytes(),
            &self.epoch.to_be_bytes(),
            &[self.index.number()],
        ])
    }
}

impl Share {
    /// A share that fits its epoch.
    ///
    /// # Errors
    /// [`ShareError::Inconsistent`] if it does not; [`ShareError::OtherKey`] if the record is of other parameters;
    /// [`ShareError::NoRoom`] if there is no protected memory for it.
    pub fn new(
        params: &SealParams,
        record: &EpochRecord,
        index: Index,
        secret: Scalar,
    ) -> Result<Self, ShareError> {
        if record.params != crate::document::Document::digest(params) {
            return Err(ShareError::OtherKey);
        }
        let public = G1Point::generator().times(&secret).ok_or(ShareError::Inconsistent)?;
        if record.share(index) != Some(&public) {
            return Err(ShareError::Inconsistent);
        }
        let name = ShareName {
            tenant: params.tenant,
            keyset: params.keyset.clone(),
            version: params.version,
            epoch: record.epoch,
            index,
        };
        Ok(Self { name, secret: KeptKey::new(&secret.to_bytes())?, public })
    }

    /// A share from the bytes that [`Self::secret_bytes`] gave, of a record that was verified.
    ///
    /// # Errors
    /// [`ShareError`] if they are not the share of this index.
    pub fn from_bytes(
        params: &SealParams,
        epoch: &TrustedEpoch,
        index: Index,
        secret: &[u8; 32],
    ) -> Result<Self, ShareError> {
        Self::new(params, epoch.record(), index, Scalar::from_bytes(secret)?)
    }

    /// What it is a share of.
    #[must_use]
    pub fn name(&self) -> &ShareName {
        &self.name
    }

    /// What everybody may know of it.
    #[must_use]
    pub fn public(&self) -> &G1Point {
        &self.public
    }

    /// The secret, to be stored under a seal key of this epoch, bound to [`ShareName::aad`].
    #[must_use]
    pub fn secret_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*self.secret.expose())
    }

    pub(crate) fn secret(&self) -> Result<Scalar, GroupError> {
        Scalar::from_bytes(self.secret.expose())
    }

    /// What is computed once for each policy and label: 0.5 ms.
    ///
    /// # Errors
    /// [`ShareError`] if the identity has no point.
    pub fn prepare(&self, identity: &Identity) -> Result<PreparedPolicy, ShareError> {
        let lines = identity.point()?.prepare_multiple(&self.secret()?).ok_or(GroupError::G2)?;
        Ok(PreparedPolicy { name: self.name.clone(), identity: *identity.digest(), lines })
    }

    /// The blind answer, e(A, k·Q): half a millisecond. Whoever calls has judged the policy, on the very bytes that the identity
    /// was made of. The caller's point never meets the share itself, only the secret point of its policy.
    ///
    /// # Errors
    /// [`ShareError::OtherKey`] if the policy was prepared by another share.
    pub fn evaluate(&self, policy: &PreparedPolicy, point: &G1Point) -> Result<Gt, ShareError> {
        if policy.name != self.name {
            return Err(ShareError::OtherKey);
        }
        Ok(pair(point, &policy.lines))
    }

    /// Proof that an answer is right: about a millisecond.
    ///
    /// # Errors
    /// [`ShareError::Group`] if a number is zero.
    pub fn prove(
        &self,
        identity: &Identity,
        point: &G1Point,
        value: &Gt,
        random: &dyn Random,
    ) -> Result<Proof, ShareError> {
        let statement = Statement { identity, share: &self.public, point, value };
        Ok(Proof::new(&statement, &self.secret()?, random)?)
    }
}

impl PreparedPolicy {
    /// Digest of the identity that it answers for.
    #[must_use]
    pub fn identity(&self) -> &Digest {
        &self.identity
    }
}

impl ShareError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::OtherKey => "sealing.other-key",
            Self::Inconsistent => "sealing.share-inconsistent",
            Self::Group(error) => error.code(),
            Self::NoRoom(_) => "sealing.no-protected-memory",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::OtherKey => "ask a keyholder of this keyset, version and epoch",
            Self::Inconsistent => {
                "the share was damaged, or belongs to another epoch; reshare without this keyholder"
            }
            Self::Group(_) => "try again; if it persists, the machine or its memory is at fault",
            Self::NoRoom(_) => "raise the limit of locked memory, or free some memory",
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("name", &self.name)
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PreparedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedPolicy").field("name", &self.name).finish_non_exhaustive()
    }
}
