//! Leases that processes hold themselves.
//!
//! The agent passes them on and remembers whose they are; the keys it does not keep. What a process says that it has used is its own
//! word. What it does not say counts as used up, so nothing is told in its place when it ends.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bonafide_identity::InstanceId;
use bonafide_kms::{
    key::Local,
    lease::{LeaseId, Used},
};
use bonafide_wire::{
    kms::{
        EndedLease, LeaseItem, LeaseRequest, LeaseResponse, LeaseResult, LeaseUse, LeasesUpdate,
        RenewLeasesResponse, RenewResult, lease_item,
    },
    types::Problem,
};
use bytes::Bytes;
use tokio::sync::watch;

use super::{NodeKeys, Subject, courier, letter, remote};
use crate::refusal::Refusal;

/// Leases of the processes of one instance: as many as the authority gives it.
const MAX_OF_INSTANCE: usize = 1024;
/// Ends of leases that nobody knows here while questions are open. If there are more, no answer is passed on.
const MAX_EARLY: usize = 4096;

/// What processes hold.
#[derive(Debug, Default)]
pub(super) struct Lent {
    leases: HashMap<LeaseId, Loan>,
    watchers: HashMap<u64, Watching>,
    last: u64,
    /// Questions that are open.
    open: usize,
    early: HashSet<LeaseId>,
    spoiled: bool,
}

#[derive(Debug)]
struct Loan {
    instance: InstanceId,
    ends: Duration,
    messages: u64,
    bytes: u64,
}

/// A process that is told what has ended.
#[derive(Debug)]
struct Watching {
    instance: InstanceId,
    ended: Vec<EndedLease>,
}

/// One stream to a process, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    keys: std::sync::Arc<NodeKeys>,
    number: u64,
    news: watch::Receiver<u64>,
}

impl Lent {
    /// Whether it was one of a process. If so, that is told.
    pub(super) fn ended(&mut self, lease: LeaseId, problem: Problem) -> bool {
        let Some(loan) = self.leases.remove(&lease) else {
            if self.open > 0 {
                self.spoiled |= self.early.len() >= MAX_EARLY;
                if !self.spoiled {
                    self.early.insert(lease);
                }
            }
            return false;
        };
        let told = EndedLease { lease: Bytes::copy_from_slice(lease.as_bytes()), problem: Some(problem) };
        for watching in self.watchers.values_mut().filter(|watching| watching.instance == loan.instance) {
            watching.ended.push(told.clone());
        }
        true
    }

    /// An instance has ended. Its streams find out.
    pub(super) fn forget(&mut self, instance: InstanceId) {
        self.leases.retain(|_, loan| loan.instance != instance);
    }

    pub(super) fn forget_all(&mut self) {
        self.leases.clear();
    }

    pub(super) fn tick(&mut self, now: Duration) {
        self.leases.retain(|_, loan| now < loan.ends);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// What this instance's process has used in all, as far as it is known: it does not take back what it has said.
    fn used(&mut self, instance: InstanceId, said: &LeaseUse) -> Option<Used> {
        let lease = letter::lease_id(&said.lease)?;
        let loan = self.leases.get_mut(&lease).filter(|loan| loan.instance == instance)?;
        loan.messages = loan.messages.max(said.messages);
        loan.bytes = loan.bytes.max(said.bytes);
        Some(Used { lease, messages: loan.messages, bytes: loan.bytes })
    }

    fn answered(&mut self) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.early.clear();
            self.spoiled = false;
        }
    }
}

