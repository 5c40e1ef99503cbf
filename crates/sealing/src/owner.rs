//! The owner of secrets: a root of several keys that stay offline, and what it delegates for daily work.
//!
//! A client pins a [`Root`]. Each root commits to the keys of the next one from the start: who steals today's keys can't name
//! tomorrow's. The root signs one [`Delegation`] at a time, with keys of their own for each [`Purpose`].
//!
//! Neither has a date: a secret that was baked into an image must still open when nobody has held a ceremony for years. A
//! delegation ends when its successor is seen, so whoever opens secrets keeps the highest serial, and never goes back.

use bonafide_crypto::digest::sha256;

use crate::cbor::{Reader, Writer};
use crate::document::{Digest, Document, Signed, VerifyingKey, framed};
use crate::identity::Tenant;
use crate::trust::{TrustError, ensure, ensure_signed};

/// The most keys of a root, and of each purpose.
pub const MAX_KEYS: usize = 16;

/// The keys of the owner. m of them sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Whose.
    pub tenant: Tenant,
    /// 1 for the first, one more for each successor.
    pub serial: u64,
    /// How many must sign.
    pub threshold: u8,
    /// All of them.
    pub keys: Vec<VerifyingKey>,
    /// [`Root::commitment`] of the next root.
    pub next: Digest,
}

/// What a delegated key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Deny-lists.
    Deny,
    /// Parameters that secrets are sealed with.
    Params,
    /// Stanzas for another version of the key, for whom a secret was already sealed to.
    Rewrap,
    /// Rosters of keyholders, and plans of ceremonies.
    Roster,
    /// Sealed secrets.
    Seal,
}

/// Which keys the root has delegated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// Whose.
    pub tenant: Tenant,
    /// Digest of the root.
    pub root: Digest,
    /// Rises with each.
    pub serial: u64,
    /// The keys, by purpose in the order of [`Purpose::ALL`].
    pub keys: [Vec<VerifyingKey>; 5],
}

/// A root that is pinned, and the delegation that it has signed.
#[derive(Clone, Debug)]
pub struct Owner {
    root: Root,
    delegation: Delegation,
}

impl Purpose {
    /// Every purpose, in the order of [`Delegation::keys`].
    pub const ALL: [Self; 5] = [Self::Deny, Self::Params, Self::Rewrap, Self::Roster, Self::Seal];
}

impl Root {
    /// What a root says about the keys of the next one.
    #[must_use]
    pub fn commitment(threshold: u8, keys: &[VerifyingKey]) -> Digest {
        let keys: Vec<&[u8]> = keys.iter().map(VerifyingKey::spki_der).collect();
        sha256(&framed(&[b"bbf-root-keys-v1", &[threshold], &framed(&keys)]))
    }

    /// The next root, signed by as many of its own keys as it says. The keys of this one are not asked: that they are lost or
    /// stolen may be why there is another.
    ///
    /// # Errors
    /// [`TrustError`] if it is not the one that this root has committed to.
    pub fn succeeded_by(&self, next: &Signed<Self>) -> Result<Self, TrustError> {
        let root = &next.body;
        ensure(root.tenant == self.tenant, TrustError::Mismatch(Self::NAME))?;
        let committed = Self::commitment(root.threshold, &root.keys) == self.next;
        ensure(committed && Some(root.serial) == self.serial.checked_add(1), TrustError::Chain(Self::NAME))?;
        ensure_signed(Self::NAME, "its own keys", next.count(&root.keys), usize::from(root.threshold))?;
        Ok(root.clone())
    }
}

impl Delegation {
    /// The keys of a purpose.
    #[must_use]
    pub fn keys_for(&self, purpose: Purpose) -> &[VerifyingKey] {
        let place = Purpose::ALL.iter().position(|other| *other == purpose);
        place.and_then(|place| self.keys.get(place)).map_or(&[], Vec::as_slice)
    }
}

