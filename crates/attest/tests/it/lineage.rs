//! Two renewals never share a transcript.

use bonafide_attest::lineage::transcript;
use bonafide_identity::{InstanceId, TrustDomain};

#[test]
fn every_part_counts_and_none_runs_into_the_next() {
    let domain: TrustDomain = "example.org".parse().unwrap();
    let other: TrustDomain = "example.com".parse().unwrap();
    let instance = InstanceId::from_bytes([1; 16]);
    let base = transcript(&domain, instance, 7, &[2; 16], b"old", b"new");
    let others = [
        transcript(&other, instance, 7, &[2; 16], b"old", b"new"),
        transcript(&domain, InstanceId::from_bytes([9; 16]), 7, &[2; 16], b"old", b"new"),
        transcript(&domain, instance, 8, &[2; 16], b"old", b"new"),
        transcript(&domain, instance, 7, &[3; 16], b"old", b"new"),
        transcript(&domain, instance, 7, &[2; 16], b"oldn", b"ew"),
        transcript(&domain, instance, 7, &[2; 16], b"ol", b"dnew"),
        transcript(&domain, instance, 7, &[2; 16], b"new", b"old"),
    ];
    for (index, other) in others.iter().enumerate() {
        assert_ne!(&base, other, "{index}");
    }
    assert!(base.starts_with(b"bonafide lineage v1\0"));
    assert_eq!(base, transcript(&domain, instance, 7, &[2; 16], b"old", b"new"));
}
