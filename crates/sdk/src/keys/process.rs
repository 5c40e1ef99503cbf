//! Leases of this process: kept fresh by the agent's word, and used without asking anybody.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bonafide_crypto::random::Random;
use bonafide_identity::Clock;
use bonafide_kms::{
    algorithm::KeyType,
    ciphertext::KeyId,
    context::ContextDigest,
    envelope::{DATA_KEY, DataKey},
    key::Local,
    lease::{Denial, Effect, Grant, Held, LeaseId, Purpose, Question, Renewal, Terms, Timeline, Use, Used},
};
use bonafide_wire::{
    kms::{
        LeaseItem, LeaseRequest, LeaseResult, LeaseTerms, LeaseUse, LeasesUpdate, Local as WireLocal,
        RenewLeasesRequest, RenewResult, ReturnLeasesRequest, WatchLeasesRequest, lease_item,
    },
    types::Problem,
};
use bytes::Bytes;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};
use tonic::{Code, Status, Streaming};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Client, refused};
use crate::{Error, backoff::Backoff, endpoint::LeasesClient, error::Ended};

/// How long a lease that was asked for is waited for; then the operation goes over the socket.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a refusal is remembered; and that a key is not for processes.
const REFUSED: Duration = Duration::from_millis(1500);
const NOT_HERE: Duration = Duration::from_secs(5);
/// Looks for what is over.
const TICK: Duration = Duration::from_secs(1);
/// Leases of one question, and of one message about those that are held.
const MAX_ASKED: usize = 64;
const MAX_TOLD: usize = 256;

/// Refusals of a lease that say nothing of the operation: it is done at the agent, or at the authority.
const ELSEWHERE: &[&str] = &[
    "agent.too-many",
    "kms.answer",
    "kms.lease-use",
    "kms.leases-full",
    "kms.local-agent",
    "kms.local-never",
    "kms.no-stream",
    "kms.not-an-envelope",
];

/// What is lent to this process.
#[derive(Debug)]
pub(super) struct Lessee {
    inner: Mutex<Inner>,
    client: Client,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    began: std::time::Instant,
    /// Counts answers.
    changed: watch::Sender<u64>,
    /// There is something to be asked or told.
    wake: Notify,
}

#[derive(Debug)]
struct Inner {
    held: Held<DataKey>,
    timeline: Timeline,
    /// The agent's connection to its authority, by number, while there is one.
    epoch: Option<u64>,
    heard: Duration,
    asks: Vec<(Question, LeaseItem)>,
    renewals: Vec<Renewal>,
    returns: Vec<Used>,
}

/// A moment, by the timeline and by the wall clock.
#[derive(Clone, Copy)]
struct Moment {
    at: Duration,
    wall: i64,
}

/// Follows the agent.
pub(super) struct Lender {
    lessee: Arc<Lessee>,
    client: LeasesClient,
}

impl Lessee {
    pub(super) fn new(client: Client, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        let inner = Inner {
            held: Held::new(),
            timeline: Timeline::new(clock.now().as_secs()),
            epoch: None,
            heard: Duration::ZERO,
            asks: Vec::new(),
            renewals: Vec::new(),
            returns: Vec::new(),
        };
        Self {
            inner: Mutex::new(inner),
            client,
            clock,
            random,
            began: std::time::Instant::now(),
            changed: watch::Sender::new(0),
            wake: Notify::new(),
        }
    }

    pub(super) fn random(&self) -> &dyn Random {
        &*self.random
    }

    pub(super) fn unheard(&self) -> Option<Duration> {
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        inner.epoch.map(|_| now.at.saturating_sub(inner.heard))
    }

