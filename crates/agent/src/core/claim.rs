//! What an SVID says, and the SVIDs that say it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bonafide_attest::{
    SelectorSet,
    registration::{Kind, Registration},
    template::RenderError,
};
use bonafide_crypto::key::PrivateKey;
use bonafide_identity::{DnsName, InstanceId, SpiffeId, time::UnixTime};
use bonafide_wire::types::Problem;

use super::LaunchKey;
use crate::{attestor::weak_peer, credential::Credential, view::RegistrationId};

/// Which identity, from which facts. SVIDs of one subject may stand in for each other before they are bound
/// to a launch.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Subject {
    pub(crate) registration: RegistrationId,
    pub(crate) spiffe_id: SpiffeId,
    /// What the authority is told of the workload: for an entry nothing, since it is drawn before any
    /// launch; for a rule what the registration demands and what its template is filled with.
    pub(crate) selectors: SelectorSet,
}

/// A subject and all else that the authority certifies of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Claim {
    pub(crate) subject: Subject,
    pub(crate) revision: u64,
    content: Content,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Content {
    dns_names: Vec<DnsName>,
    labels: BTreeMap<String, String>,
    admin: Vec<String>,
    x509_ttl: Option<Duration>,
}

impl Claim {
    /// What a registration earns for these facts. `weak`: see [`weak_peer`].
    pub(crate) fn of(
        registration: &Registration,
        attested: &SelectorSet,
        weak: bool,
    ) -> Result<Self, RenderError> {
        let spiffe_id = registration.spiffe_id(attested)?;
        let mut selectors: Vec<_> = Vec::new();
        if let Kind::Rule(template) = &registration.kind {
            selectors.extend(registration.selectors.iter().cloned());
            for key in template.keys() {
                selectors.extend(attested.iter().filter(|selector| selector.key() == key).cloned());
            }
        }
        if weak {
            selectors.extend(registration.selectors.iter().cloned());
            selectors.extend(weak_peer());
        }
        selectors.sort();
        selectors.dedup();
        let subject = Subject {
            registration: registration.id.as_str().into(),
            spiffe_id,
            selectors: SelectorSet::collect(selectors).unwrap_or_default(),
        };
        let content = Content {
            dns_names: registration.dns_names.clone(),
            labels: registration.labels.clone(),
            admin: registration.admin.clone(),
            x509_ttl: registration.x509_ttl,
        };
        Ok(Self { subject, revision: registration.revision, content })
    }

    /// Whether an SVID of the one says all that one of the other would.
    pub(crate) fn says_the_same_as(&self, other: &Self) -> bool {
        self.subject == other.subject && self.content == other.content
    }
}

/// One drawn SVID: unassigned, or of one launch.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) claim: Arc<Claim>,
    pub(crate) generation: u64,
    pub(crate) credential: Arc<Credential>,
    pub(crate) renew_after: UnixTime,
    pub(crate) binding: Option<Binding>,
    pub(crate) successor: Option<Successor>,
    pub(crate) renewal: Renewal,
}

/// Whose SVID it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Binding {
    pub(crate) launch: LaunchKey,
    pub(crate) selectors: SelectorSet,
    pub(crate) launched_at: UnixTime,
    /// The authority knows.
    pub(crate) reported: bool,
}

/// The key that is to succeed the present one. Kept until the authority has answered, so that a lost
/// answer never makes two successors of one certificate: that is what a clone would look like.
#[derive(Clone, Debug)]
pub(crate) struct Successor {
    pub(crate) key: Arc<PrivateKey>,
    pub(crate) nonce: [u8; 16],
}

/// How the renewal of an instance goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Renewal {
    pub(crate) in_flight: bool,
    pub(crate) queued: bool,
    /// Not before then; none: not before the next stream.
    pub(crate) not_before: Option<UnixTime>,
    pub(crate) failures: u32,
    pub(crate) problem: Option<Problem>,
}

impl Instance {
    /// Whether it should be renewed or replaced.
    pub(crate) fn is_due(&self, now: UnixTime) -> bool {
        self.renew_after <= now
    }

    /// Whether nobody would accept it any more.
    pub(crate) fn is_expired(&self, now: UnixTime) -> bool {
        self.credential.not_after() <= now
    }
}
