//! Ceremonies: the state machine of `bonafide-sealing`, and the disk.
//!
//! | what is done | what is on the disk then |
//! |---|---|
//! | the new share's seal key, then the state with the share beside the old one | old share answers; new one waits |
//! | *ready* is said; all have said it | the same |
//! | the state with the certificate and the new share alone | new share answers |
//! | the old seal key is destroyed | the old share can't be read any more, wherever a copy of the state is |
//!
//! A crash between two of them leaves one of these lines.

use std::sync::Arc;

use bonafide_keyring::Wrapping;
use bonafide_sealing::ceremony::{
    Before, Ceremony, Content, Decision, Effect, Kind, Message, Pending, Plan, Setup, Template,
};
use bonafide_sealing::document::{Digest, Document as _, Signed};
use bonafide_sealing::epoch::{EpochRecord, TrustedEpoch};
use bonafide_sealing::group::Index;
use bonafide_sealing::params::TrustedParams;
use bonafide_sealing::share::Share;
use bonafide_wire::keyholder::{ProposeRequest, propose_request};

use super::{After, Holder, Holding, MAX_PENDING, MAX_VERSIONS, PendingShare, Work};
use crate::error::Refusal;
use crate::generated::worker::{self, step};
use crate::judge::Key;
use crate::share::{self, seal_name};

impl Holder {
    /// Plans a ceremony, and begins it. Its session.
    pub(crate) fn propose(
        &mut self,
        wrapping: &Wrapping<'_>,
        proposal: &ProposeRequest,
    ) -> Result<(Digest, Work), Refusal> {
        let roster = self.trust.roster().ok_or_else(|| Refusal::not_ready("no roster was installed"))?;
        let all: Vec<Index> = roster.roster().indices().collect();
        let (kind, version, dealers) = match proposal.kind.as_ref().ok_or_else(no_plan)? {
            propose_request::Kind::Generate(asked) => {
                let previous = asked.version.checked_sub(1).and_then(|before| self.holdings.get(&before));
                let template = Template {
                    tenant: roster.roster().tenant,
                    keyset: roster.roster().keyset.clone(),
                    version: asked.version,
                    not_before: asked.not_before,
                    not_after: asked.not_after,
                    previous: previous.map_or([0; 32], |holding| holding.params.digest()),
                    site_keys: Vec::new(),
                };
                (Kind::Generate(Box::new(template)), asked.version, all)
            }
            propose_request::Kind::Refresh(asked) => {
                (Kind::Refresh(self.record_before(asked.version)?.digest()), asked.version, all)
            }
            propose_request::Kind::Reshare(asked) => {
                let before = self.record_before(asked.version)?;
                let mut dealers: Vec<Index> = Vec::new();
                for dealer in &asked.dealers {
                    dealers.push(Index::new(u64::from(*dealer)).map_err(|_| no_plan())?);
                }
                dealers.sort();
                dealers.dedup();
                if dealers.is_empty() {
                    let count = self.trust.roster_of(&before.roster).map_or(0, |old| old.roster().count());
                    dealers = Index::first(count).collect();
                }
                (Kind::Reshare(before.digest()), asked.version, dealers)
            }
        };
        let epoch = self.floor(version).saturating_add(1);
        let plan = Plan { kind, roster: *roster.digest(), epoch, dealers, nonce: self.random.array() };
        let mut plan = Signed::new(plan);
        plan.sign(self.signer.as_ref()).map_err(bonafide_sealing::ceremony::CeremonyError::from)?;
        let mut work = Work::default();
        self.begin(wrapping, &plan, &mut work)?;
        Ok((plan.body.digest(), work))
    }

