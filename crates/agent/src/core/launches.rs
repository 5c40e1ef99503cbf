//! Which launch holds which instances.

use std::{collections::BTreeMap, sync::Arc};

use bonafide_attest::{SelectorSet, registration::Registration};
use bonafide_identity::{InstanceId, SpiffeId, time::UnixTime};
use bonafide_wire::types::Problem;

use super::{Core, Effect, LaunchKey, claim::Claim};
use crate::{
    credential::Credential,
    refusal::{Refusal, problem},
    view::RegistrationId,
};

/// Every launch has this selector: the agent attests it by itself.
const UID: &str = "unix.uid";

/// One launch, and what it has for each registration that matches it.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) selectors: SelectorSet,
    pub(super) slots: BTreeMap<RegistrationId, Slot>,
}

#[derive(Debug)]
pub(super) enum Slot {
    Held(InstanceId),
    Waiting(Arc<Claim>),
    /// A rule that can't make an ID of these facts.
    Impossible(Problem),
    /// The instance was revoked, so this launch gets no other one.
    Revoked(InstanceId, Problem),
}

/// What a launch may be given now.
#[derive(Clone, Debug)]
pub(crate) enum LaunchState {
    /// It has no registration (any more), or has ended.
    Gone,
    /// Everything is there, or all that ever will be for now. At least one SVID.
    Ready(Vec<IdentityState>),
    /// Some is on its way; what is there already.
    Waiting(Vec<IdentityState>),
    /// The authority refused everything.
    Refused(Problem),
}

/// One identity of a launch.
#[derive(Clone, Debug)]
pub(crate) struct IdentityState {
    pub(crate) registration: Arc<Registration>,
    pub(crate) spiffe_id: Option<SpiffeId>,
    pub(crate) selectors: SelectorSet,
    pub(crate) held: Option<HeldState>,
    pub(crate) problem: Option<Problem>,
    /// Nothing will come as long as nothing changes.
    pub(crate) is_refused: bool,
    /// Its instance was revoked, and the launch gets no other one, nor tokens.
    pub(crate) is_withheld: bool,
}

/// The SVID of one identity.
#[derive(Clone, Debug)]
pub(crate) struct HeldState {
    pub(crate) instance: InstanceId,
    pub(crate) generation: u64,
    pub(crate) credential: Arc<Credential>,
    pub(crate) renew_after: UnixTime,
}

impl Core {
    /// A process asks for SVIDs. Whatever else had its number has ended, or was replaced by `execve`.
    pub(crate) fn attach(
        &mut self,
        key: LaunchKey,
        selectors: SelectorSet,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        self.check_ready()?;
        let others: Vec<LaunchKey> = self.same_number(key.pid).filter(|other| *other != key).collect();
        for other in others {
            self.ended(other, now);
        }
        let known = self.launches.contains_key(&key);
        if self.matches(&selectors, now).is_empty() {
            if known {
                self.set_selectors(key, selectors);
                self.reconcile(key, now);
            }
            return Err(Refusal::no_registration());
        }
        if !known {
            self.check_room(&selectors)?;
        }
        self.launches
            .entry(key)
            .or_insert_with(|| Launch { selectors: SelectorSet::new(), slots: BTreeMap::new() });
        self.set_selectors(key, selectors);
        self.reconcile(key, now);
        self.pump(now);
        Ok(())
    }

    /// Whether there is room for one more launch. One user gets half of it at most.
    fn check_room(&self, selectors: &SelectorSet) -> Result<(), Refusal> {
        let most = self.habits.max_launches;
        if self.launches.len() >= most {
            return Err(Refusal::too_many("launches with an identity on this node", most));
        }
        let share = most.div_ceil(2);
        // Below that, nobody can have more than the share.
        if self.launches.len() >= share {
            let same_user = |launch: &&Launch| launch.selectors.values(UID).eq(selectors.values(UID));
            if self.launches.values().filter(same_user).count() >= share {
                return Err(Refusal::too_many("launches of one user with an identity on this node", share));
            }
        }
        Ok(())
    }

    /// A process has ended.
    pub(crate) fn ended(&mut self, key: LaunchKey, now: UnixTime) {
        let Some(launch) = self.launches.remove(&key) else { return };
        for (_, slot) in launch.slots {
            self.vacate(key, slot, now);
        }
        self.effects.push(Effect::Launch(key));
        self.pump(now);
    }

