//! The vectors of Project Wycheproof, through the operations of the engine wherever an imported key and a given ciphertext or
//! signature can say them. Each test counts what it has really asked, so that none passes by asking nothing.

use std::collections::HashMap;

use bonafide_crypto::cipher::{Cipher, CipherKey};
use bonafide_crypto::oaep::OaepHash;
use bonafide_kms::algorithm::{KeyType, Scheme};
use bonafide_kms::engine::{Engine, Request};
use bonafide_kms::error::Refusal;
use bonafide_kms::material::{Message, PublicHalf};
use wycheproof::TestResult;

use super::*;

fn scheme(name: &str) -> Scheme {
    Scheme::from_name(name).unwrap()
}

#[test]
fn aead() {
    use wycheproof::aead::{TestName, TestSet};
    for (name, kinds, least) in [
        (TestName::AesGcm, [(128, Cipher::Aes128Gcm), (256, Cipher::Aes256Gcm)].as_slice(), 120),
        (TestName::ChaCha20Poly1305, &[(256, Cipher::ChaCha20Poly1305)], 280),
    ] {
        let mut asked = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            let Some((_, cipher)) = kinds.iter().find(|(bits, _)| *bits == group.key_size) else { continue };
            for test in group.tests {
                let key = CipherKey::new(*cipher, &test.key).unwrap();
                let Ok(nonce) = test.nonce.as_ref().try_into() else {
                    assert_ne!((group.nonce_size, test.result), (96, TestResult::Valid));
                    continue;
                };
                let sealed = [test.ct.as_ref(), test.tag.as_ref()].concat();
                let mut out = vec![0; test.pt.len()];
                let result = key.open_into(nonce, &test.aad, &sealed, &mut out);
                assert_eq!(
                    result.is_ok(),
                    test.result == TestResult::Valid,
                    "{} {}",
                    test.tc_id,
                    test.comment
                );
                if result.is_ok() {
                    assert_eq!(out, *test.pt);
                    let mut again = vec![0; sealed.len()];
                    key.seal_into(nonce, &test.aad, &test.pt, &mut again).unwrap();
                    assert_eq!(again, sealed);
                }
                asked += 1;
            }
        }
        assert!(asked >= least, "{name:?}: {asked}");
    }
}

#[test]
fn hmac() {
    use wycheproof::mac::{TestName, TestSet};
    for (name, key_type, whole) in [
        (TestName::HmacSha256, KeyType::HmacSha256, 256),
        (TestName::HmacSha384, KeyType::HmacSha384, 384),
        (TestName::HmacSha512, KeyType::HmacSha512, 512),
    ] {
        let (engine, mut asked) = (engine(), 0);
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let handle = import(&engine, key_type, &test.key).unwrap();
                let verify = Request::VerifyMac { handle, message: &test.msg, tag: &test.tag };
                let result = engine.one(&Glass, &verify);
                // A truncated tag is never taken, right or not.
                let good = test.result == TestResult::Valid && group.tag_size == whole;
                assert_eq!(result.is_ok(), good, "{} {}", test.tc_id, test.comment);
                if test.result == TestResult::Valid {
                    let tag =
                        bytes(engine.one(&Glass, &Request::Mac { handle, message: &test.msg }).unwrap());
                    assert_eq!(&tag[..group.tag_size / 8], &*test.tag);
                }
                engine.one(&Glass, &Request::Forget { handle }).unwrap();
                asked += 1;
            }
        }
        assert!(asked >= 170, "{name:?}: {asked}");
    }
}

