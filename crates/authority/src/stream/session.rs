//! What one agent has been told, and what it must be told next. No I/O: messages in, messages out.
//!
//! The agent holds the registrations that its node may host. It says where it stands by incarnation, revision and
//! digest; it gets what has changed since, if the ring still knows and the digests agree, and everything otherwise.
//! A digest that disagrees later is repaired the same way.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bonafide_attest::registration::digest_item;
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::Revocations;
use bonafide_wire::node::authority_message::Kind;
use bonafide_wire::node::{Acknowledge, Bookmark, Hello, Update};
use bonafide_wire::types::Registration;
use bytes::Bytes;
use prost::Message;

use super::policies::{self, Wanted};
use super::revoked::{Delta, RevocationChanges, Told};

/// Largest part of a snapshot or delta, in bytes of registrations.
const MAX_PART: usize = 240 * 1024;
/// States that were told and not acknowledged yet, of which the digest is remembered.
const MAX_AWAITING: usize = 64;
/// Snapshots for one stream because of a digest. An agent that still disagrees then is broken, not behind.
const MAX_REPAIRS: u32 = 4;

/// The log as one agent may see it.
pub(crate) trait AgentView {
    /// The state of this moment.
    fn head(&self) -> Head;
    /// Everything that the agent's node may host, at [`Self::head`].
    fn hosted(&self) -> Vec<Registration>;
    /// What has changed for this agent after `since`, in order; none if that is too long ago.
    fn changes(&self, since: u64) -> Option<Changes>;
}

/// One state of the log.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) incarnation: [u8; 16],
    pub(crate) revision: u64,
    /// Of what the agent's node may host.
    pub(crate) digest: SetDigest,
    /// The bundle document.
    pub(crate) bundle: Bytes,
    /// Of the whole trust domain.
    pub(crate) revocations: Arc<Revocations>,
    /// That may guard a workload of the agent's node.
    pub(crate) policies: Wanted,
}

/// What has changed up to a revision, which may lie a little behind [`AgentView::head`].
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    pub(crate) revision: u64,
    pub(crate) registrations: Vec<AgentChange>,
    /// The bundle document, if it has changed.
    pub(crate) bundle: Option<Bytes>,
    pub(crate) revocations: RevocationChanges,
    /// As in [`Head`], unless nothing has changed that concerns the agent.
    pub(crate) policies: Option<Wanted>,
}

/// One change, as one agent sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AgentChange {
    pub(crate) id: Arc<str>,
    /// Revision of the registration that the agent had before, if it had it.
    pub(crate) before: Option<u64>,
    pub(crate) after: Option<Arc<Registration>>,
}

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Session {
    incarnation: [u8; 16],
    /// What the agent will hold once it has applied all that was sent.
    told: u64,
    digest: SetDigest,
    revocations: Told,
    policies: policies::Told,
    awaiting: VecDeque<Awaited>,
    acknowledged: u64,
    repairs: u32,
}

/// A state that the agent was told of, and has not acknowledged yet.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    revision: u64,
    digest: [u8; 32],
    revocations: [u8; 32],
    policies: [u8; 32],
}

/// What goes with registrations, and is told apart from them.
#[derive(Debug)]
struct Beside {
    revoked: Delta,
    policies: policies::Delta,
}

/// The agent does not keep to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("the agent acknowledged a revision that it was never told of")]
    Ahead,
    #[error(
        "the agent's registrations differ from the authority's although it was sent all of them, several times"
    )]
    Diverged,
}

impl Beside {
    fn is_empty(&self) -> bool {
        self.revoked.is_empty() && self.policies.is_empty()
    }
}

