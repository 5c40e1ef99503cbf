//! Launches, their SVIDs, the pool and the conversation with the authority: one state machine without I/O.
//!
//! Events come in as method calls with the time of the caller's clock; what is to be done comes out as
//! [`Effect`]s, in the order in which it must be done.
//!
//! - A *launch* is one program image in one process. It has one *instance* for each registration that
//!   matches it: a key and a lineage of certificates, never shared with another launch.
//! - A *bin* holds instances of one subject that nobody has yet, drawn ahead so that a launch needs no
//!   authority. A launch takes one, or waits at the bin.
//! - Every instance is drawn through its bin; every request to the authority is one of [`Request`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bonafide_attest::{SelectorSet, registration::Registration};
use bonafide_crypto::key::KeyAlgorithm;
use bonafide_crypto::random::Random;
use bonafide_identity::{InstanceId, SpiffeId, TrustDomain, time::UnixTime};
use bonafide_wire::{
    node::{LeaseEnded, agent_message},
    types::Problem,
};
use serde::{Deserialize, Serialize};

use crate::{
    credential::{Credential, CredentialError, ReadLeaf},
    process::Image,
    refusal::{Refusal, problem},
    view::{RegistrationId, View},
    witness::{Stored, Witness},
};
use claim::{Binding, Claim, Instance, Subject};

mod bins;
pub(crate) mod claim;
mod conversation;
mod launches;
mod renewal;
mod restore;
mod revoked;
mod tainted;
#[cfg(test)]
mod tests;

pub(crate) use conversation::Disconnect;
pub(crate) use launches::{IdentityState, LaunchState};
pub(crate) use restore::{Saved, SavedKey};

/// Requests without an answer at a time, but for JWTs.
const WINDOW: usize = 64;
/// A request without an answer for so long is lost, though the stream is open: it is made again.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// First wait after a failure; it doubles up to [`LAST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(300);
/// A clock that goes back by less than this needs no attention.
const CLOCK_SLACK: Duration = Duration::from_secs(10);
/// Least time between two renewals, whatever the clocks say. Well below half of the shortest lifetime that an authority
/// grants (10 s), or such an SVID would expire before its second renewal.
const RENEWAL_GAP: Duration = Duration::from_secs(3);

/// One program image in one process.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct LaunchKey {
    /// Number of the process.
    pub pid: i32,
    /// What runs in it.
    pub image: Image,
}

/// Bounds and habits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Unassigned SVIDs for each subject.
    pub(crate) pool_size: usize,
    /// Unassigned SVIDs in total.
    pub(crate) pool_limit: usize,
    pub(crate) max_launches: usize,
    /// The kernel gives no pidfd of a peer.
    pub(crate) weak: bool,
    /// Kind of the keys of workloads.
    pub(crate) key: KeyAlgorithm,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Send on the stream, if it is still the same.
    Send(agent_message::Kind),
    /// Store the present state of an instance.
    Save(Box<Saved>),
    /// Forget an instance.
    Forget(InstanceId),
    /// Store registrations and bundle.
    SaveView,
    /// What a launch may hold has changed.
    Launch(LaunchKey),
    /// The agent has what the authority has.
    Current,
    /// Leases of keys are over.
    LeasesEnded(Vec<LeaseEnded>),
    /// An instance is nobody any more, or not for now; its SVID would have been good until then.
    InstanceOver(InstanceId, UnixTime),
    /// It is somebody again.
    InstanceBack(InstanceId),
    /// Policies have changed.
    Policies,
    /// Registrations have changed.
    Registrations,
    /// The bundle has changed.
    Trust,
    /// Revocations have changed.
    Revocations,
    /// A JWT-SVID, or why there is none.
    Jwt(u64, Result<(String, UnixTime), Refusal>),
    /// The agent has a new SVID of its own.
    Node(Arc<Credential>, UnixTime),
    /// Store the checkpoints that are kept; then, and only then, send this.
    Witnessed(agent_message::Kind),
    /// The authority has said nothing since it was asked something, a long time ago: find another one, or this one again.
    Silent,
    /// The authority wants nothing to do with this agent any more.
    Banned(Problem),
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    Bin(u64),
    Instance(InstanceId),
    Node,
    Registration(RegistrationId),
    Report,
    Request(u64),
}

/// The state.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) view: View,
    trust_domain: TrustDomain,
    habits: Habits,
    random: Arc<dyn Random>,
    reader: Arc<dyn ReadLeaf>,
    launches: BTreeMap<LaunchKey, launches::Launch>,
    /// In order, as everything that is gone through here: what is asked first must not hang on chance.
    instances: BTreeMap<InstanceId, Instance>,
    bins: BTreeMap<u64, bins::Bin>,
    bin_of: HashMap<Subject, u64>,
    bins_of: BTreeMap<RegistrationId, BTreeSet<u64>>,
    next_bin: u64,
    /// Unassigned instances, those under way included.
    pooled: usize,
    conversation: conversation::Conversation,
    node: Option<renewal::Node>,
    witness: Witness,
    tainted: tainted::Tainted,
    timers: BTreeSet<(UnixTime, Timer)>,
    /// When something last happened, by the clock of that moment.
    latest: UnixTime,
    banned: Option<Problem>,
    /// Whether this agent or its site was revoked when that was last looked at.
    was_cut_off: bool,
    effects: Vec<Effect>,
}

