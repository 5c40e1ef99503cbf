//! Attributes have one encoding.
#![no_main]

use bonafide_identity::attributes::Attributes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(attributes) = Attributes::from_der(data) {
        assert_eq!(attributes.to_der().as_deref(), Ok(data));
        assert!(attributes.attributes.len() <= 64);
    }
});
