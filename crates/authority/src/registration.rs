//! What a registration earns: from an agent's evidence to a [`Grant`]. Issuance and `explain` both ask here, so that
//! what is explained is what would happen.

use std::sync::Arc;

use bonafide_attest::{
    SelectorSet,
    registration::{Kind as RegistrationKind, Registration},
};
use bonafide_crypto::digest::sha256;
use bonafide_identity::{
    SpiffeId, VerifiedX509Svid,
    attributes::{Attribute, Attributes, Kind},
    time::UnixTime,
};

use crate::{
    records::Agent,
    refusal::Refusal,
    scope::{Grant, Wish},
    site::Site,
    state::{SiteState, State},
};

/// Of the evidence that says how often an agent had attested before.
const ATTESTATION_KEY: &str = "attestation";

/// What an agent's request for a registration earns.
#[derive(Clone, Debug)]
pub struct Earned {
    /// What may be issued, and nothing beyond it.
    pub grant: Grant,
    /// The registration that earned it.
    pub registration: Arc<Registration>,
    /// The site whose evidence earned it.
    pub site: Arc<Site>,
}

/// The agent's record, unless it is unknown or banned, or its site trusts no more what it attested with.
///
/// # Errors
/// `agent.unknown`, `agent.banned`, `agent.proof-untrusted`.
pub fn admitted_agent<'a>(state: &'a State, agent: &SpiffeId) -> Result<&'a Arc<Agent>, Refusal> {
    let record = unbanned_agent(state, agent)?;
    let Some(proof) = &record.proof else { return Ok(record) };
    let site = state.site(&record.site).and_then(SiteState::site);
    if site.is_some_and(|site| site.x509pop_roots.iter().any(|root| sha256(root.der()) == proof.root)) {
        return Ok(record);
    }
    Err(Refusal::denied(
        "agent.proof-untrusted",
        format!(
            "the site `{}` does not trust the root any more that `{agent}` has attested under",
            record.site
        ),
    )
    .hint("give the node a certificate that its site trusts: the agent attests again by itself"))
}

/// The agent's record, for whoever attests again.
///
/// # Errors
/// `agent.unknown`, `agent.banned`.
pub(crate) fn unbanned_agent<'a>(state: &'a State, agent: &SpiffeId) -> Result<&'a Arc<Agent>, Refusal> {
    let Some(record) = state.agent(agent) else {
        return Err(Refusal::denied("agent.unknown", format!("`{agent}` is no agent of this authority"))
            .hint("join the node again with a new join line"));
    };
    if let Some(ban) = &record.ban {
        return Err(Refusal::denied("agent.banned", format!("`{agent}` was banned: {}", ban.reason))
            .hint("join the node again with a new join line, once its trouble is cleared"));
    }
    Ok(record)
}

/// As [`admitted_agent`], for whoever holds an SVID of this attestation of the agent.
///
/// # Errors
/// `agent.unknown`, `agent.banned`, `agent.proof-untrusted`, `agent.superseded`.
pub fn admitted_attestation<'a>(
    state: &'a State,
    agent: &SpiffeId,
    attestation: u64,
) -> Result<&'a Arc<Agent>, Refusal> {
    let record = admitted_agent(state, agent)?;
    if record.attestation != attestation {
        return Err(Refusal::denied(
            "agent.superseded",
            format!("a node has attested again as `{agent}`, with the same certificate"),
        )
        .hint(
            "if that was not this node, somebody else has its key: ban the agent; if it was, start it anew",
        ));
    }
    Ok(record)
}

/// Which attestation an agent's SVID belongs to: what [`attestation_mark`] wrote.
#[must_use]
pub fn attestation_of(svid: &VerifiedX509Svid) -> u64 {
    let marks = svid.attributes().into_iter().flat_map(Attributes::evidence);
    let mark = marks.into_iter().find(|(key, _)| *key == ATTESTATION_KEY);
    // What is no number belongs to no attestation that there is.
    mark.map_or(0, |(_, value)| {
        str::from_utf8(value).ok().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
    })
}

/// What an agent's SVID says of its attestation; nothing of the first.
#[must_use]
pub fn attestation_mark(attestation: u64) -> Option<Attribute> {
    (attestation != 0).then(|| Attribute::new(Kind::Evidence, ATTESTATION_KEY, attestation.to_string()))
}

/// Nothing is issued in a site while it is quarantined.
///
/// # Errors
/// `site.quarantined`.
pub fn check_quarantine(state: &State, site: &str) -> Result<(), Refusal> {
    if !state.is_quarantined(site) {
        return Ok(());
    }
    Err(Refusal::denied(
        "site.quarantined",
        format!("the site `{site}` is quarantined: nothing is issued there"),
    )
    .hint("`bonafide site release` ends it, once its trouble is cleared"))
}

/// Checks evidence against site, registration and scope, in this order. An entry may be earned without selectors: the
/// agent's pool draws SVIDs before the launch is known, and the agent matches at the launch.
///
/// # Errors
/// Says which of the steps failed.
pub fn earn(
    state: &State,
    agent: &SpiffeId,
    registration: &str,
    attested: &SelectorSet,
    now: UnixTime,
) -> Result<Earned, Refusal> {
    let agent = admitted_agent(state, agent)?;
    check_quarantine(state, &agent.site)?;
    let unknown = || {
        Refusal::not_found(
            "registration.unknown",
            format!("this agent may host no registration `{registration}`"),
        )
        .hint("the agent's copy is behind, or the registration was deleted")
    };
    let registration = state.registration(registration).ok_or_else(unknown)?;
    let site = state.site(&agent.site).and_then(SiteState::site).ok_or_else(unknown)?;
    if registration.site != agent.site
        || registration.parent.as_ref().is_some_and(|parent| *parent != agent.id)
    {
        return Err(unknown());
    }
    if registration.is_expired(now) {
        return Err(Refusal::denied(
            "registration.expired",
            format!("the registration `{}` has expired", registration.id),
        )
        .hint("put it again with a later end"));
    }
    let pooled = attested.is_empty() && matches!(registration.kind, RegistrationKind::Entry(_));
    if !pooled && !registration.selectors.is_subset_of(attested) {
        return Err(Refusal::denied(
            "registration.selectors",
            format!("the workload does not have all selectors of the registration `{}`", registration.id),
        )
        .hint("`bonafide explain` shows what is missing"));
    }
    let grant = granted(site, &registration, attested)?;
    Ok(Earned { grant, registration, site: site.clone() })
}

/// The last two steps of [`earn`]: the ID, and the scope.
fn granted(site: &Site, registration: &Registration, attested: &SelectorSet) -> Result<Grant, Refusal> {
    let id = registration
        .spiffe_id(attested)
        .map_err(|error| Refusal::denied(error.code(), error.to_string()).hint(error.hint()))?;
    site.scope.grant(&Wish {
        id: &id,
        dns_names: &registration.dns_names,
        labels: &registration.labels,
        admin: &registration.admin,
        x509_ttl: registration.x509_ttl.unwrap_or(site.default_x509_ttl),
        jwt_ttl: registration.jwt_ttl.unwrap_or(site.default_jwt_ttl),
    })
}
