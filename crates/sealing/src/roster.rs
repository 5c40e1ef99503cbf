//! Who the keyholders of a keyset are, and what they themselves trust.
//!
//! A roster follows another only by the owner *and* n−t+1 of the operators of the one before: so many that those who are left
//! can't reach a threshold without one who agreed. One stolen key of the owner changes nothing, and neither does an authority.

use crate::cbor::{Reader, Writer};
use crate::document::{Digest, Document, Signed, VerifyingKey};
use crate::group::{Index, MAX_KEYHOLDERS};
use crate::identity::{Keyset, MAX_KEYSET, Tenant};
use crate::owner::{Owner, Purpose};
use crate::trust::{TrustError, ensure, ensure_signed};

/// The most bytes of a name of a member, and of the ID that it has in TLS.
pub const MAX_NAME: usize = 2048;
/// The most certificates that callers are verified with, and the most of sites.
pub const MAX_ANCHORS: usize = 32;
/// The most bytes of a certificate.
pub const MAX_CERTIFICATE: usize = 4096;

/// The keyholders of a keyset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// Whose.
    pub tenant: Tenant,
    /// Of which key.
    pub keyset: Keyset,
    /// 1 for the first, one more for each successor.
    pub serial: u64,
    /// Digest of the roster before; zeros for the first.
    pub previous: Digest,
    /// How many keyholders open a secret: t.
    pub threshold: u8,
    /// That the threshold is lower than the one before is what everybody wants.
    pub lower_threshold: bool,
    /// How long a successor must have been known to a keyholder before it counts, in seconds.
    pub delay: u64,
    /// The members. The first has index 1.
    pub members: Vec<Member>,
    /// Certificates that chains of callers end in (DER).
    pub anchors: Vec<Vec<u8>>,
    /// What certificates of nodes end in, by site: the second witness.
    pub sites: Vec<Site>,
}

/// A keyholder and its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What people call it.
    pub name: String,
    /// The SPIFFE ID of its server.
    pub id: String,
    /// Signs its answers and its part of ceremonies.
    pub key: VerifyingKey,
    /// Approves changes of the roster. Held by the operator, not by the server.
    pub operator: VerifyingKey,
}

/// A site whose nodes can be witnesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// The certificate that certificates of its nodes end in (DER).
    pub root: Vec<u8>,
}

/// A roster that the owner has signed, and the operators of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedRoster {
    roster: Roster,
    digest: Digest,
}

impl Roster {
    /// How many operators must agree to a successor: n−t+1.
    #[must_use]
    pub fn approvals(&self) -> usize {
        (self.members.len() + 1).saturating_sub(usize::from(self.threshold))
    }

    /// How many members it has, which is at most [`MAX_KEYHOLDERS`].
    #[must_use]
    pub fn count(&self) -> u8 {
        u8::try_from(self.members.len()).unwrap_or(MAX_KEYHOLDERS)
    }

    /// The member with this index.
    #[must_use]
    pub fn member(&self, index: Index) -> Option<&Member> {
        self.members.get(index.place())
    }

    /// All indices.
    pub fn indices(&self) -> impl Iterator<Item = Index> {
        Index::first(self.count())
    }

    /// The index of the member with this key.
    #[must_use]
    pub fn index_of(&self, fingerprint: &Digest) -> Option<Index> {
        self.indices().zip(&self.members).find(|(_, m)| m.key.fingerprint() == fingerprint).map(|(i, _)| i)
    }
}

impl TrustedRoster {
    /// The first roster of a keyset. The owner alone signs it; each operator accepts it by starting a keyholder with it.
    ///
    /// # Errors
    /// [`TrustError`] if it is another tenant's, not the first, not signed, or has a key twice.
    pub fn first(owner: &Owner, signed: &Signed<Roster>) -> Result<Self, TrustError> {
        let roster = &signed.body;
        ensure(roster.serial == 1 && roster.previous == [0; 32], TrustError::Chain(Roster::NAME))?;
        Self::verify(owner, signed)
    }

