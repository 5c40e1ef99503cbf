//! The target group, and pairings into it.

use std::fmt;

use blst::{blst_fp, blst_fp12};
use zeroize::{Zeroize as _, Zeroizing};

use super::{G1Point, G2Point, GroupError, PreparedPoint, Scalar, foreign};

/// Bytes of an element of the target group.
pub const GT_BYTES: usize = 576;

/// The absolute value of the curve's parameter, which is negative.
const PARAMETER: u64 = 0xd201_0000_0001_0000;

/// An element of the target group, in its subgroup. Some are secret: all are erased when dropped, and none is printed.
#[derive(Clone)]
pub struct Gt(blst_fp12);

/// The pairing of two points.
#[must_use]
pub fn pair(p: &G1Point, q: &PreparedPoint) -> Gt {
    let mut looped = foreign::miller_loop(&q.0, &p.0);
    let out = Gt(foreign::final_exponentiation(&looped));
    erase(&mut looped);
    out
}

/// The pairing of a multiple of `p`, which is a secret that is erased; `None` when the scalar is zero.
#[must_use]
pub fn pair_multiple(p: &G1Point, scalar: &Scalar, q: &PreparedPoint) -> Option<Gt> {
    let mut product = p.times(scalar)?;
    let out = pair(&product, q);
    product.erase();
    Some(out)
}

impl Gt {
    /// The pairing of two points that are used once.
    #[must_use]
    pub fn of(p: &G1Point, q: &G2Point) -> Self {
        Self(foreign::final_exponentiation(&foreign::miller_loop_once(&q.0, &p.0)))
    }

    /// An element from its bytes: twelve numbers, each 48 bytes, big-endian. With `w` the generator of the field of degree
    /// twelve over that of degree two, whose own is `u`: for each power of `w` from 0 to 5 the real and the imaginary part.
    ///
    /// # Errors
    /// [`GroupError::Gt`] if a number is not reduced, the element is outside of the subgroup, or 1.
    pub fn decode(bytes: &[u8; GT_BYTES]) -> Result<Self, GroupError> {
        let mut out = Self(blst_fp12::default());
        for (number, encoded) in numbers(&mut out.0).zip(bytes.as_chunks::<48>().0) {
            *number = foreign::fp_from_bytes(encoded);
            let mut again = [0; 48];
            foreign::fp_to_bytes(number, &mut again);
            if again != *encoded {
                return Err(GroupError::Gt);
            }
        }
        if foreign::fp12_is_member(&out.0) && !out.is_one() { Ok(out) } else { Err(GroupError::Gt) }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<[u8; GT_BYTES]> {
        let mut out = Zeroizing::new([0; GT_BYTES]);
        let mut copy = self.clone();
        for (number, encoded) in numbers(&mut copy.0).zip(out.as_chunks_mut::<48>().0) {
            foreign::fp_to_bytes(number, encoded);
        }
        out
    }

    /// Whether it is 1.
    #[must_use]
    pub fn is_one(&self) -> bool {
        foreign::fp12_is_one(&self.0)
    }

    /// The product.
    #[must_use]
    pub fn times(&self, other: &Self) -> Self {
        Self(foreign::fp12_mul(&self.0, &other.0))
    }

    /// The inverse.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self(foreign::fp12_conjugate(&self.0))
    }

    /// The product of powers. Its time tells the exponents: they must be public.
    ///
    /// In this group the Frobenius map is a power by the curve's parameter, so that an exponent of 255 bits falls into four of
    /// 64, and all share their squarings.
    #[must_use]
    pub fn product_of_powers<'a>(terms: impl IntoIterator<Item = (&'a Self, Scalar)>) -> Self {
        let mut parts = Vec::new();
        for (base, exponent) in terms {
            let mut table = odd_powers(&base.0);
            for digits in in_parameter_base(&exponent) {
                let next = table.map(|power| foreign::fp12_conjugate(&foreign::fp12_frobenius(&power)));
                parts.push((table, signed_digits(digits)));
                table = next;
            }
        }
        let mut product = foreign::fp12_one();
        for bit in (0..=u64::BITS as usize).rev() {
            product = foreign::fp12_square(&product);
            for (table, digits) in &parts {
                let digit = digits.get(bit).copied().unwrap_or_default();
                let Some(power) = table.get(usize::from(digit.unsigned_abs() / 2)) else { continue };
                match digit.signum() {
                    1 => product = foreign::fp12_mul(&product, power),
                    -1 => product = foreign::fp12_mul(&product, &foreign::fp12_conjugate(power)),
                    _ => {}
                }
            }
        }
        Self(product)
    }
}

impl PartialEq for Gt {
    fn eq(&self, other: &Self) -> bool {
        foreign::fp12_is_equal(&self.0, &other.0)
    }
}

impl Eq for Gt {}

impl fmt::Debug for Gt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gt(..)")
    }
}

impl Drop for Gt {
    fn drop(&mut self) {
        erase(&mut self.0);
    }
}

/// By powers of `w`: blst has the even ones in the first half of its tower, the odd ones in the second.
fn numbers(value: &mut blst_fp12) -> impl Iterator<Item = &mut blst_fp> {
    let [even, odd] = &mut value.fp6;
    even.fp2.iter_mut().zip(&mut odd.fp2).flat_map(|(a, b)| a.fp.iter_mut().chain(&mut b.fp))
}

fn erase(value: &mut blst_fp12) {
    numbers(value).for_each(|number| number.l.zeroize());
}

/// The first, third, fifth and seventh power.
fn odd_powers(base: &blst_fp12) -> [blst_fp12; 4] {
    let square = foreign::fp12_square(base);
    let third = foreign::fp12_mul(base, &square);
    let fifth = foreign::fp12_mul(&third, &square);
    let seventh = foreign::fp12_mul(&fifth, &square);
    [*base, third, fifth, seventh]
}

/// The digits of a number to the base of the curve's parameter, least significant first. The order is smaller than the fourth
/// power of the parameter, so there are four.
fn in_parameter_base(scalar: &Scalar) -> [u64; 4] {
    let mut limbs = scalar.limbs();
    [(); 4].map(|()| {
        let mut remainder = 0_u128;
        for limb in limbs.iter_mut().rev() {
            let value = remainder << 64 | u128::from(*limb);
            // The remainder is below the parameter, so the quotient has 64 bits.
            *limb = (value / u128::from(PARAMETER)) as u64;
            remainder = value % u128::from(PARAMETER);
        }
        remainder as u64
    })
}

/// Odd digits from -7 to 7, and zeros: of four neighbours at most one is not zero.
fn signed_digits(number: u64) -> [i8; 65] {
    let mut digits = [0; 65];
    let mut rest = u128::from(number);
    for digit in &mut digits {
        if rest & 1 == 1 {
            // Below 16.
            let low = (rest & 15) as i8;
            if low < 8 {
                *digit = low;
                rest -= u128::from(low.unsigned_abs());
            } else {
                *digit = low - 16;
                rest += u128::from(digit.unsigned_abs());
            }
        }
        rest >>= 1;
    }
    digits
}
