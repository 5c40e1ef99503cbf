//! Trust domains and SPIFFE IDs (SPIFFE-ID.md).
//!
//! Parsing never normalises a path: what is not a valid path is refused (section 2.2). The scheme and the
//! trust domain are case-insensitive when a person or a configuration file spells them (section 2.4), and
//! canonically lower case (section 2.1): [`SpiffeId::parse`] accepts `SPIFFE://Example.ORG/web` and stores
//! `spiffe://example.org/web`, as the Rust, Python and Java libraries do. Inside a signed document only the
//! canonical spelling is accepted ([`SpiffeId::parse_canonical`]), as go-spiffe does, so that no two
//! verifiers can read different names from the same bytes.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest SPIFFE ID in bytes (SPIFFE-ID section 2.3).
pub const MAX_ID_LENGTH: usize = 2048;
/// Longest trust domain name in bytes (SPIFFE-ID section 2.3).
pub const MAX_TRUST_DOMAIN_LENGTH: usize = 255;

pub(crate) const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID, a trust domain or a pattern of SPIFFE IDs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdError {
    /// An empty text.
    #[error("the SPIFFE ID is empty")]
    Empty,
    /// Longer than 2048 bytes.
    #[error("the SPIFFE ID is longer than 2048 bytes")]
    TooLong,
    /// Another scheme than `spiffe`.
    #[error("the scheme is not `spiffe`")]
    WrongScheme,
    /// A signed document spells the scheme or the trust domain with capital letters.
    #[error("the scheme or the trust domain is not in lower case")]
    NotCanonical,
    /// No trust domain between the scheme and the path.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// A trust domain of more than 255 bytes.
    #[error("the trust domain is longer than 255 bytes")]
    TrustDomainTooLong,
    /// A character that a trust domain may not have: user info, port, query, percent-encoding, …
    #[error("the trust domain has a character other than `a-z 0-9 . - _`")]
    TrustDomainCharacter,
    /// A path that does not begin with `/`.
    #[error("the path does not begin with `/`")]
    RelativePath,
    /// `//` in the path.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `/` at the end.
    #[error("the path ends with `/`")]
    TrailingSlash,
    /// A segment `.` or `..`.
    #[error("the path has a segment `.` or `..`")]
    DotSegment,
    /// A character that a path may not have: percent-encoding, query, fragment, non-ASCII, …
    #[error("the path has a character other than `a-z A-Z 0-9 . - _`")]
    PathCharacter,
    /// A pattern without a path: no pattern matches the ID of a trust domain itself.
    #[error("the pattern has no path")]
    PatternWithoutPath,
    /// `**` elsewhere than at the end.
    #[error("`**` is not the last segment of the pattern")]
    PatternTail,
    /// `*` together with other characters in one segment.
    #[error("`*` stands for a whole segment and cannot be a part of one")]
    PatternPartialWildcard,
}

impl IdError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "spiffe-id.empty",
            Self::TooLong => "spiffe-id.too-long",
            Self::WrongScheme => "spiffe-id.wrong-scheme",
            Self::NotCanonical => "spiffe-id.not-canonical",
            Self::EmptyTrustDomain => "spiffe-id.empty-trust-domain",
            Self::TrustDomainTooLong => "spiffe-id.trust-domain-too-long",
            Self::TrustDomainCharacter => "spiffe-id.trust-domain-character",
            Self::RelativePath => "spiffe-id.relative-path",
            Self::EmptySegment => "spiffe-id.empty-segment",
            Self::TrailingSlash => "spiffe-id.trailing-slash",
            Self::DotSegment => "spiffe-id.dot-segment",
            Self::PathCharacter => "spiffe-id.path-character",
            Self::PatternWithoutPath => "spiffe-id.pattern-without-path",
            Self::PatternTail => "spiffe-id.pattern-tail",
            Self::PatternPartialWildcard => "spiffe-id.pattern-partial-wildcard",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty | Self::WrongScheme => "write it as `spiffe://trust-domain/path`",
            Self::TooLong => "shorten the path",
            Self::NotCanonical => "issue the document with scheme and trust domain in lower case",
            Self::EmptyTrustDomain => "put the name of the trust domain after `spiffe://`",
            Self::TrustDomainTooLong => "choose a shorter trust domain",
            Self::TrustDomainCharacter => {
                "a trust domain is a bare lower-case name without port, user or percent-encoding"
            }
            Self::RelativePath => "begin the path with `/`",
            Self::EmptySegment | Self::TrailingSlash => "remove the superfluous `/`",
            Self::DotSegment => "write the path that is meant, without `.` and `..`",
            Self::PathCharacter => "percent-encoding, query and fragment are not allowed in a SPIFFE ID",
            Self::PatternWithoutPath => "add a path, such as `/**` for every workload of the trust domain",
            Self::PatternTail => "use `*` for one segment; `**` can only stand at the end",
            Self::PatternPartialWildcard => "replace the whole segment by `*`",
        }
    }
}