    /// A data key for one use of so many bytes, or why there is none. `None`: it is to be done elsewhere. Nothing is locked and
    /// nobody is asked while the caller uses it.
    pub(super) async fn borrow(
        &self,
        (key, context, purpose): (&str, &ContextDigest, Purpose),
        bytes: u64,
        item: impl Fn() -> LeaseItem,
    ) -> Option<Result<Arc<DataKey>, Error>> {
        let mut deadline = None;
        loop {
            let mut changed = {
                let mut inner = self.lock();
                let now = self.moment(&mut inner);
                let decided = inner.held.decide(key, context, purpose, bytes, now.at);
                let changed = matches!(decided, Use::Wait).then(|| self.changed.subscribe());
                self.collect(&mut inner, Some(&item));
                match (decided, changed) {
                    (Use::Now(data_key), _) => return Some(Ok(data_key)),
                    (Use::Refuse(Denial::Refused { code, message, hint }), _)
                        if !ELSEWHERE.contains(&code.as_str()) =>
                    {
                        return Some(Err(refused(&code, &message, &hint)));
                    }
                    // The agent knows better, or says why not.
                    (Use::Refuse(_), _) => return None,
                    (Use::Wait, changed) => changed?,
                }
            };
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            if !matches!(timeout_at(deadline, changed.changed()).await, Ok(Ok(()))) {
                return None;
            }
        }
    }

    /// The agent says how it stands with its authority.
    fn told(&self, update: &LeasesUpdate) {
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        let inner = &mut *inner;
        let leases = inner.held.leases();
        let over = update.ended.iter().filter_map(|ended| lease_id(&ended.lease));
        over.for_each(|lease| leases.ended(lease));
        // Whoever was stopped between sending and reading goes by the clock.
        let since = u64::try_from(now.wall.saturating_sub(update.heard_at)).unwrap_or_default();
        let unheard = Duration::from_millis(update.unheard).max(Duration::from_secs(since));
        let heard = now.at.saturating_sub(unheard);
        let epoch = update.connected.then_some(update.epoch);
        leases.identity(Timeline::at(now.at, now.wall, update.identity_expires_at));
        match epoch {
            Some(_) if inner.epoch == epoch => leases.heard(heard),
            Some(_) => leases.connected(heard),
            None => leases.disconnected(),
        }
        if epoch.is_some() {
            inner.heard = heard;
        }
        inner.epoch = epoch;
        self.collect(inner, None);
        self.changed.send_modify(|count| *count += 1);
    }

    /// The stream is gone. `withdrawn`: and the identity of this process with it.
    fn lost(&self, withdrawn: bool) {
        let mut inner = self.lock();
        inner.epoch = None;
        inner.held.leases().disconnected();
        if withdrawn {
            inner.held.leases().identity_ended();
        }
        self.collect(&mut inner, None);
        self.changed.send_modify(|count| *count += 1);
    }

    fn tick(&self) {
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        inner.held.leases().tick(now.at);
        self.collect(&mut inner, None);
    }

    fn is_idle(&self) -> bool {
        self.lock().held.is_empty()
    }

    fn collect(&self, inner: &mut Inner, item: Option<&dyn Fn() -> LeaseItem>) {
        if !inner.held.has_effects() {
            return;
        }
        for effect in inner.held.effects() {
            match (effect, item) {
                (Effect::Ask(question), Some(item)) => inner.asks.push((question, item())),
                (Effect::Renew(renewal), _) => inner.renewals.push(renewal),
                (Effect::Return(used), _) => inner.returns.push(used),
                // Only a use asks, and it says for what.
                (Effect::Ask(_) | Effect::Drop(_), _) => {}
            }
        }
        self.wake.notify_one();
    }

