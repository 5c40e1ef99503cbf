use bonafide_crypto::key::KeyError;

use crate::attributes::AttributesError;

/// Why bytes are not a certificate that anybody here looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateError {
    /// More than 16 KiB.
    #[error("the certificate is longer than 16 KiB")]
    TooLong,
    /// More certificates than expected.
    #[error("there are too many certificates")]
    TooMany,
    /// Not DER, or not the structure of a certificate.
    #[error("the certificate is not well-formed DER")]
    Malformed,
    /// Bytes behind the certificate.
    #[error("there are bytes behind the certificate")]
    TrailingBytes,
    /// Not version 3.
    #[error("the certificate is not of version 3")]
    Version,
    /// A serial that is zero, negative, longer than 20 octets or padded.
    #[error("the serial number is not a positive integer of at most 20 octets")]
    Serial,
    /// The signed and the unsigned signature algorithm differ.
    #[error("the signature algorithm inside the certificate is not the one outside")]
    SignatureAlgorithmMismatch,
    /// MD5, SHA-1, DSA, unknown, or with wrong parameters.
    #[error("the signature algorithm is not allowed")]
    SignatureAlgorithm,
    /// Times in the wrong form, or an end before the beginning.
    #[error("the validity is not two UTC times in order, in the form that their years demand")]
    Validity,
    /// An issuer or subject that is not a name.
    #[error("the issuer or the subject is not a well-formed name")]
    Name,
    /// A key that is malformed, too weak or too large.
    #[error("the public key is not acceptable: {0}")]
    PublicKey(#[from] KeyError),
    /// More than 32 extensions.
    #[error("there are more than 32 extensions")]
    TooManyExtensions,
    /// An extension that occurs twice.
    #[error("an extension occurs twice")]
    DuplicateExtension,
    /// A critical extension that is not understood.
    #[error("a critical extension is not known")]
    UnknownCriticalExtension,
    /// A known extension that is malformed.
    #[error("the extension `{0}` is malformed")]
    Extension(&'static str),
    /// An extension that must not be critical.
    #[error("the extension `{0}` is critical and must not be")]
    CriticalExtension(&'static str),
    /// Attested attributes that are malformed.
    #[error("the attested attributes are malformed: {0}")]
    Attributes(#[from] AttributesError),
}

impl CertificateError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "certificate.too-long",
            Self::TooMany => "certificate.too-many",
            Self::Malformed => "certificate.malformed",
            Self::TrailingBytes => "certificate.trailing-bytes",
            Self::Version => "certificate.version",
            Self::Serial => "certificate.serial",
            Self::SignatureAlgorithmMismatch => "certificate.signature-algorithm-mismatch",
            Self::SignatureAlgorithm => "certificate.signature-algorithm",
            Self::Validity => "certificate.validity",
            Self::Name => "certificate.name",
            Self::PublicKey(_) => "certificate.public-key",
            Self::TooManyExtensions => "certificate.too-many-extensions",
            Self::DuplicateExtension => "certificate.duplicate-extension",
            Self::UnknownCriticalExtension => "certificate.unknown-critical-extension",
            Self::Extension(_) => "certificate.extension",
            Self::CriticalExtension(_) => "certificate.critical-extension",
            Self::Attributes(_) => "certificate.attributes",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::SignatureAlgorithm => "sign with ECDSA, Ed25519 or RSA, and with SHA-256 or stronger",
            Self::PublicKey(error) => error.hint(),
            Self::Attributes(error) => error.hint(),
            Self::TooMany => "send the leaf and its intermediates, and nothing else",
            Self::UnknownCriticalExtension => "issue the certificate without that extension, or not critical",
            _ => "issue the certificate again with an authority that keeps RFC 5280",
        }
    }
}
