//! Going through rows with suspicion, whatever database they come from: each row must be authentic, none missing,
//! none too many.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use bonafide_crypto::digest::{SetDigest, sha256};

use crate::{
    Change, Object, Place, Revision, StoreError,
    authentication::{HeadRow, Keys},
};

/// A row of table `change`.
#[derive(Debug)]
pub(crate) struct ChangeRow<'a> {
    pub(crate) revision: Revision,
    pub(crate) key: &'a str,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) mac: [u8; 32],
}

/// A row of table `object`.
#[derive(Debug)]
pub(crate) struct ObjectRow<'a> {
    pub(crate) key: &'a str,
    pub(crate) revision: Revision,
    pub(crate) value: &'a [u8],
    pub(crate) mac: [u8; 32],
}

impl ChangeRow<'_> {
    pub(crate) fn to_owned(&self) -> Change {
        Change { revision: self.revision, key: self.key.to_owned(), value: self.value.map(<[u8]>::to_vec) }
    }
}

impl ObjectRow<'_> {
    pub(crate) fn to_owned(&self) -> Object {
        Object { key: self.key.to_owned(), revision: self.revision, value: self.value.to_vec() }
    }
}

/// Goes through at most `max` changes after one whose MAC is known. Verifies each, that none is missing, and, if it
/// comes that far, that the last one is the one that the head knows.
#[derive(Debug)]
pub(crate) struct ChangeWalk<'a> {
    keys: &'a Keys,
    head: &'a HeadRow,
    first: Revision,
    last: Revision,
    previous: [u8; 32],
}

impl<'a> ChangeWalk<'a> {
    pub(crate) const fn new(keys: &'a Keys, head: &'a HeadRow, after: (Revision, [u8; 32])) -> Self {
        Self { keys, head, first: after.0, last: after.0, previous: after.1 }
    }

    /// The revision that the next row must have.
    pub(crate) const fn expected(&self) -> Revision {
        self.last.next()
    }

    /// The next row has this revision.
    pub(crate) fn arrive(&self, revision: u64) -> Result<(), StoreError> {
        let expected = self.expected();
        if expected > self.head.revision {
            let place = Place::Change(Revision(revision));
            return Err(StoreError::broken(place, "the row is newer than the head"));
        }
        if revision != expected.0 {
            return Err(StoreError::broken(Place::Change(expected), "the row is missing"));
        }
        Ok(())
    }

    /// The row at which it [arrived](Self::arrive).
    pub(crate) fn step(&mut self, row: &ChangeRow<'_>) -> Result<(), StoreError> {
        let content = (row.key, row.value);
        self.keys.verify_change(&self.head.incarnation, row.revision, &self.previous, content, &row.mac)?;
        self.previous = row.mac;
        self.last = row.revision;
        Ok(())
    }

    /// There are no more rows. Returns the last one's revision and MAC.
    pub(crate) fn finish(self, max: usize) -> Result<(Revision, [u8; 32]), StoreError> {
        let wanted = self.head.revision.0.min(self.first.0.saturating_add(max as u64));
        if self.last.0 < wanted {
            return Err(StoreError::broken(Place::Change(self.expected()), "the row is missing"));
        }
        if self.last == self.head.revision && self.previous != self.head.tip {
            return Err(StoreError::broken(
                Place::Change(self.last),
                "it is not the change that the head knows",
            ));
        }
        Ok((self.last, self.previous))
    }
}

/// Goes through all objects in the order of their keys. Verifies each, and adds up the digest of their set.
#[derive(Debug)]
pub(crate) struct ObjectWalk<'a> {
    keys: &'a Keys,
    head: &'a HeadRow,
    last: Option<String>,
    pub(crate) digest: SetDigest,
    pub(crate) objects: u64,
}

impl<'a> ObjectWalk<'a> {
    pub(crate) fn new(keys: &'a Keys, head: &'a HeadRow) -> Self {
        Self { keys, head, last: None, digest: SetDigest::default(), objects: 0 }
    }