    /// Asks and tells what there is.
    fn dispatch(self: &Arc<Self>) {
        let mut inner = self.lock();
        let mut asks = std::mem::take(&mut inner.asks);
        while !asks.is_empty() {
            let rest = asks.split_off(asks.len().min(MAX_ASKED));
            tokio::spawn(Arc::clone(self).lease(std::mem::replace(&mut asks, rest)));
        }
        for part in std::mem::take(&mut inner.renewals).chunks(MAX_TOLD) {
            tokio::spawn(Arc::clone(self).renew(part.to_vec()));
        }
        for part in std::mem::take(&mut inner.returns).chunks(MAX_TOLD) {
            let request = ReturnLeasesRequest { leases: part.iter().map(to_use).collect() };
            let mut client = self.client.clone();
            // What is not heard of counts as used up.
            tokio::spawn(async move { client.return_leases(request).await.map(drop) });
        }
    }

    async fn lease(self: Arc<Self>, asks: Vec<(Question, LeaseItem)>) {
        let items = asks.iter().map(|(_, item)| item.clone()).collect();
        let answer = self.client.clone().lease(LeaseRequest { items, on_behalf_of: None }).await;
        let mut results: Vec<Result<LeaseResult, Status>> = match answer {
            Ok(answer) => answer.into_inner().results.into_iter().map(Ok).collect(),
            Err(status) => asks.iter().map(|_| Err(status.clone())).collect(),
        };
        results.resize_with(asks.len(), || Err(Status::unavailable("it holds too few results")));
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        for ((question, item), result) in asks.iter().zip(results) {
            let (held, again) = (&mut inner.held, now.at + REFUSED);
            match result {
                Err(status) if status.code() == Code::Unavailable => held.leases().failed(question, again),
                Err(status) => held.leases().refused(question, denial(Error::of_status(&status)), again),
                Ok(LeaseResult { problem: Some(problem), .. }) => {
                    let elsewhere = ELSEWHERE.contains(&problem.code.as_str());
                    let again = if elsewhere { now.at + NOT_HERE } else { again };
                    held.leases().refused(question, denial(super::answers::of_problem(problem)), again);
                }
                Ok(result) => match granted(result, item, &question.want.context, now) {
                    Some((grant, revision, data_key)) => {
                        held.granted(question, grant, revision, data_key, now.at);
                    }
                    None => held.leases().refused(question, denial(unfit()), now.at + NOT_HERE),
                },
            }
        }
        self.collect(&mut inner, None);
        self.changed.send_modify(|count| *count += 1);
    }

    async fn renew(self: Arc<Self>, renewals: Vec<Renewal>) {
        let leases = renewals.iter().map(|renewal| to_use(&renewal.used)).collect();
        let answer = self.client.clone().renew_leases(RenewLeasesRequest { leases }).await;
        let results = answer.map(|answer| answer.into_inner().results).unwrap_or_default();
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        let whole = results.len() == renewals.len();
        for (index, renewal) in renewals.iter().enumerate() {
            let leases = inner.held.leases();
            match results.get(index).filter(|_| whole) {
                Some(RenewResult { problem: None, terms: Some(terms) }) => {
                    leases.renewed(renewal, to_terms(terms, now), now.at);
                }
                Some(_) => leases.ended(renewal.used.lease),
                None => leases.renewal_failed(renewal, now.at),
            }
        }
        self.collect(&mut inner, None);
        self.changed.send_modify(|count| *count += 1);
    }

