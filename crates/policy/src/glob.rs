//! Patterns of paths and of keys.

use std::fmt;

use crate::{
    path::{self, Scratch},
    words::Unfit,
};

/// Longest name of a key, in bytes.
pub const MAX_KEY_NAME: usize = 512;
/// Segments of a pattern.
const MAX_SEGMENTS: usize = 64;

/// Segments, of which `*` stands for exactly one, and a last `**` for all that follow, none included: `/v1/**` is `/v1`
/// and everything below.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Glob {
    pub(crate) segments: Vec<Segment>,
    pub(crate) open: bool,
}

/// One segment of a pattern.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Segment {
    /// `*`
    Any,
    /// This text.
    Is(Box<str>),
}

/// A set of paths, such as `/v1/orders/*/items/**`. It is written as requests are, percent-encoding included, and
/// compared in the [normal form](crate::path): `/v1/` is `/v1`. Case matters.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PathPattern(Glob);

/// A set of keys, such as `orders/*` or `release/**`. Case matters.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyPattern(Glob);

impl Glob {
    /// The segments before a trailing `**`.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether `**` follows.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether these segments are in the set.
    pub fn matches<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> bool {
        let mut segments = segments.into_iter();
        let begins = self.segments.iter().all(|pattern| {
            segments.next().is_some_and(|segment| match pattern {
                Segment::Any => true,
                Segment::Is(text) => &**text == segment,
            })
        });
        begins && (self.open || segments.next().is_none())
    }

    fn read<'a>(texts: impl Iterator<Item = &'a str>, what: &'static str) -> Result<Self, Unfit> {
        let mut glob = Self::default();
        for text in texts {
            if glob.open {
                let hint = "use `*` for one segment; `**` can only stand at the end";
                return Err(Unfit::new(what, "`**` is not the last segment of the pattern", hint));
            }
            match text {
                "*" => glob.segments.push(Segment::Any),
                "**" => glob.open = true,
                text if text.contains('*') => {
                    let hint = "replace the whole segment by `*`; in paths, `%2A` is a star itself";
                    return Err(Unfit::new(
                        what,
                        "`*` stands for a whole segment, not for a part of one",
                        hint,
                    ));
                }
                text => glob.segments.push(Segment::Is(text.into())),
            }
            if glob.segments.len() > MAX_SEGMENTS {
                return Err(Unfit::new(what, "the pattern has more than 64 segments", "shorten it"));
            }
        }
        Ok(glob)
    }
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// If it is no path, apart from its wildcards, or could be read in two ways.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        const CODE: &str = "policy.path";
        if text.contains('?') {
            return Err(Unfit::new(CODE, "the path has a query", "leave the query out: no rule sees it"));
        }
        if text.len() > path::MAX_PATH {
            return Err(Unfit::new(CODE, path::PathFault::TooLong.to_string(), "shorten it"));
        }
        let mut scratch = Scratch::new();
        let normal = path::normalise(text, &mut scratch)
            .map_err(|fault| Unfit::new(CODE, fault.to_string(), fault.hint()))?;
        if !text.contains("%2") {
            return Self(Glob::read(path_segments(normal), CODE)?).bounded(CODE);
        }
        // Stars that were encoded are stars themselves, so each segment is decoded alone.
        let raw: Vec<&str> = text.strip_suffix('/').unwrap_or(text).split('/').skip(1).collect();
        let mut glob = Glob::read(raw.iter().copied(), CODE)?;
        for segment in &mut glob.segments {
            if let Segment::Is(text) = segment {
                let raw = format!("/{text}");
                let mut scratch = Scratch::new();
                let decoded = path::normalise(&raw, &mut scratch)
                    .map_err(|fault| Unfit::new(CODE, fault.to_string(), fault.hint()))?;
                *text = decoded.get(1..).unwrap_or_default().into();
            }
        }
        Self(glob).bounded(CODE)
    }

    /// What it is printed as must be read again, and that is longer: a space is printed as `%20`.
    fn bounded(self, code: &'static str) -> Result<Self, Unfit> {
        if self.to_string().len() > path::MAX_PATH {
            let message = "the path is longer than 4096 bytes, with `%20` for each space";
            return Err(Unfit::new(code, message, "shorten it"));
        }
        Ok(self)
    }

    /// The pattern as segments.
    pub fn glob(&self) -> &Glob {
        &self.0
    }

    /// Whether a path in its [normal form](crate::path) is in the set.
    pub fn matches(&self, path: &str) -> bool {
        self.0.matches(path_segments(path))
    }
}

/// The segments of a path in its normal form.
pub(crate) fn path_segments(path: &str) -> impl Iterator<Item = &str> {
    // `/` has none.
    path.split('/').skip(1).filter(|segment| !segment.is_empty())
}

