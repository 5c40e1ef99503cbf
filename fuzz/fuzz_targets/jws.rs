//! A token is refused, or has the three members of a header that are allowed. Nothing verifies: no key is known.
#![no_main]

use std::sync::OnceLock;

use bonafide_crypto::jose::{CompactJws, Limits};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|token: &str| {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    let key = KEY.get_or_init(|| PrivateKey::generate(KeyAlgorithm::EcP256).expect("a key can be drawn"));
    if let Ok(jws) = CompactJws::parse(token, Limits::default()) {
        assert!(jws.verify(key.public_key()).is_err());
        assert!(jws.header().kid.as_ref().is_none_or(|kid| !kid.is_empty() && kid.len() <= 256));
    }
});
