//! Numbers modulo the order of the groups.

use std::fmt;

use blst::blst_scalar;
use bonafide_crypto::random::Random;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::{GroupError, foreign};

/// A number below the order of the groups. Most are secret, so all are erased when dropped, and none is printed.
#[derive(Clone)]
pub struct Scalar(pub(super) blst_scalar);

impl Scalar {
    /// Zero.
    #[must_use]
    pub fn zero() -> Self {
        Self(blst_scalar::default())
    }

    /// A small number.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        let mut bytes = [0; 32];
        if let Some(low) = bytes.last_chunk_mut::<8>() {
            *low = number.to_be_bytes();
        }
        Self(foreign::scalar_from_bytes(&bytes))
    }

    /// A random number that is not zero.
    #[must_use]
    pub fn random(random: &dyn Random) -> Self {
        loop {
            let mut bytes = Zeroizing::new([0; 48]);
            random.fill(bytes.as_mut());
            let scalar = Self::reduce(&bytes);
            // 48 bytes make the bias smaller than 2^-128 (RFC 9380 section 5). Zero does not happen.
            if !scalar.is_zero() {
                return scalar;
            }
        }
    }

    /// A big-endian number modulo the order.
    #[must_use]
    pub fn reduce(bytes: &[u8; 48]) -> Self {
        Self(foreign::scalar_reduce(bytes))
    }

    /// A number from its 32 bytes, big-endian.
    ///
    /// # Errors
    /// [`GroupError::Scalar`] if it is not below the order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, GroupError> {
        let scalar = foreign::scalar_from_bytes(bytes);
        if foreign::scalar_is_reduced(&scalar) { Ok(Self(scalar)) } else { Err(GroupError::Scalar) }
    }

    /// Its 32 bytes, big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        foreign::scalar_to_bytes(&self.0, &mut out);
        out
    }

    /// Whether it is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.b.ct_eq(&[0; 32]).into()
    }

    /// The sum.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self(foreign::scalar_add(&self.0, &other.0))
    }

    /// The difference.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self(foreign::scalar_sub(&self.0, &other.0))
    }

    /// The product.
    #[must_use]
    pub fn times(&self, other: &Self) -> Self {
        Self(foreign::scalar_mul(&self.0, &other.0))
    }

    /// The inverse; `None` of zero.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        (!self.is_zero()).then(|| Self(foreign::scalar_inverse(&self.0)))
    }

    /// Its 64-bit limbs, least significant first.
    pub(super) fn limbs(&self) -> [u64; 4] {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(self.0.b.as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        limbs
    }
}

impl PartialEq for Scalar {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.b.ct_eq(&other.0.b).into()
    }
}

impl Eq for Scalar {}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scalar([secret])")
    }
}

// blst's own type is erased on drop as well; this does not rely on it.
impl Drop for Scalar {
    fn drop(&mut self) {
        self.0.b.zeroize();
    }
}
