//! From the wire, with every bound checked and a reason for each refusal; and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use bonafide_attest::{
    Selector, SelectorSet,
    registration::{Kind, Registration},
    template::IdTemplate,
};
use bonafide_identity::{
    Certificate, DnsName, DnsPattern, SpiffeId, SpiffeIdPattern, TrustDomain, time::UnixTime,
    x509::check_client_authority,
};
use bonafide_wire::types;
use bytes::Bytes;

use super::record::{ANY, duration, roots_to_der, seconds};
use crate::{
    refusal::Refusal,
    scope::{DEFAULT_X509_TTL, LabelPattern, MAX_JWT_TTL, Scope},
    site::{self, Site},
};

/// Most patterns of one kind in a scope.
const MAX_PATTERNS: usize = 256;
/// Most roots of other PKIs that a site trusts.
const MAX_ROOTS: usize = 16;
/// Most labels, DNS names or administered sites of a registration: they must fit a certificate.
const MAX_OF_REGISTRATION: usize = 16;
/// Longest label value.
const MAX_LABEL_VALUE: usize = 256;
const MAX_LABEL_KEY: usize = 64;
const MAX_HINT: usize = 128;
const MAX_REGISTRATION_ID: usize = 64;

/// A registration as a caller writes it. An empty `id` becomes `fresh_id`; revision and creation are the authority's.
///
/// # Errors
/// What is malformed or beyond its bound; whether it is inside the scope is not judged here.
pub(crate) fn to_registration(
    wire: &types::Registration,
    trust_domain: &TrustDomain,
    fresh_id: &str,
    now: UnixTime,
) -> Result<Registration, Refusal> {
    let id = if wire.id.is_empty() { fresh_id } else { &wire.id };
    check_registration_id(id)?;
    site::check_name(&wire.site)?;
    let kind = match wire.kind() {
        types::registration::Kind::Entry => Kind::Entry(to_id(&wire.spiffe_id, trust_domain)?),
        types::registration::Kind::Rule => Kind::Rule(to_template(&wire.spiffe_id, trust_domain)?),
        types::registration::Kind::Unspecified => {
            return Err(Refusal::invalid("registration.kind", "a registration is an entry or a rule")
                .hint("set its kind"));
        }
    };
    let parent = if wire.parent.is_empty() { None } else { Some(to_id(&wire.parent, trust_domain)?) };
    let selectors = to_selectors(&wire.selectors)?;
    if selectors.is_empty() {
        return Err(Refusal::invalid(
            "registration.no-selectors",
            "a registration without selectors would match every workload of the site",
        )
        .hint("name at least one selector that tells the workload apart"));
    }
    bound("registration.dns-names", wire.dns_names.len(), MAX_OF_REGISTRATION)?;
    bound("registration.admin", wire.admin.len(), MAX_OF_REGISTRATION)?;
    bound("registration.labels", wire.labels.len(), MAX_OF_REGISTRATION)?;
    let dns_names: BTreeSet<DnsName> = wire
        .dns_names
        .iter()
        .map(|name| name.parse().map_err(|error| because("registration.dns-name", name, &error)))
        .collect::<Result<_, _>>()?;
    let admin: BTreeSet<String> = wire
        .admin
        .iter()
        .map(|name| site::check_name(name).map(|()| name.clone()))
        .collect::<Result<_, _>>()?;
    if wire.hint.len() > MAX_HINT || wire.hint.chars().any(char::is_control) {
        return Err(Refusal::invalid(
            "registration.hint",
            "the hint is longer than 128 bytes or has a control character",
        ));
    }
    let expires_at = (wire.expires_at != 0).then(|| UnixTime::from_secs(wire.expires_at));
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Refusal::invalid("registration.expired", "the registration expires in the past"));
    }
    Ok(Registration {
        id: id.to_owned(),
        kind,
        site: wire.site.clone(),
        parent,
        selectors,
        x509_ttl: duration(wire.x509_ttl),
        jwt_ttl: duration(wire.jwt_ttl),
        dns_names: dns_names.into_iter().collect(),
        admin: admin.into_iter().collect(),
        hint: wire.hint.clone(),
        labels: to_labels(&wire.labels)?,
        expires_at,
        revision: 0,
        created_at: now,
        management_labels: to_management_labels(&wire.management_labels)?,
    })
}

/// For the wire.
#[must_use]
pub(crate) fn from_registration(registration: &Registration) -> types::Registration {
    let kind = match registration.kind {
        Kind::Entry(_) => types::registration::Kind::Entry,
        Kind::Rule(_) => types::registration::Kind::Rule,
    };
    types::Registration {
        id: registration.id.clone(),
        kind: kind.into(),
        site: registration.site.clone(),
        spiffe_id: registration.spiffe_id_text(),
        parent: registration.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        selectors: from_selectors(registration.selectors.iter()),
        x509_ttl: seconds(registration.x509_ttl),
        jwt_ttl: seconds(registration.jwt_ttl),
        dns_names: registration.dns_names.iter().map(ToString::to_string).collect(),
        admin: registration.admin.clone(),
        hint: registration.hint.clone(),
        labels: registration.labels.clone(),
        expires_at: registration.expires_at.map_or(0, UnixTime::as_secs),
        revision: registration.revision,
        created_at: registration.created_at.as_secs(),
        management_labels: registration.management_labels.clone(),
    }
}

