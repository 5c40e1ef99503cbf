use bonafide_crypto::jose::JwsError;
use bonafide_crypto::key::SignError;

use crate::id::{IdError, TrustDomain};
use crate::revocation::{Subject, SubjectKind};
use crate::time::UnixTime;

/// Why a token does not prove an identity, or cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// Not a compact JWS with an allowed header, or with a signature that does not match.
    #[error("the token was refused: {0}")]
    Token(#[from] JwsError),
    /// A payload that is not a JSON object, or has a member twice.
    #[error("the payload is not a JSON object with unique members")]
    Payload,
    /// A claim of the wrong type.
    #[error("the claim `{0}` has the wrong type or length")]
    Claim(&'static str),
    /// A time that is not a whole number of seconds from 1970 to 9999.
    #[error("the claim `{0}` is not a whole number of seconds in range")]
    Time(&'static str),
    /// No subject.
    #[error("the claim `sub` is missing")]
    NoSubject,
    /// A subject that is not a SPIFFE ID.
    #[error("the claim `sub` is not a SPIFFE ID: {0}")]
    Subject(#[source] IdError),
    /// A subject that is a trust domain.
    #[error("the SPIFFE ID of the claim `sub` has no path")]
    SubjectWithoutPath,
    /// No audience, or an empty list of them.
    #[error("the claim `aud` is missing or empty")]
    NoAudience,
    /// More than 32 audiences, or one that is empty or longer than 2048 bytes.
    #[error("the claim `aud` has more than 32 members, or one that is not 1 to 2048 bytes long")]
    AudienceBounds,
    /// The token is for others.
    #[error("the token is not meant for this audience")]
    Audience,
    /// The verifier does not know its own name.
    #[error("the verifier has an empty audience")]
    NoOwnAudience,
    /// No expiry.
    #[error("the claim `exp` is missing")]
    NoExpiry,
    /// Too late.
    #[error("the token expired at {expires_at}, and it is {now}")]
    Expired {
        /// From when on it is not accepted.
        expires_at: UnixTime,
        /// The time of the check.
        now: UnixTime,
    },
    /// Too early.
    #[error("the token is valid from {not_before}, and it is {now}")]
    NotYetValid {
        /// From when on it is accepted.
        not_before: UnixTime,
        /// The time of the check.
        now: UnixTime,
    },
    /// Issued more than a minute after now.
    #[error("the token was issued at {issued_at}, and it is {now}")]
    IssuedInTheFuture {
        /// When it says that it was issued.
        issued_at: UnixTime,
        /// The time of the check.
        now: UnixTime,
    },
    /// There is no bundle for the trust domain of the subject.
    #[error("the trust domain `{0}` is not known")]
    UnknownTrustDomain(TrustDomain),
    /// The bundle of the subject's trust domain has no such key.
    #[error("no key of the subject's trust domain signed the token")]
    UnknownKey,
    /// The key that signed the token was withdrawn.
    #[error("the key that signed the token is no longer trusted: it was withdrawn")]
    DistrustedKey,
    /// The token was revoked.
    #[error("the token is revoked, by its {0}")]
    Revoked(Subject),
    /// A key ID that is empty or too long.
    #[error("the key ID is not 1 to 256 bytes long")]
    KeyId,
    /// A key of a kind that JWT-SVIDs can't be signed with.
    #[error("JWT-SVIDs cannot be signed with a key of this kind")]
    UnsuitableKey,
    /// A token that would exceed 16 KiB.
    #[error("the token would be longer than 16 KiB")]
    TooLong,
    /// The signer failed.
    #[error("the token could not be signed: {0}")]
    Sign(#[from] SignError),
}

impl JwtError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Token(JwsError::Algorithm) => "jwt.algorithm",
            Self::Token(JwsError::Encoding) => "jwt.encoding",
            Self::Token(JwsError::Header) => "jwt.header",
            Self::Token(JwsError::Parts) => "jwt.parts",
            Self::Token(JwsError::Signature) => "jwt.signature",
            Self::Token(JwsError::TooLong) | Self::TooLong => "jwt.too-long",
            Self::Token(_) => "jwt.token",
            Self::Payload => "jwt.payload",
            Self::Claim(_) => "jwt.claim",
            Self::Time(_) => "jwt.time",
            Self::NoSubject => "jwt.no-subject",
            Self::Subject(_) => "jwt.subject",
            Self::SubjectWithoutPath => "jwt.subject-without-path",
            Self::NoAudience => "jwt.no-audience",
            Self::AudienceBounds => "jwt.audience-bounds",
            Self::Audience => "jwt.audience",
            Self::NoOwnAudience => "jwt.no-own-audience",
            Self::NoExpiry => "jwt.no-expiry",
            Self::Expired { .. } => "jwt.expired",
            Self::NotYetValid { .. } => "jwt.not-yet-valid",
            Self::IssuedInTheFuture { .. } => "jwt.issued-in-the-future",
            Self::UnknownTrustDomain(_) => "jwt.unknown-trust-domain",
            Self::UnknownKey => "jwt.unknown-key",
            Self::DistrustedKey => "jwt.distrusted-key",
            Self::Revoked(subject) => match subject.kind() {
                SubjectKind::Instance => "jwt.revoked-instance",
                _ => "jwt.revoked-id",
            },
            Self::KeyId => "jwt.key-id",
            Self::UnsuitableKey => "jwt.unsuitable-key",
            Self::Sign(_) => "jwt.sign",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Subject(error) => error.hint(),
            Self::Audience => "request a token for the audience that the receiver expects",
            Self::NoOwnAudience => "configure the audience that this service answers to",
            Self::Expired { .. } => "request a new token, and compare the clocks",
            Self::NotYetValid { .. } | Self::IssuedInTheFuture { .. } => {
                "compare the clocks of the issuer and of this machine"
            }
            Self::UnknownTrustDomain(_) => {
                "federate with that trust domain, or correct the caller's identity"
            }
            Self::UnknownKey => "check that the bundle is current: the key may be new, or revoked",
            Self::DistrustedKey => "request a new token",
            Self::Revoked(_) => "an administrator has revoked it: `bonafide revoke list` says when and why",
            Self::UnsuitableKey => "use a key on P-256, P-384 or P-521, or RSA",
            Self::AudienceBounds => "name at most 32 audiences, each of 1 to 2048 bytes",
            Self::SubjectWithoutPath => "issue the token to an ID with a path",
            Self::KeyId => "use a key ID of 1 to 256 bytes",
            Self::Sign(_) => "try again; if it persists, look at the device or keyring that holds the key",
            _ => "the token is damaged, forged or of another kind: request a new JWT-SVID",
        }
    }
}
