//! Kinds of keys, operations, and which can do which.

use std::fmt;

use bonafide_crypto::key::{KeyAlgorithm, PublicKey, SignatureAlgorithm};
use bonafide_crypto::oaep::OaepHash;

/// What kind of key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyType {
    /// AES-128-GCM with a key for each message ([`bonafide_crypto::xaes`]).
    Aes128Gcm = 1,
    /// AES-256-GCM with a key for each message: XAES-256-GCM of C2SP. The default.
    #[default]
    Aes256Gcm = 2,
    /// ChaCha20-Poly1305 with a key for each message, derived by HMAC-SHA-256.
    ChaCha20Poly1305 = 3,
    /// HMAC with SHA-256.
    HmacSha256 = 4,
    /// HMAC with SHA-384.
    HmacSha384 = 5,
    /// HMAC with SHA-512.
    HmacSha512 = 6,
    /// ECDSA on P-256.
    EcdsaP256 = 7,
    /// ECDSA on P-384.
    EcdsaP384 = 8,
    /// ECDSA on P-521.
    EcdsaP521 = 9,
    /// Ed25519.
    Ed25519 = 10,
    /// RSA with 2048 bits: encrypts (OAEP) and signs (PSS, PKCS#1).
    Rsa2048 = 11,
    /// RSA with 3072 bits.
    Rsa3072 = 12,
    /// RSA with 4096 bits.
    Rsa4096 = 13,
    /// ML-DSA-65 (FIPS 204).
    MlDsa65 = 14,
    /// ML-KEM-768 (FIPS 203), with XAES-256-GCM under the shared secret.
    MlKem768 = 15,
}

/// What can be done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Operation {
    /// Encrypt.
    Encrypt = 1,
    /// Decrypt, and open data keys.
    Decrypt = 2,
    /// Decrypt, and encrypt again under the primary version, without showing the plaintext.
    Rewrap = 3,
    /// Make a MAC.
    Mac = 4,
    /// Check a MAC.
    VerifyMac = 5,
    /// Sign.
    Sign = 6,
    /// Check a signature.
    Verify = 7,
    /// Draw a data key, and wrap it.
    DataKey = 8,
    /// Draw random bytes: no key is used.
    Random = 9,
    /// Give out the public half.
    PublicKey = 10,
    /// Give out the key itself.
    Fetch = 11,
}

/// How a message is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// With a key on a curve, or RSA.
    Classic(SignatureAlgorithm),
    /// With ML-DSA-65.
    MlDsa65,
}