/// For agents: what operators note beside it is none of theirs.
pub(crate) fn for_agents(registration: &Registration) -> types::Registration {
    types::Registration { management_labels: BTreeMap::new(), ..from_registration(registration) }
}

/// A site as a caller writes it, its defaults filled in and its scope checked.
///
/// # Errors
/// What is malformed, beyond its bound, or can't be in any scope.
pub(crate) fn to_site(
    wire: &types::Site,
    trust_domain: &TrustDomain,
    now: UnixTime,
) -> Result<Site, Refusal> {
    site::check_name(&wire.name)?;
    let none = types::Scope::default();
    let scope = to_scope(wire.scope.as_ref().unwrap_or(&none))?;
    scope.check(trust_domain)?;
    let default_x509_ttl = default_ttl(wire.default_x509_ttl, DEFAULT_X509_TTL, scope.max_x509_ttl);
    let default_jwt_ttl = default_ttl(wire.default_jwt_ttl, MAX_JWT_TTL, scope.max_jwt_ttl);
    crate::scope::check_ttl("site.default-x509-ttl", Some(default_x509_ttl), scope.max_x509_ttl)?;
    crate::scope::check_ttl("site.default-jwt-ttl", Some(default_jwt_ttl), scope.max_jwt_ttl)?;
    Ok(Site {
        name: wire.name.as_str().into(),
        scope,
        default_x509_ttl,
        default_jwt_ttl,
        management_labels: to_management_labels(&wire.management_labels)?,
        created_at: now,
        revision: 0,
        x509pop_roots: to_roots(&wire.x509pop_roots)?,
    })
}

/// For the wire.
#[must_use]
pub(crate) fn from_site(site: &Site) -> types::Site {
    let scope = &site.scope;
    types::Site {
        name: site.name.to_string(),
        scope: Some(types::Scope {
            spiffe_ids: scope.spiffe_ids.iter().map(ToString::to_string).collect(),
            dns_names: scope.dns_names.iter().map(ToString::to_string).collect(),
            labels: scope
                .labels
                .iter()
                .map(|label| types::Selector {
                    key: label.key.clone(),
                    value: label.value.clone().unwrap_or_else(|| ANY.to_owned()),
                })
                .collect(),
            max_x509_ttl: seconds(Some(scope.max_x509_ttl)),
            max_jwt_ttl: seconds(Some(scope.max_jwt_ttl)),
            admin: scope.admin.iter().cloned().collect(),
            signatures_per_second: scope.signatures_per_second.map_or(0, NonZeroU32::get),
            attestations_per_second: scope.attestations_per_second.map_or(0, NonZeroU32::get),
        }),
        default_x509_ttl: seconds(Some(site.default_x509_ttl)),
        default_jwt_ttl: seconds(Some(site.default_jwt_ttl)),
        revision: site.revision,
        created_at: site.created_at.as_secs(),
        management_labels: site.management_labels.clone(),
        x509pop_roots: roots_to_der(&site.x509pop_roots),
    }
}

/// Attested selectors as they come over the wire.
///
/// # Errors
/// More than 128, or a malformed one.
pub(crate) fn to_selectors(wire: &[types::Selector]) -> Result<SelectorSet, Refusal> {
    SelectorSet::from_pairs(wire.iter().map(|selector| (selector.key.as_str(), selector.value.as_str())))
        .map_err(|error| Refusal::invalid(error.code(), error.to_string()).hint(error.hint()))
}

/// For the wire.
pub(crate) fn from_selectors<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> Vec<types::Selector> {
    selectors
        .into_iter()
        .map(|selector| types::Selector {
            key: selector.key().to_owned(),
            value: selector.value().to_owned(),
        })
        .collect()
}

/// A SPIFFE ID of our trust domain.
///
/// # Errors
/// Malformed, or of another trust domain.
pub(crate) fn to_id(text: &str, trust_domain: &TrustDomain) -> Result<SpiffeId, Refusal> {
    let id = SpiffeId::parse(text).map_err(|error| because(error.code(), text, &error).hint(error.hint()))?;
    check_trust_domain(id.trust_domain(), trust_domain)?;
    Ok(id)
}

/// `[a-z0-9-]{1,64}`.
///
/// # Errors
/// `registration.id`.
pub(crate) fn check_registration_id(id: &str) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if id.is_empty() || id.len() > MAX_REGISTRATION_ID || !id.bytes().all(allowed) {
        return Err(Refusal::invalid("registration.id", "a registration's ID has 1 to 64 of `a-z 0-9 -`")
            .hint("choose another ID, or none"));
    }
    Ok(())
}

