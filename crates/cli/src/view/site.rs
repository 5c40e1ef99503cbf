//! Sites and their scopes.

use bonafide_crypto::digest::sha256;
use bonafide_wire::types;
use serde::Serialize;

use crate::{
    console::View,
    duration,
    moment::Moment,
    page::{Page, some},
    text::hex,
};

/// A site.
#[derive(Debug, Serialize)]
pub struct SiteView {
    name: String,
    scope: ScopeView,
    default_x509_ttl_seconds: u32,
    default_jwt_ttl_seconds: u32,
    /// SHA-256 of roots whose certificates admit nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    x509pop_roots: Vec<String>,
    revision: u64,
    created_at: Option<Moment>,
}

/// What a site can ever obtain.
#[derive(Debug, Serialize)]
struct ScopeView {
    spiffe_ids: Vec<String>,
    dns_names: Vec<String>,
    labels: Vec<String>,
    admin: Vec<String>,
    max_x509_ttl_seconds: u32,
    max_jwt_ttl_seconds: u32,
    signatures_per_second: u32,
    attestations_per_second: u32,
}

impl From<types::Site> for SiteView {
    fn from(site: types::Site) -> Self {
        let scope = site.scope.unwrap_or_default();
        Self {
            name: site.name,
            scope: ScopeView {
                spiffe_ids: scope.spiffe_ids,
                dns_names: scope.dns_names,
                labels: scope.labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect(),
                admin: scope.admin,
                max_x509_ttl_seconds: scope.max_x509_ttl,
                max_jwt_ttl_seconds: scope.max_jwt_ttl,
                signatures_per_second: scope.signatures_per_second,
                attestations_per_second: scope.attestations_per_second,
            },
            default_x509_ttl_seconds: site.default_x509_ttl,
            default_jwt_ttl_seconds: site.default_jwt_ttl,
            x509pop_roots: site.x509pop_roots.iter().map(|root| hex(&sha256(root))).collect(),
            revision: site.revision,
            created_at: Moment::from_wire(site.created_at),
        }
    }
}

impl View for SiteView {
    fn draw(&self, page: &mut Page) {
        let lifetimes = |default, max| some(format!("{} (at most {})", ttl(default), ttl(max)));
        let rate = |rate: u32| if rate == 0 { "the default".into() } else { format!("{rate} a second") };
        page.record([
            ("name", some(&self.name)),
            ("SPIFFE IDs", self.scope.spiffe_ids.clone()),
            ("DNS names", self.scope.dns_names.clone()),
            ("labels", self.scope.labels.clone()),
            ("administers", self.scope.admin.clone()),
            ("X.509 TTL", lifetimes(self.default_x509_ttl_seconds, self.scope.max_x509_ttl_seconds)),
            ("JWT TTL", lifetimes(self.default_jwt_ttl_seconds, self.scope.max_jwt_ttl_seconds)),
            ("signatures", some(rate(self.scope.signatures_per_second))),
            ("attestations", some(rate(self.scope.attestations_per_second))),
            ("node CAs", self.x509pop_roots.clone()),
            ("created", some(page.time_or(self.created_at, ""))),
            ("revision", some(self.revision.to_string())),
        ]);
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

/// All sites.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct SiteList(pub Vec<SiteView>);

impl View for SiteList {
    fn draw(&self, page: &mut Page) {
        page.table(
            ["NAME", "SPIFFE IDS", "MAX X.509 TTL", "MAX JWT TTL", "REVISION"],
            self.0.iter().map(|site| {
                [
                    site.name.clone(),
                    site.scope.spiffe_ids.join(", "),
                    ttl(site.scope.max_x509_ttl_seconds),
                    ttl(site.scope.max_jwt_ttl_seconds),
                    site.revision.to_string(),
                ]
            }),
        );
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|site| site.name.clone()).collect()
    }
}

/// A lifetime; zero is the authority's default.
pub(crate) fn ttl(seconds: u32) -> String {
    if seconds == 0 { "default".into() } else { duration::format(u64::from(seconds)) }
}
