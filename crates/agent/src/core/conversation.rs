//! The stream to the authority: requests and answers, and what is still to be told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bonafide_crypto::key::PrivateKey;
use bonafide_identity::{InstanceId, time::UnixTime};
use bonafide_ledger::Cosignature;
use bonafide_wire::node::{
    AuthorityMessage, Checkpoint, Cosigned, End, Hello, IssueJwt, Report, agent_message, authority_message,
};
use bonafide_wire::types::Problem;
use bytes::Bytes;
use prost::Message as _;

use super::{
    ANSWER_TIME, Core, Effect, Jobs, Timer, WINDOW,
    claim::{Claim, Instance},
};
use crate::{
    convert,
    credential::Credential,
    refusal::{Refusal, problem},
    view::{RegistrationId, Violation},
    witness::Contradiction,
};

/// JWT-SVIDs that are asked for at a time.
const MAX_JWTS: usize = 1024;
/// Launches and ends in one report, each.
const REPORT: usize = 256;
/// Launches in one report, in bytes. The authority takes messages of 1 MiB.
const REPORT_BYTES: usize = 512 * 1024;

/// What is under way, and what still has to be said.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// A stream is open.
    connected: bool,
    /// Which server has proved to be at the other end of it.
    server: String,
    /// What the stream was opened with: the authority knows its key.
    cosigner: Option<Arc<Credential>>,
    /// The authority has told where it stands on this stream.
    pub(super) synced: bool,
    /// With the time at which each is lost.
    requests: BTreeMap<u64, (UnixTime, Request)>,
    last_request: u64,
    /// When the authority has said something last.
    heard_at: Option<UnixTime>,
    /// When it was last known that the agent has what the authority has.
    current_at: Option<UnixTime>,
    jwts: usize,
    pub(super) jobs: Jobs,
    launches: BTreeMap<InstanceId, bonafide_wire::node::Launch>,
    ends: BTreeMap<InstanceId, UnixTime>,
    reporting: bool,
}

/// A question that waits for its answer.
#[derive(Debug)]
pub(super) enum Request {
    Draw { bin: u64, claim: Arc<Claim>, key: Arc<PrivateKey> },
    Jwt { ticket: u64 },
    Node,
    Renew { instance: InstanceId },
    Report { launches: Vec<InstanceId>, ends: Vec<InstanceId> },
}

/// Why a stream has to be closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Disconnect {
    /// The authority does not keep to the protocol.
    Violation(Violation),
    /// It wants nothing to do with this agent.
    Banned,
    /// Its ledger is not the one that this node has witnessed.
    Contradiction(Contradiction),
}

impl Conversation {
    /// Requests that count for the window.
    pub(super) fn in_flight(&self) -> usize {
        self.requests.len().saturating_sub(self.jwts)
    }

    pub(super) fn launched(&mut self, instance: &Instance) {
        let Some(binding) = &instance.binding else { return };
        let launch = bonafide_wire::node::Launch {
            instance: Bytes::copy_from_slice(instance.id.as_bytes()),
            registration: instance.claim.subject.registration.to_string(),
            selectors: convert::to_wire(&binding.selectors),
            launched_at: binding.launched_at.as_secs(),
        };
        self.launches.insert(instance.id, launch);
    }

    pub(super) fn ended(&mut self, id: InstanceId, at: UnixTime) {
        self.ends.insert(id, at);
    }

    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        self.requests.is_empty() && self.launches.is_empty() && self.ends.is_empty()
    }
}

impl Core {
    /// A stream is open to this server: what to say first.
    pub(crate) fn connected(&mut self, server: &str) -> Hello {
        self.conversation.connected = true;
        server.clone_into(&mut self.conversation.server);
        self.conversation.synced = false;
        self.conversation.cosigner = self.node.as_ref().map(|node| Arc::clone(&node.credential));
        Hello { witnesses: true, checkpoints: self.witness.notes(), ..self.view.hello() }
    }

    /// When it was last known that the agent has what the authority has: not that it is told something, but that it has
    /// taken it in.
    pub(crate) fn current_at(&self) -> Option<UnixTime> {
        self.conversation.current_at
    }

    /// Whether the authority has confirmed on the present stream that the agent is up to date.
    pub(crate) fn is_synced(&self) -> bool {
        self.conversation.synced
    }

