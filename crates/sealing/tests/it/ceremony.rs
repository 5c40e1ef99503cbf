//! Ceremonies among simulated keyholders, some of which lie, and some of which are killed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bonafide_crypto::key::Signer;
use bonafide_sealing::ceremony::{
    AbortReason, Before, Ceremony, CeremonyError, Content, Decision, Effect, Kind, Message, Party, Plan,
    Setup,
};
use bonafide_sealing::document::Document;
use bonafide_sealing::epoch::TrustedEpoch;
use bonafide_sealing::group::{Index, Polynomial, Scalar};
use bonafide_sealing::opening::{Keyholders, Opening, Step};
use proptest::prelude::*;

use crate::cluster::{Cluster, Holder, Net, Sent, Wire, honest, run};
use crate::world::{Seeded, World, answer, index, member_key, signed, times};

#[test]
fn a_key_is_made_refreshed_and_handed_on_and_opens_throughout() {
    let mut cluster = Cluster::generated(3, &[1, 2, 3, 4, 5]);
    let key = cluster.public_key();
    assert_eq!(cluster.key_of(&[1, 3, 5]), key);
    assert_eq!(cluster.key_of(&[2, 3, 4]), key);
    assert_ne!(cluster.key_of(&[2, 3]), key);

    // A secret that is sealed in the first epoch opens in all.
    let sealer = World::dealt(1, 1, Vec::new());
    let params = cluster.before.as_ref().unwrap().1.clone();
    let recipient = bonafide_sealing::seal::Recipient { params: &params, ..sealer.recipient() };
    let object = sealer.seal_to(&[recipient], b"baked into an image", bonafide_sealing::seal::Quantum::Never);
    let object = sealer.verify(object).unwrap();
    let opens = |cluster: &Cluster, numbers: &[u64]| {
        let (_, params, epoch) = cluster.before.as_ref().unwrap();
        let keyholders = Keyholders { params, epochs: std::slice::from_ref(epoch) };
        let random = Seeded::new("client");
        let blinding = Opening::blinding_policy(&object, 0, params).unwrap().blind(&random).unwrap();
        let mut opening = Opening::begin(&object, 0, keyholders, blinding, None, None, &random).unwrap();
        numbers.iter().any(|number| {
            let share = &cluster.shares[number];
            let reply = answer(share, *number, opening.request(), &random);
            matches!(opening.accept(reply).unwrap(), Step::Opened(_))
        })
    };
    assert!(opens(&cluster, &[5, 2, 1]));

    let old: BTreeMap<u64, _> =
        cluster.shares.iter().map(|(number, share)| (*number, share.secret_bytes())).collect();
    let plan = cluster.refresh();
    let net = run(&cluster, &plan, honest());
    cluster.adopt(net);
    assert_eq!((cluster.key_of(&[1, 2, 5]), cluster.public_key()), (key, key));
    assert!(cluster.shares.iter().all(|(number, share)| share.secret_bytes() != old[number]));
    assert!(opens(&cluster, &[3, 4, 1]));

    // Three of the old hand the key on to a roster with another threshold, two of whose members are new. The two old members that
    // do not deal are in it.
    let plan = cluster.reshare(2, &[2, 4, 6, 7], &[1, 3, 5]);
    let mut net = Net::honest();
    for number in [1, 2, 3, 4, 5, 6, 7] {
        net.begin(&cluster, number, &plan);
    }
    // Those who began early did not know of the others yet.
    net.resend();
    net.run();
    let certificate = net.holders[&6].certificate.clone().unwrap();
    // All know it, also those who have dealt and get nothing.
    assert_eq!(net.certificate(), certificate);
    let with_shares = net.holders.values().filter(|holder| holder.pending.is_some());
    assert_eq!(with_shares.count(), 4);
    let params = net.holders[&6].pending.as_ref().unwrap().params.clone();
    cluster.adopt_record(&params, &certificate);
    let holders = std::mem::take(&mut net.holders);
    let pending = holders.into_iter().filter_map(|(number, holder)| Some((number, holder.pending?)));
    cluster.shares = pending.map(|(number, pending)| (number, cluster.share(pending))).collect();
    assert_eq!(cluster.shares.keys().copied().collect::<Vec<_>>(), [2, 4, 6, 7]);
    assert_eq!((cluster.key_of(&[7, 2]), cluster.key_of(&[4, 6])), (key, key));
    assert!(opens(&cluster, &[7, 4]));
    assert_eq!(cluster.before.as_ref().unwrap().2.record().epoch, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn order_and_repetition_do_not_matter(choices in prop::collection::vec(any::<u32>(), 64), refresh in any::<bool>()) {
        let mut cluster = if refresh { Cluster::generated(2, &[1, 2, 3]) } else { Cluster::new(2, &[1, 2, 3]) };
        let plan = if refresh { cluster.refresh() } else { cluster.generate() };
        let mut net = Net::honest();
        [1, 2, 3].iter().for_each(|number| net.begin(&cluster, *number, &plan));
        net.resend();
        let mut choices = choices.into_iter().cycle();
        net.run_shuffled(|count| choices.next().unwrap() as usize % count);
        cluster.adopt(net);
        prop_assert_eq!(cluster.key_of(&[1, 3]), cluster.public_key());
    }
}

/// Signs as a member, whatever it says.
fn say(number: u64, sender: Index, plan: &Plan, content: Content) -> Sent {
    signed(Message { session: plan.digest(), sender, content }, &[member_key(number).as_ref()])
}

/// One member deals two different sharings of zero, each of which is right by itself. Combined by those who saw the one and those who
/// saw the other, nothing would ever open again.
#[test]
fn two_sharings_of_zero_do_not_destroy_the_key() {
    let cluster = Cluster::generated(3, &[1, 2, 3, 4, 5]);
    let plan = cluster.refresh();
    // Member 3 runs two sides: 31 speaks to 1 and 2, 32 to 4 and 5.
    let mut net = Net::new(Box::new(|from, to, message| {
        let apart = match (from, to) {
            (31, to) | (to, 31) => to > 3,
            (32, to) | (to, 32) => to < 3,
            _ => false,
        };
        if apart { Vec::new() } else { vec![message.clone()] }
    }));
    for (number, own) in [(1, 1), (2, 2), (31, 3), (32, 3), (4, 4), (5, 5)] {
        let (ceremony, effects) = cluster.begin(own, &plan, &format!("seed {number}")).unwrap();
        net.holders.insert(number, Holder { ceremony: Some(ceremony), ..Holder::default() });
        net.carry_out(number, effects);
    }
    net.resend();
    net.queue.retain(|(from, to, message)| {
        // A log is passed on by the two-faced one only as it likes.
        message.body.sender != index(3) || (*from == 31 && *to < 3) || (*from == 32 && matches!(*to, 4 | 5))
    });
    net.run();
    assert!(net.nobody_switched());
    // Each of the four knows that something is wrong, and nobody is ready.
    for number in [1, 2, 4, 5] {
        let reason = net.first_abort(number).0;
        assert!(matches!(reason, AbortReason::Divergent | AbortReason::Refused), "{reason:?}");
        assert!(net.holders[&number].pending.is_none());
    }
    // The logs of two of them name the one.
    let log = net.holders[&1].ceremony.as_ref().unwrap().log().to_vec();
    log.into_iter().for_each(|message| net.deliver(4, message));
    let named =
        net.holders[&4].reports.iter().find(|report| report.reason == AbortReason::Equivocated).unwrap();
    assert!(matches!(named.named[..], [Party::Dealer(who) | Party::Receiver(who)] if who == index(3)));
    // Both of its messages are there, signed, for everybody to see; a third would not be kept.
    let log = net.holders[&4].ceremony.as_ref().unwrap().log();
    let number = |message: &&Sent| {
        message.body.sender == index(3) && matches!(message.body.content, Content::Deal { .. })
    };
    assert_eq!(log.iter().filter(number).count(), 2);
    // The old shares still make the key.
    assert_eq!(cluster.key_of(&[1, 3, 5]), cluster.public_key());
}

#[test]
fn a_forged_complaint_evicts_nobody() {
    let mut cluster = Cluster::new(2, &[1, 2, 3]);
    let plan = cluster.generate();
    let forged = plan.clone();
    let mut net = Net::new(Box::new(move |from, _, message| {
        let mut out = vec![message.clone()];
        // Member 2 complains about member 1, whose shares were right.
        if let (2, Content::Shares { transcript, .. }) = (from, &message.body.content) {
            let content = Content::Complaint { transcript: *transcript, accused: index(1) };
            out.insert(0, say(2, index(2), &forged, content));
        }
        out
    }));
    [1, 2, 3].iter().for_each(|number| net.begin(&cluster, *number, &plan));
    net.resend();
    net.run();
    // It was answered, and everybody goes on; what was shown is the share that the liar had anyhow.
    let log = net.holders[&3].ceremony.as_ref().unwrap().log();
    assert!(log.iter().any(
        |message| matches!(message.body.content, Content::Answer { receiver, .. } if receiver == index(2))
    ));
    cluster.adopt(net);
    assert_eq!(cluster.key_of(&[2, 3]), cluster.public_key());
}

/// Replaces what member 3 says to all.
fn as_three(plan: &Plan, change: impl Fn(&Content) -> Option<Content> + 'static) -> Wire<'static> {
    let plan = plan.clone();
    Box::new(move |_, _, message| {
        let own = message.body.sender == index(3);
        match change(&message.body.content).filter(|_| own) {
            Some(content) => vec![say(3, index(3), &plan, content)],
            None => vec![message.clone()],
        }
    })
}

#[test]
fn a_bad_share_is_complained_about_and_healed() {
    let mut cluster = Cluster::new(2, &[1, 2, 3]);
    let plan = cluster.generate();
    let spoil = |content: &Content| match content {
        Content::Shares { transcript, sealed } => {
            let mut sealed = sealed.clone();
            sealed[0].0[60] ^= 1;
            Some(Content::Shares { transcript: *transcript, sealed })
        }
        _ => None,
    };
    let net = run(&cluster, &plan, as_three(&plan, spoil));
    let log = net.holders[&1].ceremony.as_ref().unwrap().log();
    let complained = |message: &Sent| matches!(&message.body.content, Content::Complaint { accused, .. } if *accused == index(3));
    assert!(log.iter().any(|message| message.body.sender == index(1) && complained(message)));
    cluster.adopt(net);
    assert_eq!(cluster.key_of(&[1, 2]), cluster.public_key());

    // Without an answer both are named, with a wrong one the liar.
    let cluster = Cluster::new(2, &[1, 2, 3]);
    let silent = plan.clone();
    let mut net = run(
        &cluster,
        &plan,
        Box::new(move |_, _, message| {
            let own = message.body.sender == index(3);
            match (&message.body.content, own) {
                (Content::Answer { .. }, true) => Vec::new(),
                (content, true) => {
                    vec![spoil(content).map_or(message.clone(), |content| say(3, index(3), &silent, content))]
                }
                _ => vec![message.clone()],
            }
        }),
    );
    assert!(net.nobody_switched());
    net.time_out();
    let (reason, named) = net.first_abort(1);
    assert_eq!(reason, AbortReason::Unresolved);
    assert_eq!(named, [Party::Receiver(index(1)), Party::Dealer(index(3))]);

    let wrong = move |content: &Content| match content {
        Content::Answer { transcript, receiver, share } => Some(Content::Answer {
            transcript: *transcript,
            receiver: *receiver,
            share: share.plus(&Scalar::from_number(1)),
        }),
        other => spoil(other),
    };
    let net = run(&cluster, &plan, as_three(&plan, wrong));
    assert!(net.nobody_switched());
    assert_eq!(net.first_abort(1), (AbortReason::InvalidShare, vec![Party::Dealer(index(3))]));
}

#[test]
fn what_must_not_be_dealt_is_named() {
    let three = || vec![Party::Dealer(index(3))];
    // A new key: the contribution of another, with his proof; one without proof; a proof of another number.
    let cluster = Cluster::new(2, &[1, 2, 3]);
    let plan = cluster.generate();
    let (other, _) = cluster.begin(1, &plan, "another").unwrap();
    let copied = other.log()[0].body.content.clone();
    let net = run(
        &cluster,
        &plan,
        as_three(&plan, move |content| matches!(content, Content::Deal { .. }).then(|| copied.clone())),
    );
    assert!(net.nobody_switched());
    assert_eq!(net.first_abort(1), (AbortReason::InvalidDeal, three()));
    let net = run(
        &cluster,
        &plan,
        as_three(&plan, |content| match content {
            Content::Deal { commitments, .. } => {
                Some(Content::Deal { commitments: commitments.clone(), possession: None })
            }
            _ => None,
        }),
    );
    assert_eq!(net.first_abort(2), (AbortReason::InvalidDeal, three()));
    let net = run(
        &cluster,
        &plan,
        as_three(&plan, |content| match content {
            Content::Deal { commitments, possession } => {
                let commitments = vec![commitments[1], commitments[0]];
                Some(Content::Deal { commitments, possession: possession.clone() })
            }
            _ => None,
        }),
    );
    assert_eq!(net.first_abort(2), (AbortReason::InvalidDeal, three()));

    // A refresh that is not of zero has one commitment too many.
    let mut cluster = Cluster::generated(2, &[1, 2, 3]);
    let plan = cluster.refresh();
    let random = Seeded::new("not zero");
    let polynomial = Polynomial::random(Scalar::from_number(5), 2, &random);
    let commitments = polynomial.commitments(0).unwrap();
    let net = run(
        &cluster,
        &plan,
        as_three(&plan, move |content| {
            let deal = Content::Deal { commitments: commitments.clone(), possession: None };
            matches!(content, Content::Deal { .. }).then_some(deal)
        }),
    );
    assert!(net.nobody_switched());
    assert_eq!(net.first_abort(1), (AbortReason::InvalidDeal, three()));

    // A dealer who hands on another number than its share.
    let plan = cluster.reshare(2, &[1, 2, 3], &[1, 3]);
    let commitments = polynomial.commitments(0).unwrap();
    let net = run(
        &cluster,
        &plan,
        as_three(&plan, move |content| {
            let deal = Content::Deal { commitments: commitments.clone(), possession: None };
            matches!(content, Content::Deal { .. }).then_some(deal)
        }),
    );
    assert!(net.nobody_switched());
    assert_eq!(net.first_abort(1), (AbortReason::InvalidDeal, three()));
}

#[test]
fn the_absent_are_named_and_nothing_changes() {
    let cluster = Cluster::generated(2, &[1, 2, 3]);
    let plan = cluster.refresh();
    let mut net = Net::honest();
    [1, 2].iter().for_each(|number| net.begin(&cluster, *number, &plan));
    net.resend();
    net.run();
    net.time_out();
    assert_eq!(
        net.first_abort(1),
        (AbortReason::Absent, vec![Party::Dealer(index(3)), Party::Receiver(index(3))])
    );
    assert!(net.nobody_switched());
    net.run();
    assert_eq!(net.first_abort(2).0, AbortReason::Absent);
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    let mut cluster = Cluster::generated(2, &[1, 2, 3]);
    let plan = cluster.refresh();
    let refused = |cluster: &Cluster, plan: &Plan, number| cluster.begin(number, plan, "x").err();
    assert_eq!(refused(&cluster, &plan, 1), None);
    for change in [
        |plan: &mut Plan| plan.roster = [1; 32],
        |plan: &mut Plan| plan.epoch = 1,
        |plan: &mut Plan| plan.kind = Kind::Refresh([1; 32]),
        |plan: &mut Plan| plan.dealers.truncate(2),
        |plan: &mut Plan| plan.dealers.swap(0, 1),
    ] {
        let mut plan = plan.clone();
        change(&mut plan);
        assert_eq!(refused(&cluster, &plan, 1), Some(CeremonyError::Plan));
    }
    assert_eq!(refused(&cluster, &plan, 9), Some(CeremonyError::NoPart));
    cluster.shares.remove(&2);
    assert_eq!(refused(&cluster, &plan, 2), Some(CeremonyError::NoShare));
    // Fewer dealers than the threshold can't hand on a key.
    let plan = cluster.reshare(2, &[1, 2, 3], &[1]);
    assert_eq!(refused(&cluster, &plan, 1), Some(CeremonyError::Plan));
    // An epoch that this keyholder was ready for before.
    let cluster = Cluster::generated(2, &[1, 2, 3]);
    let (roster, params, epoch) = cluster.before.clone().unwrap();
    let before = Before { roster, params, epoch, share: cluster.shares.get(&1) };
    let setup =
        Setup { plan: cluster.refresh(), roster: cluster.roster.clone(), before: Some(before), floor: 2 };
    let begun = Ceremony::begin(setup, member_key(1), Arc::new(Seeded::new("x")));
    assert_eq!(begun.err(), Some(CeremonyError::Plan));
}

/// A keyholder is killed after every single thing that any of them does. Either all come to the new epoch, or none does.
#[test]
fn killed_at_every_step_it_is_the_old_state_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for refresh in [false, true] {
        let cluster = if refresh { Cluster::generated(2, &[1, 2, 3]) } else { Cluster::new(2, &[1, 2, 3]) };
        let plan = if refresh { cluster.refresh() } else { cluster.generate() };
        for budget in 0.. {
            let mut net = Net::honest();
            net.budget = budget;
            [1, 2, 3].iter().for_each(|number| net.begin(&cluster, *number, &plan));
            net.resend();
            net.run();
            let spent = net.budget > 0;
            net.budget = usize::MAX;
            // What it had in memory is gone; what it had on disk is not. It may have been about to say that it is ready.
            let victim = net.holders.get_mut(&2).unwrap();
            (victim.ceremony, victim.decision) = (None, None);
            net.queue.retain(|(from, to, _)| *from != 2 && *to != 2);
            let signer: Arc<dyn Signer> = member_key(2);
            let effects = match (&victim.certificate, &victim.pending) {
                (Some(_), _) => Vec::new(),
                (None, Some(pending)) => {
                    let record = pending.record.clone();
                    let (decision, effects) =
                        Decision::begin(plan.digest(), cluster.roster.clone(), record, &signer).unwrap();
                    victim.decision = Some(decision);
                    effects
                }
                (None, None) => {
                    let vote = Decision::refuse(plan.digest(), &cluster.roster, signer.as_ref()).unwrap();
                    vec![Effect::Broadcast(vote)]
                }
            };
            net.carry_out(2, effects);
            net.run();
            // Everybody asks everybody, and who has a certificate shows it.
            for _ in 0..2 {
                let votes: Vec<(u64, Sent)> = net
                    .holders
                    .iter()
                    .filter_map(|(number, holder)| {
                        let own = holder.ceremony.as_ref().and_then(Ceremony::decision);
                        Some((*number, own.or(holder.decision.as_ref())?.vote()?.clone()))
                    })
                    .collect();
                for (from, vote) in votes {
                    for to in [1, 2, 3] {
                        if to != from {
                            net.deliver(to, vote.clone());
                        }
                    }
                }
            }
            let certificate = net.holders.values().find_map(|holder| holder.certificate.clone());
            if let Some(certificate) = certificate {
                for number in [1, 2, 3] {
                    let holder = net.holders.get_mut(&number).unwrap();
                    let effects = match (&mut holder.ceremony, &mut holder.decision) {
                        (Some(ceremony), _) => ceremony.relay(&certificate),
                        (None, Some(decision)) => decision.relay(&certificate),
                        (None, None) => Vec::new(),
                    };
                    net.carry_out(number, effects);
                }
                assert!(net.holders.values().all(|holder| holder.certificate.is_some()), "budget {budget}");
                assert!(net.holders.values().all(|holder| holder.pending.is_some()), "budget {budget}");
                new += 1;
            } else {
                old += 1;
            }
            if spent {
                break;
            }
        }
    }
    assert!(old > 20 && new > 5, "{old} {new}");
}

/// Who says *ready* to one and *never* to the other can't make them part for good: the certificate is followed by all who see it.
#[test]
fn ready_and_never_from_one_do_not_split_the_others() {
    let cluster = Cluster::generated(2, &[1, 2, 3]);
    let plan = cluster.refresh();
    let lie = plan.clone();
    let mut net = run(
        &cluster,
        &plan,
        Box::new(move |from, to, message| match (from, to, &message.body.content) {
            (3, 1, Content::Ready { .. }) => vec![say(3, index(3), &lie, Content::Never)],
            _ => vec![message.clone()],
        }),
    );
    assert!(net.holders[&1].certificate.is_none() && net.holders[&2].certificate.is_some());
    assert_eq!(net.first_abort(1), (AbortReason::Refused, vec![Party::Receiver(index(3))]));
    assert!(net.holders[&1].pending.is_some());
    // Also after a restart.
    let record = net.holders[&1].pending.as_ref().unwrap().record.clone();
    let signer: Arc<dyn Signer> = member_key(1);
    let (mut again, _) = Decision::begin(plan.digest(), cluster.roster.clone(), record, &signer).unwrap();
    assert_eq!(again.missing(), [index(2), index(3)]);
    let certificate = net.holders[&2].certificate.clone().unwrap();
    assert!(matches!(again.relay(&certificate)[..], [Effect::Switch(_)]));
    let effects = net.holders.get_mut(&1).unwrap().ceremony.as_mut().unwrap().relay(&certificate);
    assert!(matches!(effects[..], [Effect::Switch(_)]));
}

/// A certificate needs the votes of all, each by its own key, under this very record.
#[test]
fn certificates_are_not_made_of_fewer() {
    let cluster = Cluster::generated(2, &[1, 2, 3]);
    let plan = cluster.refresh();
    let net = run(
        &cluster,
        &plan,
        Box::new(|from, _, message| {
            let silent = from == 3 && matches!(message.body.content, Content::Ready { .. });
            if silent { Vec::new() } else { vec![message.clone()] }
        }),
    );
    assert!(net.holders[&1].certificate.is_none() && net.holders[&2].certificate.is_none());
    let mut all = net.holders[&3].certificate.clone().unwrap();
    let (_, params, _) = cluster.before.clone().unwrap();
    assert!(TrustedEpoch::verify(&params, &cluster.roster, &all).is_ok());
    let of_three = *crate::world::public(member_key(3).as_ref()).fingerprint();
    all.signatures.retain(|signature| signature.key != of_three);
    assert!(TrustedEpoch::verify(&params, &cluster.roster, &all).is_err());
    let mut net = net;
    let ceremony = net.holders.get_mut(&1).unwrap().ceremony.as_mut().unwrap();
    assert!(ceremony.relay(&all).is_empty());
    // Ready can't be taken back: nothing is left to give up.
    assert!(ceremony.time_out().is_empty());
}

/// Messages of another session, or in the name of another, move nothing.
#[test]
fn strangers_are_not_heard() {
    let cluster = Cluster::new(2, &[1, 2, 3]);
    let plan = cluster.generate();
    let (mut ceremony, _) = cluster.begin(1, &plan, "x").unwrap();
    let join = Content::Join { key: times(&Scalar::from_number(9)) };
    let by_other = say(3, index(2), &plan, join.clone());
    assert!(ceremony.receive(by_other).is_empty());
    let outside = say(9, index(3), &plan, join.clone());
    assert!(ceremony.receive(outside).is_empty());
    let other = Plan { nonce: [9; 32], ..plan.clone() };
    assert!(ceremony.receive(say(2, index(2), &other, join.clone())).is_empty());
    assert_eq!(ceremony.log().len(), 2);
    ceremony.receive(say(2, index(2), &plan, join));
    assert_eq!(ceremony.log().len(), 3);
    // Twice different is a lie.
    let second = Content::Join { key: times(&Scalar::from_number(10)) };
    let effects = ceremony.receive(say(2, index(2), &plan, second));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Abort(abort)
        if abort.reason == AbortReason::Equivocated && abort.named == [Party::Receiver(index(2))])));
    assert!(!format!("{ceremony:?}").contains("secret:"));
}