    /// A message of another keyholder. Whoever has not heard of the ceremony begins with it.
    pub(crate) fn deliver(
        &mut self,
        wrapping: &Wrapping<'_>,
        plan: &[u8],
        message: &[u8],
    ) -> Result<Work, Refusal> {
        let plan = Signed::<Plan>::decode(plan)?;
        let message = Signed::<Message>::decode(message)?;
        let session = plan.body.digest();
        if message.body.session != session {
            return Err(no_plan());
        }
        let mut work = Work::default();
        let known = self.pending.iter().any(|pending| pending.plan.body.digest() == session);
        let begins = matches!(message.body.content, Content::Deal { .. } | Content::Join { .. });
        if self.session() != Some(session) && !known && begins {
            self.begin(wrapping, &plan, &mut work)?;
        }
        if self.session() == Some(session)
            && let Some((ceremony, _)) = &mut self.ceremony
        {
            let effects = ceremony.receive(message.clone());
            self.carry_out(wrapping, effects, &mut work)?;
        }
        let waiting = self.pending.iter_mut().find(|pending| pending.plan.body.digest() == session);
        if let Some(pending) = waiting {
            let effects = pending.decision.receive(&message);
            self.carry_out(wrapping, effects, &mut work)?;
        }
        Ok(work)
    }

    /// Time is up for a ceremony. Nothing happens if it is another one.
    pub(crate) fn time_out(&mut self, wrapping: &Wrapping<'_>, session: &[u8]) -> Result<Work, Refusal> {
        let mut work = Work::default();
        if self.session().is_some_and(|own| own == session)
            && let Some((ceremony, _)) = &mut self.ceremony
        {
            // Who is ready waits on, and another ceremony may take this one's place.
            let effects = ceremony.time_out();
            self.carry_out(wrapping, effects, &mut work)?;
        }
        Ok(work)
    }

    /// The steps of this number are durable.
    pub(crate) fn durable(&mut self, wrapping: &Wrapping<'_>, number: u64) -> Result<Work, Refusal> {
        let mut work = Work::default();
        if number != self.waiting.0 {
            return Ok(work);
        }
        for after in std::mem::take(&mut self.waiting.1) {
            match after {
                After::Erase(names) => {
                    names.into_iter().for_each(|name| work.push(step::Step::Erase(name)));
                }
                After::Stored(session) => {
                    if self.session() == Some(session)
                        && let Some((ceremony, _)) = &mut self.ceremony
                    {
                        let effects = ceremony.stored()?;
                        self.carry_out(wrapping, effects, &mut work)?;
                    }
                }
            }
        }
        Ok(work)
    }

    /// A certificate that somebody relays.
    pub(super) fn relay(
        &mut self,
        wrapping: &Wrapping<'_>,
        version: u64,
        certificate: &Signed<EpochRecord>,
        work: &mut Work,
    ) -> Result<(), Refusal> {
        let mut effects = Vec::new();
        for pending in &mut self.pending {
            effects.extend(pending.decision.relay(certificate));
        }
        self.carry_out(wrapping, effects, work)?;
        let Some(holding) = self.holdings.get(&version) else { return Ok(()) };
        let newer = certificate.body.epoch > holding.epoch();
        let (Some(signed), Some(owner)) = (&holding.signed, self.trust.owner()) else { return Ok(()) };
        let roster = self.trust.roster_of(&certificate.body.roster).filter(|_| newer);
        let Some(roster) = roster else { return Ok(()) };
        let params = TrustedParams::verify(owner, signed)?;
        TrustedEpoch::verify(&params, roster, certificate)?;
        // Everybody in that roster has a share of it but this one: its own is of an epoch that is over.
        self.switch(wrapping, certificate, work)
    }

