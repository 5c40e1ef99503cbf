//! The extension: one encoding for each value, and every bound.

use bonafide_crypto::asn1;
use bonafide_identity::InstanceId;
use bonafide_identity::attributes::*;
use proptest::prelude::*;

use crate::forge::{element, sequence};

fn attribute(kind: u8, key: &str, value: &[u8]) -> Vec<u8> {
    sequence(&[element(0x0a, &[kind]), element(asn1::UTF8_STRING, key.as_bytes()), element(4, value)])
}

fn extension(attributes: &[Vec<u8>]) -> Vec<u8> {
    sequence(&[element(0x80, &[7; 16]), vec![2, 1, 3], sequence(attributes)])
}

#[test]
fn what_is_written() {
    let attributes = Attributes {
        instance: Some(InstanceId::from_bytes([7; 16])),
        generation: 3,
        attributes: vec![
            Attribute::new(Kind::Label, "team", "shop"),
            Attribute::new(Kind::Selector, "unix.uid", "1000"),
            Attribute::new(Kind::Label, "team", "shop"),
        ],
    };
    let der = attributes.encode().unwrap().der().to_vec();
    assert_eq!(der, extension(&[attribute(0, "unix.uid", b"1000"), attribute(1, "team", b"shop")]));
    let read = Attributes::from_der(&der).unwrap();
    assert_eq!(read.selectors().collect::<Vec<_>>(), [("unix.uid", &b"1000"[..])]);
    assert_eq!(read.label("team"), Some(&b"shop"[..]));
    assert_eq!((read.site(), read.registration()), (None, None));
}

#[test]
fn what_is_refused() {
    use AttributesError::*;

    let good = || attribute(1, "a", b"b");
    let many = |count: u8| (0..count).map(|n| attribute(0, &format!("k{n:03}"), b"")).collect::<Vec<_>>();
    assert!(Attributes::from_der(&extension(&[good()])).is_ok());
    assert!(Attributes::from_der(&extension(&many(64))).is_ok());
    let long_key = "k".repeat(129);
    let cases: Vec<(&str, Vec<u8>, AttributesError)> = vec![
        ("nothing", vec![], Malformed),
        ("null", vec![5, 0], Malformed),
        ("trailing bytes", [extension(&[good()]), vec![0]].concat(), Malformed),
        ("a fourth field", sequence(&[vec![2, 1, 3], sequence(&[]), vec![5, 0]]), Malformed),
        ("no list", sequence(&[vec![2, 1, 3]]), Malformed),
        (
            "an instance of 15 bytes",
            sequence(&[element(0x80, &[7; 15]), vec![2, 1, 3], sequence(&[])]),
            Malformed,
        ),
        ("a negative generation", sequence(&[vec![2, 1, 0xff], sequence(&[])]), Malformed),
        ("a padded generation", sequence(&[vec![2, 2, 0, 3], sequence(&[])]), Malformed),
        ("a generation of 65 bits", sequence(&[element(2, &[1; 9]), sequence(&[])]), Malformed),
        ("65 attributes", extension(&many(65)), TooMany),
        ("twice the same", extension(&[good(), good()]), Order),
        ("kinds out of order", extension(&[good(), attribute(0, "a", b"b")]), Order),
        ("keys out of order", extension(&[attribute(0, "b", b""), attribute(0, "a", b"")]), Order),
        ("values out of order", extension(&[attribute(0, "a", b"b"), attribute(0, "a", b"a")]), Order),
        ("two values of a label", extension(&[attribute(1, "a", b"a"), attribute(1, "a", b"b")]), Ambiguous),
        ("two sites", extension(&[attribute(2, "a", b""), attribute(2, "b", b"")]), Ambiguous),
        ("two registrations", extension(&[attribute(3, "a", b""), attribute(3, "b", b"")]), Ambiguous),
        ("an unknown kind", extension(&[attribute(6, "a", b"")]), UnknownKind),
        ("a negative kind", extension(&[attribute(0x80, "a", b"")]), Malformed),
        ("no key", extension(&[attribute(0, "", b"")]), Key),
        ("a long key", extension(&[attribute(0, &long_key, b"")]), Key),
        ("a key with a space", extension(&[attribute(0, "a b", b"")]), Key),
        ("a key with NUL", extension(&[attribute(0, "a\0", b"")]), Key),
        ("a key beyond ASCII", extension(&[attribute(0, "é", b"")]), Key),
        ("a long value", extension(&[attribute(0, "a", &[0; 1025])]), Value),
        ("a site that is not text", extension(&[attribute(2, "site", b"\xff")]), Value),
        (
            "a fourth field of an attribute",
            extension(&[sequence(&[element(0x0a, &[0]), element(12, b"a"), element(4, b""), vec![5, 0]])]),
            Malformed,
        ),
        (
            "more than 8 KiB",
            extension(&(0..9).map(|n| attribute(0, &format!("k{n}"), &[0; 1000])).collect::<Vec<_>>()),
            TooMany,
        ),
    ];
    for (what, der, error) in cases {
        assert_eq!(Attributes::from_der(&der), Err(error), "{what}");
    }
}

#[test]
fn what_is_not_written() {
    let write = |attributes: Vec<Attribute>| Attributes { attributes, ..Attributes::default() }.encode();
    let label = |key: &str, value: &[u8]| Attribute::new(Kind::Label, key, value);
    assert_eq!(write(vec![label("a", b"a"), label("a", b"b")]), Err(AttributesError::Ambiguous));
    assert_eq!(write(vec![Attribute::site("a"), Attribute::site("b")]), Err(AttributesError::Ambiguous));
    assert_eq!(write(vec![label("", b"")]), Err(AttributesError::Key));
    assert_eq!(write(vec![label("a", &[0; 1025])]), Err(AttributesError::Value));
    let many = (0..65).map(|n| label(&format!("k{n}"), b"")).collect();
    assert_eq!(write(many), Err(AttributesError::TooMany));
    let large = (0..9).map(|n| label(&format!("k{n}"), &[0; 1000])).collect();
    assert_eq!(write(large), Err(AttributesError::TooMany));
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let kind = prop::sample::select(vec![Kind::Selector, Kind::Label, Kind::Admin, Kind::Evidence]);
    let attribute = (kind, "[!-~]{1,3}", prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, key, value)| Attribute { kind, key, value });
    (any::<Option<[u8; 16]>>(), any::<u64>(), prop::collection::vec(attribute, 0..20)).prop_map(
        |(instance, generation, attributes)| Attributes {
            instance: instance.map(InstanceId::from_bytes),
            generation,
            attributes,
        },
    )
}

proptest! {
    #[test]
    fn round_trip(mut attributes in any_attributes()) {
        if let Ok(der) = attributes.encode() {
            let der = der.der().to_vec();
            attributes.attributes.sort();
            attributes.attributes.dedup();
            prop_assert_eq!(Attributes::from_der(&der), Ok(attributes));
        }
    }

    #[test]
    fn one_encoding(attributes in any_attributes(), at: prop::sample::Index, byte: u8) {
        if let Ok(der) = attributes.encode() {
            let mut der = der.der().to_vec();
            let at = at.index(der.len());
            der[at] = byte;
            if let Ok(read) = Attributes::from_der(&der) {
                let encoded = read.encode().unwrap();
                prop_assert_eq!(encoded.der(), der);
            }
        }
    }
}
