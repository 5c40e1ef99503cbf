use crate::certificate::CertificateError;
use crate::id::IdError;

/// Why bytes are not a bundle, or not a map of bundles.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BundleError {
    /// More than 1 MiB, or a map of more than 16 MiB.
    #[error("the bundle is longer than allowed")]
    TooLong,
    /// Not JSON, not an object, or an object with a member twice.
    #[error("the bundle is not a JSON object with unique members")]
    Json,
    /// No `keys`, or not a list of objects.
    #[error("`keys` is missing, or not a list of objects")]
    Keys,
    /// More than 512 keys.
    #[error("the bundle has more than 512 keys")]
    TooManyKeys,
    /// A member of the wrong type or out of range.
    #[error("the member `{0}` has the wrong type or is out of range")]
    Member(&'static str),
    /// A certificate that is not base64, or not a certificate.
    #[error("key {index} has a malformed certificate")]
    Encoding {
        /// Its place in `keys`, from 0.
        index: usize,
    },
    /// A certificate that is malformed.
    #[error("the certificate of key {index}: {source}")]
    Certificate {
        /// Its place in `keys`, from 0.
        index: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// A key that is malformed, private, or not acceptable.
    #[error("key {index}: {reason}")]
    Key {
        /// Its place in `keys`, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A JWT key without key ID, or with a key ID that is too long.
    #[error("key {index} is a JWT key without a `kid` of 1 to 256 bytes")]
    KeyId {
        /// Its place in `keys`, from 0.
        index: usize,
    },
    /// Two JWT keys with one key ID.
    #[error("two JWT keys have the same `kid`")]
    DuplicateKeyId,
    /// A map without `trust_domains`.
    #[error("`trust_domains` is missing, or not an object")]
    Map,
    /// More than 4096 bundles in a map.
    #[error("the map has more than 4096 bundles")]
    TooManyBundles,
    /// A key of a map that is not a trust domain.
    #[error("a key of the map is not a trust domain: {0}")]
    TrustDomain(IdError),
    /// A trust domain twice in a map.
    #[error("the map has a trust domain twice")]
    DuplicateTrustDomain,
}

impl BundleError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "bundle.too-long",
            Self::Json => "bundle.json",
            Self::Keys => "bundle.keys",
            Self::TooManyKeys => "bundle.too-many-keys",
            Self::Member(_) => "bundle.member",
            Self::Encoding { .. } => "bundle.encoding",
            Self::Certificate { source, .. } => source.code(),
            Self::Key { .. } => "bundle.key",
            Self::KeyId { .. } => "bundle.key-id",
            Self::DuplicateKeyId => "bundle.duplicate-key-id",
            Self::Map => "bundle.map",
            Self::TooManyBundles => "bundle.too-many-bundles",
            Self::TrustDomain(_) => "bundle.trust-domain",
            Self::DuplicateTrustDomain => "bundle.duplicate-trust-domain",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Certificate { source, .. } => source.hint(),
            Self::TrustDomain(error) => error.hint(),
            Self::TooLong | Self::TooManyKeys | Self::TooManyBundles => {
                "remove authorities that expired or are no longer used"
            }
            _ => "fetch the bundle again, in the SPIFFE bundle format, from the authority that publishes it",
        }
    }
}