impl NodeKeys {
    /// Leases for the process itself. What may not be there is given back, and refused.
    pub(crate) async fn lend(
        &self,
        subject: &Subject,
        items: Vec<LeaseItem>,
    ) -> Result<LeaseResponse, Refusal> {
        {
            let mut inner = self.lock();
            let held = inner.lent.leases.values().filter(|loan| loan.instance == subject.instance).count();
            if held.saturating_add(items.len()) > MAX_OF_INSTANCE {
                return Err(Refusal::too_many("leases of one process", MAX_OF_INSTANCE));
            }
            inner.lent.open += 1;
        }
        let asking = Asking(self);
        let public: Vec<bool> =
            items.iter().map(|item| matches!(item.r#use, Some(lease_item::Use::Verify(_)))).collect();
        let request = LeaseRequest { items, on_behalf_of: None };
        let mut answer: LeaseResponse = self.ask(subject, request, remote!(lease)).await?;
        if answer.results.len() != public.len() {
            return Err(Refusal::key_answer());
        }
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        let over = inner.over.contains_key(&subject.instance);
        for (result, public) in answer.results.iter_mut().zip(public) {
            if result.problem.is_some() {
                continue;
            }
            let (Some(lease), Some(terms)) = (letter::lease_id(&result.lease), result.terms) else {
                *result = refused(&Refusal::key_answer());
                continue;
            };
            let may_be_there = public || letter::local(&terms) == Some(Local::Process);
            let ended = inner.lent.spoiled || inner.lent.early.contains(&lease);
            if over || !may_be_there || ended {
                if !ended {
                    inner.outbox.give_back(Used { lease, messages: 0, bytes: 0 });
                }
                let refusal =
                    if may_be_there { Refusal::key_identity_ended() } else { Refusal::key_stays_in_agent() };
                letter::erase(std::mem::take(&mut result.data_key));
                *result = refused(&refusal);
                continue;
            }
            let ends = letter::to_terms(&terms, now).ends;
            let loan = Loan { instance: subject.instance, ends, messages: 0, bytes: 0 };
            inner.lent.leases.insert(lease, loan);
        }
        drop(inner);
        drop(asking);
        self.wake.notify_one();
        Ok(answer)
    }

    /// Renews what a process holds. What it does not hold is unknown, whosever it is.
    pub(crate) async fn renew_lent(
        &self,
        subject: &Subject,
        said: &[LeaseUse],
    ) -> Result<RenewLeasesResponse, Refusal> {
        let (client, known): (_, Vec<Option<Used>>) = {
            let mut inner = self.lock();
            let line = inner.line.as_ref().ok_or_else(Refusal::keys_unreachable)?;
            let client = line.client.clone();
            (client, said.iter().map(|one| inner.lent.used(subject.instance, one)).collect())
        };
        let uses: Vec<LeaseUse> = known.iter().flatten().map(letter::to_use).collect();
        let mut answers = match uses.is_empty() {
            true => Vec::new(),
            false => courier::renew(client, uses).await?,
        }
        .into_iter();
        let mut inner = self.lock();
        let now = self.moment(&mut inner);
        let unknown = || Err(Refusal::lease_unknown().to_problem());
        let mut results = Vec::with_capacity(known.len());
        for used in known {
            let answer = match &used {
                Some(_) => answers.next().unwrap_or_else(unknown),
                None => unknown(),
            };
            let lease = used.map(|used| used.lease);
            results.push(match (answer, lease) {
                (Ok(terms), Some(lease)) => match inner.lent.leases.get_mut(&lease) {
                    Some(loan) => {
                        loan.ends = letter::to_terms(&terms, now).ends;
                        RenewResult { problem: None, terms: Some(terms) }
                    }
                    // It has ended while the answer was on its way.
                    None => RenewResult { problem: unknown().err(), terms: None },
                },
                (Ok(_), None) => RenewResult { problem: unknown().err(), terms: None },
                (Err(problem), lease) => {
                    if let Some(lease) = lease {
                        inner.lent.leases.remove(&lease);
                    }
                    RenewResult { problem: Some(problem), terms: None }
                }
            });
        }
        Ok(RenewLeasesResponse { results })
    }

    /// A process has done with what it held.
    pub(crate) fn take_back(&self, subject: &Subject, said: &[LeaseUse]) {
        let mut inner = self.lock();
        for one in said {
            if let Some(used) = inner.lent.used(subject.instance, one) {
                inner.lent.leases.remove(&used.lease);
                inner.outbox.give_back(used);
            }
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Begins to note what ends of an instance's.
    pub(crate) fn watch(self: &std::sync::Arc<Self>, instance: InstanceId) -> Watcher {
        let mut inner = self.lock();
        inner.lent.last += 1;
        let number = inner.lent.last;
        inner.lent.watchers.insert(number, Watching { instance, ended: Vec::new() });
        Watcher { keys: std::sync::Arc::clone(self), number, news: self.news.subscribe() }
    }
}

impl Watcher {
    /// What is to be told now. `None`: the instance has ended.
    pub(crate) fn update(&mut self) -> Option<LeasesUpdate> {
        self.news.mark_unchanged();
        let mut inner = self.keys.lock();
        let now = self.keys.moment(&mut inner);
        let inner = &mut *inner;
        let watching = inner.lent.watchers.get_mut(&self.number)?;
        if inner.over.contains_key(&watching.instance) {
            return None;
        }
        let unheard = now.at.saturating_sub(inner.heard.at);
        Some(LeasesUpdate {
            epoch: inner.epoch,
            connected: inner.line.is_some(),
            unheard: u64::try_from(unheard.as_millis()).unwrap_or(u64::MAX),
            heard_at: inner.heard.wall,
            identity_expires_at: 0,
            ended: std::mem::take(&mut watching.ended),
        })
    }

    /// Returns when there may be something.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as `keys`.
        let _ = self.news.changed().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.keys.lock().lent.watchers.remove(&self.number);
    }
}

/// A question that is open, also when nobody waits for its answer any more.
struct Asking<'a>(&'a NodeKeys);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.lock().lent.answered();
    }
}

fn refused(refusal: &Refusal) -> LeaseResult {
    LeaseResult { problem: Some(refusal.to_problem()), ..LeaseResult::default() }
}
