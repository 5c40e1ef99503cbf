//! A request is refused, or names an acceptable key and a bounded number of names.
#![no_main]

use bonafide_crypto::csr;
use bonafide_crypto::key::PublicKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = csr::parse_and_verify(data) {
        assert!(PublicKey::from_spki_der(request.public_key.spki_der()).is_ok());
        assert!(request.uri_sans.len() <= 64);
    }
});
