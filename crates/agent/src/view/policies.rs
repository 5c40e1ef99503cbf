//! What guards the node's workloads, as the authority has told.
//!
//! If these are too many, the agent keeps none of their documents, so that everything is denied. What else the update
//! tells, such as revocations, must take effect all the same.

use std::{collections::BTreeMap, sync::Arc};

use bonafide_attest::registration::digest_item;
use bonafide_crypto::digest::{SetDigest, sha256};
use bonafide_policy::{Body, CertifiedLabels};
use bonafide_wire::types;
use bytes::Bytes;

/// Most policies that one node keeps.
const MAX_POLICIES: usize = 5000;
/// Most bytes of them.
const MAX_BYTES: usize = 64 << 20;
/// Most names of policies that are too many. Of yet more, the agent does not even tell their digest.
const MAX_NAMES: usize = 20 * MAX_POLICIES;
/// The digest of nothing: whoever is shown it sends everything again.
const NO_DIGEST: [u8; 32] = [0xff; 32];

/// The policies of this node, by name. Cheap to clone: what it has of each is shared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    rows: BTreeMap<Arc<str>, Row>,
    digest: SetDigest,
}

#[derive(Clone, Debug)]
struct Row {
    wire: Arc<types::Policy>,
    /// Of its document, which is not kept if there are too many.
    sum: Sum,
    /// None if this agent doesn't understand it. Then nobody knows whom it guards, and everything is denied.
    body: Option<Arc<Body>>,
}

/// What a document was.
#[derive(Clone, Copy, Debug)]
struct Sum {
    length: usize,
    sha256: [u8; 32],
}

/// The parts of a change that have come so far.
#[derive(Debug, Default)]
pub(super) struct StagedPolicies {
    start: bool,
    removed: Vec<String>,
    policies: BTreeMap<String, (types::Policy, Sum)>,
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

    /// What the authority compares. None that it knows, if documents are missing that there is room for again.
    pub(super) fn digest(&self) -> [u8; 32] {
        let lacks = self.rows.values().any(|row| row.wire.document.len() != row.sum.length);
        if lacks && !self.are_too_many() { NO_DIGEST } else { self.digest.bytes() }
    }

    fn are_too_many(&self) -> bool {
        let bytes = self.rows.values().fold(0_usize, |sum, row| sum.saturating_add(row.sum.length));
        self.rows.len() > MAX_POLICIES || bytes > MAX_BYTES
    }

    /// The same policies with a change.
    pub(super) fn with(&self, staged: StagedPolicies) -> Self {
        let mut policies = if staged.start { Self::default() } else { self.clone() };
        for name in staged.removed {
            policies.remove(&name);
        }
        for (name, (wire, sum)) in staged.policies {
            policies.remove(&name);
            if policies.rows.len() >= MAX_NAMES {
                continue;
            }
            let known = self.rows.get(name.as_str()).filter(|row| row.wire.document == wire.document);
            let body = match known {
                Some(row) => row.body.clone(),
                None if wire.document.len() != sum.length => None,
                None => read(&wire),
            };
            policies.digest.insert(&sum.item(&name, wire.revision));
            policies.rows.insert(name.into(), Row { wire: Arc::new(wire), sum, body });
        }
        if policies.are_too_many() {
            tracing::error!(
                count = policies.rows.len(),
                "there are too many policies for a node, so everything is denied"
            );
            for row in policies.rows.values_mut() {
                row.body = None;
                row.wire = Arc::new(types::Policy { document: Bytes::new(), ..(*row.wire).clone() });
            }
        }
        policies
    }

    fn remove(&mut self, name: &str) {
        if let Some(row) = self.rows.remove(name) {
            self.digest.remove(&row.sum.item(name, row.wire.revision));
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
    /// Takes in a part. Of more than a node keeps, it drops the documents.
    pub(super) fn add(&mut self, start: bool, policies: Vec<types::Policy>, removed: Vec<String>) {
        if start {
            *self = Self { start: true, ..Self::default() };
        }
        for name in removed {
            self.policies.remove(&name);
            if self.removed.len() < MAX_NAMES {
                self.removed.push(name);
            }
        }
        for mut policy in policies {
            let sum = Sum { length: policy.document.len(), sha256: sha256(&policy.document) };
            let were_too_many = self.are_too_many();
            self.bytes = self.bytes.saturating_add(sum.length);
            if were_too_many {
                policy.document = Bytes::new();
            }
            if self.policies.len() < MAX_NAMES {
                self.policies.insert(policy.name.clone(), (policy, sum));
            }
            if !were_too_many && self.are_too_many() {
                self.policies.values_mut().for_each(|(policy, _)| policy.document = Bytes::new());
            }
        }
    }

    fn are_too_many(&self) -> bool {
        self.policies.len() > MAX_POLICIES || self.bytes > MAX_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.start && self.removed.is_empty() && self.policies.is_empty()
    }
}

impl Sum {
    /// What the digest holds for a policy. Its text, too: after a restore, a revision may come again.
    fn item(&self, name: &str, revision: u64) -> Vec<u8> {
        [digest_item(name, revision).as_slice(), &self.sha256].concat()
    }
}

/// The one policy of a document, if it is what its name says.
fn read(wire: &types::Policy) -> Option<Arc<Body>> {
    let text = std::str::from_utf8(&wire.document).ok()?;
    let document = bonafide_policy::read_canonical(text);
    let body = document.map(|document| document.body().clone());
    let body = body.filter(|body| body.name().as_str() == wire.name);
    if body.is_none() {
        tracing::error!(policy = %wire.name, "a policy is not understood, so everything is denied; upgrade this agent");
    }
    body.map(Arc::new)
}