/// The name of a trust domain: 1 to 255 characters of `a-z 0-9 . - _` (SPIFFE-ID section 2.1).
///
/// Names that look like IP addresses or DNS names are names like any other.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID: `spiffe://trust-domain` with or without a path.
///
/// Two IDs are equal if and only if their canonical texts are equal.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl TrustDomain {
    /// Reads a bare trust domain name (no scheme, no path). Capital letters are made small (section 2.4).
    ///
    /// # Errors
    /// If the name is empty, too long or has another character than `a-z 0-9 . - _`.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        check_trust_domain(name)?;
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Ok(Self(name.to_ascii_lowercase().into()));
        }
        Ok(Self(name.into()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, `spiffe://<name>`.
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: format!("{SCHEME}{}", self.0).into(), trust_domain: self.clone() }
    }
}

impl SpiffeId {
    /// Reads a SPIFFE ID. Scheme and trust domain are taken in any case and stored in lower case; the path
    /// is taken exactly as it stands.
    ///
    /// # Errors
    /// On everything that SPIFFE-ID section 2 forbids, and on IDs longer than 2048 bytes.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let (trust_domain, path) = split(text)?;
        check_path(path)?;
        let trust_domain = TrustDomain::parse(trust_domain)?;
        if text.starts_with(SCHEME)
            && text.get(SCHEME.len()..).is_some_and(|t| t.starts_with(trust_domain.as_str()))
        {
            return Ok(Self { text: text.into(), trust_domain });
        }
        Ok(Self { text: format!("{SCHEME}{trust_domain}{path}").into(), trust_domain })
    }

    /// Reads the SPIFFE ID of a signed document: like [`parse`](Self::parse), but the scheme and the trust
    /// domain must already be in lower case, so that the stored text is exactly the signed one.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse), and [`IdError::NotCanonical`].
    pub fn parse_canonical(text: &str) -> Result<Self, IdError> {
        let id = Self::parse(text)?;
        if id.as_str() == text { Ok(id) } else { Err(IdError::NotCanonical) }
    }

    /// The ID of `path` in `trust_domain`. The path is empty or begins with `/`.
    ///
    /// # Errors
    /// If the path is not a valid path, or the ID would exceed 2048 bytes.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, IdError> {
        if SCHEME.len() + trust_domain.as_str().len() + path.len() > MAX_ID_LENGTH {
            return Err(IdError::TooLong);
        }
        check_path(path)?;
        Ok(Self { text: format!("{SCHEME}{trust_domain}{path}").into(), trust_domain: trust_domain.clone() })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading `/`, or the empty text for the ID of a trust domain itself.
    pub fn path(&self) -> &str {
        self.text.get(SCHEME.len() + self.trust_domain.as_str().len()..).unwrap_or_default()
    }

    /// Whether this is the ID of a trust domain itself, without a path. No workload has such an ID.
    pub fn is_trust_domain(&self) -> bool {
        self.path().is_empty()
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The segments of the path, in order; none for the ID of a trust domain itself.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }
}

/// Checks that `segment` can be one segment of a path.
///
/// # Errors
/// If it is empty, `.`, `..` or has another character than `a-z A-Z 0-9 . - _`.
pub fn check_segment(segment: &str) -> Result<(), IdError> {
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment),
        _ if segment.bytes().all(is_path_byte) => Ok(()),
        _ => Err(IdError::PathCharacter),
    }
}

/// Splits `spiffe://td/path` into trust domain and path, after the checks that both parsers share.
pub(crate) fn split(text: &str) -> Result<(&str, &str), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_LENGTH {
        return Err(IdError::TooLong);
    }
    let (Some(scheme), Some(rest)) = (text.get(..SCHEME.len()), text.get(SCHEME.len()..)) else {
        return Err(IdError::WrongScheme);
    };
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(IdError::WrongScheme);
    }
    let end = rest.find('/').unwrap_or(rest.len());
    let (trust_domain, path) = (rest.get(..end).unwrap_or_default(), rest.get(end..).unwrap_or_default());
    check_trust_domain(trust_domain)?;
    Ok((trust_domain, path))
}

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::EmptyTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN_LENGTH {
        return Err(IdError::TrustDomainTooLong);
    }
    // The characters of a trust domain are those of a path; capital letters stand for small ones.
    if name.bytes().all(is_path_byte) { Ok(()) } else { Err(IdError::TrustDomainCharacter) }
}

fn check_path(path: &str) -> Result<(), IdError> {
    if path.is_empty() {
        return Ok(());
    }
    let Some(relative) = path.strip_prefix('/') else {
        return Err(IdError::RelativePath);
    };
    if path.ends_with('/') {
        return Err(IdError::TrailingSlash);
    }
    relative.split('/').try_for_each(check_segment)
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

// The text determines the trust domain, so the text alone is compared.
impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
