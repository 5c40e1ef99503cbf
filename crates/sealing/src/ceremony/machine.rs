//! A party of a ceremony.

mod sums;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bonafide_crypto::key::Signer;
use bonafide_crypto::random::Random;

use super::deal::{Possession, SealedShare, Way};
use super::decision::{Decision, transcript};
use super::message::{Content, Message};
use super::plan::{Kind, Plan};
use super::setup::{Setup, check, dealt};
use super::{Abort, AbortReason, CeremonyError, Effect, Party, Pending};
use crate::document::{Digest, Document as _, Signed, VerifyingKey};
use crate::epoch::{EpochRecord, TrustedEpoch};
use crate::group::{G1Point, Index, Polynomial, Scalar};
use crate::params::{SealParams, TrustedParams};
use crate::roster::{Roster, TrustedRoster};

/// One party's side of a ceremony.
pub struct Ceremony {
    plan: Plan,
    session: Digest,
    roster: TrustedRoster,
    dealers_roster: TrustedRoster,
    before: Option<(TrustedParams, TrustedEpoch)>,
    signer: Arc<dyn Signer>,
    random: Arc<dyn Random>,
    dealer: Option<(Index, Polynomial)>,
    receiver: Option<(Index, Scalar)>,
    /// In a refresh, what is added to.
    old_share: Option<Scalar>,
    deals: BTreeMap<Index, Message>,
    joins: BTreeMap<Index, Message>,
    transcript: Option<Digest>,
    sealed: BTreeMap<Index, Message>,
    taken: BTreeMap<Index, Scalar>,
    /// Of a receiver about a dealer.
    complaints: BTreeMap<(Index, Index), Digest>,
    answers: BTreeMap<(Index, Index), (Digest, Scalar)>,
    /// Complaints with an answer that holds.
    settled: BTreeSet<(Index, Index)>,
    /// Whose complaints this dealer has answered.
    shown: BTreeSet<Index>,
    outcome: Option<(SealParams, EpochRecord)>,
    votes: BTreeMap<Index, Signed<Message>>,
    decision: Option<Decision>,
    waits_for_disk: bool,
    over: bool,
    log: Vec<Signed<Message>>,
}

impl Ceremony {
    /// Begins: the party speaks first, and needs nobody for it.
    ///
    /// # Errors
    /// [`CeremonyError`] if the plan does not fit what is given, or this signer has no part in it.
    pub fn begin(
        setup: Setup<'_>,
        signer: Arc<dyn Signer>,
        random: Arc<dyn Random>,
    ) -> Result<(Self, Vec<Effect>), CeremonyError> {
        check(&setup)?;
        let Setup { plan, roster, before, floor: _ } = setup;
        let session = plan.digest();
        let fingerprint = *VerifyingKey::new(signer.public_key().clone())?.fingerprint();
        let dealers_roster = before.as_ref().map_or(&roster, |before| &before.roster).clone();
        let dealer = dealers_roster.roster().index_of(&fingerprint).filter(|own| plan.dealers.contains(own));
        let receiver = roster.roster().index_of(&fingerprint);
        if dealer.is_none() && receiver.is_none() {
            return Err(CeremonyError::NoPart);
        }
        let share = before.as_ref().and_then(|before| before.share);
        let mut polynomial = None;
        if let Some(index) = dealer {
            let at_zero = dealt(&plan, index, share, &random)?;
            let count = roster.roster().threshold;
            polynomial = Some((index, Polynomial::random(at_zero, count, random.as_ref())));
        }
        let mut old_share = None;
        if matches!(plan.kind, Kind::Refresh(_)) {
            old_share = Some(share.ok_or(CeremonyError::NoShare)?.secret()?);
        }
        let mut this = Self {
            session,
            dealers_roster,
            before: before.map(|before| (before.params, before.epoch)),
            dealer: polynomial,
            receiver: receiver.map(|index| (index, Scalar::random(random.as_ref()))),
            old_share,
            deals: BTreeMap::new(),
            joins: BTreeMap::new(),
            transcript: None,
            sealed: BTreeMap::new(),
            taken: BTreeMap::new(),
            complaints: BTreeMap::new(),
            answers: BTreeMap::new(),
            settled: BTreeSet::new(),
            shown: BTreeSet::new(),
            outcome: None,
            votes: BTreeMap::new(),
            decision: None,
            waits_for_disk: false,
            over: false,
            log: Vec::new(),
            plan,
            roster,
            signer,
            random,
        };
        let effects = this.open()?;
        Ok((this, effects))
    }