    /// The stream is gone, and every answer with it.
    pub(crate) fn disconnected(&mut self, now: UnixTime) {
        self.tainted.disconnected();
        let conversation = &mut self.conversation;
        conversation.connected = false;
        conversation.synced = false;
        conversation.reporting = false;
        conversation.jwts = 0;
        conversation.jobs = Jobs::default();
        let mut waiting = Vec::new();
        for (number, (lost_at, request)) in std::mem::take(&mut conversation.requests) {
            self.timers.remove(&(lost_at, Timer::Request(number)));
            match request {
                Request::Draw { bin, .. } => self.draw_lost(bin),
                Request::Jwt { ticket } => {
                    self.effects.push(Effect::Jwt(ticket, Err(Refusal::authority_unavailable())));
                }
                Request::Node => self.node_renewal_lost(),
                Request::Renew { instance } => waiting.push(instance),
                Request::Report { .. } => {}
            }
        }
        for bin in self.bins.values_mut() {
            bin.unqueue();
        }
        for instance in self.instances.values_mut() {
            instance.renewal.in_flight = false;
            instance.renewal.queued = false;
        }
        for id in waiting {
            self.schedule(id, now);
        }
        // Launches that wait for an authority are told that there is none.
        let waiting: Vec<_> = self.bins.values().flat_map(|bin| bin.waiting.iter().copied()).collect();
        self.effects.extend(waiting.into_iter().map(Effect::Launch));
    }

    /// A message of the authority.
    pub(crate) fn message(&mut self, message: AuthorityMessage, now: UnixTime) -> Result<(), Disconnect> {
        use authority_message::Kind;
        self.conversation.heard_at = Some(now);
        match message.kind {
            Some(Kind::Update(update)) => match self.view.update(update).map_err(Disconnect::Violation) {
                Ok(Some((acknowledge, changes))) => {
                    self.conversation.current_at = Some(now);
                    self.effects.push(Effect::Current);
                    self.apply_changes(changes, now);
                    self.effects.push(Effect::Send(agent_message::Kind::Acknowledge(acknowledge)));
                    self.now_synced(now);
                }
                Ok(None) => {}
                Err(violation) => {
                    self.view.distrust();
                    return Err(violation);
                }
            },
            Some(Kind::Bookmark(bookmark)) => {
                let revision = bookmark.revision;
                let acknowledge = self.view.bookmark(&bookmark).map_err(|violation| {
                    self.view.distrust();
                    Disconnect::Violation(violation)
                })?;
                // Otherwise the two differ, and the authority says everything again.
                if self.view.revision() == revision {
                    self.conversation.current_at = Some(now);
                    self.effects.push(Effect::Current);
                }
                self.effects.push(Effect::Send(agent_message::Kind::Acknowledge(acknowledge)));
            }
            Some(Kind::X509Issued(issued)) => match self.answered(issued.request) {
                Some(Request::Draw { bin, claim, key }) => self.drawn(bin, claim, key, issued, now),
                Some(Request::Renew { instance }) => self.renewed(instance, issued, now),
                Some(Request::Node) => self.node_renewed(issued, now),
                _ => {}
            },
            Some(Kind::JwtIssued(issued)) => {
                if let Some(Request::Jwt { ticket }) = self.answered(issued.request) {
                    let token = (issued.token, UnixTime::from_secs(issued.expires_at));
                    self.effects.push(Effect::Jwt(ticket, Ok(token)));
                }
            }
            Some(Kind::Refused(refused)) => match self.answered(refused.request) {
                Some(Request::Draw { bin, .. }) => self.draw_refused(bin, refused, now),
                Some(Request::Renew { instance }) => self.renewal_refused(instance, refused, now),
                Some(Request::Node) => self.node_refused(refused, now),
                Some(Request::Jwt { ticket }) => {
                    let refusal =
                        Refusal::of_authority(&refused.problem.unwrap_or_default(), refused.retry_after > 0);
                    self.effects.push(Effect::Jwt(ticket, Err(refusal)));
                }
                // One that is refused for good is told again on the next stream.
                Some(Request::Report { .. }) if refused.retry_after > 0 => {
                    let wait = Duration::from_secs(refused.retry_after.into());
                    self.timers.insert((now.saturating_add(wait), Timer::Report));
                }
                Some(Request::Report { .. }) | None => {}
            },
            Some(Kind::Reported(reported)) => {
                if let Some(Request::Report { launches, ends }) = self.answered(reported.request) {
                    self.reported(&launches, &ends);
                }
            }
            Some(Kind::Banned(banned)) => {
                self.ban(banned.problem.unwrap_or_default(), now);
                return Err(Disconnect::Banned);
            }
            Some(Kind::Checkpoint(checkpoint)) => {
                self.witness(&checkpoint, now).map_err(Disconnect::Contradiction)?;
            }
            Some(Kind::LeasesEnded(over)) => self.effects.push(Effect::LeasesEnded(over.ended)),
            // Of a newer authority.
            None => {}
        }
        self.pump(now);
        Ok(())
    }

