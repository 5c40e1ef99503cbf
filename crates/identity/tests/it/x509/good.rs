use bonafide_crypto::asn1;
use bonafide_crypto::key::KeyAlgorithm;
use bonafide_identity::attributes::{self, Attribute, Attributes, Kind};
use bonafide_identity::{InstanceId, UnixTime};

use super::{ID, KEYS, World};
use crate::forge::*;

type Case = (&'static str, fn(&mut World));

/// An object identifier under 2.25 with an arc of 128 bits.
const UUID_ARC: &[u8] = &[
    0x69, 0x83, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0x7f,
];

#[test]
fn variants_within_the_standards() {
    let cases: &[Case] = &[
        ("nothing changed", |_| {}),
        ("no extended key usage", |w| w.leaf.remove(EXTENDED_KEY_USAGE)),
        ("critical extended key usage, with others", |w| {
            w.leaf.set(EXTENDED_KEY_USAGE, true, usages(&[CODE_SIGNING, CLIENT_AUTH, SERVER_AUTH]));
        }),
        ("key usages of TLS", |w| {
            w.leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, KEY_AGREEMENT]));
        }),
        ("basic constraints without cA", |w| w.leaf.set(BASIC_CONSTRAINTS, true, constraints(false, None))),
        ("a subject, and alternative names not critical", |w| {
            w.leaf.subject = name("web");
            w.leaf.set(ALTERNATIVE_NAME, false, names(&[uri(ID)]));
        }),
        ("other names", |w| {
            let others = [
                dns("*.Example.org"),
                uri(ID),
                element(0x81, b"a@example.org"),
                element(0x87, &[127, 0, 0, 1]),
                element(0x87, &[0; 16]),
                element(0x88, &[0x2a, 3]),
                element(0xa4, &name("directory")),
            ];
            w.leaf.set(ALTERNATIVE_NAME, true, names(&others));
        }),
        ("a subject key identifier", |w| w.leaf.set(SUBJECT_KEY_ID, false, element(4, &[1; 20]))),
        ("an issuer and serial in the authority key identifier", |w| {
            let id = element(0x80, &KEYS.intermediate.public_key().key_id());
            let issuer = element(0xa1, &element(0xa4, &name("root")));
            w.leaf.set(AUTHORITY_KEY_ID, false, sequence(&[id, issuer, element(0x82, &[1])]));
        }),
        ("an unknown extension", |w| w.leaf.add(&[0x2a, 3], false, vec![0xff])),
        ("an unknown extension with a giant arc", |w| w.leaf.add(UUID_ARC, false, vec![])),
        ("a serial of one octet", |w| w.leaf.serial = vec![2, 1, 1]),
        ("a serial of 20 octets", |w| w.leaf.serial = element(2, &[0x7f; 20])),
        ("a serial of 19 octets and a sign", |w| {
            w.leaf.serial = element(2, &[&[0][..], &[0xff; 19]].concat());
        }),
        ("until 2050", |w| w.leaf.not_after = generalized("20500101000000Z")),
        ("for ever", |w| w.leaf.not_after = generalized("99991231235959Z")),
        ("since 1950", |w| w.root.not_before = utc("500101000000Z")),
        ("the first second", |w| w.leaf.not_before = utc("260101000000Z")),
        ("the last second", |w| w.leaf.not_after = utc("260101000000Z")),
        ("a single second", |w| {
            w.leaf.not_before = utc("260101000000Z");
            w.leaf.not_after = utc("260101000000Z");
        }),
        ("an intermediate's last second", |w| w.intermediate.not_after = utc("260101000000Z")),
        ("a root's first second", |w| w.root.not_before = utc("260101000000Z")),
        ("an ID of 2048 bytes", |w| {
            let id = format!("spiffe://example.org/{}", "a".repeat(2048 - 21));
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(&id)]));
        }),
        ("authorities without SPIFFE ID", |w| {
            w.intermediate.remove(ALTERNATIVE_NAME);
            w.root.remove(ALTERNATIVE_NAME);
        }),
        ("authorities with other names", |w| {
            w.intermediate.set(ALTERNATIVE_NAME, false, names(&[dns("ca.example.org")]));
        }),
        ("authorities that sign nothing but certificates", |w| {
            w.intermediate.set(KEY_USAGE, true, key_usage(&[KEY_CERT_SIGN]));
            w.root.set(KEY_USAGE, true, key_usage(&[KEY_CERT_SIGN, DIGITAL_SIGNATURE]));
        }),
        ("authorities with extended key usages", |w| {
            w.intermediate.set(EXTENDED_KEY_USAGE, false, usages(&[SERVER_AUTH, CLIENT_AUTH]));
            w.root.set(EXTENDED_KEY_USAGE, false, usages(&[ANY_USAGE]));
        }),
        ("path lengths that just suffice", |w| {
            w.intermediate.set(BASIC_CONSTRAINTS, true, constraints(true, Some(0)));
            w.root.set(BASIC_CONSTRAINTS, true, constraints(true, Some(1)));
        }),
        ("a root without authority key identifier", |w| w.root.remove(AUTHORITY_KEY_ID)),
        ("name constraints that are kept", |w| {
            let permitted = element(0xa0, &sequence(&[dns("example.org")]));
            w.intermediate.set(NAME_CONSTRAINTS, true, sequence(&[permitted]));
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(ID), dns("www.example.org")]));
        }),
        ("another trust domain's bundle beside", |w| {
            w.bundles = |w| [w.bundle_of("example.org"), w.bundle_of("example.com")].into_iter().collect();
        }),
    ];
    for (what, change) in cases {
        let mut world = World::new();
        change(&mut world);
        if let Err(error) = world.verify() {
            panic!("refused: {what}: {error}");
        }
    }
}

