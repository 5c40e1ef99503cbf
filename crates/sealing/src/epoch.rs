//! What is public about the shares of one epoch: commitments to their polynomial, signed by every keyholder that has one.
//!
//! These signatures are the *ready certificate* of the ceremony that made the shares: each keyholder signs once its own share is
//! verified and on its disk, and the old one is erased only when all have.

use std::sync::Arc;

use crate::cbor::{Reader, Writer};
use crate::document::{Digest, Document, Signed};
use crate::group::{G1_BYTES, G1Point, Index, MAX_KEYHOLDERS, evaluate_commitments};
use crate::params::TrustedParams;
use crate::roster::TrustedRoster;
use crate::trust::{TrustError, ensure, ensure_signed};

/// The shares of one epoch, as far as everybody may know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// Digest of the parameters whose key is shared.
    pub params: Digest,
    /// Digest of the roster that it is shared among.
    pub roster: Digest,
    /// Which epoch, from 1 on.
    pub epoch: u64,
    /// Hash of the transcript of the ceremony.
    pub transcript: Digest,
    /// Digest of the record of the epoch before; zeros for the first.
    pub previous: Digest,
    /// Commitments to the coefficients of the polynomial: t of them.
    pub commitments: Vec<G1Point>,
    /// The public shares, of index 1 and so on: n of them.
    pub shares: Vec<G1Point>,
}

/// A record that was verified against parameters and roster, with that roster: another epoch may have another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedEpoch(Arc<Parts>);

#[derive(Debug, PartialEq, Eq)]
struct Parts {
    record: EpochRecord,
    digest: Digest,
    roster: TrustedRoster,
}

impl EpochRecord {
    /// The public share of a keyholder.
    #[must_use]
    pub fn share(&self, index: Index) -> Option<&G1Point> {
        self.shares.get(index.place())
    }

    /// How many keyholders open a secret.
    #[must_use]
    pub fn threshold(&self) -> usize {
        self.commitments.len()
    }

    /// The public shares that these commitments make; `None` if one is infinity.
    #[must_use]
    pub fn shares_of(commitments: &[G1Point], count: u8) -> Option<Vec<G1Point>> {
        Index::first(count).map(|index| evaluate_commitments(commitments, 0, index)).collect()
    }
}

impl TrustedEpoch {
    /// A record that every member of the roster has signed, and whose numbers belong to these parameters.
    ///
    /// # Errors
    /// [`TrustError`] otherwise.
    pub fn verify(
        params: &TrustedParams,
        roster: &TrustedRoster,
        signed: &Signed<EpochRecord>,
    ) -> Result<Self, TrustError> {
        let (record, members) = (&signed.body, &roster.roster().members);
        let fits = record.params == *params.digest()
            && record.roster == *roster.digest()
            && params.params().tenant == roster.roster().tenant
            && params.params().keyset == roster.roster().keyset;
        ensure(fits, TrustError::Mismatch(EpochRecord::NAME))?;
        let counts = record.threshold() == usize::from(roster.roster().threshold)
            && record.shares.len() == members.len();
        ensure(counts, TrustError::Inconsistent(EpochRecord::NAME))?;
        let have = signed.count(members.iter().map(|member| &member.key));
        ensure_signed(EpochRecord::NAME, "keyholders", have, members.len())?;
        let right = record.commitments.first() == Some(&params.params().key)
            && EpochRecord::shares_of(&record.commitments, roster.roster().count()).as_ref()
                == Some(&record.shares);
        ensure(right, TrustError::Inconsistent(EpochRecord::NAME))?;
        let parts = Parts { record: record.clone(), digest: record.digest(), roster: roster.clone() };
        Ok(Self(Arc::new(parts)))
    }

    /// What stands in it.
    #[must_use]
    pub fn record(&self) -> &EpochRecord {
        &self.0.record
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// Who has its shares.
    #[must_use]
    pub fn roster(&self) -> &TrustedRoster {
        &self.0.roster
    }
}

impl Document for EpochRecord {
    const NAME: &'static str = "epoch";
    const MAX: usize = 256 + 2 * MAX_KEYHOLDERS as usize * (G1_BYTES + 2);

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(7).number(1).bytes(&self.params).number(2).bytes(&self.roster);
        out.number(3).number(self.epoch).number(4).bytes(&self.transcript);
        out.number(5).bytes(&self.previous).number(6);
        write_points(&mut out, &self.commitments);
        out.number(7);
        write_points(&mut out, &self.shares);
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let params = *reader.fixed()?;
        map.required(&mut reader, 2)?;
        let roster = *reader.fixed()?;
        map.required(&mut reader, 3)?;
        let epoch = reader.number().filter(|epoch| *epoch > 0)?;
        map.required(&mut reader, 4)?;
        let transcript = *reader.fixed()?;
        map.required(&mut reader, 5)?;
        let previous = *reader.fixed()?;
        map.required(&mut reader, 6)?;
        let commitments = read_points(&mut reader)?;
        map.required(&mut reader, 7)?;
        let shares = read_points(&mut reader)?;
        map.end()?;
        reader.finish()?;
        let valid = !commitments.is_empty() && commitments.len() <= shares.len();
        valid.then_some(Self { params, roster, epoch, transcript, previous, commitments, shares })
    }
}

pub(crate) fn write_points(out: &mut Writer, points: &[G1Point]) {
    out.array(points.len());
    for point in points {
        out.bytes(&point.encode());
    }
}

/// At most one for each keyholder.
pub(crate) fn read_points(reader: &mut Reader<'_>) -> Option<Vec<G1Point>> {
    reader.list(usize::from(MAX_KEYHOLDERS), |reader| G1Point::decode(reader.fixed()?).ok())
}
