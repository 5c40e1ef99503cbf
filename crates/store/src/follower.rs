//! How far one server has followed a log that others write too, and what it needs to write the next change.

use std::collections::{BTreeMap, HashMap};

use bonafide_crypto::digest::SetDigest;

use crate::{
    Batch, Change, Incarnation, Revision, StoreError,
    authentication::{HeadRow, Keys},
};

/// The last change that was verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Position {
    pub(crate) incarnation: Incarnation,
    pub(crate) revision: Revision,
    pub(crate) tip: [u8; 32],
}

/// A position, and the set of objects at it: of each, its MAC.
#[derive(Debug)]
pub(crate) struct Follower {
    position: Position,
    objects: HashMap<String, [u8; 32]>,
    digest: SetDigest,
}

/// A batch, as it will stand in the database.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Revision and MAC of each change of the batch.
    pub(crate) changes: Vec<(Revision, [u8; 32])>,
    /// What becomes of each key: which change of the batch, with which MAC.
    pub(crate) objects: BTreeMap<String, Option<Put>>,
    /// Whether there was an object before, for those that are removed.
    pub(crate) existed: usize,
    pub(crate) last: Position,
    pub(crate) count: u64,
    digest: SetDigest,
}

/// An object that a batch writes.
#[derive(Debug)]
pub(crate) struct Put {
    /// Of the change in the batch.
    pub(crate) index: usize,
    pub(crate) revision: Revision,
    pub(crate) mac: [u8; 32],
}

impl Position {
    pub(crate) const fn of(head: &HeadRow) -> Self {
        Self { incarnation: head.incarnation, revision: head.revision, tip: head.tip }
    }

    /// Refuses a head, authentic as it may be, to which what this server has seen does not lead.
    pub(crate) fn admits(&self, head: &HeadRow) -> Result<(), StoreError> {
        if head.incarnation != self.incarnation {
            let what = format!("incarnation {} has begun, after {}", head.incarnation, self.incarnation);
            return Err(self.went_back(what));
        }
        if head.revision < self.revision {
            return Err(self.went_back(format!("table `head` is at revision {}", head.revision)));
        }
        if head.revision == self.revision && head.tip != self.tip {
            return Err(self.another_change());
        }
        Ok(())
    }

    /// The change at this position is not the one that this server has seen there.
    pub(crate) fn another_change(&self) -> StoreError {
        self.went_back(format!("table `change`, revision {}, is another one", self.revision))
    }

    fn went_back(&self, what: String) -> StoreError {
        StoreError::WentBack { known: self.revision, what }
    }
}

impl Follower {
    pub(crate) const fn new(
        position: Position,
        objects: HashMap<String, [u8; 32]>,
        digest: SetDigest,
    ) -> Self {
        Self { position, objects, digest }
    }

    pub(crate) const fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn set_tag(&self, keys: &Keys) -> [u8; 32] {
        keys.set(&self.digest)
    }

    pub(crate) fn count(&self) -> u64 {
        self.objects.len() as u64
    }

    /// Goes on to the next change, which has been verified.
    pub(crate) fn follow(&mut self, keys: &Keys, change: &Change, mac: [u8; 32]) {
        let object = change
            .value
            .as_deref()
            .map(|value| keys.object(&self.position.incarnation, &change.key, change.revision, value));
        let before = match object {
            Some(object) => {
                self.digest.insert(&keys.element(&object));
                self.objects.insert(change.key.clone(), object)
            }
            None => self.objects.remove(&change.key),
        };
        if let Some(before) = before {
            self.digest.remove(&keys.element(&before));
        }
        self.position.revision = change.revision;
        self.position.tip = mac;
    }

    /// What `batch` would be after this position.
    pub(crate) fn plan(&self, keys: &Keys, batch: &Batch) -> Plan {
        let mut plan = Plan {
            changes: Vec::with_capacity(batch.changes.len()),
            objects: BTreeMap::new(),
            existed: 0,
            last: self.position,
            count: self.count(),
            digest: self.digest.clone(),
        };
        let incarnation = &self.position.incarnation;
        for (index, (key, value)) in batch.changes.iter().enumerate() {
            let revision = plan.last.revision.next();
            let mac = keys.change(incarnation, revision, &plan.last.tip, key, value.as_deref());
            (plan.last.revision, plan.last.tip) = (revision, mac);
            plan.changes.push((revision, mac));
            let before = match plan.objects.get(key) {
                Some(put) => put.as_ref().map(|put| put.mac),
                None => self.objects.get(key).copied(),
            };
            if let Some(before) = before {
                plan.digest.remove(&keys.element(&before));
                plan.count = plan.count.saturating_sub(1);
            }
            let put = value.as_deref().map(|value| {
                let mac = keys.object(incarnation, key, revision, value);
                plan.digest.insert(&keys.element(&mac));
                plan.count = plan.count.saturating_add(1);
                Put { index, revision, mac }
            });
            plan.objects.insert(key.clone(), put);
        }
        let removed = plan.objects.iter().filter(|(_, put)| put.is_none());
        plan.existed = removed.filter(|(key, _)| self.objects.contains_key(*key)).count();
        plan
    }

    /// Goes to the end of a plan, which was made at this position and has been committed.
    pub(crate) fn apply(&mut self, plan: Plan) {
        for (key, put) in plan.objects {
            match put {
                Some(put) => drop(self.objects.insert(key, put.mac)),
                None => drop(self.objects.remove(&key)),
            }
        }
        self.digest = plan.digest;
        self.position = plan.last;
    }
}

impl Plan {
    /// The head after the batch; `before` is the one in the database.
    pub(crate) fn head(&self, keys: &Keys, before: &HeadRow) -> HeadRow {
        HeadRow {
            revision: self.last.revision,
            tip: self.last.tip,
            objects: self.count,
            set_tag: keys.set(&self.digest),
            ..before.clone()
        }
    }
}
