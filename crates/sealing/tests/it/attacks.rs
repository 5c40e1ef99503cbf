//! What others have broken, and what the design's review has broken in its first draft.

use bonafide_crypto::cipher::{Cipher, CipherKey};
use bonafide_crypto::key::Signer;
use bonafide_sealing::document::{Document, Signature};
use bonafide_sealing::exchange::EvaluationRequest;
use bonafide_sealing::group::{G1Point, GT_BYTES, Gt, Scalar, pair};
use bonafide_sealing::identity::Identity;
use bonafide_sealing::object::SealedObject;
use bonafide_sealing::opening::{OpenError, Step};
use bonafide_sealing::seal::{Quantum, Recipient};

use crate::world::{LABEL, POLICY, World, index, keyset, public, tenant, times};

fn identity(policy: &[u8], label: &[u8]) -> Identity {
    Identity::new(&tenant(), &keyset(), policy, label).unwrap()
}

/// Additive tweaks of a Diffie-Hellman key: from an answer under Q, `(k+h_Q)·A`, everybody computes that under P. Here answers under
/// Q say nothing of P: what would have to be found is the logarithm between two hashes.
#[test]
fn answers_under_one_policy_do_not_open_another() {
    // First the broken one, so that this test is known to see it.
    let (k, h_p, h_q) = (Scalar::from_number(1234), Scalar::from_number(77), Scalar::from_number(99));
    let a = times(&Scalar::from_number(5));
    let answer_q = a.times(&k.plus(&h_q)).unwrap();
    let forged = G1Point::sum_of_multiples([(&answer_q, Scalar::from_number(1)), (&a, h_p.minus(&h_q))]);
    assert_eq!(forged, a.times(&k.plus(&h_p)));
    // Multiplicative: one division.
    let answer_q = a.times(&k.times(&h_q)).unwrap();
    let forged = answer_q.times(&h_p.times(&h_q.inverse().unwrap()));
    assert_eq!(forged, a.times(&k.times(&h_p)));

    // Ours: an authorised caller under Q asks with a U of P, scaled and shifted as he likes, and tries every answer.
    let world = World::dealt(1, 1, Vec::new());
    let share = &world.shares[0];
    let (p, q) = (identity(POLICY, LABEL), identity(b"a policy of mine", b""));
    let victim = world.seal(b"secret");
    let u = victim.stanzas[0].point;
    let wanted = share.evaluate(&share.prepare(&p).unwrap(), &u).unwrap();
    let under_q = share.prepare(&q).unwrap();
    let hashes = [&p, &q].map(|identity| {
        Scalar::reduce(&[identity.digest().as_slice(), &[0; 16]].concat().try_into().unwrap())
    });
    for factor in [
        Scalar::from_number(1),
        hashes[0].clone(),
        hashes[1].clone(),
        hashes[0].minus(&hashes[1]),
        hashes[0].times(&hashes[1].inverse().unwrap()),
    ] {
        let asked = u.times(&factor).unwrap();
        let answer = share.evaluate(&under_q, &asked).unwrap();
        for tried in [
            answer.clone(),
            Gt::product_of_powers([(&answer, factor.inverse().unwrap())]),
            Gt::product_of_powers([(&answer, factor)]),
        ] {
            assert_ne!(tried, wanted);
        }
    }
}

/// A policy that differs in one byte, another label, keyset or tenant: another point, and the commitment says so.
#[test]
fn another_identity_opens_nothing() {
    let world = World::dealt(1, 1, Vec::new());
    let object = world.verify(world.seal(b"secret")).unwrap();
    let mut policy = POLICY.to_vec();
    policy[3] ^= 1;
    let mut opening = world.begin(&object, 0, None);
    // The keyholder evaluates another policy than the client asked with, and hides it behind the right digest of the request.
    let asked = opening.request().clone();
    let other = EvaluationRequest { policy: policy.clone(), ..asked.clone() };
    let mut reply = world.answer(1, &other);
    reply.body.request = asked.digest();
    let reply = crate::world::signed(reply.body, &[crate::world::member_key(1).as_ref()]);
    assert!(matches!(opening.accept(reply), Ok(Step::Prove(_))));

    let points: Vec<_> = [
        identity(POLICY, LABEL),
        identity(&policy, LABEL),
        identity(POLICY, b""),
        Identity::new(&tenant(), &bonafide_sealing::identity::Keyset::new("other").unwrap(), POLICY, LABEL)
            .unwrap(),
        Identity::new(&bonafide_sealing::identity::Tenant::from_bytes([0; 16]), &keyset(), POLICY, LABEL)
            .unwrap(),
    ]
    .iter()
    .map(|identity| identity.point().unwrap().encode())
    .collect();
    for (place, point) in points.iter().enumerate() {
        assert!(!points[place + 1..].contains(point));
    }
    // Policy and label do not run into each other.
    assert_ne!(identity(b"ab", b"c").digest(), identity(b"a", b"bc").digest());
}

