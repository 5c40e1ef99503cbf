//! What a certificate of ours says of a workload, and how far that still holds.
//!
//! A certificate is true when it is issued. Until it ends, its registration may go, its site may be narrowed or quarantined,
//! its agent banned. Whoever acts on what is certified asks here, in the very state that it acts on.

use std::collections::BTreeSet;
use std::sync::Arc;

use bonafide_attest::SelectorSet;
use bonafide_attest::registration::Registration;
use bonafide_identity::time::UnixTime;
use bonafide_identity::{Certificate, InstanceId, SpiffeId, VerifiedX509Svid, reserved};
use bonafide_policy::CertifiedLabels;

use crate::issuance::AGENT_KEY;
use crate::registration::admitted_agent;
use crate::state::{SiteState, State};

/// What a verified certificate says of a workload. Never enough by itself: see [`Certified::standing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The certificate's SPIFFE ID.
    pub id: SpiffeId,
    /// The site whose evidence earned it.
    pub site: String,
    /// The launch that it was issued to.
    pub instance: Option<InstanceId>,
    /// From when on it is valid: what was issued before a moment may be revoked.
    pub issued_at: UnixTime,
    /// The registration that it was issued for.
    pub registration: String,
    /// The agent that asked for it.
    pub agent: SpiffeId,
    /// What the registration asked of the workload when it was issued.
    pub selectors: SelectorSet,
    /// What was certified of the workload.
    pub labels: CertifiedLabels,
    /// The sites that it says may be administered.
    pub admin: BTreeSet<String>,
    /// What it was verified by, the leaf's issuer first and the root last: one may be revoked since.
    pub authorities: Vec<Certificate>,
    /// Its end: a connection may outlive it.
    pub expires_at: UnixTime,
}

impl Certified {
    /// `None` for a certificate that says too little: not of a workload, or not of ours.
    pub(crate) fn of(svid: &VerifiedX509Svid) -> Option<Self> {
        let attributes = svid.attributes()?;
        let agent = attributes.evidence().find(|(key, _)| *key == AGENT_KEY)?.1;
        let selectors =
            attributes.selectors().map(|(key, value)| Some((key, std::str::from_utf8(value).ok()?)));
        let admin = attributes.admin().filter_map(|(_, value)| std::str::from_utf8(value).ok());
        Some(Self {
            id: svid.id().clone(),
            site: attributes.site()?.to_owned(),
            instance: attributes.instance,
            issued_at: svid.leaf().not_before(),
            registration: attributes.registration()?.to_owned(),
            agent: SpiffeId::new(svid.id().trust_domain(), std::str::from_utf8(agent).ok()?).ok()?,
            selectors: SelectorSet::from_pairs(selectors.collect::<Option<Vec<_>>>()?).ok()?,
            labels: CertifiedLabels::of(attributes).ok()?,
            admin: admin.map(ToOwned::to_owned).collect(),
            authorities: svid.authorities().to_vec(),
            expires_at: svid.not_after(),
        })
    }

    /// The registration and the site's scope, if the same launch would get the same certificate today.
    pub(crate) fn standing<'a>(&self, state: &'a State, now: UnixTime) -> Option<Standing<'a>> {
        let registration = state.registration(&self.registration)?;
        let site = state.site(&self.site).and_then(SiteState::site)?;
        let agent = admitted_agent(state, &self.agent).ok()?;
        let revoked = state.revocations().of_token(&self.id, self.instance, Some(self.issued_at));
        let stands = now < self.expires_at
            && state.vouches(&self.authorities)
            && revoked.is_none()
            && !state.is_quarantined(&self.site)
            && registration.site == self.site
            && agent.site == self.site
            && registration.parent.as_ref().is_none_or(|parent| *parent == self.agent)
            && registration.selectors.is_subset_of(&self.selectors)
            && !registration.is_expired(now)
            && self.labels.iter().all(|(key, value)| {
                // What was taken from the registration, or from its site, lets nobody in any more.
                registration.labels.get(key).is_some_and(|own| own.as_bytes() == value)
                    && site.scope.allows_label(key, value)
            })
            && registration.can_yield(&self.id)
            && self.id.trust_domain() == state.trust_domain()
            && !reserved::is_reserved(&self.id)
            && site.scope.spiffe_ids.iter().any(|pattern| pattern.matches(&self.id));
        stands.then_some(Standing { registration, admin: &site.scope.admin })
    }
}

/// What a certificate rests on in one state.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) registration: Arc<Registration>,
    /// The sites that the scope lets workloads of this one administer.
    pub(crate) admin: &'a BTreeSet<String>,
}
