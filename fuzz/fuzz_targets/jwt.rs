//! A token is refused, and a payload that its own trust domain signed is refused or keeps every rule.
#![no_main]

use std::sync::OnceLock;

use bonafide_crypto::jose::{JwsAlgorithm, sign_compact};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_identity::{BundleMap, TrustBundle, TrustDomain, UnixTime, jwt};
use libfuzzer_sys::fuzz_target;

fn world() -> (PrivateKey, BundleMap) {
    let key = PrivateKey::generate(KeyAlgorithm::EcP256).expect("a key can be drawn");
    let bundle = TrustBundle::new(TrustDomain::parse("td").expect("a trust domain"));
    let bundle = bundle.with_jwt_authority("k", key.public_key().clone());
    (key, bundle.into())
}

fuzz_target!(|data: &[u8]| {
    static WORLD: OnceLock<(PrivateKey, BundleMap)> = OnceLock::new();
    let (key, bundles) = WORLD.get_or_init(world);
    let now = UnixTime::from_secs(1_767_225_600);
    if let Ok(token) = str::from_utf8(data) {
        assert!(jwt::verify(token, bundles, "a", now).is_err());
    }
    let token = sign_compact(key, JwsAlgorithm::Es256, "k", data).expect("a key in memory signs");
    let Ok(svid) = jwt::verify(&token, bundles, "a", now) else { return };
    assert_eq!(svid.id().trust_domain().as_str(), "td");
    assert!(!svid.id().is_trust_domain());
    assert!(svid.expires_at() > now);
    assert!(svid.audience().iter().any(|audience| audience == "a"));
});
