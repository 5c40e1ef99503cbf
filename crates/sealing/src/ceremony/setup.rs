//! What a ceremony begins with, and whether it all belongs together.

use std::sync::Arc;

use bonafide_crypto::random::Random;

use super::CeremonyError;
use super::plan::{Kind, Plan};
use crate::document::{Digest, Document as _};
use crate::epoch::TrustedEpoch;
use crate::group::{Index, Scalar, lagrange_at_zero};
use crate::params::TrustedParams;
use crate::roster::TrustedRoster;
use crate::share::Share;

/// What a ceremony begins with.
#[derive(Debug)]
pub struct Setup<'a> {
    /// What everybody has agreed on.
    pub plan: Plan,
    /// The roster that gets the shares.
    pub roster: TrustedRoster,
    /// What there is already; nothing for a new key.
    pub before: Option<Before<'a>>,
    /// The highest epoch that this keyholder has ever stored a share for, of this key; 0 if none.
    pub floor: u64,
}

/// The epoch before.
#[derive(Debug)]
pub struct Before<'a> {
    /// Its roster.
    pub roster: TrustedRoster,
    /// The parameters, whose key stays.
    pub params: TrustedParams,
    /// Its record.
    pub epoch: TrustedEpoch,
    /// The share of this party, if it has one.
    pub share: Option<&'a Share>,
}

/// What a dealer deals.
pub(super) fn dealt(
    plan: &Plan,
    index: Index,
    share: Option<&Share>,
    random: &Arc<dyn Random>,
) -> Result<Scalar, CeremonyError> {
    match &plan.kind {
        Kind::Generate(_) => Ok(Scalar::random(random.as_ref())),
        Kind::Refresh(_) => Ok(Scalar::zero()),
        Kind::Reshare(_) => {
            let share = share.ok_or(CeremonyError::NoShare)?;
            let factors = lagrange_at_zero(&plan.dealers)?;
            let place = plan.dealers.iter().position(|dealer| *dealer == index);
            let factor = place.and_then(|place| factors.get(place)).ok_or(CeremonyError::Plan)?;
            Ok(share.secret()?.times(factor))
        }
    }
}

pub(super) fn check(setup: &Setup<'_>) -> Result<(), CeremonyError> {
    let Setup { plan, roster, before, floor } = setup;
    let all: Vec<Index> = roster.roster().indices().collect();
    let decodes = Plan::decode(&plan.encode()).is_ok();
    let fits = plan.roster == *roster.digest() && plan.epoch > *floor && decodes;
    let belongs = match (&plan.kind, before) {
        (Kind::Generate(template), None) => {
            template.tenant == roster.roster().tenant
                && template.keyset == roster.roster().keyset
                && plan.dealers == all
        }
        (Kind::Refresh(digest), Some(before)) => {
            is_before(before, plan, roster, digest) && before.roster == *roster && plan.dealers == all
        }
        (Kind::Reshare(digest), Some(before)) => {
            let members = usize::from(before.roster.roster().count());
            is_before(before, plan, roster, digest)
                && plan.dealers.len() >= before.epoch.record().threshold()
                && plan.dealers.iter().all(|dealer| dealer.place() < members)
        }
        _ => false,
    };
    if fits && belongs { Ok(()) } else { Err(CeremonyError::Plan) }
}

fn is_before(before: &Before<'_>, plan: &Plan, roster: &TrustedRoster, digest: &Digest) -> bool {
    let record = before.epoch.record();
    let share_fits = before.share.is_none_or(|share| {
        share.name().epoch == record.epoch && Some(share.public()) == record.share(share.name().index)
    });
    before.epoch.digest() == digest
        && record.params == *before.params.digest()
        && record.roster == *before.roster.digest()
        && before.roster.roster().tenant == roster.roster().tenant
        && before.roster.roster().keyset == roster.roster().keyset
        && plan.epoch > record.epoch
        && share_fits
}
