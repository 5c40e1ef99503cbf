//! The groups of BLS12-381, as types that can't hold what must not be computed with.
//!
//! | type | what it always is |
//! |---|---|
//! | [`Scalar`] | a number below the order; erased when dropped, never printed |
//! | [`G1Point`], [`G2Point`] | in the subgroup of prime order, and not infinity |
//! | [`PreparedPoint`] | the lines of a point of the second group; erased when dropped, because that point may be secret |
//! | [`Gt`] | in the subgroup of prime order; erased when dropped; one that was decoded is not 1 |
//!
//! Multiplications of points and pairings take the same time for every scalar. [`Gt::product_of_powers`] does not: its
//! exponents are public.
//!
//! Everything is computed by [blst](https://github.com/supranational/blst), which names itself in one private module. The tests
//! compare with a second implementation (arkworks) and with RFC 9380.

mod foreign;
mod point;
mod polynomial;
mod scalar;
mod target;

pub use self::point::{G1_BYTES, G1Point, G2_BYTES, G2Point, PreparedPoint};
pub use self::polynomial::{Index, MAX_KEYHOLDERS, Polynomial, evaluate_commitments, lagrange_at_zero};
pub use self::scalar::Scalar;
pub use self::target::{GT_BYTES, Gt, pair, pair_multiple};

/// Bytes that are no element of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Not the one encoding of a point of the first group, outside of its subgroup, or infinity.
    #[error("not the canonical encoding of a point of the first group")]
    G1,
    /// The same of the second group.
    #[error("not the canonical encoding of a point of the second group")]
    G2,
    /// Not the one encoding of an element of the target group, outside of its subgroup, or 1.
    #[error("not the canonical encoding of an element of the target group")]
    Gt,
    /// Indices of keyholders are distinct, from 1 on, and at most [`MAX_KEYHOLDERS`].
    #[error("indices of keyholders are distinct numbers from 1 to `{MAX_KEYHOLDERS}`")]
    Indices,
    /// A number that is not below the order of the group.
    #[error("the number is not below the order of the group")]
    Scalar,
}

impl GroupError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::G1 => "sealing.g1-refused",
            Self::G2 => "sealing.g2-refused",
            Self::Gt => "sealing.gt-refused",
            Self::Indices => "sealing.indices-refused",
            Self::Scalar => "sealing.scalar-refused",
        }
    }
}