    /// Takes a message. What is not of this session, or not signed by whom it says, is ignored.
    pub fn receive(&mut self, message: Signed<Message>) -> Vec<Effect> {
        if message.body.session != self.session || !self.is_signed(&message) {
            return Vec::new();
        }
        match self.take(message) {
            Ok(effects) => effects,
            Err(abort) => self.abort(abort),
        }
    }

    /// The pending share is on disk.
    ///
    /// # Errors
    /// [`CeremonyError`] if this party can't say so: it has then not been said.
    pub fn stored(&mut self) -> Result<Vec<Effect>, CeremonyError> {
        let Some((_, record)) = self.outcome.as_ref().filter(|_| self.waits_for_disk && !self.over) else {
            return Ok(Vec::new());
        };
        let (decision, mut effects) =
            Decision::begin(self.session, self.roster.clone(), record.clone(), &self.signer)?;
        self.waits_for_disk = false;
        effects.extend(self.decide(decision));
        Ok(self.watch(effects))
    }

    /// Time is up: whoever was waited for is named. A party that is ready can't give up any more, and gets nothing here; it asks
    /// the others for their votes.
    pub fn time_out(&mut self) -> Vec<Effect> {
        if self.over || self.decision.is_some() {
            return Vec::new();
        }
        let open = self.complaints.keys().filter(|pair| !self.settled.contains(pair));
        let open: Vec<Party> = open
            .flat_map(|(receiver, dealer)| [Party::Receiver(*receiver), Party::Dealer(*dealer)])
            .collect();
        if !open.is_empty() {
            return self.abort(Abort { reason: AbortReason::Unresolved, named: open });
        }
        let spoken = if self.transcript.is_none() { &self.deals } else { &self.sealed };
        let dealers = self.plan.dealers.iter().filter(|index| !spoken.contains_key(index));
        let mut named: Vec<Party> = dealers.copied().map(Party::Dealer).collect();
        let receivers = self.roster.roster().indices().filter(|index| !self.joins.contains_key(index));
        named.extend(receivers.map(Party::Receiver));
        self.abort(Abort { reason: AbortReason::Absent, named })
    }

    /// Takes a certificate that somebody relays.
    pub fn relay(&mut self, certificate: &Signed<EpochRecord>) -> Vec<Effect> {
        let effects = self.decision.as_mut().map(|decision| decision.relay(certificate)).unwrap_or_default();
        self.watch(effects)
    }