    /// Keeps a checkpoint, and cosigns it once it is stored.
    fn witness(&mut self, sent: &Checkpoint, now: UnixTime) -> Result<(), Contradiction> {
        let Some(kept) = self.witness.look_at(sent, &self.conversation.server)? else { return Ok(()) };
        let Some(credential) = &self.conversation.cosigner else { return Ok(()) };
        let at = u64::try_from(now.as_secs()).unwrap_or_default();
        match Cosignature::sign(&kept, credential.spiffe_id().as_str(), at, &**credential.key()) {
            Ok(cosignature) => {
                let cosigned = Cosigned { line: cosignature.line().to_owned() };
                self.effects.push(Effect::Witnessed(agent_message::Kind::Cosigned(cosigned)));
            }
            Err(error) => tracing::error!(%error, "a checkpoint of the authority can't be cosigned"),
        }
        Ok(())
    }

    /// The authority has refused a connection. An agent that was away when it was banned learns it here.
    pub(crate) fn refused(&mut self, problem: &Problem, now: UnixTime) -> Result<(), Disconnect> {
        if problem.code != "agent.banned" {
            return Ok(());
        }
        self.ban(problem.clone(), now);
        Err(Disconnect::Banned)
    }

    /// Asks for a JWT-SVID. The answer is [`Effect::Jwt`] with the same ticket.
    pub(crate) fn want_jwt(
        &mut self,
        ticket: u64,
        registration: &RegistrationId,
        selectors: &bonafide_attest::SelectorSet,
        audience: &[String],
        instance: Option<InstanceId>,
        now: UnixTime,
    ) {
        if !self.conversation.synced || self.conversation.jwts >= MAX_JWTS {
            let refusal =
                if self.conversation.synced { Refusal::busy() } else { Refusal::authority_unavailable() };
            return self.effects.push(Effect::Jwt(ticket, Err(refusal)));
        }
        self.conversation.jwts += 1;
        let message = IssueJwt {
            request: 0,
            registration: registration.to_string(),
            selectors: convert::to_wire(selectors),
            audience: audience.to_vec(),
            instance: instance.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
            // Not every server has issued it.
            chain: instance
                .and_then(|id| self.instances.get(&id))
                .map(|instance| instance.credential.chain().to_vec())
                .unwrap_or_default(),
        };
        self.ask(Request::Jwt { ticket }, now, |request| {
            agent_message::Kind::IssueJwt(IssueJwt { request, ..message })
        });
    }

    pub(super) fn ask(
        &mut self,
        request: Request,
        now: UnixTime,
        message: impl FnOnce(u64) -> agent_message::Kind,
    ) {
        self.conversation.last_request += 1;
        let number = self.conversation.last_request;
        let lost_at = now.saturating_add(ANSWER_TIME);
        self.timers.insert((lost_at, Timer::Request(number)));
        self.conversation.requests.insert(number, (lost_at, request));
        self.effects.push(Effect::Send(message(number)));
    }

