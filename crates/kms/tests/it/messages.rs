//! The engine's requests and results as bytes: what its process reads from one that may be an attacker's.

use bonafide_crypto::oaep::OaepHash;
use bonafide_kms::algorithm::{KeyType, Scheme};
use bonafide_kms::ciphertext::Kind;
use bonafide_kms::engine::{
    Answer, MAX_ANSWER, MAX_ITEMS, MAX_REQUEST, Request, decode_outcomes, decode_requests, encode_requests,
};
use bonafide_kms::material::Flags;
use proptest::prelude::*;

use super::*;

fn batches() -> impl Strategy<Value = Vec<u8>> {
    let one = (
        0..16_u8,
        any::<u32>(),
        any::<[u8; 16]>(),
        any::<[u8; 32]>(),
        prop::collection::vec(any::<u8>(), 0..60),
    );
    prop::collection::vec(one, 0..8).prop_map(|items| {
        let requests: Vec<Request<'_>> = items
            .iter()
            .map(|(which, number, key, context, blob)| {
                let (handle, version, bit) = (*number, *number | 1, number % 2 == 0);
                let key = KeyId::from_bytes(*key);
                let key_type = KeyType::ALL[*number as usize % 15];
                let flags = Flags { exportable: bit, convergent: number % 3 == 0, external: number % 5 == 0 };
                let context = ContextDigest::from_bytes(*context);
                let kind = [Kind::Direct, Kind::Envelope, Kind::DataKey][*number as usize % 3];
                let scheme = Scheme::ALL[*number as usize % 11];
                let hash = OaepHash::ALL[*number as usize % 4];
                match which {
                    0 => Request::Generate { key, version, key_type, flags },
                    1 => Request::Import { key, version, key_type, flags, secret: blob },
                    2 => Request::ImportSealed {
                        key,
                        version,
                        key_type,
                        flags,
                        under: handle,
                        hash,
                        sealed: blob,
                    },
                    3 => Request::Open { key, version, wrapped: blob },
                    4 => Request::WrapAgain { key, version, wrapped: blob },
                    5 => Request::Forget { handle },
                    6 => Request::Encrypt { handle, context, plaintext: blob },
                    7 => Request::Decrypt { handle, context, kind, body: blob },
                    8 => Request::OpenForeign { handle, hash, label: blob, ciphertext: blob },
                    9 => Request::Rewrap { handle, to: version, context, kind, body: blob },
                    10 => Request::Mac { handle, message: blob },
                    11 => Request::VerifyMac { handle, message: blob, tag: blob },
                    12 => Request::Sign { handle, scheme, prehashed: bit, message: blob },
                    13 => Request::Verify { handle, scheme, prehashed: bit, message: blob, signature: blob },
                    14 => Request::DataKey {
                        handle,
                        context,
                        length: [16, 32, 64][*number as usize % 3],
                        plaintext: bit,
                    },
                    15 => Request::Destroy { key, version, wrapped: blob },
                    _ => Request::Export { handle },
                }
            })
            .collect();
        encode_requests(&requests).unwrap().to_vec()
    })
}

proptest! {
    #[test]
    fn batches_have_one_form(bytes in batches(), cut in any::<prop::sample::Index>()) {
        let requests = decode_requests(&bytes).unwrap();
        prop_assert_eq!(&encode_requests(&requests).unwrap()[..], &bytes[..]);
        prop_assert!(decode_requests(&bytes[..cut.index(bytes.len())]).is_none());
        let longer = [bytes.as_slice(), b"\0"].concat();
        prop_assert!(decode_requests(&longer).is_none());
    }

    #[test]
    fn noise_is_none_or_reads_as_written(noise in prop::collection::vec(any::<u8>(), 0..200), count in 0..4_u8) {
        let bytes = [&[0, count], noise.as_slice()].concat();
        if let Some(requests) = decode_requests(&bytes) {
            prop_assert_eq!(&encode_requests(&requests).unwrap()[..], &bytes[..]);
        }
        let _ = decode_outcomes(&bytes, usize::from(count));
    }
}

