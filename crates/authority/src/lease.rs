//! Leases: work that one server at a time is to do. A record with an epoch, checked in the commit of whatever is done under
//! it, so that a server that hung, or whose clock is wrong, can't commit under an epoch that is over.
//!
//! A lease is taken when there is work, and then runs out: a server that has nothing to do writes nothing. The commit
//! decides, not the holder's belief: everything that is done under a lease is evaluated, with [`check`], on the very
//! state that it is committed on.
//!
//! Not all that only one server should do needs one. Whatever is a single commit that asks again whether it is due
//! (activating a key, removing what has expired) is done once by itself. A lease is for work that leaves traces before it is
//! committed: a key that was drawn stands in a ledger.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bonafide_identity::time::{Clock, UnixTime};

use crate::records::{Lease, Object, RecordChange};
use crate::refusal::Refusal;
use crate::registry::Registry;

/// How long a lease lasts. Much longer than a key takes to be drawn and committed; no longer than others can wait.
const TERM: Duration = Duration::from_secs(30);
/// One that has less left is taken again before it is used.
const MARGIN: Duration = Duration::from_secs(10);

/// The right to do the work, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    epoch: u64,
    until: UnixTime,
}

/// Somebody else has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// By the holder's clock.
    pub(crate) until: UnixTime,
}

/// One server's side of one lease.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    name: Arc<str>,
    server: Arc<str>,
    term: Arc<Mutex<Option<Term>>>,
}

/// What a server that wants to work does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It has time left.
    Work(Term),
    /// Take it, or take it again.
    Take,
}

/// Whether a term that is believed to be held is long enough to begin something.
fn next(term: Option<Term>, now: UnixTime) -> Next {
    match term {
        // A clock that went back would make a short term look long.
        Some(term) if term.until.since(now) >= MARGIN && term.until.since(now) <= TERM => Next::Work(term),
        _ => Next::Take,
    }
}

/// The record that gives the lease to `server`, if it is free: nobody's, run out, or its own. One that lasts longer than a
/// term can is of a clock that was ahead, and would keep everybody from the work until that moment: it is free too.
///
/// The epoch stays only as long as the holder keeps it without a gap.
fn take(record: Option<&Lease>, server: &str, now: UnixTime) -> Result<Lease, Taken> {
    let until = now.saturating_add(TERM);
    let lease = |epoch| Lease { holder: server.to_owned(), epoch, expires_at: until.as_secs() };
    let Some(record) = record else { return Ok(lease(1)) };
    let left = UnixTime::from_secs(record.expires_at).since(now);
    let alive = !left.is_zero() && left <= TERM.saturating_mul(2);
    if alive && record.holder != server {
        return Err(Taken { until: UnixTime::from_secs(record.expires_at) });
    }
    Ok(lease(if alive { record.epoch } else { record.epoch.saturating_add(1) }))
}

/// Whether something may be committed under `term` on a state with this record.
///
/// # Errors
/// If the lease has run out, or is another's, or was another's meanwhile.
fn check(record: Option<&Lease>, server: &str, term: Term, now: UnixTime) -> Result<(), Refusal> {
    let holds = record.is_some_and(|record| {
        record.holder == server && record.epoch == term.epoch && record.expires_at > now.as_secs()
    });
    if holds {
        return Ok(());
    }
    Err(Refusal::unavailable("lease.lost", "this server was too slow: the work is another server's now"))
}

impl Holder {
    pub(crate) fn new(name: &str, server: &str) -> Self {
        Self { name: name.into(), server: server.into(), term: Arc::default() }
    }

    /// Takes the lease, unless there is time left of it.
    pub(crate) async fn hold(
        &self,
        registry: &Registry,
        clock: &Arc<dyn Clock>,
    ) -> Result<Result<Term, Taken>, Refusal> {
        if let Next::Work(term) = next(*self.lock(), clock.now()) {
            return Ok(Ok(term));
        }
        let (name, server, clock) = (Arc::clone(&self.name), Arc::clone(&self.server), Arc::clone(clock));
        let (_, taken) = registry
            .write_with(move |state| {
                Ok(match take(state.lease(&name).map(|lease| &**lease), &server, clock.now()) {
                    Ok(lease) => {
                        let term = Term { epoch: lease.epoch, until: UnixTime::from_secs(lease.expires_at) };
                        (vec![RecordChange::Put(Object::Lease(name.clone(), Arc::new(lease)))], Ok(term))
                    }
                    Err(taken) => (Vec::new(), Err(taken)),
                })
            })
            .await?;
        *self.lock() = taken.as_ref().ok().copied();
        Ok(taken)
    }

    /// As [`check`], for this holder; in a mutation.
    pub(crate) fn check(
        &self,
        state: &crate::state::State,
        term: Term,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let checked = check(state.lease(&self.name).map(|lease| &**lease), &self.server, term, now);
        if checked.is_err() {
            *self.lock() = None;
        }
        checked
    }

