//! A context is refused, or has one form.
#![no_main]

use bonafide_kms::context::Context;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(context) = Context::from_canonical(data) {
        assert_eq!(context.canonical(), data);
    }
});