    pub(crate) fn step(&mut self, row: &ObjectRow<'_>) -> Result<(), StoreError> {
        self.keys.verify_object(&self.head.incarnation, row.key, row.revision, row.value, &row.mac)?;
        if self.last.as_deref().is_some_and(|last| last >= row.key) {
            return Err(StoreError::broken(Place::Object(row.key.to_owned()), "the row is out of order"));
        }
        self.digest.insert(&self.keys.element(&row.mac));
        self.objects += 1;
        match &mut self.last {
            Some(last) => row.key.clone_into(last),
            None => self.last = Some(row.key.to_owned()),
        }
        Ok(())
    }

    /// There are no more rows: their set must be the one that the head knows.
    pub(crate) fn finish(self) -> Result<SetDigest, StoreError> {
        self.keys.verify_set(&self.digest, self.head, self.objects)?;
        Ok(self.digest)
    }
}

/// What the log says about each key: its last change, and the MAC of the object that it left, if it left one. Objects
/// are held against it.
///
/// Keys by their hash, so that all of it is one piece of memory, however many there are.
#[derive(Debug)]
pub(crate) struct Audit(HashMap<u128, (Revision, Option<[u8; 32]>), BuildHasherDefault<Short>>);

impl Audit {
    /// Room for all keys of a log that is not much longer than the objects that it left.
    pub(crate) fn new(head: &HeadRow) -> Self {
        let keys = head.objects.min(head.revision.0.saturating_sub(head.floor.0));
        Self(HashMap::with_capacity_and_hasher(usize::try_from(keys).unwrap_or_default(), Default::default()))
    }

    pub(crate) fn change(&mut self, keys: &Keys, head: &HeadRow, row: &ChangeRow<'_>) {
        let object = row.value.map(|value| keys.object(&head.incarnation, row.key, row.revision, value));
        self.0.insert(short(row.key), (row.revision, object));
    }

    /// An object (its key, revision and MAC) must be what the log says that it is, or older than the log.
    pub(crate) fn object(
        &mut self,
        head: &HeadRow,
        (key, revision, mac): (&str, Revision, &[u8; 32]),
    ) -> Result<(), StoreError> {
        let what = match self.0.remove(&short(key)) {
            _ if revision > head.revision => "the row is newer than the head",
            Some((last, Some(wanted))) if last == revision && wanted == *mac => return Ok(()),
            Some((last, None)) if last > revision => "a later change removed the object",
            Some((last, _)) if last > revision => "a later change replaced this version",
            None if revision <= head.floor => return Ok(()),
            _ => "no change in the log wrote this",
        };
        Err(StoreError::broken(Place::Object(key.to_owned()), what))
    }

    /// What is left must be removals. If not, this change has left an object that is not there: see [`missing`].
    pub(crate) fn left(&self) -> Option<Revision> {
        let objects = self.0.values().filter(|(_, object)| object.is_some());
        objects.map(|(revision, _)| *revision).min()
    }
}

/// The object of this key is not there.
pub(crate) fn missing(key: &str) -> StoreError {
    StoreError::broken(Place::Object(key.to_owned()), "the row is missing")
}

/// Nobody who could choose keys gains by two of one hash: the store would refuse what he wrote himself.
fn short(key: &str) -> u128 {
    let [short @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = sha256(key.as_bytes());
    u128::from_le_bytes(short)
}

/// What is a hash already is not hashed again.
#[derive(Debug, Default)]
struct Short(u64);

impl Hasher for Short {
    fn write_u128(&mut self, short: u128) {
        self.0 = (short >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The first row of the whole table: changes at or below the floor are gone, and stay gone.
pub(crate) fn verify_first_change(head: &HeadRow, revision: i64) -> Result<(), StoreError> {
    match u64::try_from(revision) {
        Ok(revision) if revision > head.floor.0 => Ok(()),
        Ok(revision) => {
            let place = Place::Change(Revision(revision));
            Err(StoreError::broken(place, "the row is below the floor"))
        }
        Err(_) => {
            let place = Place::Database("table `change`, a row with a negative revision".to_owned());
            Err(StoreError::broken(place, "the row was added"))
        }
    }
}
