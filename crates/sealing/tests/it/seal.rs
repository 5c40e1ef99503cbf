//! The whole way of a secret.

use bonafide_crypto::mlkem::MlKemPrivateKey;
use bonafide_sealing::document::Document;
use bonafide_sealing::object::SealedObject;
use bonafide_sealing::opening::{Acceptance, AuthenticObject, OpenError, Opening, Step};
use bonafide_sealing::params::SiteKey;
use bonafide_sealing::seal::{Quantum, Recipient, SealError, Sealing, rewrap, seal};
use bonafide_sealing::{CHUNK, MAX_SECRET, armour};

use crate::world::{LABEL, NOW, POLICY, World, keyset, public_data, tenant};

#[test]
fn any_threshold_of_keyholders_opens_it_and_fewer_do_not() {
    let world = World::dealt(3, 5, Vec::new());
    let object = world.seal(b"correct horse");
    for numbers in [[1, 2, 3], [5, 3, 1], [2, 4, 5], [3, 4, 5]] {
        assert_eq!(world.open(object.clone(), &numbers).unwrap(), b"correct horse");
    }
    assert_eq!(world.open(object, &[1, 2]).unwrap_err(), OpenError::NotAsked);
    // 1-of-1 and n-of-n.
    let world = World::dealt(1, 1, Vec::new());
    assert_eq!(world.open(world.seal(b"x"), &[1]).unwrap(), b"x");
    let world = World::dealt(2, 2, Vec::new());
    assert_eq!(world.open(world.seal(b""), &[2, 1]).unwrap(), b"");
}

#[test]
fn long_secrets_and_text() {
    let world = World::dealt(1, 1, Vec::new());
    for length in [CHUNK, CHUNK + 1, MAX_SECRET] {
        let secret: Vec<u8> = (0..length).map(|place| (place * 7) as u8).collect();
        let object = world.seal(&secret);
        let text = armour::to_text(&object);
        assert!(text.starts_with("bbf1:") && !text.contains(char::is_whitespace));
        let again = armour::from_text(&format!("  {text}\n")).unwrap();
        assert_eq!(world.open(again, &[1]).unwrap(), secret);
    }
    let text = armour::to_text(&world.seal(b"x"));
    for bad in [&text[1..], &text[..text.len() - 1], &format!("{text}="), &text.replace("bbf1:", "bbf2:")] {
        assert!(armour::from_text(bad).is_err());
    }
    assert!(matches!(
        seal(&sealing(&world, &[world.recipient()]), &vec![0; MAX_SECRET + 1], NOW, world.random.as_ref()),
        Err(SealError::TooLong)
    ));
}

fn sealing<'a>(world: &'a World, recipients: &'a [Recipient<'a>]) -> Sealing<'a> {
    let public = Box::leak(Box::new(public_data()));
    let signer = Some(world.keys.seal.as_ref() as &dyn bonafide_crypto::key::Signer);
    Sealing { recipients, public, serial: 5, quantum: Quantum::Never, signer }
}

#[test]
fn one_of_several_policies_is_enough() {
    let world = World::dealt(2, 3, Vec::new());
    let others = [
        world.recipient(),
        Recipient { policy: b"another policy", ..world.recipient() },
        Recipient { label: b"another label", ..world.recipient() },
    ];
    let object = world.verify(world.seal_to(&others, b"any of", Quantum::Never)).unwrap();
    for stanza in 0..3 {
        let mut opening = world.begin(&object, stanza, None);
        assert!(matches!(opening.accept(world.answer(1, opening.request())), Ok(Step::Wait)));
        let Ok(Step::Opened(key)) = opening.accept(world.answer(3, opening.request())) else { panic!() };
        assert_eq!(*object.secret(&key).unwrap(), b"any of");
    }
    // Every stanza has its own U.
    let stanzas = &object.object().stanzas;
    assert!(stanzas[0].point != stanzas[1].point && stanzas[1].point != stanzas[2].point);
    // Twice the same is refused.
    let twice = [world.recipient(), world.recipient()];
    let refused = seal(&sealing(&world, &twice), b"x", NOW, world.random.as_ref());
    assert!(matches!(refused, Err(SealError::Recipients)));
}

