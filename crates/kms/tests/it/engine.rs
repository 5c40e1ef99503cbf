//! Every operation of every kind of key, and what must be refused.

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_crypto::keywrap;
use bonafide_crypto::oaep::{OaepHash, OaepPublicKey};
use bonafide_crypto::random::SystemRandom;
use bonafide_kms::algorithm::{KeyType, Operation, Scheme};
use bonafide_kms::ciphertext::{Ciphertext, Header, Kind};
use bonafide_kms::context::ContextDigest;
use bonafide_kms::engine::{Answer, Engine, MAX_OPEN, Request};
use bonafide_kms::envelope::DataKey;
use bonafide_kms::error::Refusal;
use bonafide_kms::material::{Flags, Material, Message, PublicHalf};
use proptest::prelude::*;

use super::*;

const CONVERGENT: Flags = Flags { exportable: false, convergent: true, external: false };
/// All that encrypt, but the slow ones to draw.
const ENCRYPTING: [KeyType; 5] =
    [KeyType::Aes128Gcm, KeyType::Aes256Gcm, KeyType::ChaCha20Poly1305, KeyType::Rsa2048, KeyType::MlKem768];

fn encrypt(engine: &Engine, handle: u32, context: ContextDigest, plaintext: &[u8]) -> Vec<u8> {
    bytes(engine.one(&Glass, &Request::Encrypt { handle, context, plaintext }).unwrap())
}

fn decrypt(
    engine: &Engine,
    handle: u32,
    context: ContextDigest,
    kind: Kind,
    body: &[u8],
) -> Result<Vec<u8>, Refusal> {
    engine.one(&Glass, &Request::Decrypt { handle, context, kind, body }).map(bytes)
}

#[test]
fn every_kind_does_what_it_can_and_nothing_else() {
    let engine = engine();
    for key_type in KeyType::ALL {
        // Seconds each to draw.
        if matches!(key_type, KeyType::Rsa3072 | KeyType::Rsa4096) {
            continue;
        }
        let (handle, wrapped) = generate(&engine, 3, key_type, EXPORTABLE);
        let again = engine.one(&Glass, &Request::Open { key: KEY, version: 3, wrapped: &wrapped }).unwrap();
        let Answer::Opened { handle: again, key_type: same, flags, public, wrapped: none_new } = again else {
            panic!("{key_type}")
        };
        assert_eq!((same, flags, none_new.len()), (key_type, EXPORTABLE, 0));
        assert_eq!(public.is_empty(), !key_type.has_public_half());
        let one = |request: Request<'_>| engine.one(&Glass, &request);
        let can = |operation: Operation| key_type.can(operation);
        let context = context(&[("a", "b")]);

        let body = one(Request::Encrypt { handle, context, plaintext: b"hello" });
        if can(Operation::Encrypt) {
            let body = bytes(body.unwrap());
            assert_eq!(decrypt(&engine, again, context, Kind::Direct, &body).unwrap(), b"hello");
            let rewrap = Request::Rewrap { handle, to: again, context, kind: Kind::Direct, body: &body };
            let other = bytes(one(rewrap).unwrap());
            assert_ne!(other, body);
            assert_eq!(decrypt(&engine, handle, context, Kind::Direct, &other).unwrap(), b"hello");
            let long = vec![0; key_type.max_plaintext() + 1];
            let result = one(Request::Encrypt { handle, context, plaintext: &long }).map(drop);
            assert_eq!(result, Err(Refusal::TooLong), "{key_type}");
            let result = one(Request::Encrypt { handle, context, plaintext: &long[1..] });
            assert!(result.is_ok(), "{key_type}");
            assert_eq!(decrypt(&engine, again, context, Kind::Direct, b"").unwrap_err(), Refusal::Ciphertext);
        } else {
            assert_eq!(body.map(drop), Err(Refusal::Unfit));
            assert_eq!(decrypt(&engine, handle, context, Kind::Direct, b"x"), Err(Refusal::Unfit));
        }

        let tag = one(Request::Mac { handle, message: b"hello" });
        if can(Operation::Mac) {
            let tag = bytes(tag.unwrap());
            let verify = |message: &[u8], tag: &[u8]| one(Request::VerifyMac { handle: again, message, tag });
            assert_eq!(verify(b"hello", &tag).unwrap(), Answer::Done);
            assert_eq!(verify(b"hallo", &tag).map(drop), Err(Refusal::Mac));
            assert_eq!(verify(b"hello", &tag[1..]).map(drop), Err(Refusal::Mac));
        } else {
            assert_eq!(tag.map(drop), Err(Refusal::Unfit));
        }

        for scheme in Scheme::ALL {
            let signature = one(Request::Sign { handle, scheme, prehashed: false, message: b"hello" });
            if !(can(Operation::Sign) && scheme.fits(key_type)) {
                assert_eq!(signature.map(drop), Err(Refusal::Unfit), "{key_type} {scheme}");
                continue;
            }
            let signature = bytes(signature.unwrap());
            let half = PublicHalf::from_spki(key_type, &public).unwrap();
            half.verify(scheme, Message::Whole(b"hello"), &signature).unwrap();
            let verify = |message, signature| {
                one(Request::Verify { handle: again, scheme, prehashed: false, message, signature }).map(drop)
            };
            assert_eq!(verify(b"hello", &signature), Ok(()));
            assert_eq!(verify(b"hallo", &signature), Err(Refusal::Signature));
            assert_eq!(verify(b"hello", &signature[1..]), Err(Refusal::Signature));
            // The digest of another length, and what takes none.
            let digest = one(Request::Sign { handle, scheme, prehashed: true, message: b"short" });
            assert_eq!(digest.map(drop), Err(Refusal::Unfit));
        }

        let exported = bytes(one(Request::Export { handle: again }).unwrap());
        let twin = import(&engine, key_type, &exported).unwrap();
        if key_type.is_mac() {
            let tag = |handle| bytes(one(Request::Mac { handle, message: b"m" }).unwrap());
            assert_eq!(tag(twin), tag(handle));
        }
        assert!(import(&engine, key_type, b"not a key").is_err());
        assert!(import(&engine, key_type, &[]).is_err());
        if !key_type.is_cipher() {
            let born = Request::Generate { key: KEY, version: 1, key_type, flags: CONVERGENT };
            assert_eq!(one(born).map(drop), Err(Refusal::Unfit), "only ciphers are convergent");
        }
        one(Request::Forget { handle }).unwrap();
        assert_eq!(one(Request::Export { handle }).map(drop), Err(Refusal::NoHandle));
    }
}

