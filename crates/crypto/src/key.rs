//! Private and public keys, and what signs.

mod algorithm;
mod private;
mod public;

pub use algorithm::{KeyAlgorithm, PublicKeyAlgorithm, SignatureAlgorithm};
pub use private::{PrivateKey, SignError, Signer};
pub(crate) use public::rsa_spki;
pub use public::{BadSignature, PublicKey};

/// The largest SubjectPublicKeyInfo that is looked at, in bytes. An RSA key of 8192 bits takes 1062.
pub const MAX_SPKI_BYTES: usize = 2048;

/// The largest PKCS#8 document that is looked at, in bytes. An RSA key of 8192 bits takes about 4700.
pub const MAX_PKCS8_BYTES: usize = 8192;

/// Why a key was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No key could be drawn.
    #[error("a new key could not be generated")]
    Generation,
    /// A private key does not fit its own public half, or is not one of its kind.
    #[error("the private key is not consistent")]
    Inconsistent,
    /// Not canonical DER of the expected structure.
    #[error("the key is not canonical DER")]
    Malformed,
    /// The point is not on its curve, or is of small order.
    #[error("the public key is not a point on its curve")]
    NotOnCurve,
    /// The RSA exponent is even, below 65537 or above 32 bits.
    #[error("the RSA exponent must be odd, at least 65537 and at most 32 bits long")]
    RsaExponent,
    /// The RSA modulus is too short, too long or even.
    #[error("the RSA modulus must be odd and have 2048 to 8192 bits, not `{bits}`")]
    RsaModulus {
        /// The length that was found.
        bits: usize,
    },
    /// More bytes than any accepted key has.
    #[error("the key has more bytes than any accepted key")]
    TooLong,
    /// Another algorithm, another curve, a compressed point, or explicit curve parameters.
    #[error("the algorithm or the curve of the key is not supported")]
    Unsupported,
}

impl KeyError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Generation => "crypto.key-generation-failed",
            Self::Inconsistent => "crypto.key-inconsistent",
            Self::Malformed => "crypto.key-malformed",
            Self::NotOnCurve => "crypto.key-not-on-curve",
            Self::RsaExponent => "crypto.rsa-exponent-refused",
            Self::RsaModulus { .. } => "crypto.rsa-modulus-refused",
            Self::TooLong => "crypto.key-too-long",
            Self::Unsupported => "crypto.key-unsupported",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "use an uncompressed key on P-256, P-384 or P-521, an Ed25519 key, or an RSA key of 2048 to 8192 bits"
    }
}

#[cfg(test)]
mod tests;