impl Session {
    /// Begins with what the agent says that it has.
    pub(crate) fn begin(hello: &Hello, view: &impl AgentView) -> (Self, Vec<Kind>) {
        let head = view.head();
        let (revocations, revoked) = Told::begin(&hello.revocations_digest, &head.revocations);
        let (policies, guarded) = policies::Told::begin(
            &hello.policies_digest,
            hello.incarnation == head.incarnation.as_slice(),
            &head.policies,
        );
        let beside = Beside { revoked, policies: guarded };
        let mut session = Self {
            incarnation: head.incarnation,
            told: head.revision,
            digest: head.digest,
            revocations,
            policies,
            awaiting: VecDeque::new(),
            acknowledged: 0,
            repairs: 0,
        };
        let messages = match session.missing(hello, view) {
            Some(changes) => session.delta(&changes, Some(head.bundle), beside),
            None => session.snapshot(view.hosted(), head.bundle, beside),
        };
        (session, messages)
    }

    /// Tells what has changed; nothing if nothing did.
    pub(crate) fn advance(&mut self, view: &impl AgentView) -> Vec<Kind> {
        let Some(changes) = view.changes(self.told) else { return self.repair(view) };
        if changes.revision <= self.told {
            return Vec::new();
        }
        self.told = changes.revision;
        for change in &changes.registrations {
            if let Some(revision) = change.before {
                self.digest.remove(&digest_item(&change.id, revision));
            }
            if let Some(after) = &change.after {
                self.digest.insert(&digest_item(&after.id, after.revision));
            }
        }
        let revoked = self.revocations.advance(changes.revocations);
        let policies = changes.policies.map(|wanted| self.policies.advance(&wanted)).unwrap_or_default();
        let beside = Beside { revoked, policies };
        if changes.registrations.is_empty() && changes.bundle.is_none() && beside.is_empty() {
            if self.awaiting.is_empty() {
                self.acknowledged = self.told;
            }
            return Vec::new();
        }
        self.delta(&changes.registrations, changes.bundle, beside)
    }

    /// The agent has applied what it was told.
    pub(crate) fn acknowledge(
        &mut self,
        acknowledge: &Acknowledge,
        view: &impl AgentView,
    ) -> Result<Vec<Kind>, Violation> {
        if acknowledge.revision > self.told {
            return Err(Violation::Ahead);
        }
        let mut reached = None;
        while let Some(&awaited) = self.awaiting.front() {
            if awaited.revision > acknowledge.revision {
                break;
            }
            if awaited.revision == acknowledge.revision {
                reached = Some(awaited);
            }
            self.awaiting.pop_front();
        }
        let differs = |awaited: Awaited| {
            acknowledge.set_digest != awaited.digest.as_slice()
                || !self.revocations.agrees(&acknowledge.revocations_digest, &awaited.revocations)
                || !self.policies.agrees(&acknowledge.policies_digest, &awaited.policies)
        };
        if reached.is_some_and(differs) {
            self.repairs += 1;
            if self.repairs > MAX_REPAIRS {
                return Err(Violation::Diverged);
            }
            return Ok(self.repair(view));
        }
        // What nobody had to be told of is acknowledged by whoever has acknowledged all before it.
        let reached = if self.awaiting.is_empty() { self.told } else { acknowledge.revision };
        self.acknowledged = self.acknowledged.max(reached);
        Ok(Vec::new())
    }

    /// "Nothing else has changed": finds any divergence.
    pub(crate) fn bookmark(&mut self) -> Kind {
        let Awaited { revision, digest, revocations, policies } = self.expect_acknowledgement();
        Kind::Bookmark(Bookmark {
            revision,
            set_digest: Bytes::copy_from_slice(&digest),
            revocations_digest: Bytes::copy_from_slice(&revocations),
            policies_digest: Bytes::copy_from_slice(&policies),
        })
    }

    /// The revision that the agent will have reached once it has applied all that was sent.
    pub(crate) fn told(&self) -> u64 {
        self.told
    }

    /// The highest revision that the agent is known to have applied.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// What the agent misses; none if only a snapshot can tell.
    fn missing(&self, hello: &Hello, view: &impl AgentView) -> Option<Vec<AgentChange>> {
        if hello.revision == 0
            || hello.revision > self.told
            || hello.incarnation != self.incarnation.as_slice()
        {
            return None;
        }
        if hello.set_digest == self.digest.bytes().as_slice() {
            return Some(Vec::new());
        }
        // The digest is of the head, so it can be taken back only along the whole way.
        let changes = view.changes(hello.revision).filter(|changes| changes.revision == self.told)?;
        let mut then = self.digest.clone();
        for change in changes.registrations.iter().rev() {
            if let Some(after) = &change.after {
                then.remove(&digest_item(&after.id, after.revision));
            }
            if let Some(revision) = change.before {
                then.insert(&digest_item(&change.id, revision));
            }
        }
        (hello.set_digest == then.bytes().as_slice()).then_some(changes.registrations)
    }

