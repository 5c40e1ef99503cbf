use bonafide_crypto::asn1;
use bonafide_crypto::key::{KeyAlgorithm, SignatureAlgorithm};
use bonafide_identity::attributes;

use super::{KEYS, World};
use crate::forge::*;

type Case = (&'static str, &'static str, fn(&mut World));

/// ecdsa-with-SHA1 and md5WithRSAEncryption, as AlgorithmIdentifiers.
const ECDSA_SHA1: &[u8] = &[0x30, 9, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const RSA_MD5: &[u8] = &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4, 5, 0];

fn check(cases: &[Case]) {
    for (what, code, change) in cases {
        let mut world = World::new();
        change(&mut world);
        match world.verify() {
            Ok(_) => panic!("accepted: {what}"),
            Err(error) => {
                assert_eq!(error.code(), *code, "{what}: {error}");
                assert!(!error.hint().is_empty() && !error.to_string().is_empty());
            }
        }
    }
}

fn set_id(world: &mut World, id: &str) {
    world.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(id)]));
}

fn both_algorithms(forge: &mut Forge, algorithm: &[u8]) {
    forge.inner_algorithm = algorithm.to_vec();
    forge.outer_algorithm = algorithm.to_vec();
}

/// An RSA key with this many bits of modulus, and this exponent.
fn rsa(bytes: usize, exponent: &[u8]) -> Vec<u8> {
    let mut modulus = vec![0xff; bytes];
    modulus.insert(0, 0);
    let numbers = sequence(&[element(asn1::INTEGER, &modulus), element(asn1::INTEGER, exponent)]);
    let algorithm = sequence(&[oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), vec![5, 0]]);
    sequence(&[algorithm, element(asn1::BIT_STRING, &[vec![0], numbers].concat())])
}

#[test]
fn the_world_is_good() {
    let svid = World::new().verify().unwrap();
    assert_eq!(svid.id().as_str(), super::ID);
}

