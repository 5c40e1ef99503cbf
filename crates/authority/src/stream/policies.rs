//! Policies, as one stream tells them: beside the registrations, with a digest of their own.
//!
//! An agent gets those that may guard a workload of its node. What it was told is remembered by name, revision and text, and
//! compared with what it should have whenever something has changed that concerns it. An agent that sends no digest is of
//! a version that knows nothing of policies, and is spared them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bonafide_crypto::digest::SetDigest;
use bonafide_wire::types;
use prost::Message;

use crate::policy::PolicyRecord;

/// What one agent should have.
pub(crate) type Wanted = Vec<Arc<PolicyRecord>>;

/// What one agent has been told.
#[derive(Debug)]
pub(crate) struct Told {
    understands: bool,
    items: BTreeMap<Arc<str>, Vec<u8>>,
    digest: [u8; 32],
}

/// What one message, or several, must tell.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// Forget everything first.
    pub(crate) start: bool,
    pub(crate) policies: Vec<types::Policy>,
    pub(crate) removed: Vec<String>,
}

impl Told {
    /// Begins with the digest that the agent says it has. What it has of another incarnation of the store is nothing.
    pub(crate) fn begin(claimed: &[u8], same_incarnation: bool, wanted: &Wanted) -> (Self, Delta) {
        let mut told = Self { understands: !claimed.is_empty(), items: BTreeMap::new(), digest: [0; 32] };
        let delta = told.repair(wanted);
        if same_incarnation && claimed == told.digest { (told, Delta::default()) } else { (told, delta) }
    }

    /// What leads from what was told to what is wanted.
    pub(crate) fn advance(&mut self, wanted: &Wanted) -> Delta {
        let mut delta = Delta::default();
        if !self.understands || self.is(wanted) {
            return delta;
        }
        let before = std::mem::replace(&mut self.items, items(wanted));
        self.digest = digest(&self.items);
        delta.removed.extend(
            before.keys().filter(|name| !self.items.contains_key(*name)).map(|name| name.to_string()),
        );
        let new = wanted.iter().filter(|policy| before.get(&policy.name) != Some(&policy.digest_item()));
        delta.policies.extend(new.map(|policy| policy.for_agents()));
        delta
    }

    /// All of them, whatever the agent has.
    pub(crate) fn repair(&mut self, wanted: &Wanted) -> Delta {
        if !self.understands {
            return Delta::default();
        }
        self.items = items(wanted);
        self.digest = digest(&self.items);
        let policies = wanted.iter().map(|policy| policy.for_agents()).collect();
        Delta { start: true, policies, removed: Vec::new() }
    }

    /// What an agent that has applied everything acknowledges.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether an acknowledgement fits what was expected.
    pub(crate) fn agrees(&self, acknowledged: &[u8], expected: &[u8; 32]) -> bool {
        !self.understands || acknowledged == expected
    }

    fn is(&self, wanted: &Wanted) -> bool {
        wanted.len() == self.items.len()
            && wanted.iter().all(|policy| self.items.get(&policy.name) == Some(&policy.digest_item()))
    }
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        !self.start && self.policies.is_empty() && self.removed.is_empty()
    }

    /// Cuts it into pieces of at most `size` bytes, about; a policy that is larger is a piece of its own.
    pub(crate) fn parts(self, size: usize) -> Vec<Self> {
        let mut parts = vec![Self { start: self.start, removed: self.removed, ..Self::default() }];
        let mut used = 0;
        for policy in self.policies {
            used += policy.encoded_len() + 8;
            if used > size {
                used = policy.encoded_len() + 8;
                parts.push(Self::default());
            }
            if let Some(part) = parts.last_mut() {
                part.policies.push(policy);
            }
        }
        parts
    }
}

fn items(wanted: &Wanted) -> BTreeMap<Arc<str>, Vec<u8>> {
    wanted.iter().map(|policy| (Arc::clone(&policy.name), policy.digest_item())).collect()
}

fn digest(items: &BTreeMap<Arc<str>, Vec<u8>>) -> [u8; 32] {
    let mut digest = SetDigest::default();
    items.values().for_each(|item| digest.insert(item));
    digest.bytes()
}