#[test]
fn a_post_quantum_half_is_needed_to_open() {
    let site = MlKemPrivateKey::generate().unwrap();
    let other = MlKemPrivateKey::generate().unwrap();
    let key = |id, name, key: &MlKemPrivateKey| {
        SiteKey::new(id, name, key.public_key().spki_der().last_chunk::<1184>().unwrap()).unwrap()
    };
    let keys = vec![key(1, "edge", &other), key(2, "cloud", &site)];
    let world = World::dealt(2, 3, keys);
    let recipient = Recipient { site: Some("cloud"), ..world.recipient() };
    let object = world.verify(world.seal_to(&[recipient], b"for long", Quantum::Always)).unwrap();
    let half = object.object().stanzas[0].post_quantum.clone().unwrap();
    assert_eq!((half.site_key, object.object().post_quantum), (2, true));

    let secret = site.decapsulate(half.ciphertext.as_slice()).unwrap();
    let mut opening = world.begin(&object, 0, Some(secret));
    opening.accept(world.answer(1, opening.request())).unwrap();
    let Ok(Step::Opened(key)) = opening.accept(world.answer(2, opening.request())) else { panic!() };
    assert_eq!(*object.secret(&key).unwrap(), b"for long");

    // With another site's secret the commitment does not fit: somebody is asked for proofs, and nobody has lied.
    let wrong = other.decapsulate(half.ciphertext.as_slice()).unwrap();
    let mut opening = world.begin(&object, 0, Some(wrong));
    opening.accept(world.answer(1, opening.request())).unwrap();
    let Ok(Step::Prove(_)) = opening.accept(world.answer(2, opening.request())) else { panic!() };
    opening.accept(world.answer(1, opening.proof_request())).unwrap();
    let error = opening.accept(world.answer(2, opening.proof_request())).unwrap_err();
    assert_eq!(error, OpenError::Stanza);

    // Without one nobody begins; several sites need a choice.
    let policy = Opening::blinding_policy(&object, 0, &world.params).unwrap();
    let blinding = policy.blind(world.random.as_ref()).unwrap();
    let begun = Opening::begin(&object, 0, world.keyholders(), blinding, None, None, world.random.as_ref());
    assert_eq!(begun.unwrap_err(), OpenError::SiteSecret);
    let unclear = Sealing { quantum: Quantum::Always, ..sealing(&world, &[]) };
    let recipients = [world.recipient()];
    let unclear = Sealing { recipients: &recipients, ..unclear };
    assert!(matches!(seal(&unclear, b"x", NOW, world.random.as_ref()), Err(SealError::NoSiteKey)));
}

#[test]
fn long_lived_secrets_get_a_post_quantum_half_by_themselves() {
    let site = MlKemPrivateKey::generate().unwrap();
    let key = SiteKey::new(1, "edge", site.public_key().spki_der().last_chunk::<1184>().unwrap()).unwrap();
    let (with, without) = (World::dealt(1, 1, vec![key]), World::dealt(1, 1, Vec::new()));
    let day = 86_400;
    for (not_after, expected) in
        [(Some(NOW + 90 * day), false), (Some(NOW + 90 * day + 1), true), (None, true)]
    {
        let mut public = public_data();
        public.not_after = not_after;
        let seal_in = |world: &World| {
            let recipients = [world.recipient()];
            let sealing = Sealing {
                recipients: &recipients,
                public: &public,
                serial: 5,
                quantum: Quantum::Auto,
                signer: None,
            };
            seal(&sealing, b"x", NOW, world.random.as_ref())
        };
        assert_eq!(seal_in(&with).unwrap().post_quantum, expected);
        assert_eq!(seal_in(&without).is_ok(), !expected);
    }
}

#[test]
fn times_and_names_are_enforced() {
    let world = World::dealt(1, 1, Vec::new());
    let object = world.seal(b"x");
    let accept = |name, min_serial, now| {
        let acceptance = Acceptance { name, min_serial, ..world.acceptance() };
        AuthenticObject::verify(object.clone(), &acceptance, now).map(|_| ())
    };
    assert_eq!(accept("database", 5, NOW), Ok(()));
    assert_eq!(accept("another", 5, NOW), Err(OpenError::Name));
    assert_eq!(accept("database", 6, NOW), Err(OpenError::Rollback));
    assert_eq!(accept("database", 5, NOW + 86_400), Err(OpenError::Expired));

    let recipients = [world.recipient()];
    let sealing = sealing(&world, &recipients);
    let random = world.random.as_ref();
    assert!(matches!(seal(&sealing, b"x", NOW - 2000, random), Err(SealError::Params(_))));
    assert!(matches!(seal(&sealing, b"x", NOW + 86_400, random), Err(SealError::Expired)));
    assert!(matches!(seal(&sealing, b"x", NOW + 2_000_000_000, random), Err(SealError::Expired)));
    let too_long = [Recipient { policy: &[7; 8193], ..world.recipient() }];
    let sealing = Sealing { recipients: &too_long, ..sealing };
    assert!(matches!(seal(&sealing, b"x", NOW, random), Err(SealError::Format(_))));
}

