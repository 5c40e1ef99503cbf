//! Entries and rules.

use std::collections::BTreeMap;

use bonafide_wire::types::{Registration, registration::Kind};
use serde::Serialize;

use super::site::ttl;
use crate::{
    console::View,
    moment::Moment,
    page::{Page, some},
};

/// A registration.
#[derive(Debug, Serialize)]
pub struct RegistrationView {
    id: String,
    kind: &'static str,
    site: String,
    spiffe_id: String,
    parent: Option<String>,
    selectors: Vec<String>,
    x509_ttl_seconds: u32,
    jwt_ttl_seconds: u32,
    dns_names: Vec<String>,
    admin: Vec<String>,
    hint: String,
    labels: BTreeMap<String, String>,
    expires_at: Option<Moment>,
    created_at: Option<Moment>,
    revision: u64,
}

impl From<Registration> for RegistrationView {
    fn from(registration: Registration) -> Self {
        Self {
            kind: match registration.kind() {
                Kind::Unspecified => "unknown",
                Kind::Entry => "entry",
                Kind::Rule => "rule",
            },
            id: registration.id,
            site: registration.site,
            spiffe_id: registration.spiffe_id,
            parent: Some(registration.parent).filter(|parent| !parent.is_empty()),
            selectors: registration.selectors.iter().map(selector).collect(),
            x509_ttl_seconds: registration.x509_ttl,
            jwt_ttl_seconds: registration.jwt_ttl,
            dns_names: registration.dns_names,
            admin: registration.admin,
            hint: registration.hint,
            labels: registration.labels,
            expires_at: Moment::from_wire(registration.expires_at),
            created_at: Moment::from_wire(registration.created_at),
            revision: registration.revision,
        }
    }
}

impl View for RegistrationView {
    fn draw(&self, page: &mut Page) {
        page.record([
            ("id", some(&self.id)),
            ("kind", some(self.kind)),
            ("SPIFFE ID", some(&self.spiffe_id)),
            ("site", some(&self.site)),
            ("agent", some(self.parent.as_deref().unwrap_or("any of the site"))),
            ("selectors", self.selectors.clone()),
            ("X.509 TTL", some(ttl(self.x509_ttl_seconds))),
            ("JWT TTL", some(ttl(self.jwt_ttl_seconds))),
            ("DNS names", self.dns_names.clone()),
            ("labels", self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()),
            ("administers", self.admin.clone()),
            ("hint", some(&self.hint)),
            ("expires", some(page.time_or(self.expires_at, "never"))),
            ("created", some(page.time_or(self.created_at, ""))),
            ("revision", some(self.revision.to_string())),
        ]);
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.clone()]
    }
}

/// Registrations.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct RegistrationList(pub Vec<RegistrationView>);

impl View for RegistrationList {
    fn draw(&self, page: &mut Page) {
        page.table(
            ["ID", "KIND", "SPIFFE ID", "SITE", "SELECTORS", "X.509 TTL"],
            self.0.iter().map(|registration| {
                [
                    registration.id.clone(),
                    registration.kind.to_owned(),
                    registration.spiffe_id.clone(),
                    registration.site.clone(),
                    registration.selectors.join(" "),
                    ttl(registration.x509_ttl_seconds),
                ]
            }),
        );
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|registration| registration.id.clone()).collect()
    }
}

/// `key:value`, as `entry create --selector` takes it.
pub(crate) fn selector(selector: &bonafide_wire::types::Selector) -> String {
    format!("{}:{}", selector.key, selector.value)
}
