//! What a client does to an encapsulation before it shows it to anybody.

use std::fmt;

use bonafide_crypto::random::Random;

use crate::document::Digest;
use crate::group::{G1Point, GroupError, Gt, PreparedPoint, Scalar, pair_multiple};
use crate::identity::Identity;
use crate::params::TrustedParams;

/// A policy as a client opens secrets of it: its point, ready for pairings. Public, and kept as long as it is useful.
#[derive(Debug)]
pub struct BlindingPolicy {
    /// Which parameters and identity blinds are good for.
    key: BlindKey,
    public_key: G1Point,
    point: PreparedPoint,
}

/// A blind: a random point, and what takes it away again. Good for one question; made ahead, it makes opening faster by a
/// millisecond.
pub struct Blinding {
    key: BlindKey,
    /// b·G
    offset: G1Point,
    /// e(b·Y, Q)⁻¹
    mask: Gt,
}

/// What takes the blind away from an answer.
pub(crate) struct Mask(Gt);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlindKey {
    params: Digest,
    identity: Digest,
}

impl BlindingPolicy {
    /// The policy of an identity under these parameters.
    ///
    /// # Errors
    /// [`GroupError`] if the identity has no point.
    pub fn new(params: &TrustedParams, identity: &Identity) -> Result<Self, GroupError> {
        Ok(Self {
            key: BlindKey { params: *params.digest(), identity: *identity.digest() },
            public_key: params.params().key,
            point: identity.point()?.prepare(),
        })
    }

    /// A new blind.
    ///
    /// # Errors
    /// [`GroupError`] if a number is zero, which happens to nobody.
    pub fn blind(&self, random: &dyn Random) -> Result<Blinding, GroupError> {
        let number = Scalar::random(random);
        let offset = G1Point::generator().times(&number).ok_or(GroupError::G1)?;
        let mask = pair_multiple(&self.public_key, &number, &self.point).ok_or(GroupError::Gt)?;
        Ok(Blinding { key: self.key, offset, mask: mask.inverse() })
    }
}

impl Blinding {
    /// A = U + b·G, which is uniformly random whatever U is. Consumes the blind: used twice, the difference of two questions
    /// would be that of two encapsulations.
    ///
    /// # Errors
    /// [`GroupError::G1`] if the blind is for other parameters or another identity, or the sum is infinity.
    pub(crate) fn apply(
        self,
        params: &TrustedParams,
        identity: &Identity,
        encapsulation: &G1Point,
    ) -> Result<(G1Point, Mask), GroupError> {
        if self.key != (BlindKey { params: *params.digest(), identity: *identity.digest() }) {
            return Err(GroupError::G1);
        }
        let point = encapsulation.plus(&self.offset).ok_or(GroupError::G1)?;
        Ok((point, Mask(self.mask)))
    }
}

impl Mask {
    /// The shared element, out of answers and what to raise each of them to.
    pub(crate) fn combine<'a>(&self, answers: impl IntoIterator<Item = (&'a Gt, Scalar)>) -> Gt {
        Gt::product_of_powers(answers).times(&self.0)
    }
}

impl fmt::Debug for Blinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blinding([secret])")
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mask([secret])")
    }
}
