//! Keyholders that lie, stall, replay, or answer with another epoch.

use bonafide_crypto::key::Signer;
use bonafide_sealing::document::{Document, Signed};
use bonafide_sealing::epoch::{EpochRecord, TrustedEpoch};
use bonafide_sealing::exchange::{EvaluationReply, EvaluationRequest};
use bonafide_sealing::group::{G1Point, Gt, Scalar};
use bonafide_sealing::opening::{Holder, Keyholders, LieKind, OpenError, Opening, Step};
use bonafide_sealing::proof::{Proof, Statement};
use bonafide_sealing::share::Share;
use proptest::prelude::*;

use crate::world::{Seeded, World, answer, certified, index, member_key, signed, times};

/// An answer with another value, signed by the keyholder all the same.
fn falsified(
    reply: &Signed<EvaluationReply>,
    change: impl FnOnce(&mut EvaluationReply),
) -> Signed<EvaluationReply> {
    let mut body = reply.body.clone();
    change(&mut body);
    let key = member_key(u64::from(body.index.number()));
    signed(body, &[key.as_ref()])
}

fn holder(number: u64) -> Holder {
    Holder { epoch: 1, index: index(number) }
}

fn doubled(reply: &mut EvaluationReply) {
    let value = Gt::decode(&reply.value).unwrap();
    *reply.value = *value.times(&value).encode();
}

#[test]
fn a_liar_is_named_skipped_and_convicted() {
    let world = World::dealt(3, 5, Vec::new());
    let object = world.verify(world.seal(b"secret")).unwrap();
    let mut opening = world.begin(&object, 0, None);
    for number in [1, 2] {
        assert!(matches!(opening.accept(world.answer(number, opening.request())), Ok(Step::Wait)));
    }
    let wrong = falsified(&world.answer(3, opening.request()), doubled);
    let Ok(Step::Prove(who)) = opening.accept(wrong) else { panic!() };
    assert_eq!(who, [holder(1), holder(2), holder(3)]);
    for number in [1, 2] {
        assert!(matches!(opening.accept(world.answer(number, opening.proof_request())), Ok(Step::Prove(_))));
    }
    // It stays with its lie, and has a proof of something else.
    let proven = world.answer(3, opening.proof_request());
    let Ok(Step::Named(lie)) = opening.accept(falsified(&proven, doubled)) else { panic!() };
    assert_eq!((lie.holder, lie.kind), (holder(3), LieKind::NotProven));
    assert!(lie.convicts(&world.epoch));
    assert_eq!(opening.liars(), [holder(3)]);
    assert_eq!(opening.accept(world.answer(3, opening.proof_request())).unwrap_err(), OpenError::NotAsked);
    // From now on only proven answers count.
    let unproven = opening.accept(world.answer(4, opening.request()));
    assert!(matches!(unproven, Ok(Step::Prove(who)) if who == [holder(4)]));
    let Ok(Step::Opened(key)) = opening.accept(world.answer(5, opening.proof_request())) else { panic!() };
    assert_eq!(*object.secret(&key).unwrap(), b"secret");
}

/// Wrong first and right when proof is asked for would otherwise cost nothing: the first value is signed as well.
#[test]
fn wrong_first_and_right_later_is_named() {
    let world = World::dealt(2, 3, Vec::new());
    let object = world.verify(world.seal(b"secret")).unwrap();
    let mut opening = world.begin(&object, 0, None);
    opening.accept(falsified(&world.answer(1, opening.request()), doubled)).unwrap();
    let Ok(Step::Prove(_)) = opening.accept(world.answer(2, opening.request())) else { panic!() };
    let Ok(Step::Named(lie)) = opening.accept(world.answer(1, opening.proof_request())) else { panic!() };
    assert_eq!((lie.holder, lie.kind), (holder(1), LieKind::Changed));
    assert!(lie.convicts(&world.epoch));
    // The evidence is about one question: with another, or with one reply twice, it convicts nobody.
    let mut other = lie.clone();
    other.question.policy = b"another".to_vec();
    assert!(!other.convicts(&world.epoch));
    let mut same = lie.clone();
    same.first = Some(same.reply.clone());
    assert!(!same.convicts(&world.epoch));
    let mut framed = *lie;
    framed.holder = holder(3);
    assert!(!framed.convicts(&world.epoch));
}

