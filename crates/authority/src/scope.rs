//! The heart of safety: no evidence of a site, and no admin of a site, ever yields an ID, a DNS name, a label, a
//! lifetime or an admin right outside the site's scope.
//!
//! It is checked when a scope is put, when a registration is put ([`check_registration`]), and again whenever
//! something is issued: a [`Grant`] can only come out of [`Scope::grant`], and issuance takes nothing else. So a scope
//! that was narrowed holds at once, for registrations that were written before.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use bonafide_attest::registration::{Kind, Registration};
use bonafide_identity::{DnsName, DnsPattern, SpiffeId, SpiffeIdPattern, TrustDomain, reserved};

use crate::{refusal::Refusal, site::Site};

/// An intermediate lives for a day, and no leaf outlives it.
pub const MAX_X509_TTL: Duration = Duration::from_secs(24 * 3600);
/// A bearer token lives five minutes at most.
pub const MAX_JWT_TTL: Duration = Duration::from_secs(300);
/// Shorter lifetimes than this can't be renewed in time.
pub const MIN_TTL: Duration = Duration::from_secs(10);
/// When a scope names no X.509 lifetime.
pub const DEFAULT_X509_TTL: Duration = Duration::from_secs(3600);

/// All that a site's evidence, and its admins, can ever obtain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Of our trust domain; none names a reserved ID.
    pub spiffe_ids: Vec<SpiffeIdPattern>,
    /// Exact names, or `*.` and one label.
    pub dns_names: Vec<DnsPattern>,
    /// Label keys, and the values that each may have.
    pub labels: Vec<LabelPattern>,
    /// Longest lifetime of an X509-SVID.
    pub max_x509_ttl: Duration,
    /// Longest lifetime of a JWT-SVID.
    pub max_jwt_ttl: Duration,
    /// Names of the sites that identities of this site may administer.
    pub admin: BTreeSet<String>,
    /// Signatures that agents of this site may ask for per second; `None`: the server's default.
    pub signatures_per_second: Option<NonZeroU32>,
    /// Attestations per second; `None`: the server's default.
    pub attestations_per_second: Option<NonZeroU32>,
}

/// `key` = `value`, or any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPattern {
    /// The label's key.
    pub key: String,
    /// `None`: any value.
    pub value: Option<String>,
}

/// What a registration asks for, before the scope has been asked.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// The identity.
    pub id: &'a SpiffeId,
    /// DNS names of the certificate.
    pub dns_names: &'a [DnsName],
    /// Labels to certify.
    pub labels: &'a BTreeMap<String, String>,
    /// Sites to administer.
    pub admin: &'a [String],
    /// The lower of this and the scope's is granted.
    pub x509_ttl: Duration,
    /// The lower of this and the scope's is granted.
    pub jwt_ttl: Duration,
}

/// What may be issued. Only [`Scope::grant`] makes one, so nothing outside of a scope can be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    id: SpiffeId,
    dns_names: Vec<DnsName>,
    labels: BTreeMap<String, String>,
    admin: Vec<String>,
    x509_ttl: Duration,
    jwt_ttl: Duration,
}

impl Grant {
    /// The identity.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// DNS names of the certificate.
    #[must_use]
    pub fn dns_names(&self) -> &[DnsName] {
        &self.dns_names
    }

    /// Labels to certify.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Sites that the identity may administer.
    #[must_use]
    pub fn admin(&self) -> &[String] {
        &self.admin
    }

    /// Longest lifetime of an X509-SVID.
    #[must_use]
    pub fn x509_ttl(&self) -> Duration {
        self.x509_ttl
    }

    /// Longest lifetime of a JWT-SVID.
    #[must_use]
    pub fn jwt_ttl(&self) -> Duration {
        self.jwt_ttl
    }
}

impl Scope {
    /// Whether the scope itself may be put in this trust domain.
    ///
    /// # Errors
    /// A pattern of another trust domain, a reserved pattern, or a lifetime beyond the bounds.
    pub fn check(&self, trust_domain: &TrustDomain) -> Result<(), Refusal> {
        for pattern in &self.spiffe_ids {
            if pattern.trust_domain() != trust_domain {
                return Err(Refusal::invalid(
                    "scope.trust-domain",
                    format!("`{pattern}` is not of the trust domain `{trust_domain}`"),
                )
                .hint(format!("begin it with `spiffe://{trust_domain}/`")));
            }
            if is_reserved_text(&pattern.to_string()) {
                return Err(reserved_refusal(&pattern.to_string()));
            }
        }
        check_range("scope.max-x509-ttl", self.max_x509_ttl, MAX_X509_TTL)?;
        check_range("scope.max-jwt-ttl", self.max_jwt_ttl, MAX_JWT_TTL)
    }

    /// Turns a wish into a grant, or says what of it is outside.
    ///
    /// # Errors
    /// `scope.spiffe-id`, `scope.reserved`, `scope.dns-name`, `scope.label`, `scope.admin`.
    pub fn grant(&self, wish: &Wish<'_>) -> Result<Grant, Refusal> {
        self.check_id(wish.id)?;
        self.check_dns_names(wish.dns_names)?;
        self.check_labels(wish.labels)?;
        self.check_admin(wish.admin)?;
        Ok(Grant {
            id: wish.id.clone(),
            dns_names: wish.dns_names.to_vec(),
            labels: wish.labels.clone(),
            admin: wish.admin.to_vec(),
            x509_ttl: wish.x509_ttl.min(self.max_x509_ttl),
            jwt_ttl: wish.jwt_ttl.min(self.max_jwt_ttl),
        })
    }

