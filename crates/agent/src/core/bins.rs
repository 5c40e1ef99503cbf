//! The pool: instances that nobody has yet, and launches that wait for one.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bonafide_attest::{
    SelectorSet,
    registration::{Kind, Registration},
};
use bonafide_crypto::{csr, key::PrivateKey};
use bonafide_identity::{InstanceId, time::UnixTime};
use bonafide_wire::{
    node::{IssueX509, Refused, X509Issued, agent_message},
    types::Problem,
};

use super::{
    Core, Effect, LaunchKey, Timer, WINDOW, backoff,
    claim::{Claim, Instance, Renewal},
    conversation::Request,
    issued_unfit,
};
use crate::{
    convert,
    credential::{Credential, CredentialError},
    view::RegistrationId,
};

/// Bins for identities that rules have made. An entry has one bin, a rule one for each identity that was
/// launched here.
const MAX_RULE_BINS: usize = 256;
/// How long a new launch is spared a question that was answered with no.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Instances of one subject.
#[derive(Debug)]
pub(super) struct Bin {
    pub(super) claim: Arc<Claim>,
    /// Oldest first.
    pub(super) ready: VecDeque<InstanceId>,
    pub(super) waiting: VecDeque<LaunchKey>,
    pub(super) problem: Option<Problem>,
    /// The problem stays until something changes.
    pub(super) is_final: bool,
    drawing: usize,
    failures: u32,
    last_asked: Option<UnixTime>,
    retry_at: Option<UnixTime>,
    queued: bool,
    of_rule: bool,
}

impl Bin {
    fn new(claim: Arc<Claim>, of_rule: bool) -> Self {
        Self {
            claim,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            problem: None,
            is_final: false,
            drawing: 0,
            failures: 0,
            last_asked: None,
            retry_at: None,
            queued: false,
            of_rule,
        }
    }

    /// All queues were emptied.
    pub(super) fn unqueue(&mut self) {
        self.queued = false;
    }
}

impl Core {
    /// Brings the bins of a registration in line with it; `None`: it is gone.
    pub(super) fn refit_bins(&mut self, id: &RegistrationId, hosted: Option<&Registration>, now: UnixTime) {
        for bin in self.bins_of.get(id).cloned().unwrap_or_default() {
            let fits = self.bins.get(&bin).and_then(|bin| {
                let attested = &bin.claim.subject.selectors;
                let claim = Claim::of(hosted?, attested, self.habits.weak).ok()?;
                claim.says_the_same_as(&bin.claim).then_some(claim)
            });
            match (fits, self.bins.get_mut(&bin)) {
                (Some(claim), Some(bin)) => bin.claim = Arc::new(claim),
                _ => self.remove_bin(bin, now),
            }
        }
        if let Some(registration) = hosted
            && matches!(registration.kind, Kind::Entry(_))
            && let Ok(claim) = Claim::of(registration, &SelectorSet::new(), self.habits.weak)
        {
            let bin = self.bin_for(&Arc::new(claim), now);
            self.demand(bin, now);
        }
    }

    /// The bin of a claim. Makes one if there is none.
    pub(super) fn bin_for(&mut self, claim: &Arc<Claim>, now: UnixTime) -> u64 {
        if let Some(bin) = self.bin_of.get(&claim.subject) {
            return *bin;
        }
        let registration = claim.subject.registration.clone();
        let of_rule = self.view.get(&registration).is_some_and(|found| matches!(found.kind, Kind::Rule(_)));
        if of_rule {
            self.make_room_for_rule_bin(now);
        }
        let number = self.next_bin;
        self.next_bin += 1;
        self.bins.insert(number, Bin::new(Arc::clone(claim), of_rule));
        self.bin_of.insert(claim.subject.clone(), number);
        self.bins_of.entry(registration).or_default().insert(number);
        number
    }

    fn make_room_for_rule_bin(&mut self, now: UnixTime) {
        let rule_bins = self.bins.values().filter(|bin| bin.of_rule).count();
        if rule_bins >= MAX_RULE_BINS
            && let Some((oldest, _)) = self.bins.iter().find(|(_, bin)| bin.of_rule && bin.waiting.is_empty())
        {
            let oldest = *oldest;
            self.remove_bin(oldest, now);
        }
    }

