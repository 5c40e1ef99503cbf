//! What every certificate has: a time and a number.

use std::fmt;
use std::time::Duration;

use bonafide_crypto::random::Random;
use bonafide_identity::Certificate;
use bonafide_identity::time::UnixTime;

/// How long before its issuance a certificate begins to be valid, for peers whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_secs(30);

/// The first and the last second of a certificate (RFC 5280 section 4.1.2.5: both included).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Validity {
    /// From [`BACKDATE`] before `now` until `lifetime` after it. `None` if that is no time at all, begins before
    /// 1970 or ends after 9999.
    #[must_use]
    pub fn starting(now: UnixTime, lifetime: Duration) -> Option<Self> {
        if lifetime.as_secs() == 0 {
            return None;
        }
        Self::new(now.saturating_sub(BACKDATE), now.checked_add(lifetime)?)
    }

    /// Between two moments, which must be in order and between 1970 and 9999.
    #[must_use]
    pub fn new(not_before: UnixTime, not_after: UnixTime) -> Option<Self> {
        let end_of_time = UnixTime::from_civil(9999, 12, 31, 23, 59, 59)?;
        let fits = UnixTime::EPOCH <= not_before && not_before < not_after && not_after <= end_of_time;
        fits.then_some(Self { not_before, not_after })
    }

    /// The part of this time at which `issuer` is valid too. `None` if there is none.
    #[must_use]
    pub fn within(self, issuer: &Certificate) -> Option<Self> {
        Self::new(self.not_before.max(issuer.not_before()), self.not_after.min(issuer.not_after()))
    }

    /// The first second.
    #[must_use]
    pub const fn not_before(self) -> UnixTime {
        self.not_before
    }

    /// The last second.
    #[must_use]
    pub const fn not_after(self) -> UnixTime {
        self.not_after
    }
}

/// A serial number: 16 octets with 126 random bits, positive whatever they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// Draws a serial number.
    #[must_use]
    pub fn random(random: &dyn Random) -> Self {
        Self::from_random_bytes(random.array())
    }

    /// Makes a serial number of bytes that are random. The first bit is cleared, so that the number is positive
    /// (RFC 5280 section 4.1.2.2), and the second set, so that it always has 16 octets and is never zero.
    #[must_use]
    pub fn from_random_bytes(mut bytes: [u8; 16]) -> Self {
        if let Some(first) = bytes.first_mut() {
            *first = *first & 0x3f | 0x40;
        }
        Self(bytes)
    }

    /// The number, big-endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SerialNumber({self})")
    }
}