impl Owner {
    /// The owner with this pinned root and the delegation that its keys have signed.
    ///
    /// # Errors
    /// [`TrustError`] if the delegation is of another root, is not signed by enough of its keys, or gives one key two purposes.
    pub fn new(root: Root, delegation: &Signed<Delegation>) -> Result<Self, TrustError> {
        let body = &delegation.body;
        let fits = body.tenant == root.tenant && body.root == root.digest();
        ensure(fits, TrustError::Mismatch(Delegation::NAME))?;
        let mut prints: Vec<&Digest> =
            body.keys.iter().flatten().chain(&root.keys).map(VerifyingKey::fingerprint).collect();
        prints.sort();
        ensure(prints.is_sorted_by(|a, b| a < b), TrustError::KeyTwice(Delegation::NAME))?;
        let have = delegation.count(&root.keys);
        ensure_signed(Delegation::NAME, "the root", have, usize::from(root.threshold))?;
        Ok(Self { delegation: delegation.body.clone(), root })
    }

    /// The same owner with a newer delegation.
    ///
    /// # Errors
    /// [`TrustError`] as of [`Self::new`], and if it is not newer.
    pub fn renew(&self, delegation: &Signed<Delegation>) -> Result<Self, TrustError> {
        ensure(delegation.body.serial > self.delegation.serial, TrustError::Stale(Delegation::NAME))?;
        Self::new(self.root.clone(), delegation)
    }

    /// Whose.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.root.tenant
    }

    /// The pinned root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// What it has delegated.
    #[must_use]
    pub fn delegation(&self) -> &Delegation {
        &self.delegation
    }

    /// Whether one of the keys of this purpose has signed.
    ///
    /// # Errors
    /// [`TrustError::Unsigned`] if none has.
    pub fn verify<T: Document>(&self, purpose: Purpose, signed: &Signed<T>) -> Result<(), TrustError> {
        let have = signed.count(self.delegation.keys_for(purpose));
        ensure_signed(T::NAME, "the owner", have, 1)
    }

    /// The key of this fingerprint, if it has one of these purposes.
    #[must_use]
    pub fn key(&self, purposes: &[Purpose], fingerprint: &Digest) -> Option<&VerifyingKey> {
        let mut keys = purposes.iter().flat_map(|purpose| self.delegation.keys_for(*purpose));
        keys.find(|key| key.fingerprint() == fingerprint)
    }
}

impl Document for Root {
    const NAME: &'static str = "root";
    const MAX: usize = 4 << 10;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(5).number(1).bytes(self.tenant.as_bytes()).number(2).number(self.serial);
        out.number(3).number(u64::from(self.threshold));
        out.number(4);
        write_keys(&mut out, &self.keys);
        out.number(5).bytes(&self.next);
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let tenant = Tenant::from_bytes(*reader.fixed()?);
        map.required(&mut reader, 2)?;
        let serial = reader.number()?;
        map.required(&mut reader, 3)?;
        let threshold = reader.byte()?;
        map.required(&mut reader, 4)?;
        let keys = read_keys(&mut reader)?;
        map.required(&mut reader, 5)?;
        let next = *reader.fixed()?;
        map.end()?;
        reader.finish()?;
        let distinct =
            (1..).zip(&keys).all(|(after, key)| !keys.iter().skip(after).any(|other| other == key));
        let valid = serial > 0 && threshold > 0 && usize::from(threshold) <= keys.len() && distinct;
        valid.then_some(Self { tenant, serial, threshold, keys, next })
    }
}

impl Document for Delegation {
    const NAME: &'static str = "delegation";
    const MAX: usize = 16 << 10;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(4).number(1).bytes(self.tenant.as_bytes()).number(2).bytes(&self.root);
        out.number(3).number(self.serial).number(4).array(self.keys.len());
        self.keys.iter().for_each(|keys| write_keys(&mut out, keys));
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let tenant = Tenant::from_bytes(*reader.fixed()?);
        map.required(&mut reader, 2)?;
        let root = *reader.fixed()?;
        map.required(&mut reader, 3)?;
        let serial = reader.number()?;
        map.required(&mut reader, 4)?;
        let keys = reader.list(Purpose::ALL.len(), read_keys)?.try_into().ok()?;
        map.end()?;
        reader.finish()?;
        Some(Self { tenant, root, serial, keys })
    }
}

fn write_keys(out: &mut Writer, keys: &[VerifyingKey]) {
    out.array(keys.len());
    keys.iter().for_each(|key| {
        out.bytes(key.spki_der());
    });
}

fn read_keys(reader: &mut Reader<'_>) -> Option<Vec<VerifyingKey>> {
    reader.list(MAX_KEYS, VerifyingKey::read)
}