#[test]
fn ecdsa() {
    use wycheproof::ecdsa::{TestName, TestSet};
    for (name, key_type) in [
        (TestName::EcdsaSecp256r1Sha256, KeyType::EcdsaP256),
        (TestName::EcdsaSecp384r1Sha384, KeyType::EcdsaP384),
        (TestName::EcdsaSecp521r1Sha512, KeyType::EcdsaP521),
    ] {
        let mut asked = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            let key = PublicHalf::from_spki(key_type, &group.der).unwrap();
            for test in group.tests {
                let scheme = key_type.default_scheme().unwrap();
                let result = key.verify(scheme, Message::Whole(&test.msg), &test.sig);
                assert_eq!(
                    result.is_ok(),
                    test.result == TestResult::Valid,
                    "{} {}",
                    test.tc_id,
                    test.comment
                );
                asked += 1;
            }
        }
        assert!(asked >= 400, "{name:?}: {asked}");
    }
}

#[test]
fn eddsa() {
    use wycheproof::eddsa::{TestName, TestSet};
    let mut asked = 0;
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let key = PublicHalf::from_spki(KeyType::Ed25519, &group.der).unwrap();
        for test in group.tests {
            let result = key.verify(scheme("ed25519"), Message::Whole(&test.msg), &test.sig);
            assert_eq!(result.is_ok(), test.result == TestResult::Valid, "{} {}", test.tc_id, test.comment);
            asked += 1;
        }
    }
    assert!(asked >= 140, "{asked}");
}

fn rsa(bits: usize) -> KeyType {
    KeyType::from_name(&format!("rsa-{bits}")).unwrap()
}

#[test]
fn rsa_pkcs1_signatures() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    for (name, bits, scheme_name) in [
        (TestName::Rsa2048Sha256, 2048, "rsa-pkcs1-sha256"),
        (TestName::Rsa2048Sha384, 2048, "rsa-pkcs1-sha384"),
        (TestName::Rsa2048Sha512, 2048, "rsa-pkcs1-sha512"),
        (TestName::Rsa3072Sha256, 3072, "rsa-pkcs1-sha256"),
        (TestName::Rsa3072Sha384, 3072, "rsa-pkcs1-sha384"),
        (TestName::Rsa3072Sha512, 3072, "rsa-pkcs1-sha512"),
        (TestName::Rsa4096Sha256, 4096, "rsa-pkcs1-sha256"),
        (TestName::Rsa4096Sha384, 4096, "rsa-pkcs1-sha384"),
        (TestName::Rsa4096Sha512, 4096, "rsa-pkcs1-sha512"),
    ] {
        let mut asked = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            let key = match PublicHalf::from_spki(rsa(bits), &group.der) {
                Ok(key) => key,
                // Exponents below 65537 are not taken.
                Err(_) => {
                    let exponent = group.key.e.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
                    assert!(exponent < 65_537, "{exponent}");
                    continue;
                }
            };
            for test in group.tests {
                let result = key.verify(scheme(scheme_name), Message::Whole(&test.msg), &test.sig);
                match test.result {
                    TestResult::Valid => assert_eq!(result, Ok(()), "{} {}", test.tc_id, test.comment),
                    // Parameters that should be NULL and are absent: taken by none who compares encodings.
                    TestResult::Acceptable | TestResult::Invalid => {
                        assert_eq!(result, Err(Refusal::Signature), "{} {}", test.tc_id, test.comment);
                    }
                }
                asked += 1;
            }
        }
        assert!(asked >= 200, "{name:?}: {asked}");
    }
}

#[test]
fn rsa_pss_signatures() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    for (name, bits, scheme_name) in [
        (TestName::RsaPss2048Sha256Mgf1SaltLen32, 2048, "rsa-pss-sha256"),
        (TestName::RsaPss2048Sha384Mgf1SaltLen48, 2048, "rsa-pss-sha384"),
        (TestName::RsaPss3072Sha256Mgf1SaltLen32, 3072, "rsa-pss-sha256"),
        (TestName::RsaPss4096Sha256Mgf1SaltLen32, 4096, "rsa-pss-sha256"),
        (TestName::RsaPss4096Sha384Mgf1SaltLen48, 4096, "rsa-pss-sha384"),
        (TestName::RsaPss4096Sha512Mgf1SaltLen64, 4096, "rsa-pss-sha512"),
    ] {
        let mut asked = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            let key = PublicHalf::from_spki(rsa(bits), &group.der).unwrap();
            for test in group.tests {
                let result = key.verify(scheme(scheme_name), Message::Whole(&test.msg), &test.sig);
                assert_eq!(
                    result.is_ok(),
                    test.result == TestResult::Valid,
                    "{} {}",
                    test.tc_id,
                    test.comment
                );
                asked += 1;
            }
        }
        assert!(asked >= 50, "{name:?}: {asked}");
    }
}