#[test]
fn nonsense_is_named_and_strangers_are_not() {
    let world = World::dealt(2, 3, Vec::new());
    let object = world.verify(world.seal(b"secret")).unwrap();
    let mut opening = world.begin(&object, 0, None);
    let right = world.answer(1, opening.request());
    let mut one = [0; 576];
    one[47] = 1;
    let Ok(Step::Named(lie)) = opening.accept(falsified(&right, |reply| *reply.value = one)) else {
        panic!()
    };
    assert_eq!((lie.kind, lie.kind.as_str()), (LieKind::NotInGroup, "answer-not-in-group"));
    assert!(lie.convicts(&world.epoch));

    // Signed by somebody else, or changed on its way: nobody can be blamed.
    let reply = world.answer(2, opening.request());
    let mut changed = reply.clone();
    doubled(&mut changed.body);
    assert_eq!(opening.accept(changed).unwrap_err(), OpenError::Stranger);
    let by_other = signed(reply.body.clone(), &[member_key(3).as_ref()]);
    assert_eq!(opening.accept(by_other).unwrap_err(), OpenError::Stranger);
    let mut outside = reply.body.clone();
    outside.index = index(9);
    assert_eq!(opening.accept(signed(outside, &[member_key(9).as_ref()])).unwrap_err(), OpenError::Stranger);
    // The same keyholder twice counts once.
    assert!(matches!(opening.accept(reply.clone()), Ok(Step::Wait)));
    assert_eq!(opening.accept(reply).unwrap_err(), OpenError::NotAsked);
}

#[test]
fn answers_can_not_be_replayed() {
    let world = World::dealt(2, 3, Vec::new());
    let object = world.verify(world.seal(b"secret")).unwrap();
    let (first, mut second) = (world.begin(&object, 0, None), world.begin(&object, 0, None));
    assert_ne!(first.request().point, second.request().point);
    let old = world.answer(1, first.request());
    assert_eq!(second.accept(old).unwrap_err(), OpenError::NotAsked);
}

/// Everybody has proven: it is the object, and nobody is named.
#[test]
fn a_damaged_stanza_blames_nobody() {
    let world = World::dealt(2, 3, Vec::new());
    let mut object = world.seal(b"secret");
    object.stanzas[0].point = times(&Scalar::from_number(77));
    let message = object.stanzas[0].message(&object.oid);
    let seal_key = world.keys.seal.as_ref();
    object.stanzas[0].signature.as_mut().unwrap().value = seal_key.sign(&message).unwrap();
    let object = world.verify(object).unwrap();
    let mut opening = world.begin(&object, 0, None);
    opening.accept(world.answer(1, opening.request())).unwrap();
    opening.accept(world.answer(2, opening.request())).unwrap();
    opening.accept(world.answer(1, opening.proof_request())).unwrap();
    let error = opening.accept(world.answer(2, opening.proof_request())).unwrap_err();
    assert_eq!((error, error.code()), (OpenError::Stanza, "sealing.stanza-damaged"));
    assert!(opening.liars().is_empty());
}

/// A world whose shares were made anew: the same key, another polynomial.
fn refreshed(world: &World) -> (TrustedEpoch, Vec<Share>) {
    let random = Seeded::new("refresh");
    let zero = bonafide_sealing::group::Polynomial::random(Scalar::zero(), 2, &random);
    let added = zero.commitments(1).unwrap();
    let old = world.epoch.record();
    let commitments = vec![old.commitments[0], old.commitments[1].plus(&added[0]).unwrap()];
    let record = EpochRecord {
        epoch: 2,
        previous: *world.epoch.digest(),
        shares: EpochRecord::shares_of(&commitments, 3).unwrap(),
        commitments,
        ..old.clone()
    };
    let epoch = certified(&world.params, &world.roster, record, &[1, 2, 3]);
    let share = |number: u64| {
        let secret = world.polynomial.at(index(number)).plus(&zero.at(index(number)));
        Share::new(world.params.params(), epoch.record(), index(number), secret).unwrap()
    };
    let shares = [1, 2, 3].map(share).into();
    (epoch, shares)
}

