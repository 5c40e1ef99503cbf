//! A key is refused, ignored, or survives being written.
#![no_main]

use bonafide_crypto::jose::{Jwk, parse_object};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(members) = parse_object(data) else { return };
    if let Ok(Some(jwk)) = Jwk::from_value(&members.into()) {
        assert_eq!(Jwk::from_value(&jwk.to_value()), Ok(Some(jwk)));
    }
});
