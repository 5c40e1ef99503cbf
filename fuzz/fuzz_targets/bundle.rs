//! A bundle is refused, or survives being written.
#![no_main]

use bonafide_identity::{BundleMap, TrustBundle, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let trust_domain = TrustDomain::parse("td").expect("a trust domain");
    if let Ok(bundle) = TrustBundle::parse(&trust_domain, data) {
        assert_eq!(TrustBundle::parse(&trust_domain, &bundle.to_json()).as_ref(), Ok(&bundle));
        let jwt =
            TrustBundle::parse(&trust_domain, &bundle.to_jwt_json()).expect("the JWT keys are a bundle");
        assert_eq!(jwt.jwt_authorities(), bundle.jwt_authorities());
    }
    if let Ok(map) = BundleMap::parse(data) {
        assert_eq!(BundleMap::parse(&map.to_json()).as_ref(), Ok(&map));
    }
});