#[test]
fn a_key_is_only_of_its_own_kind() {
    let engine = engine();
    let p256 = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap().to_pkcs8_der();
    for key_type in KeyType::ALL {
        // A MAC takes any bytes.
        let taken = key_type == KeyType::EcdsaP256 || key_type.is_mac();
        assert_eq!(import(&engine, key_type, &p256).is_ok(), taken, "{key_type}");
    }
    let rsa = PrivateKey::generate(KeyAlgorithm::Rsa2048).unwrap().to_pkcs8_der();
    assert!(import(&engine, KeyType::Rsa3072, &rsa).is_err());
}

/// The declaration lies in the wrapped secret: what was not born exportable never leaves.
#[test]
fn only_what_was_born_so_leaves() {
    let engine = engine();
    for key_type in [KeyType::Aes256Gcm, KeyType::Ed25519, KeyType::HmacSha256, KeyType::MlDsa65] {
        let (handle, wrapped) = generate(&engine, 1, key_type, Flags::default());
        assert_eq!(engine.one(&Glass, &Request::Export { handle }).map(drop), Err(Refusal::NotExportable));
        let opened = engine.one(&Glass, &Request::Open { key: KEY, version: 1, wrapped: &wrapped }).unwrap();
        let handle = super::opened(opened).0;
        assert_eq!(engine.one(&Glass, &Request::Export { handle }).map(drop), Err(Refusal::NotExportable));
    }
}

#[test]
fn a_secret_opens_as_the_version_that_it_is() {
    let engine = engine();
    let (_, wrapped) = generate(&engine, 1, KeyType::Aes256Gcm, Flags::default());
    let open = |key: KeyId, version, wrapped: &[u8]| {
        engine.one(&Glass, &Request::Open { key, version, wrapped }).map(drop)
    };
    assert_eq!(open(KEY, 1, &wrapped), Ok(()));
    assert_eq!(open(KEY, 2, &wrapped), Err(Refusal::Wrapped));
    assert_eq!(open(KeyId::from_bytes([8; 16]), 1, &wrapped), Err(Refusal::Wrapped));
    for length in 0..wrapped.len() {
        assert_eq!(open(KEY, 1, &wrapped[..length]), Err(Refusal::Wrapped));
    }
    let again = engine.one(&Glass, &Request::WrapAgain { key: KEY, version: 1, wrapped: &wrapped }).unwrap();
    assert_eq!(open(KEY, 1, &bytes(again)), Ok(()));
    let other = engine.one(&Glass, &Request::WrapAgain { key: KEY, version: 2, wrapped: &wrapped });
    assert_eq!(other.map(drop), Err(Refusal::Wrapped));
}

