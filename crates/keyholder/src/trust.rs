//! What a keyholder believes, and since when: owner, rosters, deny-list. Nothing of it comes from an authority.

use std::sync::Arc;

use bonafide_identity::{BundleMap, Certificate, TrustBundle};
use bonafide_sealing::deny::{DenyList, TrustedDenyList};
use bonafide_sealing::document::{Digest, Document as _, Signed};
use bonafide_sealing::owner::{Delegation, Owner, Root};
use bonafide_sealing::roster::{Roster, TrustedRoster};
use bonafide_wire::keyholder as wire;

use crate::error::Refusal;
use crate::generated::worker;

/// The most rosters, one after the other.
const MAX_ROSTERS: usize = 256;

/// Owner, rosters, deny-list.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    root: Option<Root>,
    delegation: Option<Signed<Delegation>>,
    owner: Option<Owner>,
    /// The owner as it was, with delegations that were replaced: what was believed under one of them is believed after a restart.
    former: Vec<(Signed<Delegation>, Owner)>,
    /// With the time at which each was first seen here.
    rosters: Vec<(Signed<Roster>, u64)>,
    /// As many of them as count.
    trusted: Vec<TrustedRoster>,
    deny: Option<(Signed<DenyList>, TrustedDenyList)>,
}

impl Trust {
    pub(crate) fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    /// The newest roster that counts.
    pub(crate) fn roster(&self) -> Option<&TrustedRoster> {
        self.trusted.last()
    }

    /// Those whose members may have something to do with each other: the two newest.
    pub(crate) fn rosters(&self) -> impl Iterator<Item = &Roster> {
        self.trusted.iter().rev().take(2).map(TrustedRoster::roster)
    }

    pub(crate) fn roster_of(&self, digest: &Digest) -> Option<&TrustedRoster> {
        self.trusted.iter().find(|roster| roster.digest() == digest)
    }

    pub(crate) fn deny(&self) -> Option<&TrustedDenyList> {
        self.deny.as_ref().map(|(_, trusted)| trusted)
    }

    /// What chains of callers end in, by trust domain.
    pub(crate) fn bundles(&self) -> Result<BundleMap, Refusal> {
        bundles(self.roster().iter().flat_map(|roster| &roster.roster().anchors).map(Vec::as_slice))
    }

    /// Takes what is new. Says whether anything was.
    pub(crate) fn install(
        &mut self,
        documents: &wire::Documents,
        is_local: bool,
        now: u64,
    ) -> Result<bool, Refusal> {
        let mut changed = self.install_owner(documents, is_local)?;
        let Some(owner) = self.owner.clone() else { return Ok(changed) };
        changed |= self.install_rosters(&owner, documents, is_local, now)?;
        if !documents.deny_list.is_empty() && !self.trusted.is_empty() {
            let signed = Signed::<DenyList>::decode(&documents.deny_list)?;
            let before = self.deny();
            if before.is_none_or(|before| signed.body.serial > before.list().serial) {
                let keyset = self.roster().map(|roster| &roster.roster().keyset);
                if keyset != Some(&signed.body.keyset) {
                    return Err(bonafide_sealing::trust::TrustError::Mismatch(DenyList::NAME).into());
                }
                let trusted = TrustedDenyList::verify(&owner, &signed, before)?;
                self.deny = Some((signed, trusted));
                changed = true;
            }
        }
        Ok(changed)
    }

    fn install_owner(&mut self, documents: &wire::Documents, is_local: bool) -> Result<bool, Refusal> {
        let mut changed = false;
        if self.root.is_none() && is_local && !documents.root.is_empty() {
            self.root = Some(Root::decode(&documents.root)?);
            changed = true;
        } else if is_local && !documents.root.is_empty() {
            let given = Root::decode(&documents.root)?;
            if self.root.as_ref() != Some(&given) {
                return Err(Refusal::new(
                    "keyholder.other-owner",
                    "this keyholder belongs to another owner",
                    "the owner that was given first stays; make a new keyholder for another one",
                ));
            }
        }
        let Some(root) = self.root.as_ref().filter(|_| !documents.delegation.is_empty()) else {
            return Ok(changed);
        };
        let delegation = Signed::<Delegation>::decode(&documents.delegation)?;
        let newer = self.delegation.as_ref().is_none_or(|before| delegation.body.serial > before.body.serial);
        if newer {
            let owner = match &self.owner {
                Some(owner) => owner.renew(&delegation)?,
                None => Owner::new(root.clone(), &delegation)?,
            };
            let (before, old) = (self.owner.replace(owner), self.delegation.replace(delegation));
            self.former.extend(old.zip(before));
            changed = true;
        }
        Ok(changed)
    }

