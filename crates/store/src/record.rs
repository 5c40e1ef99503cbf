//! What a store holds and hands out.

use std::fmt;

use crate::StoreError;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;
/// The longest value, in bytes.
pub const MAX_VALUE: usize = 1 << 20;
/// The most changes that one batch may hold.
pub const MAX_CHANGES: usize = 10_000;

/// A place in the log: 0 before the first change, then one for each change, without a gap.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one life of a store. A store that was restored or failed over starts a new one, because its revisions may
/// mean something else than the same revisions did before.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Incarnation([u8; 16]);

impl Incarnation {
    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a log stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Which life of the store this is.
    pub incarnation: Incarnation,
    /// The last change.
    pub revision: Revision,
    /// The last change that was compacted away: the log holds the ones after it.
    pub floor: Revision,
}

/// One change of one object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Its place in the log.
    pub revision: Revision,
    /// The object's key.
    pub key: String,
    /// What the object is from here on; `None` when it was removed.
    pub value: Option<Vec<u8>>,
}

/// One object as it is now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Object {
    /// What it is called.
    pub key: String,
    /// The change that last wrote it.
    pub revision: Revision,
    /// What it is.
    pub value: Vec<u8>,
}

/// Every object, in the order of their keys, at one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// Of which state this is a picture.
    pub head: Head,
    /// All objects.
    pub objects: Vec<Object>,
}

/// Changes that are committed together. Each gets a revision of its own, in this order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Batch {
    /// Keys with what becomes of them; `None` removes. A key may occur several times: the last one stays.
    pub changes: Vec<(String, Option<Vec<u8>>)>,
}

impl Batch {
    /// Adds a write of `key`.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.changes.push((key.into(), Some(value.into())));
        self
    }

    /// Adds the removal of `key`.
    #[must_use]
    pub fn remove(mut self, key: impl Into<String>) -> Self {
        self.changes.push((key.into(), None));
        self
    }

    /// Refuses what no store may hold: more than [`MAX_CHANGES`] changes or none, keys that are empty, longer than
    /// [`MAX_KEY`] or with a NUL (which PostgreSQL's text can't hold), values longer than [`MAX_VALUE`].
    ///
    /// # Errors
    /// [`StoreError::Invalid`], with what is wrong.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.changes.is_empty() || self.changes.len() > MAX_CHANGES {
            return Err(StoreError::Invalid { what: "a batch has 1 to 10000 changes" });
        }
        for (key, value) in &self.changes {
            if key.is_empty() || key.len() > MAX_KEY || key.contains('\0') {
                return Err(StoreError::Invalid { what: "a key has 1 to 512 bytes, none of them zero" });
            }
            if value.as_ref().is_some_and(|value| value.len() > MAX_VALUE) {
                return Err(StoreError::Invalid { what: "a value has at most 1048576 bytes" });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded() {
        assert!(Batch::default().check().is_err());
        assert!(Batch::default().put("a", "1").check().is_ok());
        assert!(Batch::default().put("", "1").check().is_err());
        assert!(Batch::default().put("a\0", "1").check().is_err());
        assert!(Batch::default().put("k".repeat(MAX_KEY), "1").check().is_ok());
        assert!(Batch::default().remove("k".repeat(MAX_KEY + 1)).check().is_err());
        assert!(Batch::default().put("a", vec![0; MAX_VALUE]).check().is_ok());
        assert!(Batch::default().put("a", vec![0; MAX_VALUE + 1]).check().is_err());
        let many = |count| Batch { changes: vec![("k".to_owned(), None); count] };
        assert!(many(MAX_CHANGES).check().is_ok());
        assert!(many(MAX_CHANGES + 1).check().is_err());
    }
}
