//! What the authority has revoked, as far as it concerns this node.
//!
//! - An instance: its launch gets nothing under that registration any more, until it ends. If the revocation is taken
//!   back while the instance is valid, the launch has it again.
//! - An ID: what was issued under it before the revocation is dropped; launches get another instance if their
//!   registration still stands.
//! - This agent or its site: nobody is served, and nothing is dropped: a quarantine may be lifted.

use std::sync::Arc;

use bonafide_identity::{InstanceId, reserved, revocation::Subject, time::UnixTime};
use bonafide_wire::types::Problem;

use super::{Core, Effect, claim::Instance, launches::Slot};
use crate::{
    credential::Credential,
    refusal::{Refusal, problem},
};

const HINT: &str = "ask whoever runs the authority; `bonafide revoke list` says when and why";

impl Core {
    /// Something was revoked, or is no longer revoked.
    pub(super) fn apply_revocations(&mut self, now: UnixTime) {
        // What waits in bins first: a launch that gets another instance must not get a revoked one.
        let (bound, pooled): (Vec<_>, Vec<_>) = self
            .instances
            .values()
            .map(|instance| (instance.id, instance.binding.is_some()))
            .partition(|(_, bound)| *bound);
        for (id, _) in pooled {
            if self.instances.get(&id).is_some_and(|instance| self.revoked(instance).is_some()) {
                let bin =
                    self.instances.get(&id).and_then(|instance| self.bin_of.get(&instance.claim.subject));
                let bin = bin.copied();
                self.drop_from_bin(bin, id);
                self.retire(id, now);
                if let Some(bin) = bin {
                    self.demand(bin, now);
                }
            }
        }
        for (id, _) in bound {
            let Some(instance) = self.instances.get(&id) else { continue };
            match self.revoked(instance) {
                Some(subject @ Subject::Instance(_)) => self.withhold(id, &subject),
                Some(_) => self.exchange(id, now),
                None => self.give_back(id, now),
            }
        }
        let cut_off = self.cut_off().is_some();
        if std::mem::replace(&mut self.was_cut_off, cut_off) != cut_off {
            self.effects.extend(self.launches.keys().copied().map(Effect::Launch));
            self.effects.push(Effect::Registrations);
            if !cut_off {
                // The authority has refused everything for good meanwhile; now it would not.
                self.ask_again(now);
            }
        }
        self.pump(now);
    }

    /// Why nobody is served: this agent, or its site, was revoked.
    pub(super) fn check_not_cut_off(&self) -> Result<(), Refusal> {
        match self.cut_off() {
            None => Ok(()),
            Some(subject @ Subject::Site(_)) => Err(Refusal::revoked("agent.site-quarantined", &subject)),
            Some(subject) => Err(Refusal::revoked("agent.revoked", &subject)),
        }
    }

    /// Whether an issued SVID is revoked before it was ever used.
    pub(super) fn is_revoked(&self, credential: &Credential, id: InstanceId) -> bool {
        let set = self.view.revocations();
        set.of_token(credential.spiffe_id(), Some(id), Some(credential.not_before())).is_some()
    }

    /// Whether an instance is withheld from its launch.
    pub(super) fn is_withheld(&self, instance: &Instance) -> bool {
        let Some(binding) = &instance.binding else { return false };
        let slot = self
            .launches
            .get(&binding.launch)
            .and_then(|launch| launch.slots.get(&instance.claim.subject.registration));
        matches!(slot, Some(Slot::Revoked(id, _)) if *id == instance.id)
    }

    fn cut_off(&self) -> Option<Subject> {
        let set = self.view.revocations();
        let agent = self.agent_id().filter(|_| !set.is_empty())?;
        let site = reserved::agent_site(agent).map(|site| Subject::Site(site.into()));
        [Subject::Agent(agent.clone())].into_iter().chain(site).find(|subject| set.get(subject).is_some())
    }

    fn revoked(&self, instance: &Instance) -> Option<Subject> {
        let credential = &instance.credential;
        let set = self.view.revocations();
        set.of_token(credential.spiffe_id(), Some(instance.id), Some(credential.not_before()))
    }

    /// The launch keeps the place, and gets nothing there any more.
    fn withhold(&mut self, id: InstanceId, subject: &Subject) {
        let Some(instance) = self.instances.get(&id) else { return };
        let Some(binding) = &instance.binding else { return };
        let (launch, claim) = (binding.launch, Arc::clone(&instance.claim));
        let Some(slot) = self
            .launches
            .get_mut(&launch)
            .and_then(|launch| launch.slots.get_mut(&claim.subject.registration))
        else {
            return;
        };
        if !matches!(slot, Slot::Held(held) if *held == id) {
            return;
        }
        tracing::warn!(instance = %id, spiffe_id = %claim.subject.spiffe_id, "an instance of this node was revoked");
        *slot = Slot::Revoked(id, told("agent.instance-revoked", subject));
        self.effects.push(Effect::InstanceOver(id, instance.credential.not_after()));
        self.stop_waiting(&claim, launch);
        self.effects.push(Effect::Launch(launch));
    }

    /// The revocation was taken back. One that has expired meanwhile was not taken back, but is over.
    fn give_back(&mut self, id: InstanceId, now: UnixTime) {
        let Some(instance) = self.instances.get(&id).filter(|instance| !instance.is_expired(now)) else {
            return;
        };
        if !self.is_withheld(instance) {
            return;
        }
        let Some(launch) = instance.binding.as_ref().map(|binding| binding.launch) else { return };
        let registration = instance.claim.subject.registration.clone();
        if let Some(slot) =
            self.launches.get_mut(&launch).and_then(|launch| launch.slots.get_mut(&registration))
        {
            *slot = Slot::Held(id);
        }
        self.effects.push(Effect::InstanceBack(id));
        self.schedule(id, now);
        // Its time may have come while it was withheld.
        if self.instances.get(&id).is_some_and(|instance| instance.is_due(now)) {
            self.want_renewal(id, now);
        }
        self.effects.push(Effect::Launch(launch));
    }

    /// The launch gets another instance in the place of this one.
    fn exchange(&mut self, id: InstanceId, now: UnixTime) {
        let Some(instance) = self.instances.get(&id) else { return };
        let Some(launch) = instance.binding.as_ref().map(|binding| binding.launch) else { return };
        let registration = instance.claim.subject.registration.clone();
        if let Some(slots) = self.launches.get_mut(&launch).map(|launch| &mut launch.slots)
            && let Some(slot) = slots.remove(&registration)
        {
            self.vacate(launch, slot, now);
        }
        self.reconcile(launch, now);
    }
}

fn told(code: &str, subject: &Subject) -> Problem {
    problem(code, format_args!("the {subject} of the caller was revoked by the authority"), HINT)
}
