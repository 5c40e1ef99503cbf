//! Between the store's records and the typed forms. `None`: the record is damaged.

use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc, time::Duration};

use bonafide_attest::{
    SelectorSet,
    registration::{Kind, Registration},
};
use bonafide_identity::{Certificate, InstanceId, Revocation, SpiffeId, revocation::Subject, time::UnixTime};
use bytes::Bytes;

use crate::{
    generated::record as proto,
    policy::PolicyRecord,
    records::{Agent, Ban, JoinToken, NodeProof, RevocationRecord},
    scope::{LabelPattern, Scope},
    site::Site,
};

/// A label's value that stands for any.
pub(crate) const ANY: &str = "*";

pub(crate) fn from_registration(registration: &Registration) -> proto::Registration {
    proto::Registration {
        id: registration.id.clone(),
        rule: matches!(registration.kind, Kind::Rule(_)),
        site: registration.site.clone(),
        spiffe_id: registration.spiffe_id_text(),
        parent: registration.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        selectors: from_selectors(&registration.selectors),
        x509_ttl: seconds(registration.x509_ttl),
        jwt_ttl: seconds(registration.jwt_ttl),
        dns_names: registration.dns_names.iter().map(ToString::to_string).collect(),
        admin: registration.admin.clone(),
        hint: registration.hint.clone(),
        labels: registration.labels.clone(),
        expires_at: registration.expires_at.map_or(0, UnixTime::as_secs),
        created_at: registration.created_at.as_secs(),
        management_labels: registration.management_labels.clone(),
    }
}

pub(crate) fn to_registration(record: &proto::Registration, revision: u64) -> Option<Registration> {
    let kind = if record.rule {
        Kind::Rule(record.spiffe_id.parse().ok()?)
    } else {
        Kind::Entry(SpiffeId::parse(&record.spiffe_id).ok()?)
    };
    let parent = if record.parent.is_empty() { None } else { Some(SpiffeId::parse(&record.parent).ok()?) };
    Some(Registration {
        id: record.id.clone(),
        kind,
        site: record.site.clone(),
        parent,
        selectors: to_selectors(&record.selectors).filter(|selectors| !selectors.is_empty())?,
        x509_ttl: duration(record.x509_ttl),
        jwt_ttl: duration(record.jwt_ttl),
        dns_names: record.dns_names.iter().map(|name| name.parse().ok()).collect::<Option<_>>()?,
        admin: record.admin.clone(),
        hint: record.hint.clone(),
        labels: record.labels.clone(),
        expires_at: (record.expires_at != 0).then(|| UnixTime::from_secs(record.expires_at)),
        revision,
        created_at: UnixTime::from_secs(record.created_at),
        management_labels: record.management_labels.clone(),
    })
}

pub(crate) fn from_policy(policy: &PolicyRecord) -> proto::Policy {
    proto::Policy {
        name: policy.name.to_string(),
        source: policy.source.clone(),
        document: policy.document.clone(),
        sites: policy.sites.iter().cloned().collect(),
        created_at: policy.created_at.as_secs(),
        management_labels: policy.management_labels.clone(),
    }
}

pub(crate) fn to_policy(record: proto::Policy, revision: u64) -> Option<PolicyRecord> {
    // What was checked when it was written, and is authentic since.
    let document = bonafide_policy::read_canonical(std::str::from_utf8(&record.document).ok()?)?;
    Some(PolicyRecord {
        name: record.name.into(),
        source: record.source,
        sha256: bonafide_crypto::digest::sha256(&record.document),
        document: record.document,
        body: Arc::new(document.body().clone()),
        sites: record.sites.into_iter().collect(),
        revision,
        created_at: UnixTime::from_secs(record.created_at),
        management_labels: record.management_labels,
    })
}

pub(crate) fn from_revocation(record: &RevocationRecord) -> proto::Revocation {
    use proto::revocation::Subject as Stored;

    let Revocation { subject, issued_before, expires_at } = &record.revocation;
    proto::Revocation {
        subject: Some(match subject {
            Subject::Agent(id) => Stored::Agent(id.to_string()),
            Subject::AuthorityKey(key_id) => Stored::AuthorityKey(Bytes::copy_from_slice(key_id)),
            Subject::Id(id) => Stored::SpiffeId(id.to_string()),
            Subject::Instance(instance) => Stored::Instance(Bytes::copy_from_slice(instance.as_bytes())),
            Subject::Site(site) => Stored::Site(site.to_string()),
        }),
        issued_before: issued_before.map_or(0, UnixTime::as_secs),
        expires_at: expires_at.as_secs(),
        owner: record.owner.clone(),
        reason: record.reason.clone(),
        revoked_by: record.revoked_by.clone(),
        revoked_at: record.revoked_at.as_secs(),
    }
}

pub(crate) fn to_revocation(record: &proto::Revocation) -> Option<RevocationRecord> {
    use proto::revocation::Subject as Stored;

    let subject = match record.subject.as_ref()? {
        Stored::Agent(id) => Subject::Agent(SpiffeId::parse(id).ok()?),
        Stored::AuthorityKey(key_id) => Subject::AuthorityKey(key_id.as_ref().into()),
        Stored::Instance(bytes) => Subject::Instance(InstanceId::from_bytes(bytes.as_ref().try_into().ok()?)),
        Stored::Site(site) => Subject::Site(site.as_str().into()),
        Stored::SpiffeId(id) => Subject::Id(SpiffeId::parse(id).ok()?),
    };
    let issued_before = (record.issued_before != 0).then(|| UnixTime::from_secs(record.issued_before));
    let expires_at = UnixTime::from_secs(record.expires_at);
    Some(RevocationRecord {
        revocation: Revocation { subject, issued_before, expires_at },
        owner: record.owner.clone(),
        reason: record.reason.clone(),
        revoked_by: record.revoked_by.clone(),
        revoked_at: UnixTime::from_secs(record.revoked_at),
    })
}

