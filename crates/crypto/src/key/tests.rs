use proptest::prelude::*;

use super::*;
use crate::digest::sha256;

const FAST: [KeyAlgorithm; 5] = [
    KeyAlgorithm::EcP256,
    KeyAlgorithm::EcP384,
    KeyAlgorithm::EcP521,
    KeyAlgorithm::Ed25519,
    KeyAlgorithm::Rsa2048,
];

fn p256() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::EcP256).unwrap()
}

#[test]
fn a_key_survives_pkcs8_and_spki_and_signs() {
    for algorithm in FAST {
        let key = PrivateKey::generate(algorithm).unwrap();
        let again = PrivateKey::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        let public = PublicKey::from_spki_der(key.public_key().spki_der()).unwrap();
        assert_eq!(&public, key.public_key());
        assert_eq!(public.algorithm().to_string(), algorithm.to_string());
        assert_eq!(KeyAlgorithm::from_name(algorithm.as_str()), Some(algorithm));
        for scheme in SignatureAlgorithm::ALL {
            match again.sign_with(scheme, b"message") {
                Ok(signature) => {
                    assert!(scheme.fits(public.algorithm()));
                    assert_eq!(public.verify(scheme, b"message", &signature), Ok(()));
                    assert_eq!(public.verify(scheme, b"massage", &signature), Err(BadSignature));
                    assert_eq!(p256().public_key().verify(scheme, b"message", &signature), Err(BadSignature));
                    let mut long = signature.clone();
                    long.push(0);
                    assert_eq!(public.verify(scheme, b"message", &long), Err(BadSignature));
                    for other in SignatureAlgorithm::ALL {
                        assert_eq!(public.verify(other, b"message", &signature).is_ok(), other == scheme);
                    }
                }
                Err(error) => {
                    assert_eq!(error, SignError::Unfit);
                    assert!(!scheme.fits(public.algorithm()));
                }
            }
        }
    }
}

#[test]
fn a_digest_is_signed_as_its_message() {
    for algorithm in FAST {
        let key = PrivateKey::generate(algorithm).unwrap();
        let public = key.public_key();
        for scheme in SignatureAlgorithm::ALL.into_iter().filter(|scheme| scheme.fits(public.algorithm())) {
            let digest = |message: &[u8]| scheme.hash().map(|hash| aws_lc_rs::digest::digest(hash, message));
            let Some(digest) = digest(b"message") else {
                assert_eq!(key.sign_digest(scheme, &[0; 32]), Err(SignError::Unfit));
                assert_eq!(public.verify_digest(scheme, &[0; 32], &[0; 64]), Err(BadSignature));
                continue;
            };
            let signature = key.sign_digest(scheme, digest.as_ref()).unwrap();
            assert_eq!(public.verify(scheme, b"message", &signature), Ok(()));
            assert_eq!(public.verify_digest(scheme, digest.as_ref(), &signature), Ok(()));
            assert_eq!(public.verify_digest(scheme, &digest.as_ref()[1..], &signature), Err(BadSignature));
            assert_eq!(key.sign_digest(scheme, b"short"), Err(SignError::Unfit));
            let mut other = digest.as_ref().to_vec();
            other[0] ^= 1;
            assert_eq!(public.verify_digest(scheme, &other, &signature), Err(BadSignature));
        }
    }
}

#[test]
fn an_algorithm_identifier_is_itself_only() {
    for algorithm in SignatureAlgorithm::ALL {
        let der = algorithm.algorithm_identifier_der();
        assert!(crate::asn1::Reader::new(der).any().is_some_and(|element| element.encoded == der));
        assert_eq!(SignatureAlgorithm::from_algorithm_identifier_der(der), Some(algorithm));
        let mut long = der.to_vec();
        long.extend_from_slice(&[5, 0]);
        assert_eq!(SignatureAlgorithm::from_algorithm_identifier_der(&long), None);
    }
}

#[test]
fn the_key_id_is_the_hash_of_the_bit_string() {
    for algorithm in FAST {
        let key = PrivateKey::generate(algorithm).unwrap();
        let spki = key.public_key().spki_der();
        let mut outer = crate::asn1::Reader::new(spki);
        let mut parts = outer.nested(crate::asn1::SEQUENCE).unwrap();
        parts.any().unwrap();
        assert_eq!(key.public_key().key_id(), sha256(parts.bit_string().unwrap())[..20]);
    }
}

#[test]
fn nothing_private_is_printed() {
    let key = p256();
    let private = key.to_pkcs8_der();
    let scalar: String = private[36..68].iter().map(|byte| format!("{byte:02x}")).collect();
    let printed = format!("{key:?}").to_lowercase();
    assert!(printed.starts_with("privatekey") && !printed.contains(&scalar));
}

#[test]
fn a_point_off_the_curve_is_refused() {
    for (algorithm, length) in
        [(KeyAlgorithm::EcP256, 91), (KeyAlgorithm::EcP384, 120), (KeyAlgorithm::EcP521, 158)]
    {
        let mut spki = PrivateKey::generate(algorithm).unwrap().public_key().spki_der().to_vec();
        assert_eq!(spki.len(), length);
        *spki.last_mut().unwrap() ^= 1;
        assert_eq!(PublicKey::from_spki_der(&spki).unwrap_err(), KeyError::NotOnCurve);
    }
}

