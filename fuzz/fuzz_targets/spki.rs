//! A public key is refused, or is its own canonical encoding and verifies nothing random.
#![no_main]

use bonafide_crypto::key::{PublicKey, SignatureAlgorithm};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = PublicKey::from_spki_der(data) {
        assert_eq!(key.spki_der(), data);
        for algorithm in SignatureAlgorithm::ALL {
            let _ = key.verify(algorithm, b"message", &data[..data.len().min(64)]);
        }
    }
});
