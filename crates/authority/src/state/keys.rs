//! Keys of applications in the state: by ID, by name and alias, with their versions and grants.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::State;
use crate::kms::KeyRecord;
use crate::records::{KeyGrant, KeyVersion};

/// Keys, versions and grants.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyShelf {
    keys: BTreeMap<[u8; 16], Arc<KeyRecord>>,
    /// Names and aliases.
    names: BTreeMap<Arc<str>, [u8; 16]>,
    versions: BTreeMap<([u8; 16], u32), Arc<KeyVersion>>,
    grants: BTreeMap<Arc<str>, Arc<KeyGrant>>,
    /// By key.
    grants_of: BTreeMap<([u8; 16], Arc<str>), Arc<KeyGrant>>,
}

impl KeyShelf {
    pub(super) fn put_key(&mut self, key: Arc<KeyRecord>) {
        for name in key.names() {
            self.names.insert(name.into(), *key.id());
        }
        self.keys.insert(*key.id(), key);
    }

    pub(super) fn take_key(&mut self, name: &str) -> Option<Arc<KeyRecord>> {
        let key = self.keys.remove(&unhex(name)?)?;
        for name in key.names() {
            // In a snapshot in no order, another key may have the name by now.
            if self.names.get(name) == Some(key.id()) {
                self.names.remove(name);
            }
        }
        Some(key)
    }

    pub(super) fn put_version(&mut self, version: Arc<KeyVersion>) {
        if let Ok(id) = <[u8; 16]>::try_from(version.key.as_ref()) {
            self.versions.insert((id, version.number), version);
        }
    }

    pub(super) fn take_version(&mut self, name: &str) -> Option<Arc<KeyVersion>> {
        let (id, number) = name.split_once('/')?;
        self.versions.remove(&(unhex(id)?, number.parse().ok()?))
    }

    pub(super) fn put_grant(&mut self, grant: Arc<KeyGrant>) {
        if let Ok(id) = <[u8; 16]>::try_from(grant.key.as_ref()) {
            let name: Arc<str> = grant.id.as_str().into();
            self.grants_of.insert((id, Arc::clone(&name)), Arc::clone(&grant));
            self.grants.insert(name, grant);
        }
    }

    pub(super) fn take_grant(&mut self, name: &str) -> Option<Arc<KeyGrant>> {
        let (name, grant) = self.grants.remove_entry(name)?;
        if let Ok(id) = <[u8; 16]>::try_from(grant.key.as_ref()) {
            self.grants_of.remove(&(id, name));
        }
        Some(grant)
    }
}

impl State {
    /// A key of applications, by its name or an alias.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&Arc<KeyRecord>> {
        self.keys.names.get(name).and_then(|id| self.keys.keys.get(id))
    }

    /// A key of applications, by its ID.
    #[must_use]
    pub fn key_of_id(&self, id: &[u8; 16]) -> Option<&Arc<KeyRecord>> {
        self.keys.keys.get(id)
    }

    /// Keys in the order of their names, those after `after`.
    pub fn keys_after(&self, after: &str) -> impl Iterator<Item = &Arc<KeyRecord>> {
        let named = self.keys.names.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        named.filter_map(|(name, id)| self.keys.keys.get(id).filter(|key| *key.name() == **name))
    }

    /// How many there are.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.keys.len()
    }

    /// The secret of a version, wrapped.
    #[must_use]
    pub fn key_version(&self, id: &[u8; 16], number: u32) -> Option<&Arc<KeyVersion>> {
        self.keys.versions.get(&(*id, number))
    }

    /// The versions of a key whose secrets are there.
    pub fn key_versions(&self, id: &[u8; 16]) -> impl Iterator<Item = &Arc<KeyVersion>> {
        self.keys.versions.range((*id, 0)..=(*id, u32::MAX)).map(|(_, version)| version)
    }

    /// A grant, expired or not.
    #[must_use]
    pub fn key_grant(&self, id: &str) -> Option<&Arc<KeyGrant>> {
        self.keys.grants.get(id)
    }

    /// The grants on a key, expired or not.
    pub fn key_grants(&self, id: &[u8; 16]) -> impl Iterator<Item = &Arc<KeyGrant>> {
        let from = (*id, Arc::from(""));
        self.keys.grants_of.range(from..).take_while(move |((key, _), _)| key == id).map(|(_, grant)| grant)
    }
}

/// Sixteen bytes of lowercase hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 16]> {
    Some(text.parse::<bonafide_kms::ciphertext::KeyId>().ok()?.as_bytes().to_owned())
}
