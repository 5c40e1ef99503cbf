//! What the authority has told: registrations, trust bundle, and how far in its log that is. No I/O.
//!
//! A snapshot, or a delta of several parts, takes effect as a whole when its last part has come; what is
//! left of it when a stream breaks is forgotten. The digest over all registrations goes back with every
//! acknowledgement, so that the authority finds and repairs any divergence.

mod policies;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bonafide_attest::{
    Selector, SelectorSet,
    matcher::SubsetIndex,
    registration::{Registration, digest_item},
};
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::{
    Revocations, SpiffeId, TrustDomain, bundle::TrustBundle, revocation::MAX_REVOCATIONS, time::UnixTime,
};
use bonafide_wire::{
    apply_revocations, from_revocation,
    node::{Acknowledge, Bookmark, Hello, Update},
    types,
};
use bytes::Bytes;

pub(crate) use self::policies::Policies;
use self::policies::StagedPolicies;
use crate::convert;

/// Most registrations that one node keeps.
const MAX_REGISTRATIONS: usize = 200_000;
/// Largest bundle document.
const MAX_BUNDLE: usize = 1 << 20;

/// Name of a registration.
pub(crate) type RegistrationId = Arc<str>;

/// The agent's copy of what its node may host.
#[derive(Debug)]
pub(crate) struct View {
    trust_domain: TrustDomain,
    incarnation: Bytes,
    revision: u64,
    digest: SetDigest,
    rows: BTreeMap<RegistrationId, Row>,
    index: SubsetIndex<RegistrationId>,
    bundle: Bytes,
    revocations: Arc<Revocations>,
    policies: Arc<Policies>,
    staged: Option<Staged>,
}

#[derive(Debug)]
struct Row {
    wire: types::Registration,
    /// None if this agent doesn't understand it; it still counts for the digest.
    typed: Option<Arc<Registration>>,
}

/// The parts of a change that have come so far.
#[derive(Debug, Default)]
struct Staged {
    snapshot: bool,
    incarnation: Bytes,
    upserts: BTreeMap<String, types::Registration>,
    removals: BTreeSet<String>,
    bundle: Bytes,
    /// What is to be forgotten, taken back and revoked, in this order.
    revocations_start: bool,
    unrevoked: Vec<types::Revocation>,
    revoked: Vec<types::Revocation>,
    policies: StagedPolicies,
}

/// What an update has changed.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Changes {
    /// Registrations that are new, different or gone.
    pub(crate) registrations: Vec<RegistrationId>,
    pub(crate) bundle: bool,
    pub(crate) revocations: bool,
    pub(crate) policies: bool,
}

/// The authority does not keep to the protocol: begin again.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("an update is of another incarnation of the store, and no snapshot")]
    OtherIncarnation,
    #[error("an update would go back in the log")]
    Backwards,
    #[error("an update has more registrations than a node can host")]
    TooMany,
    #[error("an update revokes more than a trust domain can")]
    TooManyRevocations,
    #[error("an update names no incarnation or no revision")]
    Nameless,
}