    fn begin(
        &mut self,
        wrapping: &Wrapping<'_>,
        plan: &Signed<Plan>,
        work: &mut Work,
    ) -> Result<(), Refusal> {
        let going_on = self.ceremony.as_ref().is_some_and(|(ceremony, _)| ceremony.decision().is_none());
        if going_on || self.pending.len() >= MAX_PENDING {
            let hint = "wait until it is over: at most two minutes";
            return Err(Refusal::new("keyholder.busy", "another ceremony is going on", hint));
        }
        let roster = self.trust.roster().filter(|roster| *roster.digest() == plan.body.roster);
        let roster = roster.ok_or_else(no_plan)?.clone();
        let version = self.version_of(&plan.body).ok_or_else(no_plan)?;
        if plan.body.template().is_some() && (version == 0 || self.holdings.contains_key(&version)) {
            return Err(no_plan());
        }
        let holding = self.holdings.get(&version).filter(|_| plan.body.template().is_none());
        let mut before = None;
        if let Some(holding) = holding {
            let (params, epoch) = self.trusted(holding).ok_or_else(no_plan)?;
            let roster = self.trust.roster_of(&epoch.record().roster).cloned().ok_or_else(no_plan)?;
            let share = holding.share.as_ref().map(|(key, _)| &key.share);
            before = Some(Before { roster, params, epoch, share });
        }
        // Any keyholder may plan: what a ceremony can do is bounded by rosters, and what it makes by the owner's signature.
        let rosters = before.iter().map(|before| &before.roster).chain([&roster]);
        let keys = rosters.flat_map(|roster| &roster.roster().members).map(|member| &member.key);
        if plan.count(keys) == 0 {
            return Err(no_plan());
        }
        let setup = Setup { plan: plan.body.clone(), roster, before, floor: self.floor(version) };
        let (signer, random) = (Arc::clone(&self.signer) as _, Arc::clone(&self.random));
        let (ceremony, effects) = Ceremony::begin(setup, signer, random)?;
        self.ceremony = Some((ceremony, plan.clone()));
        self.carry_out(wrapping, effects, work)
    }