    /// Launches that the core knows of.
    pub(crate) fn launches(&self) -> impl Iterator<Item = LaunchKey> {
        self.launches.keys().copied()
    }

    pub(crate) fn has_launch(&self, key: &LaunchKey) -> bool {
        self.launches.contains_key(key)
    }

    /// What a launch may be given now.
    pub(crate) fn launch_state(&self, key: &LaunchKey) -> LaunchState {
        let identities = self.identities(key);
        if identities.is_empty() {
            return LaunchState::Gone;
        }
        let open = |identity: &IdentityState| identity.held.is_none() && !identity.is_refused;
        if identities.iter().any(open) {
            return LaunchState::Waiting(identities);
        }
        if identities.iter().all(|identity| identity.held.is_none()) {
            let problem = identities.into_iter().find_map(|identity| identity.problem);
            return LaunchState::Refused(problem.unwrap_or_default());
        }
        LaunchState::Ready(identities)
    }

    /// Every identity of a launch, the default one first.
    pub(crate) fn identities(&self, key: &LaunchKey) -> Vec<IdentityState> {
        let Some(launch) = self.launches.get(key) else { return Vec::new() };
        let mut identities: Vec<_> =
            launch.slots.iter().filter_map(|(id, slot)| self.identity(self.view.get(id)?, slot)).collect();
        identities.sort_by(|left, right| {
            let rank = |identity: &IdentityState| {
                (identity.registration.created_at, identity.registration.id.clone())
            };
            rank(left).cmp(&rank(right))
        });
        identities
    }

    fn identity(&self, registration: &Arc<Registration>, slot: &Slot) -> Option<IdentityState> {
        let registration = Arc::clone(registration);
        let state = |claim: &Claim, held, problem, is_refused| IdentityState {
            registration: Arc::clone(&registration),
            spiffe_id: Some(claim.subject.spiffe_id.clone()),
            selectors: claim.subject.selectors.clone(),
            held,
            problem,
            is_refused,
            is_withheld: false,
        };
        Some(match slot {
            Slot::Held(id) => {
                let instance = self.instances.get(id)?;
                let held = HeldState {
                    instance: *id,
                    generation: instance.generation,
                    credential: Arc::clone(&instance.credential),
                    renew_after: instance.renew_after,
                };
                state(&instance.claim, Some(held), instance.renewal.problem.clone(), false)
            }
            Slot::Waiting(claim) => {
                let bin = self.bin_of.get(&claim.subject).and_then(|bin| self.bins.get(bin));
                let is_refused = bin.is_some_and(|bin| bin.is_final);
                state(claim, None, bin.and_then(|bin| bin.problem.clone()), is_refused)
            }
            Slot::Revoked(id, problem) => {
                let instance = self.instances.get(id)?;
                let refused = state(&instance.claim, None, Some(problem.clone()), true);
                IdentityState { is_withheld: true, ..refused }
            }
            Slot::Impossible(problem) => IdentityState {
                registration,
                spiffe_id: None,
                selectors: SelectorSet::new(),
                held: None,
                problem: Some(problem.clone()),
                is_refused: true,
                is_withheld: false,
            },
        })
    }

    /// Brings what a launch holds in line with what matches it.
    pub(super) fn reconcile(&mut self, key: LaunchKey, now: UnixTime) {
        let Some(launch) = self.launches.get_mut(&key) else { return };
        let selectors = launch.selectors.clone();
        let mut before = std::mem::take(&mut launch.slots);
        let mut after = BTreeMap::new();
        let mut changed = false;
        for (id, registration) in self.matches(&selectors, now) {
            let slot = before.remove(&id);
            let (slot, differs) = match Claim::of(&registration, &selectors, self.habits.weak) {
                Ok(claim) => self.refit(key, &selectors, slot, Arc::new(claim), now),
                Err(error) => {
                    if let Some(slot) = slot {
                        self.vacate(key, slot, now);
                    }
                    (Slot::Impossible(problem(error.code(), &error, error.hint())), true)
                }
            };
            changed |= differs;
            after.insert(id, slot);
        }
        changed |= !before.is_empty();
        for slot in before.into_values() {
            self.vacate(key, slot, now);
        }
        if after.is_empty() {
            self.launches.remove(&key);
        } else if let Some(launch) = self.launches.get_mut(&key) {
            launch.slots = after;
        }
        if changed {
            self.effects.push(Effect::Launch(key));
        }
    }