#[test]
fn form() {
    check(&[
        ("version 1", "certificate.version", |w| w.leaf.version = vec![]),
        ("version 2", "certificate.version", |w| w.leaf.version = element(0xa0, &[2, 1, 1])),
        ("version 4", "certificate.version", |w| w.leaf.version = element(0xa0, &[2, 1, 3])),
        ("serial zero", "certificate.serial", |w| w.leaf.serial = vec![2, 1, 0]),
        ("serial negative", "certificate.serial", |w| w.leaf.serial = vec![2, 1, 0x80]),
        ("serial padded", "certificate.serial", |w| w.leaf.serial = vec![2, 2, 0, 1]),
        ("serial empty", "certificate.serial", |w| w.leaf.serial = vec![2, 0]),
        ("serial of 21 octets", "certificate.serial", |w| w.leaf.serial = element(2, &[1; 21])),
        ("serial of 20 octets and a sign", "certificate.serial", |w| {
            w.leaf.serial = element(2, &[&[0][..], &[0xff; 20]].concat());
        }),
        ("algorithms differ", "certificate.signature-algorithm-mismatch", |w| {
            w.leaf.outer_algorithm = SignatureAlgorithm::EcdsaP384Sha384.algorithm_identifier_der().to_vec();
        }),
        ("SHA-1", "certificate.signature-algorithm", |w| both_algorithms(&mut w.leaf, ECDSA_SHA1)),
        ("MD5", "certificate.signature-algorithm", |w| both_algorithms(&mut w.leaf, RSA_MD5)),
        ("ECDSA with parameters", "certificate.signature-algorithm", |w| {
            let algorithm = sequence(&[oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]), vec![5, 0]]);
            both_algorithms(&mut w.leaf, &algorithm);
        }),
        ("SHA-1 in an intermediate", "certificate.signature-algorithm", |w| {
            both_algorithms(&mut w.intermediate, ECDSA_SHA1);
        }),
        ("end before beginning", "certificate.validity", |w| w.leaf.not_after = utc("240101000000Z")),
        ("2050 as UTCTime's 1950", "certificate.validity", |w| w.leaf.not_after = utc("500101000000Z")),
        ("2030 as GeneralizedTime", "certificate.validity", |w| {
            w.leaf.not_after = generalized("20300101000000Z");
        }),
        ("time without seconds", "certificate.validity", |w| w.leaf.not_after = utc("2701010000Z")),
        ("time with an offset", "certificate.validity", |w| w.leaf.not_after = utc("270101000000+0100")),
        ("31 February", "certificate.validity", |w| w.leaf.not_after = utc("270231000000Z")),
        ("unique identifiers", "certificate.malformed", |w| w.leaf.unique_ids = element(0x81, &[0, 1])),
        ("no extensions", "x509.no-key-usage", |w| w.leaf.extensions = None),
        ("empty list of extensions", "certificate.malformed", |w| w.leaf.extensions = Some(vec![])),
        ("name without attributes", "certificate.name", |w| {
            w.leaf.subject = sequence(&[element(asn1::SET, &[])]);
        }),
        ("trailing bytes", "certificate.trailing-bytes", |w| w.leaf.trailer = vec![0]),
        ("signature with unused bits", "certificate.malformed", |w| w.leaf.unused_bits = 1),
        ("17 KiB", "certificate.too-long", |w| w.leaf.add(&[0x55, 0x1d, 99], false, vec![0; 17_000])),
        ("33 extensions", "certificate.too-many-extensions", |w| {
            (0..33).for_each(|number| w.leaf.add(&[0x2a, number], false, vec![]));
        }),
        ("the same extension twice", "certificate.duplicate-extension", |w| {
            w.leaf.add(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE]));
        }),
        ("an unknown extension twice", "certificate.duplicate-extension", |w| {
            w.leaf.add(&[0x2a, 3], false, vec![]);
            w.leaf.add(&[0x2a, 3], false, vec![]);
        }),
        ("unknown critical extension", "certificate.unknown-critical-extension", |w| {
            w.leaf.add(&[0x2a, 3], true, vec![5, 0]);
        }),
        ("critical policy constraints", "certificate.unknown-critical-extension", |w| {
            w.intermediate.add(&[0x55, 0x1d, 36], true, sequence(&[]));
        }),
        ("policy constraints", "certificate.unknown-critical-extension", |w| {
            w.intermediate.add(&[0x55, 0x1d, 36], false, sequence(&[element(0x80, &[0])]));
        }),
        ("no policy but known ones", "certificate.unknown-critical-extension", |w| {
            w.intermediate.add(&[0x55, 0x1d, 54], false, vec![2, 1, 0]);
        }),
        ("unknown critical extension in an intermediate", "certificate.unknown-critical-extension", |w| {
            w.intermediate.add(&[0x2a, 3], true, vec![5, 0]);
        }),
        ("critical FALSE written out", "certificate.malformed", |w| {
            w.leaf.extension(EXTENDED_KEY_USAGE).critical = vec![1, 1, 0];
        }),
        ("critical as 1", "certificate.malformed", |w| w.leaf.extension(KEY_USAGE).critical = vec![1, 1, 1]),
        ("bytes behind an extension's value", "certificate.extension", |w| {
            w.leaf.extension(KEY_USAGE).value.push(0);
        }),
        ("critical attributes", "certificate.critical-extension", |w| {
            w.leaf.add(
                attributes::OID.as_bytes(),
                true,
                attributes::Attributes::default().encode().unwrap().der().to_vec(),
            );
        }),
        ("malformed attributes", "certificate.attributes", |w| {
            w.leaf.add(attributes::OID.as_bytes(), false, vec![5, 0]);
        }),
    ]);
}

#[test]
fn keys() {
    check(&[
        ("RSA with 1024 bits", "certificate.public-key", |w| w.leaf.public_key = rsa(128, &[1, 0, 1])),
        ("RSA with 2047 bits", "certificate.public-key", |w| {
            let mut modulus = vec![0x7f];
            modulus.extend([0xff; 255]);
            let numbers = sequence(&[element(2, &modulus), element(2, &[1, 0, 1])]);
            let algorithm = sequence(&[oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), vec![5, 0]]);
            w.leaf.public_key = sequence(&[algorithm, element(3, &[vec![0], numbers].concat())]);
        }),
        ("RSA with 16384 bits", "certificate.public-key", |w| w.leaf.public_key = rsa(2048, &[1, 0, 1])),
        ("RSA with exponent 3", "certificate.public-key", |w| w.leaf.public_key = rsa(256, &[3])),
        ("RSA with an even exponent", "certificate.public-key", |w| w.leaf.public_key = rsa(256, &[1, 0, 0])),
        ("RSA with a giant exponent", "certificate.public-key", |w| w.leaf.public_key = rsa(256, &[1; 64])),
        ("a point off the curve", "certificate.public-key", |w| {
            let last = w.leaf.public_key.len() - 1;
            w.leaf.public_key[last] ^= 1;
        }),
        ("a compressed point", "certificate.public-key", |w| {
            let key = w.leaf.public_key.clone();
            let algorithm = key[2..23].to_vec();
            let point = [&[0, 2 + (key[90] & 1)][..], &key[27..59]].concat();
            w.leaf.public_key = sequence(&[algorithm, element(3, &point)]);
        }),
        ("a weak key in an intermediate", "certificate.public-key", |w| {
            w.intermediate.public_key = rsa(128, &[1, 0, 1]);
        }),
        ("the algorithm of another key", "x509.signature-algorithm", |w| {
            let algorithm = SignatureAlgorithm::RsaPkcs1Sha256.algorithm_identifier_der();
            both_algorithms(&mut w.leaf, algorithm);
        }),
    ]);
}