    fn carry_out(
        &mut self,
        wrapping: &Wrapping<'_>,
        effects: Vec<Effect>,
        work: &mut Work,
    ) -> Result<(), Refusal> {
        for effect in effects {
            match effect {
                Effect::Broadcast(message) => {
                    let session = message.body.session;
                    let active = self.ceremony.as_ref().map(|(_, plan)| plan);
                    let waiting = self.pending.iter().map(|pending| &pending.plan);
                    let plan = active.into_iter().chain(waiting).find(|plan| plan.body.digest() == session);
                    if let Some(plan) = plan {
                        work.broadcast(plan, &message);
                    }
                }
                Effect::Store(pending) => self.store(wrapping, *pending, work)?,
                Effect::Switch(certificate) => self.switch(wrapping, &certificate, work)?,
                Effect::Abort(abort) => {
                    self.ceremony = None;
                    self.notice(
                        work,
                        format!("a ceremony came to nothing: {}{}", abort.reason, named(&abort)),
                    );
                }
                Effect::Report(abort) => {
                    self.notice(work, format!("too late to matter: {}{}", abort.reason, named(&abort)));
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, wrapping: &Wrapping<'_>, pending: Pending, work: &mut Work) -> Result<(), Refusal> {
        let Some((_, plan)) = &self.ceremony else { return Ok(()) };
        let Pending { session, index, record, params, secret } = pending;
        let share = Share::new(&params, &record, index, secret)?;
        let (sealed, wrapped) = share::seal(wrapping, self.random.as_ref(), &share)?;
        let roster = self.trust.roster_of(&record.roster).cloned().ok_or_else(no_plan)?;
        let signer = Arc::clone(&self.signer) as _;
        // Its votes are for after a restart; until then the ceremony gives them.
        let (decision, _) = Decision::begin(session, roster, record.clone(), &signer)?;
        if let Some(holding) = self.holdings.get_mut(&params.version) {
            holding.floor = holding.floor.max(record.epoch);
        }
        let (plan, key) = (plan.clone(), Key::new(share, record.roster));
        let pending = PendingShare { plan, index, record, params, key, sealed, decision };
        work.put(pending.seal_name(), wrapped);
        self.pending.push(pending);
        self.save(wrapping, work)?;
        work.after.push(After::Stored(session));
        Ok(())
    }

    /// Everybody has its share of a new epoch. Whoever gets none erases its old one all the same.
    fn switch(
        &mut self,
        wrapping: &Wrapping<'_>,
        certificate: &Signed<EpochRecord>,
        work: &mut Work,
    ) -> Result<(), Refusal> {
        let record = &certificate.body;
        let place = self.pending.iter().position(|pending| pending.record == *record);
        let held = self.holdings.iter().find(|(_, holding)| holding.params.digest() == record.params);
        let held = held.map(|(version, holding)| (*version, holding.epoch()));
        let version = match (held, place.and_then(|place| self.pending.get(place))) {
            (Some((_, epoch)), _) if epoch >= record.epoch => return Ok(()),
            (Some((version, _)), _) => version,
            (None, Some(pending)) => pending.params.version,
            (None, None) => return Ok(()),
        };
        let new = place.map(|place| self.pending.remove(place));
        let mut erased = Vec::new();
        self.pending.retain(|pending| {
            let over = pending.params.version == version && pending.record.epoch < record.epoch;
            if over {
                erased.push(pending.seal_name());
            }
            !over
        });
        let before = self.holdings.remove(&version);
        if let Some(before) = before.as_ref().filter(|before| before.share.is_some()) {
            erased.push(seal_name(version, before.epoch()));
        }
        let params = new.as_ref().map(|pending| pending.params.clone());
        let params = params.or_else(|| before.as_ref().map(|before| before.params.clone()));
        let Some(params) = params.filter(|_| self.holdings.len() < MAX_VERSIONS) else { return Ok(()) };
        let holding = Holding {
            params,
            signed: before.as_ref().and_then(|before| before.signed.clone()),
            certificate: Some(certificate.clone()),
            share: new.map(|pending| (pending.key, pending.sealed)),
            floor: before.map_or(0, |before| before.floor).max(record.epoch),
        };
        self.holdings.insert(version, holding);
        if self.session().is_some_and(|session| self.made(&session, record)) {
            self.ceremony = None;
        }
        self.save(wrapping, work)?;
        work.after.push(After::Erase(erased));
        self.notice(work, format!("version {version} is in epoch {}", record.epoch));
        Ok(())
    }

    /// Whether the running ceremony has made this record.
    fn made(&self, session: &Digest, record: &EpochRecord) -> bool {
        self.ceremony.as_ref().is_some_and(|(ceremony, _)| {
            ceremony.session() == session && ceremony.outcome().is_some_and(|(_, own)| own == record)
        })
    }

    fn version_of(&self, plan: &Plan) -> Option<u64> {
        match &plan.kind {
            Kind::Generate(template) => Some(template.version),
            Kind::Refresh(before) | Kind::Reshare(before) => {
                let of = |holding: &&Holding| {
                    holding.certificate.as_ref().is_some_and(|own| own.body.digest() == *before)
                };
                self.holdings.values().find(of).map(|holding| holding.params.version)
            }
        }
    }

    fn record_before(&self, version: u64) -> Result<&EpochRecord, Refusal> {
        let holding = self.holdings.get(&version);
        holding
            .and_then(|holding| holding.certificate.as_ref())
            .map(|signed| &signed.body)
            .ok_or_else(no_plan)
    }

    /// The highest epoch of a version that this keyholder was ready for.
    fn floor(&self, version: u64) -> u64 {
        let waiting = self.pending.iter().filter(|pending| pending.params.version == version);
        let held = self.holdings.get(&version).map_or(0, |holding| holding.floor);
        waiting.map(|pending| pending.record.epoch).fold(held, u64::max)
    }
}

impl Work {
    pub(super) fn broadcast(&mut self, plan: &Signed<Plan>, message: &Signed<Message>) {
        let (plan, message) = (plan.encode().into(), message.encode().into());
        self.push(step::Step::Broadcast(worker::Deliver { plan, message }));
    }
}

fn named(abort: &bonafide_sealing::ceremony::Abort) -> String {
    use bonafide_sealing::ceremony::Party;
    let names = abort.named.iter().map(|party| match party {
        Party::Dealer(index) => format!("dealer {}", index.number()),
        Party::Receiver(index) => format!("receiver {}", index.number()),
    });
    let names: Vec<String> = names.collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn no_plan() -> Refusal {
    Refusal::new(
        "keyholder.plan",
        "the plan does not fit what this keyholder knows",
        "give all keyholders the same documents: roster, and parameters that the owner has signed; then begin again",
    )
}