impl KeyType {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::Aes128Gcm,
        Self::Aes256Gcm,
        Self::ChaCha20Poly1305,
        Self::HmacSha256,
        Self::HmacSha384,
        Self::HmacSha512,
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::EcdsaP521,
        Self::Ed25519,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::MlDsa65,
        Self::MlKem768,
    ];

    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes128-gcm",
            Self::Aes256Gcm => "aes256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::EcdsaP521 => "ecdsa-p521",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
            Self::MlDsa65 => "ml-dsa-65",
            Self::MlKem768 => "ml-kem-768",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key_type| key_type.as_str() == name)
    }

    /// The number that stands for it in ciphertexts and records. It never changes.
    #[must_use]
    pub const fn tag(self) -> u8 {
        self as u8
    }

    /// The kind of this number.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|key_type| key_type.tag() == tag)
    }

    /// Whether keys of this kind can do it. Fetching needs a key that was declared exportable, besides.
    #[must_use]
    pub const fn can(self, operation: Operation) -> bool {
        match operation {
            Operation::Encrypt | Operation::Decrypt | Operation::Rewrap | Operation::DataKey => {
                self.encrypts()
            }
            Operation::Mac | Operation::VerifyMac => self.is_mac(),
            Operation::Sign | Operation::Verify => self.signs(),
            Operation::PublicKey => self.has_public_half(),
            Operation::Random | Operation::Fetch => true,
        }
    }

    /// Whether it encrypts, and so wraps data keys.
    #[must_use]
    pub const fn encrypts(self) -> bool {
        self.is_cipher() || matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 | Self::MlKem768)
    }

    /// Whether it is a key of a symmetric cipher: only these can be convergent.
    #[must_use]
    pub const fn is_cipher(self) -> bool {
        matches!(self, Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305)
    }

    /// Whether it makes MACs.
    #[must_use]
    pub const fn is_mac(self) -> bool {
        matches!(self, Self::HmacSha256 | Self::HmacSha384 | Self::HmacSha512)
    }

    /// Whether it signs.
    #[must_use]
    pub const fn signs(self) -> bool {
        self.has_public_half() && !matches!(self, Self::MlKem768)
    }

    /// Whether the private half can be in a PKCS#11 device: what most of them have.
    #[must_use]
    pub const fn can_be_external(self) -> bool {
        matches!(self, Self::EcdsaP256 | Self::EcdsaP384 | Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }

    /// Whether this is the public half of such a key.
    pub(crate) fn is_of(self, public: &PublicKey) -> bool {
        self.classic().map(|kind| kind.to_string()) == Some(public.algorithm().to_string())
    }

    /// Whether there is a public half.
    #[must_use]
    pub const fn has_public_half(self) -> bool {
        !self.is_cipher() && !self.is_mac()
    }

    /// The longest plaintext of one message in bytes; 0 for what does not encrypt.
    #[must_use]
    pub const fn max_plaintext(self) -> usize {
        match self {
            Self::Rsa2048 => 256 - OAEP_OVERHEAD,
            Self::Rsa3072 => 384 - OAEP_OVERHEAD,
            Self::Rsa4096 => 512 - OAEP_OVERHEAD,
            _ if self.encrypts() => crate::material::MAX_PLAINTEXT,
            _ => 0,
        }
    }

    /// How a key of this kind signs if nothing else is said: RSA with PSS and SHA-256.
    #[must_use]
    pub const fn default_scheme(self) -> Option<Scheme> {
        Some(match self {
            Self::EcdsaP256 => Scheme::Classic(SignatureAlgorithm::EcdsaP256Sha256),
            Self::EcdsaP384 => Scheme::Classic(SignatureAlgorithm::EcdsaP384Sha384),
            Self::EcdsaP521 => Scheme::Classic(SignatureAlgorithm::EcdsaP521Sha512),
            Self::Ed25519 => Scheme::Classic(SignatureAlgorithm::Ed25519),
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => {
                Scheme::Classic(SignatureAlgorithm::RsaPssSha256)
            }
            Self::MlDsa65 => Scheme::MlDsa65,
            _ => return None,
        })
    }

    /// The kind of private key that is under it, if it is one of those that certificates have too.
    #[must_use]
    pub const fn classic(self) -> Option<KeyAlgorithm> {
        Some(match self {
            Self::EcdsaP256 => KeyAlgorithm::EcP256,
            Self::EcdsaP384 => KeyAlgorithm::EcP384,
            Self::EcdsaP521 => KeyAlgorithm::EcP521,
            Self::Ed25519 => KeyAlgorithm::Ed25519,
            Self::Rsa2048 => KeyAlgorithm::Rsa2048,
            Self::Rsa3072 => KeyAlgorithm::Rsa3072,
            Self::Rsa4096 => KeyAlgorithm::Rsa4096,
            _ => return None,
        })
    }
}

/// RFC 8017 section 7.1.1, with SHA-256.
const OAEP_OVERHEAD: usize = 2 * 32 + 2;

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 11] = [
        Self::Encrypt,
        Self::Decrypt,
        Self::Rewrap,
        Self::Mac,
        Self::VerifyMac,
        Self::Sign,
        Self::Verify,
        Self::DataKey,
        Self::Random,
        Self::PublicKey,
        Self::Fetch,
    ];

    /// The stable name, which policies use as the action.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Rewrap => "rewrap",
            Self::Mac => "mac",
            Self::VerifyMac => "verify-mac",
            Self::Sign => "sign",
            Self::Verify => "verify",
            Self::DataKey => "data-key",
            Self::Random => "random",
            Self::PublicKey => "public-key",
            Self::Fetch => "fetch",
        }
    }

    /// The operation of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.as_str() == name)
    }
}

