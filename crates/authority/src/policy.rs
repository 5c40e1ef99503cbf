//! Policies as the authority keeps them.
//!
//! A policy is written in its source, one YAML document, and is kept with its comments and tests. What agents get are its
//! canonical bytes; only agents that may need it do: those of its sites which may host a workload that it applies to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bonafide_attest::registration::digest_item;
use bonafide_crypto::digest::sha256;
use bonafide_identity::time::UnixTime;
use bonafide_policy::{Body, Document, Kind};
use bonafide_wire::types;
use bytes::Bytes;

use crate::{convert::wire::to_management_labels, refusal::Refusal, site};

/// Longest source of a policy, in bytes: with all else it fits one message to an agent.
pub(crate) const MAX_SOURCE: usize = 256 * 1024;

/// Shortest time after which a policy may be stale, in seconds: twice as long as an idle agent waits for a word of its
/// authority.
const MIN_STALE: u32 = 600;

/// A policy, guardrail or Rego policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRecord {
    /// Of the document, too.
    pub name: Arc<str>,
    /// As its author wrote it.
    pub source: String,
    /// Its canonical bytes.
    pub document: Bytes,
    /// SHA-256 of these bytes.
    pub sha256: [u8; 32],
    /// What it says.
    pub body: Arc<Body>,
    /// Sites whose agents get it. Empty: all.
    pub sites: BTreeSet<String>,
    /// Log revision of the last change; 0 before it was written.
    pub revision: u64,
    /// When it was first put.
    pub created_at: UnixTime,
    /// By these, operators find and prune what they manage.
    pub management_labels: BTreeMap<String, String>,
}

impl PolicyRecord {
    /// A policy as its author writes it.
    ///
    /// # Errors
    /// A source that is not one policy, guardrail or Rego policy, or is too long; sites and labels that can't be.
    pub(crate) fn of_source(source: &str, now: UnixTime) -> Result<Self, Refusal> {
        if source.len() > MAX_SOURCE {
            return Err(Refusal::invalid(
                "policy.too-large",
                format!("the policy has {} bytes, and may have {MAX_SOURCE}", source.len()),
            )
            .hint("make several policies of it: their order has no meaning"));
        }
        let document = read_one(source)?;
        let body = document.body();
        if body.kind() == Kind::SecretPolicy {
            return Err(Refusal::invalid(
                "policy.secret",
                "a `SecretPolicy` belongs to what is sealed to it, and is not kept by the authority",
            )
            .hint("give it to whoever seals the secret"));
        }
        if body.stale().is_some_and(|stale| stale.after < MIN_STALE) {
            return Err(Refusal::invalid(
                "policy.stale-soon",
                format!("agents hear from their authority every five minutes, so nothing is stale before {MIN_STALE} s"),
            )
            .hint("write `after: 10m` or more"));
        }
        let sites: BTreeSet<String> = document.sites().iter().map(|site| site.as_str().to_owned()).collect();
        sites.iter().try_for_each(|name| site::check_name(name))?;
        Ok(Self {
            name: body.name().as_str().into(),
            source: source.to_owned(),
            sha256: sha256(body.canonical().as_bytes()),
            document: body.canonical().into(),
            body: Arc::new(body.clone()),
            sites,
            revision: 0,
            created_at: now,
            management_labels: to_management_labels(document.labels())?,
        })
    }

    /// Whether the other one would change nothing.
    pub(crate) fn says_the_same_as(&self, other: &Self) -> bool {
        self.source == other.source
    }

    /// Whether it binds everybody whatever others allow: only for those who may do everything.
    pub(crate) fn is_guardrail(&self) -> bool {
        self.body.kind() == Kind::Guardrail
    }

    /// Whether agents of this site are to have it.
    pub(crate) fn is_for_site(&self, site: &str) -> bool {
        self.sites.is_empty() || self.sites.contains(site)
    }

    /// What the digest of an agent's policies holds for it. Its text, too: after a restore, a revision may come again.
    pub(crate) fn digest_item(&self) -> Vec<u8> {
        [digest_item(&self.name, self.revision).as_slice(), &self.sha256].concat()
    }

    /// For admins.
    pub(crate) fn to_wire(&self) -> types::Policy {
        types::Policy {
            created_at: self.created_at.as_secs(),
            management_labels: self.management_labels.clone().into_iter().collect(),
            source: self.source.clone(),
            ..self.for_agents()
        }
    }

    /// For agents: without what is its author's.
    pub(crate) fn for_agents(&self) -> types::Policy {
        types::Policy {
            name: self.name.to_string(),
            document: self.document.clone(),
            sites: self.sites.iter().cloned().collect(),
            revision: self.revision,
            ..types::Policy::default()
        }
    }
}

/// The one document of a source.
pub(crate) fn read_one(source: &str) -> Result<Document, Refusal> {
    let documents = bonafide_policy::read(source).map_err(|faults| {
        let Some(first) = faults.first() else {
            return Refusal::invalid("policy.unreadable", "the policy can't be read");
        };
        let message = format!("line {}, column {}: {}", first.spot.line, first.spot.column, first.message);
        Refusal::invalid(first.code.clone(), message).hint(first.help.clone())
    })?;
    match <[_; 1]>::try_from(documents) {
        Ok([document]) => Ok(document),
        Err(documents) => Err(Refusal::invalid(
            "policy.one-document",
            format!("there are {} documents where one policy is to be", documents.len()),
        )
        .hint("send each document by itself")),
    }
}
