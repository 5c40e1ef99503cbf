//! Data keys that are lent for a time: the borrower's side, as a state machine for one holder (a workload's instance at its
//! agent, or a workload's own process).
//!
//! A lease is for one key, version, context and purpose. The secrets themselves are not here: the driver keeps them by
//! [`EntryId`], puts one in when [`Leases::granted`] says so, and drops it on [`Effect::Drop`]. What holds:
//!
//! - **Ceilings** of age, messages and bytes are taken before the use, not counted after it.
//! - **Renewal** is asked at about two thirds of any ceiling, only for what was used, and once at a time. So is a new lease.
//! - **The feed** of what has ended must be heard: who has heard nothing for `max_stale` refuses. After a new connection nothing is
//!   fresh until it was renewed there, because what ended in between was told to nobody.
//! - **What ends before it arrives** never begins: an end may overtake its grant.
//! - **The identity**: nothing is used beyond its end.

mod denial;
mod entry;
mod held;
mod timeline;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

pub use self::denial::Denial;
use self::entry::Entry;
pub use self::held::{Held, Use};
pub use self::timeline::Timeline;
use crate::ciphertext::{KeyId, WrappedDigest};
use crate::context::ContextDigest;
use crate::key::Local;

/// Leases of one holder.
pub const MAX_LEASES: usize = 1024;
/// Questions to the authority at a time.
pub const MAX_PENDING: usize = 256;
/// Refusals that are remembered.
const MAX_REFUSED: usize = 1024;
/// A question without an answer is forgotten, and can be asked again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Ends of leases that nobody knows here. If there are more, no grant that is on its way is believed.
const MAX_EARLY: usize = 4096;

/// Stands for a lease and its secret, at its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(u64);

/// Stands for a lease at the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId([u8; 16]);

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A fresh data key, to encrypt with.
    Encrypt,
    /// The data key of something that was encrypted.
    Decrypt(WrappedDigest),
    /// Public keys, to verify with.
    Verify,
}

/// What a caller needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Want {
    /// The key, as the caller calls it.
    pub key: String,
    /// The context.
    pub context: ContextDigest,
    /// What for.
    pub purpose: Purpose,
}

/// What the authority has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease.
    pub lease: LeaseId,
    /// Which key.
    pub key: KeyId,
    /// Which version.
    pub version: u32,
    /// Where its secret may be.
    pub local: Local,
    /// For how long and how much.
    pub terms: Terms,
}

/// What a lease is good for. Times are of the holder's clock, as all here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Nothing after that.
    pub ends: Duration,
    /// When to ask for more.
    pub renew_after: Duration,
    /// Messages in all, from its beginning on.
    pub messages: u64,
    /// Bytes in all, from its beginning on.
    pub bytes: u64,
    /// How long nothing may have been heard.
    pub max_stale: Duration,
}

/// What was used of a lease, from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The lease.
    pub lease: LeaseId,
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A question for a lease. Its ticket tells a late answer from one to the same question, asked again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Comes once.
    pub ticket: u64,
    /// What is wanted.
    pub want: Want,
}

/// A question whether a lease may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Comes once.
    pub ticket: u64,
    /// What was used so far.
    pub used: Used,
}

/// Whether a caller may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// With this secret. It has been counted.
    Use(EntryId),
    /// An answer is on its way: ask again when something has changed.
    Wait,
    /// Not now.
    Refuse(Denial),
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the authority for a lease; then tell [`Leases::granted`], [`Leases::refused`] or [`Leases::failed`].
    Ask(Question),
    /// Tell the authority what was used and ask for more; then [`Leases::renewed`], [`Leases::ended`] or
    /// [`Leases::renewal_failed`].
    Renew(Renewal),
    /// Tell the authority what was used in the end.
    Return(Used),
    /// Erase the secret.
    Drop(EntryId),
}

/// The leases of one holder.
#[derive(Debug, Default)]
pub struct Leases {
    entries: HashMap<EntryId, Entry>,
    by_want: HashMap<String, HashMap<(ContextDigest, Purpose), EntryId>>,
    by_lease: HashMap<LeaseId, EntryId>,
    pending: HashMap<Want, Pending>,
    refused: HashMap<Want, (Duration, Denial)>,
    /// What ended while a question was open.
    early: HashSet<LeaseId>,
    effects: Vec<Effect>,
    /// Numbers entries and tickets.
    last: u64,
    connected: bool,
    /// Counts connections.
    epoch: u64,
    /// When the authority was last heard on this connection.
    heard: Duration,
    identity_ends: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    ticket: u64,
    asked: Duration,
    epoch: u64,
    /// Something ended meanwhile, and nobody knows any more what.
    spoiled: bool,
}