impl View {
    pub(crate) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            revocations: Arc::new(Revocations::new(trust_domain.clone())),
            policies: Arc::default(),
            trust_domain,
            incarnation: Bytes::new(),
            revision: 0,
            digest: SetDigest::default(),
            rows: BTreeMap::new(),
            index: SubsetIndex::new(),
            bundle: Bytes::new(),
            staged: None,
        }
    }

    /// Whether a whole state has been told.
    pub(crate) fn is_ready(&self) -> bool {
        self.revision > 0
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The bundle document (JWKS); empty before there is one.
    pub(crate) fn bundle(&self) -> &Bytes {
        &self.bundle
    }

    /// What the authority has revoked. The same `Arc` until it changes.
    pub(crate) fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// What guards the node's workloads. The same `Arc` until it changes.
    pub(crate) fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// How many registrations the node may host.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Arc<Registration>> {
        self.rows.get(id)?.typed.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&RegistrationId, &Arc<Registration>)> {
        self.rows.iter().filter_map(|(id, row)| Some((id, row.typed.as_ref()?)))
    }

    /// The registrations that a process with these selectors has: the oldest first, which makes it the
    /// default one, so that a new registration never changes the default.
    pub(crate) fn matches(
        &self,
        selectors: &SelectorSet,
        agent: Option<&SpiffeId>,
        now: UnixTime,
    ) -> Vec<(RegistrationId, Arc<Registration>)> {
        let mut found: Vec<_> = self
            .index
            .matches(selectors)
            .into_iter()
            .filter_map(|id| Some((id.clone(), self.get(&id)?.clone())))
            .filter(|(_, registration)| is_hosted(registration, agent, now))
            .collect();
        found.sort_by(|(left_id, left), (right_id, right)| {
            (left.created_at, left_id).cmp(&(right.created_at, right_id))
        });
        found
    }

    /// Registrations that almost match, with what is missing.
    pub(crate) fn near_misses(
        &self,
        selectors: &SelectorSet,
        limit: usize,
    ) -> Vec<(Arc<Registration>, Vec<Selector>)> {
        let nearest = self.index.near_misses(selectors, limit);
        nearest.into_iter().filter_map(|(id, missing)| Some((self.get(&id)?.clone(), missing))).collect()
    }

    /// First message on a stream.
    pub(crate) fn hello(&mut self) -> Hello {
        self.staged = None;
        Hello {
            incarnation: self.incarnation.clone(),
            revision: self.revision,
            set_digest: Bytes::copy_from_slice(&self.digest.bytes()),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            revocations_digest: Bytes::copy_from_slice(&self.revocations.digest()),
            policies_digest: Bytes::copy_from_slice(&self.policies.digest()),
            ..Hello::default()
        }
    }

    /// Takes in one message. `None`: more parts follow.
    pub(crate) fn update(&mut self, update: Update) -> Result<Option<(Acknowledge, Changes)>, Violation> {
        if update.snapshot_start {
            self.staged = Some(Staged { snapshot: true, ..Staged::default() });
        }
        let known = self.rows.len();
        let staged = self.staged.get_or_insert_with(Staged::default);
        if !update.incarnation.is_empty() {
            staged.incarnation = update.incarnation;
        }
        if !update.bundle.is_empty() {
            staged.bundle = update.bundle;
        }
        for id in update.removals {
            staged.upserts.remove(&id);
            staged.removals.insert(id);
        }
        for registration in update.upserts {
            staged.removals.remove(&registration.id);
            staged.upserts.insert(registration.id.clone(), registration);
        }
        if update.revocations_start {
            staged.revocations_start = true;
            staged.unrevoked.clear();
            staged.revoked.clear();
        }
        staged.unrevoked.extend(update.unrevoked);
        staged.revoked.extend(update.revoked);
        if staged.revoked.len().max(staged.unrevoked.len()) > MAX_REVOCATIONS {
            self.staged = None;
            return Err(Violation::TooManyRevocations);
        }
        staged.policies.add(update.policies_start, update.policies, update.policies_removed);
        let kept = if staged.snapshot { 0 } else { known };
        if kept.saturating_add(staged.upserts.len()) > MAX_REGISTRATIONS.saturating_mul(2)
            || staged.upserts.len() > MAX_REGISTRATIONS
            || staged.bundle.len() > MAX_BUNDLE
        {
            self.staged = None;
            return Err(Violation::TooMany);
        }
        if update.more {
            return Ok(None);
        }
        let Some(staged) = self.staged.take() else { return Ok(None) };
        if staged.incarnation.is_empty() || update.revision == 0 {
            return Err(Violation::Nameless);
        }
        if !staged.snapshot {
            if staged.incarnation != self.incarnation {
                return Err(Violation::OtherIncarnation);
            }
            if update.revision < self.revision {
                return Err(Violation::Backwards);
            }
        }
        let changes = self.apply(staged, update.revision);
        Ok(Some((self.acknowledge(), changes)))
    }

    /// "Nothing else has changed": what the agent has is acknowledged with its digest, and the authority
    /// sends everything again if that differs from its own.
    pub(crate) fn bookmark(&mut self, bookmark: &Bookmark) -> Result<Acknowledge, Violation> {
        if bookmark.revision < self.revision {
            return Err(Violation::Backwards);
        }
        let same_revocations = bookmark.revocations_digest.is_empty()
            || self.revocations.digest().as_slice() == bookmark.revocations_digest.as_ref();
        let same_policies = bookmark.policies_digest.is_empty()
            || self.policies.digest().as_slice() == bookmark.policies_digest.as_ref();
        if self.is_ready()
            && same_revocations
            && same_policies
            && self.digest.bytes().as_slice() == bookmark.set_digest.as_ref()
        {
            self.revision = bookmark.revision;
            return Ok(self.acknowledge());
        }
        Ok(Acknowledge { revision: bookmark.revision, ..self.acknowledge() })
    }

    /// Forgets where it stands, so that the next stream begins with a snapshot. What is known goes on being
    /// served until that has come.
    pub(crate) fn distrust(&mut self) {
        self.incarnation = Bytes::new();
        self.staged = None;
    }

    /// Everything, as one snapshot.
    pub(crate) fn to_snapshot(&self) -> Update {
        Update {
            incarnation: self.incarnation.clone(),
            revision: self.revision,
            snapshot_start: true,
            more: false,
            upserts: self.rows.values().map(|row| row.wire.clone()).collect(),
            removals: Vec::new(),
            bundle: self.bundle.clone(),
            revocations_start: true,
            revoked: self.revocations.iter().map(|revocation| from_revocation(&revocation)).collect(),
            unrevoked: Vec::new(),
            policies_start: true,
            policies: self.policies.wires().map(|policy| (**policy).clone()).collect(),
            policies_removed: Vec::new(),
        }
    }

    /// An agent that took over a bundle of no use could never talk to its authority again, not even after a restart.
    fn check_bundle(&self, document: &[u8]) -> Result<(), String> {
        let bundle = TrustBundle::parse(&self.trust_domain, document).map_err(|error| error.to_string())?;
        if bundle.x509_authorities().is_empty() {
            Err("it has no X.509 authority".to_owned())
        } else {
            Ok(())
        }
    }

    fn acknowledge(&self) -> Acknowledge {
        Acknowledge {
            revision: self.revision,
            set_digest: Bytes::copy_from_slice(&self.digest.bytes()),
            revocations_digest: Bytes::copy_from_slice(&self.revocations.digest()),
            policies_digest: Bytes::copy_from_slice(&self.policies.digest()),
        }
    }

    fn apply(&mut self, mut staged: Staged, revision: u64) -> Changes {
        if staged.snapshot {
            let gone = self.rows.keys().filter(|id| !staged.upserts.contains_key(id.as_ref()));
            staged.removals.extend(gone.map(|id| id.to_string()));
        }
        let mut changes = Changes::default();
        for id in staged.removals {
            if let Some((id, row)) = self.rows.remove_entry(id.as_str()) {
                self.digest.remove(&digest_item(&id, row.wire.revision));
                self.index.remove(&id);
                changes.registrations.push(id);
            }
        }
        for (id, wire) in staged.upserts {
            if let Some(row) = self.rows.get(id.as_str()) {
                if row.wire == wire {
                    continue;
                }
                self.digest.remove(&digest_item(&id, row.wire.revision));
            }
            let id: RegistrationId = id.into();
            self.digest.insert(&digest_item(&id, wire.revision));
            self.index.remove(&id);
            let typed = match convert::registration(&wire, &self.trust_domain) {
                Ok(typed) => self.index.insert(id.clone(), &typed.selectors).is_ok().then(|| Arc::new(typed)),
                Err(error) => {
                    tracing::warn!(registration = %id, %error, "a registration is left out");
                    None
                }
            };
            self.rows.insert(id.clone(), Row { wire, typed });
            changes.registrations.push(id);
        }
        if !staged.bundle.is_empty() && staged.bundle != self.bundle {
            match self.check_bundle(&staged.bundle) {
                Ok(()) => {
                    self.bundle = staged.bundle;
                    changes.bundle = true;
                }
                Err(reason) => tracing::error!(reason, "the authority sent a trust bundle that is left out"),
            }
        }
        if staged.revocations_start || !staged.revoked.is_empty() || !staged.unrevoked.is_empty() {
            let mut set = if staged.revocations_start {
                Revocations::new(self.trust_domain.clone())
            } else {
                (*self.revocations).clone()
            };
            let (_, left_out) = apply_revocations(&mut set, &staged.revoked, &staged.unrevoked);
            if left_out > 0 {
                tracing::error!(left_out, "the authority revokes what this agent does not understand");
            }
            if set != *self.revocations {
                self.revocations = Arc::new(set);
                changes.revocations = true;
            }
        }
        if !staged.policies.is_empty() {
            let policies = self.policies.with(staged.policies);
            if policies != *self.policies {
                self.policies = Arc::new(policies);
                changes.policies = true;
            }
        }
        self.incarnation = staged.incarnation;
        self.revision = revision;
        changes
    }
}

/// Whether a registration counts on this node now. The authority sends only such ones; this is the second
/// look.
pub(crate) fn is_hosted(registration: &Registration, agent: Option<&SpiffeId>, now: UnixTime) -> bool {
    !registration.is_expired(now) && registration.parent.as_ref().is_none_or(|parent| Some(parent) == agent)
}

#[cfg(test)]
mod tests;
