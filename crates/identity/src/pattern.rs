//! Patterns of SPIFFE IDs, as scopes and authorizers use them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{self, IdError, SpiffeId, TrustDomain};

/// A set of SPIFFE IDs of one trust domain, such as `spiffe://example.org/ns/*/sa/*`.
///
/// A segment `*` stands for exactly one segment, whatever its text. A last segment `**` stands for one or
/// more segments. Everything else stands for itself; wildcards inside a segment do not exist. No pattern
/// matches the ID of a trust domain itself.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeIdPattern {
    trust_domain: TrustDomain,
    /// The segments before a trailing `**`, each with its leading `/`.
    fixed: Arc<str>,
    /// Whether `/**` follows.
    open: bool,
    /// Whether a segment is `*`.
    wild: bool,
}

impl SpiffeIdPattern {
    /// Reads a pattern. Scheme and trust domain are taken in any case, like those of an ID.
    ///
    /// # Errors
    /// If it is not a SPIFFE ID with a path, apart from its wildcards.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let (trust_domain, path) = id::split(text)?;
        let trust_domain = TrustDomain::parse(trust_domain)?;
        let Some(relative) = path.strip_prefix('/') else {
            return Err(IdError::PatternWithoutPath);
        };
        if relative.is_empty() {
            return Err(IdError::TrailingSlash);
        }
        let (fixed, open) = match path.strip_suffix("/**") {
            Some(fixed) => (fixed, true),
            None => (path, false),
        };
        for segment in fixed.split('/').skip(1) {
            match segment {
                "*" => {}
                "**" => return Err(IdError::PatternTail),
                _ if segment.contains('*') => return Err(IdError::PatternPartialWildcard),
                _ => id::check_segment(segment)?,
            }
        }
        let wild = fixed.contains('*');
        Ok(Self { trust_domain, fixed: fixed.into(), open, wild })
    }

    /// The pattern that matches every ID of `trust_domain` that has a path.
    pub fn all(trust_domain: &TrustDomain) -> Self {
        Self { trust_domain: trust_domain.clone(), fixed: "".into(), open: true, wild: false }
    }

    /// The pattern that matches `id` alone.
    ///
    /// # Errors
    /// If `id` is the ID of a trust domain itself.
    pub fn exactly(id: &SpiffeId) -> Result<Self, IdError> {
        if id.is_trust_domain() {
            return Err(IdError::PatternWithoutPath);
        }
        Ok(Self {
            trust_domain: id.trust_domain().clone(),
            fixed: id.path().into(),
            open: false,
            wild: false,
        })
    }

    /// The trust domain of all IDs that the pattern matches.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether `**` is the last segment.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether `id` is in the set.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if id.trust_domain() != &self.trust_domain || id.is_trust_domain() {
            return false;
        }
        if !self.wild {
            let rest = id.path().strip_prefix(&*self.fixed);
            return rest.is_some_and(|rest| if self.open { rest.starts_with('/') } else { rest.is_empty() });
        }
        let mut segments = id.segments();
        let prefix_matches =
            self.segments().all(|pattern| segments.next().is_some_and(|s| pattern == "*" || pattern == s));
        prefix_matches && segments.next().is_some() == self.open
    }

    /// Whether every ID that `other` matches is matched by this pattern too.
    ///
    /// Never says yes wrongly. It says no to a pattern that matches nothing at all because its IDs would
    /// exceed 2048 bytes.
    pub fn covers(&self, other: &Self) -> bool {
        if other.trust_domain != self.trust_domain || (other.open && !self.open) {
            return false;
        }
        let mut segments = other.segments();
        let prefix_covered =
            self.segments().all(|pattern| segments.next().is_some_and(|s| pattern == "*" || pattern == s));
        // What is left of `other` must be what a `**` stands for, one segment at least, or nothing.
        let rest = segments.next().is_some() || other.open;
        prefix_covered && rest == self.open
    }

    /// The segments before a trailing `**`, in order; `*` is a wildcard.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.fixed.split('/').skip(1)
    }
}

impl FromStr for SpiffeIdPattern {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeIdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = if self.open { "/**" } else { "" };
        write!(f, "{}{}{}{tail}", id::SCHEME, self.trust_domain, self.fixed)
    }
}

impl fmt::Debug for SpiffeIdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeIdPattern({self})")
    }
}

impl Serialize for SpiffeIdPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeIdPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