    /// Whether anybody has ever needed it.
    pub(crate) fn is_known(&self, state: &crate::state::State) -> bool {
        state.lease(&self.name).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Term>> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SERVERS: [&str; 3] = ["a", "b", "c"];

    /// What a server does. Between any two steps it may hang for ever.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Wants to work, and takes the lease if it has to.
        Hold(usize),
        /// Commits under the term that it remembers, however old that is.
        Commit(usize),
        /// Time passes for all.
        Pass(u16),
        /// One clock is set.
        Jump(usize, i32),
        /// A process starts again, and remembers nothing.
        Restart(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let server = 0..SERVERS.len();
        let step = prop_oneof![
            4 => server.clone().prop_map(Step::Hold),
            4 => server.clone().prop_map(Step::Commit),
            3 => (0..60_u16).prop_map(Step::Pass),
            1 => (server.clone(), -10_000_000..10_000_000).prop_map(|(server, by)| Step::Jump(server, by)),
            1 => server.prop_map(Step::Restart),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn no_two_servers_commit_under_one_epoch(steps in steps()) {
            let mut record: Option<Lease> = None;
            let mut now = 1_800_000_000_i64;
            let (mut skews, mut terms) = ([0_i64; 3], [None::<Term>; 3]);
            let (mut owners, mut last) = (BTreeMap::new(), 0);
            for step in steps {
                match step {
                    Step::Pass(seconds) => now += i64::from(seconds),
                    Step::Jump(server, by) => skews[server] += i64::from(by),
                    Step::Restart(server) => terms[server] = None,
                    Step::Hold(server) => {
                        let clock = UnixTime::from_secs(now + skews[server]);
                        if next(terms[server], clock) == Next::Take {
                            let taken = take(record.as_ref(), SERVERS[server], clock);
                            terms[server] = taken.as_ref().ok().map(|lease| {
                                Term { epoch: lease.epoch, until: UnixTime::from_secs(lease.expires_at) }
                            });
                            if let Ok(lease) = taken {
                                prop_assert!(record.as_ref().is_none_or(|before| before.epoch <= lease.epoch));
                                record = Some(lease);
                            }
                        }
                    }
                    Step::Commit(server) => {
                        let clock = UnixTime::from_secs(now + skews[server]);
                        let Some(term) = terms[server] else { continue };
                        if check(record.as_ref(), SERVERS[server], term, clock).is_ok() {
                            prop_assert!(term.epoch >= last, "a commit under an epoch that is over");
                            last = term.epoch;
                            prop_assert_eq!(*owners.entry(term.epoch).or_insert(server), server);
                        }
                    }
                }
            }
        }
    }

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_secs(1_800_000_000 + seconds)
    }

    fn taken(record: Option<&Lease>, server: &str, now: UnixTime) -> (Lease, Term) {
        let lease = take(record, server, now).unwrap();
        let term = Term { epoch: lease.epoch, until: UnixTime::from_secs(lease.expires_at) };
        (lease, term)
    }

    #[test]
    fn a_server_that_hung_for_longer_than_its_lease_commits_nothing_under_it() {
        let (lease, term) = taken(None, "a", at(0));
        assert!(check(Some(&lease), "a", term, at(29)).is_ok());
        // Nobody has taken it meanwhile; it has run out all the same.
        assert!(check(Some(&lease), "a", term, at(30)).is_err());
        assert_eq!(take(Some(&lease), "b", at(29)), Err(Taken { until: at(30) }));
        let (other, others_term) = taken(Some(&lease), "b", at(31));
        assert_eq!(check(Some(&other), "a", term, at(31)).unwrap_err().code(), "lease.lost");
        assert!(check(Some(&other), "b", others_term, at(31)).is_ok());
        // Nor when its own clock stood still while it hung, or after it has taken the lease again.
        assert!(check(Some(&other), "a", term, at(1)).is_err());
        let (again, _) = taken(Some(&other), "a", at(70));
        assert_eq!((again.epoch, term.epoch), (3, 1));
        assert!(check(Some(&again), "a", term, at(70)).is_err());
    }

    #[test]
    fn a_lease_that_is_kept_has_one_epoch_and_one_with_a_gap_has_two() {
        let (lease, term) = taken(None, "a", at(0));
        assert_eq!(next(Some(term), at(5)), Next::Work(term));
        assert_eq!(next(Some(term), at(25)), Next::Take);
        let (kept, _) = taken(Some(&lease), "a", at(25));
        assert_eq!((kept.epoch, kept.expires_at), (1, at(55).as_secs()));
        let (gap, _) = taken(Some(&kept), "a", at(100));
        assert_eq!(gap.epoch, 2);
        // Nor does one that was ahead, whoever's it was, once it is right again or its server is gone.
        let (ahead, terms) = taken(Some(&gap), "a", at(1_000_000));
        let (others, _) = taken(Some(&ahead), "b", at(200));
        assert_eq!((others.epoch, others.expires_at), (ahead.epoch + 1, at(230).as_secs()));
        assert!(check(Some(&others), "a", terms, at(1_000_000)).is_err());
        // A little ahead is what clocks are.
        let (ahead, _) = taken(Some(&others), "a", at(260));
        assert_eq!(take(Some(&ahead), "b", at(231)), Err(Taken { until: at(290) }));
        // A clock that was set back does not make a term of days.
        assert_eq!(next(Some(term), at(-100_000)), Next::Take);
    }
}
