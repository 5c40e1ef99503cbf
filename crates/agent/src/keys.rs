//! Keys of applications, as this node has them: what is leased for the instances that it holds, and for their own processes.
//!
//! One borrower for each instance: what one has leased nobody else uses, whoever else runs under the same user. A borrower ends with
//! its instance. Everything that is decided about a lease is decided by [`bonafide_kms::lease`]; here are its surroundings. The
//! engine's lock may be held when this one is taken, never the other way round.

mod courier;
mod lent;
mod letter;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bonafide_crypto::random::Random;
use bonafide_identity::{
    InstanceId,
    time::{Clock, UnixTime},
};
use bonafide_kms::{
    context::ContextDigest,
    lease::{Denial, Effect, Held, LeaseId, Purpose, Question, Renewal, Timeline, Use, Used},
};
use bonafide_wire::{
    kms::{LeaseItem, keys_client::KeysClient},
    node::LeaseEnded,
};
use bytes::Bytes;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use tonic::transport::Channel;

use crate::credential::Credential;
pub(crate) use courier::{Call, OnBehalf, remote};
pub(crate) use lent::Watcher;
pub(crate) use letter::Secret;

/// How long a caller waits for a lease that was asked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// What was used of leases that are over, and could not be told yet. What is forgotten counts as used up.
const MAX_RETURNS: usize = 16_384;
/// Largest message in both directions: a batch of the largest size, and what protobuf puts around it.
pub(crate) const MAX_MESSAGE: usize = (4 << 20) + (256 << 10);

/// Whose keys are used: an instance of this node, by its newest SVID.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) instance: InstanceId,
    pub(crate) credential: Arc<Credential>,
}

/// All that is leased to this node.
#[derive(Debug)]
pub(crate) struct NodeKeys {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    began: Instant,
    /// There is something for the courier.
    wake: Notify,
    /// Counts what processes with leases have to be told of.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    timeline: Timeline,
    line: Option<Line>,
    /// When the last line was lost.
    lost: Duration,
    /// Counts connections.
    epoch: u64,
    heard: Moment,
    borrowers: HashMap<InstanceId, Borrower>,
    /// Instances that have ended, until nobody could take them for living ones any more.
    over: HashMap<InstanceId, UnixTime>,
    outbox: Outbox,
    lent: lent::Lent,
}

/// The connection that the agent's stream is open on: a server tells of the end of what it has given itself.
#[derive(Clone, Debug)]
struct Line {
    client: KeysClient<Channel>,
    /// Instances whose SVID this server has seen.
    shown: HashMap<InstanceId, Bytes>,
}

#[derive(Debug)]
struct Borrower {
    held: Held<Secret>,
    credential: Arc<Credential>,
    /// Counts answers.
    changed: watch::Sender<u64>,
}

/// A moment, by the timeline and by the wall clock.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    at: Duration,
    wall: i64,
}

/// What the authority is still to be told and asked.
#[derive(Debug, Default)]
struct Outbox {
    asks: Vec<Ask>,
    renewals: Vec<(InstanceId, Renewal)>,
    returns: VecDeque<Used>,
}

#[derive(Debug)]
struct Ask {
    subject: Subject,
    question: Question,
    item: LeaseItem,
}

