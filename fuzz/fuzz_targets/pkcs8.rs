//! A private key is refused, or signs what its public half verifies.
#![no_main]

use bonafide_crypto::key::{PrivateKey, Signer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = PrivateKey::from_pkcs8_der(data) {
        if let Ok(signature) = key.sign(b"message") {
            assert!(key.public_key().verify(key.signature_algorithm(), b"message", &signature).is_ok());
        }
    }
});
