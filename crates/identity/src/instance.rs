//! Instance IDs: one for each launch of a workload.

use std::fmt;
use std::str::FromStr;

use bonafide_crypto::random::Random;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Identifies one launch of a workload: 128 bits, written like a UUID.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InstanceId([u8; 16]);

/// The text is not an instance ID.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an instance ID is 32 lower-case hexadecimal digits, hyphenated like a UUID")]
pub struct InstanceIdError;

impl InstanceIdError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        "instance-id.malformed"
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        "copy the ID as it is shown, such as `0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b`"
    }
}

impl InstanceId {
    /// The ID with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A new ID: 122 random bits in the form of a version 4 UUID (RFC 9562 section 5.4).
    pub fn random(random: &dyn Random) -> Self {
        let mut bytes = random.array::<16>();
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
        *version = *version & 0x0f | 0x40;
        *variant = *variant & 0x3f | 0x80;
        Self(bytes)
    }

    /// The bytes of the ID.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({self})")
    }
}

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    /// Only the form that `Display` writes is accepted, so that an ID has one spelling.
    fn from_str(text: &str) -> Result<Self, InstanceIdError> {
        if text.len() != 36 {
            return Err(InstanceIdError);
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(InstanceIdError),
        };
        let mut bytes = [0; 16];
        let mut characters = text.bytes();
        for (index, byte) in bytes.iter_mut().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) && characters.next() != Some(b'-') {
                return Err(InstanceIdError);
            }
            let (Some(high), Some(low)) = (characters.next(), characters.next()) else {
                return Err(InstanceIdError);
            };
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for InstanceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_other_spellings() {
        let good = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";
        assert!(good.parse::<InstanceId>().is_ok());
        let upper = good.to_uppercase();
        let bare = good.replace('-', "");
        let braces = format!("{{{good}}}");
        let moved = "0190a1b2c-3d4-7e5f-8a6b-7c8d9e0f1a2b";
        for bad in [
            "",
            &upper,
            &bare,
            &braces,
            moved,
            good.get(1..).unwrap(),
            "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2é",
        ] {
            assert_eq!(bad.parse::<InstanceId>(), Err(InstanceIdError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(bytes: [u8; 16]) {
            let id = InstanceId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
