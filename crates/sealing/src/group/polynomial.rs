//! Shamir's sharing: polynomials over the scalars, their commitments, and Lagrange coefficients.

use std::fmt;
use std::num::NonZeroU8;

use bonafide_crypto::random::Random;

use super::{G1Point, GroupError, Scalar};

/// The most keyholders that one key is shared among.
pub const MAX_KEYHOLDERS: u8 = 32;

/// Which keyholder of a roster: 1 to [`MAX_KEYHOLDERS`]. His share is the polynomial at this place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(NonZeroU8);

/// A secret polynomial. Erased when dropped.
#[derive(Clone)]
pub struct Polynomial(Vec<Scalar>);

impl Index {
    /// The index of this number.
    ///
    /// # Errors
    /// [`GroupError::Indices`] for 0 and more than [`MAX_KEYHOLDERS`].
    pub fn new(number: u64) -> Result<Self, GroupError> {
        let number = u8::try_from(number).ok().filter(|number| *number <= MAX_KEYHOLDERS);
        number.and_then(NonZeroU8::new).map(Self).ok_or(GroupError::Indices)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0.get()
    }

    /// 1, 2, … `count`; at most [`MAX_KEYHOLDERS`].
    pub fn first(count: u8) -> impl Iterator<Item = Self> {
        (1..=count.min(MAX_KEYHOLDERS)).filter_map(NonZeroU8::new).map(Self)
    }

    /// Its place in a list that begins with index 1.
    #[must_use]
    pub const fn place(self) -> usize {
        self.0.get() as usize - 1
    }

    pub(crate) fn scalar(self) -> Scalar {
        Scalar::from_number(u64::from(self.number()))
    }
}

impl Polynomial {
    /// A random one with this value at zero and `count` coefficients in all.
    #[must_use]
    pub fn random(at_zero: Scalar, count: u8, random: &dyn Random) -> Self {
        let rest = (1..count).map(|_| Scalar::random(random));
        Self(std::iter::once(at_zero).chain(rest).collect())
    }

    /// Its value at the place of a keyholder.
    #[must_use]
    pub fn at(&self, index: Index) -> Scalar {
        let x = index.scalar();
        self.0.iter().rev().fold(Scalar::zero(), |sum, coefficient| sum.times(&x).plus(coefficient))
    }

    /// Its value at zero.
    #[must_use]
    pub fn at_zero(&self) -> Scalar {
        self.0.first().cloned().unwrap_or_else(Scalar::zero)
    }

    /// Its coefficients in the first group; `None` if one is zero, which happens only at the constant term of a sharing of zero.
    /// That one is left out with `skip` 1.
    #[must_use]
    pub fn commitments(&self, skip: usize) -> Option<Vec<G1Point>> {
        let generator = G1Point::generator();
        self.0.iter().skip(skip).map(|coefficient| generator.times(coefficient)).collect()
    }
}

/// What a polynomial's commitments say about its value at the place of a keyholder. The first commitment is to the coefficient
/// of power `first`. `None` when that is infinity.
#[must_use]
pub fn evaluate_commitments(commitments: &[G1Point], first: u8, index: Index) -> Option<G1Point> {
    let x = index.scalar();
    let mut power = (0..first).fold(Scalar::from_number(1), |power, _| power.times(&x));
    G1Point::sum_of_multiples(commitments.iter().map(|commitment| {
        let this = power.clone();
        power = power.times(&x);
        (commitment, this)
    }))
}

/// What to multiply the shares of these keyholders by, so that their sum is the value at zero. In their order.
///
/// # Errors
/// [`GroupError::Indices`] if there is none, or one twice.
pub fn lagrange_at_zero(indices: &[Index]) -> Result<Vec<Scalar>, GroupError> {
    if indices.is_empty() || indices.len() > usize::from(MAX_KEYHOLDERS) {
        return Err(GroupError::Indices);
    }
    let coefficient = |own: &Index| {
        let x = own.scalar();
        let mut product = Scalar::from_number(1);
        for (place, other) in indices.iter().enumerate() {
            if other == own {
                if indices.iter().position(|index| index == own) != Some(place) {
                    return Err(GroupError::Indices);
                }
                continue;
            }
            let other = other.scalar();
            let difference = other.minus(&x).inverse().ok_or(GroupError::Indices)?;
            product = product.times(&other).times(&difference);
        }
        Ok(product)
    };
    indices.iter().map(coefficient).collect()
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index({})", self.0)
    }
}

impl fmt::Debug for Polynomial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Polynomial([secret])")
    }
}
