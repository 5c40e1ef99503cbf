//! What guards the node's workloads, as the authority has told.

use std::{collections::BTreeMap, sync::Arc};

use bonafide_attest::registration::digest_item;
use bonafide_crypto::digest::SetDigest;
use bonafide_policy::{Body, CertifiedLabels};
use bonafide_wire::types;

/// Most policies that one node keeps.
const MAX_POLICIES: usize = 5000;
/// Most bytes of them.
const MAX_BYTES: usize = 64 << 20;

/// The policies of this node, by name. Cheap to clone: what it has of each is shared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    rows: BTreeMap<Arc<str>, Row>,
    digest: SetDigest,
}

#[derive(Clone, Debug)]
struct Row {
    wire: Arc<types::Policy>,
    /// None if this agent doesn't understand it. Then nobody knows whom it guards, and everything is denied.
    body: Option<Arc<Body>>,
}

/// The parts of a change that have come so far.
#[derive(Debug, Default)]
pub(super) struct StagedPolicies {
    start: bool,
    removed: Vec<String>,
    policies: BTreeMap<String, types::Policy>,
    bytes: usize,
}

impl Policies {
    /// Those that this agent understands.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = &Arc<Body>> {
        self.rows.values().filter_map(|row| row.body.as_ref())
    }

    /// The name of one that this agent does not understand.
    pub(crate) fn not_understood(&self) -> Option<&str> {
        self.rows.iter().find(|(_, row)| row.body.is_none()).map(|(name, _)| &**name)
    }

    /// Those that apply to a program with one of these sets of labels, or may.
    pub(crate) fn for_labels(
        &self,
        labels: &[BTreeMap<String, String>],
    ) -> impl Iterator<Item = &Arc<types::Policy>> {
        let callees: Option<Vec<_>> = labels.iter().map(|labels| CertifiedLabels::new(labels).ok()).collect();
        let applies = move |row: &&Row| match (&row.body, &callees) {
            (Some(body), Some(callees)) => callees.iter().any(|callee| body.applies_to_callee(callee)),
            _ => true,
        };
        self.rows.values().filter(applies).map(|row| &row.wire)
    }

    /// As the authority has sent them.
    pub(crate) fn wires(&self) -> impl Iterator<Item = &Arc<types::Policy>> {
        self.rows.values().map(|row| &row.wire)
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest.bytes()
    }

    /// The same policies with a change.
    pub(super) fn with(&self, staged: StagedPolicies) -> Self {
        let mut policies = if staged.start { Self::default() } else { self.clone() };
        for name in staged.removed {
            policies.remove(&name);
        }
        for (name, wire) in staged.policies {
            policies.remove(&name);
            let known = self.rows.get(name.as_str()).filter(|row| row.wire.document == wire.document);
            let body = match known {
                Some(row) => row.body.clone(),
                None => read(&wire),
            };
            policies.digest.insert(&digest_item(&name, wire.revision));
            policies.rows.insert(name.into(), Row { wire: Arc::new(wire), body });
        }
        policies
    }

    fn remove(&mut self, name: &str) {
        if let Some(row) = self.rows.remove(name) {
            self.digest.remove(&digest_item(name, row.wire.revision));
        }
    }
}

impl PartialEq for Policies {
    /// By what they say.
    fn eq(&self, other: &Self) -> bool {
        let rows = |policies: &Self| -> Vec<(Arc<str>, Arc<types::Policy>)> {
            policies.rows.iter().map(|(name, row)| (Arc::clone(name), Arc::clone(&row.wire))).collect()
        };
        self.digest.bytes() == other.digest.bytes() && rows(self) == rows(other)
    }
}

impl StagedPolicies {
    /// Takes in a part. False: these are more than a node keeps.
    pub(super) fn add(&mut self, start: bool, policies: Vec<types::Policy>, removed: Vec<String>) -> bool {
        if start {
            *self = Self { start: true, ..Self::default() };
        }
        for name in removed {
            self.policies.remove(&name);
            self.removed.push(name);
        }
        for policy in policies {
            self.bytes = self.bytes.saturating_add(policy.document.len());
            self.policies.insert(policy.name.clone(), policy);
        }
        self.policies.len() <= MAX_POLICIES && self.removed.len() <= MAX_POLICIES && self.bytes <= MAX_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.start && self.removed.is_empty() && self.policies.is_empty()
    }
}

/// The one policy of a document, if it is what its name says.
fn read(wire: &types::Policy) -> Option<Arc<Body>> {
    let text = std::str::from_utf8(&wire.document).ok()?;
    let document = bonafide_policy::read(text).ok()?.into_iter().next();
    let body = document.map(|document| document.body().clone());
    let body = body.filter(|body| body.name().as_str() == wire.name);
    if body.is_none() {
        tracing::error!(policy = %wire.name, "a policy is not understood, so everything is denied; upgrade this agent");
    }
    body.map(Arc::new)
}