    /// The next roster. `known_since` is when this place has seen (and logged) it first, by its own clock; both times are in
    /// seconds since 1970.
    ///
    /// # Errors
    /// [`TrustError`] if it does not follow this one, the owner or enough operators of this one have not signed, it lowers the
    /// threshold without saying so, or it was not known for as long as this one demands.
    pub fn succeeded_by(
        &self,
        owner: &Owner,
        next: &Signed<Roster>,
        known_since: u64,
        now: u64,
    ) -> Result<Self, TrustError> {
        let roster = &next.body;
        let same = roster.keyset == self.roster.keyset;
        ensure(same, TrustError::Mismatch(Roster::NAME))?;
        let follows = Some(roster.serial) == self.roster.serial.checked_add(1);
        ensure(follows && roster.previous == self.digest, TrustError::Chain(Roster::NAME))?;
        let weaker = roster.threshold < self.roster.threshold && !roster.lower_threshold;
        ensure(!weaker, TrustError::Weaker)?;
        let trusted = Self::verify(owner, next)?;
        let have = next.count(self.roster.members.iter().map(|member| &member.operator));
        ensure_signed(Roster::NAME, "operators of the roster before", have, self.roster.approvals())?;
        let waited = now.checked_sub(known_since).is_some_and(|waited| waited >= self.roster.delay);
        ensure(waited, TrustError::NotYetValid(Roster::NAME))?;
        Ok(trusted)
    }

    /// What stands in it.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    fn verify(owner: &Owner, signed: &Signed<Roster>) -> Result<Self, TrustError> {
        let roster = &signed.body;
        ensure(roster.tenant == *owner.tenant(), TrustError::Mismatch(Roster::NAME))?;
        owner.verify(Purpose::Roster, signed)?;
        // A key that is a member's and the owner's, or two members', would count for two.
        let members = roster.members.iter().flat_map(|member| [&member.key, &member.operator]);
        let owners = owner.delegation().keys_for(Purpose::Roster);
        let mut prints: Vec<&Digest> = members.chain(owners).map(VerifyingKey::fingerprint).collect();
        prints.sort();
        ensure(prints.is_sorted_by(|a, b| a < b), TrustError::KeyTwice(Roster::NAME))?;
        Ok(Self { roster: roster.clone(), digest: roster.digest() })
    }
}

impl Document for Roster {
    const NAME: &'static str = "roster";
    const MAX: usize = 512 << 10;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(10).number(1).bytes(self.tenant.as_bytes()).number(2).text(self.keyset.as_str());
        out.number(3).number(self.serial).number(4).bytes(&self.previous);
        out.number(5).number(u64::from(self.threshold)).number(6).boolean(self.lower_threshold);
        out.number(7).number(self.delay).number(8).array(self.members.len());
        for member in &self.members {
            out.array(4).text(&member.name).text(&member.id);
            out.bytes(member.key.spki_der()).bytes(member.operator.spki_der());
        }
        out.number(9).array(self.anchors.len());
        for anchor in &self.anchors {
            out.bytes(anchor);
        }
        out.number(10).array(self.sites.len());
        for site in &self.sites {
            out.array(2).text(&site.name).bytes(&site.root);
        }
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let tenant = Tenant::from_bytes(*reader.fixed()?);
        map.required(&mut reader, 2)?;
        let keyset = Keyset::new(reader.text(MAX_KEYSET)?).ok()?;
        map.required(&mut reader, 3)?;
        let serial = reader.number()?;
        map.required(&mut reader, 4)?;
        let previous = *reader.fixed()?;
        map.required(&mut reader, 5)?;
        let threshold = reader.byte()?;
        map.required(&mut reader, 6)?;
        let lower_threshold = reader.boolean()?;
        map.required(&mut reader, 7)?;
        let delay = reader.number()?;
        map.required(&mut reader, 8)?;
        let members = reader.list(usize::from(MAX_KEYHOLDERS), Member::read)?;
        map.required(&mut reader, 9)?;
        let anchors = reader.list(MAX_ANCHORS, |reader| Some(reader.bytes(MAX_CERTIFICATE)?.to_vec()))?;
        map.required(&mut reader, 10)?;
        let sites = reader.list(MAX_ANCHORS, Site::read)?;
        map.end()?;
        reader.finish()?;
        let valid = serial > 0 && threshold > 0 && usize::from(threshold) <= members.len();
        valid.then_some(Self {
            tenant,
            keyset,
            serial,
            previous,
            threshold,
            lower_threshold,
            delay,
            members,
            anchors,
            sites,
        })
    }
}

impl Member {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.array(4)? != 4 {
            return None;
        }
        let (name, id) = (reader.text(MAX_NAME)?.to_owned(), reader.text(MAX_NAME)?.to_owned());
        Some(Self { name, id, key: VerifyingKey::read(reader)?, operator: VerifyingKey::read(reader)? })
    }
}

impl Site {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.array(2)? != 2 {
            return None;
        }
        Some(Self { name: reader.text(MAX_NAME)?.to_owned(), root: reader.bytes(MAX_CERTIFICATE)?.to_vec() })
    }
}
