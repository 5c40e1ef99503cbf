//! Attested facts, `unix.uid:1000`, and sorted sets of them.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Key of the selector that an agent adds when it tells its callers apart by less than a pidfd. It is certified, so
/// that every SVID earned that way says so.
pub const PEER_KEY: &str = "agent.peer";
/// Longest key, in bytes.
pub const MAX_KEY: usize = 64;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 1024;
/// Most selectors of one set.
pub const MAX_SET: usize = 128;

/// One attested fact: a key `[a-z0-9_.-]{1,64}` that has a dot in it, and a value of 1 to 1024 bytes without control
/// characters. Written `key:value`; the first colon splits. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    text: Arc<str>,
    // Length of the key: the colon stands there.
    key: u8,
}

impl Selector {
    /// Joins a key and a value.
    ///
    /// # Errors
    /// Refuses a key or a value outside the bounds of the type.
    pub fn new(key: &str, value: &str) -> Result<Self, SelectorError> {
        check_key(key)?;
        check_value(value)?;
        Ok(Self { text: format!("{key}:{value}").into(), key: u8::try_from(key.len()).unwrap_or(u8::MAX) })
    }

    /// The part before the first colon, for example `unix.uid`.
    #[must_use]
    pub fn key(&self) -> &str {
        self.text.get(..usize::from(self.key)).unwrap_or_default()
    }

    /// The part after the first colon.
    #[must_use]
    pub fn value(&self) -> &str {
        self.text.get(usize::from(self.key) + 1..).unwrap_or_default()
    }

    /// `key:value`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.key(), self.value()).cmp(&(other.key(), other.value()))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (key, value) = text.split_once(':').ok_or(SelectorError::NoColon)?;
        Self::new(key, value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.text)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Sorted, without duplicates, at most 128.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct SelectorSet {
    sorted: Vec<Selector>,
}

impl SelectorSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { sorted: Vec::new() }
    }

    /// Collects selectors; duplicates count once.
    ///
    /// # Errors
    /// [`SelectorError::TooMany`] beyond 128 items given, duplicates included.
    pub fn collect(selectors: impl IntoIterator<Item = Selector>) -> Result<Self, SelectorError> {
        let mut sorted: Vec<Selector> = selectors.into_iter().take(MAX_SET + 1).collect();
        if sorted.len() > MAX_SET {
            return Err(SelectorError::TooMany);
        }
        sorted.sort_unstable();
        sorted.dedup();
        Ok(Self { sorted })
    }

    /// Parses and collects key and value pairs, as they stand in protobuf.
    ///
    /// # Errors
    /// As [`Selector::new`] and [`SelectorSet::collect`].
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, SelectorError> {
        let mut selectors = Vec::new();
        for (key, value) in pairs {
            if selectors.len() == MAX_SET {
                return Err(SelectorError::TooMany);
            }
            selectors.push(Selector::new(key, value)?);
        }
        Self::collect(selectors)
    }

    /// Adds one; `false` if it was there already.
    ///
    /// # Errors
    /// [`SelectorError::TooMany`] if the set is full.
    pub fn insert(&mut self, selector: Selector) -> Result<bool, SelectorError> {
        match self.sorted.binary_search(&selector) {
            Ok(_) => Ok(false),
            Err(_) if self.sorted.len() >= MAX_SET => Err(SelectorError::TooMany),
            Err(at) => {
                self.sorted.insert(at, selector);
                Ok(true)
            }
        }
    }

    /// Whether every selector of `self` is in `other`.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.sorted.iter().all(|selector| other.contains(selector))
    }

    /// Whether this very selector is in the set.
    #[must_use]
    pub fn contains(&self, selector: &Selector) -> bool {
        self.sorted.binary_search(selector).is_ok()
    }

    /// Whether some selector of this key is in the set.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.values(key).next().is_some()
    }

    /// Every value attested under a key, sorted.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        let start = self.sorted.partition_point(|selector| selector.key() < key);
        self.sorted.iter().skip(start).take_while(move |selector| selector.key() == key).map(Selector::value)
    }

    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.sorted.iter()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

impl<'a> IntoIterator for &'a SelectorSet {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'de> Deserialize<'de> for SelectorSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::collect(Vec::<Selector>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Why a text is not a selector, or a list not a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// `key:value` has no colon.
    #[error("a selector is written `key:value`, and this one has no colon")]
    NoColon,
    /// See [`Selector`].
    #[error("a selector's key has 1 to 64 of `a-z 0-9 _ . -` and a dot, such as `unix.uid`")]
    Key,
    /// See [`Selector`].
    #[error("a selector's value has 1 to 1024 bytes and no control character")]
    Value,
    /// See [`SelectorSet`].
    #[error("more than 128 selectors")]
    TooMany,
}

impl SelectorError {
    /// Stable code of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoColon => "selector.no-colon",
            Self::Key => "selector.key",
            Self::Value => "selector.value",
            Self::TooMany => "selector.too-many",
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TooMany => "name only the selectors that tell this workload apart",
            _ => "write it like `unix.uid:1000`",
        }
    }
}

pub(crate) fn check_key(key: &str) -> Result<(), SelectorError> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-');
    if key.is_empty() || key.len() > MAX_KEY || !key.contains('.') || !key.bytes().all(allowed) {
        return Err(SelectorError::Key);
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), SelectorError> {
    if value.is_empty() || value.len() > MAX_VALUE || value.chars().any(char::is_control) {
        return Err(SelectorError::Value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_splits() {
        let selector: Selector = "oci.image:registry.example:5000/a@sha256:00".parse().unwrap();
        assert_eq!(selector.key(), "oci.image");
        assert_eq!(selector.value(), "registry.example:5000/a@sha256:00");
        assert_eq!(selector.to_string(), "oci.image:registry.example:5000/a@sha256:00");
        let json = serde_json::to_string(&selector).unwrap();
        assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
    }

    #[test]
    fn odd_selectors_are_refused() {
        for text in [
            "",
            "unix.uid",
            ":1",
            "uid:1",
            "Unix.uid:1",
            "unix uid.x:1",
            "unix.uid:",
            "unix.uid:a\nb",
            "unix.uid:\u{7f}",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
        assert!(Selector::new(&format!("a.{}", "b".repeat(63)), "x").is_err());
        assert!(Selector::new("a.b", &"x".repeat(1025)).is_err());
        assert!(Selector::new(&format!("a.{}", "b".repeat(62)), &"x".repeat(1024)).is_ok());
    }

    #[test]
    fn values_of_a_key_are_not_those_of_a_longer_key() {
        let set = SelectorSet::from_pairs([
            ("unix.gid", "1"),
            ("unix.gid", "2"),
            ("unix.gid-x", "3"),
            ("unix.g", "4"),
        ])
        .unwrap();
        assert_eq!(set.values("unix.gid").collect::<Vec<_>>(), ["1", "2"]);
        assert!(!set.contains_key("unix.gi"));
    }

    #[test]
    fn a_set_is_bounded() {
        let many = (0..129).map(|n| Selector::new("a.b", &n.to_string()).unwrap());
        assert_eq!(SelectorSet::collect(many.clone()), Err(SelectorError::TooMany));
        let mut set = SelectorSet::collect(many.take(128)).unwrap();
        assert_eq!(set.insert("a.b:0".parse().unwrap()), Ok(false));
        assert_eq!(set.insert("a.c:0".parse().unwrap()), Err(SelectorError::TooMany));
    }
}