    /// No answer came in time. What is still wanted is asked for again, a renewal with the same key, nonce and
    /// generation; an answer that comes after all is ignored.
    pub(super) fn lost(&mut self, number: u64, now: UnixTime) {
        let Some(request) = self.answered(number) else { return };
        tracing::warn!(request = number, "the authority has not answered in time; it is asked again");
        // One that still speaks has lost an answer. One that does not may hang, and another one may not.
        if self.conversation.heard_at.is_none_or(|heard| heard <= now.saturating_sub(ANSWER_TIME)) {
            self.effects.push(Effect::Silent);
        }
        match request {
            Request::Draw { bin, .. } => {
                self.draw_lost(bin);
                self.demand(bin, now);
            }
            Request::Jwt { ticket } => {
                self.effects.push(Effect::Jwt(ticket, Err(Refusal::authority_unavailable())));
            }
            Request::Node => {
                self.node_renewal_lost();
                self.node_is_due(now);
            }
            Request::Renew { instance: id } => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.renewal.in_flight = false;
                }
                self.want_renewal(id, now);
            }
            Request::Report { .. } => self.report_again(),
        }
    }

    /// The clock went back: what is under way has its time from now on.
    pub(super) fn postpone_requests(&mut self, now: UnixTime) {
        for (number, (lost_at, _)) in &mut self.conversation.requests {
            self.timers.remove(&(*lost_at, Timer::Request(*number)));
            *lost_at = now.saturating_add(ANSWER_TIME);
            self.timers.insert((*lost_at, Timer::Request(*number)));
        }
    }

    /// Sends what waits, the most urgent first, as far as the window is open.
    pub(super) fn pump(&mut self, now: UnixTime) {
        if !self.conversation.synced {
            return;
        }
        self.tell_renewals();
        self.report(now);
        while self.conversation.in_flight() < WINDOW {
            let jobs = &mut self.conversation.jobs;
            if let Some(bin) = jobs.urgent.pop_front() {
                self.draw(bin, now);
            } else if let Some(instance) = jobs.renewals.pop_front() {
                self.renew(instance, now);
            } else if let Some(bin) = jobs.pool.pop_front() {
                self.draw(bin, now);
            } else {
                return;
            }
        }
    }

    /// The wait is over that the authority has asked for.
    pub(super) fn report_again(&mut self) {
        self.conversation.reporting = false;
    }

    fn now_synced(&mut self, now: UnixTime) {
        if std::mem::replace(&mut self.conversation.synced, true) {
            return;
        }
        self.ask_again(now);
    }

    /// Whatever was put off, or refused, is asked for again.
    pub(super) fn ask_again(&mut self, now: UnixTime) {
        self.node_may_try_again();
        self.node_is_due(now);
        self.demand_all(now);
        let due: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| instance.binding.is_some() && instance.is_due(now))
            .map(|instance| instance.id)
            .collect();
        for id in due {
            if let Some(instance) = self.instances.get_mut(&id) {
                instance.renewal.not_before = Some(now);
            }
            self.want_renewal(id, now);
        }
        // What was due before the clock went back has its time once more.
        let early: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| instance.binding.is_some() && !instance.is_due(now))
            .map(|instance| instance.id)
            .collect();
        for id in early {
            self.schedule(id, now);
        }
    }

    fn answered(&mut self, number: u64) -> Option<Request> {
        let (lost_at, request) = self.conversation.requests.remove(&number)?;
        self.timers.remove(&(lost_at, Timer::Request(number)));
        if matches!(request, Request::Jwt { .. }) {
            self.conversation.jwts = self.conversation.jwts.saturating_sub(1);
        }
        Some(request)
    }

    /// Tells what became of instances: first that they were launched, then that they have ended.
    fn report(&mut self, now: UnixTime) {
        let conversation = &self.conversation;
        if conversation.reporting || (conversation.launches.is_empty() && conversation.ends.is_empty()) {
            return;
        }
        let (mut launches, mut told, mut size) = (Vec::new(), Vec::new(), 0);
        for (id, launch) in conversation.launches.iter().take(REPORT) {
            size += launch.encoded_len();
            if size > REPORT_BYTES && !told.is_empty() {
                break;
            }
            launches.push(launch.clone());
            told.push(*id);
        }
        let later = |id: &InstanceId| conversation.launches.contains_key(id) && !told.contains(id);
        let ends: Vec<(InstanceId, UnixTime)> = conversation
            .ends
            .iter()
            .filter(|(id, _)| !later(id))
            .take(REPORT)
            .map(|(id, at)| (*id, *at))
            .collect();
        let message = Report {
            request: 0,
            launches,
            ends: ends
                .iter()
                .map(|(id, at)| End {
                    instance: Bytes::copy_from_slice(id.as_bytes()),
                    ended_at: at.as_secs(),
                })
                .collect(),
        };
        let ends = ends.into_iter().map(|(id, _)| id).collect();
        self.conversation.reporting = true;
        self.ask(Request::Report { launches: told, ends }, now, |request| {
            agent_message::Kind::Report(Report { request, ..message })
        });
    }

    fn reported(&mut self, launches: &[InstanceId], ends: &[InstanceId]) {
        self.conversation.reporting = false;
        for id in launches {
            self.conversation.launches.remove(id);
            if let Some(instance) = self.instances.get_mut(id)
                && let Some(binding) = &mut instance.binding
            {
                binding.reported = true;
                self.save(*id);
            }
        }
        for id in ends {
            self.conversation.ends.remove(id);
            self.effects.push(Effect::Forget(*id));
        }
    }

    fn ban(&mut self, reason: Problem, now: UnixTime) {
        let reason = if reason.code.is_empty() {
            problem("agent.banned", "no reason was given", "ask whoever runs the authority")
        } else {
            reason
        };
        let launches: Vec<_> = self.launches.keys().copied().collect();
        self.effects.extend(self.instances.keys().copied().map(Effect::Forget));
        self.instances.clear();
        self.launches.clear();
        self.bins.clear();
        self.bin_of.clear();
        self.bins_of.clear();
        self.timers.clear();
        self.pooled = 0;
        self.conversation.launches.clear();
        self.conversation.ends.clear();
        self.node = None;
        self.banned = Some(reason.clone());
        self.disconnected(now);
        self.effects.extend(launches.into_iter().map(Effect::Launch));
        self.effects.push(Effect::Registrations);
        self.effects.push(Effect::Banned(reason));
    }
}