/// Something else of the same kind, signed all the same.
fn twisted(content: &Content, draw: u8) -> Content {
    let number = Scalar::from_number(u64::from(draw) + 2);
    match content.clone() {
        Content::Deal { mut commitments, possession } => {
            let place = usize::from(draw) % commitments.len();
            commitments[place] = times(&number);
            Content::Deal { commitments, possession }
        }
        Content::Join { .. } => Content::Join { key: times(&number) },
        Content::Shares { transcript, mut sealed } => {
            let place = usize::from(draw) % sealed.len();
            sealed[place].0[usize::from(draw) % 96] ^= 1;
            Content::Shares { transcript, sealed }
        }
        Content::Complaint { transcript, .. } => Content::Complaint { transcript, accused: index(1) },
        Content::Answer { transcript, receiver, share } => {
            Content::Answer { transcript, receiver, share: share.plus(&number) }
        }
        Content::Ready { .. } => Content::Never,
        Content::Never => Content::Ready { signature: vec![draw] },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// One of four says to each of the others what it likes: the right thing, another, nothing, or a complaint about somebody. The
    /// honest three come to one record and one key, or keep the old one; and whom they name alone is the one.
    #[test]
    fn one_liar_splits_nobody_and_frames_nobody(
        draws in prop::collection::vec(any::<u8>(), 48),
        mostly_honest in any::<bool>(),
        refresh in any::<bool>(),
    ) {
        let mut cluster =
            if refresh { Cluster::generated(2, &[1, 2, 3, 4]) } else { Cluster::new(2, &[1, 2, 3, 4]) };
        let plan = if refresh { cluster.refresh() } else { cluster.generate() };
        let mut draws = draws.into_iter().cycle();
        let lie = plan.clone();
        let wire: Wire<'_> = Box::new(move |from, _, message| {
            if from != 4 || message.body.sender != index(4) {
                return vec![message.clone()];
            }
            let draw = draws.next().unwrap();
            let content = &message.body.content;
            match draw % if mostly_honest { 32 } else { 8 } {
                0 => Vec::new(),
                1 | 2 => vec![say(4, index(4), &lie, twisted(content, draw))],
                3 => vec![message.clone(), say(4, index(4), &lie, twisted(content, draw))],
                4 => match content {
                    Content::Shares { transcript, .. } => {
                        let accused = index(u64::from(draw >> 5) % 3 + 1);
                        let complaint = Content::Complaint { transcript: *transcript, accused };
                        vec![say(4, index(4), &lie, complaint), message.clone()]
                    }
                    _ => vec![message.clone()],
                },
                _ => vec![message.clone()],
            }
        });
        let mut net = run(&cluster, &plan, wire);
        net.time_out();
        net.run();
        // Whoever has a certificate shows it.
        let certificate = [1, 2, 3].iter().find_map(|number| net.holders[number].certificate.clone());
        if let Some(certificate) = certificate {
            for number in [1, 2, 3] {
                let holder = net.holders.get_mut(&number).unwrap();
                prop_assert!(holder.pending.is_some(), "{number} has nothing to switch to");
                let effects = holder.ceremony.as_mut().unwrap().relay(&certificate);
                net.carry_out(number, effects);
                let own = net.holders[&number].certificate.as_ref();
                prop_assert_eq!(own.map(|own| &own.body), Some(&certificate.body));
            }
            let params = net.holders[&1].pending.as_ref().unwrap().params.clone();
            cluster.adopt_record(&params, &certificate);
            for number in [1, 2, 3] {
                let pending = net.holders.get_mut(&number).unwrap().pending.take().unwrap();
                let share = cluster.share(pending);
                cluster.shares.insert(number, share);
            }
        }
        if !cluster.shares.is_empty() {
            for pair in [[1, 2], [1, 3], [2, 3]] {
                prop_assert_eq!(cluster.key_of(&pair), cluster.public_key());
            }
        }
        for number in [1, 2, 3] {
            for abort in net.holders[&number].aborts.iter().chain(&net.holders[&number].reports) {
                let alone = matches!(
                    abort.reason,
                    AbortReason::Equivocated | AbortReason::InvalidDeal | AbortReason::InvalidShare
                );
                let liar = abort.named.iter().all(|party| {
                    matches!(party, Party::Dealer(who) | Party::Receiver(who) if *who == index(4))
                });
                prop_assert!(!alone || liar, "{abort:?}");
            }
        }
    }
}