impl Core {
    pub(crate) fn new(
        trust_domain: TrustDomain,
        habits: Habits,
        random: Arc<dyn Random>,
        reader: Arc<dyn ReadLeaf>,
    ) -> Self {
        Self {
            view: View::new(trust_domain.clone()),
            witness: Witness::new(&trust_domain),
            trust_domain,
            habits,
            random,
            reader,
            launches: BTreeMap::new(),
            instances: BTreeMap::new(),
            bins: BTreeMap::new(),
            bin_of: HashMap::new(),
            bins_of: BTreeMap::new(),
            next_bin: 0,
            pooled: 0,
            conversation: conversation::Conversation::default(),
            node: None,
            tainted: tainted::Tainted::default(),
            timers: BTreeSet::new(),
            latest: UnixTime::EPOCH,
            banned: None,
            was_cut_off: false,
            effects: Vec::new(),
        }
    }

    /// Takes in the checkpoints that were stored before a restart.
    pub(crate) fn restore_witnessed(&mut self, stored: Vec<Stored>) {
        self.witness.restore(stored);
    }

    /// Forgets them: the authority is another one.
    pub(crate) fn forget_witnessed(&mut self) {
        self.witness = Witness::new(&self.trust_domain);
    }

    /// The checkpoints to be stored.
    pub(crate) fn witnessed(&self) -> Vec<Stored> {
        self.witness.to_stored()
    }