impl NodeKeys {
    pub(crate) fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Arc<Self> {
        let inner = Inner {
            timeline: Timeline::new(clock.now().as_secs()),
            line: None,
            lost: Duration::ZERO,
            epoch: 0,
            heard: Moment::default(),
            borrowers: HashMap::new(),
            over: HashMap::new(),
            outbox: Outbox::default(),
            lent: lent::Lent::default(),
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            clock,
            random,
            began: Instant::now(),
            wake: Notify::new(),
            news: watch::Sender::new(0),
        })
    }

    pub(crate) fn random(&self) -> &dyn Random {
        &*self.random
    }

    /// A stream is open on this connection, and tells of what ends: everything that is held is renewed there.
    pub(crate) fn connected(&self, channel: Channel) {
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        let client = KeysClient::new(channel).max_decoding_message_size(MAX_MESSAGE * 2);
        inner.line = Some(Line { client, shown: HashMap::new() });
        inner.epoch += 1;
        inner.heard = now;
        inner.borrowers.values_mut().for_each(|borrower| borrower.held.leases().connected(now.at));
        self.collect_all(&mut inner);
        self.tell();
    }

    /// The stream is gone.
    pub(crate) fn disconnected(&self) {
        let mut inner = self.lock();
        if inner.line.take().is_some() {
            inner.lost = self.moment(&mut inner).at;
            inner.borrowers.values_mut().for_each(|borrower| borrower.held.leases().disconnected());
            self.tell();
        }
    }

    /// The authority was heard, and the agent has what it has.
    pub(crate) fn heard(&self) {
        let mut inner = self.lock();
        if inner.line.is_some() {
            let now = self.moment(&mut inner);
            inner.heard = now;
            inner.borrowers.values_mut().for_each(|borrower| borrower.held.leases().heard(now.at));
            self.tell();
        }
    }

    /// Leases are over, by the authority's word.
    pub(crate) fn ended(&self, ended: &[LeaseEnded]) {
        let mut inner = self.lock();
        for LeaseEnded { lease, problem } in ended {
            let Ok(lease) = <[u8; 16]>::try_from(lease.as_ref()).map(LeaseId::from_bytes) else { continue };
            if !inner.lent.ended(lease, problem.clone().unwrap_or_default()) {
                inner.borrowers.values_mut().for_each(|borrower| borrower.held.leases().ended(lease));
            }
        }
        self.collect_all(&mut inner);
        self.tell();
    }

    /// An instance has ended, or is withheld: all that was leased for it is over.
    pub(crate) fn instance_over(&self, instance: InstanceId, svid_ends: UnixTime) {
        let mut inner = self.lock();
        inner.over.insert(instance, svid_ends);
        self.drop_borrower(&mut inner, instance);
        self.tell();
    }

    /// An instance that was withheld is no longer.
    pub(crate) fn instance_back(&self, instance: InstanceId) {
        self.lock().over.remove(&instance);
    }

    /// The agent is nobody any more.
    pub(crate) fn all_over(&self) {
        let mut inner = self.lock();
        let all: Vec<(InstanceId, UnixTime)> = inner
            .borrowers
            .iter()
            .map(|(instance, borrower)| (*instance, borrower.credential.not_after()))
            .collect();
        for (instance, svid_ends) in all {
            inner.over.insert(instance, svid_ends);
            self.drop_borrower(&mut inner, instance);
        }
        inner.lent.forget_all();
        self.tell();
    }

    /// A secret for one use of so many bytes, as soon as there is one. `item`: what to ask the authority for.
    pub(crate) async fn borrow(
        &self,
        subject: &Subject,
        (key, context, purpose): (&str, &ContextDigest, Purpose),
        bytes: u64,
        item: impl Fn() -> LeaseItem,
    ) -> Result<Arc<Secret>, Denial> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut changed = {
                let mut inner = self.lock();
                let now = self.moment(&mut inner);
                let inner = &mut *inner;
                if inner.over.contains_key(&subject.instance) {
                    return Err(Denial::IdentityEnded);
                }
                let heard = inner.line.as_ref().map(|_| inner.heard.at);
                let away = inner.line.is_none() && now.at >= inner.lost.saturating_add(PATIENCE);
                let borrower = inner
                    .borrowers
                    .entry(subject.instance)
                    .or_insert_with(|| Borrower::new(subject, heard, now));
                borrower.follow(subject, now);
                let decided = borrower.held.decide(key, context, purpose, bytes, now.at);
                let changed = matches!(decided, Use::Wait).then(|| borrower.changed.subscribe());
                self.collect(&mut inner.outbox, subject.instance, borrower, Some(&item));
                match (decided, changed) {
                    (Use::Now(secret), _) => return Ok(secret),
                    (Use::Refuse(denial), _) => return Err(denial),
                    // Whoever waits does so for a line that may be back in a moment, not for one that has long been away.
                    (Use::Wait, _) if away => return Err(Denial::Unreachable),
                    (Use::Wait, changed) => changed.ok_or(Denial::Busy)?,
                }
            };
            match timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Denial::IdentityEnded),
                Err(_) => return Err(Denial::Unreachable),
            }
        }
    }

    /// Erases what is over, and renews what is due.
    fn tick(&self) {
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        inner.borrowers.values_mut().for_each(|borrower| borrower.held.leases().tick(now.at));
        inner.over.retain(|_, svid_ends| svid_ends.as_secs() > now.wall);
        inner.lent.tick(now.at);
        self.collect_all(&mut inner);
    }

    fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.lent.is_empty()
            && inner.over.is_empty()
            && inner.borrowers.values().all(|borrower| borrower.held.is_empty())
    }

    fn drop_borrower(&self, inner: &mut Inner, instance: InstanceId) {
        if let Some(mut borrower) = inner.borrowers.remove(&instance) {
            borrower.held.leases().identity_ended();
            self.collect(&mut inner.outbox, instance, &mut borrower, None);
        }
        inner.lent.forget(instance);
    }

    fn collect_all(&self, inner: &mut Inner) {
        for (instance, borrower) in &mut inner.borrowers {
            self.collect(&mut inner.outbox, *instance, borrower, None);
        }
    }

    /// Takes what a borrower wants done to the outbox.
    fn collect(
        &self,
        outbox: &mut Outbox,
        instance: InstanceId,
        borrower: &mut Borrower,
        item: Option<&dyn Fn() -> LeaseItem>,
    ) {
        if !borrower.held.has_effects() {
            return;
        }
        for effect in borrower.held.effects() {
            match (effect, item) {
                (Effect::Ask(question), Some(item)) => {
                    let subject = Subject { instance, credential: Arc::clone(&borrower.credential) };
                    outbox.asks.push(Ask { subject, question, item: item() });
                }
                (Effect::Renew(renewal), _) => outbox.renewals.push((instance, renewal)),
                (Effect::Return(used), _) => outbox.give_back(used),
                // Only a use asks, and it says for what.
                (Effect::Ask(_) | Effect::Drop(_), _) => {}
            }
        }
        self.wake.notify_one();
    }

    /// Something that processes with leases want to know.
    fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
        self.wake.notify_one();
    }

    fn moment(&self, inner: &mut Inner) -> Moment {
        let wall = self.clock.now().as_secs();
        Moment { at: inner.timeline.now(self.began.elapsed(), wall), wall }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Borrower {
    /// `heard`: when the authority was, if there is a connection.
    fn new(subject: &Subject, heard: Option<Duration>, now: Moment) -> Self {
        let mut held = Held::new();
        held.leases().identity(ends(&subject.credential, now));
        if let Some(heard) = heard {
            held.leases().connected(heard);
        }
        Self { held, credential: Arc::clone(&subject.credential), changed: watch::Sender::new(0) }
    }

    /// Its SVID may have been renewed.
    fn follow(&mut self, subject: &Subject, now: Moment) {
        if self.credential.not_after() < subject.credential.not_after() {
            self.held.leases().identity(ends(&subject.credential, now));
            self.credential = Arc::clone(&subject.credential);
        }
    }
}

fn ends(credential: &Credential, now: Moment) -> Duration {
    Timeline::at(now.at, now.wall, credential.not_after().as_secs())
}

impl Outbox {
    fn give_back(&mut self, used: Used) {
        if self.returns.len() >= MAX_RETURNS {
            self.returns.pop_front();
        }
        self.returns.push_back(used);
    }
}
