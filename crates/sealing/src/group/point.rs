//! Points of the two groups.

use std::fmt;

use blst::{blst_fp6, blst_p1, blst_p1_affine, blst_p2, blst_p2_affine};
use zeroize::{Zeroize as _, Zeroizing};

use super::foreign::{self, LINES};
use super::{GroupError, Scalar};

/// Bytes of a compressed point of the first group.
pub const G1_BYTES: usize = 48;
/// Bytes of a compressed point of the second group.
pub const G2_BYTES: usize = 96;

/// A point of the first group: in the subgroup, not infinity.
#[derive(Clone, Copy)]
pub struct G1Point(pub(super) blst_p1_affine);

/// A point of the second group: in the subgroup, not infinity.
#[derive(Clone, Copy)]
pub struct G2Point(pub(super) blst_p2_affine);

/// A point of the second group, with the lines of its Miller loop computed: a pairing with it takes four fifths of the time.
/// Erased when dropped.
pub struct PreparedPoint(pub(super) Box<[blst_fp6; LINES]>);

impl G1Point {
    /// The generator.
    #[must_use]
    pub fn generator() -> Self {
        Self(foreign::p1_generator())
    }

    /// A point from its compressed form.
    ///
    /// # Errors
    /// [`GroupError::G1`] if it is not canonical, not on the curve, outside of the subgroup, or infinity.
    pub fn decode(bytes: &[u8; G1_BYTES]) -> Result<Self, GroupError> {
        let point = foreign::p1_uncompress(bytes).ok_or(GroupError::G1)?;
        if foreign::p1_is_member(&point) { Ok(Self(point)) } else { Err(GroupError::G1) }
    }

    /// Its compressed form.
    #[must_use]
    pub fn encode(&self) -> [u8; G1_BYTES] {
        foreign::p1_compress(&self.0)
    }

    /// The multiple; `None` when the scalar is zero.
    #[must_use]
    pub fn times(&self, scalar: &Scalar) -> Option<Self> {
        let mut product = foreign::p1_mul(&foreign::p1_from_affine(&self.0), &scalar.0);
        let point = Self::from_sum(&product);
        erase_p1(&mut product);
        point
    }

    /// The multiple as bytes, for a secret that two share; `None` when the scalar is zero.
    #[must_use]
    pub fn shared_secret(&self, scalar: &Scalar) -> Option<Zeroizing<[u8; G1_BYTES]>> {
        let mut product = self.times(scalar)?;
        let secret = Zeroizing::new(product.encode());
        product.erase();
        Some(secret)
    }

    /// The sum; `None` when it is infinity.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Option<Self> {
        Self::from_sum(&foreign::p1_add(
            &foreign::p1_from_affine(&self.0),
            &foreign::p1_from_affine(&other.0),
        ))
    }

    /// The sum of multiples; `None` when it is infinity, as it is of none.
    #[must_use]
    pub fn sum_of_multiples<'a>(terms: impl IntoIterator<Item = (&'a Self, Scalar)>) -> Option<Self> {
        // All zero is how blst writes infinity.
        let sum = terms.into_iter().fold(blst_p1::default(), |sum, (point, scalar)| {
            let product = foreign::p1_mul(&foreign::p1_from_affine(&point.0), &scalar.0);
            foreign::p1_add(&sum, &product)
        });
        Self::from_sum(&sum)
    }

    /// The sum of points; `None` when it is infinity.
    #[must_use]
    pub fn sum<'a>(points: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let sum = points
            .into_iter()
            .fold(blst_p1::default(), |sum, point| foreign::p1_add(&sum, &foreign::p1_from_affine(&point.0)));
        Self::from_sum(&sum)
    }

    /// The subgroup is closed under addition: only infinity has to be looked for.
    fn from_sum(sum: &blst_p1) -> Option<Self> {
        (!foreign::p1_is_infinity(sum)).then(|| Self(foreign::p1_to_affine(sum)))
    }

    /// For points that are made of secrets.
    pub(super) fn erase(&mut self) {
        self.0.x.l.zeroize();
        self.0.y.l.zeroize();
    }
}

impl G2Point {
    /// The generator.
    #[must_use]
    pub fn generator() -> Self {
        Self(foreign::p2_generator())
    }