impl KeyPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// If it is not the name of a key, apart from its wildcards.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        const CODE: &str = "policy.key";
        let plain = |segment: &str| matches!(segment, "*" | "**") || is_key_segment(segment);
        let glob = Glob::read(text.split('/'), CODE)?;
        if text.len() > MAX_KEY_NAME || !text.split('/').all(plain) {
            let message = "the name of a key has segments of `a-z A-Z 0-9 . - _`, at most 512 bytes in all";
            return Err(Unfit::new(CODE, message, "write it as `orders/pii`, without `/` at its ends"));
        }
        Ok(Self(glob))
    }

    /// The pattern as segments.
    pub fn glob(&self) -> &Glob {
        &self.0
    }

    /// Whether the key of a request is in the set.
    pub fn matches(&self, key: &str) -> bool {
        self.0.matches(key.split('/'))
    }
}

/// Whether this is the full name of a key.
pub(crate) fn is_key_name(text: &str) -> bool {
    text.len() <= MAX_KEY_NAME && text.split('/').all(is_key_segment)
}

fn is_key_segment(segment: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(inner)
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.0.segments {
            match segment {
                Segment::Any => f.write_str("/*")?,
                Segment::Is(text) => {
                    f.write_str("/")?;
                    for letter in text.chars() {
                        match letter {
                            '*' | ' ' => write!(f, "%{:02X}", u32::from(letter))?,
                            letter => write!(f, "{letter}")?,
                        }
                    }
                }
            }
        }
        match (self.0.open, self.0.segments.is_empty()) {
            (true, _) => f.write_str("/**"),
            (false, true) => f.write_str("/"),
            (false, false) => Ok(()),
        }
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathPattern({self})")
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for segment in &self.0.segments {
            match segment {
                Segment::Any => write!(f, "{separator}*")?,
                Segment::Is(text) => write!(f, "{separator}{text}")?,
            }
            separator = "/";
        }
        if self.0.open { write!(f, "{separator}**") } else { Ok(()) }
    }
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPattern({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths() {
        let matches = |pattern: &str, path: &str| PathPattern::parse(pattern).unwrap().matches(path);
        for (pattern, path) in [
            ("/", "/"),
            ("/**", "/"),
            ("/**", "/a/b"),
            ("/v1/**", "/v1"),
            ("/v1/**", "/v1/a/b"),
            ("/v1/", "/v1"),
            ("/v1/*", "/v1/a"),
            ("/v1/*/audit", "/v1/7/audit"),
            ("/v1/%2A", "/v1/*"),
            ("/v1/a%20b", "/v1/a b"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/", "/a"),
            ("/v1", "/V1"),
            ("/v1/**", "/v10"),
            ("/v1/**", "/"),
            ("/v1/*", "/v1"),
            ("/v1/*", "/v1/a/b"),
            ("/v1/%2A", "/v1/a"),
            ("/*", "/"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
        for text in [
            "", "v1", "/v1?x", "/v1/**/a", "/v1/a*", "/v1/***", "//", "/v1/../a", "/v1%2f", "/v1/%00",
            "/**/", "/a;b", "/%2", "/%2e%2e", "/a%3fb", "/a%23",
        ] {
            // `/**/` is `/**`.
            assert_eq!(PathPattern::parse(text).is_ok(), text == "/**/", "{text}");
        }
    }

    #[test]
    fn keys() {
        let matches = |pattern: &str, key: &str| KeyPattern::parse(pattern).unwrap().matches(key);
        assert!(matches("orders/pii", "orders/pii"));
        assert!(matches("orders/*", "orders/pii"));
        assert!(matches("orders/**", "orders"));
        assert!(matches("**", "orders/pii"));
        assert!(!matches("orders/*", "orders/a/b"));
        assert!(!matches("orders", "Orders"));
        for text in ["", "/orders", "orders/", "a//b", "a/../b", "a b", "a/**/b", "a*", "é"] {
            assert!(KeyPattern::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(text in "(/([a-c]{1,2}|\\*|%2[0aA]| |é)){0,5}(/|/\\*\\*)?") {
            if let Ok(pattern) = PathPattern::parse(&text) {
                prop_assert_eq!(PathPattern::parse(&pattern.to_string()), Ok(pattern));
            }
        }

        #[test]
        fn keys_read_back(text in "([a-c]|\\*)(/([a-c]|\\*)){0,5}(/\\*\\*)?") {
            let pattern = KeyPattern::parse(&text).unwrap();
            prop_assert_eq!(pattern.to_string(), text);
        }
    }
}