impl LeaseId {
    /// An ID from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// When to renew what is granted from `now` to `ends`: at two thirds, up to a twelfth earlier by chance, so that what began
/// together does not go on together. `chance` is any number.
#[must_use]
pub fn renew_after(now: Duration, ends: Duration, chance: u16) -> Duration {
    let life = ends.saturating_sub(now);
    let earlier = (life / 12).mul_f64(f64::from(chance) / f64::from(u16::MAX));
    now + (life * 2 / 3).saturating_sub(earlier)
}

impl Leases {
    /// No leases, no connection, no identity.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to use `bytes` once. This is the hot path: without allocation as long as a lease is there.
    pub fn decide(
        &mut self,
        key: &str,
        context: &ContextDigest,
        purpose: Purpose,
        bytes: u64,
        now: Duration,
    ) -> Decision {
        if self.identity_ends.is_none_or(|end| now >= end) {
            return Decision::Refuse(Denial::IdentityEnded);
        }
        let held = self.by_want.get(key).and_then(|of_key| of_key.get(&(*context, purpose))).copied();
        let Some(id) = held else { return self.ask(key, context, purpose, now) };
        let Some(entry) = self.entries.get_mut(&id) else { return Decision::Wait };
        if bytes > entry.terms.bytes {
            return Decision::Refuse(Denial::TooLarge);
        }
        let heard = if entry.epoch == self.epoch { self.heard } else { entry.heard };
        if now > heard.saturating_add(entry.terms.max_stale) {
            // On a new connection it may be confirmed in a moment.
            if !self.connected || entry.epoch == self.epoch {
                return Decision::Refuse(Denial::Stale);
            }
            self.renew(id, now);
            return Decision::Wait;
        }
        if now >= entry.terms.ends || !entry.take(bytes, now) {
            self.end(id);
            return self.ask(key, context, purpose, now);
        }
        if self.connected && entry.wants_renewal(now) {
            self.renew(id, now);
        }
        Decision::Use(id)
    }

    /// A lease was granted to a question of ours. `Some`: keep its secret under this ID. `None`: it comes too late, or has ended
    /// already; drop the secret.
    pub fn granted(&mut self, question: &Question, grant: Grant, now: Duration) -> Option<EntryId> {
        let pending = self.answered(question);
        let overtaken = self.early.contains(&grant.lease);
        self.forget_early();
        let alive = self.identity_ends.is_some_and(|end| now < end) && now < grant.terms.ends;
        let known = self.by_lease.contains_key(&grant.lease);
        let pending = pending.filter(|pending| alive && !known && !overtaken && !pending.spoiled);
        let Some(pending) = pending else {
            if !known && !overtaken {
                self.effects.push(Effect::Return(Used { lease: grant.lease, messages: 0, bytes: 0 }));
            }
            return None;
        };
        if self.entries.len() >= MAX_LEASES
            && let Some((oldest, _)) = self.entries.iter().min_by_key(|(id, entry)| (entry.last_used, **id))
        {
            self.end(*oldest);
        }
        let id = EntryId(self.number());
        // Granted on another connection: what was told since the question may have been told to nobody.
        let current = pending.epoch == self.epoch;
        let heard = if current { self.heard } else { pending.asked };
        let want = question.want.clone();
        let of_key = self.by_want.entry(want.key.clone()).or_default();
        let before = of_key.insert((want.context, want.purpose), id);
        self.by_lease.insert(grant.lease, id);
        self.entries.insert(id, Entry::new(want, grant, pending.epoch, heard, now));
        if let Some(before) = before {
            self.end(before);
        }
        if !current && self.connected {
            self.renew(id, now);
        }
        Some(id)
    }

    /// The authority has said no. The same answer is given until `again`, one to five seconds later, without asking.
    pub fn refused(&mut self, question: &Question, denial: Denial, again: Duration) {
        let Some(_) = self.answered(question) else { return };
        self.forget_early();
        if self.refused.len() >= MAX_REFUSED {
            self.refused.clear();
        }
        self.refused.insert(question.want.clone(), (again, denial));
    }

    /// The authority could not be asked.
    pub fn failed(&mut self, question: &Question, again: Duration) {
        self.refused(question, Denial::Unreachable, again);
    }

    /// A lease goes on, with new terms.
    pub fn renewed(&mut self, renewal: &Renewal, terms: Terms, now: Duration) {
        let Some(id) = self.by_lease.get(&renewal.used.lease).copied() else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(asked_in) = entry.renewed(renewal.ticket, terms) else { return };
        if asked_in == self.epoch {
            entry.epoch = asked_in;
        } else if self.connected {
            // The answer is of a connection that is gone.
            self.renew(id, now);
        }
    }

    /// The renewal could not be asked. It is tried again, ever sooner before the end.
    pub fn renewal_failed(&mut self, renewal: &Renewal, now: Duration) {
        let id = self.by_lease.get(&renewal.used.lease);
        if let Some(entry) = id.and_then(|id| self.entries.get_mut(id)) {
            entry.renewal_failed(renewal.ticket, now);
        }
    }

    /// A lease has ended: it was revoked, superseded, or is unknown there. The next use asks for a new one.
    pub fn ended(&mut self, lease: LeaseId) {
        if let Some(id) = self.by_lease.get(&lease).copied() {
            self.end(id);
        } else if !self.pending.is_empty() {
            if self.early.len() >= MAX_EARLY {
                self.pending.values_mut().for_each(|pending| pending.spoiled = true);
                self.early.clear();
            }
            self.early.insert(lease);
        }
    }