#[test]
fn leaves() {
    check(&[
        ("no key usage", "x509.no-key-usage", |w| w.leaf.remove(KEY_USAGE)),
        ("key usage not critical", "x509.key-usage-not-critical", |w| {
            w.leaf.set(KEY_USAGE, false, key_usage(&[DIGITAL_SIGNATURE]));
        }),
        ("no digitalSignature", "x509.no-digital-signature", |w| {
            w.leaf.set(KEY_USAGE, true, key_usage(&[KEY_ENCIPHERMENT]));
        }),
        ("keyCertSign", "x509.leaf-may-sign", |w| {
            w.leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE, KEY_CERT_SIGN]));
        }),
        ("cRLSign", "x509.leaf-may-sign", |w| {
            w.leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE, CRL_SIGN]));
        }),
        ("key usage without bits", "certificate.extension", |w| {
            w.leaf.set(KEY_USAGE, true, element(3, &[0]));
        }),
        ("key usage with trailing zeros", "certificate.extension", |w| {
            w.leaf.set(KEY_USAGE, true, element(3, &[0, 0x80]));
        }),
        ("cA", "x509.leaf-is-authority", |w| w.leaf.set(BASIC_CONSTRAINTS, true, constraints(true, None))),
        ("path length without cA", "certificate.extension", |w| {
            w.leaf.set(BASIC_CONSTRAINTS, true, constraints(false, Some(0)));
        }),
        ("cA FALSE written out", "certificate.extension", |w| {
            w.leaf.set(BASIC_CONSTRAINTS, true, element(asn1::SEQUENCE, &[1, 1, 0]));
        }),
        ("unparseable basic constraints", "certificate.extension", |w| {
            w.leaf.set(BASIC_CONSTRAINTS, true, vec![0x30, 5]);
        }),
        ("for servers only", "x509.extended-key-usage", |w| {
            w.leaf.set(EXTENDED_KEY_USAGE, false, usages(&[SERVER_AUTH]));
        }),
        ("for clients only", "x509.extended-key-usage", |w| {
            w.leaf.set(EXTENDED_KEY_USAGE, false, usages(&[CLIENT_AUTH]));
        }),
        ("for code only", "x509.extended-key-usage", |w| {
            w.leaf.set(EXTENDED_KEY_USAGE, false, usages(&[CODE_SIGNING]));
        }),
        ("for any purpose", "x509.extended-key-usage", |w| {
            w.leaf.set(EXTENDED_KEY_USAGE, false, usages(&[ANY_USAGE]));
        }),
        ("for no purpose", "certificate.extension", |w| w.leaf.set(EXTENDED_KEY_USAGE, false, usages(&[]))),
        ("name constraints", "x509.leaf-name-constraints", |w| {
            w.leaf.set(NAME_CONSTRAINTS, true, sequence(&[element(0xa0, &sequence(&[dns("example.org")]))]));
        }),
        ("no issuer", "x509.no-issuer", |w| w.leaf.issuer = name("")),
        ("no authority key identifier", "x509.no-authority-key-id", |w| w.leaf.remove(AUTHORITY_KEY_ID)),
        ("authority key identifier without key", "x509.no-authority-key-id", |w| {
            w.leaf.set(AUTHORITY_KEY_ID, false, sequence(&[]));
        }),
        ("critical authority key identifier", "certificate.critical-extension", |w| {
            w.leaf.extension(AUTHORITY_KEY_ID).critical = vec![1, 1, 0xff];
        }),
        ("critical subject key identifier", "certificate.critical-extension", |w| {
            w.leaf.set(SUBJECT_KEY_ID, true, element(4, &[1; 20]));
        }),
        ("another key's authority key identifier", "x509.key-identifier", |w| {
            // The intermediate's own name leads to it, its key does not.
            w.leaf.set(AUTHORITY_KEY_ID, false, authority_key_id(&[7; 20]));
        }),
    ]);
}