/// One file key under two identities, wrapped with nonce 0: were the wrapping key the same, GCM's authentication key would fall out.
/// Every stanza, and every rewrap, has an r of its own, and so another key.
#[test]
fn no_wrapping_key_is_used_twice() {
    let (world, next) = (World::dealt(1, 1, Vec::new()), World::version(2, 1, 1, Vec::new()));
    let recipients = [world.recipient(), Recipient { label: b"other", ..world.recipient() }];
    let object = world.verify(world.seal_to(&recipients, b"secret", Quantum::Never)).unwrap();
    let opened = world.open_key(&object);
    let signer = Some(world.keys.rewrap.as_ref() as &dyn Signer);
    let mut seen: Vec<SealedObject> = vec![object.object().clone()];
    for recipient in [next.recipient(), next.recipient()] {
        let random = next.random.as_ref();
        seen.push(
            bonafide_sealing::seal::rewrap(&object, &opened, &recipient, signer, crate::world::NOW, random)
                .unwrap(),
        );
    }
    let stanzas: Vec<_> = seen.iter().flat_map(|object| &object.stanzas).collect();
    for (place, stanza) in stanzas.iter().enumerate() {
        for other in &stanzas[place + 1..] {
            if stanza != other {
                assert_ne!(stanza.point, other.point);
                assert_ne!(stanza.commitment, other.commitment);
                assert_ne!(stanza.wrapped, other.wrapped);
            }
        }
    }
    // The same payload, and never another under the same key: a new secret is a new object.
    let again = world.seal(b"secret");
    assert_ne!((again.oid, again.file_commitment), (object.object().oid, object.object().file_commitment));
}

/// Somebody who may open a secret appends a stanza for his friends, or seals the same file key to everybody.
#[test]
fn appended_and_foreign_stanzas_are_refused() {
    let world = World::dealt(1, 1, Vec::new());
    let object = world.seal(b"secret");
    let everybody = Recipient { policy: b"everybody", ..world.recipient() };
    let other = world.seal_to(&[everybody], b"mine", Quantum::Never);

    let mut appended = object.clone();
    appended.stanzas.push(other.stanzas[0].clone());
    assert_eq!(world.verify(appended.clone()).unwrap_err(), OpenError::StanzaSignature);
    // With the identity added, the owner's signature is gone.
    appended.identities.push(*identity(b"everybody", LABEL).digest());
    appended.identities.sort_unstable();
    assert_eq!(world.verify(appended).unwrap_err(), OpenError::Signature);
    // One for the right identity, and of another object.
    let mut moved = object.clone();
    moved.stanzas = world.seal(b"another secret").stanzas;
    assert_eq!(world.verify(moved).unwrap_err(), OpenError::StanzaSignature);
    // A rewrapper can't seal secrets, and a stranger can't rewrap.
    let rewrapper = world.keys.rewrap.as_ref();
    let mut forged = object.clone();
    let value = rewrapper.sign(&forged.message()).unwrap();
    forged.signature = Some(Signature { key: *public(rewrapper).fingerprint(), value });
    assert_eq!(world.verify(forged).unwrap_err(), OpenError::Signature);
    let mut unsigned = object;
    unsigned.stanzas[0].signature = None;
    assert_eq!(world.verify(unsigned).unwrap_err(), OpenError::StanzaSignature);
}

/// A U that an attacker knows marks a secret: a keyholder in league with him would see it being opened, were there no blind; and with
/// a U of his own in the stanza, the object would fail to open for whom he likes. The stanza is signed.
#[test]
fn a_tagged_encapsulation_is_refused_before_anybody_is_asked() {
    let world = World::dealt(1, 1, Vec::new());
    let mut object = world.seal(b"secret");
    object.stanzas[0].point = times(&Scalar::from_number(4711));
    assert_eq!(world.verify(object.clone()).unwrap_err(), OpenError::StanzaSignature);
    // Also with the signature of somebody who is nobody here.
    let mallory = crate::world::key("mallory");
    let value = mallory.sign(&object.stanzas[0].message(&object.oid)).unwrap();
    object.stanzas[0].signature = Some(Signature { key: *public(mallory.as_ref()).fingerprint(), value });
    assert_eq!(world.verify(object).unwrap_err(), OpenError::StanzaSignature);
}

