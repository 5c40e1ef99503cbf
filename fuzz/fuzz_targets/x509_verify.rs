//! An authority signs whatever it is given as the extensions of a leaf or of an intermediate. What verifies all
//! the same keeps the profile.
#![no_main]

use std::sync::OnceLock;

use bonafide_crypto::asn1::{INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, UTF8_STRING};
use bonafide_crypto::asn1::{UTC_TIME, Writer, context, context_primitive};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, SignatureAlgorithm, Signer};
use bonafide_identity::{BundleMap, Certificate, TrustBundle, TrustDomain, UnixTime, x509};
use libfuzzer_sys::fuzz_target;

const CERT_SIGN: &[u8] = b"\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x02\x04";
const CA: &[u8] = b"\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff";
const SIGNATURE: &[u8] = b"\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80";
const ID: &[u8] = b"\x30\x1c\x06\x03\x55\x1d\x11\x01\x01\xff\x04\x12\x30\x10\x86\x0espiffe://td/ab";

fn key_id(oid: u8, tag: u8, id: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.nested(SEQUENCE, |extension| {
        extension.primitive(OBJECT_IDENTIFIER, &[0x55, 0x1d, oid]);
        extension.nested(OCTET_STRING, |value| match oid {
            35 => value.nested(SEQUENCE, |fields| fields.primitive(tag, id)),
            _ => value.primitive(tag, id),
        });
    });
    writer.finish()
}

fn name(writer: &mut Writer, common_name: &[u8]) {
    writer.nested(SEQUENCE, |name| {
        if !common_name.is_empty() {
            name.nested(SET, |set| {
                set.nested(SEQUENCE, |attribute| {
                    attribute.primitive(OBJECT_IDENTIFIER, &[0x55, 4, 3]);
                    attribute.primitive(UTF8_STRING, common_name);
                });
            });
        }
    });
}

fn certificate(
    issuer: &[u8],
    subject: &[u8],
    key: &PrivateKey,
    signer: &PrivateKey,
    extensions: &[u8],
) -> Vec<u8> {
    let algorithm = SignatureAlgorithm::EcdsaP256Sha256.algorithm_identifier_der();
    let mut tbs = Writer::default();
    tbs.nested(SEQUENCE, |tbs| {
        tbs.nested(context(0), |version| version.primitive(INTEGER, &[2]));
        tbs.primitive(INTEGER, &[1]);
        tbs.raw(algorithm);
        name(tbs, issuer);
        tbs.nested(SEQUENCE, |validity| {
            validity.primitive(UTC_TIME, b"200101000000Z");
            validity.primitive(UTC_TIME, b"400101000000Z");
        });
        name(tbs, subject);
        tbs.raw(key.public_key().spki_der());
        tbs.nested(context(3), |explicit| explicit.nested(SEQUENCE, |list| list.raw(extensions)));
    });
    let tbs = tbs.finish();
    let signature = signer.sign(&tbs).expect("a key in memory signs");
    let mut out = Writer::default();
    out.nested(SEQUENCE, |out| {
        out.raw(&tbs);
        out.raw(algorithm);
        out.bit_string(&signature);
    });
    out.finish()
}

struct World {
    root: PrivateKey,
    middle: PrivateKey,
    leaf: PrivateKey,
    bundles: BundleMap,
}

fn world() -> World {
    let [root, middle, leaf] =
        [(); 3].map(|()| PrivateKey::generate(KeyAlgorithm::EcP256).expect("a key can be drawn"));
    let extensions = [CA, CERT_SIGN, &key_id(14, OCTET_STRING, &root.public_key().key_id())].concat();
    let anchor = certificate(b"root", b"root", &root, &root, &extensions);
    let anchor = Certificate::from_der(&anchor).expect("the root is well-formed");
    let bundle = TrustBundle::new(TrustDomain::parse("td").expect("a trust domain"));
    World { root, middle, leaf, bundles: bundle.with_x509_authority(anchor).into() }
}

fuzz_target!(|data: &[u8]| {
    static WORLD: OnceLock<World> = OnceLock::new();
    let World { root, middle, leaf, bundles } = WORLD.get_or_init(world);
    let Some((choice, fuzzed)) = data.split_first() else { return };
    if fuzzed.len() > 4096 {
        return;
    }
    let aki = |key: &PrivateKey| key_id(35, context_primitive(0), &key.public_key().key_id());
    let for_leaf = match choice & 1 {
        0 => [fuzzed, &aki(middle)].concat(),
        _ => [SIGNATURE, ID, &aki(middle)].concat(),
    };
    let mut for_middle = [&aki(root)[..], &key_id(14, OCTET_STRING, &middle.public_key().key_id())].concat();
    match choice & 1 {
        0 => for_middle.extend([CA, CERT_SIGN].concat()),
        _ => for_middle.extend(fuzzed),
    }
    let chain = [
        certificate(b"middle", b"", leaf, middle, &for_leaf),
        certificate(b"root", b"middle", middle, root, &for_middle),
    ];
    let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    let Ok(svid) = x509::verify(&chain, bundles, UnixTime::from_secs(1_767_225_600)) else { return };
    assert_eq!(svid.leaf().der(), chain[0]);
    assert_eq!(svid.leaf().uri_sans().len(), 1);
    assert_eq!(svid.id().trust_domain().as_str(), "td");
    assert!(!svid.id().is_trust_domain() && !svid.leaf().is_ca());
    let contains = |chain: &[u8], part: &[u8]| chain.windows(part.len()).any(|window| window == part);
    // An intermediate that verified says so itself: cA and a key usage, both critical.
    assert!(contains(chain[1], b"\x06\x03\x55\x1d\x13\x01\x01\xff"));
    assert!(contains(chain[1], b"\x06\x03\x55\x1d\x0f\x01\x01\xff"));
});