#[test]
fn answers_of_two_epochs_are_never_combined() {
    let world = World::dealt(2, 3, Vec::new());
    let (epoch, shares) = refreshed(&world);
    let object = world.verify(world.seal(b"secret")).unwrap();
    let both = [world.epoch.clone(), epoch.clone()];
    let policy = Opening::blinding_policy(&object, 0, &world.params).unwrap();
    let begin = |epochs| {
        let keyholders = Keyholders { epochs, ..world.keyholders() };
        let blinding = policy.blind(world.random.as_ref()).unwrap();
        Opening::begin(&object, 0, keyholders, blinding, None, None, world.random.as_ref()).unwrap()
    };
    let mut opening = begin(&both);
    let new = |number: u64, request: &EvaluationRequest| {
        answer(&shares[number as usize - 1], number, request, world.random.as_ref())
    };
    // One old and one new answer: not enough of either.
    assert!(matches!(opening.accept(world.answer(1, opening.request())), Ok(Step::Wait)));
    assert!(matches!(opening.accept(new(2, opening.request())), Ok(Step::Wait)));
    let Ok(Step::Opened(_)) = opening.accept(new(3, opening.request())) else { panic!() };
    // Combined all the same, they give nothing.
    let (old, new_share) = (world.polynomial.at(index(1)), shares[1].secret_bytes());
    let coefficients = bonafide_sealing::group::lagrange_at_zero(&[index(1), index(2)]).unwrap();
    let mixed =
        old.times(&coefficients[0]).plus(&Scalar::from_bytes(&new_share).unwrap().times(&coefficients[1]));
    assert_ne!(mixed, world.polynomial.at_zero());

    // Who knows only one epoch is told which record is missing.
    let mut opening = begin(std::slice::from_ref(&world.epoch));
    assert_eq!(opening.accept(new(2, opening.request())).unwrap_err(), OpenError::UnknownEpoch(2));
}

/// Public shares in the parameters would be those of the first epoch for ever, and honest keyholders would fail their proofs.
#[test]
fn proofs_are_of_the_epoch_that_answers() {
    let world = World::dealt(2, 3, Vec::new());
    let (epoch, shares) = refreshed(&world);
    let request = world.verify(world.seal(b"secret")).unwrap();
    let opening = world.begin(&request, 0, None);
    let reply = answer(&shares[0], 1, opening.proof_request(), world.random.as_ref());
    let identity = opening.request().identity().unwrap();
    let value = Gt::decode(&reply.body.value).unwrap();
    let proof = Proof::decode(reply.body.proof.as_ref().unwrap()).unwrap();
    let proves = |share: &G1Point| {
        let point = &opening.request().point;
        proof.proves(&Statement { identity: &identity, share, point, value: &value })
    };
    assert!(proves(epoch.record().share(index(1)).unwrap()));
    assert!(!proves(world.epoch.record().share(index(1)).unwrap()));
}

#[test]
fn a_proof_proves_one_thing() {
    let world = World::dealt(2, 3, Vec::new());
    let object = world.verify(world.seal(b"secret")).unwrap();
    let opening = world.begin(&object, 0, None);
    let identity = opening.request().identity().unwrap();
    let other = bonafide_sealing::identity::Identity::new(
        &crate::world::tenant(),
        &crate::world::keyset(),
        b"another",
        b"",
    )
    .unwrap();
    let (share, point) = (&world.shares[0], opening.request().point);
    let value = share.evaluate(&share.prepare(&identity).unwrap(), &point).unwrap();
    let proof = share.prove(&identity, &point, &value, world.random.as_ref()).unwrap();
    let statement = Statement { identity: &identity, share: share.public(), point: &point, value: &value };
    assert!(proof.proves(&statement));
    let (wrong, moved) = (value.times(&value), times(&Scalar::from_number(3)));
    assert!(!proof.proves(&Statement { identity: &other, ..statement }));
    assert!(!proof.proves(&Statement { share: world.shares[1].public(), ..statement }));
    assert!(!proof.proves(&Statement { point: &moved, ..statement }));
    assert!(!proof.proves(&Statement { value: &wrong, ..statement }));
    let bytes = proof.encode();
    for place in [0, 15, 20, 47] {
        let mut bad = bytes;
        bad[place] ^= 1;
        assert!(Proof::decode(&bad).is_err() || !Proof::decode(&bad).unwrap().proves(&statement));
    }
    assert!(Proof::decode(&[0xff; 48]).is_err());
    // An answer without the proof that was asked for is none.
    let mut opening = world.begin(&object, 0, None);
    let reply = world.answer(1, opening.proof_request());
    let Ok(Step::Named(lie)) = opening.accept(falsified(&reply, |reply| reply.proof = None)) else {
        panic!()
    };
    assert!(lie.convicts(&world.epoch));
    let honest = world.answer(2, opening.proof_request());
    assert!(EvaluationReply::decode(&honest.body.encode()).is_ok());
}

