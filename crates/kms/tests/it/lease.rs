//! Leases under any interleaving of what callers, the authority, its feed and time do.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bonafide_kms::ciphertext::WrappedDigest;
use bonafide_kms::key::Local;
use bonafide_kms::lease::{
    Decision, Denial, Effect, EntryId, Grant, LeaseId, Leases, MAX_LEASES, Purpose, Question, Renewal, Terms,
    renew_after,
};
use proptest::prelude::*;

use super::{KEY, none};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn terms(now: Duration) -> Terms {
    Terms {
        ends: now + secs(300),
        renew_after: now + secs(200),
        messages: 10,
        bytes: 1000,
        max_stale: secs(60),
    }
}

fn grant(number: u8, now: Duration) -> Grant {
    let lease = LeaseId::from_bytes([number; 16]);
    Grant { lease, key: KEY, version: 1, local: Local::Process, terms: terms(now) }
}

/// Connected, with an identity.
fn leases() -> Leases {
    let mut leases = Leases::new();
    leases.identity(secs(100_000));
    leases.connected(secs(0));
    leases
}

fn encrypt(leases: &mut Leases, bytes: u64, now: Duration) -> Decision {
    leases.decide("orders", &none(), Purpose::Encrypt, bytes, now)
}

fn question(leases: &mut Leases) -> Question {
    match leases.effects().as_slice() {
        [Effect::Ask(question)] => question.clone(),
        other => panic!("{other:?}"),
    }
}

fn renewal(leases: &mut Leases) -> Renewal {
    match leases.effects().as_slice() {
        [Effect::Renew(renewal)] => *renewal,
        other => panic!("{other:?}"),
    }
}

/// Asks, and gets lease `number`.
fn lend(leases: &mut Leases, number: u8, now: Duration) -> EntryId {
    assert_eq!(encrypt(leases, 1, now), Decision::Wait);
    let question = question(leases);
    leases.granted(&question, grant(number, now), now).unwrap()
}

#[test]
fn one_question_serves_many_and_ceilings_hold() {
    let mut leases = leases();
    let id = lend(&mut leases, 1, secs(1));
    assert_eq!(encrypt(&mut leases, 1001, secs(1)), Decision::Refuse(Denial::TooLarge));
    for _ in 0..7 {
        assert_eq!(encrypt(&mut leases, 1, secs(1)), Decision::Use(id));
    }
    let asked = renewal(&mut leases);
    assert_eq!((asked.used.messages, asked.used.bytes), (7, 7), "at two thirds of the messages");
    for _ in 0..3 {
        assert_eq!(encrypt(&mut leases, 1, secs(1)), Decision::Use(id));
    }
    assert!(leases.effects().is_empty(), "one renewal at a time");
    // The eleventh is not done; another lease is asked for.
    assert_eq!(encrypt(&mut leases, 1, secs(1)), Decision::Wait);
    let effects = leases.effects();
    assert!(effects.contains(&Effect::Drop(id)));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Return(used) if used.messages == 10)));
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Ask(_))).count(), 1);
    assert_eq!(encrypt(&mut leases, 1, secs(1)), Decision::Wait);
    assert!(leases.effects().is_empty(), "one question for all who wait");
    // What comes for the one that is gone changes nothing.
    leases.renewed(&asked, terms(secs(1)), secs(1));
    assert_eq!(encrypt(&mut leases, 1, secs(1)), Decision::Wait);
}

#[test]
fn what_was_used_is_renewed_at_two_thirds_and_the_rest_ends() {
    let mut leases = leases();
    let id = lend(&mut leases, 1, secs(0));
    leases.heard(secs(250));
    leases.tick(secs(250));
    assert!(leases.effects().is_empty(), "never used");
    assert_eq!(encrypt(&mut leases, 1, secs(250)), Decision::Use(id));
    let first = renewal(&mut leases);
    leases.renewal_failed(&first, secs(251));
    assert_eq!(encrypt(&mut leases, 1, secs(252)), Decision::Use(id));
    assert!(leases.effects().is_empty(), "not at once again");
    leases.tick(secs(260));
    let second = renewal(&mut leases);
    leases.renewed(&first, terms(secs(10_000)), secs(260));
    assert_eq!(leases.grant(id).unwrap().terms, terms(secs(0)), "an answer to another question");
    leases.renewed(&second, terms(secs(260)), secs(260));
    assert_eq!(leases.grant(id).unwrap().terms, terms(secs(260)));
    leases.heard(secs(559));
    assert_eq!(leases.next_tick(), Some(secs(560)));
    leases.tick(secs(560));
    let effects = leases.effects();
    assert_eq!(effects.len(), 2, "{effects:?}");
    assert!(matches!(effects[1], Effect::Return(used) if used.messages == 2));
}