#[test]
fn data_keys_and_envelopes_come_back_everywhere() {
    let engine = engine();
    for key_type in ENCRYPTING {
        let (handle, _) = generate(&engine, 5, key_type, Flags::default());
        let context = context(&[("table", "orders")]);
        for (length, plaintext) in [(16, true), (32, true), (64, true), (32, false)] {
            let draw = Request::DataKey { handle, context, length, plaintext };
            let Answer::DataKey { plaintext: drawn, wrapped } = engine.one(&Glass, &draw).unwrap() else {
                panic!("{key_type}")
            };
            assert_eq!(drawn.is_some(), plaintext);
            let unwrapped = decrypt(&engine, handle, context, Kind::DataKey, &wrapped).unwrap();
            assert_eq!(unwrapped.len(), usize::from(length));
            assert!(drawn.is_none_or(|drawn| *drawn == unwrapped));
            // A data key is no message, and the other way round.
            assert_eq!(decrypt(&engine, handle, context, Kind::Direct, &wrapped), Err(Refusal::Ciphertext));
            let direct = encrypt(&engine, handle, context, b"0123456789abcdef");
            assert_eq!(decrypt(&engine, handle, context, Kind::DataKey, &direct), Err(Refusal::Ciphertext));
        }
        let draw = Request::DataKey { handle, context, length: 32, plaintext: true };
        let Answer::DataKey { plaintext: Some(drawn), wrapped } = engine.one(&Glass, &draw).unwrap() else {
            panic!("{key_type}")
        };
        let drawn = drawn.as_slice().try_into().unwrap();
        let local = DataKey::new(key_type, KEY, 5, &context, drawn, &wrapped).unwrap();
        let sealed = local.seal(b"of the workload", &SystemRandom).unwrap();
        let read = Ciphertext::decode(&sealed).unwrap();
        assert_eq!(read.header, Header { kind: Kind::Envelope, key_type, key: KEY, version: 5 });
        let parts = read.envelope().unwrap();
        assert_eq!(parts.digest(), local.digest());
        assert_eq!(**local.open(parts).unwrap(), *b"of the workload");
        assert_eq!(decrypt(&engine, handle, context, Kind::Envelope, read.body).unwrap(), b"of the workload");
        assert!(decrypt(&engine, handle, none(), Kind::Envelope, read.body).is_err());
        // It stays an envelope, whatever its size.
        let large = local.seal(&vec![9; 5000], &SystemRandom).unwrap();
        let body = Ciphertext::decode(&large).unwrap().body;
        let (to, _) = generate(&engine, 6, key_type, Flags::default());
        let rewrap = Request::Rewrap { handle, to, context, kind: Kind::Envelope, body };
        let moved = bytes(engine.one(&Glass, &rewrap).unwrap());
        assert_eq!(decrypt(&engine, to, context, Kind::Envelope, &moved).unwrap(), vec![9; 5000]);
        assert_eq!(decrypt(&engine, handle, context, Kind::Envelope, &moved), Err(Refusal::Ciphertext));
    }
}

#[test]
fn convergent_keys_say_the_same_twice_and_only_they() {
    let engine = engine();
    for key_type in [KeyType::Aes128Gcm, KeyType::Aes256Gcm, KeyType::ChaCha20Poly1305] {
        let (same, wrapped) = generate(&engine, 1, key_type, CONVERGENT);
        let (fresh, _) = generate(&engine, 1, key_type, Flags::default());
        let (one, two) = (context(&[("a", "1")]), context(&[("a", "2")]));
        assert_eq!(encrypt(&engine, same, one, b"x"), encrypt(&engine, same, one, b"x"));
        assert_ne!(encrypt(&engine, fresh, one, b"x"), encrypt(&engine, fresh, one, b"x"));
        // Nothing is shared between contexts, not even the random part.
        let (first, second) = (encrypt(&engine, same, one, b"x"), encrypt(&engine, same, two, b"x"));
        assert_ne!(first[..24], second[..24]);
        assert_ne!(encrypt(&engine, same, one, b"y")[..24], first[..24]);
        let again = engine.one(&Glass, &Request::Open { key: KEY, version: 1, wrapped: &wrapped }).unwrap();
        assert_eq!(encrypt(&engine, opened(again).0, one, b"x"), first);
        assert_eq!(decrypt(&engine, same, one, Kind::Direct, &first).unwrap(), b"x");
    }
}

