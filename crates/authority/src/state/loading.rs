//! Reading a snapshot: registrations, of which there may be a million, are put into their sets as a whole.
//!
//! A set that is made of sorted items has full nodes, and costs no search for each of them. What parses a registration
//! drops it again, and only its packed form goes further: what one thread allocates among what another one frees would
//! lie scattered.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bonafide_attest::registration::Registration;
use bonafide_crypto::digest::SetDigest;
use bonafide_identity::{SpiffeId, time::UnixTime};

use super::{State, is_published, registered::Registered, site::LabelSets};
use crate::records::{Object, RecordError};

/// A part of a snapshot, read. That is most of the work of a start, and needs no state.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    sites: BTreeMap<String, Registrations>,
    expiries: Vec<(UnixTime, String)>,
    others: Vec<(String, u64, Object)>,
}

/// Registrations of one site, in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    pub(super) all: Vec<Registered>,
    pub(super) shared: Vec<Registered>,
    /// Of `shared`.
    pub(super) digest: SetDigest,
    pub(super) own: HashMap<SpiffeId, Vec<Registered>>,
    /// Of `shared`.
    pub(super) labels: LabelSets,
    /// Of `own`.
    pub(super) own_labels: HashMap<SpiffeId, LabelSets>,
}

impl Loaded {
    pub(crate) fn read(objects: Vec<bonafide_store::Object>) -> Result<Self, RecordError> {
        let mut loaded = Self::default();
        for bonafide_store::Object { key, revision, value } in objects {
            match Object::decode(&key, &value, revision.0)? {
                Some(Object::Registration(registration)) => loaded.register(key, &registration, &value),
                Some(object) => loaded.others.push((key, revision.0, object)),
                None => {}
            }
        }
        Ok(loaded)
    }

    fn register(&mut self, key: String, registration: &Registration, record: &[u8]) {
        let registered = Registered::new(&registration.id, registration.revision, record);
        if let Some(at) = registration.expires_at {
            self.expiries.push((at, key));
        }
        if !self.sites.contains_key(&registration.site) {
            self.sites.insert(registration.site.clone(), Registrations::default());
        }
        let Some(site) = self.sites.get_mut(&registration.site) else { return };
        match &registration.parent {
            None => {
                site.digest.insert(&registered.digest_item());
                site.shared.push(registered.clone());
                site.labels.add(&registration.labels);
            }
            Some(parent) => {
                site.own.entry(parent.clone()).or_default().push(registered.clone());
                if !registration.labels.is_empty() {
                    site.own_labels.entry(parent.clone()).or_default().add(&registration.labels);
                }
            }
        }
        site.all.push(registered);
    }
}

impl State {
    /// Everything that a snapshot has, in an empty state. Its parts need not be in any order.
    pub(crate) fn load(&mut self, parts: Vec<Loaded>, revision: u64) {
        let mut sites: BTreeMap<Arc<str>, Vec<Registrations>> = BTreeMap::new();
        for Loaded { sites: of, expiries, others } in parts {
            for (key, revision, object) in others {
                if is_published(&object) {
                    self.signing_keys_revision = self.signing_keys_revision.max(revision);
                }
                self.put(&key, Some(object), None);
            }
            self.expiries.extend(expiries);
            for (name, registrations) in of {
                sites.entry(name.into()).or_default().push(registrations);
            }
        }
        let all = sites.values().flatten().flat_map(|part| &part.all).cloned();
        self.registrations = all.collect();
        for (name, parts) in sites {
            self.site_mut(&name).load(parts);
        }
        self.revision = revision;
        self.rebuild_bundle();
    }
}