/// What was prepared answers for one share and policy, and a share for one key.
#[test]
fn a_share_answers_for_its_own_key() {
    let (world, next) = (World::dealt(2, 3, Vec::new()), World::version(2, 2, 3, Vec::new()));
    let object = world.verify(world.seal(b"secret")).unwrap();
    let opening = world.begin(&object, 0, None);
    let request = opening.request();
    let identity = request.identity().unwrap();
    let (own, other) = (&world.shares[0], &next.shares[0]);
    let prepared = own.prepare(&identity).unwrap();
    assert!(other.evaluate(&prepared, &request.point).is_err());
    let random = world.random.as_ref();
    let signer = member_key(1);
    assert!(request.answer(other, &other.prepare(&identity).unwrap(), signer.as_ref(), random).is_err());
    let mut another = request.clone();
    another.label = b"x".to_vec();
    assert!(another.answer(own, &prepared, signer.as_ref(), random).is_err());
    assert!(request.answer(own, &prepared, signer.as_ref(), random).is_ok());
    // A share that does not fit its record is none.
    let secret = world.polynomial.at(index(2));
    assert!(Share::new(world.params.params(), world.epoch.record(), index(1), secret).is_err());
    let bytes = own.secret_bytes();
    let again = Share::from_bytes(world.params.params(), &world.epoch, index(1), &bytes).unwrap();
    assert_eq!((again.name(), again.public()), (own.name(), own.public()));
    assert_ne!(own.name().aad(), world.shares[1].name().aad());
    assert!(!format!("{own:?} {prepared:?}").contains("secret:"));
}

/// What a keyholder does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Habit {
    Honest,
    /// One wrong value, from beginning to end.
    Lies,
    /// Wrong first, right when proof is asked for.
    Repents,
    /// No element of the group.
    Babbles,
    /// Nothing at all.
    Silent,
    /// Right, but without the proof that was asked for.
    Proofless,
}

fn speak(
    world: &World,
    number: u64,
    habit: Habit,
    request: &EvaluationRequest,
) -> Option<Signed<EvaluationReply>> {
    let right = world.answer(number, request);
    Some(match habit {
        Habit::Honest => right,
        Habit::Lies => falsified(&right, doubled),
        Habit::Repents if request.prove => right,
        Habit::Repents => falsified(&right, doubled),
        Habit::Babbles => falsified(&right, |reply| *reply.value = [7; 576]),
        Habit::Silent => return None,
        Habit::Proofless => falsified(&right, |reply| reply.proof = None),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// With a threshold of honest keyholders it opens, whatever the others do, and in whatever order they are asked. With one less it
    /// never does, nor is the secret said to be damaged. Nobody honest is ever named, and all evidence convicts.
    #[test]
    fn honest_keyholders_are_enough_and_never_blamed(
        habits in prop::collection::vec(prop::sample::select(vec![
            Habit::Honest, Habit::Honest, Habit::Honest,
            Habit::Lies, Habit::Repents, Habit::Babbles, Habit::Silent, Habit::Proofless,
        ]), 5),
        order in Just((1..=5_u64).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        static WORLD: std::sync::LazyLock<World> = std::sync::LazyLock::new(|| World::dealt(3, 5, Vec::new()));
        let world = &*WORLD;
        let object = world.verify(world.seal(b"secret")).unwrap();
        let mut opening = world.begin(&object, 0, None);
        let (question, demand) = (opening.request().clone(), opening.proof_request().clone());
        let mut asks: std::collections::VecDeque<(u64, bool)> = order.into_iter().map(|number| (number, false)).collect();
        let mut demanded = std::collections::BTreeSet::new();
        let mut opened = false;
        while let Some((number, prove)) = asks.pop_front() {
            let habit = habits[number as usize - 1];
            let request = if prove { &demand } else { &question };
            let Some(reply) = speak(world, number, habit, request) else { continue };
            match opening.accept(reply) {
                Ok(Step::Opened(key)) => {
                    prop_assert_eq!(&**object.secret(&key).unwrap(), b"secret");
                    opened = true;
                    break;
                }
                Ok(Step::Prove(who)) => {
                    for holder in who {
                        let number = u64::from(holder.index.number());
                        if demanded.insert(number) {
                            asks.push_back((number, true));
                        }
                    }
                }
                Ok(Step::Named(lie)) => {
                    let habit = habits[lie.holder.index.place()];
                    prop_assert!(!matches!(habit, Habit::Honest | Habit::Silent), "{habit:?} was named");
                    prop_assert!(lie.convicts(&world.epoch));
                }
                Ok(Step::Wait) => {}
                Err(error) => prop_assert!(false, "{error:?}"),
            }
        }
        let honest = habits.iter().filter(|habit| **habit == Habit::Honest).count();
        // Those who only keep their proofs back have answered rightly: as long as nobody lies, they count.
        let right = honest + habits.iter().filter(|habit| **habit == Habit::Proofless).count();
        prop_assert!(opened || honest < 3);
        prop_assert!(!opened || right >= 3);
        if !opened {
            for liar in opening.liars() {
                prop_assert_ne!(habits[liar.index.place()], Habit::Honest);
            }
        }
    }
}
