//! What a ciphertext is bound to, beside its key: names and values of the caller's choice.
//!
//! They are not secret and are not in the ciphertext. Policies see them, and whoever decrypts must say the same.

use std::collections::BTreeMap;
use std::fmt;

use bonafide_crypto::digest::sha256;

use crate::codec::Input;

/// Pairs in a context.
pub const MAX_PAIRS: usize = 64;
/// Bytes of a context in its canonical form.
pub const MAX_BYTES: usize = 8 * 1024;

/// First in the canonical form: no other digest of ours is over such bytes.
const DOMAIN: &[u8; 24] = b"bonafide kms context v1\n";

/// Names and values, at most 64 pairs and 8 KiB. There is one form of each: sorted by name, no name twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Context(BTreeMap<String, String>);

/// SHA-256 of the canonical form: what goes into a ciphertext's associated data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextDigest([u8; 32]);

/// Why there is no such context.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// A name is empty, or has a control character.
    #[error("a name in the context is empty or has a control character")]
    Name,
    /// A name stands there twice.
    #[error("`{0}` stands in the context twice")]
    Twice(String),
    /// More than [`MAX_PAIRS`].
    #[error("the context has more than 64 pairs")]
    TooMany,
    /// More than [`MAX_BYTES`].
    #[error("the context has more than 8192 bytes")]
    TooLong,
    /// What was read is no canonical form.
    #[error("the context is not in its canonical form")]
    Form,
}

impl Context {
    /// A context of these pairs, in any order.
    ///
    /// # Errors
    /// [`ContextError`] names what is wrong.
    pub fn new<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ContextError> {
        let mut map = BTreeMap::new();
        let mut length = DOMAIN.len() + 2;
        for (name, value) in pairs {
            let (name, value) = (name.into(), value.into());
            length = length.saturating_add(4 + name.len()).saturating_add(value.len());
            if length > MAX_BYTES {
                return Err(ContextError::TooLong);
            }
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(ContextError::Name);
            }
            if map.len() >= MAX_PAIRS && !map.contains_key(&name) {
                return Err(ContextError::TooMany);
            }
            if map.contains_key(&name) {
                return Err(ContextError::Twice(name));
            }
            map.insert(name, value);
        }
        Ok(Self(map))
    }

    /// The pairs, sorted by name.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one encoding: the number of pairs, then name and value of each with their lengths before them, sorted by the
    /// bytes of the names.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let pairs: usize = self.0.iter().map(|(name, value)| 4 + name.len() + value.len()).sum();
        let mut out = Vec::with_capacity(DOMAIN.len() + 2 + pairs);
        out.extend_from_slice(DOMAIN);
        // INVARIANT: 64 pairs and 8 KiB fit into 16 bits.
        out.extend_from_slice(&(self.0.len() as u16).to_be_bytes());
        for (name, value) in &self.0 {
            for part in [name, value] {
                out.extend_from_slice(&(part.len() as u16).to_be_bytes());
                out.extend_from_slice(part.as_bytes());
            }
        }
        out
    }

    /// Reads what [`Self::canonical`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`ContextError`]: [`ContextError::Form`] for every other encoding of the same pairs.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, ContextError> {
        if bytes.len() > MAX_BYTES {
            return Err(ContextError::TooLong);
        }
        let mut input = Input(bytes.strip_prefix(DOMAIN.as_slice()).ok_or(ContextError::Form)?);
        let count = usize::from(input.short().ok_or(ContextError::Form)?);
        if count > MAX_PAIRS {
            return Err(ContextError::TooMany);
        }
        let mut text = || {
            let length = usize::from(input.short()?);
            std::str::from_utf8(input.take(length)?).ok()
        };
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let pair = (text().ok_or(ContextError::Form)?, text().ok_or(ContextError::Form)?);
            if pairs.last().is_some_and(|(last, _)| *last >= pair.0) {
                return Err(ContextError::Form);
            }
            pairs.push(pair);
        }
        input.finish().ok_or(ContextError::Form)?;
        Self::new(pairs)
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> ContextDigest {
        ContextDigest(sha256(&self.canonical()))
    }
}

impl ContextDigest {
    /// A digest that came from elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContextDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContextDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContextDigest({self})")
    }
}

impl ContextError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name => "kms.context-name",
            Self::Twice(_) => "kms.context-twice",
            Self::TooMany => "kms.context-too-many",
            Self::TooLong => "kms.context-too-long",
            Self::Form => "kms.context-form",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "give at most 64 names, each once and without control characters, and their values: 8 KiB in all"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[a-zé=/]{1,6}", "\\PC{0,8}", 0..10)
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_everything_else_does(map in pairs(), other in pairs(), cut in any::<prop::sample::Index>()) {
            let context = Context::new(map.clone()).unwrap();
            prop_assert_eq!(&Context::new(map.clone().into_iter().rev()).unwrap(), &context);
            let bytes = context.canonical();
            prop_assert_eq!(&Context::from_canonical(&bytes).unwrap(), &context);
            prop_assert!(Context::from_canonical(&bytes[..cut.index(bytes.len())]).is_err());
            let second = Context::new(other.clone()).unwrap();
            prop_assert_eq!(second.digest() == context.digest(), map == other);
        }

        #[test]
        fn noise_has_one_form(noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let bytes = [DOMAIN.as_slice(), &noise].concat();
            if let Ok(context) = Context::from_canonical(&bytes) {
                prop_assert_eq!(context.canonical(), bytes);
            }
        }
    }

    /// Ciphertexts depend on it for ever.
    #[test]
    fn the_form_is_stable() {
        let context = Context::new([("b", "2"), ("a", "1")]).unwrap();
        assert_eq!(context.canonical(), b"bonafide kms context v1\n\0\x02\0\x01a\0\x011\0\x01b\0\x012");
    }

    #[test]
    fn contexts_are_bounded() {
        let many = |count: usize| Context::new((0..count).map(|number| (number.to_string(), "")));
        assert!(many(64).is_ok());
        assert_eq!(many(65), Err(ContextError::TooMany));
        assert_eq!(Context::new([("a", "1"), ("a", "1")]), Err(ContextError::Twice("a".to_owned())));
        assert_eq!(Context::new([("", "1")]), Err(ContextError::Name));
        assert_eq!(Context::new([("a\n", "1")]), Err(ContextError::Name));
        let long = |length: usize| Context::new([("a", "x".repeat(length))]);
        assert_eq!(long(MAX_BYTES), Err(ContextError::TooLong));
        let most = MAX_BYTES - DOMAIN.len() - 2 - 5;
        assert_eq!(long(most).unwrap().canonical().len(), MAX_BYTES);
        assert_eq!(long(most + 1), Err(ContextError::TooLong));
    }
}
