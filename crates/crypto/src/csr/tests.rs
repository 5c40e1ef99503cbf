use proptest::prelude::*;

use super::*;
use crate::key::KeyAlgorithm;

const SAN: &[u8] = SUBJECT_ALT_NAME;

fn key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::EcP256).unwrap()
}

/// A request of `key` with these attributes, whatever they are.
fn request(key: &PrivateKey, spki: &[u8], algorithm: &[u8], attributes: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut info = Writer::default();
    info.nested(SEQUENCE, |info| {
        info.primitive(INTEGER, &[0]);
        info.primitive(SEQUENCE, &[]);
        info.raw(spki);
        info.nested(context(0), attributes);
    });
    let info = info.finish();
    let mut request = Writer::default();
    request.nested(SEQUENCE, |request| {
        request.raw(&info);
        request.raw(algorithm);
        request.bit_string(&key.sign(&info).unwrap());
    });
    request.finish()
}

fn with_attributes(attributes: impl FnOnce(&mut Writer)) -> Result<VerifiedCsr, CsrError> {
    let key = key();
    let algorithm = key.signature_algorithm().algorithm_identifier_der();
    parse_and_verify(&request(&key, key.public_key().spki_der(), algorithm, attributes))
}

fn extension_request(out: &mut Writer, extensions: impl FnOnce(&mut Writer)) {
    out.nested(SEQUENCE, |attribute| {
        attribute.primitive(OBJECT_IDENTIFIER, EXTENSION_REQUEST);
        attribute.nested(SET, |values| values.nested(SEQUENCE, extensions));
    });
}

fn names(out: &mut Writer, critical: &[u8], uris: &[&[u8]]) {
    out.nested(SEQUENCE, |extension| {
        extension.primitive(OBJECT_IDENTIFIER, SAN);
        extension.raw(critical);
        extension.nested(OCTET_STRING, |value| {
            value.nested(SEQUENCE, |names| {
                names.primitive(context_primitive(2), b"dns.example");
                uris.iter().for_each(|uri| names.primitive(context_primitive(6), uri));
            });
        });
    });
}

#[test]
fn a_request_proves_possession_of_its_key() {
    for algorithm in [
        KeyAlgorithm::EcP256,
        KeyAlgorithm::EcP384,
        KeyAlgorithm::EcP521,
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Rsa2048,
    ] {
        let key = PrivateKey::generate(algorithm).unwrap();
        let csr = build(&key).unwrap();
        let verified = parse_and_verify(&csr).unwrap();
        assert_eq!(&verified.public_key, key.public_key());
        assert!(verified.uri_sans.is_empty());
        // Somebody else's key in a request of mine.
        let other = PrivateKey::generate(algorithm).unwrap();
        let stolen = request(
            &key,
            other.public_key().spki_der(),
            key.signature_algorithm().algorithm_identifier_der(),
            |_| (),
        );
        assert_eq!(parse_and_verify(&stolen).unwrap_err(), CsrError::Signature);
        for scheme in SignatureAlgorithm::ALL {
            let csr = request(&key, key.public_key().spki_der(), scheme.algorithm_identifier_der(), |_| ());
            let expected = if scheme == key.signature_algorithm() {
                None
            } else if scheme.fits(key.public_key().algorithm()) {
                Some(CsrError::Signature)
            } else {
                Some(CsrError::UnfitAlgorithm)
            };
            assert_eq!(parse_and_verify(&csr).err(), expected);
        }
    }
}

#[test]
fn wanted_names_are_reported_and_nothing_else() {
    let found = with_attributes(|out| {
        out.nested(SEQUENCE, |attribute| {
            attribute.primitive(OBJECT_IDENTIFIER, b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x07");
            attribute.nested(SET, |values| values.primitive(crate::asn1::UTF8_STRING, b"challenge"));
        });
        extension_request(out, |extensions| {
            names(extensions, b"\x01\x01\xff", &[b"spiffe://a/b", b"https://c"]);
        });
    });
    assert_eq!(found.unwrap().uri_sans, ["spiffe://a/b", "https://c"]);
}

#[test]
fn odd_requests_are_refused() {
    let twice = |out: &mut Writer| {
        for _ in 0..2 {
            extension_request(out, |extensions| names(extensions, b"", &[b"spiffe://a/b"]));
        }
    };
    assert_eq!(with_attributes(twice).unwrap_err(), CsrError::Malformed);
    let two_sans = |out: &mut Writer| {
        extension_request(out, |extensions| {
            names(extensions, b"", &[b"spiffe://a/b"]);
            names(extensions, b"", &[b"spiffe://a/c"]);
        });
    };
    assert_eq!(with_attributes(two_sans).unwrap_err(), CsrError::Malformed);
    for (critical, uri) in
        [(&b"\x01\x01\x00"[..], &b"a"[..]), (b"\x01\x01\x01", b"a"), (b"", b"\xff"), (b"", "ä".as_bytes())]
    {
        let odd = |out: &mut Writer| extension_request(out, |extensions| names(extensions, critical, &[uri]));
        assert_eq!(with_attributes(odd).unwrap_err(), CsrError::Malformed);
    }
    let many = |out: &mut Writer| {
        extension_request(out, |extensions| names(extensions, b"", &[&b"spiffe://a/b"[..]; 64]));
    };
    assert_eq!(with_attributes(many).unwrap_err(), CsrError::TooLong);
    let many = |out: &mut Writer| {
        for _ in 0..17 {
            out.nested(SEQUENCE, |attribute| {
                attribute.primitive(OBJECT_IDENTIFIER, b"\x2a\x03");
                attribute.primitive(SET, &[]);
            });
        }
    };
    assert_eq!(with_attributes(many).unwrap_err(), CsrError::TooLong);
    assert_eq!(parse_and_verify(&[0x30; MAX_BYTES + 1]).unwrap_err(), CsrError::TooLong);
    let trailing = [build(&key()).unwrap(), vec![0]].concat();
    assert_eq!(parse_and_verify(&trailing).unwrap_err(), CsrError::Malformed);
}

proptest! {
    #[test]
    fn a_changed_request_is_refused(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut csr = build(&key()).unwrap();
        let at = at.index(csr.len());
        csr[at] ^= flip;
        prop_assert!(parse_and_verify(&csr).is_err());
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse_and_verify(&bytes).is_err());
    }
}
