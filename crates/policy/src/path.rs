//! Paths of requests: normalised once, by one function, and denied when two programs could read them differently.
//!
//! The normal form begins with `/`, has no query, no percent-encoding and no `/` at its end: a path with and without it
//! are one, because a rule about `/admin` that `/admin/` passes by is a hole. Case matters.

/// Longest path of a request in bytes, with its query cut off.
pub const MAX_PATH: usize = 4096;
/// Bytes of a path and its query.
const MAX_TARGET: usize = 64 * 1024;

/// Why a path is denied, whatever the rules say.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum PathFault {
    /// It does not begin with `/`.
    #[error("the path does not begin with `/`")]
    Relative,
    /// More than 4096 bytes.
    #[error("the path is longer than 4096 bytes")]
    TooLong,
    /// `//` inside: some programs take it for `/`.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// A segment `.` or `..`, encoded or not.
    #[error("the path has a segment `.` or `..`")]
    DotSegment,
    /// `%2f` or `%5c`: some programs decode it before they split the path.
    #[error("the path has an encoded `/` or `\\`")]
    EncodedSlash,
    /// `\`, which some programs take for `/`.
    #[error("the path has a `\\`")]
    Backslash,
    /// `%25`: some programs decode twice.
    #[error("the path has an encoded `%`")]
    EncodedPercent,
    /// `%3f` or `%23`: some programs decode it before they cut off the query, and serve what stands before it.
    #[error("the path has an encoded `?` or `#`")]
    EncodedQuery,
    /// `%` without two hexadecimal digits after it.
    #[error("the path has a `%` without two hexadecimal digits after it")]
    Percent,
    /// `;`: some programs cut off what follows it.
    #[error("the path has a `;`")]
    Parameter,
    /// `#`, which no request line has.
    #[error("the path has a `#`")]
    Fragment,
    /// A control character, such as NUL, encoded or not.
    #[error("the path has a control character")]
    Control,
    /// What its percent-encoding means is not UTF-8.
    #[error("the path is not UTF-8")]
    NotUtf8,
}

impl PathFault {
    /// A stable name of this error for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Relative => "policy.path-relative",
            Self::TooLong => "policy.path-too-long",
            Self::EmptySegment => "policy.path-empty-segment",
            Self::DotSegment => "policy.path-dot-segment",
            Self::EncodedSlash => "policy.path-encoded-slash",
            Self::Backslash => "policy.path-backslash",
            Self::EncodedPercent => "policy.path-encoded-percent",
            Self::EncodedQuery => "policy.path-encoded-query",
            Self::Percent => "policy.path-percent",
            Self::Parameter => "policy.path-parameter",
            Self::Fragment => "policy.path-fragment",
            Self::Control => "policy.path-control",
            Self::NotUtf8 => "policy.path-not-utf8",
        }
    }

    /// What a person can do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Relative => "begin it with `/`",
            Self::TooLong => "ask for a shorter path",
            Self::EmptySegment | Self::DotSegment => {
                "ask for the path that is meant, without `//`, `.` and `..`"
            }
            Self::EncodedSlash | Self::Backslash => "separate segments with `/`, and have neither in one",
            Self::EncodedPercent | Self::Percent => {
                "encode each byte once, as `%` and two hexadecimal digits"
            }
            Self::EncodedQuery => {
                "begin the query with `?` itself, and have neither `?` nor `#` in a segment"
            }
            Self::Parameter => "put parameters into the query",
            Self::Fragment => "leave the fragment out",
            Self::Control | Self::NotUtf8 => "encode text as UTF-8, without control characters",
        }
    }
}

/// Where a path is decoded to, if it needs to be.
#[derive(Debug, Default)]
pub struct Scratch(Vec<u8>);

impl Scratch {
    /// An empty one, which takes memory when a path is decoded.
    pub const fn new() -> Self {
        Self(Vec::new())
    }
}

/// The normal form of the path of a request.
///
/// # Errors
/// [`PathFault`]
pub fn normalise<'a>(raw: &'a str, scratch: &'a mut Scratch) -> Result<&'a str, PathFault> {
    if is_encoded(raw) {
        scratch.0.resize(MAX_PATH, 0);
    }
    normalise_in(raw, &mut scratch.0)
}