    /// The slot for a claim, from the slot that there was. Says whether a client would see a difference.
    fn refit(
        &mut self,
        key: LaunchKey,
        selectors: &SelectorSet,
        slot: Option<Slot>,
        claim: Arc<Claim>,
        now: UnixTime,
    ) -> (Slot, bool) {
        match slot {
            Some(Slot::Revoked(id, problem)) => (Slot::Revoked(id, problem), false),
            Some(Slot::Held(id)) => {
                if let Some(instance) = self.instances.get_mut(&id)
                    && instance.claim.subject == claim.subject
                {
                    let same = instance.claim.says_the_same_as(&claim);
                    // A hint is not in the SVID, but beside it.
                    let differs = instance.claim.revision != claim.revision;
                    instance.claim = claim;
                    if !same {
                        // The successor says what the registration says now.
                        instance.renew_after = now;
                        instance.renewal.not_before = Some(now);
                        self.want_renewal(id, now);
                    }
                    if differs {
                        self.save(id);
                    }
                    return (Slot::Held(id), differs);
                }
                self.retire(id, now);
                (self.fill(key, selectors, claim, now), true)
            }
            Some(Slot::Waiting(before))
                if before.says_the_same_as(&claim) && self.bin_of.contains_key(&claim.subject) =>
            {
                let bin = self.bin_for(&claim, now);
                self.wait_at(bin, key, now);
                (Slot::Waiting(claim), false)
            }
            Some(slot) => {
                self.vacate(key, slot, now);
                (self.fill(key, selectors, claim, now), true)
            }
            None => (self.fill(key, selectors, claim, now), true),
        }
    }

    fn fill(&mut self, key: LaunchKey, selectors: &SelectorSet, claim: Arc<Claim>, now: UnixTime) -> Slot {
        let bin = self.bin_for(&claim, now);
        if let Some(id) = self.take_ready(bin, now) {
            self.stop_waiting(&claim, key);
            self.bind(id, key, selectors, now);
            self.demand(bin, now);
            return Slot::Held(id);
        }
        self.wait_at(bin, key, now);
        Slot::Waiting(claim)
    }

    pub(super) fn vacate(&mut self, key: LaunchKey, slot: Slot, now: UnixTime) {
        match slot {
            Slot::Held(id) => {
                if let Some(claim) = self.instances.get(&id).map(|instance| Arc::clone(&instance.claim)) {
                    self.stop_waiting(&claim, key);
                }
                self.retire(id, now);
            }
            Slot::Waiting(claim) => self.stop_waiting(&claim, key),
            Slot::Revoked(id, _) => self.retire(id, now),
            Slot::Impossible(_) => {}
        }
    }

    /// Gives what a bin has to those who wait, first come, first served.
    pub(super) fn serve_waiting(&mut self, number: u64, now: UnixTime) {
        while let Some(key) = self.bins.get(&number).and_then(|bin| bin.waiting.front().copied()) {
            let Some(registration) = self.bins.get(&number).map(|bin| bin.claim.subject.registration.clone())
            else {
                return;
            };
            let launch = self.launches.get(&key).map(|launch| launch.selectors.clone());
            if let Some(selectors) = launch {
                let Some(id) = self.take_ready(number, now) else { return };
                self.bind(id, key, &selectors, now);
                let before = self
                    .launches
                    .get_mut(&key)
                    .and_then(|launch| launch.slots.insert(registration, Slot::Held(id)));
                if let Some(Slot::Held(replaced)) = before {
                    self.retire(replaced, now);
                }
                self.effects.push(Effect::Launch(key));
            }
            if let Some(bin) = self.bins.get_mut(&number) {
                bin.waiting.pop_front();
            }
        }
    }

    fn set_selectors(&mut self, key: LaunchKey, selectors: SelectorSet) {
        if let Some(launch) = self.launches.get_mut(&key) {
            launch.selectors = selectors;
        }
    }

    fn same_number(&self, pid: i32) -> impl Iterator<Item = LaunchKey> {
        let after = self.launches.range(lowest(pid)..);
        after.map(|(key, _)| *key).take_while(move |key| key.pid == pid)
    }
}

fn lowest(pid: i32) -> LaunchKey {
    let image = crate::process::Image { start_time: 0, exe_device: 0, exe_inode: 0, layout: [0; 5] };
    LaunchKey { pid, image }
}