#[test]
fn a_secret_comes_in_sealed_to_a_key_of_ours() {
    let engine = engine();
    let (under, _) = generate(&engine, 1, KeyType::Rsa2048, Flags::default());
    let public = |handle| match engine.one(&Glass, &Request::Export { handle }) {
        Err(Refusal::NotExportable) => (),
        other => panic!("{other:?}"),
    };
    public(under);
    let rsa = PrivateKey::generate(KeyAlgorithm::Rsa2048).unwrap();
    let under = import(&engine, KeyType::Rsa2048, &rsa.to_pkcs8_der()).unwrap();
    let seal = |hash, secret: &[u8]| {
        let public = OaepPublicKey::new(rsa.public_key()).unwrap();
        let mut sealed = vec![0; public.ciphertext_length()];
        public.encrypt_into(hash, b"", &[5; 32], &mut sealed).unwrap();
        sealed.extend(keywrap::wrap(&[5; 32], secret).unwrap());
        sealed
    };
    let take = |under, hash, sealed: &[u8]| {
        let (key_type, flags) = (KeyType::Aes256Gcm, EXPORTABLE);
        let request = Request::ImportSealed { key: KEY, version: 2, key_type, flags, under, hash, sealed };
        engine.one(&Glass, &request).map(|answer| opened(answer).0)
    };
    for hash in OaepHash::ALL {
        let mut sealed = seal(hash, &[9; 32]);
        let handle = take(under, hash, &sealed).unwrap();
        assert_eq!(bytes(engine.one(&Glass, &Request::Export { handle }).unwrap()), [9; 32]);
        assert_eq!(take(under, hash, &seal(hash, &[9; 31])), Err(Refusal::Import));
        assert_eq!(take(under, hash, &sealed[..100]), Err(Refusal::Import));
        for at in [0, 255, 256, sealed.len() - 1] {
            sealed[at] ^= 1;
            assert_eq!(take(under, hash, &sealed), Err(Refusal::Import));
            sealed[at] ^= 1;
        }
    }
    let (aes, _) = generate(&engine, 1, KeyType::Aes256Gcm, Flags::default());
    let sealed = seal(OaepHash::Sha256, &[9; 32]);
    assert_eq!(take(aes, OaepHash::Sha256, &sealed), Err(Refusal::Unfit));
    assert_eq!(take(9999, OaepHash::Sha256, &sealed), Err(Refusal::NoHandle));
}

#[test]
fn open_secrets_are_bounded_and_handles_come_once() {
    let engine = engine();
    let (first, wrapped) = generate(&engine, 1, KeyType::HmacSha256, Flags::default());
    let open = || engine.one(&Glass, &Request::Open { key: KEY, version: 1, wrapped: &wrapped });
    for _ in 1..MAX_OPEN {
        open().unwrap();
    }
    assert_eq!(engine.open(), MAX_OPEN);
    assert_eq!(open().map(drop), Err(Refusal::TooManyOpen));
    engine.one(&Glass, &Request::Forget { handle: first }).unwrap();
    assert_ne!(opened(open().unwrap()).0, first);
}

#[test]
fn nothing_secret_is_printed() {
    let key = [0xab; 32];
    let (material, encoded) = Material::import(KeyType::Aes256Gcm, EXPORTABLE, &key).unwrap();
    let data_key = DataKey::new(KeyType::Aes256Gcm, KEY, 1, &none(), &key, b"wrapped").unwrap();
    let answer = Answer::DataKey { plaintext: Some(Erased::new(key.to_vec())), wrapped: vec![0xab] };
    let import = Request::Import {
        key: KEY,
        version: 1,
        key_type: KeyType::Aes256Gcm,
        flags: EXPORTABLE,
        secret: &key,
    };
    let printed = format!("{material:?} {encoded:?} {data_key:?} {answer:?} {import:?} {:?}", engine());
    assert!(!printed.contains("171") && !printed.contains("abab"), "{printed}");
}