#[test]
fn each_item_has_its_own_result() {
    let engine = engine();
    let (aes, wrapped) = generate(&engine, 1, KeyType::Aes256Gcm, Flags::default());
    let (mac, _) = generate(&engine, 1, KeyType::HmacSha256, Flags::default());
    let context = none();
    let requests = [
        Request::Encrypt { handle: aes, context, plaintext: b"one" },
        Request::Encrypt { handle: 999, context, plaintext: b"two" },
        Request::Encrypt { handle: mac, context, plaintext: b"three" },
        Request::Decrypt {
            handle: aes,
            context,
            kind: Kind::Direct,
            body: b"no ciphertext, but long enough for one",
        },
        Request::Mac { handle: mac, message: b"four" },
        Request::DataKey { handle: aes, context, length: 32, plaintext: true },
        Request::DataKey { handle: aes, context, length: 32, plaintext: false },
        Request::Open { key: KEY, version: 1, wrapped: &wrapped },
        Request::Forget { handle: mac },
    ];
    let batch = encode_requests(&requests).unwrap();
    let outcomes = decode_outcomes(&engine.answer(&Glass, &batch), requests.len()).unwrap();
    let [one, two, three, bad, tag, whole, only, opened, done] = outcomes.as_slice() else {
        panic!("{outcomes:?}")
    };
    let Ok(Answer::Bytes(one)) = one else { panic!("{one:?}") };
    let open = Request::Decrypt { handle: aes, context, kind: Kind::Direct, body: one };
    assert_eq!(bytes(engine.one(&Glass, &open).unwrap()), b"one");
    assert_eq!(two, &Err(Refusal::NoHandle));
    assert_eq!(three, &Err(Refusal::Unfit));
    assert_eq!(bad, &Err(Refusal::Ciphertext));
    assert!(matches!(tag, Ok(Answer::Bytes(tag)) if tag.len() == 32));
    assert!(matches!(whole, Ok(Answer::DataKey { plaintext: Some(key), .. }) if key.len() == 32));
    assert!(matches!(only, Ok(Answer::DataKey { plaintext: None, .. })));
    assert!(matches!(opened, Ok(Answer::Opened { wrapped, .. }) if wrapped.is_empty()));
    assert_eq!(done, &Ok(Answer::Done));
}

#[test]
fn batches_and_results_are_bounded() {
    let engine = engine();
    let forget = |count: usize| vec![Request::Forget { handle: 1 }; count];
    assert!(encode_requests(&forget(MAX_ITEMS)).is_ok());
    assert_eq!(encode_requests(&forget(MAX_ITEMS + 1)).map(drop), Err(Refusal::TooLong));
    let long = vec![0; MAX_REQUEST];
    assert!(encode_requests(&[Request::Mac { handle: 1, message: &long }]).is_err());
    // Results of which not all have room: the first are done, the others were not begun.
    let generate =
        Request::Generate { key: KEY, version: 1, key_type: KeyType::HmacSha256, flags: Flags::default() };
    let batch = encode_requests(&vec![generate; MAX_ITEMS]).unwrap();
    let answer = engine.answer(&Glass, &batch);
    assert!(answer.len() <= MAX_ANSWER + 1024);
    let outcomes = decode_outcomes(&answer, MAX_ITEMS).unwrap();
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(done > 100 && done < MAX_ITEMS, "{done}");
    assert!(outcomes[done..].iter().all(|outcome| outcome == &Err(Refusal::Answer)));
    assert_eq!(engine.open(), done);
    // What can't be read is refused whole.
    let answer = engine.answer(&Glass, b"nonsense");
    assert_eq!(decode_outcomes(&answer, 1), Ok(vec![Err(Refusal::Request)]));
    assert_eq!(decode_outcomes(&answer, 2), Err(Refusal::Request));
}
