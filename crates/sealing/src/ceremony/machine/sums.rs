//! What everybody can compute from what everybody has seen.

use super::Ceremony;
use crate::ceremony::message::Content;
use crate::ceremony::plan::Kind;
use crate::ceremony::{Abort, AbortReason, Party};
use crate::document::Document as _;
use crate::epoch::EpochRecord;
use crate::group::{G1Point, G2Point, Index, Scalar, evaluate_commitments, lagrange_at_zero};
use crate::params::SealParams;

impl Ceremony {
    /// Whether each dealer deals what it must.
    pub(super) fn check_deals(&self) -> Result<(), Abort> {
        let threshold = usize::from(self.roster.roster().threshold);
        let factors = lagrange_at_zero(&self.plan.dealers).ok();
        for (place, (index, message)) in self.deals.iter().enumerate() {
            let Content::Deal { commitments, possession } = &message.content else { continue };
            let expected = threshold - usize::from(self.plan.first_power());
            let first = commitments.first();
            let right = match (&self.plan.kind, possession) {
                (Kind::Generate(_), Some(possession)) => {
                    first.is_some_and(|first| possession.holds(&self.session, *index, first))
                }
                (Kind::Refresh(_), None) => true,
                (Kind::Reshare(_), None) => {
                    let share = self.before.as_ref().and_then(|(_, epoch)| epoch.record().share(*index));
                    let factor = factors.as_ref().and_then(|factors| factors.get(place));
                    let due = share.zip(factor).and_then(|(share, factor)| share.times(factor));
                    due.is_some() && first == due.as_ref()
                }
                _ => false,
            };
            if commitments.len() != expected || !right {
                let named = vec![Party::Dealer(*index)];
                return Err(Abort { reason: AbortReason::InvalidDeal, named });
            }
        }
        Ok(())
    }

    /// Parameters and record, from what everybody has seen.
    pub(super) fn compute(&self) -> Option<(SealParams, EpochRecord)> {
        let (mut columns, mut seconds) = (Vec::new(), Vec::new());
        for message in self.deals.values() {
            let Content::Deal { commitments, possession } = &message.content else { return None };
            columns.push(commitments);
            seconds.extend(possession.as_ref().map(|possession| possession.second));
        }
        let old = self.before.as_ref().map(|(_, epoch)| epoch.record());
        let first = usize::from(self.plan.first_power());
        let mut commitments = Vec::new();
        for power in 0..usize::from(self.roster.roster().threshold) {
            let dealt = power.checked_sub(first);
            let dealt = columns.iter().filter_map(|column| column.get(dealt?));
            // A refresh adds to what there is.
            let kept = old.filter(|_| first == 1).and_then(|old| old.commitments.get(power));
            commitments.push(G1Point::sum(dealt.chain(kept))?);
        }
        let key = *commitments.first()?;
        let (params, previous) = match (&self.before, self.plan.template()) {
            (None, Some(template)) => (template.with_key(key, G2Point::sum(&seconds)?), [0; 32]),
            (Some((params, epoch)), None) => (params.params().clone(), *epoch.digest()),
            _ => return None,
        };
        if params.key != key {
            return None;
        }
        let shares = EpochRecord::shares_of(&commitments, self.roster.roster().count())?;
        let record = EpochRecord {
            params: params.digest(),
            roster: *self.roster.digest(),
            epoch: self.plan.epoch,
            transcript: self.transcript?,
            previous,
            commitments,
            shares,
        };
        Some((params, record))
    }

    /// Whether this is what the dealer's commitments promise to the receiver.
    pub(super) fn is_dealt(&self, dealer: Index, receiver: Index, share: &Scalar) -> bool {
        let Some(Content::Deal { commitments, .. }) = self.deals.get(&dealer).map(|deal| &deal.content)
        else {
            return false;
        };
        let promised = evaluate_commitments(commitments, self.plan.first_power(), receiver);
        G1Point::generator().times(share) == promised
    }
}
