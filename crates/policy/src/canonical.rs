//! The one sequence of bytes that stands for what a policy means, and its digest.
//!
//! It is a document of the language itself, written as JSON (RFC 8259) without white space, so that any reader of JSON
//! or YAML can look into it, and [`crate::read`] reads it back to the same policy:
//!
//! - Fields stand in this order: `kind`, `version` (1), `name`, `appliesTo`, `mode`, `stale` (`after`, `then`),
//!   `cacheFor`, `evidence`, `witness` (`node`, `workload`, by key), `rules`, `entrypoint`, `rego`. A rule is `name`, then `allow` or `deny` with `who`, `can`, `on`, `when`,
//!   `except`. `who` has `id`, `trustDomain`, `labels`, `props`; `on` has `path`, `host`, `key`, `service`, `props`;
//!   `when` has `same`, `aad`, `alg`, `time` (`from`, `until`), `source`, `props`; an exception has `id`,
//!   `trustDomain`, `labels`, `can`, `path`, `host`, `key`, `service`. Labels and properties are in the order of their
//!   keys. Fields that ask nothing are left out, as is `mode: enforce`; `who: anyone` is written, and a
//!   `SecretPolicy` says its `evidence` in any case.
//! - Rules are in the order of their names. Other lists are sorted by the bytes of their items, without repetitions, and
//!   are lists also when they have one item.
//! - Values are in the form that this crate prints: IDs and hosts in lower case where case has no meaning, paths
//!   without needless percent-encoding, networks with their length, times as `2027-01-01T00:00:00Z`, durations as
//!   `1h30m`.
//! - Of strings only `"`, `\`, and characters that YAML does not take for themselves are escaped: control characters,
//!   U+FFFE and U+FFFF, and those that hide or reorder text; all as `\u` and four small hexadecimal digits, except
//!   `\"` and `\\`.
//!
//! Comments, management labels and tests do not belong to it: a secret stays sealed to a policy that gets a test.

use std::fmt::{self, Write as _};

use sha2::{Digest as _, Sha256};

use crate::{
    form::{self, Form},
    model::{Body, Document, Policy},
    read::VERSION,
    text::is_deceptive,
};

/// SHA-256 of the canonical bytes of a policy.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    /// `sha256:` and lower-case hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Body {
    /// Its canonical bytes, which are text.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        write_form(&mut out, &Form::Map(form::body(self, Some(VERSION))));
        out
    }

    /// The digest of its canonical bytes.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Policy(policy) => policy.digest(),
            Self::Rego(_) => Digest::of(self.canonical().as_bytes()),
        }
    }
}

impl Policy {
    /// The digest of its canonical bytes, which is computed once.
    pub fn digest(&self) -> Digest {
        *self.digest.0.get_or_init(|| {
            let mut out = String::new();
            write_form(&mut out, &Form::Map(form::policy(self, Some(VERSION))));
            Digest::of(out.as_bytes())
        })
    }
}

impl Document {
    /// The canonical bytes of what it says: see [`Body::canonical`].
    pub fn canonical(&self) -> String {
        self.body.canonical()
    }

    /// The digest of what it says.
    pub fn digest(&self) -> Digest {
        self.body.digest()
    }
}

fn write_form(out: &mut String, form: &Form) {
    match form {
        Form::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Form::Text(text) => quote(out, text),
        Form::Set(items) => {
            let mut written: Vec<String> = items
                .iter()
                .map(|item| {
                    let mut out = String::new();
                    write_form(&mut out, item);
                    out
                })
                .collect();
            written.sort();
            let _ = write!(out, "[{}]", written.join(","));
        }
        Form::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_form(out, item);
            }
            out.push(']');
        }
        Form::Map(fields) => {
            out.push('{');
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                quote(out, name);
                out.push(':');
                write_form(out, value);
            }
            out.push('}');
        }
    }
}

/// Text in quotes, as JSON and YAML read it.
pub(crate) fn quote(out: &mut String, text: &str) {
    out.push('"');
    // Most text is such, and there is much of it.
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.push_str(text);
        out.push('"');
        return;
    }
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            letter
                if letter.is_control()
                    || is_deceptive(letter)
                    || matches!(letter, '\u{fffe}' | '\u{ffff}') =>
            {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}