#[test]
fn a_secret_is_rewrapped_for_the_next_version() {
    let (first, second) = (World::dealt(2, 3, Vec::new()), World::version(2, 2, 3, Vec::new()));
    let object = first.verify(first.seal(b"moves on")).unwrap();
    let opened = first.open_key(&object);
    let rewrapper = Some(first.keys.rewrap.as_ref() as &dyn bonafide_crypto::key::Signer);
    let rewrapped =
        rewrap(&object, &opened, &second.recipient(), rewrapper, NOW, second.random.as_ref()).unwrap();
    let rewrapped = SealedObject::decode(&rewrapped.encode()).unwrap();
    // The payload and the owner's signature stay; the stanza is another.
    assert_eq!(
        (&rewrapped.payload, &rewrapped.signature),
        (&object.object().payload, &object.object().signature)
    );
    assert_eq!((rewrapped.stanzas.len(), rewrapped.stanzas[0].version), (1, 2));
    assert_ne!(rewrapped.stanzas[0].point, object.object().stanzas[0].point);
    assert_eq!(second.open(rewrapped.clone(), &[1, 3]).unwrap(), b"moves on");
    // Not with the keyholders' shares of the version before.
    assert_eq!(
        first
            .verify(rewrapped)
            .map(|object| {
                let policy = Opening::blinding_policy(&object, 0, &first.params).unwrap();
                let blinding = policy.blind(first.random.as_ref()).unwrap();
                Opening::begin(&object, 0, first.keyholders(), blinding, None, None, first.random.as_ref())
                    .err()
            })
            .unwrap(),
        Some(OpenError::OtherKey)
    );

    // For nobody new, and not without a signature.
    let other = Recipient { policy: b"everybody", ..second.recipient() };
    let random = second.random.as_ref();
    let refused = rewrap(&object, &opened, &other, rewrapper, NOW, random);
    assert!(matches!(refused, Err(SealError::Rewrap)));
    let refused = rewrap(&object, &opened, &second.recipient(), None, NOW, random);
    assert!(matches!(refused, Err(SealError::Rewrap)));
    let stranger = first.verify(first.seal(b"another object")).unwrap();
    let refused = rewrap(&stranger, &opened, &second.recipient(), rewrapper, NOW, random);
    assert!(matches!(refused, Err(SealError::Rewrap)));
}

#[test]
fn unsigned_objects_open_only_for_who_says_so() {
    let world = World::dealt(1, 1, Vec::new());
    let recipients = [world.recipient()];
    let unsigned = Sealing { signer: None, ..sealing(&world, &recipients) };
    let object = seal(&unsigned, b"x", NOW, world.random.as_ref()).unwrap();
    assert_eq!(world.verify(object.clone()).unwrap_err(), OpenError::Signature);
    let acceptance = Acceptance { unsigned: true, ..world.acceptance() };
    assert!(AuthenticObject::verify(object, &acceptance, NOW).is_ok());
}

/// A generator that repeats itself, as in a machine that was cloned.
#[derive(Debug)]
struct Stuck;

impl bonafide_crypto::random::Random for Stuck {
    fn fill(&self, out: &mut [u8]) {
        out.fill(7);
    }
}

#[test]
fn a_stuck_generator_repeats_no_nonce() {
    let world = World::dealt(1, 1, Vec::new());
    let recipients = [world.recipient(), Recipient { label: b"other", ..world.recipient() }];
    let sealing = sealing(&world, &recipients);
    let one = seal(&sealing, b"one", NOW, &Stuck).unwrap();
    let two = seal(&sealing, b"two", NOW, &Stuck).unwrap();
    assert_ne!(one.file_commitment, two.file_commitment);
    let points: Vec<_> = one.stanzas.iter().chain(&two.stanzas).map(|stanza| stanza.point.encode()).collect();
    for (place, point) in points.iter().enumerate() {
        assert!(!points[place + 1..].contains(point));
    }
    // The same secret for the same policy and name is one message: it may repeat.
    assert_eq!(seal(&sealing, b"one", NOW, &Stuck).unwrap().payload, one.payload);
    // Two different answers are proven with different nonces, or both would give the share away.
    let share = &world.shares[0];
    let identity = bonafide_sealing::identity::Identity::new(&tenant(), &keyset(), POLICY, LABEL).unwrap();
    let prepared = share.prepare(&identity).unwrap();
    let proofs = one.stanzas.iter().map(|stanza| {
        let value = share.evaluate(&prepared, &stanza.point).unwrap();
        share.prove(&identity, &stanza.point, &value, &Stuck).unwrap().encode()
    });
    let proofs: Vec<_> = proofs.collect();
    assert_ne!(proofs[0][..16], proofs[1][..16]);
}