#[test]
fn other_forms_of_a_point_are_refused() {
    let spki = p256().public_key().spki_der().to_vec();
    // Compressed: half the point, with a header that says so.
    let mut compressed = spki[..59].to_vec();
    compressed[1] = 57;
    compressed[24] = 34;
    compressed[26] = 2 + (spki[90] & 1);
    // Hybrid form.
    let mut hybrid = spki.clone();
    hybrid[26] = 6 + (spki[90] & 1);
    // One unused bit.
    let mut unused = spki.clone();
    unused[25] = 1;
    // Trailing byte; secp256k1 (1.3.132.0.10) in place of the curve.
    let trailing = [spki.as_slice(), &[0]].concat();
    for bad in [compressed, hybrid, unused, trailing] {
        assert!(PublicKey::from_spki_der(&bad).is_err(), "{bad:02x?}");
    }
    let mut point = crate::asn1::Writer::default();
    point.nested(0x30, |spki_out| {
        spki_out.nested(0x30, |algorithm| {
            algorithm.primitive(6, b"\x2a\x86\x48\xce\x3d\x02\x01");
            algorithm.primitive(6, b"\x2b\x81\x04\x00\x0a");
        });
        spki_out.bit_string(&spki[26..]);
    });
    assert_eq!(PublicKey::from_spki_der(&point.finish()).unwrap_err(), KeyError::Unsupported);
}

#[test]
fn rsa_keys_out_of_bounds_are_refused_before_arithmetic() {
    let modulus = |bits: usize| {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        modulus[0] = 0xff >> ((8 - bits % 8) % 8);
        modulus
    };
    let error =
        |modulus: &[u8], exponent: &[u8]| PublicKey::from_spki_der(&rsa_spki(modulus, exponent)).err();
    let e = [1, 0, 1];
    for bits in [1024, 2047, 8193, 9000] {
        assert_eq!(error(&modulus(bits), &e), Some(KeyError::RsaModulus { bits }));
    }
    for bits in [2048, 3072, 8192] {
        assert_eq!(error(&modulus(bits), &e), None);
    }
    let mut even = modulus(2048);
    even[255] = 0xfe;
    assert_eq!(error(&even, &e), Some(KeyError::RsaModulus { bits: 2048 }));
    for exponent in [&[3][..], &[1], &[0xff, 0xff], &[1, 0, 0], &[1, 0, 0, 0, 1]] {
        assert_eq!(error(&modulus(2048), exponent), Some(KeyError::RsaExponent), "{exponent:?}");
    }
    assert_eq!(error(&modulus(2048), &[0xff; 4]), None);
    assert_eq!(error(&modulus(64 * 1024), &e), Some(KeyError::TooLong));
    assert_eq!(PrivateKey::from_pkcs8_der(&[0x30; MAX_PKCS8_BYTES + 1]).unwrap_err(), KeyError::TooLong);
}

#[test]
fn rsa_parameters_must_be_null() {
    let key = PrivateKey::generate(KeyAlgorithm::Rsa2048).unwrap();
    let spki = key.public_key().spki_der();
    assert_eq!(&spki[4..19], b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00");
    let mut absent = spki.to_vec();
    absent.drain(17..19);
    absent[5] = 0x0b;
    absent[3] -= 2;
    assert_eq!(PublicKey::from_spki_der(&absent).unwrap_err(), KeyError::Malformed);
}

#[test]
fn ed25519_points_of_small_order_are_refused() {
    let prefix = &PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap().public_key().spki_der()[..12].to_vec();
    let refused = |raw: [u8; 32]| PublicKey::from_spki_der(&[prefix.as_slice(), &raw].concat()).is_err();
    let mut one = [0; 32];
    one[0] = 1;
    assert!(refused([0; 32]) && refused(one));
    one[31] = 0x80;
    assert!(refused(one));
    // p + 1 encodes y = 1 a second time; p - 1 is the point of order two.
    let mut top = [0xff; 32];
    for (low, last) in [(0xee, 0x7f), (0xed, 0x7f), (0xec, 0x7f), (0xec, 0xff)] {
        (top[0], top[31]) = (low, last);
        assert!(refused(top));
    }
}

#[test]
fn a_private_key_that_does_not_fit_its_public_half_is_refused() {
    let mut pkcs8 = p256().to_pkcs8_der().to_vec();
    let other = p256().to_pkcs8_der();
    let scalar = 36..68;
    pkcs8[scalar.clone()].copy_from_slice(&other[scalar]);
    assert_eq!(PrivateKey::from_pkcs8_der(&pkcs8).unwrap_err(), KeyError::Inconsistent);
    let trailing = [&*p256().to_pkcs8_der(), &[0][..]].concat();
    assert_eq!(PrivateKey::from_pkcs8_der(&trailing).unwrap_err(), KeyError::Malformed);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_canonical(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(key) = PublicKey::from_spki_der(&bytes) {
            prop_assert_eq!(key.spki_der(), bytes.as_slice());
        }
        let _ = PrivateKey::from_pkcs8_der(&bytes);
    }

    #[test]
    fn a_changed_key_is_refused_or_another_key(at in any::<prop::sample::Index>(), flip in 1u8.., rsa in any::<bool>()) {
        static KEYS: std::sync::OnceLock<[PublicKey; 2]> = std::sync::OnceLock::new();
        let keys = KEYS.get_or_init(|| [KeyAlgorithm::EcP256, KeyAlgorithm::Rsa2048].map(
            |algorithm| PrivateKey::generate(algorithm).unwrap().public_key().clone()));
        let key = &keys[usize::from(rsa)];
        let mut spki = key.spki_der().to_vec();
        let at = at.index(spki.len());
        spki[at] ^= flip;
        if let Ok(other) = PublicKey::from_spki_der(&spki) {
            // Only a number of the key may have changed, never the wrapping.
            prop_assert!(at >= 26);
            prop_assert!(other != *key);
            prop_assert_eq!(
                std::mem::discriminant(&other.algorithm()),
                std::mem::discriminant(&key.algorithm())
            );
        }
    }
}