    /// The authority was heard, on the connection that stands.
    pub fn heard(&mut self, now: Duration) {
        if self.connected {
            self.heard = self.heard.max(now);
        }
    }

    /// There is a new connection, on which ends of leases will be told. All that is held is renewed there.
    pub fn connected(&mut self, now: Duration) {
        self.disconnected();
        self.connected = true;
        self.epoch += 1;
        self.heard = now;
        for entry in self.entries.values_mut() {
            self.last += 1;
            self.effects.push(Effect::Renew(entry.ask(self.last, self.epoch, now)));
        }
    }

    /// The connection is gone. What is held can be used as long as it is not stale.
    pub fn disconnected(&mut self) {
        if !self.connected {
            return;
        }
        self.connected = false;
        for entry in self.entries.values_mut().filter(|entry| entry.epoch == self.epoch) {
            entry.heard = self.heard;
        }
        // What is granted or renewed from now on is not of a connection that stands.
        self.epoch += 1;
    }

    /// The holder's identity is good until then.
    pub fn identity(&mut self, ends: Duration) {
        self.identity_ends = Some(ends);
    }

    /// The holder's identity has ended: all leases with it.
    pub fn identity_ended(&mut self) {
        self.identity_ends = None;
        self.pending.clear();
        self.early.clear();
        self.refused.clear();
        let all: Vec<EntryId> = self.entries.keys().copied().collect();
        all.into_iter().for_each(|id| self.end(id));
    }

    /// Does what time asks for: ends what is over, renews what was used, forgets questions without an answer.
    pub fn tick(&mut self, now: Duration) {
        if self.identity_ends.is_some_and(|end| now >= end) {
            self.identity_ended();
            return;
        }
        let over: Vec<EntryId> =
            self.entries.iter().filter(|(_, entry)| now >= entry.terms.ends).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end(id));
        if self.connected {
            for entry in self.entries.values_mut().filter(|entry| entry.wants_renewal(now)) {
                self.last += 1;
                self.effects.push(Effect::Renew(entry.ask(self.last, self.epoch, now)));
            }
        }
        self.pending.retain(|_, pending| now < pending.asked.saturating_add(PATIENCE));
        self.forget_early();
        self.refused.retain(|_, (until, _)| now < *until);
    }

    /// When [`Self::tick`] has something to do next.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        let entries = self.entries.values().map(|entry| entry.next_due(self.connected));
        let pending = self.pending.values().map(|pending| pending.asked.saturating_add(PATIENCE));
        entries.chain(pending).chain(self.identity_ends).min()
    }

    /// What is to be done since the last call.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether there is something to be done.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// What was granted under this ID.
    #[must_use]
    pub fn grant(&self, id: EntryId) -> Option<Grant> {
        self.entries.get(&id).map(Entry::grant)
    }

    /// What was used of everything that is held.
    #[must_use]
    pub fn used(&self) -> Vec<Used> {
        self.entries.values().map(Entry::used).collect()
    }

    fn ask(&mut self, key: &str, context: &ContextDigest, purpose: Purpose, now: Duration) -> Decision {
        let want = Want { key: key.to_owned(), context: *context, purpose };
        match self.refused.get(&want) {
            Some((until, denial)) if now < *until => return Decision::Refuse(denial.clone()),
            _ => self.refused.remove(&want),
        };
        if !self.connected {
            return Decision::Refuse(Denial::Unreachable);
        }
        match self.pending.get(&want) {
            Some(pending) if now < pending.asked.saturating_add(PATIENCE) => return Decision::Wait,
            _ => {}
        }
        if self.pending.len() >= MAX_PENDING {
            return Decision::Refuse(Denial::Busy);
        }
        let ticket = self.number();
        self.pending.insert(want.clone(), Pending { ticket, asked: now, epoch: self.epoch, spoiled: false });
        self.effects.push(Effect::Ask(Question { ticket, want }));
        Decision::Wait
    }

    /// Takes an open question away, if this is the one.
    fn answered(&mut self, question: &Question) -> Option<Pending> {
        let open = self.pending.get(&question.want).filter(|pending| pending.ticket == question.ticket);
        open?;
        self.pending.remove(&question.want)
    }

    fn renew(&mut self, id: EntryId, now: Duration) {
        let ticket = self.number();
        if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.may_ask(now)) {
            self.effects.push(Effect::Renew(entry.ask(ticket, self.epoch, now)));
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Drops an entry, and tells what was used of it.
    fn end(&mut self, id: EntryId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.by_lease.remove(&entry.lease());
        let Want { key, context, purpose } = entry.want();
        if let Some(of_key) = self.by_want.get_mut(key)
            && of_key.get(&(*context, *purpose)) == Some(&id)
        {
            of_key.remove(&(*context, *purpose));
            if of_key.is_empty() {
                self.by_want.remove(key);
            }
        }
        self.effects.push(Effect::Drop(id));
        self.effects.push(Effect::Return(entry.used()));
    }

    /// Without a question there is no grant that could be overtaken.
    fn forget_early(&mut self) {
        if self.pending.is_empty() {
            self.early.clear();
        }
    }
}