/// Whether a path has to be decoded.
pub(crate) fn is_encoded(raw: &str) -> bool {
    memchr::memchr(b'%', raw.as_bytes()).is_some()
}

/// As [`normalise`]. Only a path that [`is_encoded`] needs room: [`MAX_PATH`] bytes.
pub(crate) fn normalise_in<'a>(raw: &'a str, room: &'a mut [u8]) -> Result<&'a str, PathFault> {
    if raw.len() > MAX_TARGET {
        return Err(PathFault::TooLong);
    }
    if !raw.starts_with('/') {
        return Err(PathFault::Relative);
    }
    let mut encoded = false;
    let mut wide = false;
    let mut end = raw.len();
    // The first byte after the last `/`.
    let mut segment = 1;
    for (at, byte) in raw.bytes().enumerate().skip(1) {
        match class(byte) {
            Class::Plain => {}
            Class::Slash => {
                check_segment(raw, segment, at)?;
                segment = at + 1;
            }
            Class::Percent => encoded = true,
            Class::Query => {
                end = at;
                break;
            }
            Class::Wide => wide = true,
            Class::Fault(fault) => return Err(fault),
        }
    }
    if end > MAX_PATH {
        return Err(PathFault::TooLong);
    }
    if segment < end {
        check_segment(raw, segment, end)?;
    } else if end > 1 {
        // The one `/` at the end, which has no meaning.
        end -= 1;
    }
    let path = raw.get(..end).ok_or(PathFault::NotUtf8)?;
    if wide && path.chars().any(char::is_control) {
        return Err(PathFault::Control);
    }
    if encoded { decode(path, room) } else { Ok(path) }
}

enum Class {
    Plain,
    Slash,
    Percent,
    Query,
    Wide,
    Fault(PathFault),
}

const fn class(byte: u8) -> Class {
    match byte {
        b'/' => Class::Slash,
        b'%' => Class::Percent,
        b'?' => Class::Query,
        b'#' => Class::Fault(PathFault::Fragment),
        b';' => Class::Fault(PathFault::Parameter),
        b'\\' => Class::Fault(PathFault::Backslash),
        0..=0x1f | 0x7f => Class::Fault(PathFault::Control),
        0x80.. => Class::Wide,
        _ => Class::Plain,
    }
}

fn check_segment(path: &str, start: usize, end: usize) -> Result<(), PathFault> {
    match path.as_bytes().get(start..end) {
        None | Some(b"") => Err(PathFault::EmptySegment),
        Some(b"." | b"..") => Err(PathFault::DotSegment),
        Some(_) => Ok(()),
    }
}