    /// Sends everything, whatever the agent has.
    fn repair(&mut self, view: &impl AgentView) -> Vec<Kind> {
        let head = view.head();
        self.incarnation = head.incarnation;
        self.told = head.revision;
        self.digest = head.digest;
        self.awaiting.clear();
        let revoked = self.revocations.repair(&head.revocations);
        let policies = self.policies.repair(&head.policies);
        self.snapshot(view.hosted(), head.bundle, Beside { revoked, policies })
    }

    fn snapshot(&mut self, hosted: Vec<Registration>, bundle: Bytes, beside: Beside) -> Vec<Kind> {
        let mut messages = self.parts(hosted, Vec::new(), Some(bundle), beside);
        if let Some(Kind::Update(first)) = messages.first_mut() {
            first.snapshot_start = true;
        }
        messages
    }

    fn delta(&mut self, changes: &[AgentChange], bundle: Option<Bytes>, beside: Beside) -> Vec<Kind> {
        let mut upserts = Vec::new();
        let mut removals = Vec::new();
        let mut seen = BTreeSet::new();
        // Of several changes to one registration only the last one matters.
        for change in changes.iter().rev().filter(|change| seen.insert(&change.id)) {
            match &change.after {
                Some(after) => upserts.push((**after).clone()),
                None => removals.push(change.id.to_string()),
            }
        }
        self.parts(upserts, removals, bundle, beside)
    }

    /// Cuts one change of state into messages; only the last one names the revision.
    fn parts(
        &mut self,
        upserts: Vec<Registration>,
        removals: Vec<String>,
        bundle: Option<Bytes>,
        Beside { revoked, policies }: Beside,
    ) -> Vec<Kind> {
        let mut parts = vec![Update { bundle: bundle.unwrap_or_default(), ..Update::default() }];
        let mut size = 0;
        let mut place = |length: usize, parts: &mut Vec<Update>| {
            size += length + 8;
            if size > MAX_PART {
                size = length + 8;
                parts.push(Update::default());
            }
        };
        for removal in removals {
            place(removal.len(), &mut parts);
            if let Some(part) = parts.last_mut() {
                part.removals.push(removal);
            }
        }
        for upsert in upserts {
            place(upsert.encoded_len(), &mut parts);
            if let Some(part) = parts.last_mut() {
                part.upserts.push(upsert);
            }
        }
        if !revoked.is_empty() {
            parts.extend(revoked.parts(MAX_PART).into_iter().map(|part| Update {
                revocations_start: part.start,
                revoked: part.revoked,
                unrevoked: part.unrevoked,
                ..Update::default()
            }));
        }
        if !policies.is_empty() {
            parts.extend(policies.parts(MAX_PART).into_iter().map(|part| Update {
                policies_start: part.start,
                policies: part.policies,
                policies_removed: part.removed,
                ..Update::default()
            }));
        }
        self.expect_acknowledgement();
        let last = parts.len() - 1;
        for (index, part) in parts.iter_mut().enumerate() {
            part.incarnation = Bytes::copy_from_slice(&self.incarnation);
            part.more = index < last;
            part.revision = if index == last { self.told } else { 0 };
        }
        parts.into_iter().map(Kind::Update).collect()
    }

    fn expect_acknowledgement(&mut self) -> Awaited {
        let awaited = Awaited {
            revision: self.told,
            digest: self.digest.bytes(),
            revocations: self.revocations.digest(),
            policies: self.policies.digest(),
        };
        if self.awaiting.len() >= MAX_AWAITING {
            self.awaiting.pop_front();
        }
        self.awaiting.push_back(awaited);
        awaited
    }
}

#[cfg(test)]
mod tests;