impl Scheme {
    /// Every scheme. Its place in this list plus one is its number.
    pub const ALL: [Self; 11] = [
        Self::Classic(SignatureAlgorithm::EcdsaP256Sha256),
        Self::Classic(SignatureAlgorithm::EcdsaP384Sha384),
        Self::Classic(SignatureAlgorithm::EcdsaP521Sha512),
        Self::Classic(SignatureAlgorithm::Ed25519),
        Self::Classic(SignatureAlgorithm::RsaPkcs1Sha256),
        Self::Classic(SignatureAlgorithm::RsaPkcs1Sha384),
        Self::Classic(SignatureAlgorithm::RsaPkcs1Sha512),
        Self::Classic(SignatureAlgorithm::RsaPssSha256),
        Self::Classic(SignatureAlgorithm::RsaPssSha384),
        Self::Classic(SignatureAlgorithm::RsaPssSha512),
        Self::MlDsa65,
    ];

    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classic(SignatureAlgorithm::EcdsaP256Sha256) => "ecdsa-p256-sha256",
            Self::Classic(SignatureAlgorithm::EcdsaP384Sha384) => "ecdsa-p384-sha384",
            Self::Classic(SignatureAlgorithm::EcdsaP521Sha512) => "ecdsa-p521-sha512",
            Self::Classic(SignatureAlgorithm::Ed25519) => "ed25519",
            Self::Classic(SignatureAlgorithm::RsaPkcs1Sha256) => "rsa-pkcs1-sha256",
            Self::Classic(SignatureAlgorithm::RsaPkcs1Sha384) => "rsa-pkcs1-sha384",
            Self::Classic(SignatureAlgorithm::RsaPkcs1Sha512) => "rsa-pkcs1-sha512",
            Self::Classic(SignatureAlgorithm::RsaPssSha256) => "rsa-pss-sha256",
            Self::Classic(SignatureAlgorithm::RsaPssSha384) => "rsa-pss-sha384",
            Self::Classic(SignatureAlgorithm::RsaPssSha512) => "rsa-pss-sha512",
            Self::MlDsa65 => "ml-dsa-65",
        }
    }

    /// The scheme of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == name)
    }

    /// The number that stands for it. It never changes.
    #[must_use]
    pub fn tag(self) -> u8 {
        Self::ALL.iter().zip(1..).find(|(scheme, _)| **scheme == self).map_or(0, |(_, tag)| tag)
    }

    /// The scheme of this number.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.get(usize::from(tag.checked_sub(1)?)).copied()
    }

    /// Whether keys of this kind sign so.
    #[must_use]
    pub fn fits(self, key_type: KeyType) -> bool {
        use SignatureAlgorithm as Is;
        match key_type {
            KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => matches!(
                self,
                Self::Classic(
                    Is::RsaPkcs1Sha256
                        | Is::RsaPkcs1Sha384
                        | Is::RsaPkcs1Sha512
                        | Is::RsaPssSha256
                        | Is::RsaPssSha384
                        | Is::RsaPssSha512
                )
            ),
            other => other.default_scheme() == Some(self),
        }
    }
}

/// The hash of OAEP as a number that never changes.
pub(crate) fn oaep_tag(hash: OaepHash) -> u8 {
    match hash {
        OaepHash::Sha1 => 1,
        OaepHash::Sha256 => 2,
        OaepHash::Sha384 => 3,
        OaepHash::Sha512 => 4,
    }
}

/// The hash of this number.
pub(crate) fn oaep_from_tag(tag: u8) -> Option<OaepHash> {
    OaepHash::ALL.into_iter().find(|hash| oaep_tag(*hash) == tag)
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_name_one_thing() {
        for (key_type, tag) in KeyType::ALL.into_iter().zip(1..) {
            assert_eq!(KeyType::from_name(key_type.as_str()), Some(key_type));
            assert_eq!((key_type.tag(), KeyType::from_tag(tag)), (tag, Some(key_type)));
            assert_eq!(key_type.can(Operation::Encrypt), key_type.max_plaintext() > 0);
            assert_eq!(key_type.can(Operation::Sign), key_type.default_scheme().is_some());
            assert!(key_type.default_scheme().is_none_or(|scheme| scheme.fits(key_type)));
            assert!(key_type.encrypts() || key_type.signs() || key_type.is_mac());
        }
        for operation in Operation::ALL {
            assert_eq!(Operation::from_name(operation.as_str()), Some(operation));
        }
        for (scheme, tag) in Scheme::ALL.into_iter().zip(1..) {
            assert_eq!(Scheme::from_name(scheme.as_str()), Some(scheme));
            assert_eq!((scheme.tag(), Scheme::from_tag(tag)), (tag, Some(scheme)));
        }
        assert_eq!((KeyType::from_tag(0), KeyType::from_tag(16)), (None, None));
        assert_eq!((Scheme::from_tag(0), Scheme::from_tag(12)), (None, None));
    }
}
