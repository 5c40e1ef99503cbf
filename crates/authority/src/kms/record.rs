//! A key as the store holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bonafide_kms::algorithm::KeyType;
use bonafide_kms::ciphertext::KeyId;
use bonafide_kms::key::{Birth, Ceilings, Key, Local, State, Version};
use bytes::Bytes;

use crate::generated::record as proto;

/// A key, and what operators say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key itself.
    pub key: Key,
    /// By these, operators find what they manage.
    pub management_labels: BTreeMap<String, String>,
    /// Log revision of the last change; 0 before it was written.
    pub revision: u64,
}

impl KeyRecord {
    /// Which key.
    #[must_use]
    pub fn id(&self) -> &[u8; 16] {
        self.key.id.as_bytes()
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// Its name and its aliases.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name()).chain(self.key.aliases.iter().map(String::as_str))
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        &self.key.labels
    }

    pub(crate) fn sites(&self) -> &BTreeSet<String> {
        &self.key.sites
    }

    /// Whether workloads of this site may use it.
    pub(crate) fn is_for_site(&self, site: &str) -> bool {
        self.key.is_for_site(site)
    }

    pub(crate) fn to_record(&self) -> proto::Key {
        let key = &self.key;
        let (state, destroy_at) = from_state(key.state);
        proto::Key {
            id: Bytes::copy_from_slice(key.id.as_bytes()),
            name: key.name.clone(),
            aliases: key.aliases.iter().cloned().collect(),
            r#type: key.key_type.as_str().to_owned(),
            born_at: key.birth.at,
            exportable: key.birth.exportable,
            convergent: key.birth.convergent,
            state: state.into(),
            destroy_at,
            versions: key.versions.iter().map(|(number, version)| from_version(*number, version)).collect(),
            primary: key.primary,
            min_encrypt: key.min_encrypt,
            min_decrypt: key.min_decrypt,
            trimmed: key.trimmed,
            rotation: key.rotation.map_or(0, seconds),
            next_rotation: key.next_rotation.unwrap_or_default(),
            local: key.local.as_str().to_owned(),
            max_stale: seconds(key.max_stale),
            max_age: seconds(key.ceilings.age),
            max_messages: key.ceilings.messages,
            max_bytes: key.ceilings.bytes,
            audit_sync: key.audit_sync,
            sites: key.sites.iter().cloned().collect(),
            labels: key.labels.clone(),
            management_labels: self.management_labels.clone(),
            external: key.birth.external,
        }
    }

    /// `None`: the record is damaged.
    pub(crate) fn of_record(record: proto::Key, revision: u64) -> Option<Self> {
        let state = to_state(record.state(), record.destroy_at)?;
        let birth = Birth {
            at: record.born_at,
            exportable: record.exportable,
            convergent: record.convergent,
            external: record.external,
        };
        let versions = record.versions.iter().map(to_version).collect::<Option<BTreeMap<_, _>>>()?;
        let key = Key {
            id: KeyId::from_bytes(record.id.as_ref().try_into().ok()?),
            name: record.name,
            aliases: record.aliases.into_iter().collect(),
            key_type: KeyType::from_name(&record.r#type)?,
            birth,
            state,
            versions,
            primary: record.primary,
            min_encrypt: record.min_encrypt,
            min_decrypt: record.min_decrypt,
            trimmed: record.trimmed,
            rotation: (record.rotation != 0).then(|| Duration::from_secs(record.rotation.into())),
            next_rotation: (record.rotation != 0).then_some(record.next_rotation),
            local: Local::from_name(&record.local)?,
            max_stale: Duration::from_secs(record.max_stale.into()),
            ceilings: Ceilings {
                age: Duration::from_secs(record.max_age.into()),
                messages: record.max_messages,
                bytes: record.max_bytes,
            },
            audit_sync: record.audit_sync,
            sites: record.sites.into_iter().collect(),
            labels: record.labels,
        };
        key.check().ok()?;
        Some(Self { key, management_labels: record.management_labels, revision })
    }
}

fn from_version(number: u32, version: &Version) -> proto::key::Version {
    let (state, destroy_at) = from_state(version.state);
    proto::key::Version {
        number,
        state: state.into(),
        destroy_at,
        created_at: version.created,
        imported: version.imported,
    }
}

fn to_version(record: &proto::key::Version) -> Option<(u32, Version)> {
    let state = to_state(record.state(), record.destroy_at)?;
    Some((record.number, Version { state, created: record.created_at, imported: record.imported }))
}

fn from_state(state: State) -> (proto::key::State, i64) {
    match state {
        State::Enabled => (proto::key::State::Enabled, 0),
        State::Disabled => (proto::key::State::Disabled, 0),
        State::DestroyScheduled(at) => (proto::key::State::DestroyScheduled, at),
        State::Destroyed => (proto::key::State::Destroyed, 0),
    }
}

fn to_state(state: proto::key::State, destroy_at: i64) -> Option<State> {
    Some(match state {
        proto::key::State::Unspecified => return None,
        proto::key::State::Enabled => State::Enabled,
        proto::key::State::Disabled => State::Disabled,
        proto::key::State::DestroyScheduled => State::DestroyScheduled(destroy_at),
        proto::key::State::Destroyed => State::Destroyed,
    })
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