    fn moment(&self, inner: &mut Inner) -> Moment {
        let wall = self.clock.now().as_secs();
        Moment { at: inner.timeline.now(self.began.elapsed(), wall), wall }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lender {
    pub(super) fn new(lessee: Arc<Lessee>, client: LeasesClient) -> Self {
        Self { lessee, client }
    }

    /// Opens the stream, and takes in its first message.
    pub(super) async fn open(&self) -> Result<Streaming<LeasesUpdate>, Status> {
        let mut stream = self.client.clone().watch(WatchLeasesRequest {}).await?.into_inner();
        let first = stream.message().await?.ok_or_else(|| Status::unavailable("it ended the stream"))?;
        self.lessee.told(&first);
        Ok(stream)
    }

    /// Keeps what is lent fresh. What is held while the agent is away can be used as far as each key lets it.
    pub(super) async fn follow(self, mut stream: Streaming<LeasesUpdate>, mut backoff: Backoff) {
        loop {
            backoff.reset();
            let ended = loop {
                tokio::select! {
                    message = stream.message() => match message {
                        Ok(Some(update)) => self.lessee.told(&update),
                        Ok(None) => break Status::unavailable("the agent ended the stream"),
                        Err(status) => break status,
                    },
                    () = self.housekeeping() => {}
                }
            };
            let Ended { error, withdrawn } = Ended::of_status(&ended);
            tracing::warn!(code = error.code(), %error, "the agent tells nothing of leases; what is lent goes on for a while");
            self.lessee.lost(withdrawn);
            stream = loop {
                let again = Instant::now() + backoff.next().max(Duration::from_millis(10));
                while timeout_at(again, self.housekeeping()).await.is_ok() {}
                match self.open().await {
                    Ok(stream) => break stream,
                    Err(status) => self.lessee.lost(Ended::of_status(&status).withdrawn),
                }
            };
        }
    }

    /// Waits until there is something to do, and does it.
    async fn housekeeping(&self) {
        let idle = self.lessee.is_idle();
        tokio::select! {
            () = self.lessee.wake.notified() => {}
            () = sleep(TICK), if !idle => self.lessee.tick(),
        }
        self.lessee.dispatch();
    }
}

/// Reads an answer to `item`: nothing is believed that was not asked for, nor used that is not for processes.
fn granted(
    result: LeaseResult,
    item: &LeaseItem,
    context: &ContextDigest,
    now: Moment,
) -> Option<(Grant, u64, DataKey)> {
    let LeaseResult { lease, key_id, r#type, version, data_key, wrapped, terms, .. } = result;
    let (key, key_type) = (KeyId::from_bytes((*key_id).try_into().ok()?), KeyType::from_name(&r#type)?);
    let terms = terms.filter(|terms| terms.local == i32::from(WireLocal::Process))?;
    if let Some(lease_item::Use::Decrypt(asked)) = &item.r#use
        && (&asked.wrapped, asked.version) != (&wrapped, version)
    {
        return None;
    }
    let plain: Option<Zeroizing<[u8; DATA_KEY]>> = (*data_key).try_into().ok().map(Zeroizing::new);
    if let Ok(mut data_key) = data_key.try_into_mut() {
        data_key.as_mut().zeroize();
    }
    let data_key = DataKey::new(key_type, key, version, context, &*plain?, &wrapped).ok()?;
    let lease = lease_id(&lease)?;
    let grant = Grant { lease, key, version, local: Local::Process, terms: to_terms(&terms, now) };
    Some((grant, terms.revision, data_key))
}

fn lease_id(bytes: &[u8]) -> Option<LeaseId> {
    bytes.try_into().ok().map(LeaseId::from_bytes)
}

fn to_terms(terms: &LeaseTerms, now: Moment) -> Terms {
    let at = |moment| Timeline::at(now.at, now.wall, moment);
    Terms {
        ends: at(terms.expires_at),
        renew_after: at(terms.renew_after),
        messages: terms.max_messages,
        bytes: terms.max_bytes,
        max_stale: Duration::from_secs(terms.max_stale.into()),
    }
}

fn to_use(used: &Used) -> LeaseUse {
    let Used { lease, messages, bytes } = *used;
    LeaseUse { lease: Bytes::copy_from_slice(lease.as_bytes()), messages, bytes }
}

fn unfit() -> Error {
    super::answers::of_problem(Problem {
        code: "kms.answer".to_owned(),
        message: "the agent has lent something else than what was asked".to_owned(),
        hint: "check that agent and SDK are of versions that go together".to_owned(),
    })
}

fn denial(error: Error) -> Denial {
    let hint = error.hint().into_owned();
    Denial::Refused { code: error.code().to_owned(), message: error.to_string(), hint }
}