    /// What is to be done since this was last asked.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Core::tick`] wants to be called.
    pub(crate) fn next_tick(&self) -> Option<UnixTime> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// It is that late now. To be called before anything else happens, so that nothing is judged by a state that time
    /// has overtaken: a machine may have slept, and a clock may have been set.
    pub(crate) fn observe(&mut self, now: UnixTime) {
        let before = std::mem::replace(&mut self.latest, now);
        if now.saturating_add(CLOCK_SLACK) < before {
            // Waits that began in a future that was taken back would last until it comes.
            self.timers.retain(|(_, timer)| *timer != Timer::Report);
            self.report_again();
            self.postpone_requests(now);
            self.ask_again(now);
            self.pump(now);
        }
        if self.next_tick().is_some_and(|at| at <= now) {
            self.tick(now);
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: UnixTime) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            match self.timers.pop_first() {
                Some((_, Timer::Bin(bin))) => self.demand(bin, now),
                Some((_, Timer::Instance(id))) => self.instance_is_due(id, now),
                Some((_, Timer::Node)) => self.node_is_due(now),
                Some((_, Timer::Report)) => self.report_again(),
                Some((_, Timer::Request(number))) => self.lost(number, now),
                Some((_, Timer::Registration(id))) => self.registration_changed(&id, now),
                None => {}
            }
        }
        self.pump(now);
    }

    /// Whether anything can be answered yet.
    pub(crate) fn check_ready(&self) -> Result<(), Refusal> {
        match &self.banned {
            Some(problem) => Err(Refusal::banned(problem)),
            None if !self.view.is_ready() || self.view.bundle().is_empty() => Err(Refusal::initializing()),
            None => self.check_not_cut_off(),
        }
    }

    pub(crate) fn random(&self) -> &Arc<dyn Random> {
        &self.random
    }

    /// The agent's own SPIFFE ID.
    pub(crate) fn agent_id(&self) -> Option<&SpiffeId> {
        self.node.as_ref().map(|node| node.credential.spiffe_id())
    }

    /// Number of instances that launches have, and of those that nobody has yet.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let bound = self.instances.values().filter(|instance| instance.binding.is_some()).count();
        (bound, self.instances.len() - bound)
    }

    /// Registrations that a process with these selectors has, the default one first.
    pub(crate) fn matches(
        &self,
        selectors: &SelectorSet,
        now: UnixTime,
    ) -> Vec<(RegistrationId, Arc<Registration>)> {
        self.view.matches(selectors, self.agent_id(), now)
    }

    /// A registration is new, different, gone or expired.
    fn registration_changed(&mut self, id: &RegistrationId, now: UnixTime) {
        let hosted = self
            .view
            .get(id)
            .filter(|registration| crate::view::is_hosted(registration, self.agent_id(), now))
            .cloned();
        self.refit_bins(id, hosted.as_deref(), now);
        let concerned: Vec<LaunchKey> = self
            .launches
            .iter()
            .filter(|(_, launch)| {
                let matches =
                    |registration: &Arc<Registration>| registration.selectors.is_subset_of(&launch.selectors);
                launch.slots.contains_key(id) || hosted.as_ref().is_some_and(matches)
            })
            .map(|(key, _)| *key)
            .collect();
        for launch in concerned {
            self.reconcile(launch, now);
        }
        if let Some(at) = hosted.and_then(|registration| registration.expires_at) {
            self.timers.insert((at, Timer::Registration(id.clone())));
        }
    }

    fn apply_changes(&mut self, changes: crate::view::Changes, now: UnixTime) {
        for id in &changes.registrations {
            self.registration_changed(id, now);
        }
        if !changes.registrations.is_empty() {
            self.effects.push(Effect::Registrations);
        }
        if changes.policies {
            self.effects.push(Effect::Policies);
        }
        if changes.bundle {
            self.effects.push(Effect::Trust);
            self.look_for_tainted(now);
        }
        if changes.revocations {
            self.apply_revocations(now);
            self.effects.push(Effect::Revocations);
        }
        self.effects.push(Effect::SaveView);
    }

    /// Ends an instance. One that the authority has not been told of counts as launched and ended.
    fn retire(&mut self, id: InstanceId, now: UnixTime) {
        let Some(instance) = self.instances.remove(&id) else { return };
        self.tainted.forget(id);
        self.effects.push(Effect::InstanceOver(id, instance.credential.not_after()));
        if instance.binding.is_none() {
            self.pooled = self.pooled.saturating_sub(1);
        }
        self.conversation.ended(id, now);
        self.effects.push(Effect::Save(Box::new(Saved::of_ended(&instance, now))));
    }

    fn save(&mut self, id: InstanceId) {
        if let Some(instance) = self.instances.get(&id) {
            self.effects.push(Effect::Save(Box::new(Saved::of(instance))));
        }
    }

    /// When to look at an instance again: to renew it, or to let it go when it expires.
    fn schedule(&mut self, id: InstanceId, now: UnixTime) {
        let Some(instance) = self.instances.get(&id) else { return };
        let end = instance.credential.not_after();
        let due = if instance.is_due(now) {
            instance.renewal.not_before.unwrap_or(end)
        } else {
            instance.renew_after
        };
        let at = if due > now && due < end { due } else { end };
        self.timers.insert((at, Timer::Instance(id)));
    }

    fn instance_is_due(&mut self, id: InstanceId, now: UnixTime) {
        let Some(instance) = self.instances.get(&id) else { return };
        let expired = instance.is_expired(now);
        if self.is_withheld(instance) {
            // It is kept so that its launch gets no other one.
            return;
        }
        match (&instance.binding, expired) {
            (Some(binding), true) => {
                let launch = binding.launch;
                self.retire(id, now);
                self.reconcile(launch, now);
                self.effects.push(Effect::Launch(launch));
            }
            (Some(_), false) => self.want_renewal(id, now),
            (None, expired) => {
                let bin = self.bin_of.get(&instance.claim.subject).copied();
                if expired {
                    self.drop_from_bin(bin, id);
                    self.retire(id, now);
                } else {
                    self.schedule(id, now);
                }
                if let Some(bin) = bin {
                    self.demand(bin, now);
                }
            }
        }
    }

    fn check_issued(
        &self,
        credential: &Credential,
        id: InstanceId,
        claim: &Claim,
        now: UnixTime,
    ) -> Result<(), CredentialError> {
        if credential.spiffe_id() != &claim.subject.spiffe_id {
            return Err(CredentialError::Other { what: "SPIFFE ID" });
        }
        if credential.instance().is_some_and(|named| named != id) {
            return Err(CredentialError::Other { what: "instance" });
        }
        if self.is_revoked(credential, id) {
            return Err(CredentialError::Revoked);
        }
        if credential.not_after() <= now { Err(CredentialError::Expired) } else { Ok(()) }
    }

    /// Binds an instance to a launch, before anybody learns of its key.
    fn bind(&mut self, id: InstanceId, launch: LaunchKey, selectors: &SelectorSet, now: UnixTime) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        self.pooled = self.pooled.saturating_sub(1);
        instance.binding =
            Some(Binding { launch, selectors: selectors.clone(), launched_at: now, reported: false });
        self.conversation.launched(instance);
        self.save(id);
        self.schedule(id, now);
        if self.instances.get(&id).is_some_and(|instance| instance.is_due(now)) {
            self.want_renewal(id, now);
        }
    }
}

fn backoff(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LAST_RETRY)
}

fn issued_unfit(error: &CredentialError) -> Problem {
    problem(error.code(), error, error.hint())
}

/// A queue of jobs with a rank.
#[derive(Debug, Default)]
struct Jobs {
    urgent: VecDeque<u64>,
    renewals: VecDeque<InstanceId>,
    pool: VecDeque<u64>,
}
