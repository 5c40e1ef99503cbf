//! The nine algorithms of JWT-SVID section 2.1 (RFC 7518 section 3.1).

use std::fmt;

use crate::asn1::{Reader, SEQUENCE, Writer};
use crate::key::{PublicKeyAlgorithm, SignatureAlgorithm};

/// A signature algorithm of JOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JwsAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
}

impl JwsAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 9] = [
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
    ];

    /// The name in a header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
        }
    }

    /// The algorithm of exactly this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// The algorithm that tokens of a key are signed with; none for Ed25519, which JWT-SVIDs can't use.
    #[must_use]
    pub const fn default_for(key: PublicKeyAlgorithm) -> Option<Self> {
        match key {
            PublicKeyAlgorithm::EcP256 => Some(Self::Es256),
            PublicKeyAlgorithm::EcP384 => Some(Self::Es384),
            PublicKeyAlgorithm::EcP521 => Some(Self::Es512),
            PublicKeyAlgorithm::Rsa { .. } => Some(Self::Rs256),
            PublicKeyAlgorithm::Ed25519 => None,
        }
    }

    /// The same algorithm as the rest of the world names it.
    #[must_use]
    pub const fn signature_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::Es256 => SignatureAlgorithm::EcdsaP256Sha256,
            Self::Es384 => SignatureAlgorithm::EcdsaP384Sha384,
            Self::Es512 => SignatureAlgorithm::EcdsaP521Sha512,
            Self::Ps256 => SignatureAlgorithm::RsaPssSha256,
            Self::Ps384 => SignatureAlgorithm::RsaPssSha384,
            Self::Ps512 => SignatureAlgorithm::RsaPssSha512,
            Self::Rs256 => SignatureAlgorithm::RsaPkcs1Sha256,
            Self::Rs384 => SignatureAlgorithm::RsaPkcs1Sha384,
            Self::Rs512 => SignatureAlgorithm::RsaPkcs1Sha512,
        }
    }

    /// Length of one number of an ECDSA signature (RFC 7518 section 3.4).
    const fn coordinate_bytes(self) -> Option<usize> {
        match self {
            Self::Es256 => Some(32),
            Self::Es384 => Some(48),
            Self::Es512 => Some(66),
            Self::Ps256 | Self::Ps384 | Self::Ps512 | Self::Rs256 | Self::Rs384 | Self::Rs512 => None,
        }
    }

    /// The signature as [`crate::key::PublicKey::verify`] takes it: r and s of fixed length become DER. `None` if they have
    /// another length.
    #[must_use]
    pub fn signature_from_jose(self, signature: &[u8]) -> Option<Vec<u8>> {
        let Some(length) = self.coordinate_bytes() else {
            return Some(signature.to_vec());
        };
        if signature.len() != 2 * length {
            return None;
        }
        let (r, s) = signature.split_at_checked(length)?;
        let zero = |number: &[u8]| number.iter().all(|byte| *byte == 0);
        if zero(r) || zero(s) {
            return None;
        }
        let mut writer = Writer::with_capacity(2 * length + 16);
        writer.nested(SEQUENCE, |writer| {
            writer.positive(r);
            writer.positive(s);
        });
        Some(writer.finish())
    }

    /// The reverse of [`Self::signature_from_jose`].
    #[must_use]
    pub fn signature_to_jose(self, signature: Vec<u8>) -> Option<Vec<u8>> {
        let Some(length) = self.coordinate_bytes() else {
            return Some(signature);
        };
        let mut outer = Reader::new(&signature);
        let mut numbers = outer.nested(SEQUENCE)?;
        outer.finish()?;
        let mut fixed = Vec::with_capacity(2 * length);
        for _ in 0..2 {
            let number = numbers.positive()?;
            fixed.resize(fixed.len() + length.checked_sub(number.len())?, 0);
            fixed.extend_from_slice(number);
        }
        numbers.finish()?;
        Some(fixed)
    }
}

impl fmt::Display for JwsAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