    /// The hash of a message: `BLS12381G2_XMD:SHA-256_SSWU_RO_` of RFC 9380. A tag of more than 255 bytes has none.
    #[must_use]
    pub fn hash(message: &[u8], tag: &[u8]) -> Option<Self> {
        if tag.is_empty() || tag.len() > 255 {
            return None;
        }
        Self::from_sum(&foreign::hash_to_p2(message, tag))
    }

    /// A point from its compressed form.
    ///
    /// # Errors
    /// [`GroupError::G2`] if it is not canonical, not on the curve, outside of the subgroup, or infinity.
    pub fn decode(bytes: &[u8; G2_BYTES]) -> Result<Self, GroupError> {
        let point = foreign::p2_uncompress(bytes).ok_or(GroupError::G2)?;
        if foreign::p2_is_member(&point) { Ok(Self(point)) } else { Err(GroupError::G2) }
    }

    /// Its compressed form.
    #[must_use]
    pub fn encode(&self) -> [u8; G2_BYTES] {
        foreign::p2_compress(&self.0)
    }

    /// The multiple; `None` when the scalar is zero.
    #[must_use]
    pub fn times(&self, scalar: &Scalar) -> Option<Self> {
        let mut product = foreign::p2_mul(&foreign::p2_from_affine(&self.0), &scalar.0);
        let point = Self::from_sum(&product);
        erase_p2(&mut product);
        point
    }

    /// The sum of points; `None` when it is infinity.
    #[must_use]
    pub fn sum<'a>(points: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let sum = points
            .into_iter()
            .fold(blst_p2::default(), |sum, point| foreign::p2_add(&sum, &foreign::p2_from_affine(&point.0)));
        Self::from_sum(&sum)
    }

    /// The lines of its Miller loop.
    #[must_use]
    pub fn prepare(&self) -> PreparedPoint {
        let mut lines = Box::new([blst_fp6::default(); LINES]);
        foreign::precompute_lines(&self.0, &mut lines);
        PreparedPoint(lines)
    }

    /// The lines of a multiple, of which nothing else remains; `None` when the scalar is zero.
    #[must_use]
    pub fn prepare_multiple(&self, scalar: &Scalar) -> Option<PreparedPoint> {
        let mut product = self.times(scalar)?;
        let prepared = product.prepare();
        product.erase();
        Some(prepared)
    }

    fn from_sum(sum: &blst_p2) -> Option<Self> {
        (!foreign::p2_is_infinity(sum)).then(|| Self(foreign::p2_to_affine(sum)))
    }

    fn erase(&mut self) {
        for part in self.0.x.fp.iter_mut().chain(&mut self.0.y.fp) {
            part.l.zeroize();
        }
    }
}

impl PartialEq for G1Point {
    fn eq(&self, other: &Self) -> bool {
        self.0.x == other.0.x && self.0.y == other.0.y
    }
}

impl Eq for G1Point {}

impl PartialEq for G2Point {
    fn eq(&self, other: &Self) -> bool {
        self.0.x == other.0.x && self.0.y == other.0.y
    }
}

impl Eq for G2Point {}

impl fmt::Debug for G1Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_point(f, "G1Point", &self.encode())
    }
}

impl fmt::Debug for G2Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_point(f, "G2Point", &self.encode())
    }
}

impl fmt::Debug for PreparedPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreparedPoint([secret])")
    }
}

impl Drop for PreparedPoint {
    fn drop(&mut self) {
        for number in self.0.iter_mut().flat_map(|line| &mut line.fp2).flat_map(|pair| &mut pair.fp) {
            number.l.zeroize();
        }
    }
}

/// The first eight bytes tell points apart.
fn write_point(f: &mut fmt::Formatter<'_>, name: &str, encoded: &[u8]) -> fmt::Result {
    write!(f, "{name}(")?;
    encoded.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
    f.write_str("..)")
}

fn erase_p1(point: &mut blst_p1) {
    for part in [&mut point.x, &mut point.y, &mut point.z] {
        part.l.zeroize();
    }
}

fn erase_p2(point: &mut blst_p2) {
    for part in [&mut point.x, &mut point.y, &mut point.z] {
        part.fp.iter_mut().for_each(|number| number.l.zeroize());
    }
}
