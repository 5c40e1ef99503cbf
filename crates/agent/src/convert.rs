//! From the wire to typed registrations. Nothing else of the agent reads a registration's fields as text.

use std::{collections::BTreeMap, time::Duration};

use bonafide_attest::{
    SelectorSet,
    registration::{Kind, Registration},
};
use bonafide_identity::{SpiffeId, TrustDomain, time::UnixTime};
use bonafide_wire::types::{self, registration::Kind as WireKind};

/// Why a registration is not understood. An agent that is older than its authority leaves such ones out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{field}` of a registration is not understood")]
pub(crate) struct NotUnderstood {
    field: &'static str,
}

pub(crate) fn registration(
    wire: &types::Registration,
    trust_domain: &TrustDomain,
) -> Result<Registration, NotUnderstood> {
    let field = |field| move || NotUnderstood { field };
    let kind = match WireKind::try_from(wire.kind) {
        Ok(WireKind::Entry) => Kind::Entry(wire.spiffe_id.parse().ok().ok_or_else(field("spiffe_id"))?),
        Ok(WireKind::Rule) => Kind::Rule(wire.spiffe_id.parse().ok().ok_or_else(field("spiffe_id"))?),
        _ => return Err(NotUnderstood { field: "kind" }),
    };
    let own = match &kind {
        Kind::Entry(id) => id.trust_domain() == trust_domain,
        Kind::Rule(template) => template.trust_domain() == trust_domain,
    };
    if !own {
        return Err(NotUnderstood { field: "spiffe_id" });
    }
    let parent = match wire.parent.as_str() {
        "" => None,
        id => Some(id.parse::<SpiffeId>().ok().ok_or_else(field("parent"))?),
    };
    let selectors =
        selectors(&wire.selectors).filter(|set| !set.is_empty()).ok_or_else(field("selectors"))?;
    let mut dns_names = Vec::with_capacity(wire.dns_names.len());
    for name in &wire.dns_names {
        dns_names.push(name.parse().ok().ok_or_else(field("dns_names"))?);
    }
    dns_names.sort();
    dns_names.dedup();
    let mut admin = wire.admin.clone();
    admin.sort();
    admin.dedup();
    let ttl = |seconds: u32| (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    Ok(Registration {
        id: wire.id.clone(),
        kind,
        site: wire.site.clone(),
        parent,
        selectors,
        x509_ttl: ttl(wire.x509_ttl),
        jwt_ttl: ttl(wire.jwt_ttl),
        dns_names,
        admin,
        hint: wire.hint.clone(),
        labels: wire
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        expires_at: (wire.expires_at != 0).then(|| UnixTime::from_secs(wire.expires_at)),
        revision: wire.revision,
        created_at: UnixTime::from_secs(wire.created_at),
        management_labels: BTreeMap::new(),
    })
}

/// `None` if one of them is malformed, or there are too many.
pub(crate) fn selectors(wire: &[types::Selector]) -> Option<SelectorSet> {
    SelectorSet::from_pairs(wire.iter().map(|selector| (selector.key.as_str(), selector.value.as_str()))).ok()
}

pub(crate) fn to_wire<'a>(
    selectors: impl IntoIterator<Item = &'a bonafide_attest::Selector>,
) -> Vec<types::Selector> {
    let selectors = selectors.into_iter();
    selectors
        .map(|selector| types::Selector {
            key: selector.key().to_owned(),
            value: selector.value().to_owned(),
        })
        .collect()
}