#[test]
fn rsa_oaep() {
    use wycheproof::rsa_oaep::{TestName, TestSet};
    for (name, bits, hash) in [
        (TestName::Rsa2048Sha1Mgf1Sha1, 2048, OaepHash::Sha1),
        (TestName::Rsa2048Sha256Mgf1Sha256, 2048, OaepHash::Sha256),
        (TestName::Rsa2048Sha384Mgf1Sha384, 2048, OaepHash::Sha384),
        (TestName::Rsa2048Sha512Mgf1Sha512, 2048, OaepHash::Sha512),
        (TestName::Rsa3072Sha256Mgf1Sha256, 3072, OaepHash::Sha256),
        (TestName::Rsa3072Sha512Mgf1Sha512, 3072, OaepHash::Sha512),
        (TestName::Rsa4096Sha256Mgf1Sha256, 4096, OaepHash::Sha256),
        (TestName::Rsa4096Sha512Mgf1Sha512, 4096, OaepHash::Sha512),
    ] {
        let (engine, mut asked) = (engine(), 0);
        for group in TestSet::load(name).unwrap().test_groups {
            let handle = import(&engine, rsa(bits), &group.pkcs8).unwrap();
            for test in group.tests {
                let open = Request::OpenForeign { handle, hash, label: &test.label, ciphertext: &test.ct };
                let result = engine.one(&Glass, &open).map(bytes);
                match test.result {
                    TestResult::Valid => {
                        assert_eq!(result.unwrap(), *test.pt, "{} {}", test.tc_id, test.comment)
                    }
                    TestResult::Acceptable | TestResult::Invalid => {
                        assert_eq!(result, Err(Refusal::Ciphertext), "{} {}", test.tc_id, test.comment);
                    }
                }
                asked += 1;
            }
        }
        assert!(asked >= 30, "{name:?}: {asked}");
    }
}

fn verify(engine: &Engine, handle: u32, message: &[u8], signature: &[u8]) -> bool {
    let scheme = Scheme::MlDsa65;
    engine.one(&Glass, &Request::Verify { handle, scheme, prehashed: false, message, signature }).is_ok()
}

/// Ours are randomised, so theirs are verified with the imported key, and ours with their public key.
#[test]
fn ml_dsa_signing() {
    use wycheproof::mldsa_sign::{TestName, TestSet};
    for (name, least) in [(TestName::MlDsa65SignSeed, 75), (TestName::MlDsa65SignNoSeed, 60)] {
        let (engine, mut asked) = (engine(), 0);
        for group in TestSet::load(name).unwrap().test_groups {
            let secret = group.privseed.as_ref().or(group.privkey.as_ref()).unwrap();
            let imported = import(&engine, KeyType::MlDsa65, secret);
            for test in group.tests {
                // What is signed here is a message, in an empty context.
                let Some(message) = test.msg.filter(|_| test.ctx.is_none_or(|context| context.is_empty()))
                else {
                    continue;
                };
                asked += 1;
                if test.result != TestResult::Valid {
                    assert_eq!(imported, Err(Refusal::Import), "{} {}", test.tc_id, test.comment);
                    continue;
                }
                let handle = imported.unwrap();
                assert!(verify(&engine, handle, &message, &test.sig), "{} {}", test.tc_id, test.comment);
                let (scheme, prehashed) = (Scheme::MlDsa65, false);
                let sign = Request::Sign { handle, scheme, prehashed, message: &message };
                let signature = bytes(engine.one(&Glass, &sign).unwrap());
                let raw = bonafide_crypto::mldsa::MlDsaPublicKey::from_bytes(group.pubkey.as_ref().unwrap());
                raw.unwrap().verify(&message, &signature).unwrap();
            }
        }
        assert!(asked >= least, "{name:?}: {asked}");
    }
}