    fn check_id(&self, id: &SpiffeId) -> Result<(), Refusal> {
        if reserved::is_reserved(id) || is_reserved_text(id.as_str()) {
            return Err(reserved_refusal(id.as_str()));
        }
        if id.path().is_empty() || !self.spiffe_ids.iter().any(|pattern| pattern.matches(id)) {
            return Err(outside_id(id.as_str()));
        }
        Ok(())
    }

    /// Every ID that the pattern matches must be inside.
    fn check_pattern(&self, pattern: &SpiffeIdPattern) -> Result<(), Refusal> {
        let text = pattern.to_string();
        if is_reserved_text(&text) {
            return Err(reserved_refusal(&text));
        }
        if !self.spiffe_ids.iter().any(|own| own.covers(pattern)) {
            return Err(outside_id(&text));
        }
        Ok(())
    }

    fn check_dns_names(&self, names: &[DnsName]) -> Result<(), Refusal> {
        match names.iter().find(|name| !self.dns_names.iter().any(|pattern| pattern.matches(name))) {
            None => Ok(()),
            Some(name) => Err(Refusal::denied(
                "scope.dns-name",
                format!("the DNS name `{name}` is outside the site's scope"),
            )
            .hint(WIDEN)),
        }
    }

    /// Whether workloads of the site may have this label.
    pub(crate) fn allows_label(&self, key: &str, value: &[u8]) -> bool {
        self.labels.iter().any(|pattern| {
            pattern.key == *key && pattern.value.as_ref().is_none_or(|allowed| allowed.as_bytes() == value)
        })
    }

    fn check_labels(&self, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
        let inside = |(key, value): &(&String, &String)| self.allows_label(key, value.as_bytes());
        match labels.iter().find(|label| !inside(label)) {
            None => Ok(()),
            Some((key, value)) => Err(Refusal::denied(
                "scope.label",
                format!("the label `{key}` = `{value}` is outside the site's scope"),
            )
            .hint(WIDEN)),
        }
    }

    fn check_admin(&self, admin: &[String]) -> Result<(), Refusal> {
        match admin.iter().find(|site| !self.admin.contains(*site)) {
            None => Ok(()),
            Some(site) => Err(Refusal::denied(
                "scope.admin",
                format!("to administer the site `{site}` is outside the site's scope"),
            )
            .hint(WIDEN)),
        }
    }
}

/// Whether a registration may be put in its site.
///
/// # Errors
/// As [`Scope::grant`]; a rule's every possible ID must be inside. A lifetime beyond the scope's is refused here,
/// whereas at issuance the smaller one wins: the scope may have been narrowed since.
pub fn check_registration(site: &Site, registration: &Registration) -> Result<(), Refusal> {
    let scope = &site.scope;
    match &registration.kind {
        Kind::Entry(id) => scope.check_id(id)?,
        Kind::Rule(template) => scope.check_pattern(&template.as_pattern())?,
    }
    if let Some(parent) = &registration.parent
        && reserved::agent_site(parent) != Some(&*site.name)
    {
        return Err(Refusal::invalid(
            "registration.parent",
            format!("`{parent}` is not an agent of the site `{}`", site.name),
        )
        .hint("name an agent as `bonafide agent list` shows it, or none"));
    }
    scope.check_dns_names(&registration.dns_names)?;
    scope.check_labels(&registration.labels)?;
    scope.check_admin(&registration.admin)?;
    check_ttl("scope.x509-ttl", registration.x509_ttl, scope.max_x509_ttl)?;
    check_ttl("scope.jwt-ttl", registration.jwt_ttl, scope.max_jwt_ttl)
}

/// Whether an optional lifetime is within 10 s and `max`.
pub(crate) fn check_ttl(code: &'static str, ttl: Option<Duration>, max: Duration) -> Result<(), Refusal> {
    match ttl {
        Some(ttl) => check_range(code, ttl, max),
        None => Ok(()),
    }
}

const WIDEN: &str = "ask an operator to widen the site's scope";

fn check_range(code: &'static str, ttl: Duration, max: Duration) -> Result<(), Refusal> {
    if ttl < MIN_TTL || ttl > max {
        return Err(Refusal::invalid(
            code,
            format!(
                "a lifetime of {} s is not between {} s and {} s",
                ttl.as_secs(),
                MIN_TTL.as_secs(),
                max.as_secs()
            ),
        )
        .hint("choose a lifetime in this range, or none for the default"));
    }
    Ok(())
}

fn outside_id(id: &str) -> Refusal {
    Refusal::denied("scope.spiffe-id", format!("`{id}` is outside the site's scope")).hint(WIDEN)
}

fn reserved_refusal(id: &str) -> Refusal {
    Refusal::denied(
        "scope.reserved",
        format!("`{id}` is reserved: everything under `/bonafide` is Bonafide's own"),
    )
    .hint("choose another path")
}

/// Whether the first path segment of an ID or pattern is `bonafide`, in any case of letters.
fn is_reserved_text(text: &str) -> bool {
    let first = text.strip_prefix("spiffe://").and_then(|rest| rest.split('/').nth(1));
    first.is_some_and(|segment| segment.eq_ignore_ascii_case("bonafide"))
}
