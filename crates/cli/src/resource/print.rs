//! Resources as YAML, in one form: sets sorted, defaults left out. What is printed is read back as the same.

use std::{collections::BTreeMap, time::Duration};

use bonafide_authority::scope::{DEFAULT_X509_TTL, MAX_JWT_TTL};
use bonafide_wire::{
    admin::resource::Resource as Wire,
    types::{Registration, Scope, Selector, Site, registration::Kind},
};
use serde::Serialize;
use serde_saphyr::LitString;

use super::key::KeySpec;
use crate::{Failure, duration, moment::Moment, pem, view::registration::selector};

#[derive(Serialize)]
struct Document<S> {
    kind: &'static str,
    name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    spec: S,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SiteSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<ScopeSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x509_ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_ttl: Option<String>,
    /// PEM, one certificate each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    x509pop_roots: Vec<LitString>,
}

#[derive(Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeSpec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spiffe_ids: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns_names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certified_labels: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    admin: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_x509_ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_jwt_ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signatures_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestations_per_second: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RegistrationSpec {
    site: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    selectors: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x509_ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_ttl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns_names: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    certified_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    admin: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Moment>,
}

/// One document, without `---`.
///
/// # Errors
/// When a value has no form in YAML.
pub fn document(wire: &Wire) -> Result<String, Failure> {
    match wire {
        Wire::Policy(policy) => Ok(policy.source.clone()),
        Wire::Site(site) => text(&Document {
            kind: "Site",
            name: site.name.clone(),
            labels: site.management_labels.clone(),
            spec: site_spec(site),
        }),
        Wire::Key(key) => text(&Document {
            kind: "Key",
            name: key.name.clone(),
            labels: key.management_labels.clone(),
            spec: KeySpec::of(key),
        }),
        Wire::Registration(registration) => text(&Document {
            kind: if registration.kind() == Kind::Rule { "Rule" } else { "Entry" },
            name: registration.id.clone(),
            labels: registration.management_labels.clone(),
            spec: registration_spec(registration),
        }),
    }
}

/// Several documents.
///
/// # Errors
/// As [`document`].
pub fn documents<'a>(resources: impl IntoIterator<Item = &'a Wire>) -> Result<String, Failure> {
    let texts: Vec<String> = resources.into_iter().map(document).collect::<Result<_, _>>()?;
    Ok(texts.join("---\n"))
}

fn site_spec(site: &Site) -> SiteSpec {
    let none = Scope::default();
    let scope = site.scope.as_ref().unwrap_or(&none);
    let max_x509 = or_default(scope.max_x509_ttl, DEFAULT_X509_TTL);
    let max_jwt = or_default(scope.max_jwt_ttl, MAX_JWT_TTL);
    let printed = ScopeSpec {
        spiffe_ids: set(scope.spiffe_ids.clone()),
        dns_names: set(scope.dns_names.clone()),
        certified_labels: set(scope
            .labels
            .iter()
            .map(|label| format!("{}={}", label.key, label.value))
            .collect()),
        admin: set(scope.admin.clone()),
        max_x509_ttl: unless(scope.max_x509_ttl, DEFAULT_X509_TTL),
        max_jwt_ttl: unless(scope.max_jwt_ttl, MAX_JWT_TTL),
        signatures_per_second: (scope.signatures_per_second > 0).then_some(scope.signatures_per_second),
        attestations_per_second: (scope.attestations_per_second > 0).then_some(scope.attestations_per_second),
    };
    SiteSpec {
        scope: Some(printed).filter(|printed| *printed != ScopeSpec::default()),
        x509_ttl: unless(site.default_x509_ttl, DEFAULT_X509_TTL.min(max_x509)),
        jwt_ttl: unless(site.default_jwt_ttl, MAX_JWT_TTL.min(max_jwt)),
        x509pop_roots: set(site.x509pop_roots.iter().map(|der| pem::encode("CERTIFICATE", der)).collect())
            .into_iter()
            .map(LitString)
            .collect(),
    }
}

fn registration_spec(own: &Registration) -> RegistrationSpec {
    let id = Some(own.spiffe_id.clone());
    let (spiffe_id, template) = if own.kind() == Kind::Rule { (None, id) } else { (id, None) };
    RegistrationSpec {
        site: own.site.clone(),
        spiffe_id,
        template,
        selectors: set(own.selectors.iter().map(|one: &Selector| selector(one)).collect()),
        parent: Some(own.parent.clone()).filter(|parent| !parent.is_empty()),
        x509_ttl: unless(own.x509_ttl, Duration::ZERO),
        jwt_ttl: unless(own.jwt_ttl, Duration::ZERO),
        dns_names: set(own.dns_names.clone()),
        certified_labels: own.labels.clone(),
        admin: set(own.admin.clone()),
        hint: Some(own.hint.clone()).filter(|hint| !hint.is_empty()),
        expires_at: Moment::from_wire(own.expires_at),
    }
}

fn or_default(seconds: u32, default: Duration) -> Duration {
    if seconds == 0 { default } else { Duration::from_secs(seconds.into()) }
}

/// `None` for none, and for the default.
fn unless(seconds: u32, default: Duration) -> Option<String> {
    let seconds = u64::from(seconds);
    (seconds != 0 && seconds != default.as_secs()).then(|| duration::format(seconds))
}

pub(super) fn set(mut items: Vec<String>) -> Vec<String> {
    items.sort();
    items.dedup();
    items
}

fn text(document: &impl Serialize) -> Result<String, Failure> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let mut text = String::new();
    serde_saphyr::to_fmt_writer_with_options(&mut text, document, options)
        .map_err(|cause| Failure::of("output.not-rendered", cause, "use another --output"))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