/// Whoever can write where secrets lie puts another there, strips the signature, or signs somebody else's secret as his own.
#[test]
fn secrets_can_not_be_swapped() {
    let world = World::dealt(1, 1, Vec::new());
    let (object, other) = (world.seal(b"secret"), world.seal(b"chosen by somebody else"));
    let refused = |change: &dyn Fn(&mut SealedObject)| {
        let mut changed = object.clone();
        change(&mut changed);
        let verified = world.verify(changed);
        assert!(matches!(
            verified.unwrap_err(),
            OpenError::Signature | OpenError::StanzaSignature | OpenError::Name
        ));
    };
    refused(&|object| object.payload = other.payload.clone());
    refused(&|object| object.file_commitment = other.file_commitment);
    refused(&|object| object.oid = other.oid);
    refused(&|object| object.serial += 1);
    refused(&|object| object.post_quantum = true);
    refused(&|object| object.public.purpose.push('x'));
    refused(&|object| object.public.not_after = None);
    refused(&|object| object.public.name = "another".to_owned());
    refused(&|object| object.signature = None);
    refused(&|object| object.signature = other.signature.clone());
    refused(&|object| object.tenant = bonafide_sealing::identity::Tenant::from_bytes([9; 16]));

    // The payload knows its signer: with another signature that would be accepted, it does not open.
    let mut resigned = object.clone();
    let second = crate::world::key("a second key for sealing");
    let mut delegation = world.keys.delegation(2);
    delegation.keys[4].push(public(second.as_ref()));
    let roots = [world.keys.root[0].as_ref() as &dyn Signer, world.keys.root[1].as_ref()];
    let owner = world.owner.renew(&crate::world::signed(delegation, &roots)).unwrap();
    let value = second.sign(&resigned.message()).unwrap();
    resigned.signature = Some(Signature { key: *public(second.as_ref()).fingerprint(), value });
    let acceptance = bonafide_sealing::opening::Acceptance { owner: &owner, ..world.acceptance() };
    let resigned =
        bonafide_sealing::opening::AuthenticObject::verify(resigned, &acceptance, crate::world::NOW).unwrap();
    let opened = world.open_key(&resigned);
    assert_eq!(resigned.secret(&opened).unwrap_err(), OpenError::Payload);
}

/// AES-GCM opens under several keys, if its maker wants it so: the file key is committed to, and the shared element is.
#[test]
fn keys_are_committed_to() {
    let world = World::dealt(1, 1, Vec::new());
    let (one, two) = (world.seal(b"one"), world.seal(b"two"));
    let (one, two) = (world.verify(one).unwrap(), world.verify(two).unwrap());
    let key = world.open_key(&one);
    assert_eq!(two.secret(&key).unwrap_err(), OpenError::FileKey);
    assert_eq!(*one.secret(&key).unwrap(), b"one");

    // A signer who lies: the stanza holds the key of one object, and the object claims another.
    let mut mixed = one.object().clone();
    mixed.file_commitment = two.object().file_commitment;
    let seal_key = world.keys.seal.as_ref();
    mixed.signature.as_mut().unwrap().value = seal_key.sign(&mixed.message()).unwrap();
    let mixed = world.verify(mixed).unwrap();
    let mut opening = world.begin(&mixed, 0, None);
    let reply = world.answer(1, opening.request());
    assert_eq!(opening.accept(reply).unwrap_err(), OpenError::FileKey);
}

/// t-1 shares, with every ciphertext there is, say nothing: each value of the missing share fits some key.
#[test]
fn one_share_less_is_nothing() {
    let world = World::dealt(3, 5, Vec::new());
    let object = world.verify(world.seal(b"secret")).unwrap();
    let u = object.object().stanzas[0].point;
    let q = identity(POLICY, LABEL).point().unwrap().prepare();
    let (one, two) = (world.polynomial.at(index(1)), world.polynomial.at(index(2)));
    let coefficients = bonafide_sealing::group::lagrange_at_zero(&[index(1), index(2)]).unwrap();
    let wrong = one.times(&coefficients[0]).plus(&two.times(&coefficients[1]));
    let guessed = Gt::product_of_powers([(&pair(&u, &q), wrong)]);
    let right = Gt::product_of_powers([(&pair(&u, &q), world.polynomial.at_zero())]);
    assert_ne!(guessed, right);
}