    /// What this party votes, once its share is durable.
    #[must_use]
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }

    /// Digest of the plan.
    #[must_use]
    pub fn session(&self) -> &Digest {
        &self.session
    }

    /// The parameters and the record that came out, once this party has computed them.
    #[must_use]
    pub fn outcome(&self) -> Option<&(SealParams, EpochRecord)> {
        self.outcome.as_ref()
    }

    /// Every message that was taken, signed: what happened, for everybody to check. Given to another party's [`Self::receive`], it
    /// names whoever has told both of them different things.
    #[must_use]
    pub fn log(&self) -> &[Signed<Message>] {
        &self.log
    }

    // === what this party says ===

    fn open(&mut self) -> Result<Vec<Effect>, CeremonyError> {
        let mut effects = Vec::new();
        if let Some((index, polynomial)) = &self.dealer {
            let skip = usize::from(self.plan.first_power());
            let commitments = polynomial.commitments(skip).ok_or(crate::group::GroupError::Scalar)?;
            let mut possession = None;
            if self.plan.template().is_some() {
                let secret = polynomial.at_zero();
                let proof = Possession::new(&self.session, *index, &secret, self.random.as_ref())?;
                possession = Some(Box::new(proof));
            }
            effects.extend(self.say(*index, Content::Deal { commitments, possession })?);
        }
        if let Some((index, key)) = &self.receiver {
            let key = G1Point::generator().times(key).ok_or(crate::group::GroupError::Scalar)?;
            effects.extend(self.say(*index, Content::Join { key })?);
        }
        Ok(effects)
    }

    /// Signs a message, and hears it.
    fn say(&mut self, sender: Index, content: Content) -> Result<Vec<Effect>, CeremonyError> {
        let mut message = Signed::new(Message { session: self.session, sender, content });
        message.sign(self.signer.as_ref())?;
        let mut effects = vec![Effect::Broadcast(message.clone())];
        effects.extend(match self.take(message) {
            Ok(effects) => effects,
            Err(abort) => self.abort(abort),
        });
        Ok(effects)
    }

    /// A party whose signer fails can only fall silent; the others name it when time is up.
    fn say_or_fall_silent(&mut self, sender: Index, content: Content) -> Vec<Effect> {
        self.say(sender, content).unwrap_or_default()
    }

    /// Gives up, and says so. Whoever is ready can't any more.
    fn abort(&mut self, abort: Abort) -> Vec<Effect> {
        if self.decision.is_some() || std::mem::replace(&mut self.over, true) {
            return vec![Effect::Report(abort)];
        }
        (self.dealer, self.old_share, self.waits_for_disk) = (None, None, false);
        self.taken.clear();
        let mut effects = Vec::new();
        if let Some((index, _)) = self.receiver.take() {
            let content = Content::Never;
            let mut message = Signed::new(Message { session: self.session, sender: index, content });
            if message.sign(self.signer.as_ref()).is_ok() {
                effects.push(Effect::Broadcast(message));
            }
        }
        effects.push(Effect::Abort(abort));
        effects
    }

    // === what it hears ===

    fn take(&mut self, message: Signed<Message>) -> Result<Vec<Effect>, Abort> {
        let sender = message.body.sender;
        let kept = match &message.body.content {
            Content::Deal { .. } if self.plan.dealers.contains(&sender) => {
                keep(&mut self.deals, &message.body, Party::Dealer(sender))
            }
            Content::Join { .. } => keep(&mut self.joins, &message.body, Party::Receiver(sender)),
            Content::Shares { .. } if self.plan.dealers.contains(&sender) => {
                keep(&mut self.sealed, &message.body, Party::Dealer(sender))
            }
            Content::Complaint { transcript, accused } if self.plan.dealers.contains(accused) => {
                Ok(self.complaints.insert((sender, *accused), *transcript).is_none())
            }
            Content::Answer { transcript, receiver, share } if self.plan.dealers.contains(&sender) => {
                let pair = (*receiver, sender);
                let fresh = !self.answers.contains_key(&pair);
                self.answers.entry(pair).or_insert_with(|| (*transcript, share.clone()));
                Ok(fresh)
            }
            Content::Ready { .. } | Content::Never => return Ok(self.vote(message)),
            Content::Answer { .. }
            | Content::Complaint { .. }
            | Content::Deal { .. }
            | Content::Shares { .. } => Ok(false),
        };
        let fresh = match kept {
            Ok(fresh) => fresh,
            Err(abort) => {
                self.remember(message);
                return Err(abort);
            }
        };
        // When it is over only contradictions count. Who is ready still answers complaints: others may not be.
        if !fresh || self.over {
            return Ok(Vec::new());
        }
        self.log.push(message);
        self.progress()
    }

    /// The second of two messages that contradict each other is evidence; a third adds nothing.
    fn remember(&mut self, message: Signed<Message>) {
        let kind = message.body.content.number();
        let alike = |other: &&Signed<Message>| {
            other.body.sender == message.body.sender && other.body.content.number() == kind
        };
        if self.log.iter().filter(alike).count() < 2 {
            self.log.push(message);
        }
    }

    fn vote(&mut self, message: Signed<Message>) -> Vec<Effect> {
        if let Some(decision) = &mut self.decision {
            let effects = decision.receive(&message);
            return self.watch(effects);
        }
        if self.over {
            return Vec::new();
        }
        if message.body.content == Content::Never {
            let named = vec![Party::Receiver(message.body.sender)];
            return self.abort(Abort { reason: AbortReason::Refused, named });
        }
        self.votes.insert(message.body.sender, message);
        Vec::new()
    }

    /// From here on only votes count. Some may have come already.
    fn decide(&mut self, mut decision: Decision) -> Vec<Effect> {
        let votes = std::mem::take(&mut self.votes).into_values();
        let effects = votes.flat_map(|vote| decision.receive(&vote)).collect();
        self.decision = Some(decision);
        self.watch(effects)
    }

    fn watch(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        if effects.iter().any(|effect| matches!(effect, Effect::Switch(_) | Effect::Abort(_))) {
            self.over = true;
            (self.dealer, self.receiver, self.old_share) = (None, None, None);
        }
        effects
    }

    /// Everything that can be done with what is known.
    fn progress(&mut self) -> Result<Vec<Effect>, Abort> {
        let mut effects = Vec::new();
        if self.transcript.is_none() {
            let all = self.deals.len() == self.plan.dealers.len()
                && self.joins.len() == self.roster.roster().members.len();
            if !all {
                return Ok(effects);
            }
            self.check_deals()?;
            let messages = self.deals.values().chain(self.joins.values());
            self.transcript = Some(transcript(&self.session, messages));
            effects.extend(self.deal());
        }
        self.compare()?;
        effects.extend(self.show());
        effects.extend(self.take_shares()?);
        self.settle()?;
        // What was said above was heard as well, and may have ended it.
        if !self.over {
            effects.extend(self.finish()?);
        }
        Ok(effects)
    }

    fn deal(&mut self) -> Vec<Effect> {
        let (Some((index, polynomial)), Some(transcript)) = (&self.dealer, self.transcript) else {
            return Vec::new();
        };
        let sealed: Option<Vec<SealedShare>> = self
            .joins
            .iter()
            .map(|(receiver, join)| {
                let way = self.way(&transcript, *index, *receiver, join)?;
                SealedShare::new(&way, &polynomial.at(*receiver), self.random.as_ref()).ok()
            })
            .collect();
        let (index, Some(sealed)) = (*index, sealed) else { return Vec::new() };
        self.say_or_fall_silent(index, Content::Shares { transcript, sealed })
    }

    fn take_shares(&mut self) -> Result<Vec<Effect>, Abort> {
        let Some(own) = self.transcript.filter(|_| self.outcome.is_none() && !self.over) else {
            return Ok(Vec::new());
        };
        let mut wrong = Vec::new();
        for (dealer, message) in &self.sealed {
            let Content::Shares { transcript, sealed } = &message.content else { continue };
            if *transcript != own {
                return Err(Abort { reason: AbortReason::Divergent, named: vec![Party::Dealer(*dealer)] });
            }
            let Some((index, key)) = &self.receiver else { continue };
            if self.taken.contains_key(dealer) || self.complaints.contains_key(&(*index, *dealer)) {
                continue;
            }
            let way = self.joins.get(index).and_then(|join| self.way(&own, *dealer, *index, join));
            let share = way.and_then(|way| sealed.get(index.place())?.open(&way, key));
            match share.filter(|share| self.is_dealt(*dealer, *index, share)) {
                Some(share) => {
                    self.taken.insert(*dealer, share);
                }
                None => wrong.push((*index, *dealer)),
            }
        }
        let mut effects = Vec::new();
        for (index, accused) in wrong {
            effects.extend(self.say_or_fall_silent(index, Content::Complaint { transcript: own, accused }));
        }
        Ok(effects)
    }

    /// The accused shows the shares in question. Each belongs to who has complained.
    fn show(&mut self) -> Vec<Effect> {
        let (Some((index, polynomial)), Some(transcript)) = (&self.dealer, self.transcript) else {
            return Vec::new();
        };
        let own = *index;
        let about_me = self.complaints.keys().filter(|(_, accused)| *accused == own).map(|(who, _)| *who);
        let shown: Vec<(Index, Scalar)> = about_me
            .filter(|receiver| !self.shown.contains(receiver))
            .map(|receiver| (receiver, polynomial.at(receiver)))
            .collect();
        let mut effects = Vec::new();
        for (receiver, share) in shown {
            self.shown.insert(receiver);
            effects.extend(self.say_or_fall_silent(own, Content::Answer { transcript, receiver, share }));
        }
        effects
    }

    fn settle(&mut self) -> Result<(), Abort> {
        let own = self.receiver.as_ref().map(|(index, _)| *index);
        for (receiver, dealer) in self.complaints.keys() {
            let pair = (*receiver, *dealer);
            let Some((_, share)) = self.answers.get(&pair).filter(|_| !self.settled.contains(&pair)) else {
                continue;
            };
            if !self.is_dealt(*dealer, *receiver, share) {
                let named = vec![Party::Dealer(*dealer)];
                return Err(Abort { reason: AbortReason::InvalidShare, named });
            }
            self.settled.insert(pair);
            if own == Some(*receiver) && self.outcome.is_none() {
                self.taken.insert(*dealer, share.clone());
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Effect>, Abort> {
        let done = self.transcript.is_some()
            && self.sealed.len() == self.plan.dealers.len()
            && self.complaints.keys().all(|pair| self.settled.contains(pair));
        if !done || self.outcome.is_some() {
            return Ok(Vec::new());
        }
        let no_key = || Abort { reason: AbortReason::NoKey, named: Vec::new() };
        let (params, record) = self.compute().ok_or_else(no_key)?;
        let Some((index, _)) = &self.receiver else {
            // Who only deals still has to know when to erase.
            self.outcome = Some((params, record.clone()));
            return Ok(self.decide(Decision::observe(self.session, self.roster.clone(), record)));
        };
        let index = *index;
        let start = self.old_share.take().unwrap_or_else(Scalar::zero);
        let secret = self.taken.values().fold(start, |sum, share| sum.plus(share));
        if G1Point::generator().times(&secret).as_ref() != record.share(index) {
            return Err(no_key());
        }
        self.taken.clear();
        self.outcome = Some((params.clone(), record.clone()));
        self.waits_for_disk = true;
        let session = self.session;
        Ok(vec![Effect::Store(Box::new(Pending { session, index, record, params, secret }))])
    }

    // === small questions ===

    /// Everybody who has said something since must have seen the same beginning.
    fn compare(&self) -> Result<(), Abort> {
        let complaints = self.complaints.iter().map(|((who, _), seen)| (Party::Receiver(*who), seen));
        let answers = self.answers.iter().map(|((_, who), (seen, _))| (Party::Dealer(*who), seen));
        match complaints.chain(answers).find(|(_, seen)| Some(**seen) != self.transcript) {
            Some((party, _)) => Err(Abort { reason: AbortReason::Divergent, named: vec![party] }),
            None => Ok(()),
        }
    }

    fn way<'a>(
        &'a self,
        transcript: &'a Digest,
        dealer: Index,
        receiver: Index,
        join: &'a Message,
    ) -> Option<Way<'a>> {
        let Content::Join { key } = &join.content else { return None };
        Some(Way { session: &self.session, transcript, dealer, receiver, key })
    }

    fn is_signed(&self, message: &Signed<Message>) -> bool {
        let body = &message.body;
        let roster: &Roster =
            if body.content.is_dealers() { self.dealers_roster.roster() } else { self.roster.roster() };
        let member = roster.member(body.sender);
        message.signatures.len() == 1 && member.is_some_and(|member| message.count([&member.key]) == 1)
    }
}

/// Whether it is new. Two different ones are a lie that everybody can be shown.
fn keep(messages: &mut BTreeMap<Index, Message>, message: &Message, party: Party) -> Result<bool, Abort> {
    match messages.get(&message.sender) {
        None => {
            messages.insert(message.sender, message.clone());
            Ok(true)
        }
        Some(before) if before.is(message) => Ok(false),
        Some(_) => Err(Abort { reason: AbortReason::Equivocated, named: vec![party] }),
    }
}

impl fmt::Debug for Ceremony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ceremony")
            .field("plan", &self.plan)
            .field("deals", &self.deals.len())
            .field("joins", &self.joins.len())
            .field("sealed", &self.sealed.len())
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
