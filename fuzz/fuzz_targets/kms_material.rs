//! Encoded material, and a result of the engine, are refused or read.
#![no_main]

use bonafide_kms::engine::decode_outcomes;
use bonafide_kms::error::Refusal;
use bonafide_kms::material::{Material, PublicHalf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // There is no device.
    if let Ok(material) = Material::decode(data, |_| Err(Refusal::External))
        && let Some(spki) = material.public_spki()
    {
        assert!(PublicHalf::from_spki(material.key_type(), &spki).is_ok());
    }
    if let Some((count, rest)) = data.split_first() {
        let _ = decode_outcomes(rest, usize::from(*count));
    }
});
