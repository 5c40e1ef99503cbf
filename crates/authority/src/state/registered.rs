//! One registration as the state holds it: the bytes of its record.
//!
//! A typed registration is a dozen allocations, and the state may hold a million of them in two copies. The copies
//! share these bytes; whoever looks at a registration decodes it, in about two microseconds.

use std::{borrow::Borrow, cmp::Ordering, sync::Arc};

use bonafide_attest::registration::{Registration, digest_item};
use prost::Message as _;

use crate::generated::record::{self as proto, record::Kind};
use crate::records::{Object, registration_key};

/// A registration, ordered by its ID. Cheap to clone, and as large as a pointer.
#[derive(Clone, Debug)]
pub(super) struct Registered(Arc<Packed>);

#[derive(Debug)]
struct Packed {
    revision: u64,
    id: u8,
    /// The ID, then the record as the store has it.
    bytes: Box<[u8]>,
}

impl Registered {
    /// `record` must have been decoded before: one that can't be is none.
    pub(super) fn new(id: &str, revision: u64, record: &[u8]) -> Self {
        // INVARIANT: the ID of a registration has at most 64 bytes.
        let length = u8::try_from(id.len()).unwrap_or(u8::MAX);
        Self(Arc::new(Packed { revision, id: length, bytes: [id.as_bytes(), record].concat().into() }))
    }

    pub(super) fn id(&self) -> &str {
        std::str::from_utf8(self.id_bytes()).unwrap_or_default()
    }

    /// In the same order as the IDs themselves, and without a look at what they are made of.
    fn id_bytes(&self) -> &[u8] {
        self.0.bytes.get(..usize::from(self.0.id)).unwrap_or_default()
    }

    pub(super) fn revision(&self) -> u64 {
        self.0.revision
    }

    pub(super) fn digest_item(&self) -> Vec<u8> {
        digest_item(self.id(), self.0.revision)
    }

    /// What must be attested, as it is written: key and value.
    pub(super) fn selectors(&self) -> Vec<(String, String)> {
        let record = self.0.bytes.get(usize::from(self.0.id)..).unwrap_or_default();
        let kind = proto::Envelope::decode(record).ok().and_then(|envelope| envelope.record?.kind);
        match kind {
            Some(Kind::Registration(registration)) => {
                registration.selectors.into_iter().map(|selector| (selector.key, selector.value)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The registration itself.
    pub(super) fn decode(&self) -> Option<Arc<Registration>> {
        let record = self.0.bytes.get(usize::from(self.0.id)..)?;
        match Object::decode(&registration_key(self.id()), record, self.0.revision) {
            Ok(Some(Object::Registration(registration))) => Some(registration),
            _ => None,
        }
    }
}

impl Borrow<[u8]> for Registered {
    fn borrow(&self) -> &[u8] {
        self.id_bytes()
    }
}

impl Ord for Registered {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id_bytes().cmp(other.id_bytes())
    }
}

impl PartialOrd for Registered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Registered {
    fn eq(&self, other: &Self) -> bool {
        self.id_bytes() == other.id_bytes()
    }
}

impl Eq for Registered {}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use bonafide_attest::{SelectorSet, registration::Kind};
    use bonafide_identity::time::UnixTime;

    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let registration = Registration {
            id: "web".to_owned(),
            kind: Kind::Entry("spiffe://example.org/web".parse().unwrap()),
            site: "edge".to_owned(),
            parent: Some("spiffe://example.org/bonafide/agent/edge/1".parse().unwrap()),
            selectors: SelectorSet::from_pairs([("unix.uid", "7")]).unwrap(),
            x509_ttl: Some(Duration::from_secs(60)),
            jwt_ttl: None,
            dns_names: vec!["web.example.org".parse().unwrap()],
            admin: Vec::new(),
            hint: String::new(),
            labels: BTreeMap::from([("tier".to_owned(), "front".to_owned())]),
            management_labels: BTreeMap::new(),
            expires_at: None,
            revision: 9,
            created_at: UnixTime::from_secs(5),
        };
        let record = Object::Registration(Arc::new(registration.clone())).encode();
        let registered = Registered::new("web", 9, &record);
        assert_eq!((registered.id(), registered.revision()), ("web", 9));
        assert_eq!(*registered.decode().unwrap(), registration);
        assert_eq!(registered.digest_item(), registration.digest_item());
        assert_eq!(size_of::<Registered>(), size_of::<usize>());
    }
}
