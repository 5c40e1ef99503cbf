//! What is public of sealed secrets, of what they are sealed with, and to.

use bonafide_policy::SecretPolicy;
use bonafide_sealing::{document::Document as _, object::SealedObject, owner::Root, params::SealParams};
use serde::Serialize;

use crate::{
    console::View,
    duration,
    moment::Moment,
    page::{Page, some},
    text::{clean_bytes, hex},
};

/// What everybody can see of a sealed secret.
#[derive(Debug, Serialize)]
pub struct ObjectView {
    name: String,
    purpose: String,
    serial: u64,
    not_after: Option<Moment>,
    tenant: String,
    id: String,
    post_quantum: bool,
    payload_bytes: usize,
    /// Fingerprint of the key that claims to have signed it; not verified here.
    signed_by: Option<String>,
    stanzas: Vec<StanzaView>,
}

/// One way to open it.
#[derive(Debug, Serialize)]
struct StanzaView {
    keyset: String,
    version: u64,
    label: String,
    policy_name: Option<String>,
    policy_digest: String,
    evidence: Option<&'static str>,
    policy: String,
}

/// What secrets are sealed with.
#[derive(Debug, Serialize)]
pub struct ParamsView {
    tenant: String,
    keyset: String,
    version: u64,
    not_before: Moment,
    not_after: Moment,
    digest: String,
    sites: Vec<String>,
    /// The owner's root, if it was verified that he has signed them.
    root: Option<String>,
}

/// What a secret is sealed to.
#[derive(Debug, Serialize)]
pub struct PolicyView {
    name: String,
    digest: String,
    bytes: usize,
    evidence: &'static str,
    cache_for: String,
    canonical: String,
}

impl From<&SealedObject> for ObjectView {
    fn from(object: &SealedObject) -> Self {
        let stanza = |stanza: &bonafide_sealing::object::Stanza| {
            let policy = SecretPolicy::parse(&stanza.policy).ok();
            StanzaView {
                keyset: stanza.keyset.to_string(),
                version: stanza.version,
                label: clean_bytes(&stanza.label),
                policy_name: policy.as_ref().map(|policy| policy.name().to_owned()),
                policy_digest: bonafide_policy::Digest::of(&stanza.policy).to_string(),
                evidence: policy.as_ref().map(|policy| policy.evidence().as_str()),
                policy: clean_bytes(&stanza.policy),
            }
        };
        Self {
            name: object.public.name.clone(),
            purpose: object.public.purpose.clone(),
            serial: object.serial,
            not_after: object.public.not_after.map(moment),
            tenant: object.tenant.to_string(),
            id: hex(&object.oid),
            post_quantum: object.post_quantum,
            payload_bytes: object.payload.len(),
            signed_by: object.signature.as_ref().map(|signature| hex(&signature.key)),
            stanzas: object.stanzas.iter().map(stanza).collect(),
        }
    }
}

impl ParamsView {
    /// Of parameters, and the root of the owner who was verified to have signed them.
    pub fn new(params: &SealParams, root: Option<&Root>) -> Self {
        Self {
            tenant: params.tenant.to_string(),
            keyset: params.keyset.to_string(),
            version: params.version,
            not_before: moment(params.not_before),
            not_after: moment(params.not_after),
            digest: hex(&params.digest()),
            sites: params.site_keys.iter().map(|key| key.site.clone()).collect(),
            root: root.map(|root| hex(&root.digest())),
        }
    }
}

impl From<&SecretPolicy> for PolicyView {
    fn from(policy: &SecretPolicy) -> Self {
        Self {
            name: policy.name().to_owned(),
            digest: policy.digest().to_string(),
            bytes: policy.as_bytes().len(),
            evidence: policy.evidence().as_str(),
            cache_for: duration::format(policy.cache_ttl().into()),
            canonical: policy.as_str().to_owned(),
        }
    }
}

impl View for ObjectView {
    fn draw(&self, page: &mut Page) {
        page.record([
            ("name", some(&self.name)),
            ("purpose", some(&self.purpose)),
            ("serial", some(self.serial.to_string())),
            ("opens until", some(page.time_or(self.not_after, "the end of its key"))),
            ("tenant", some(&self.tenant)),
            ("id", some(&self.id)),
            ("post-quantum", some(if self.post_quantum { "yes" } else { "no" })),
            ("payload", some(format!("{} bytes", self.payload_bytes))),
            ("signed by", some(self.signed_by.as_deref().unwrap_or("nobody"))),
        ]);
        for stanza in &self.stanzas {
            page.gap();
            page.record([
                (
                    "sealed to",
                    some(stanza.policy_name.as_deref().unwrap_or("a policy that is not known here")),
                ),
                ("evidence", some(stanza.evidence.unwrap_or("not known"))),
                ("policy digest", some(&stanza.policy_digest)),
                ("label", some(&stanza.label)),
                ("key", some(format!("{}, version {}", stanza.keyset, stanza.version))),
                ("policy", some(&stanza.policy)),
            ]);
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl View for ParamsView {
    fn draw(&self, page: &mut Page) {
        page.record([
            ("tenant", some(&self.tenant)),
            ("key", some(format!("{}, version {}", self.keyset, self.version))),
            ("seals from", some(page.time(self.not_before))),
            ("seals until", some(page.time(self.not_after))),
            ("digest", some(&self.digest)),
            ("post-quantum sites", self.sites.clone()),
            ("owner's root", some(self.root.as_deref().unwrap_or("not verified"))),
        ]);
    }

    fn names(&self) -> Vec<String> {
        vec![self.digest.clone()]
    }
}

impl View for PolicyView {
    fn draw(&self, page: &mut Page) {
        page.record([
            ("name", some(&self.name)),
            ("digest", some(&self.digest)),
            ("bytes", some(self.bytes.to_string())),
            ("evidence", some(self.evidence)),
            ("cached for", some(&self.cache_for)),
            ("canonical", some(&self.canonical)),
        ]);
    }

    fn names(&self) -> Vec<String> {
        vec![self.digest.clone()]
    }
}

fn moment(seconds: u64) -> Moment {
    Moment(i64::try_from(seconds).unwrap_or(i64::MAX))
}
