//! Every document has one encoding, and what is not that is refused.

use std::collections::BTreeSet;

use bonafide_sealing::armour;
use bonafide_sealing::ceremony::{Content, Kind, Message, Plan, Possession, SealedShare, Template};
use bonafide_sealing::deny::DenyList;
use bonafide_sealing::document::{Document, FormatError, Signature, Signed};
use bonafide_sealing::epoch::EpochRecord;
use bonafide_sealing::exchange::{EvaluationReply, EvaluationRequest};
use bonafide_sealing::group::{G1Point, G2Point, Index, Scalar};
use bonafide_sealing::identity::{Identity, Keyset, MAX_KEYSET, MAX_LABEL, MAX_POLICY, Tenant};
use bonafide_sealing::object::{PostQuantum, PublicData, SealedObject, Stanza};
use bonafide_sealing::owner::{Delegation, Root};
use bonafide_sealing::params::SealParams;
use bonafide_sealing::roster::{Roster, Site};
use proptest::prelude::*;

use crate::world::{Keys, POLICY, World, index, roster_of, tenant, times};

/// It comes back; cut off, followed by something, or changed in one place, it is refused or is another document.
fn has_one_form<T: Document + PartialEq + std::fmt::Debug>(document: &T, at: prop::sample::Index, flip: u8) {
    let bytes = document.encode();
    assert_eq!(&T::decode(&bytes).unwrap(), document);
    assert!(T::decode(&bytes[..at.index(bytes.len())]).is_err());
    assert!(T::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    let mut changed = bytes;
    let place = at.index(changed.len());
    changed[place] ^= flip;
    if let Ok(other) = T::decode(&changed) {
        assert_ne!(&other, document);
        assert_eq!(other.encode(), changed);
    }
    let name = T::NAME;
    assert_eq!(T::decode(&vec![0; T::MAX + 1]).unwrap_err(), FormatError::TooLong(name));
    assert_eq!(T::decode(&[]).unwrap_err(), FormatError::Malformed(name));
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

fn point() -> impl Strategy<Value = G1Point> {
    any::<u64>().prop_map(|number| times(&Scalar::from_number(number | 1)))
}

fn some_index() -> impl Strategy<Value = Index> {
    (1_u64..33).prop_map(index)
}

fn some_keyset() -> impl Strategy<Value = Keyset> {
    "[a-z0-9._-]{1,64}".prop_map(|name| Keyset::new(&name).unwrap())
}

fn signature() -> impl Strategy<Value = Signature> {
    (any::<[u8; 32]>(), bytes(129)).prop_map(|(key, value)| Signature { key, value })
}

fn stanza() -> impl Strategy<Value = Stanza> {
    let half = (any::<u64>(), any::<u8>())
        .prop_map(|(site_key, fill)| PostQuantum { site_key, ciphertext: Box::new([fill; 1088]) });
    (
        some_keyset(),
        1..=u64::MAX,
        prop::collection::vec(any::<u8>(), 1..300),
        bytes(MAX_LABEL + 1),
        point(),
        any::<[u8; 32]>(),
        prop::collection::vec(any::<u8>(), 48),
        prop::option::of(half),
        prop::option::of(signature()),
    )
        .prop_map(
            |(keyset, version, policy, label, point, commitment, wrapped, post_quantum, signature)| {
                let wrapped = wrapped.try_into().unwrap();
                Stanza { keyset, version, policy, label, point, commitment, wrapped, post_quantum, signature }
            },
        )
}

fn public_data() -> impl Strategy<Value = PublicData> {
    (".{1,60}", ".{0,200}", prop::option::of(any::<u64>()))
        .prop_map(|(name, purpose, not_after)| PublicData { name, purpose, not_after })
}

fn object() -> impl Strategy<Value = SealedObject> {
    (
        any::<[u8; 32]>(),
        any::<[u8; 16]>(),
        any::<u64>(),
        public_data(),
        prop::collection::btree_set(any::<[u8; 32]>(), 1..5),
        prop::collection::vec(stanza(), 1..4),
        any::<[u8; 32]>(),
        bytes(600),
        prop::option::of(signature()),
    )
        .prop_map(
            |(oid, tenant, serial, public, identities, stanzas, file_commitment, payload, signature)| {
                let post_quantum = stanzas.iter().all(|stanza| stanza.post_quantum.is_some());
                SealedObject {
                    oid,
                    tenant: Tenant::from_bytes(tenant),
                    serial,
                    post_quantum,
                    public,
                    identities: identities.into_iter().collect(),
                    stanzas,
                    file_commitment,
                    payload,
                    signature,
                }
            },
        )
}

fn template() -> impl Strategy<Value = Template> {
    (some_keyset(), 1..=u64::MAX, 0..u64::MAX, any::<[u8; 32]>()).prop_map(
        |(keyset, version, not_before, previous)| Template {
            tenant: tenant(),
            keyset,
            version,
            not_before,
            not_after: u64::MAX,
            previous,
            site_keys: Vec::new(),
        },
    )
}

fn content() -> impl Strategy<Value = Content> {
    let possession = (any::<u64>(), any::<[u8; 16]>(), any::<u64>()).prop_map(|(a, challenge, response)| {
        let second = G2Point::generator().times(&Scalar::from_number(a | 1)).unwrap();
        Box::new(Possession { second, challenge, response: Scalar::from_number(response) })
    });
    let sealed =
        prop::collection::vec(any::<u8>(), 96).prop_map(|bytes| SealedShare(bytes.try_into().unwrap()));
    prop_oneof![
        (prop::collection::vec(point(), 0..5), prop::option::of(possession))
            .prop_map(|(commitments, possession)| Content::Deal { commitments, possession }),
        point().prop_map(|key| Content::Join { key }),
        (any::<[u8; 32]>(), prop::collection::vec(sealed, 0..5))
            .prop_map(|(transcript, sealed)| Content::Shares { transcript, sealed }),
        (any::<[u8; 32]>(), some_index())
            .prop_map(|(transcript, accused)| Content::Complaint { transcript, accused }),
        (any::<[u8; 32]>(), some_index(), any::<u64>()).prop_map(|(transcript, receiver, share)| {
            Content::Answer { transcript, receiver, share: Scalar::from_number(share) }
        }),
        bytes(129).prop_map(|signature| Content::Ready { signature }),
        Just(Content::Never),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sealed_secrets(object in object(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        has_one_form(&object, at, flip);
        has_one_form(&object.public, at, flip);
        let text = armour::to_text(&object);
        prop_assert_eq!(&armour::from_text(&text).unwrap(), &object);
        let mut other = text.clone().into_bytes();
        let place = at.index(other.len());
        other[place] ^= flip & 0x7f;
        if let Ok(other) = std::str::from_utf8(&other)
            && let Ok(read) = armour::from_text(other)
        {
            prop_assert_eq!(armour::to_text(&read), other.trim_ascii());
        }
    }

    #[test]
    fn questions_and_answers(
        keyset in some_keyset(),
        version in 1..=u64::MAX,
        policy in prop::collection::vec(any::<u8>(), 1..300),
        label in bytes(MAX_LABEL + 1),
        point in point(),
        prove in any::<bool>(),
        nonce in any::<[u8; 16]>(),
        evidence in prop::option::of(bytes(300)),
        member in some_index(),
        proof in prop::option::of(prop::collection::vec(any::<u8>(), 48)),
        signature in signature(),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let tenant = tenant();
        let request = EvaluationRequest { tenant, keyset, version, policy, label, point, prove, nonce, evidence };
        has_one_form(&request, at, flip);
        let reply = EvaluationReply {
            request: request.digest(),
            index: member,
            epoch: version,
            value: Box::new([flip; 576]),
            proof: proof.map(|proof| proof.try_into().unwrap()),
        };
        has_one_form(&reply, at, flip);
        has_one_form(&Signed { body: reply, signatures: vec![signature] }, at, flip);
    }

    #[test]
    fn ceremonies(
        session in any::<[u8; 32]>(),
        sender in some_index(),
        content in content(),
        template in template(),
        dealers in prop::collection::btree_set(some_index(), 1..9),
        which in 0..3,
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        has_one_form(&Message { session, sender, content }, at, flip);
        has_one_form(&template, at, flip);
        let kind = match which {
            0 => Kind::Generate(Box::new(template)),
            1 => Kind::Refresh(session),
            _ => Kind::Reshare(session),
        };
        let dealers = dealers.into_iter().collect();
        has_one_form(&Plan { kind, roster: session, epoch: 3, dealers, nonce: session }, at, flip);
    }

    #[test]
    fn what_is_trusted(
        digest in any::<[u8; 32]>(),
        number in any::<u64>(),
        commitments in prop::collection::vec(point(), 1..4),
        shares in prop::collection::vec(point(), 4..6),
        entries in prop::collection::btree_set(any::<[u8; 32]>(), 0..5),
        anchor in bytes(100),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let keys = Keys::new();
        has_one_form(&Root { serial: number.max(1), ..keys.root() }, at, flip);
        has_one_form(&keys.delegation(number), at, flip);
        let record = EpochRecord {
            params: digest,
            roster: digest,
            epoch: number.max(1),
            transcript: digest,
            previous: digest,
            commitments,
            shares,
        };
        has_one_form(&record, at, flip);
        let list = DenyList {
            tenant: tenant(),
            keyset: crate::world::keyset(),
            serial: number,
            expires: number,
            min_version: number,
            policies: entries.clone(),
            labels: BTreeSet::new(),
            identities: entries,
        };
        has_one_form(&list, at, flip);
        let mut roster = roster_of(2, &[1, 2, 3]);
        roster.sites = vec![Site { name: "edge".to_owned(), root: anchor.clone() }];
        roster.anchors = vec![anchor];
        has_one_form(&roster, at, flip);
        let signatures = vec![Signature { key: digest, value: vec![1] }];
        has_one_form(&Signed { body: roster, signatures }, at, flip);
    }

    #[test]
    fn arbitrary_bytes(bytes in bytes(200)) {
        fn refused_or_alike<T: Document>(bytes: &[u8]) -> bool {
            T::decode(bytes).is_ok_and(|document| document.encode() != bytes)
        }
        prop_assert!(!refused_or_alike::<SealedObject>(&bytes));
        prop_assert!(!refused_or_alike::<SealParams>(&bytes));
        prop_assert!(!refused_or_alike::<Roster>(&bytes));
        prop_assert!(!refused_or_alike::<Delegation>(&bytes));
        prop_assert!(!refused_or_alike::<Message>(&bytes));
    }
}

#[test]
fn parameters() {
    let site = bonafide_crypto::mlkem::MlKemPrivateKey::generate().unwrap();
    let bytes = site.public_key().spki_der();
    let key = |id, name| {
        bonafide_sealing::params::SiteKey::new(id, name, bytes.last_chunk::<1184>().unwrap()).unwrap()
    };
    let world = World::dealt(2, 3, vec![key(1, "edge"), key(7, "cloud")]);
    let params = world.params.params();
    proptest!(ProptestConfig::with_cases(16), |(at in any::<prop::sample::Index>(), flip in 1_u8..)| {
        has_one_form(params, at, flip);
    });
    // Another suite, keys out of order, and an end before the beginning.
    let text = bonafide_sealing::document::SUITE.as_bytes();
    let mut other = params.encode();
    let place = other.windows(text.len()).position(|window| window == text).unwrap();
    other[place + text.len() - 1] = b'1';
    assert!(SealParams::decode(&other).is_err());
    let mut unordered = params.clone();
    unordered.site_keys.swap(0, 1);
    assert!(SealParams::decode(&unordered.encode()).is_err());
    let mut ended = params.clone();
    ended.not_after = ended.not_before;
    assert!(SealParams::decode(&ended.encode()).is_err());
}

#[test]
fn lengths_are_bounded() {
    let keyset = |length| Keyset::new(&"k".repeat(length));
    assert!(keyset(MAX_KEYSET).is_ok());
    assert_eq!(keyset(MAX_KEYSET + 1), Err(FormatError::TooLong("keyset name")));
    for bad in ["", "a b", "ä", "a/b"] {
        assert_eq!(Keyset::new(bad), Err(FormatError::Malformed("keyset name")));
    }
    let name = keyset(1).unwrap();
    let identity = |policy: &[u8], label: &[u8]| Identity::new(&tenant(), &name, policy, label).map(|_| ());
    assert_eq!(identity(&[1; MAX_POLICY], &[1; MAX_LABEL]), Ok(()));
    assert_eq!(identity(&[1; MAX_POLICY + 1], b""), Err(FormatError::TooLong("policy")));
    assert_eq!(identity(b"", b""), Err(FormatError::Malformed("policy")));
    assert_eq!(identity(POLICY, &[1; MAX_LABEL + 1]), Err(FormatError::TooLong("label")));
    // An object that must have post-quantum halves, and lacks one; without stanzas; with identities out of order.
    let world = World::dealt(1, 1, Vec::new());
    let object = world.seal(b"x");
    let refused = |change: &dyn Fn(&mut SealedObject)| {
        let mut object = object.clone();
        change(&mut object);
        assert_eq!(
            SealedObject::decode(&object.encode()).unwrap_err(),
            FormatError::Malformed("sealed secret")
        );
    };
    refused(&|object| object.post_quantum = true);
    refused(&|object| object.stanzas.clear());
    refused(&|object| object.identities.push([0; 32]));
    refused(&|object| object.identities.push(object.identities[0]));
    refused(&|object| object.public.name.clear());
    refused(&|object| object.stanzas = vec![object.stanzas[0].clone(); 17]);
    refused(&|object| object.stanzas[0].policy = vec![1; MAX_POLICY + 1]);
    refused(&|object| object.stanzas[0].version = 0);
}
