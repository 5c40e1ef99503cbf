//! Revocations, as one stream tells them: beside the registrations, with a digest of their own.
//!
//! Every agent of the trust domain gets all of them, because any workload may meet any other one. The set is small and
//! bounded, so an agent that was away gets all of it if its digest differs. An agent that sends no digest is of a
//! version that knows nothing of revocations, and is spared them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bonafide_identity::revocation::{Revocation, Revocations, Subject};
use bonafide_wire::{from_revocation, from_subject, types};
use prost::Message;

use crate::records::Object;

/// Changes that are remembered. A stream that is behind by more gets the whole set.
const MAX_CHANGES: usize = 4096;

/// What one agent has been told.
#[derive(Debug)]
pub(crate) struct Told {
    understands: bool,
    digest: [u8; 32],
}

/// What one message, or several, must tell.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// Forget everything first.
    pub(crate) start: bool,
    pub(crate) revoked: Vec<types::Revocation>,
    pub(crate) unrevoked: Vec<types::Revocation>,
}

/// What has changed up to a revision.
#[derive(Clone, Debug)]
pub(crate) struct RevocationChanges {
    pub(crate) kind: Changed,
    /// Of the set at that revision.
    pub(crate) digest: [u8; 32],
}

/// How it has changed.
#[derive(Clone, Debug)]
pub(crate) enum Changed {
    /// Only these subjects: what holds for them now.
    Subjects(BTreeMap<Subject, Option<Revocation>>),
    /// Too much to tell one by one.
    Everything(Arc<Revocations>),
}

/// The newest changes of the set, and the set that they lead to.
#[derive(Debug)]
pub(crate) struct RevocationRing {
    set: Arc<Revocations>,
    digest: [u8; 32],
    changes: VecDeque<(u64, Subject)>,
    floor: u64,
}

impl Told {
    /// Begins with the digest that the agent says it has.
    pub(crate) fn begin(claimed: &[u8], set: &Revocations) -> (Self, Delta) {
        let told = Self { understands: !claimed.is_empty(), digest: set.digest() };
        let delta = if claimed == told.digest { Delta::default() } else { told.everything(set) };
        (told, delta)
    }

    pub(crate) fn advance(&mut self, changes: RevocationChanges) -> Delta {
        if self.digest == changes.digest {
            return Delta::default();
        }
        self.digest = changes.digest;
        match changes.kind {
            Changed::Everything(set) => self.everything(&set),
            Changed::Subjects(_) if !self.understands => Delta::default(),
            Changed::Subjects(subjects) => {
                let mut delta = Delta::default();
                for (subject, now) in subjects {
                    match now {
                        Some(revocation) => delta.revoked.push(from_revocation(&revocation)),
                        None => delta.unrevoked.push(from_subject(&subject)),
                    }
                }
                delta
            }
        }
    }

    /// The whole set, whatever the agent has.
    pub(crate) fn repair(&mut self, set: &Revocations) -> Delta {
        self.digest = set.digest();
        self.everything(set)
    }

    /// What an agent that has applied everything acknowledges.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether an acknowledgement fits what was expected.
    pub(crate) fn agrees(&self, acknowledged: &[u8], expected: &[u8; 32]) -> bool {
        !self.understands || acknowledged == expected
    }

    fn everything(&self, set: &Revocations) -> Delta {
        if !self.understands {
            return Delta::default();
        }
        let revoked = set.iter().map(|revocation| from_revocation(&revocation)).collect();
        Delta { start: true, revoked, unrevoked: Vec::new() }
    }
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        !self.start && self.revoked.is_empty() && self.unrevoked.is_empty()
    }

    /// Cuts it into pieces of at most `size` bytes, about.
    pub(crate) fn parts(self, size: usize) -> Vec<Self> {
        let mut parts = vec![Self { start: self.start, ..Self::default() }];
        let mut used = 0;
        let both = self.unrevoked.into_iter().map(|each| (false, each));
        for (revoked, each) in both.chain(self.revoked.into_iter().map(|each| (true, each))) {
            used += each.encoded_len() + 8;
            if used > size {
                used = each.encoded_len() + 8;
                parts.push(Self::default());
            }
            if let Some(part) = parts.last_mut() {
                if revoked { part.revoked.push(each) } else { part.unrevoked.push(each) }
            }
        }
        parts
    }
}

impl RevocationRing {
    pub(crate) fn at(set: &Arc<Revocations>, revision: u64) -> Self {
        Self { digest: set.digest(), set: Arc::clone(set), changes: VecDeque::new(), floor: revision }
    }

    /// Notes what one change of the log did; the set follows with [`Self::follow`].
    pub(crate) fn note(&mut self, revision: u64, before: Option<&Object>, after: Option<&Object>) {
        let subject = |object: Option<&Object>| match object {
            Some(Object::Revocation(record)) => Some(record.revocation.subject.clone()),
            _ => None,
        };
        let Some(subject) = subject(after).or_else(|| subject(before)) else { return };
        if self.changes.len() >= MAX_CHANGES
            && let Some((oldest, _)) = self.changes.pop_front()
        {
            self.floor = oldest;
        }
        self.changes.push_back((revision, subject));
        let set = Arc::make_mut(&mut self.set);
        match after {
            Some(Object::Revocation(record)) => {
                if let Err(error) = set.insert(record.revocation.clone()) {
                    tracing::error!(code = error.code(), "a revocation is not pushed: {error}");
                }
            }
            _ => {
                if let Some((_, subject)) = self.changes.back() {
                    set.remove(subject);
                }
            }
        }
    }

    /// After the last change of a group was noted.
    pub(crate) fn seal(&mut self) {
        self.digest = self.set.digest();
    }

    pub(crate) fn since(&self, since: u64) -> RevocationChanges {
        let kind = if since < self.floor {
            Changed::Everything(Arc::clone(&self.set))
        } else {
            let start = self.changes.partition_point(|(revision, _)| *revision <= since);
            let subjects = self.changes.range(start..);
            Changed::Subjects(subjects.map(|(_, subject)| (subject.clone(), self.set.get(subject))).collect())
        };
        RevocationChanges { kind, digest: self.digest }
    }
}
