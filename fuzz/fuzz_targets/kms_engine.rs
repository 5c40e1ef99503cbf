//! A batch for the process that holds the keys is refused, or has one form; each of its items gets a result, and no secret that
//! was not born exportable leaves.
#![no_main]

use std::sync::Arc;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::random::SystemRandom;
use bonafide_kms::algorithm::KeyType;
use bonafide_kms::ciphertext::KeyId;
use bonafide_kms::engine::{Engine, Request, Wrapping, decode_outcomes, decode_requests, encode_requests};
use bonafide_kms::material::Flags;
use libfuzzer_sys::fuzz_target;

/// Hides nothing, so that any material is reached.
struct Glass;

impl Wrapping for Glass {
    fn wrap(&self, _: &str, _: &[u8]) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn unwrap(&self, _: &str, wrapped: &[u8]) -> Option<Erased> {
        Some(Erased::new(wrapped.to_vec()))
    }
}

fuzz_target!(|data: &[u8]| {
    let engine = Engine::new(Arc::new(SystemRandom));
    let (key, version, flags) = (KeyId::from_bytes([7; 16]), 1, Flags::default());
    for key_type in [KeyType::Aes256Gcm, KeyType::HmacSha256, KeyType::EcdsaP256, KeyType::MlKem768] {
        assert!(engine.one(&Glass, &Request::Generate { key, version, key_type, flags }).is_ok());
    }
    if let Some(requests) = decode_requests(data) {
        // Drawing RSA keys takes seconds.
        if requests.iter().any(|request| matches!(request, Request::Generate { .. })) {
            return;
        }
        assert_eq!(encode_requests(&requests).map(|bytes| bytes.to_vec()), Ok(data.to_vec()));
        let answer = engine.answer(&Glass, data);
        assert!(decode_outcomes(&answer, requests.len()).is_ok());
        for handle in 1..=4 {
            assert!(engine.one(&Glass, &Request::Export { handle }).is_err());
        }
    }
});