    fn install_rosters(
        &mut self,
        owner: &Owner,
        documents: &wire::Documents,
        is_local: bool,
        now: u64,
    ) -> Result<bool, Refusal> {
        if documents.rosters.len() > MAX_ROSTERS {
            return Err(bonafide_sealing::document::FormatError::TooLong("list of rosters").into());
        }
        // A keyholder that is new has nothing that a delay would protect: its operator says with what it begins.
        let begins = self.rosters.is_empty();
        if begins && !is_local {
            return Ok(false);
        }
        let mut changed = false;
        for roster in &documents.rosters {
            let roster = Signed::<Roster>::decode(roster)?;
            let expected = self.rosters.last().map_or(1, |(last, _)| last.body.serial + 1);
            if roster.body.serial != expected {
                continue;
            }
            self.check_anchors(&roster.body)?;
            // Signatures are looked at before it is kept; only the delay may be missing.
            match self.believe(owner, &roster, if begins { 0 } else { now }, now) {
                Ok(()) | Err(bonafide_sealing::trust::TrustError::NotYetValid(_)) => {}
                Err(error) => return Err(error.into()),
            }
            self.rosters.push((roster, if begins { 0 } else { now }));
            changed = true;
        }
        Ok(changed)
    }

    /// Lets rosters count whose delay is over. Says whether one does now.
    pub(crate) fn ripen(&mut self, now: u64) -> bool {
        let Some(owner) = self.owner.clone() else { return false };
        let before = self.trusted.len();
        for (roster, known_since) in self.rosters.clone().iter().skip(before) {
            if self.believe(&owner, roster, *known_since, now).is_err() {
                break;
            }
        }
        self.trusted.len() > before
    }

    fn believe(
        &mut self,
        owner: &Owner,
        roster: &Signed<Roster>,
        known_since: u64,
        now: u64,
    ) -> Result<(), bonafide_sealing::trust::TrustError> {
        let trusted = match self.trusted.last() {
            None => TrustedRoster::first(owner, roster)?,
            Some(last) => last.succeeded_by(owner, roster, known_since, now)?,
        };
        self.trusted.push(trusted);
        Ok(())
    }

    fn check_anchors(&self, roster: &Roster) -> Result<(), Refusal> {
        roster.anchors.iter().try_for_each(|der| anchor(der).map(drop))
    }

    pub(crate) fn documents(&self) -> wire::Documents {
        wire::Documents {
            root: self.root.as_ref().map(|root| root.encode().into()).unwrap_or_default(),
            delegation: self.delegation.as_ref().map(|signed| signed.encode().into()).unwrap_or_default(),
            rosters: self.rosters.iter().map(|(roster, _)| roster.encode().into()).collect(),
            deny_list: self.deny.as_ref().map(|(signed, _)| signed.encode().into()).unwrap_or_default(),
            versions: Vec::new(),
        }
    }

    pub(crate) fn save(&self, state: &mut worker::State) {
        let documents = self.documents();
        (state.root, state.delegation) = (documents.root, documents.delegation);
        state.deny_list = documents.deny_list;
        state.rosters = self
            .rosters
            .iter()
            .map(|(roster, known_since)| worker::KnownRoster {
                roster: roster.encode().into(),
                known_since: *known_since,
            })
            .collect();
        state.former = self.former.iter().map(|(delegation, _)| delegation.encode().into()).collect();
    }

    /// Everybody that the owner has been, the newest first.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owner.iter().chain(self.former.iter().rev().map(|(_, owner)| owner))
    }

    /// Once more from what was kept. Everything is verified again.
    pub(crate) fn load(state: &worker::State, now: u64) -> Result<Self, Refusal> {
        let mut this = Self::default();
        for delegation in state.former.iter().chain([&state.delegation]) {
            let (root, delegation) = (state.root.clone(), delegation.clone());
            let owner = wire::Documents { root, delegation, ..wire::Documents::default() };
            this.install_owner(&owner, true)?;
        }
        for known in &state.rosters {
            this.rosters.push((Signed::decode(&known.roster)?, known.known_since));
        }
        let owners: Vec<Owner> = this.owners().cloned().collect();
        for (roster, known_since) in this.rosters.clone() {
            if !owners.iter().any(|owner| this.believe(owner, &roster, known_since, now).is_ok()) {
                break;
            }
        }
        if !state.deny_list.is_empty() {
            let signed = Signed::<DenyList>::decode(&state.deny_list)?;
            let trusted = owners.iter().find_map(|owner| TrustedDenyList::verify(owner, &signed, None).ok());
            this.deny = trusted.map(|trusted| (signed, trusted));
        }
        Ok(this)
    }
}

/// Anchors, by trust domain.
pub(crate) fn bundles<'a>(anchors: impl IntoIterator<Item = &'a [u8]>) -> Result<BundleMap, Refusal> {
    let mut bundles = BundleMap::new();
    for der in anchors {
        let (trust_domain, anchor) = anchor(der)?;
        let bundle = bundles.get(&trust_domain).map(|bundle| TrustBundle::clone(bundle));
        let bundle = bundle.unwrap_or_else(|| TrustBundle::new(trust_domain));
        bundles.insert(Arc::new(bundle.with_x509_authority(anchor)));
    }
    Ok(bundles)
}

fn anchor(der: &[u8]) -> Result<(bonafide_identity::TrustDomain, Certificate), Refusal> {
    let unfit = |why: String| {
        Refusal::new(
            "keyholder.anchor",
            format!("an anchor of the roster can't be one: {why}"),
            "put root certificates with the URI of their trust domain into the roster",
        )
    };
    let certificate = Certificate::from_der(der).map_err(|error| unfit(error.to_string()))?;
    let id = certificate.spiffe_id().ok_or_else(|| unfit("it has no SPIFFE ID".to_owned()))?;
    Ok((id.trust_domain().clone(), certificate.clone()))
}
