//! Simulated keyholders, and a network between them on which anything can happen to a message.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bonafide_crypto::key::Signer;
use bonafide_crypto::random::Random;
use bonafide_sealing::ceremony::{
    Abort, AbortReason, Before, Ceremony, CeremonyError, Decision, Effect, Kind, Message, Party, Pending,
    Plan, Setup, Template,
};
use bonafide_sealing::document::{Document, Signed};
use bonafide_sealing::epoch::{EpochRecord, TrustedEpoch};
use bonafide_sealing::group::{G1Point, Index, Scalar, lagrange_at_zero};
use bonafide_sealing::params::{SealParams, TrustedParams};
use bonafide_sealing::roster::TrustedRoster;
use bonafide_sealing::share::Share;

use crate::world::{
    Keys, NOW, Seeded, index, keyset, member_key, operator_key, roster_of, signed, tenant, times,
};

pub(crate) type Sent = Signed<Message>;
/// What becomes of a message on its way: who sends it, to whom.
pub(crate) type Wire<'a> = Box<dyn FnMut(u64, u64, &Sent) -> Vec<Sent> + 'a>;

/// One keyholder: what it knows, and what is on its disk.
#[derive(Default)]
pub(crate) struct Holder {
    pub(crate) ceremony: Option<Ceremony>,
    pub(crate) decision: Option<Decision>,
    pub(crate) pending: Option<Pending>,
    pub(crate) certificate: Option<Signed<EpochRecord>>,
    pub(crate) aborts: Vec<Abort>,
    pub(crate) reports: Vec<Abort>,
}

pub(crate) fn honest() -> Wire<'static> {
    Box::new(|_, _, message| vec![message.clone()])
}

pub(crate) struct Net<'a> {
    pub(crate) holders: BTreeMap<u64, Holder>,
    pub(crate) queue: VecDeque<(u64, u64, Sent)>,
    pub(crate) wire: Wire<'a>,
    /// Stops when so many effects were carried out.
    pub(crate) budget: usize,
}

impl<'a> Net<'a> {
    pub(crate) fn new(wire: Wire<'a>) -> Self {
        Self { holders: BTreeMap::new(), queue: VecDeque::new(), wire, budget: usize::MAX }
    }

    pub(crate) fn honest() -> Self {
        Self::new(honest())
    }

    pub(crate) fn begin(&mut self, cluster: &Cluster, number: u64, plan: &Plan) {
        let (ceremony, effects) = cluster.begin(number, plan, &format!("holder {number}")).unwrap();
        self.holders.insert(number, Holder { ceremony: Some(ceremony), ..Holder::default() });
        self.carry_out(number, effects);
    }

    pub(crate) fn carry_out(&mut self, number: u64, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            if self.budget == 0 {
                return;
            }
            self.budget -= 1;
            let everyone: Vec<u64> = self.holders.keys().copied().filter(|other| *other != number).collect();
            let holder = self.holders.get_mut(&number).unwrap();
            match effect {
                Effect::Broadcast(message) => {
                    let message = Signed::<Message>::decode(&message.encode()).unwrap();
                    for other in everyone {
                        self.queue.push_back((number, other, message.clone()));
                    }
                }
                Effect::Store(pending) => {
                    holder.pending = Some(*pending);
                    effects.extend(holder.ceremony.as_mut().unwrap().stored().unwrap());
                }
                Effect::Switch(certificate) => holder.certificate = Some(*certificate),
                Effect::Abort(abort) => holder.aborts.push(abort),
                Effect::Report(abort) => holder.reports.push(abort),
            }
        }
    }

    pub(crate) fn deliver(&mut self, number: u64, message: Sent) {
        let holder = self.holders.get_mut(&number).unwrap();
        let effects = match (&mut holder.ceremony, &mut holder.decision) {
            (Some(ceremony), _) => ceremony.receive(message),
            (None, Some(decision)) => decision.receive(&message),
            (None, None) => Vec::new(),
        };
        self.carry_out(number, effects);
    }

    pub(crate) fn run(&mut self) {
        while let Some((from, to, message)) = self.queue.pop_front() {
            if self.budget == 0 {
                return;
            }
            for message in (self.wire)(from, to, &message) {
                self.deliver(to, message);
            }
        }
    }

    pub(crate) fn run_shuffled(&mut self, mut choose: impl FnMut(usize) -> usize) {
        while !self.queue.is_empty() {
            let place = choose(self.queue.len());
            let (_, to, message) = self.queue.remove(place).unwrap();
            self.deliver(to, message.clone());
            // Now and then twice.
            if choose(4) == 0 {
                self.deliver(to, message);
            }
        }
    }

    pub(crate) fn time_out(&mut self) {
        let numbers: Vec<u64> = self.holders.keys().copied().collect();
        for number in numbers {
            let ceremony = self.holders.get_mut(&number).unwrap().ceremony.as_mut();
            let effects = ceremony.map(Ceremony::time_out).unwrap_or_default();
            self.carry_out(number, effects);
        }
    }

    /// The one record that all have switched to.
    pub(crate) fn certificate(&self) -> Signed<EpochRecord> {
        let mut certificates = self.holders.values().map(|holder| holder.certificate.clone().unwrap());
        let first = certificates.next().unwrap();
        assert!(certificates.all(|other| other == first));
        assert!(self.holders.values().all(|holder| holder.aborts.is_empty() && holder.reports.is_empty()));
        first
    }

    pub(crate) fn nobody_switched(&self) -> bool {
        self.holders.values().all(|holder| holder.certificate.is_none())
    }

    pub(crate) fn first_abort(&self, number: u64) -> (AbortReason, Vec<Party>) {
        let abort = self.holders[&number].aborts.first().expect("an abort");
        (abort.reason, abort.named.clone())
    }
}

