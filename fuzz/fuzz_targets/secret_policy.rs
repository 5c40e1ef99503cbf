//! What a keyholder reads as a policy is the one text that means it, and deciding by it never panics.
#![no_main]

use bonafide_identity::SpiffeId;
use bonafide_policy::{Caller, CertifiedLabels, SecretPolicy, secret::Measured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(policy) = SecretPolicy::parse(data) else { return };
    assert_eq!(policy.as_bytes(), data);
    let Ok(id) = SpiffeId::parse("spiffe://a.example/ns/b/sa/c") else { return };
    let Ok(labels) = CertifiedLabels::new([("env", "prod")]) else { return };
    let caller = Caller::new(id, labels);
    for measured in [None, Some(&Measured::default())] {
        if let Err(denial) = policy.decide(&caller, measured) {
            let _ = denial.to_string();
            denial.near_misses.iter().for_each(|miss| drop(miss.to_string()));
        }
    }
});