#[test]
fn names_of_leaves() {
    check(&[
        ("no alternative name", "x509.no-uri", |w| w.leaf.remove(ALTERNATIVE_NAME)),
        ("no URI", "x509.no-uri", |w| w.leaf.set(ALTERNATIVE_NAME, true, names(&[dns("example.org")]))),
        ("no name in the list", "certificate.extension", |w| w.leaf.set(ALTERNATIVE_NAME, true, names(&[]))),
        ("two URIs", "x509.several-uris", |w| {
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(super::ID), uri("spiffe://example.org/admin")]));
        }),
        ("the same URI twice", "x509.several-uris", |w| {
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(super::ID), uri(super::ID)]));
        }),
        ("a SPIFFE ID and a web address", "x509.several-uris", |w| {
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(super::ID), uri("https://example.org/")]));
        }),
        ("a second URI that is not text", "certificate.extension", |w| {
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(super::ID), element(0x86, b"spiffe://\xff")]));
        }),
        ("an empty URI", "certificate.extension", |w| w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri("")]))),
        ("a URI with NUL", "certificate.extension", |w| set_id(w, "spiffe://example.org/a\0b")),
        ("an unknown kind of name", "certificate.extension", |w| {
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(super::ID), element(0x89, b"x")]));
        }),
        ("a URI in a constructed tag", "certificate.extension", |w| {
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[element(0xa6, super::ID.as_bytes())]));
        }),
        ("an IP address of 5 bytes", "certificate.extension", |w| {
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(super::ID), element(0x87, &[0; 5])]));
        }),
        ("not critical without subject", "x509.alternative-name-not-critical", |w| {
            w.leaf.set(ALTERNATIVE_NAME, false, names(&[uri(super::ID)]));
        }),
        ("a web address", "x509.spiffe-id", |w| set_id(w, "https://example.org/web")),
        ("another scheme", "x509.spiffe-id", |w| set_id(w, "spiffes://example.org/web")),
        ("the trust domain itself", "x509.leaf-without-path", |w| set_id(w, "spiffe://example.org")),
        ("a bare slash", "x509.spiffe-id", |w| set_id(w, "spiffe://example.org/")),
        ("a trailing slash", "x509.spiffe-id", |w| set_id(w, "spiffe://example.org/web/")),
        ("a doubled slash", "x509.spiffe-id", |w| set_id(w, "spiffe://example.org//web")),
        ("dots", "x509.spiffe-id", |w| set_id(w, "spiffe://example.org/a/../web")),
        ("percent-encoding", "x509.spiffe-id", |w| set_id(w, "spiffe://example.org/%77eb")),
        ("a query", "x509.spiffe-id", |w| set_id(w, "spiffe://example.org/web?x")),
        ("a fragment", "x509.spiffe-id", |w| set_id(w, "spiffe://example.org/web#x")),
        ("a port", "x509.spiffe-id", |w| set_id(w, "spiffe://example.org:443/web")),
        ("user info", "x509.spiffe-id", |w| set_id(w, "spiffe://user@example.org/web")),
        ("capital letters in the trust domain", "x509.spiffe-id", |w| set_id(w, "spiffe://Example.org/web")),
        ("capital letters in the scheme", "x509.spiffe-id", |w| set_id(w, "SPIFFE://example.org/web")),
        ("2049 bytes", "x509.spiffe-id", |w| {
            set_id(w, &format!("spiffe://example.org/{}", "a".repeat(2049 - 21)));
        }),
        ("another trust domain", "x509.unknown-trust-domain", |w| set_id(w, "spiffe://example.com/web")),
        ("a subdomain", "x509.unknown-trust-domain", |w| set_id(w, "spiffe://a.example.org/web")),
    ]);
}

