//! The words of policies: names, actions, labels. Each is checked once, when it is read.

use std::{borrow::Borrow, fmt};

/// Longest name of a policy or rule, in bytes.
pub const MAX_NAME: usize = 64;
/// Longest action or algorithm, in bytes.
pub const MAX_ACTION: usize = 64;
/// Longest key of a label, name of a property or of a service, in bytes; as certificates have it.
pub const MAX_KEY: usize = bonafide_identity::attributes::MAX_KEY_LENGTH;
/// Longest value of a label or property, in bytes; as certificates have it.
pub const MAX_VALUE: usize = bonafide_identity::attributes::MAX_VALUE_LENGTH;

/// Why a text is no such word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unfit {
    code: &'static str,
    message: String,
    hint: String,
}

impl Unfit {
    pub(crate) fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }

    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What to write instead.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $check:ident, $code:literal, $what:literal, $hint:literal) => {
        $(#[$doc])*
        #[derive(Clone, Eq, Ord, PartialEq, PartialOrd)]
        pub struct $name(Box<str>);

        impl $name {
            /// Reads it.
            ///
            /// # Errors
            /// If it is empty where it may not be, too long or has another character.
            pub fn parse(text: &str) -> Result<Self, Unfit> {
                if $check(text) { Ok(Self(text.into())) } else { Err(Unfit::new($code, $what, $hint)) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        // Text and its bytes have one order.
        impl Borrow<[u8]> for $name {
            fn borrow(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

word!(
    /// The name of a policy or rule: 1 to 64 of `a-z 0-9 -`, no `-` at either end.
    Name, is_name, "policy.name", "a name has 1 to 64 of `a-z 0-9 -`, and no `-` at either end",
    "choose a name such as `orders-readers`"
);
word!(
    /// What a caller wants to do, exactly as the guarded program calls it: `GET`, `unseal`, `fetch-key`. Case matters,
    /// as it does to HTTP methods (RFC 9110 section 9.1).
    Action, is_action, "policy.action", "an action has 1 to 64 of `a-z A-Z 0-9 . _ : / -`",
    "write it as the guarded program names it, such as `GET` or `unseal`"
);
word!(
    /// A signature or encryption algorithm, exactly.
    Algorithm, is_action, "policy.algorithm", "an algorithm has 1 to 64 of `a-z A-Z 0-9 . _ : / -`",
    "write it as the key service names it, such as `ed25519`"
);
word!(
    /// The key of a label that the authority certifies: 1 to 128 printable ASCII characters without space.
    LabelKey, is_key, "policy.label-key", "the key of a label has 1 to 128 printable ASCII characters without space",
    "write it as sites certify it, such as `env`"
);
word!(
    /// The value of a label: at most 1024 bytes without control characters.
    LabelValue, is_value, "policy.label-value",
    "the value of a label has at most 1024 bytes and no control characters", "write it as sites certify it"
);
word!(
    /// The name of a property that the guarded program asserts: 1 to 128 printable ASCII characters without space.
    PropName, is_key, "policy.property", "a property's name has 1 to 128 printable ASCII characters without space",
    "write it as the guarded program names it"
);
word!(
    /// The value of a property that the guarded program asserts: at most 1024 bytes without control characters.
    PropValue, is_value, "policy.property-value",
    "the value of a property has at most 1024 bytes and no control characters",
    "write it as the guarded program gives it"
);
word!(
    /// The name of a service that the guarded program answers for: 1 to 128 printable ASCII characters without space.
    ServiceName, is_key, "policy.service", "a service has 1 to 128 printable ASCII characters without space",
    "write it as the guarded program names it, such as `orders.v1.Orders`"
);

word!(
    /// The key of an attested selector: 1 to 64 of `a-z 0-9 _ . -`, with a dot in it.
    SelectorKey, is_selector_key, "policy.selector",
    "the key of a selector has 1 to 64 of `a-z 0-9 _ . -`, and a dot",
    "write it as agents do, such as `k8s.ns`"
);
word!(
    /// The value of an attested selector: 1 to 1024 bytes without control characters.
    SelectorValue, is_selector_value, "policy.selector",
    "the value of a selector has 1 to 1024 bytes without control characters",
    "write it as agents do, without the key"
);

fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(crate) fn is_action(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'/' | b'-');
    (1..=MAX_ACTION).contains(&text.len()) && text.bytes().all(inner)
}

pub(crate) fn is_key(text: &str) -> bool {
    (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_selector_key(text: &str) -> bool {
    let inner =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-');
    (1..=64).contains(&text.len()) && text.contains('.') && text.bytes().all(inner)
}

fn is_selector_value(text: &str) -> bool {
    !text.is_empty() && is_value(text)
}

pub(crate) fn is_value(text: &str) -> bool {
    text.len() <= MAX_VALUE && !text.chars().any(char::is_control)
}