/// Labels by which operators find what they manage.
///
/// # Errors
/// More than 16, or a malformed one.
pub(crate) fn to_management_labels(
    wire: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    bound("management.labels", wire.len(), MAX_OF_REGISTRATION)?;
    for (key, value) in wire {
        check_label(key, value)?;
    }
    Ok(wire.clone())
}

fn to_template(text: &str, trust_domain: &TrustDomain) -> Result<IdTemplate, Refusal> {
    let template =
        IdTemplate::parse(text).map_err(|error| because(error.code(), text, &error).hint(error.hint()))?;
    check_trust_domain(template.trust_domain(), trust_domain)?;
    Ok(template)
}

fn check_trust_domain(theirs: &TrustDomain, ours: &TrustDomain) -> Result<(), Refusal> {
    if theirs != ours {
        return Err(Refusal::invalid(
            "scope.trust-domain",
            format!("`{theirs}` is not the trust domain `{ours}`"),
        )
        .hint(format!("begin the ID with `spiffe://{ours}/`")));
    }
    Ok(())
}

fn to_scope(wire: &types::Scope) -> Result<Scope, Refusal> {
    bound("scope.spiffe-ids", wire.spiffe_ids.len(), MAX_PATTERNS)?;
    bound("scope.dns-names", wire.dns_names.len(), MAX_PATTERNS)?;
    bound("scope.labels", wire.labels.len(), MAX_PATTERNS)?;
    bound("scope.admin", wire.admin.len(), MAX_PATTERNS)?;
    let spiffe_ids = wire
        .spiffe_ids
        .iter()
        .map(|text| {
            text.parse::<SpiffeIdPattern>()
                .map_err(|error| because("scope.pattern", text, &error).hint(error.hint()))
        })
        .collect::<Result<_, _>>()?;
    let dns_names = wire
        .dns_names
        .iter()
        .map(|text| DnsPattern::parse(text).map_err(|error| because("scope.dns-pattern", text, &error)))
        .collect::<Result<_, _>>()?;
    let labels = wire
        .labels
        .iter()
        .map(|label| {
            check_label(&label.key, &label.value)?;
            Ok(LabelPattern {
                key: label.key.clone(),
                value: (label.value != ANY).then(|| label.value.clone()),
            })
        })
        .collect::<Result<_, Refusal>>()?;
    for name in &wire.admin {
        site::check_name(name)?;
    }
    Ok(Scope {
        spiffe_ids,
        dns_names,
        labels,
        max_x509_ttl: duration(wire.max_x509_ttl).unwrap_or(DEFAULT_X509_TTL),
        max_jwt_ttl: duration(wire.max_jwt_ttl).unwrap_or(MAX_JWT_TTL),
        admin: wire.admin.iter().cloned().collect(),
        signatures_per_second: NonZeroU32::new(wire.signatures_per_second),
        attestations_per_second: NonZeroU32::new(wire.attestations_per_second),
    })
}

/// Roots of another PKI. Each is read strictly, and must be an authority.
fn to_roots(wire: &[Bytes]) -> Result<Vec<Certificate>, Refusal> {
    bound("site.x509pop-roots", wire.len(), MAX_ROOTS)?;
    let mut roots: Vec<Certificate> = Vec::with_capacity(wire.len());
    for der in wire {
        let unfit = |error: &dyn std::fmt::Display| {
            Refusal::invalid("site.x509pop-root", format!("root {} of `x509pop`: {error}", roots.len() + 1))
                .hint("give certificates of authorities, and no leaf and no key")
        };
        let root = Certificate::from_der(der).map_err(|error| unfit(&error))?;
        check_client_authority(&root).map_err(|error| unfit(&error))?;
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    Ok(roots)
}

fn to_labels(wire: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Refusal> {
    for (key, value) in wire {
        check_label(key, value)?;
        if value == ANY {
            return Err(Refusal::invalid(
                "label.value",
                "`*` stands for any value in a scope, and is no label's value",
            ));
        }
    }
    Ok(wire.clone())
}

fn check_label(key: &str, value: &str) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    if key.is_empty() || key.len() > MAX_LABEL_KEY || !key.bytes().all(allowed) {
        return Err(Refusal::invalid("label.key", "a label's key has 1 to 64 of `A-Z a-z 0-9 . _ - /`"));
    }
    if value.len() > MAX_LABEL_VALUE || value.chars().any(char::is_control) {
        return Err(Refusal::invalid(
            "label.value",
            "a label's value has at most 256 bytes and no control character",
        ));
    }
    Ok(())
}

fn default_ttl(asked: u32, usual: Duration, max: Duration) -> Duration {
    duration(asked).unwrap_or_else(|| usual.min(max))
}

fn bound(code: &'static str, count: usize, max: usize) -> Result<(), Refusal> {
    if count > max {
        return Err(Refusal::invalid(code, format!("{count} items are more than {max}")).hint("name fewer"));
    }
    Ok(())
}

/// A parser's reason, with a bounded quote of what it was given.
fn because(code: &'static str, text: &str, error: &dyn std::fmt::Display) -> Refusal {
    let quote: String = text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect();
    Refusal::invalid(code, format!("`{quote}`: {error}"))
}