/// A ciphertext with all that it was made with.
fn made() -> impl Strategy<Value = (usize, Vec<u8>, Vec<(String, String)>)> {
    let plaintext = prop::collection::vec(any::<u8>(), 0..100);
    let context = prop::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 0..3);
    (0..ENCRYPTING.len(), plaintext, context)
        .prop_map(|(which, plaintext, context)| (which, plaintext, context.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any flipped bit, any truncation, another version, key, kind or context, and swapped parts are refused.
    #[test]
    fn nothing_opens_but_the_whole(
        (which, plaintext, pairs) in made(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
        cut in any::<prop::sample::Index>(),
    ) {
        thread_local! {
            static ENGINE: (Engine, Vec<[u32; 3]>) = {
                let engine = engine();
                let handles = ENCRYPTING.map(|key_type| {
                    let (first, _) = generate(&engine, 1, key_type, EXPORTABLE);
                    let secret = bytes(engine.one(&Glass, &Request::Export { handle: first }).unwrap());
                    let again = |key, version| {
                        let flags = EXPORTABLE;
                        let import = Request::Import { key, version, key_type, flags, secret: &secret };
                        opened(engine.one(&Glass, &import).unwrap()).0
                    };
                    // The same secret, as another version and as another key: only what is bound tells them apart.
                    [first, again(KEY, 2), again(KeyId::from_bytes([8; 16]), 1)]
                });
                (engine, handles.to_vec())
            };
        }
        ENGINE.with(|(engine, handles)| {
            let [handle, version, key] = handles[which];
            let digest = Context::new(pairs.clone()).unwrap().digest();
            let body = encrypt(engine, handle, digest, &plaintext);
            let open = |handle, digest, kind, body: &[u8]| decrypt(engine, handle, digest, kind, body);
            prop_assert_eq!(&open(handle, digest, Kind::Direct, &body).unwrap(), &plaintext);
            let refused = Err(Refusal::Ciphertext);
            prop_assert_eq!(&open(version, digest, Kind::Direct, &body), &refused);
            prop_assert_eq!(&open(key, digest, Kind::Direct, &body), &refused);
            prop_assert_eq!(&open(handle, digest, Kind::DataKey, &body), &refused);
            prop_assert_eq!(&open(handle, digest, Kind::Envelope, &body), &refused);
            let other = Context::new(pairs.into_iter().chain([("zzzz".to_owned(), String::new())])).unwrap().digest();
            prop_assert_eq!(&open(handle, other, Kind::Direct, &body), &refused);
            prop_assert_eq!(&open(handle, digest, Kind::Direct, &body[..cut.index(body.len())]), &refused);
            let mut changed = body.clone();
            changed[at.index(body.len())] ^= 1 << bit;
            prop_assert_eq!(&open(handle, digest, Kind::Direct, &changed), &refused);
            let second = encrypt(engine, handle, digest, &plaintext);
            let mixed = [&body[..body.len() / 2], &second[body.len() / 2..]].concat();
            prop_assert_eq!(&open(handle, digest, Kind::Direct, &mixed), &refused);
            Ok(())
        })?;
    }

    #[test]
    fn no_envelope_opens_but_the_whole(
        plaintext in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
        cut in any::<prop::sample::Index>(),
    ) {
        let engine = engine();
        let key_type = KeyType::Aes256Gcm;
        let (handle, _) = generate(&engine, 1, key_type, Flags::default());
        let context = context(&[("a", "b")]);
        let local = || {
            let draw = Request::DataKey { handle, context, length: 32, plaintext: true };
            let Ok(Answer::DataKey { plaintext: Some(drawn), wrapped }) = engine.one(&Glass, &draw) else {
                panic!("no data key")
            };
            DataKey::new(key_type, KEY, 1, &context, drawn.as_slice().try_into().unwrap(), &wrapped).unwrap()
        };
        let (one, two) = (local(), local());
        let (first, second) =
            (one.seal(&plaintext, &SystemRandom).unwrap(), two.seal(&plaintext, &SystemRandom).unwrap());
        let body = |sealed: &[u8]| Ciphertext::decode(sealed).unwrap().body.to_vec();
        let (first, second) = (body(&first), body(&second));
        let open = |body: &[u8]| decrypt(&engine, handle, context, Kind::Envelope, body);
        prop_assert_eq!(&open(&first).unwrap(), &plaintext);
        // The data key of one with the rest of the other.
        let wrapped = 2 + 24 + 32 + 16;
        let swapped = [&first[..wrapped], &second[wrapped..]].concat();
        prop_assert_eq!(open(&swapped), Err(Refusal::Ciphertext));
        let header = Header { kind: Kind::Envelope, key_type, key: KEY, version: 1 };
        let swapped = header.with(&swapped);
        let parts = Ciphertext::decode(&swapped).unwrap().envelope().unwrap();
        prop_assert!(one.open(parts).is_err() && two.open(parts).is_err());
        prop_assert_eq!(open(&first[..cut.index(first.len())]), Err(Refusal::Ciphertext));
        let mut changed = first.clone();
        changed[at.index(first.len())] ^= 1 << bit;
        prop_assert_eq!(open(&changed), Err(Refusal::Ciphertext));
    }
}
