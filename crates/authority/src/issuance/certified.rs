//! What a certificate says beside the SPIFFE ID.

use bonafide_attest::registration::Kind;
use bonafide_attest::{PEER_KEY, SelectorSet};
use bonafide_identity::SpiffeId;
use bonafide_identity::attributes::{Attribute, Kind as AttributeKind};

use crate::registration::Earned;

/// Key of the evidence attribute that names the agent: a lineage stays on its node.
pub(crate) const AGENT_KEY: &str = "agent";
/// Key of an administrative right; its value is the name of a site.
pub(crate) const ADMIN_KEY: &str = "site";

/// Only what holds for every launch under the registration: of the launches that the pool will serve nothing more is
/// known yet.
pub(crate) fn certified(agent: &SpiffeId, earned: &Earned, attested: &SelectorSet) -> Vec<Attribute> {
    let registration = &earned.registration;
    let mut attributes = vec![
        Attribute::site(&registration.site),
        Attribute::registration(&registration.id),
        Attribute::new(AttributeKind::Evidence, AGENT_KEY, agent.path()),
    ];
    let own = registration.selectors.iter();
    attributes.extend(
        own.map(|selector| Attribute::new(AttributeKind::Selector, selector.key(), selector.value())),
    );
    if let Kind::Rule(template) = &registration.kind {
        for key in template.keys() {
            let values = attested.values(key);
            attributes.extend(values.map(|value| Attribute::new(AttributeKind::Selector, key, value)));
        }
    }
    // An agent that tells its callers apart by less than a pidfd says so of every one of them.
    let peers = attested.values(PEER_KEY);
    attributes.extend(peers.map(|peer| Attribute::new(AttributeKind::Evidence, PEER_KEY, peer)));
    let labels = earned.grant.labels().iter();
    attributes.extend(labels.map(|(key, value)| Attribute::new(AttributeKind::Label, key, value.as_str())));
    let admin = earned.grant.admin().iter();
    attributes.extend(admin.map(|site| Attribute::new(AttributeKind::Admin, ADMIN_KEY, site.as_str())));
    attributes
}
