//! One lease.

use std::time::Duration;

use super::{Grant, LeaseId, Renewal, Terms, Used, Want};

/// An answer to a renewal that takes longer is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts, at least.
const MIN_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Entry {
    want: Want,
    grant: Grant,
    /// The newest.
    pub(super) terms: Terms,
    /// On which connection it was granted or renewed.
    pub(super) epoch: u64,
    /// When the authority was last heard on that, if it is gone.
    pub(super) heard: Duration,
    pub(super) last_used: Duration,
    messages: u64,
    bytes: u64,
    /// Used since it was granted or renewed.
    used_since: bool,
    asked: Option<Asked>,
    /// Not to be asked before.
    not_before: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: u64,
    at: Duration,
    epoch: u64,
}

impl Entry {
    pub(super) fn new(want: Want, grant: Grant, epoch: u64, heard: Duration, now: Duration) -> Self {
        Self {
            want,
            grant,
            terms: grant.terms,
            epoch,
            heard,
            last_used: now,
            messages: 0,
            bytes: 0,
            used_since: false,
            asked: None,
            not_before: Duration::ZERO,
        }
    }

    pub(super) fn want(&self) -> &Want {
        &self.want
    }

    pub(super) fn lease(&self) -> LeaseId {
        self.grant.lease
    }

    pub(super) fn grant(&self) -> Grant {
        Grant { terms: self.terms, ..self.grant }
    }

    pub(super) fn used(&self) -> Used {
        Used { lease: self.grant.lease, messages: self.messages, bytes: self.bytes }
    }

    /// Counts one use; false if that would be above a ceiling.
    pub(super) fn take(&mut self, bytes: u64, now: Duration) -> bool {
        let sum = self.bytes.checked_add(bytes).filter(|sum| *sum <= self.terms.bytes);
        let (Some(bytes), true) = (sum, self.messages < self.terms.messages) else { return false };
        self.bytes = bytes;
        self.messages += 1;
        self.last_used = now;
        self.used_since = true;
        true
    }

    /// Whether it is time to renew it: it was used, and two thirds of a ceiling are behind.
    pub(super) fn wants_renewal(&self, now: Duration) -> bool {
        let due = now >= self.terms.renew_after || self.is_worn();
        due && self.used_since && self.may_ask(now)
    }

    /// Whether it can be asked now: nothing is on its way, and nothing has just failed.
    pub(super) fn may_ask(&self, now: Duration) -> bool {
        let waits = self.asked.is_some_and(|asked| now < asked.at.saturating_add(PATIENCE));
        !waits && now >= self.not_before
    }

    /// Asks, whatever was asked before.
    pub(super) fn ask(&mut self, ticket: u64, epoch: u64, now: Duration) -> Renewal {
        self.asked = Some(Asked { ticket, at: now, epoch });
        Renewal { ticket, used: self.used() }
    }

    /// An answer has come. `Some`: to the question that is open, which was asked on this connection.
    pub(super) fn renewed(&mut self, ticket: u64, terms: Terms) -> Option<u64> {
        let asked = self.asked.take_if(|asked| asked.ticket == ticket)?;
        (self.terms, self.used_since, self.not_before) = (terms, false, Duration::ZERO);
        Some(asked.epoch)
    }

    pub(super) fn renewal_failed(&mut self, ticket: u64, now: Duration) {
        if self.asked.take_if(|asked| asked.ticket == ticket).is_some() {
            let left = self.terms.ends.saturating_sub(now);
            self.not_before = now.saturating_add((left / 8).max(MIN_PAUSE));
        }
    }

    /// When something is to be done about it next.
    pub(super) fn next_due(&self, connected: bool) -> Duration {
        if !connected || !self.used_since {
            return self.terms.ends;
        }
        let due = if self.is_worn() { Duration::ZERO } else { self.terms.renew_after };
        let answer = self.asked.map_or(Duration::ZERO, |asked| asked.at.saturating_add(PATIENCE));
        due.max(answer).max(self.not_before).min(self.terms.ends)
    }

    /// Two thirds of its messages or bytes are used.
    fn is_worn(&self) -> bool {
        let worn = |used: u64, most: u64| used >= most / 3 * 2 + most % 3;
        worn(self.messages, self.terms.messages) || worn(self.bytes, self.terms.bytes)
    }
}
