use super::profile::ProfileError;
use crate::certificate::CertificateError;
use crate::id::TrustDomain;
use crate::revocation::{Subject, SubjectKind};
use crate::time::UnixTime;

/// Why a chain of certificates does not prove an identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum X509Error {
    /// No certificate at all.
    #[error("no certificate was presented")]
    Empty,
    /// More certificates than a path can have.
    #[error("more than 8 certificates were presented")]
    ChainTooLong,
    /// One of the certificates is malformed.
    #[error("certificate {index} of the chain: {source}")]
    Certificate {
        /// Its place in the chain; the leaf is 0.
        index: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The leaf cannot be the leaf of an X509-SVID.
    #[error("the leaf is not an X509-SVID: {0}")]
    Leaf(#[source] ProfileError),
    /// An intermediate cannot be one.
    #[error("certificate {index} of the chain cannot sign X509-SVIDs: {source}")]
    Intermediate {
        /// Its place in the chain; the leaf is 0.
        index: usize,
        /// What is wrong with it.
        source: ProfileError,
    },
    /// The root in the bundle cannot be one.
    #[error("the authority in the bundle cannot sign X509-SVIDs: {0}")]
    Authority(#[source] ProfileError),
    /// There is no bundle for the trust domain of the leaf.
    #[error("the trust domain `{0}` is not known")]
    UnknownTrustDomain(TrustDomain),
    /// An authority on the path belongs to another trust domain than the leaf.
    #[error("an authority on the path belongs to the trust domain `{authority}`, not to `{leaf}`")]
    ForeignAuthority {
        /// The trust domain of the leaf.
        leaf: TrustDomain,
        /// The trust domain of the authority.
        authority: TrustDomain,
    },
    /// A certificate of the path is no longer valid.
    #[error("certificate {index} of the chain expired at {not_after}, and it is {now}")]
    Expired {
        /// Its place in the chain; the leaf is 0, and the root comes after the last one.
        index: usize,
        /// Its last second.
        not_after: UnixTime,
        /// The time of the check.
        now: UnixTime,
    },
    /// A certificate of the path is not yet valid.
    #[error("certificate {index} of the chain is valid from {not_before}, and it is {now}")]
    NotYetValid {
        /// Its place in the chain; the leaf is 0, and the root comes after the last one.
        index: usize,
        /// Its first second.
        not_before: UnixTime,
        /// The time of the check.
        now: UnixTime,
    },
    /// No path leads to an authority of the bundle.
    #[error("no path leads from the leaf to an authority of its trust domain")]
    UnknownAuthority,
    /// A signature does not match.
    #[error("a signature on the path does not match")]
    Signature,
    /// The algorithm of a signature is not allowed, or does not fit the key.
    #[error("a signature on the path has an algorithm that does not fit its key")]
    SignatureAlgorithm,
    /// A path length constraint is exceeded.
    #[error("the path is longer than an authority on it allows")]
    PathLength,
    /// The authority key identifier does not name the issuer's key.
    #[error("the authority key identifier does not name the key of the issuer")]
    KeyIdentifier,
    /// A name is outside the name constraints of an authority.
    #[error("a name lies outside the name constraints of an authority on the path")]
    NameConstraints,
    /// Too many possible paths.
    #[error("the chain offers too many paths to try")]
    TooComplex,
    /// An authority on every path has a key that its trust domain has withdrawn.
    #[error("an authority on the path is no longer trusted: its key `{0}` was withdrawn")]
    DistrustedAuthority(String),
    /// The SVID was revoked.
    #[error("the SVID is revoked, by its {0}")]
    Revoked(Subject),
    /// Whatever else the path validation found.
    #[error("the path is not valid: `{0}`")]
    Path(String),
}

impl X509Error {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "x509.empty",
            Self::ChainTooLong => "x509.chain-too-long",
            Self::Certificate { source, .. } => source.code(),
            Self::Leaf(source) | Self::Intermediate { source, .. } | Self::Authority(source) => source.code(),
            Self::UnknownTrustDomain(_) => "x509.unknown-trust-domain",
            Self::ForeignAuthority { .. } => "x509.foreign-authority",
            Self::Expired { .. } => "x509.expired",
            Self::NotYetValid { .. } => "x509.not-yet-valid",
            Self::UnknownAuthority => "x509.unknown-authority",
            Self::Signature => "x509.signature",
            Self::SignatureAlgorithm => "x509.signature-algorithm",
            Self::PathLength => "x509.path-length",
            Self::KeyIdentifier => "x509.key-identifier",
            Self::NameConstraints => "x509.name-constraints",
            Self::TooComplex => "x509.too-complex",
            Self::DistrustedAuthority(_) => "x509.distrusted-authority",
            Self::Revoked(subject) => match subject.kind() {
                SubjectKind::Agent => "x509.revoked-agent",
                SubjectKind::AuthorityKey => "x509.distrusted-authority",
                SubjectKind::Id => "x509.revoked-id",
                SubjectKind::Instance => "x509.revoked-instance",
                SubjectKind::Site => "x509.revoked-site",
            },
            Self::Path(_) => "x509.path",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty => "configure the peer to present its X509-SVID",
            Self::ChainTooLong => "present the leaf and its intermediates, and nothing else",
            Self::Certificate { source, .. } => source.hint(),
            Self::Leaf(source) | Self::Intermediate { source, .. } | Self::Authority(source) => source.hint(),
            Self::UnknownTrustDomain(_) => "federate with that trust domain, or correct the peer's identity",
            Self::ForeignAuthority { .. } => "an authority can only sign for its own trust domain",
            Self::Expired { .. } => "check that the peer renews its SVID, and compare the clocks",
            Self::NotYetValid { .. } => "compare the clocks of the issuer and of this machine",
            Self::UnknownAuthority => {
                "check that the bundle is current and that the peer sends its intermediates"
            }
            Self::Signature | Self::SignatureAlgorithm | Self::KeyIdentifier | Self::Path(_) => {
                "the chain is damaged or forged: present the chain exactly as it was issued"
            }
            Self::PathLength | Self::NameConstraints => {
                "ask whoever runs the upstream authority to allow the path"
            }
            Self::TooComplex => "present one chain, leaf first",
            Self::DistrustedAuthority(_) => {
                "the peer must get a new SVID: check that its agent is connected to the authority"
            }
            Self::Revoked(_) => "an administrator has revoked it: `bonafide revoke list` says when and why",
        }
    }
}
