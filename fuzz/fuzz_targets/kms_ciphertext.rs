//! What names a key and a version is refused, or has one form.
#![no_main]

use bonafide_kms::ciphertext::{Ciphertext, from_text, to_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(read) = Ciphertext::decode(data) {
        assert_eq!(read.header.with(read.body), data);
        let _ = (read.envelope(), read.signature());
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok((version, body)) = from_text(text)
    {
        assert_eq!(to_text(version, &body), text);
    }
});
