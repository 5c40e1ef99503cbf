//! DNS names that a certificate may carry, and patterns of them for scopes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a DNS name or a pattern of DNS names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DnsError {
    /// Empty, or with an empty label: a leading, trailing or doubled dot.
    #[error("the DNS name has an empty label")]
    EmptyLabel,
    /// A name of more than 253 bytes, or a label of more than 63.
    #[error("the DNS name is longer than 253 bytes, or a label is longer than 63")]
    TooLong,
    /// Another character than lower-case letters, digits and inner hyphens.
    #[error("the DNS name has a character other than `a-z 0-9 -`, or a label begins or ends with `-`")]
    Character,
    /// The last label is a number, so that the name could be taken for an IP address.
    #[error("the last label of the DNS name is a number")]
    NumericTopLevel,
    /// `*` elsewhere than as the whole first label, or followed by nothing.
    #[error("`*` can only be the whole first label, with a name after it")]
    Wildcard,
}

impl DnsError {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyLabel => "dns-name.empty-label",
            Self::TooLong => "dns-name.too-long",
            Self::Character => "dns-name.character",
            Self::NumericTopLevel => "dns-name.numeric-top-level",
            Self::Wildcard => "dns-name.wildcard",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::EmptyLabel => "write the name without leading, trailing or doubled dots",
            Self::TooLong => "shorten the name",
            Self::Character => "write the name in lower case; international names in their `xn--` form",
            Self::NumericTopLevel => "IP addresses are not DNS names",
            Self::Wildcard => "write `*.example.org`; the `*` stands for one label",
        }
    }
}

/// A DNS host name: lower-case labels of letters, digits and inner hyphens (RFC 1123), at most 253 bytes,
/// absolute without a trailing dot, and never mistakable for an IPv4 address.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DnsName(Arc<str>);

/// One DNS name, or `*.name`: every name with exactly one more label.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DnsPattern {
    name: DnsName,
    wildcard: bool,
}

impl DnsName {
    /// Reads a name.
    ///
    /// # Errors
    /// If it is not a lower-case host name as described at the type.
    pub fn parse(text: &str) -> Result<Self, DnsError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DnsPattern {
    /// Reads `name` or `*.name`.
    ///
    /// # Errors
    /// If the name is not one, or `*` stands anywhere else.
    pub fn parse(text: &str) -> Result<Self, DnsError> {
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(DnsError::Wildcard);
        }
        Ok(Self { name: DnsName::parse(name)?, wildcard })
    }

    /// Whether the pattern begins with `*.`.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether `name` is in the set.
    pub fn matches(&self, name: &DnsName) -> bool {
        let text =
            if self.wildcard { name.0.split_once('.').map(|(_, rest)| rest) } else { Some(name.as_str()) };
        text == Some(self.name.as_str())
    }

    /// Whether every name that `other` matches is matched by this pattern too.
    pub fn covers(&self, other: &Self) -> bool {
        if other.wildcard { self == other } else { self.matches(&other.name) }
    }
}

fn check(text: &str) -> Result<(), DnsError> {
    if text.len() > 253 {
        return Err(DnsError::TooLong);
    }
    if text.contains('*') {
        return Err(DnsError::Wildcard);
    }
    let mut last_is_number = false;
    for label in text.split('.') {
        if label.is_empty() {
            return Err(DnsError::EmptyLabel);
        }
        if label.len() > 63 {
            return Err(DnsError::TooLong);
        }
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !label.bytes().all(known) || label.starts_with('-') || label.ends_with('-') {
            return Err(DnsError::Character);
        }
        last_is_number = label.bytes().all(|byte| byte.is_ascii_digit());
    }
    if last_is_number { Err(DnsError::NumericTopLevel) } else { Ok(()) }
}

impl FromStr for DnsName {
    type Err = DnsError;

    fn from_str(text: &str) -> Result<Self, DnsError> {
        Self::parse(text)
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DnsName({})", self.0)
    }
}

impl Serialize for DnsName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DnsName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl FromStr for DnsPattern {
    type Err = DnsError;

    fn from_str(text: &str) -> Result<Self, DnsError> {
        Self::parse(text)
    }
}

impl fmt::Display for DnsPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.name)
    }
}

impl fmt::Debug for DnsPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DnsPattern({self})")
    }
}

impl Serialize for DnsPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DnsPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        for good in [
            "a",
            "localhost",
            "web.example.org",
            "xn--bcher-kva.example",
            "1password.com",
            "a-b.c",
            "3com.1a",
        ] {
            assert_eq!(DnsName::parse(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        let long = format!("{}.org", "a".repeat(64));
        let bad = [
            ("", DnsError::EmptyLabel),
            (".", DnsError::EmptyLabel),
            ("a.", DnsError::EmptyLabel),
            (".a", DnsError::EmptyLabel),
            ("a..b", DnsError::EmptyLabel),
            ("A.b", DnsError::Character),
            ("a_b.c", DnsError::Character),
            ("-a.c", DnsError::Character),
            ("a-.c", DnsError::Character),
            ("a b", DnsError::Character),
            ("bücher.example", DnsError::Character),
            ("a\0.b", DnsError::Character),
            ("10.0.0.1", DnsError::NumericTopLevel),
            ("*.a", DnsError::Wildcard),
            (long.as_str(), DnsError::TooLong),
        ];
        for (text, error) in bad {
            assert_eq!(DnsName::parse(text), Err(error), "{text}");
        }
        assert_eq!(DnsName::parse(&["a"; 127].join(".")).map(|n| n.as_str().len()), Ok(253));
        assert_eq!(DnsName::parse(&["a"; 128].join(".")), Err(DnsError::TooLong));
    }

    #[test]
    fn patterns_refuse_other_wildcards() {
        for bad in ["*", "**.a", "*.*.a", "a.*", "a*.b", "*a.b"] {
            assert_eq!(DnsPattern::parse(bad), Err(DnsError::Wildcard), "{bad}");
        }
        assert_eq!(DnsPattern::parse("*."), Err(DnsError::EmptyLabel));
    }

    fn name() -> impl Strategy<Value = String> {
        proptest::collection::vec("[ab]", 1..4).prop_map(|labels| labels.join("."))
    }

    fn pattern() -> impl Strategy<Value = DnsPattern> {
        (any::<bool>(), name()).prop_map(|(wildcard, name)| {
            DnsPattern::parse(&format!("{}{name}", if wildcard { "*." } else { "" })).unwrap()
        })
    }

    proptest! {
        #[test]
        fn covers_agrees_with_matches(one in pattern(), other in pattern()) {
            let mut every = true;
            for depth in 1..=5_u32 {
                for bits in 0..(1_u32 << depth) {
                    let labels: Vec<_> = (0..depth).map(|i| if bits >> i & 1 == 0 { "a" } else { "b" }).collect();
                    let name = DnsName::parse(&labels.join(".")).unwrap();
                    every &= !other.matches(&name) || one.matches(&name);
                }
            }
            prop_assert_eq!(one.covers(&other), every);
        }

        #[test]
        fn never_panics_and_round_trips(text in ".{0,40}") {
            if let Ok(pattern) = DnsPattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }
    }
}
