//! SPIFFE IDs made of attested values: `spiffe://example.org/user/{unix.user}`.
//!
//! A placeholder is a whole path segment, so that the IDs of a template are exactly those of a pattern with `*` in
//! its place, and what a scope covers can be decided when the rule is written.

use std::{fmt, str::FromStr};

use bonafide_identity::{SpiffeId, SpiffeIdPattern, TrustDomain, check_segment};

use crate::{SelectorSet, selector::check_key};

/// Most segments of a template.
const MAX_SEGMENTS: usize = 64;
/// Longest template in bytes; SPIFFE-ID §2.3 bounds an ID at 2048.
const MAX_LENGTH: usize = 2048;

/// A rule's template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdTemplate {
    trust_domain: TrustDomain,
    segments: Vec<Segment>,
    pattern: SpiffeIdPattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// Key of a selector.
    Placeholder(String),
}

impl IdTemplate {
    /// Same as [`FromStr`].
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_LENGTH {
            return Err(TemplateError::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(TemplateError::NotAnId)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(TemplateError::NotAnId)?;
        let trust_domain: TrustDomain = trust_domain.parse().map_err(|_| TemplateError::NotAnId)?;
        let segments =
            path.split('/').map(Segment::parse).take(MAX_SEGMENTS + 1).collect::<Result<Vec<_>, _>>()?;
        if segments.len() > MAX_SEGMENTS {
            return Err(TemplateError::TooLong);
        }
        if !segments.iter().any(|segment| matches!(segment, Segment::Placeholder(_))) {
            return Err(TemplateError::NoPlaceholder);
        }
        let pattern = join(
            &trust_domain,
            segments.iter().map(|segment| match segment {
                Segment::Literal(literal) => literal.as_str(),
                Segment::Placeholder(_) => "*",
            }),
        );
        // The pattern's own parser judges the literal segments.
        let pattern = pattern.parse().map_err(|_| TemplateError::NotAnId)?;
        Ok(Self { trust_domain, segments, pattern })
    }

    /// The trust domain of every ID that this template makes.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The selector keys that it needs, in order of appearance, a repeated one twice.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Placeholder(key) => Some(key.as_str()),
        })
    }

    /// The pattern that matches exactly the IDs that this template can make.
    #[must_use]
    pub fn as_pattern(&self) -> SpiffeIdPattern {
        self.pattern.clone()
    }

    /// Puts the attested values in. Each must be exactly one valid SPIFFE path segment (SPIFFE-ID §2.2), so that a
    /// workload that chooses a value can't reach another path.
    ///
    /// # Errors
    /// A key that is not attested, has several values, or a value that is not one segment.
    pub fn render(&self, attested: &SelectorSet) -> Result<SpiffeId, RenderError> {
        let mut path = String::new();
        for segment in &self.segments {
            let value = match segment {
                Segment::Literal(literal) => literal.as_str(),
                Segment::Placeholder(key) => {
                    let mut values = attested.values(key);
                    let value = values.next().ok_or_else(|| RenderError::Missing { key: key.clone() })?;
                    if values.next().is_some() {
                        return Err(RenderError::Several { key: key.clone() });
                    }
                    if check_segment(value).is_err() {
                        return Err(RenderError::NotASegment { key: key.clone() });
                    }
                    value
                }
            };
            path.push('/');
            path.push_str(value);
        }
        let id = SpiffeId::new(&self.trust_domain, &path).map_err(|_| RenderError::NotAnId)?;
        // Belt and braces: what a scope was asked about is the pattern.
        if self.pattern.matches(&id) { Ok(id) } else { Err(RenderError::NotAnId) }
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        if let Some(key) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            check_key(key).map_err(|_| TemplateError::Placeholder)?;
            return Ok(Self::Placeholder(key.to_owned()));
        }
        if text.contains(['{', '}']) {
            return Err(TemplateError::Placeholder);
        }
        if check_segment(text).is_err() {
            return Err(TemplateError::NotAnId);
        }
        Ok(Self::Literal(text.to_owned()))
    }
}

impl FromStr for IdTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text)
    }
}

impl fmt::Display for IdTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Placeholder(key) => write!(f, "/{{{key}}}")?,
            }
        }
        Ok(())
    }
}

/// Why a text is not a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Without the placeholders it would not be a SPIFFE ID.
    #[error("a template is a SPIFFE ID with placeholders, such as `spiffe://example.org/user/{{unix.user}}`")]
    NotAnId,
    /// Then it is an entry.
    #[error("the template has no placeholder")]
    NoPlaceholder,
    /// `a-{unix.user}`, `{}`, `{Unix}`.
    #[error("a placeholder is a whole path segment and names a selector's key, such as `{{unix.user}}`")]
    Placeholder,
    /// More than 2048 bytes or 64 segments.
    #[error("the template is longer than 2048 bytes or 64 segments")]
    TooLong,
}

impl TemplateError {
    /// Stable code of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAnId => "template.not-an-id",
            Self::NoPlaceholder => "template.no-placeholder",
            Self::Placeholder => "template.placeholder",
            Self::TooLong => "template.too-long",
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPlaceholder => "register an entry instead of a rule",
            _ => "write it like `spiffe://example.org/user/{unix.user}`",
        }
    }
}

/// Why attested values make no ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Nothing attested under this key.
    #[error("`{key}` is not attested")]
    Missing {
        /// Of the placeholder.
        key: String,
    },
    /// Which of them would be a guess.
    #[error("`{key}` has several attested values")]
    Several {
        /// Of the placeholder.
        key: String,
    },
    /// Empty, `.`, `..`, or has a character that a SPIFFE path segment can't have.
    #[error("the attested value of `{key}` is not one SPIFFE path segment")]
    NotASegment {
        /// Of the placeholder.
        key: String,
    },
    /// The whole is no SPIFFE ID (too long).
    #[error("the rendered text is not a SPIFFE ID")]
    NotAnId,
}

impl RenderError {
    /// Stable code of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "template.key-missing",
            Self::Several { .. } => "template.key-ambiguous",
            Self::NotASegment { .. } => "template.value-not-a-segment",
            Self::NotAnId => "template.not-an-id",
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "enable the attestor that tells this key, or register an entry",
            Self::Several { .. } => "use a key with one value in the template, or register an entry",
            Self::NotASegment { .. } | Self::NotAnId => "register an entry for this workload",
        }
    }
}

fn join<'a>(trust_domain: &TrustDomain, segments: impl Iterator<Item = &'a str>) -> String {
    let mut out = format!("spiffe://{trust_domain}");
    for segment in segments {
        out.push('/');
        out.push_str(segment);
    }
    out
}
