//! Whatever the other two members sign and send in a ceremony, in whatever order: nothing panics, and no share is used without the
//! votes of all.
#![no_main]

use std::sync::{Arc, LazyLock};

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, Signer};
use bonafide_crypto::random::SystemRandom;
use bonafide_sealing::ceremony::{Ceremony, Effect, Kind, Message, Plan, Setup, Template};
use bonafide_sealing::document::{Document, Signed, VerifyingKey};
use bonafide_sealing::group::Index;
use bonafide_sealing::identity::{Keyset, Tenant};
use bonafide_sealing::owner::{Delegation, Owner, Purpose, Root};
use bonafide_sealing::roster::{Member, Roster, TrustedRoster};
use libfuzzer_sys::fuzz_target;

struct World {
    members: Vec<Arc<PrivateKey>>,
    roster: TrustedRoster,
    plan: Plan,
}

fn key() -> Arc<PrivateKey> {
    Arc::new(PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap())
}

fn public(key: &PrivateKey) -> VerifyingKey {
    VerifyingKey::new(key.public_key().clone()).unwrap()
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let tenant = Tenant::from_bytes([7; 16]);
    let keyset = Keyset::new("main").unwrap();
    let root_key = key();
    let root = Root { tenant, serial: 1, threshold: 1, keys: vec![public(&root_key)], next: [0; 32] };
    let owners = key();
    let keys = Purpose::ALL.map(|purpose| match purpose {
        Purpose::Roster => vec![public(&owners)],
        _ => Vec::new(),
    });
    let mut delegation = Signed::new(Delegation { tenant, root: root.digest(), serial: 1, keys });
    delegation.sign(&*root_key).unwrap();
    let owner = Owner::new(root, &delegation).unwrap();
    let members: Vec<_> = (0..3).map(|_| key()).collect();
    let member = |member: &Arc<PrivateKey>| {
        let name = "a holder".to_owned();
        Member { id: name.clone(), name, key: public(member), operator: public(&key()) }
    };
    let mut roster = Signed::new(Roster {
        tenant,
        keyset: keyset.clone(),
        serial: 1,
        previous: [0; 32],
        threshold: 2,
        lower_threshold: false,
        delay: 0,
        members: members.iter().map(member).collect(),
        anchors: Vec::new(),
        sites: Vec::new(),
    });
    roster.sign(&*owners).unwrap();
    let roster = TrustedRoster::first(&owner, &roster).unwrap();
    let template = Template {
        tenant,
        keyset,
        version: 1,
        not_before: 0,
        not_after: 1,
        previous: [0; 32],
        site_keys: Vec::new(),
    };
    let kind = Kind::Generate(Box::new(template));
    let dealers = Index::first(3).collect();
    let plan = Plan { kind, roster: *roster.digest(), epoch: 1, dealers, nonce: [0; 32] };
    World { members, roster, plan }
});

fuzz_target!(|data: &[u8]| {
    let world = &*WORLD;
    let begin = |number: usize| {
        let setup = Setup { plan: world.plan.clone(), roster: world.roster.clone(), before: None, floor: 0 };
        let signer = Arc::clone(&world.members[number]) as Arc<dyn Signer>;
        Ceremony::begin(setup, signer, Arc::new(SystemRandom)).unwrap()
    };
    let (mut own, _) = begin(0);
    let session = *own.session();
    // Honest sides of the others, some of whose messages the input lets through; the rest is the input's.
    let mut others: Vec<Signed<Message>> =
        [1, 2].into_iter().flat_map(|number| begin(number).0.log().to_vec()).collect();
    let mut rest = data;
    while let Some((choice, tail)) = rest.split_first() {
        rest = tail;
        let message = if choice & 1 == 0 {
            others.pop()
        } else {
            let length = usize::from(choice >> 2).min(rest.len()) * 8;
            let (bytes, tail) = rest.split_at(length.min(rest.len()));
            rest = tail;
            Message::decode(bytes).ok().and_then(|mut body| {
                body.session = session;
                let signer = &world.members[1 + usize::from(choice >> 1 & 1)];
                let mut message = Signed::new(body);
                message.sign(&**signer).ok()?;
                Some(message)
            })
        };
        let Some(message) = message else { continue };
        for effect in own.receive(message) {
            match effect {
                Effect::Store(_) => drop(own.stored().unwrap()),
                // Nobody has voted with the keys of the other two but the input.
                Effect::Switch(certificate) => assert_eq!(certificate.signatures.len(), 3),
                Effect::Abort(_) | Effect::Broadcast(_) | Effect::Report(_) => {}
            }
        }
    }
    own.time_out();
});