#[test]
fn intermediates() {
    check(&[
        ("no basic constraints", "x509.not-an-authority", |w| w.intermediate.remove(BASIC_CONSTRAINTS)),
        ("cA absent", "x509.not-an-authority", |w| {
            w.intermediate.set(BASIC_CONSTRAINTS, true, constraints(false, None));
        }),
        ("basic constraints not critical", "x509.basic-constraints-not-critical", |w| {
            w.intermediate.set(BASIC_CONSTRAINTS, false, constraints(true, None));
        }),
        ("no key usage", "x509.no-key-usage", |w| w.intermediate.remove(KEY_USAGE)),
        ("no keyCertSign", "x509.no-key-cert-sign", |w| {
            w.intermediate.set(KEY_USAGE, true, key_usage(&[CRL_SIGN]));
        }),
        ("key usage not critical", "x509.key-usage-not-critical", |w| {
            w.intermediate.set(KEY_USAGE, false, key_usage(&[KEY_CERT_SIGN]));
        }),
        ("for servers only", "x509.extended-key-usage", |w| {
            w.intermediate.set(EXTENDED_KEY_USAGE, false, usages(&[SERVER_AUTH]));
        }),
        ("for code only", "x509.extended-key-usage", |w| {
            w.intermediate.set(EXTENDED_KEY_USAGE, false, usages(&[CODE_SIGNING]));
        }),
        ("no subject key identifier", "x509.no-subject-key-id", |w| w.intermediate.remove(SUBJECT_KEY_ID)),
        ("another subject key identifier", "x509.key-identifier", |w| {
            w.intermediate.set(SUBJECT_KEY_ID, false, element(4, &[7; 20]));
        }),
        ("no authority key identifier", "x509.no-authority-key-id", |w| {
            w.intermediate.remove(AUTHORITY_KEY_ID);
        }),
        ("another authority key identifier", "x509.unknown-authority", |w| {
            w.intermediate.set(AUTHORITY_KEY_ID, false, authority_key_id(&[7; 20]));
        }),
        ("a path in its ID", "x509.authority-with-path", |w| {
            w.intermediate.set(ALTERNATIVE_NAME, false, names(&[uri("spiffe://example.org/ca")]));
        }),
        ("another trust domain", "x509.foreign-authority", |w| {
            w.intermediate.set(ALTERNATIVE_NAME, false, names(&[uri("spiffe://example.com")]));
        }),
        ("two IDs", "x509.several-uris", |w| {
            let id = uri("spiffe://example.org");
            w.intermediate.set(ALTERNATIVE_NAME, false, names(&[id.clone(), id]));
        }),
        ("a web address", "x509.spiffe-id", |w| {
            w.intermediate.set(ALTERNATIVE_NAME, false, names(&[uri("https://example.org")]));
        }),
        ("no name", "x509.no-subject", |w| {
            w.intermediate.subject = name("");
            w.leaf.issuer = name("x");
        }),
        ("another name than the leaf's issuer", "x509.unknown-authority", |w| {
            w.intermediate.subject = name("another");
        }),
        ("name constraints not critical", "x509.name-constraints-not-critical", |w| {
            let permitted = element(0xa0, &sequence(&[dns("example.org")]));
            w.intermediate.set(NAME_CONSTRAINTS, false, sequence(&[permitted]));
        }),
        ("empty name constraints", "certificate.extension", |w| {
            w.intermediate.set(NAME_CONSTRAINTS, true, sequence(&[]));
        }),
        ("a DNS name outside the name constraints", "x509.name-constraints", |w| {
            let permitted = element(0xa0, &sequence(&[dns("example.org")]));
            w.intermediate.set(NAME_CONSTRAINTS, true, sequence(&[permitted]));
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(super::ID), dns("example.com")]));
        }),
        ("a DNS name inside the excluded ones", "x509.name-constraints", |w| {
            let excluded = element(0xa1, &sequence(&[dns("example.com")]));
            w.intermediate.set(NAME_CONSTRAINTS, true, sequence(&[excluded]));
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(super::ID), dns("www.example.com")]));
        }),
        ("URI name constraints, which nobody checks", "x509.name-constraints", |w| {
            let permitted = element(0xa0, &sequence(&[uri("example.org")]));
            w.intermediate.set(NAME_CONSTRAINTS, true, sequence(&[permitted]));
        }),
        ("signed by another key", "x509.signature", |w| {
            w.rearrange = |chain, w| vec![chain[0].clone(), w.intermediate.sign(&KEYS.other)];
        }),
        ("expired", "x509.expired", |w| w.intermediate.not_after = utc("251231235959Z")),
        ("not yet valid", "x509.not-yet-valid", |w| w.intermediate.not_before = utc("260101000001Z")),
    ]);
}