/// Once, and only what can mean nothing else afterwards.
fn decode<'a>(path: &str, out: &'a mut [u8]) -> Result<&'a str, PathFault> {
    let mut bytes = path.bytes();
    let mut length = 0;
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else { return Err(PathFault::Percent) };
            match u8::try_from(high * 16 + low).unwrap_or(0) {
                b'/' | b'\\' => return Err(PathFault::EncodedSlash),
                b'%' => return Err(PathFault::EncodedPercent),
                b'?' | b'#' => return Err(PathFault::EncodedQuery),
                b';' => return Err(PathFault::Parameter),
                0..=0x1f | 0x7f => return Err(PathFault::Control),
                byte => byte,
            }
        } else {
            byte
        };
        if let Some(slot) = out.get_mut(length) {
            *slot = byte;
        }
        length += 1;
    }
    let decoded = out.get(..length).ok_or(PathFault::TooLong)?;
    let decoded = str::from_utf8(decoded).map_err(|_| PathFault::NotUtf8)?;
    if decoded.chars().any(char::is_control) {
        return Err(PathFault::Control);
    }
    // `%2e%2e` is found here.
    if decoded.split('/').skip(1).any(|segment| matches!(segment, "." | "..")) {
        return Err(PathFault::DotSegment);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(raw: &str) -> Result<String, PathFault> {
        normalise(raw, &mut Scratch::new()).map(str::to_owned)
    }

    #[test]
    fn one_form_of_each_path() {
        for (raw, path) in [
            ("/", "/"),
            ("/?", "/"),
            ("/v1/orders", "/v1/orders"),
            ("/v1/orders/", "/v1/orders"),
            ("/v1/orders?a=/../b;c#d", "/v1/orders"),
            ("/v1/orders/?x", "/v1/orders"),
            ("/v1/%6frders", "/v1/orders"),
            ("/v1/a%20b", "/v1/a b"),
            ("/caf%C3%A9", "/café"),
            ("/café", "/café"),
            ("/...", "/..."),
            ("/.well-known", "/.well-known"),
        ] {
            assert_eq!(normal(raw).as_deref(), Ok(path), "{raw}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_denied() {
        for (raw, fault) in [
            ("", PathFault::Relative),
            ("v1", PathFault::Relative),
            ("*", PathFault::Relative),
            ("http://host/v1", PathFault::Relative),
            ("//", PathFault::EmptySegment),
            ("//v1", PathFault::EmptySegment),
            ("/v1//orders", PathFault::EmptySegment),
            ("/v1//", PathFault::EmptySegment),
            ("/v1/./orders", PathFault::DotSegment),
            ("/v1/..", PathFault::DotSegment),
            ("/v1/../admin", PathFault::DotSegment),
            ("/v1/%2e%2E/admin", PathFault::DotSegment),
            ("/v1/.%2e", PathFault::DotSegment),
            ("/v1%2fadmin", PathFault::EncodedSlash),
            ("/v1%2Fadmin", PathFault::EncodedSlash),
            ("/v1%5cadmin", PathFault::EncodedSlash),
            ("/v1\\admin", PathFault::Backslash),
            ("/v1/%252e%252e", PathFault::EncodedPercent),
            ("/admin%3Fx", PathFault::EncodedQuery),
            ("/admin%3f", PathFault::EncodedQuery),
            ("/admin%23x", PathFault::EncodedQuery),
            ("/%23", PathFault::EncodedQuery),
            ("/v1/%", PathFault::Percent),
            ("/v1/%2", PathFault::Percent),
            ("/v1/%zz", PathFault::Percent),
            ("/v1/%+2", PathFault::Percent),
            ("/v1;a=b/orders", PathFault::Parameter),
            ("/v1/..;/admin", PathFault::Parameter),
            ("/v1%3b/orders", PathFault::Parameter),
            ("/v1#x", PathFault::Fragment),
            ("/v1/%00", PathFault::Control),
            ("/v1/\0", PathFault::Control),
            ("/v1/\n", PathFault::Control),
            ("/v1/%7f", PathFault::Control),
            ("/v1/\u{85}", PathFault::Control),
            ("/v1/%c2%85", PathFault::Control),
            ("/v1/%ff", PathFault::NotUtf8),
            ("/v1/%c3", PathFault::NotUtf8),
        ] {
            assert_eq!(normal(raw), Err(fault), "{raw:?}");
        }
        assert_eq!(normal(&format!("/{}", "a".repeat(MAX_PATH))), Err(PathFault::TooLong));
        assert_eq!(normal(&format!("/{}", "a".repeat(MAX_PATH - 1))).map(|path| path.len()), Ok(MAX_PATH));
        assert!(normal(&format!("/a?{}", "b".repeat(MAX_PATH))).is_ok());
        assert_eq!(normal(&format!("/a?{}", "b".repeat(MAX_TARGET))), Err(PathFault::TooLong));
    }

    proptest! {
        /// What is left has segments that mean themselves, to whoever decodes, joins or splits them again.
        #[test]
        fn the_normal_form_is_plain(raw in "/([a.%/;2ef5cCF0?#é*]|%2e|%41){0,24}") {
            if let Ok(path) = normal(&raw) {
                prop_assert!(path.starts_with('/'));
                prop_assert!(path == "/" || !path.ends_with('/'));
                prop_assert!(path == "/" || path.split('/').skip(1).all(|s| !matches!(s, "" | "." | "..")));
                prop_assert!(!path.contains(['%', ';', '\\', '?', '#']));
                prop_assert!(!path.chars().any(char::is_control));
                prop_assert_eq!(normal(&path), Ok(path));
            }
        }

        #[test]
        fn no_text_makes_it_panic(raw in "/?\\PC{0,60}") {
            let _ = normal(&raw);
        }
    }
}
