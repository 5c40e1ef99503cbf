//! Attributes have one encoding, and the check that keeps nothing is the same check.
#![no_main]

use bonafide_identity::attributes::{Attributes, check_der};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let read = Attributes::from_der(data);
    assert_eq!(read.as_ref().map(|_| ()), check_der(data).as_ref().map(|()| ()));
    if let Ok(attributes) = read {
        assert_eq!(attributes.encode().map(|encoded| encoded.der().to_vec()).as_deref(), Ok(data));
        assert!(attributes.attributes.len() <= 64);
    }
});