/// Shares of one old epoch combine for ever, whatever has become of them since: who keeps t of them (a backup, a snapshot) has the
/// key. That is why they are erased at the switch, with the seal key of their epoch; no mathematics does it.
#[test]
fn old_shares_of_one_epoch_are_the_key() {
    let world = World::dealt(2, 3, Vec::new());
    let old: Vec<_> =
        world.shares.iter().map(|share| Scalar::from_bytes(&share.secret_bytes()).unwrap()).collect();
    drop(world.shares);
    let coefficients = bonafide_sealing::group::lagrange_at_zero(&[index(1), index(3)]).unwrap();
    let key = old[0].times(&coefficients[0]).plus(&old[2].times(&coefficients[1]));
    assert_eq!(times(&key), world.params.params().key);
}

/// What a keyholder sees is uniformly random: it is the encapsulation of any object as well as of any other.
#[test]
fn blinded_points_tell_nothing() {
    let world = World::dealt(1, 1, Vec::new());
    let object = world.verify(world.seal(b"secret")).unwrap();
    let u = object.object().stanzas[0].point;
    let asked: Vec<_> = (0..8).map(|_| world.begin(&object, 0, None).request().point).collect();
    for (place, point) in asked.iter().enumerate() {
        assert_ne!(*point, u);
        assert!(!asked[place + 1..].contains(point));
    }
    // A blind is for one policy under one key, and so are the epochs that are asked.
    let next = World::version(2, 1, 1, Vec::new());
    let policy = bonafide_sealing::opening::Opening::blinding_policy(&object, 0, &world.params).unwrap();
    let keyholders = bonafide_sealing::opening::Keyholders {
        epochs: std::slice::from_ref(&next.epoch),
        ..world.keyholders()
    };
    let begun = bonafide_sealing::opening::Opening::begin(
        &object,
        0,
        keyholders,
        policy.blind(world.random.as_ref()).unwrap(),
        None,
        None,
        world.random.as_ref(),
    );
    assert_eq!(begun.unwrap_err(), OpenError::OtherKey);
    let policy = bonafide_sealing::opening::Opening::blinding_policy(&object, 0, &next.params).unwrap();
    let blinding = policy.blind(world.random.as_ref()).unwrap();
    let begun = bonafide_sealing::opening::Opening::begin(
        &object,
        0,
        world.keyholders(),
        blinding,
        None,
        None,
        world.random.as_ref(),
    );
    assert_eq!(begun.unwrap_err(), OpenError::OtherKey);
}

/// Infinity, points outside of the subgroup and other encodings do not get as far as a share.
#[test]
fn keyholders_do_not_look_at_bad_points() {
    let world = World::dealt(1, 1, Vec::new());
    let object = world.verify(world.seal(b"secret")).unwrap();
    let request = world.begin(&object, 0, None).request().encode();
    let good = world.begin(&object, 0, None).request().clone();
    let encoded = good.encode();
    let at = encoded.windows(48).position(|window| window == good.point.encode()).unwrap();
    let mut infinity = [0; 48];
    infinity[0] = 0xc0;
    let mut small = [0; 48];
    (small[0], small[47]) = (0x80, 4);
    for bad in [infinity, small, [0xff; 48], [0; 48]] {
        let mut changed = encoded.clone();
        changed[at..at + 48].copy_from_slice(&bad);
        assert!(EvaluationRequest::decode(&changed).is_err());
    }
    assert!(EvaluationRequest::decode(&request).is_ok());
    assert!(Gt::decode(&[0; GT_BYTES]).is_err());
}

/// Twice one nonce under one key, to show what the tests above guard against: the difference of two ciphertexts is that of the
/// plaintexts.
#[test]
fn why_nonces_matter() {
    let key = CipherKey::new(Cipher::Aes256Gcm, &[7; 32]).unwrap();
    let (mut one, mut two) = ([0; 48], [0; 48]);
    key.seal_into(&[0; 12], b"", &[1; 32], &mut one).unwrap();
    key.seal_into(&[0; 12], b"", &[3; 32], &mut two).unwrap();
    assert!(one.iter().zip(&two).take(32).all(|(a, b)| a ^ b == 2));
}