/// Keyholders with shares of a key, or without any yet.
pub(crate) struct Cluster {
    pub(crate) keys: Keys,
    /// The numbers of the members, by index.
    pub(crate) numbers: Vec<u64>,
    pub(crate) roster: TrustedRoster,
    pub(crate) before: Option<(TrustedRoster, TrustedParams, TrustedEpoch)>,
    pub(crate) shares: BTreeMap<u64, Share>,
}

impl Cluster {
    pub(crate) fn new(threshold: u8, numbers: &[u64]) -> Self {
        let keys = Keys::new();
        let roster = signed(roster_of(threshold, numbers), &[keys.roster.as_ref()]);
        let roster = TrustedRoster::first(&keys.owner(), &roster).unwrap();
        Self { keys, numbers: numbers.to_vec(), roster, before: None, shares: BTreeMap::new() }
    }

    pub(crate) fn generated(threshold: u8, numbers: &[u64]) -> Self {
        let mut cluster = Self::new(threshold, numbers);
        let plan = cluster.generate();
        let net = run(&cluster, &plan, honest());
        cluster.adopt(net);
        cluster
    }

    pub(crate) fn indices(&self) -> Vec<Index> {
        self.roster.roster().indices().collect()
    }

    pub(crate) fn generate(&self) -> Plan {
        let template = Template {
            tenant: tenant(),
            keyset: keyset(),
            version: 1,
            not_before: NOW - 1000,
            not_after: NOW + 1_000_000_000,
            previous: [0; 32],
            site_keys: Vec::new(),
        };
        let kind = Kind::Generate(Box::new(template));
        Plan { kind, roster: *self.roster.digest(), epoch: 1, dealers: self.indices(), nonce: [1; 32] }
    }

    pub(crate) fn refresh(&self) -> Plan {
        let epoch = &self.before.as_ref().unwrap().2;
        let kind = Kind::Refresh(*epoch.digest());
        let next = epoch.record().epoch + 1;
        Plan { kind, roster: *self.roster.digest(), epoch: next, dealers: self.indices(), nonce: [2; 32] }
    }