#[test]
fn every_kind_of_key() {
    for algorithm in [
        KeyAlgorithm::EcP256,
        KeyAlgorithm::EcP384,
        KeyAlgorithm::EcP521,
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Rsa2048,
    ] {
        let (root, leaf) = (key(algorithm), key(algorithm));
        let authority =
            Forge::authority("r", "r", "spiffe://example.org", root.public_key(), root.public_key());
        let leaf = Forge::leaf("r", ID, leaf.public_key(), root.public_key());
        let bundles = super::chains::bundle("example.org", &[authority.sign(&root)]);
        let verified = super::verify(&[leaf.sign(&root)], &bundles, NOW);
        assert_eq!(verified.unwrap().id().as_str(), ID, "{algorithm}");
    }
}

#[test]
fn what_was_verified_is_what_is_read() {
    let attributes = Attributes {
        instance: Some(InstanceId::from_bytes([7; 16])),
        generation: 3,
        attributes: vec![Attribute::new(Kind::Label, "team", *b"\x00\xff"), Attribute::site("edge-1")],
    };
    let mut world = World::new();
    world.leaf.add(attributes::OID.as_bytes(), false, attributes.encode().unwrap().der().to_vec());
    world.leaf.not_after = utc("260601000000Z");
    world.intermediate.not_after = utc("260201000000Z");
    let chain = world.chain();
    let svid = super::verify(&chain, &(world.bundles)(&world), world.now).unwrap();
    assert_eq!(svid.leaf().der(), chain[0]);
    assert_eq!(svid.attributes(), Some(&attributes));
    assert_eq!(svid.attributes().unwrap().label("team"), Some(&[0, 0xff][..]));
    assert_eq!(svid.attributes().unwrap().site(), Some("edge-1"));
    // The path ends when its first certificate does.
    assert_eq!(svid.not_after(), UnixTime::from_civil(2026, 2, 1, 0, 0, 0).unwrap());
    assert_eq!(svid.leaf().not_after(), UnixTime::from_civil(2026, 6, 1, 0, 0, 0).unwrap());
    assert_eq!(svid.leaf().serial(), [0x12, 0x34, 0x56]);
    assert_eq!(svid.leaf().issuer_der(), name("intermediate"));
    assert_eq!(svid.leaf().subject_der(), element(asn1::SEQUENCE, &[]));
}