#[test]
fn who_hears_nothing_refuses() {
    let mut leases = leases();
    let id = lend(&mut leases, 1, secs(0));
    leases.heard(secs(30));
    assert_eq!(encrypt(&mut leases, 1, secs(90)), Decision::Use(id));
    assert_eq!(encrypt(&mut leases, 1, secs(91)), Decision::Refuse(Denial::Stale));
    leases.heard(secs(92));
    assert_eq!(encrypt(&mut leases, 1, secs(92)), Decision::Use(id));
    leases.disconnected();
    leases.heard(secs(150));
    assert_eq!(encrypt(&mut leases, 1, secs(152)), Decision::Use(id));
    assert_eq!(encrypt(&mut leases, 1, secs(153)), Decision::Refuse(Denial::Stale), "nothing is heard there");
    assert_eq!(
        leases.decide("other", &none(), Purpose::Encrypt, 1, secs(153)),
        Decision::Refuse(Denial::Unreachable)
    );
}

/// What ended while there was no connection was told to nobody.
#[test]
fn nothing_is_fresh_on_a_new_connection_before_it_was_renewed_there() {
    let mut leases = leases();
    let id = lend(&mut leases, 1, secs(0));
    leases.disconnected();
    leases.connected(secs(100));
    let first = renewal(&mut leases);
    leases.heard(secs(101));
    assert_eq!(encrypt(&mut leases, 1, secs(101)), Decision::Wait);
    // An answer of a connection that is gone again does not count.
    leases.connected(secs(102));
    let second = renewal(&mut leases);
    leases.renewed(&first, terms(secs(102)), secs(102));
    assert_eq!(encrypt(&mut leases, 1, secs(102)), Decision::Wait);
    leases.renewed(&second, terms(secs(102)), secs(102));
    assert_eq!(encrypt(&mut leases, 1, secs(102)), Decision::Use(id));
    // A short interruption is bridged by what was heard before it.
    leases.disconnected();
    leases.connected(secs(110));
    assert_eq!(encrypt(&mut leases, 1, secs(110)), Decision::Use(id));
    let third = renewal(&mut leases);
    leases.ended(third.used.lease);
    assert_eq!(encrypt(&mut leases, 1, secs(110)), Decision::Wait);
}

#[test]
fn an_end_that_overtakes_its_grant_counts() {
    let mut leases = leases();
    assert_eq!(encrypt(&mut leases, 1, secs(0)), Decision::Wait);
    let question = question(&mut leases);
    leases.ended(LeaseId::from_bytes([1; 16]));
    assert_eq!(leases.granted(&question, grant(1, secs(0)), secs(0)), None);
    assert!(leases.effects().is_empty(), "the authority knows");
    assert_eq!(encrypt(&mut leases, 1, secs(0)), Decision::Wait);
}

#[test]
fn a_late_answer_is_not_taken_for_one_to_the_next_question() {
    let mut leases = leases();
    assert_eq!(encrypt(&mut leases, 1, secs(0)), Decision::Wait);
    let first = question(&mut leases);
    leases.tick(secs(10));
    leases.ended(LeaseId::from_bytes([1; 16]));
    assert_eq!(encrypt(&mut leases, 1, secs(10)), Decision::Wait);
    let second = question(&mut leases);
    assert_eq!(leases.granted(&first, grant(1, secs(0)), secs(11)), None);
    leases.effects();
    assert!(leases.granted(&second, grant(2, secs(11)), secs(11)).is_some());
    // Nor one that was asked on another connection.
    leases.ended(LeaseId::from_bytes([2; 16]));
    leases.effects();
    assert_eq!(encrypt(&mut leases, 1, secs(11)), Decision::Wait);
    let third = question(&mut leases);
    leases.disconnected();
    leases.connected(secs(80));
    let id = leases.granted(&third, grant(3, secs(80)), secs(80)).unwrap();
    let asked = renewal(&mut leases);
    assert_eq!(encrypt(&mut leases, 1, secs(80)), Decision::Wait, "not before it was renewed here");
    leases.renewed(&asked, terms(secs(80)), secs(80));
    assert_eq!(encrypt(&mut leases, 1, secs(80)), Decision::Use(id));
}