pub(crate) fn from_site(site: &Site) -> proto::Site {
    let scope = &site.scope;
    proto::Site {
        name: site.name.to_string(),
        scope: Some(proto::Scope {
            spiffe_ids: scope.spiffe_ids.iter().map(ToString::to_string).collect(),
            dns_names: scope.dns_names.iter().map(ToString::to_string).collect(),
            labels: scope
                .labels
                .iter()
                .map(|label| proto::Selector {
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
        created_at: site.created_at.as_secs(),
        management_labels: site.management_labels.clone(),
        x509pop_roots: roots_to_der(&site.x509pop_roots),
    }
}

pub(crate) fn to_site(record: &proto::Site, revision: u64) -> Option<Site> {
    let scope = record.scope.as_ref()?;
    Some(Site {
        name: record.name.as_str().into(),
        scope: Scope {
            spiffe_ids: scope.spiffe_ids.iter().map(|pattern| pattern.parse().ok()).collect::<Option<_>>()?,
            dns_names: scope.dns_names.iter().map(|pattern| pattern.parse().ok()).collect::<Option<_>>()?,
            labels: scope
                .labels
                .iter()
                .map(|label| LabelPattern {
                    key: label.key.clone(),
                    value: (label.value != ANY).then(|| label.value.clone()),
                })
                .collect(),
            max_x509_ttl: duration(scope.max_x509_ttl)?,
            max_jwt_ttl: duration(scope.max_jwt_ttl)?,
            admin: scope.admin.iter().cloned().collect::<BTreeSet<_>>(),
            signatures_per_second: NonZeroU32::new(scope.signatures_per_second),
            attestations_per_second: NonZeroU32::new(scope.attestations_per_second),
        },
        default_x509_ttl: duration(record.default_x509_ttl)?,
        default_jwt_ttl: duration(record.default_jwt_ttl)?,
        created_at: UnixTime::from_secs(record.created_at),
        management_labels: record.management_labels.clone(),
        revision,
        x509pop_roots: record
            .x509pop_roots
            .iter()
            .map(|der| Certificate::from_der(der).ok())
            .collect::<Option<_>>()?,
    })
}

pub(crate) fn roots_to_der(roots: &[Certificate]) -> Vec<Bytes> {
    roots.iter().map(|root| Bytes::copy_from_slice(root.der())).collect()
}

pub(crate) fn from_token(token: &JoinToken) -> proto::JoinToken {
    proto::JoinToken {
        id: token.id.clone(),
        site: token.site.clone(),
        token_sha256: token.sha256.to_vec().into(),
        expires_at: token.expires_at.as_secs(),
        created_at: token.created_at.as_secs(),
    }
}

pub(crate) fn to_token(record: proto::JoinToken) -> Option<JoinToken> {
    Some(JoinToken {
        sha256: record.token_sha256.as_ref().try_into().ok()?,
        id: record.id,
        site: record.site,
        expires_at: UnixTime::from_secs(record.expires_at),
        created_at: UnixTime::from_secs(record.created_at),
    })
}

pub(crate) fn from_agent(agent: &Agent) -> proto::Agent {
    proto::Agent {
        id: agent.id.to_string(),
        site: agent.site.clone(),
        attestor: agent.attestor.clone(),
        selectors: from_selectors(&agent.selectors),
        attested_at: agent.attested_at.as_secs(),
        banned_at: agent.ban.as_ref().map_or(0, |ban| ban.at.as_secs()),
        ban_reason: agent.ban.as_ref().map(|ban| ban.reason.clone()).unwrap_or_default(),
        version: agent.version.clone(),
        attestation: agent.attestation,
        proof_expires_at: agent.proof.map_or(0, |proof| proof.expires_at.as_secs()),
        proof_root: agent.proof.map(|proof| Bytes::copy_from_slice(&proof.root)).unwrap_or_default(),
    }
}

pub(crate) fn to_agent(record: &proto::Agent) -> Option<Agent> {
    let ban = (record.banned_at != 0)
        .then(|| Ban { at: UnixTime::from_secs(record.banned_at), reason: record.ban_reason.clone() });
    let proof = match &*record.proof_root {
        [] => None,
        root => Some(NodeProof {
            expires_at: UnixTime::from_secs(record.proof_expires_at),
            root: root.try_into().ok()?,
        }),
    };
    Some(Agent {
        id: SpiffeId::parse(&record.id).ok()?,
        site: record.site.clone(),
        attestor: record.attestor.clone(),
        selectors: to_selectors(&record.selectors)?,
        attested_at: UnixTime::from_secs(record.attested_at),
        ban,
        version: record.version.clone(),
        attestation: record.attestation,
        proof,
    })
}

fn from_selectors(selectors: &SelectorSet) -> Vec<proto::Selector> {
    selectors
        .iter()
        .map(|selector| proto::Selector {
            key: selector.key().to_owned(),
            value: selector.value().to_owned(),
        })
        .collect()
}

fn to_selectors(records: &[proto::Selector]) -> Option<SelectorSet> {
    SelectorSet::from_pairs(records.iter().map(|record| (record.key.as_str(), record.value.as_str()))).ok()
}

/// 0 stands for none.
pub(crate) fn seconds(duration: Option<Duration>) -> u32 {
    duration.map_or(0, |duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX))
}

/// 0 stands for none.
pub(crate) fn duration(seconds: u32) -> Option<Duration> {
    (seconds != 0).then(|| Duration::from_secs(seconds.into()))
}
