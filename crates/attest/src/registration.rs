//! Who gets which identity, in the typed form that authority and agent share.

use std::{collections::BTreeMap, time::Duration};

use bonafide_identity::{DnsName, SpiffeId, SpiffeIdPattern, time::UnixTime};

use crate::{
    SelectorSet,
    template::{IdTemplate, RenderError},
};

/// How a registration names its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One SPIFFE ID.
    Entry(SpiffeId),
    /// An ID made of attested values.
    Rule(IdTemplate),
}

/// A registration that has been parsed; whether it fits its site's scope is the authority's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// `[a-z0-9-]{1,64}`.
    pub id: String,
    /// Entry or rule.
    pub kind: Kind,
    /// The site whose evidence earns this identity, and whose scope bounds it.
    pub site: String,
    /// The one agent that may host it; `None`: every agent of the site.
    pub parent: Option<SpiffeId>,
    /// All of them must be attested. Never empty.
    pub selectors: SelectorSet,
    /// `None`: the site's default.
    pub x509_ttl: Option<Duration>,
    /// `None`: the site's default.
    pub jwt_ttl: Option<Duration>,
    /// Sorted, unique.
    pub dns_names: Vec<DnsName>,
    /// Sites that this identity may administer. Sorted, unique.
    pub admin: Vec<String>,
    /// The Workload API's `hint`.
    pub hint: String,
    /// Certified in the SVID.
    pub labels: BTreeMap<String, String>,
    /// `None`: never.
    pub expires_at: Option<UnixTime>,
    /// Log revision of the last change; 0 before it was written.
    pub revision: u64,
    /// When the ID was first put.
    pub created_at: UnixTime,
    /// How operators find and prune what they manage. Never certified, and never told to agents.
    pub management_labels: BTreeMap<String, String>,
}

impl Registration {
    /// The SPIFFE ID that a workload with these selectors gets. Does not check that the registration matches.
    ///
    /// # Errors
    /// Only a rule can fail: see [`IdTemplate::render`].
    pub fn spiffe_id(&self, attested: &SelectorSet) -> Result<SpiffeId, RenderError> {
        match &self.kind {
            Kind::Entry(id) => Ok(id.clone()),
            Kind::Rule(template) => template.render(attested),
        }
    }

    /// Whether `id` is one that this registration can yield.
    #[must_use]
    pub fn can_yield(&self, id: &SpiffeId) -> bool {
        match &self.kind {
            Kind::Entry(own) => own == id,
            Kind::Rule(template) => template.as_pattern().matches(id),
        }
    }

    /// A pattern that matches all IDs that a rule can yield; `None` for an entry.
    #[must_use]
    pub fn rule_pattern(&self) -> Option<SpiffeIdPattern> {
        match &self.kind {
            Kind::Entry(_) => None,
            Kind::Rule(template) => Some(template.as_pattern()),
        }
    }

    /// The SPIFFE ID or the template, as it is written.
    #[must_use]
    pub fn spiffe_id_text(&self) -> String {
        match &self.kind {
            Kind::Entry(id) => id.to_string(),
            Kind::Rule(template) => template.to_string(),
        }
    }

    /// Whether it has expired at `now`.
    #[must_use]
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// What the set digest holds for this registration.
    #[must_use]
    pub fn digest_item(&self) -> Vec<u8> {
        digest_item(&self.id, self.revision)
    }
}

/// What the set digest of an agent's registrations holds for each of them.
#[must_use]
pub fn digest_item(id: &str, revision: u64) -> Vec<u8> {
    let mut item = Vec::with_capacity(8 + id.len());
    item.extend_from_slice(&revision.to_be_bytes());
    item.extend_from_slice(id.as_bytes());
    item
}