#[test]
fn ml_dsa_verification() {
    use wycheproof::mldsa_verify::{TestName, TestSet};
    let mut asked = 0;
    for group in TestSet::load(TestName::MlDsa65Verify).unwrap().test_groups {
        let key = PublicHalf::from_spki(KeyType::MlDsa65, &group.der);
        for test in group.tests {
            if test.ctx.is_some_and(|context| !context.is_empty()) {
                continue;
            }
            let result = key
                .as_ref()
                .map_err(|refusal| *refusal)
                .and_then(|key| key.verify(scheme("ml-dsa-65"), Message::Whole(&test.msg), &test.sig));
            assert_eq!(result.is_ok(), test.result == TestResult::Valid, "{} {}", test.tc_id, test.comment);
            asked += 1;
        }
    }
    assert!(asked >= 200, "{asked}");
}

#[test]
fn ml_kem() {
    use wycheproof::mlkem::{TestName, TestSet};
    let load = |name| TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|group| group.tests);
    let engine = engine();
    // A seed can't be imported; what becomes of it can.
    let mut keys = HashMap::new();
    for test in load(TestName::MlKem768KeyGenSeed) {
        let (private, public) = (test.decaps_key.unwrap(), test.encaps_key.unwrap());
        let handle = import(&engine, KeyType::MlKem768, &private).unwrap();
        let private = bonafide_crypto::mlkem::MlKemPrivateKey::from_bytes(&private).unwrap();
        assert!(private.public_key().spki_der().ends_with(&public));
        keys.insert(test.seed.unwrap(), handle);
    }
    assert_eq!(keys.len(), 100);
    let open = |handle: u32, ciphertext: &[u8]| {
        let hash = OaepHash::Sha256;
        engine.one(&Glass, &Request::OpenForeign { handle, hash, label: b"", ciphertext }).map(bytes)
    };
    let mut asked = 0;
    for test in load(TestName::MlKem768) {
        let Some(handle) = test.seed.as_ref().and_then(|seed| keys.get(seed)) else { continue };
        let shared = open(*handle, &test.ct.unwrap());
        match test.result {
            TestResult::Valid => assert_eq!(shared.unwrap(), *test.shared_secret.unwrap(), "{}", test.tc_id),
            _ => assert_eq!(shared, Err(Refusal::Ciphertext), "{}", test.tc_id),
        }
        asked += 1;
    }
    assert!(asked >= 100, "{asked}");
    let mut asked = 0;
    for test in load(TestName::MlKem768SemiExpandedDecaps) {
        let shared = import(&engine, KeyType::MlKem768, &test.decaps_key.unwrap())
            .and_then(|handle| open(handle, &test.ct.unwrap()));
        match test.result {
            TestResult::Valid => assert_eq!(shared.unwrap(), *test.shared_secret.unwrap(), "{}", test.tc_id),
            _ => assert!(matches!(shared, Err(Refusal::Import | Refusal::Ciphertext)), "{}", test.tc_id),
        }
        asked += 1;
    }
    // The randomness of an encapsulation is not ours to give; which public keys are none is.
    for test in load(TestName::MlKem768Encaps) {
        let public = bonafide_crypto::mlkem::MlKemPublicKey::from_bytes(&test.encaps_key.unwrap());
        assert_eq!(public.is_ok(), test.result == TestResult::Valid, "{} {}", test.tc_id, test.comment);
        asked += 1;
    }
    assert_eq!(asked, 9 + 265);
}