    fn remove_bin(&mut self, number: u64, now: UnixTime) {
        let Some(bin) = self.bins.remove(&number) else { return };
        self.bin_of.remove(&bin.claim.subject);
        if let Some(numbers) = self.bins_of.get_mut(&bin.claim.subject.registration) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.bins_of.remove(&bin.claim.subject.registration);
            }
        }
        for id in bin.ready {
            self.retire(id, now);
        }
    }

    pub(super) fn drop_from_bin(&mut self, bin: Option<u64>, id: InstanceId) {
        if let Some(bin) = bin.and_then(|bin| self.bins.get_mut(&bin)) {
            bin.ready.retain(|ready| *ready != id);
        }
    }

    /// Puts an unassigned instance back that was stored before a restart.
    pub(super) fn put_back(&mut self, instance: Instance, now: UnixTime) {
        let bin = self.bin_for(&instance.claim, now);
        if let Some(bin) = self.bins.get_mut(&bin) {
            bin.ready.push_back(instance.id);
        }
        self.pooled += 1;
        let id = instance.id;
        self.instances.insert(id, instance);
        self.schedule(id, now);
    }

    /// Takes one out for a launch: a fresh one, or else one that should be renewed at once.
    pub(super) fn take_ready(&mut self, number: u64, now: UnixTime) -> Option<InstanceId> {
        let instances = &self.instances;
        let bin = self.bins.get_mut(&number)?;
        let usable = |id: &InstanceId, fresh: bool| {
            instances
                .get(id)
                .is_some_and(|instance| !instance.is_expired(now) && (!fresh || !instance.is_due(now)))
        };
        let at = bin.ready.iter().position(|id| usable(id, true));
        let at = at.or_else(|| bin.ready.iter().position(|id| usable(id, false)))?;
        bin.ready.remove(at)
    }

    /// A launch needs an instance and there is none: it asks, unless that was just answered with no.
    pub(super) fn wait_at(&mut self, number: u64, launch: LaunchKey, now: UnixTime) {
        let Some(bin) = self.bins.get_mut(&number) else { return };
        if !bin.waiting.contains(&launch) {
            bin.waiting.push_back(launch);
        }
        if let Some(retry_at) = bin.retry_at {
            let soon = bin.last_asked.map_or(now, |asked| asked.saturating_add(ASK_AGAIN));
            bin.retry_at = Some(retry_at.min(soon));
        }
        self.demand(number, now);
    }

    pub(super) fn stop_waiting(&mut self, claim: &Claim, launch: LaunchKey) {
        if let Some(bin) = self.bin_of.get(&claim.subject).and_then(|bin| self.bins.get_mut(bin)) {
            bin.waiting.retain(|waiting| *waiting != launch);
        }
    }

    /// How many should be asked for.
    fn wanted(&self, bin: &Bin, now: UnixTime) -> usize {
        let fresh = |id: &&InstanceId| self.instances.get(id).is_some_and(|instance| !instance.is_due(now));
        let fresh = bin.ready.iter().filter(fresh).count();
        let room = self.habits.pool_limit.saturating_sub(self.pooled);
        let stock =
            self.habits.pool_size.saturating_sub(fresh + bin.drawing.saturating_sub(bin.waiting.len()));
        bin.waiting.len().saturating_sub(bin.drawing) + stock.min(room)
    }

    /// Looks whether a bin wants to draw, now or later.
    pub(super) fn demand(&mut self, number: u64, now: UnixTime) {
        let Some(bin) = self.bins.get(&number) else { return };
        if bin.queued || self.wanted(bin, now) == 0 {
            return;
        }
        if let Some(retry_at) = bin.retry_at.filter(|at| *at > now) {
            self.timers.insert((retry_at, Timer::Bin(number)));
            return;
        }
        let urgent = !bin.waiting.is_empty();
        if let Some(bin) = self.bins.get_mut(&number) {
            bin.queued = true;
        }
        let jobs = &mut self.conversation.jobs;
        if urgent { jobs.urgent.push_back(number) } else { jobs.pool.push_back(number) }
    }

    /// A bin has lost what it had, together with those of many other agents: it draws again when it is its turn, or when a
    /// launch needs it.
    pub(super) fn draw_later(&mut self, number: u64, at: UnixTime, now: UnixTime) {
        if let Some(bin) = self.bins.get_mut(&number)
            && bin.waiting.is_empty()
        {
            bin.retry_at = bin.retry_at.max(Some(at));
            bin.last_asked = None;
        }
        self.demand(number, now);
    }

    /// All bins may ask again: there is a new stream.
    pub(super) fn demand_all(&mut self, now: UnixTime) {
        for number in self.bins.keys().copied().collect::<Vec<_>>() {
            if let Some(bin) = self.bins.get_mut(&number) {
                bin.retry_at = None;
                bin.queued = false;
            }
            self.demand(number, now);
        }
    }

    /// Sends requests for what a bin wants, as far as the window is open.
    pub(super) fn draw(&mut self, number: u64, now: UnixTime) {
        if let Some(bin) = self.bins.get_mut(&number) {
            bin.queued = false;
        }
        while self.conversation.in_flight() < WINDOW
            && let Some(bin) = self.bins.get(&number)
            && bin.retry_at.is_none_or(|at| at <= now)
            && self.wanted(bin, now) > 0
        {
            let claim = Arc::clone(&bin.claim);
            let Ok(key) = PrivateKey::generate(self.habits.key) else { return };
            let Ok(csr) = csr::build(&key) else { return };
            if let Some(bin) = self.bins.get_mut(&number) {
                bin.drawing += 1;
                bin.last_asked = Some(now);
            }
            self.pooled += 1;
            let message = IssueX509 {
                request: 0,
                registration: claim.subject.registration.to_string(),
                selectors: convert::to_wire(&claim.subject.selectors),
                csr: csr.into(),
            };
            let request = Request::Draw { bin: number, claim, key: Arc::new(key) };
            self.ask(request, now, |request| {
                agent_message::Kind::IssueX509(IssueX509 { request, ..message })
            });
        }
        self.demand(number, now);
    }

    /// The authority has answered, or never will.
    pub(super) fn drawn(
        &mut self,
        number: u64,
        claim: Arc<Claim>,
        key: Arc<PrivateKey>,
        issued: X509Issued,
        now: UnixTime,
    ) {
        self.pooled = self.pooled.saturating_sub(1);
        if let Some(bin) = self.bins.get_mut(&number) {
            bin.drawing = bin.drawing.saturating_sub(1);
        }
        let instance = match self.to_instance(claim, key, issued, now) {
            Ok(instance) => instance,
            Err(error) => return self.bin_failed(number, issued_unfit(&error), None, now),
        };
        let Some(bin) = self.bins.get_mut(&number) else {
            // The registration has changed since it was asked for: nobody will ever have it.
            self.conversation.ended(instance.id, now);
            return self.effects.push(Effect::Save(Box::new(super::Saved::of_ended(&instance, now))));
        };
        bin.failures = 0;
        bin.is_final = false;
        bin.problem = None;
        bin.retry_at = None;
        let id = instance.id;
        bin.ready.push_back(id);
        self.instances.insert(id, instance);
        self.pooled += 1;
        self.tainted_again(id, now);
        self.save(id);
        self.schedule(id, now);
        self.serve_waiting(number, now);
        self.drop_surplus(number, now);
        self.demand(number, now);
    }

    fn to_instance(
        &self,
        claim: Arc<Claim>,
        key: Arc<PrivateKey>,
        issued: X509Issued,
        now: UnixTime,
    ) -> Result<Instance, CredentialError> {
        let id: [u8; 16] = issued.instance.as_ref().try_into().map_err(|_| CredentialError::Malformed)?;
        let id = InstanceId::from_bytes(id);
        let credential = Credential::new(issued.chain, key, &*self.reader)?;
        self.check_issued(&credential, id, &claim, now)?;
        if self.instances.contains_key(&id) {
            return Err(CredentialError::Other { what: "instance" });
        }
        Ok(Instance {
            id,
            claim,
            generation: issued.generation,
            credential: Arc::new(credential),
            renew_after: UnixTime::from_secs(issued.renew_after),
            binding: None,
            successor: None,
            renewal: Renewal::default(),
        })
    }

    pub(super) fn draw_refused(&mut self, number: u64, refused: Refused, now: UnixTime) {
        self.pooled = self.pooled.saturating_sub(1);
        if let Some(bin) = self.bins.get_mut(&number) {
            bin.drawing = bin.drawing.saturating_sub(1);
        }
        let wait = (refused.retry_after > 0).then(|| Duration::from_secs(refused.retry_after.into()));
        if let Some(bin) = self.bins.get_mut(&number) {
            bin.is_final = wait.is_none();
        }
        let wait = wait.unwrap_or(super::LAST_RETRY);
        self.bin_failed(number, refused.problem.unwrap_or_default(), Some(wait), now);
    }

    pub(super) fn draw_lost(&mut self, number: u64) {
        self.pooled = self.pooled.saturating_sub(1);
        if let Some(bin) = self.bins.get_mut(&number) {
            bin.drawing = bin.drawing.saturating_sub(1);
        }
    }

    fn bin_failed(&mut self, number: u64, problem: Problem, wait: Option<Duration>, now: UnixTime) {
        let Some(bin) = self.bins.get_mut(&number) else { return };
        let retry_at = now.saturating_add(wait.unwrap_or_else(|| backoff(bin.failures)));
        bin.failures = bin.failures.saturating_add(1);
        bin.retry_at = Some(retry_at);
        bin.problem = Some(problem);
        for launch in bin.waiting.iter().copied() {
            self.effects.push(Effect::Launch(launch));
        }
        self.timers.insert((retry_at, Timer::Bin(number)));
    }

    /// More than wanted are there once fresh ones have replaced those that got old.
    fn drop_surplus(&mut self, number: u64, now: UnixTime) {
        while let Some(bin) = self.bins.get_mut(&number)
            && bin.ready.len() > self.habits.pool_size
            && let Some(id) = bin.ready.front().copied()
            && self.instances.get(&id).is_none_or(|instance| instance.is_due(now))
        {
            bin.ready.pop_front();
            self.retire(id, now);
        }
    }
}