    /// The next roster, and the plan to reshare to it.
    pub(crate) fn reshare(&mut self, threshold: u8, numbers: &[u64], dealers: &[u64]) -> Plan {
        let old = self.roster.roster().clone();
        let mut next = roster_of(threshold, numbers);
        (next.serial, next.previous) = (old.serial + 1, *self.roster.digest());
        next.lower_threshold = threshold < old.threshold;
        let operators: Vec<_> = self.numbers.iter().map(|number| operator_key(*number)).collect();
        let mut signers: Vec<&dyn Signer> = operators.iter().map(|key| key.as_ref() as &dyn Signer).collect();
        signers.push(self.keys.roster.as_ref());
        let next = signed(next, &signers);
        let next = self.roster.succeeded_by(&self.keys.owner(), &next, NOW, NOW + 3600).unwrap();
        (self.roster, self.numbers) = (next, numbers.to_vec());
        let epoch = &self.before.as_ref().unwrap().2;
        Plan {
            kind: Kind::Reshare(*epoch.digest()),
            roster: *self.roster.digest(),
            epoch: epoch.record().epoch + 1,
            dealers: dealers.iter().map(|dealer| index(*dealer)).collect(),
            nonce: [3; 32],
        }
    }

    pub(crate) fn begin(
        &self,
        number: u64,
        plan: &Plan,
        seed: &str,
    ) -> Result<(Ceremony, Vec<Effect>), CeremonyError> {
        let before = self.before.as_ref().map(|(roster, params, epoch)| Before {
            roster: roster.clone(),
            params: params.clone(),
            epoch: epoch.clone(),
            share: self.shares.get(&number),
        });
        let setup = Setup { plan: plan.clone(), roster: self.roster.clone(), before, floor: 0 };
        let random: Arc<dyn Random> = Arc::new(Seeded::new(seed));
        Ceremony::begin(setup, member_key(number), random)
    }

    /// Everybody takes what came out.
    pub(crate) fn adopt(&mut self, net: Net<'_>) {
        let certificate = net.certificate();
        let params =
            net.holders.values().find_map(|holder| Some(holder.pending.as_ref()?.params.clone())).unwrap();
        self.adopt_record(&params, &certificate);
        self.shares = net
            .holders
            .into_iter()
            .filter_map(|(number, holder)| Some((number, holder.pending?)))
            .map(|(number, pending)| (number, self.share(pending)))
            .collect();
    }

    pub(crate) fn adopt_record(&mut self, params: &SealParams, certificate: &Signed<EpochRecord>) {
        let params = signed(params.clone(), &[self.keys.params.as_ref()]);
        let params = TrustedParams::verify(&self.keys.owner(), &params).unwrap();
        let epoch = TrustedEpoch::verify(&params, &self.roster, certificate).unwrap();
        self.before = Some((self.roster.clone(), params, epoch));
    }

    pub(crate) fn share(&self, pending: Pending) -> Share {
        let (_, params, epoch) = self.before.as_ref().unwrap();
        Share::new(params.params(), epoch.record(), pending.index, pending.secret).unwrap()
    }

    /// The key that these members' shares make.
    pub(crate) fn key_of(&self, numbers: &[u64]) -> G1Point {
        let place = |number: &u64| self.numbers.iter().position(|other| other == number).unwrap() as u64 + 1;
        let indices: Vec<Index> = numbers.iter().map(|number| index(place(number))).collect();
        let coefficients = lagrange_at_zero(&indices).unwrap();
        let secret = numbers.iter().zip(&coefficients).fold(Scalar::zero(), |sum, (number, coefficient)| {
            let share = Scalar::from_bytes(&self.shares[number].secret_bytes()).unwrap();
            sum.plus(&share.times(coefficient))
        });
        times(&secret)
    }

    pub(crate) fn public_key(&self) -> G1Point {
        self.before.as_ref().unwrap().1.params().key
    }
}

impl Net<'_> {
    /// Gives everybody every message that anybody has taken.
    pub(crate) fn resend(&mut self) {
        let mut all: Vec<(u64, Sent)> = Vec::new();
        for (number, holder) in &self.holders {
            let log = holder.ceremony.iter().flat_map(|ceremony| ceremony.log().to_vec());
            all.extend(log.map(|message| (*number, message)));
        }
        for (from, message) in all {
            for to in self.holders.keys() {
                if *to != from {
                    self.queue.push_back((from, *to, message.clone()));
                }
            }
        }
    }
}

/// All of a cluster in one ceremony, until nothing moves.
pub(crate) fn run<'a>(cluster: &Cluster, plan: &Plan, wire: Wire<'a>) -> Net<'a> {
    let mut net = Net::new(wire);
    cluster.numbers.iter().for_each(|number| net.begin(cluster, *number, plan));
    net.resend();
    net.run();
    net
}
