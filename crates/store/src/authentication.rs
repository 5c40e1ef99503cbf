//! What each row's MAC covers. Whoever can write the database must not own the trust domain.
//!
//! * A change's MAC covers its row, the incarnation, and the MAC of the change before it: the log is a chain.
//! * An object's MAC covers its row and the incarnation.
//! * The head's MAC covers its row: where the chain starts (`anchor`) and ends (`tip`), how many objects there are,
//!   and a tag over the digest of their set. The digest itself is never stored, and its elements are pseudorandom
//!   under a key of their own. Otherwise somebody could look for a set of older, truly authenticated rows with the
//!   same digest: with an additive digest that takes little more than arithmetic.

use bonafide_crypto::{digest::SetDigest, mac::MacKey};

use crate::{Head, Incarnation, Place, Revision, StoreError};

/// The MAC keys of a store, one for each purpose.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    change: MacKey,
    head: MacKey,
    object: MacKey,
    set: MacKey,
}

/// The row of table `head`, without its MAC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HeadRow {
    pub(crate) incarnation: Incarnation,
    pub(crate) revision: Revision,
    pub(crate) floor: Revision,
    /// The MAC of the change at `floor`.
    pub(crate) anchor: [u8; 32],
    /// The MAC of the change at `revision`.
    pub(crate) tip: [u8; 32],
    /// How many objects there are.
    pub(crate) objects: u64,
    /// Tag of the digest of their set.
    pub(crate) set_tag: [u8; 32],
}

impl HeadRow {
    pub(crate) const fn head(&self) -> Head {
        Head { incarnation: self.incarnation, revision: self.revision, floor: self.floor }
    }

    /// Of a new store.
    pub(crate) fn empty(incarnation: Incarnation, keys: &Keys) -> Self {
        let genesis = keys.genesis(&incarnation);
        Self {
            incarnation,
            revision: Revision(0),
            floor: Revision(0),
            anchor: genesis,
            tip: genesis,
            objects: 0,
            set_tag: keys.set(&SetDigest::default()),
        }
    }

    /// Of a new incarnation with the same objects, of which `digest` is the set. Its log begins after the last
    /// revision.
    pub(crate) fn renewed(&self, incarnation: Incarnation, keys: &Keys, digest: &SetDigest) -> Self {
        let genesis = keys.genesis(&incarnation);
        Self {
            incarnation,
            floor: self.revision,
            anchor: genesis,
            tip: genesis,
            set_tag: keys.set(digest),
            ..self.clone()
        }
    }
}

impl Keys {
    pub(crate) fn derive(key: &MacKey) -> Self {
        let purpose = |name: &[u8]| MacKey::from_bytes(&key.tag(&[b"bonafide store v1", name]));
        Self {
            change: purpose(b"change"),
            head: purpose(b"head"),
            object: purpose(b"object"),
            set: purpose(b"set"),
        }
    }

    /// What the first change of an incarnation is chained to.
    pub(crate) fn genesis(&self, incarnation: &Incarnation) -> [u8; 32] {
        self.change.tag(&[b"genesis", incarnation.as_bytes()])
    }

    pub(crate) fn change(
        &self,
        incarnation: &Incarnation,
        revision: Revision,
        previous: &[u8; 32],
        key: &str,
        value: Option<&[u8]>,
    ) -> [u8; 32] {
        let revision = revision.0.to_be_bytes();
        self.change.tag(&change_parts(incarnation, &revision, previous, key, value))
    }

    pub(crate) fn verify_change(
        &self,
        incarnation: &Incarnation,
        revision: Revision,
        previous: &[u8; 32],
        (key, value): (&str, Option<&[u8]>),
        mac: &[u8; 32],
    ) -> Result<(), StoreError> {
        let number = revision.0.to_be_bytes();
        self.change.verify(&change_parts(incarnation, &number, previous, key, value), mac).map_err(|_| {
            StoreError::broken(
                Place::Change(revision),
                "its MAC does not fit the row and the change before it",
            )
        })
    }

    pub(crate) fn object(
        &self,
        incarnation: &Incarnation,
        key: &str,
        revision: Revision,
        value: &[u8],
    ) -> [u8; 32] {
        self.object.tag(&[incarnation.as_bytes(), key.as_bytes(), &revision.0.to_be_bytes(), value])
    }

    pub(crate) fn verify_object(
        &self,
        incarnation: &Incarnation,
        key: &str,
        revision: Revision,
        value: &[u8],
        mac: &[u8; 32],
    ) -> Result<(), StoreError> {
        self.object
            .verify(&[incarnation.as_bytes(), key.as_bytes(), &revision.0.to_be_bytes(), value], mac)
            .map_err(|_| StoreError::broken(Place::Object(key.to_owned()), "its MAC does not fit the row"))
    }

    /// What stands for an object in the digest of the set: a function of its MAC, so that two versions of one
    /// object differ, that nobody without the key can compute.
    pub(crate) fn element(&self, object_mac: &[u8; 32]) -> [u8; 32] {
        self.set.tag(&[b"element", object_mac])
    }

    pub(crate) fn set(&self, digest: &SetDigest) -> [u8; 32] {
        self.set.tag(&[b"digest", &digest.bytes()])
    }

    pub(crate) fn verify_set(
        &self,
        digest: &SetDigest,
        head: &HeadRow,
        objects: u64,
    ) -> Result<(), StoreError> {
        let place = || Place::CompactedObjects(head.floor);
        if objects < head.objects {
            return Err(StoreError::broken(place(), "a row is missing"));
        }
        if objects > head.objects {
            return Err(StoreError::broken(place(), "a row was added"));
        }
        self.set
            .verify(&[b"digest", &digest.bytes()], &head.set_tag)
            .map_err(|_| StoreError::broken(place(), "a row was exchanged for an older one"))
    }

    pub(crate) fn head(&self, row: &HeadRow) -> [u8; 32] {
        with_head_parts(row, |parts| self.head.tag(parts))
    }

    pub(crate) fn verify_head(&self, row: &HeadRow, mac: &[u8; 32]) -> Result<(), StoreError> {
        with_head_parts(row, |parts| self.head.verify(parts, mac))
            .map_err(|_| StoreError::broken(Place::Head, "its MAC does not fit the row"))
    }
}

fn change_parts<'a>(
    incarnation: &'a Incarnation,
    revision: &'a [u8; 8],
    previous: &'a [u8; 32],
    key: &'a str,
    value: Option<&'a [u8]>,
) -> [&'a [u8]; 7] {
    let kind: &[u8] = if value.is_some() { b"put" } else { b"remove" };
    [b"change", incarnation.as_bytes(), revision, previous, key.as_bytes(), kind, value.unwrap_or_default()]
}

fn with_head_parts<T>(row: &HeadRow, f: impl FnOnce(&[&[u8]]) -> T) -> T {
    f(&[
        row.incarnation.as_bytes(),
        &row.revision.0.to_be_bytes(),
        &row.floor.0.to_be_bytes(),
        &row.anchor,
        &row.tip,
        &row.objects.to_be_bytes(),
        &row.set_tag,
    ])
}