#[test]
fn a_refusal_is_remembered_for_a_moment() {
    let mut leases = leases();
    assert_eq!(encrypt(&mut leases, 1, secs(0)), Decision::Wait);
    let first = question(&mut leases);
    let denial =
        Denial::Refused { code: "kms.denied".to_owned(), message: "no".to_owned(), hint: "ask".to_owned() };
    leases.refused(&first, denial.clone(), secs(5));
    assert_eq!(encrypt(&mut leases, 1, secs(4)), Decision::Refuse(denial.clone()));
    assert!(leases.effects().is_empty());
    assert_eq!(denial.code(), "kms.denied");
    assert_eq!(encrypt(&mut leases, 1, secs(5)), Decision::Wait);
    let second = question(&mut leases);
    leases.refused(&first, denial, secs(50));
    leases.failed(&second, secs(6));
    assert_eq!(encrypt(&mut leases, 1, secs(5)), Decision::Refuse(Denial::Unreachable));
}

#[test]
fn everything_ends_with_the_identity() {
    let mut leases = leases();
    leases.identity(secs(50));
    let id = lend(&mut leases, 1, secs(0));
    assert_eq!(encrypt(&mut leases, 1, secs(49)), Decision::Use(id));
    assert_eq!(encrypt(&mut leases, 1, secs(50)), Decision::Refuse(Denial::IdentityEnded));
    leases.tick(secs(50));
    let effects = leases.effects();
    assert!(effects.contains(&Effect::Drop(id)), "{effects:?}");
    assert_eq!(encrypt(&mut leases, 1, secs(50)), Decision::Refuse(Denial::IdentityEnded));
    leases.identity(secs(500));
    assert_eq!(encrypt(&mut leases, 1, secs(50)), Decision::Wait, "the next identity begins anew");
    let asked = question(&mut leases);
    leases.identity_ended();
    assert_eq!(leases.granted(&asked, grant(2, secs(50)), secs(50)), None);
    assert!(matches!(leases.effects().as_slice(), [Effect::Return(_)]));
}

#[test]
fn leases_are_bounded_and_the_oldest_goes() {
    let mut leases = leases();
    let mut ids = Vec::new();
    for number in 0..=MAX_LEASES {
        let purpose = Purpose::Decrypt(WrappedDigest::of(&number.to_be_bytes()));
        let now = Duration::from_millis(number as u64);
        assert_eq!(leases.decide("orders", &none(), purpose, 1, now), Decision::Wait);
        let asked = leases.effects().into_iter().find_map(|effect| match effect {
            Effect::Ask(question) => Some(question),
            _ => None,
        });
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        let grant = Grant { lease: LeaseId::from_bytes(bytes), ..grant(0, now) };
        ids.push(leases.granted(&asked.unwrap(), grant, now).unwrap());
    }
    assert_eq!(leases.used().len(), MAX_LEASES);
    assert!(leases.effects().contains(&Effect::Drop(ids[0])));
}

#[test]
fn renewals_spread() {
    let (now, ends) = (secs(1000), secs(1300));
    assert_eq!(renew_after(now, ends, 0), secs(1200));
    assert_eq!(renew_after(now, ends, u16::MAX), secs(1175));
    assert_eq!(renew_after(ends, now, 7), ends, "over already");
}

/// What an authority, its wire and callers may do.
#[derive(Clone, Debug)]
enum Step {
    Use { key: u8, bytes: u64 },
    Answer { which: usize, yes: bool },
    AnswerRenewal { which: usize, outcome: u8 },
    Revoke { which: usize, told: bool },
    Heard,
    Connect,
    Disconnect,
    Pass { seconds: u64 },
    Tick,
    Identity { seconds: u64 },
    IdentityEnded,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_u8, 0..400_u64).prop_map(|(key, bytes)| Step::Use { key, bytes }),
        5 => (0..4_usize, prop::bool::weighted(0.8)).prop_map(|(which, yes)| Step::Answer { which, yes }),
        4 => (0..4_usize, 0..4_u8).prop_map(|(which, outcome)| Step::AnswerRenewal { which, outcome }),
        1 => (0..4_usize, any::<bool>()).prop_map(|(which, told)| Step::Revoke { which, told }),
        3 => Just(Step::Heard),
        1 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        3 => (0..120_u64).prop_map(|seconds| Step::Pass { seconds }),
        2 => Just(Step::Tick),
        1 => (0..600_u64).prop_map(|seconds| Step::Identity { seconds }),
        1 => Just(Step::IdentityEnded),
    ]
}

