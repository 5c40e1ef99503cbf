//! A certificate is refused, or everything that it says stands in its bytes.
#![no_main]

use bonafide_identity::Certificate;
use bonafide_identity::x509::profile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(certificate) = Certificate::from_der(data) else { return };
    assert_eq!(certificate.der(), data);
    assert!((1..=20).contains(&certificate.serial().len()) && certificate.serial()[0] != 0);
    assert!(certificate.not_before() <= certificate.not_after());
    let parts = [certificate.issuer_der(), certificate.subject_der(), certificate.public_key().spki_der()];
    assert!(parts.iter().all(|part| data.windows(part.len()).any(|window| window == *part)));
    if let Some(id) = certificate.spiffe_id() {
        assert_eq!(certificate.uri_sans().len(), 1);
        assert_eq!(&*certificate.uri_sans()[0], id.as_str());
    }
    // Nothing is both.
    let (leaf, authority) = (profile::check_leaf(&certificate), profile::check_ca(&certificate));
    assert!(leaf.is_err() || authority.is_err());
});
