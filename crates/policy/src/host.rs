//! Hosts of requests: in lower case, without port and without the dot of an absolute name.

use std::{
    fmt::{self, Write as _},
    net::Ipv6Addr,
};

use crate::words::Unfit;

/// Longest host in bytes.
pub const MAX_HOST: usize = 253;

/// The host is denied, whatever the rules say: it is no name and no address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[error("the host is no name and no address")]
pub struct HostFault;

impl HostFault {
    /// A stable name of this error for programs.
    pub fn code(self) -> &'static str {
        "policy.host"
    }

    /// What a person can do about it.
    pub fn hint(self) -> &'static str {
        "ask for a name of `a-z 0-9 . - _`, or an address, without user and with at most a port"
    }
}

/// A host in its normal form, on the stack.
pub struct Host {
    bytes: [u8; MAX_HOST],
    length: usize,
}

/// One host, or `*.name`: every name with exactly one more label.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostPattern {
    name: Box<str>,
    wildcard: bool,
}

impl Host {
    /// Reads the host of a request, as the header `Host` or `:authority` has it.
    ///
    /// # Errors
    /// [`HostFault`]
    pub fn parse(raw: &str) -> Result<Self, HostFault> {
        let mut host = Self { bytes: [0; MAX_HOST], length: 0 };
        let port = if let Some(rest) = raw.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(HostFault)?;
            let address: Ipv6Addr = address.parse().map_err(|_| HostFault)?;
            write!(host, "[{address}]").map_err(|_| HostFault)?;
            port
        } else {
            let end = raw.find(':').unwrap_or(raw.len());
            let (name, port) = raw.split_at_checked(end).ok_or(HostFault)?;
            let name = name.strip_suffix('.').unwrap_or(name);
            host.write_str(name).map_err(|_| HostFault)?;
            host.lower()?;
            port
        };
        check_port(port)?;
        Ok(host)
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        // What is written is text.
        self.bytes.get(..self.length).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// Checks a name, and makes its letters small.
    fn lower(&mut self) -> Result<(), HostFault> {
        let name = self.bytes.get_mut(..self.length).ok_or(HostFault)?;
        name.make_ascii_lowercase();
        let is_label = |label: &[u8]| {
            let inner =
                |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.iter().all(inner)
        };
        if name.split(|byte| *byte == b'.').all(is_label) { Ok(()) } else { Err(HostFault) }
    }
}

fn check_port(port: &str) -> Result<(), HostFault> {
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse::<u16>().map(drop).map_err(|_| HostFault)
        }
        _ => Err(HostFault),
    }
}

impl fmt::Write for Host {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.as_str())
    }
}

impl HostPattern {
    /// Reads a pattern; its letters are made small.
    ///
    /// # Errors
    /// If it is neither a host, nor `*.` and a name.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let unfit = |hint: &str| {
            let message = "this is no host: a name, an address, or `*.` and a name, without a port";
            Unfit::new("policy.host", message, hint)
        };
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let hint = if name.contains('*') {
            "`*` can only be the whole first label"
        } else {
            "write it as `orders.example.org`, `*.example.org` or `[2001:db8::1]`"
        };
        let host = Host::parse(name).map_err(|HostFault| unfit(hint))?;
        let has_port = name.rsplit_once(']').map_or(name, |(_, rest)| rest).contains(':');
        if has_port {
            return Err(unfit("leave the port out: a host is the same at every port"));
        }
        if wildcard && host.as_str().starts_with('[') {
            return Err(unfit("an address has no labels before it"));
        }
        Ok(Self { name: host.as_str().into(), wildcard })
    }

    /// The name, and whether one more label stands before it.
    pub fn parts(&self) -> (&str, bool) {
        (&self.name, self.wildcard)
    }

    /// Whether a host in its normal form is in the set.
    pub fn matches(&self, host: &str) -> bool {
        if !self.wildcard {
            return host == &*self.name;
        }
        host.split_once('.').is_some_and(|(_, rest)| rest == &*self.name)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_form_of_each_host() {
        for (raw, host) in [
            ("orders.example.org", "orders.example.org"),
            ("Orders.Example.ORG:8443", "orders.example.org"),
            ("orders.example.org.", "orders.example.org"),
            ("orders.example.org.:80", "orders.example.org"),
            ("my_service", "my_service"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[2001:DB8:0:0::1]:443", "[2001:db8::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(Host::parse(raw).map(|host| host.as_str().to_owned()).as_deref(), Ok(host), "{raw}");
        }
        for raw in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "a@b",
            "user@host",
            "a:b",
            "a:",
            "a:99999",
            "a:1:2",
            "::1",
            "[::1",
            "[::1]x",
            "[a]",
            "[::1%eth0]",
            "é.org",
            "a/b",
            "a\0b",
            "a%20b",
            "*.example.org",
        ] {
            assert!(Host::parse(raw).is_err(), "{raw:?}");
        }
        assert!(Host::parse(&"a.".repeat(200)).is_err());
    }

    #[test]
    fn patterns() {
        let pattern = HostPattern::parse("*.Example.org").unwrap();
        assert_eq!(pattern.to_string(), "*.example.org");
        assert!(pattern.matches("a.example.org"));
        assert!(!pattern.matches("example.org"));
        assert!(!pattern.matches("a.b.example.org"));
        assert!(HostPattern::parse("example.org").unwrap().matches("example.org"));
        for text in ["", "*", "*.", "a.*", "*a.org", "*.*.org", "example.org:80", "[::1]:80", "*.[::1]"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_stable(raw in "[a-zA-Z0-9._:\\[\\]@-]{0,40}") {
            if let Ok(host) = Host::parse(&raw) {
                let again = Host::parse(host.as_str()).unwrap();
                prop_assert_eq!(again.as_str(), host.as_str());
                prop_assert_eq!(HostPattern::parse(host.as_str()).unwrap().to_string(), host.as_str());
            }
        }
    }
}
