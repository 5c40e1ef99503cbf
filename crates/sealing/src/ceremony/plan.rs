//! What a ceremony is to do: everybody begins with the same bytes, and their digest is the session.

use crate::cbor::{Reader, Writer};
use crate::document::{Digest, Document};
use crate::group::{G1Point, G2Point, Index, MAX_KEYHOLDERS};
use crate::identity::{Keyset, MAX_KEYSET, Tenant};
use crate::params::{MAX_SITE, MAX_SITE_KEYS, SealParams, SiteKey};
use bonafide_crypto::mlkem::PUBLIC;

/// A ceremony that has been agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is done.
    pub kind: Kind,
    /// Digest of the roster that gets the shares.
    pub roster: Digest,
    /// The epoch that the shares will have.
    pub epoch: u64,
    /// Who deals: indices of the roster before, or of the new one if there is none before.
    pub dealers: Vec<Index>,
    /// Makes each attempt one of a kind.
    pub nonce: [u8; 32],
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A new key, for these parameters.
    Generate(Box<Template>),
    /// New shares of the same key for the same roster. The digest is that of the record of the epoch before.
    Refresh(Digest),
    /// New shares of the same key for another roster. The digest is that of the record of the epoch before.
    Reshare(Digest),
}

/// Parameters that lack their key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Whose.
    pub tenant: Tenant,
    /// Which key.
    pub keyset: Keyset,
    /// Which version.
    pub version: u64,
    /// Sealing begins: seconds since 1970.
    pub not_before: u64,
    /// Sealing ends.
    pub not_after: u64,
    /// Digest of the parameters of the version before; zeros for the first.
    pub previous: Digest,
    /// Post-quantum keys of sites.
    pub site_keys: Vec<SiteKey>,
}

impl Plan {
    /// Whether it is a new key, shared for the first time.
    #[must_use]
    pub fn template(&self) -> Option<&Template> {
        match &self.kind {
            Kind::Generate(template) => Some(template),
            Kind::Refresh(_) | Kind::Reshare(_) => None,
        }
    }

    /// The power that a dealer's first commitment belongs to: in a refresh, that of power 0 is left out, so that nobody can deal
    /// anything but zero.
    pub(super) fn first_power(&self) -> u8 {
        u8::from(matches!(self.kind, Kind::Refresh(_)))
    }
}

impl Template {
    /// The parameters, with this key.
    #[must_use]
    pub fn with_key(&self, key: G1Point, key2: G2Point) -> SealParams {
        SealParams {
            tenant: self.tenant,
            keyset: self.keyset.clone(),
            version: self.version,
            key,
            key2,
            not_before: self.not_before,
            not_after: self.not_after,
            previous: self.previous,
            site_keys: self.site_keys.clone(),
        }
    }
}

impl Document for Plan {
    const NAME: &'static str = "ceremony plan";
    const MAX: usize = Template::MAX + 512;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(6);
        match &self.kind {
            Kind::Generate(template) => out.number(1).number(1).number(2).bytes(&template.encode()),
            Kind::Refresh(before) => out.number(1).number(2).number(2).bytes(before),
            Kind::Reshare(before) => out.number(1).number(3).number(2).bytes(before),
        };
        out.number(3).bytes(&self.roster).number(4).number(self.epoch);
        out.number(5).array(self.dealers.len());
        for dealer in &self.dealers {
            out.number(u64::from(dealer.number()));
        }
        out.number(6).bytes(&self.nonce);
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let kind = reader.number()?;
        map.required(&mut reader, 2)?;
        let kind = match kind {
            1 => Kind::Generate(Box::new(Template::decode(reader.bytes(Template::MAX)?).ok()?)),
            2 => Kind::Refresh(*reader.fixed()?),
            3 => Kind::Reshare(*reader.fixed()?),
            _ => return None,
        };
        map.required(&mut reader, 3)?;
        let roster = *reader.fixed()?;
        map.required(&mut reader, 4)?;
        let epoch = reader.number()?;
        map.required(&mut reader, 5)?;
        let dealers = reader.list(usize::from(MAX_KEYHOLDERS), |reader| Index::new(reader.number()?).ok())?;
        map.required(&mut reader, 6)?;
        let nonce = *reader.fixed()?;
        map.end()?;
        reader.finish()?;
        let ordered = !dealers.is_empty() && dealers.is_sorted_by(|a, b| a < b);
        ordered.then_some(Self { kind, roster, epoch, dealers, nonce })
    }
}

impl Document for Template {
    const NAME: &'static str = "template of parameters";
    const MAX: usize = 512 + MAX_SITE_KEYS * (PUBLIC + MAX_SITE + 32);

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(7).number(1).bytes(self.tenant.as_bytes()).number(2).text(self.keyset.as_str());
        out.number(3).number(self.version).number(4).number(self.not_before);
        out.number(5).number(self.not_after).number(6).bytes(&self.previous);
        out.number(7).array(self.site_keys.len());
        for key in &self.site_keys {
            out.array(3).number(key.id).text(&key.site).bytes(key.bytes());
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
        let version = reader.number().filter(|version| *version > 0)?;
        map.required(&mut reader, 4)?;
        let not_before = reader.number()?;
        map.required(&mut reader, 5)?;
        let not_after = reader.number().filter(|end| *end > not_before)?;
        map.required(&mut reader, 6)?;
        let previous = *reader.fixed()?;
        map.required(&mut reader, 7)?;
        let site_keys = reader.list(MAX_SITE_KEYS, SiteKey::read)?;
        map.end()?;
        reader.finish()?;
        let ordered = site_keys.is_sorted_by(|a, b| a.id < b.id);
        ordered.then_some(Self { tenant, keyset, version, not_before, not_after, previous, site_keys })
    }
}