/// What the authority knows of a lease.
#[derive(Debug)]
struct Lent {
    terms: Terms,
    used: (u64, u64),
    /// Revoked at this moment.
    revoked: Option<Duration>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// No ceiling is ever exceeded; no secret is used beyond the identity, after it was dropped, or longer than `max_stale`
    /// after it was revoked, whatever was lost, late, or out of order.
    #[test]
    fn promises_hold_under_any_interleaving(all in prop::collection::vec(steps(), 1..150)) {
        let mut leases = leases();
        let mut now = secs(0);
        let (mut connected, mut identity) = (true, Some(secs(100_000)));
        let (mut questions, mut renewals): (Vec<Question>, Vec<Renewal>) = (Vec::new(), Vec::new());
        // The authority's side: what it decided when a question arrived, and has not been delivered yet.
        let mut lent: HashMap<LeaseId, Lent> = HashMap::new();
        let mut secrets: HashMap<EntryId, LeaseId> = HashMap::new();
        let mut next = 0_u8;
        for step in all {
            match step {
                Step::Use { key, bytes } => {
                    let name = ["a", "b", "c"][usize::from(key)];
                    if let Decision::Use(id) = leases.decide(name, &none(), Purpose::Encrypt, bytes, now) {
                        let lease = secrets.get(&id).copied();
                        prop_assert!(lease.is_some(), "a secret that is gone");
                        let lent = lent.get_mut(&lease.unwrap()).unwrap();
                        lent.used = (lent.used.0 + 1, lent.used.1 + bytes);
                        prop_assert!(lent.used.0 <= lent.terms.messages && lent.used.1 <= lent.terms.bytes);
                        prop_assert!(now < lent.terms.ends);
                        prop_assert!(identity.is_some_and(|end| now < end));
                        let late = lent.revoked.is_some_and(|at| now > at + lent.terms.max_stale);
                        prop_assert!(!late, "used {:?} after {:?}", now, lent.revoked);
                    }
                }
                Step::Answer { which, yes } if !questions.is_empty() => {
                    let question = questions.remove(which % questions.len());
                    if yes && next < 250 {
                        next += 1;
                        let grant = grant(next, now);
                        lent.insert(grant.lease, Lent { terms: grant.terms, used: (0, 0), revoked: None });
                        if let Some(id) = leases.granted(&question, grant, now) {
                            secrets.insert(id, grant.lease);
                        }
                    } else {
                        leases.failed(&question, now + secs(1));
                    }
                }
                Step::AnswerRenewal { which, outcome } if !renewals.is_empty() => {
                    let renewal = renewals.remove(which % renewals.len());
                    let known = lent.get_mut(&renewal.used.lease).unwrap();
                    match outcome {
                        0 => leases.renewal_failed(&renewal, now),
                        // Decided now: a revoked one is told so.
                        _ if known.revoked.is_some() => leases.ended(renewal.used.lease),
                        1 | 2 => {
                            let more = u64::from(outcome);
                            let new = terms(now);
                            let new = Terms { messages: new.messages * more, bytes: new.bytes * more, ..new };
                            // What is promised last is what counts, unless it never arrives.
                            leases.renewed(&renewal, new, now);
                            let held = secrets.iter().find(|(_, lease)| **lease == renewal.used.lease);
                            if let Some(held) = held.and_then(|(id, _)| leases.grant(*id)) {
                                known.terms = held.terms;
                            }
                        }
                        _ => {} // lost
                    }
                }
                Step::Revoke { which, told } if !lent.is_empty() => {
                    let mut all: Vec<LeaseId> = lent.keys().copied().collect();
                    all.sort_unstable();
                    let lease = all[which % all.len()];
                    let known = lent.get_mut(&lease).unwrap();
                    if known.revoked.is_none() {
                        known.revoked = Some(now);
                        // It is told on the connection if there is one. If it is lost there, the connection is.
                        if connected && told {
                            leases.ended(lease);
                        } else if connected {
                            leases.disconnected();
                            connected = false;
                        }
                    }
                }
                Step::Heard if connected => leases.heard(now),
                Step::Connect => {
                    leases.connected(now);
                    connected = true;
                }
                Step::Disconnect => {
                    leases.disconnected();
                    connected = false;
                }
                Step::Pass { seconds } => now += secs(seconds),
                Step::Tick => leases.tick(now),
                Step::Identity { seconds } => {
                    leases.identity(now + secs(seconds));
                    identity = Some(now + secs(seconds));
                }
                Step::IdentityEnded => {
                    leases.identity_ended();
                    identity = None;
                }
                _ => {}
            }
            let mut asked = HashSet::new();
            for effect in leases.effects() {
                match effect {
                    Effect::Ask(question) => {
                        prop_assert!(connected && asked.insert(question.want.clone()), "single flight");
                        questions.push(question);
                    }
                    Effect::Renew(renewal) => {
                        prop_assert!(connected);
                        renewals.push(renewal);
                    }
                    Effect::Drop(id) => {
                        prop_assert!(secrets.remove(&id).is_some(), "dropped once");
                    }
                    Effect::Return(used) => {
                        let known = &lent[&used.lease];
                        prop_assert_eq!((used.messages, used.bytes), known.used, "the counts are true");
                    }
                }
            }
        }
    }
}