#[test]
fn roots() {
    check(&[
        ("no basic constraints", "x509.not-an-authority", |w| w.root.remove(BASIC_CONSTRAINTS)),
        ("basic constraints not critical", "x509.basic-constraints-not-critical", |w| {
            w.root.set(BASIC_CONSTRAINTS, false, constraints(true, None));
        }),
        ("no key usage", "x509.no-key-usage", |w| w.root.remove(KEY_USAGE)),
        ("no keyCertSign", "x509.no-key-cert-sign", |w| {
            w.root.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE]));
        }),
        ("for clients only", "x509.extended-key-usage", |w| {
            w.root.set(EXTENDED_KEY_USAGE, false, usages(&[CLIENT_AUTH]));
        }),
        ("a path in its ID", "x509.authority-with-path", |w| {
            w.root.set(ALTERNATIVE_NAME, false, names(&[uri("spiffe://example.org/ca")]));
        }),
        ("another trust domain", "x509.foreign-authority", |w| {
            w.root.set(ALTERNATIVE_NAME, false, names(&[uri("spiffe://example.com")]));
        }),
        ("no intermediates allowed", "x509.path-length", |w| {
            w.root.set(BASIC_CONSTRAINTS, true, constraints(true, Some(0)));
        }),
        ("another subject key identifier", "x509.unknown-authority", |w| {
            w.root.set(SUBJECT_KEY_ID, false, element(4, &[7; 20]));
        }),
        ("a DNS name outside the name constraints", "x509.name-constraints", |w| {
            let permitted = element(0xa0, &sequence(&[dns("example.org")]));
            w.root.set(NAME_CONSTRAINTS, true, sequence(&[permitted]));
            w.leaf.set(ALTERNATIVE_NAME, true, names(&[uri(super::ID), dns("example.com")]));
        }),
        ("expired", "x509.expired", |w| w.root.not_after = utc("251231235959Z")),
        ("not yet valid", "x509.not-yet-valid", |w| w.root.not_before = utc("260101000001Z")),
        ("another key under the same name", "x509.unknown-authority", |w| {
            w.bundles = |w| {
                let mut other = w.root.clone();
                other.public_key = KEYS.other.public_key().spki_der().to_vec();
                other.set(SUBJECT_KEY_ID, false, element(4, &KEYS.other.public_key().key_id()));
                other.set(AUTHORITY_KEY_ID, false, authority_key_id(&KEYS.other.public_key().key_id()));
                super::chains::bundle("example.org", &[other.sign(&KEYS.other)])
            };
        }),
        ("another key under the same name and identifier", "x509.signature", |w| {
            w.bundles = |w| {
                let mut other = w.root.clone();
                other.public_key = KEYS.other.public_key().spki_der().to_vec();
                super::chains::bundle("example.org", &[other.sign(&KEYS.other)])
            };
        }),
        ("an empty bundle", "x509.unknown-authority", |w| {
            w.bundles = |_| super::chains::bundle("example.org", &[]);
        }),
        ("no bundle", "x509.unknown-trust-domain", |w| w.bundles = |_| Default::default()),
    ]);
}

#[test]
fn times() {
    check(&[
        ("a second too early", "x509.not-yet-valid", |w| w.now = 1_735_689_599),
        ("a second too late", "x509.expired", |w| w.now = 1_798_761_601),
        ("before the epoch", "x509.not-yet-valid", |w| w.now = -1),
        ("the end of time", "x509.expired", |w| w.now = i64::MAX),
    ]);
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let world = World::new();
    let bundles = (world.bundles)(&world);
    let chain = world.chain();
    for which in 0..chain.len() {
        for at in 0..chain[which].len() {
            let mut changed = chain.clone();
            changed[which][at] ^= 1 << (at % 8);
            assert!(super::verify(&changed, &bundles, world.now).is_err(), "certificate {which}, byte {at}");
        }
    }
}

#[test]
fn other_curves_of_the_same_hash_are_judged_by_their_key() {
    // A P-384 intermediate whose signature claims ECDSA with SHA-256 made with another key.
    let mut world = World::new();
    world.intermediate.public_key = key(KeyAlgorithm::EcP384).public_key().spki_der().to_vec();
    assert_eq!(world.verify().unwrap_err().code(), "x509.signature");
}
