use std::sync::Arc;

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_identity::x509::{X509Svid, X509SvidError};
use bonafide_identity::{BundleMap, Certificate, TrustBundle, TrustDomain};

use super::{ID, KEYS, World, verify};
use crate::forge::*;

pub(crate) fn bundle(trust_domain: &str, roots: &[Vec<u8>]) -> BundleMap {
    let empty = TrustBundle::new(TrustDomain::parse(trust_domain).unwrap());
    let add = |bundle: TrustBundle, root: &Vec<u8>| {
        bundle.with_x509_authority(Certificate::from_der(root).unwrap())
    };
    roots.iter().fold(empty, add).into()
}

/// A root, `depth` intermediates and a leaf; the root last.
fn tower(depth: usize) -> Vec<Vec<u8>> {
    let mut keys: Vec<PrivateKey> = (0..=depth).map(|_| key(KeyAlgorithm::EcP256)).collect();
    keys.push(key(KeyAlgorithm::EcP256));
    let mut chain = Vec::new();
    for level in 0..=depth {
        let above = level.saturating_sub(1);
        let authority = Forge::authority(
            &format!("ca {above}"),
            &format!("ca {level}"),
            "spiffe://example.org",
            keys[level].public_key(),
            keys[above].public_key(),
        );
        chain.push(authority.sign(&keys[above]));
    }
    let leaf =
        Forge::leaf(&format!("ca {depth}"), ID, keys[depth + 1].public_key(), keys[depth].public_key());
    chain.push(leaf.sign(&keys[depth]));
    chain.reverse();
    chain
}

fn code(chain: &[Vec<u8>], bundles: &BundleMap) -> &'static str {
    verify(chain, bundles, NOW).map_or_else(|error| error.code(), |_| "ok")
}

#[test]
fn lengths() {
    for (depth, expected) in [(0, "ok"), (1, "ok"), (5, "ok"), (6, "ok"), (7, "x509.too-complex")] {
        let mut chain = tower(depth);
        let root = chain.pop().unwrap();
        assert_eq!(code(&chain, &bundle("example.org", &[root])), expected, "{depth} intermediates");
    }
    let mut chain = tower(8);
    let root = chain.pop().unwrap();
    assert_eq!(code(&chain, &bundle("example.org", &[root])), "x509.chain-too-long");
    assert_eq!(code(&[], &BundleMap::new()), "x509.empty");
}

#[test]
fn orders() {
    let world = World::new();
    let bundles = (world.bundles)(&world);
    let [leaf, intermediate] = <[Vec<u8>; 2]>::try_from(world.chain()).unwrap();
    let root = world.root_der();
    let stranger = tower(1);
    let (leaf, intermediate) = (&leaf, &intermediate);
    let cases: &[(&str, &str, &[&Vec<u8>])] = &[
        ("with the root", "ok", &[leaf, intermediate, &root]),
        ("root before intermediate", "ok", &[leaf, &root, intermediate]),
        ("intermediate twice", "ok", &[leaf, intermediate, intermediate]),
        ("strangers in between", "ok", &[leaf, &stranger[1], intermediate, &stranger[2]]),
        ("another leaf behind", "ok", &[leaf, intermediate, leaf]),
        ("intermediate missing", "x509.unknown-authority", &[leaf]),
        ("intermediate first", "x509.leaf-is-authority", &[intermediate, leaf]),
        ("strangers instead", "x509.unknown-authority", &[leaf, &stranger[1], &stranger[2]]),
        ("a stranger's leaf", "x509.unknown-authority", &[&stranger[0], &stranger[1], intermediate]),
    ];
    for (what, expected, chain) in cases {
        let chain: Vec<Vec<u8>> = chain.iter().map(|der| (*der).clone()).collect();
        assert_eq!(code(&chain, &bundles), *expected, "{what}");
    }
}

#[test]
fn namesakes_cannot_offer_a_hundred_paths() {
    let world = World::new();
    let bundles = (world.bundles)(&world);
    let good = world.chain();
    let namesake = |serial: u8| {
        let mut forge = world.intermediate.clone();
        forge.serial = vec![2, 1, serial];
        forge.sign(&KEYS.other)
    };
    // A key change leaves two, and the same one twice is one.
    let [first, second] = [namesake(1), namesake(2)];
    assert_eq!(code(&[good[0].clone(), first.clone(), first.clone(), good[1].clone()], &bundles), "ok");
    assert_eq!(code(&[good[0].clone(), good[1].clone(), first, second], &bundles), "x509.too-complex");
}

#[test]
fn roots_of_one_name_are_told_apart() {
    let world = World::new();
    let mut others: Vec<Vec<u8>> = Vec::new();
    for _ in 0..200 {
        let other = key(KeyAlgorithm::EcP256);
        let forge =
            Forge::authority("root", "root", "spiffe://example.org", other.public_key(), other.public_key());
        others.push(forge.sign(&other));
    }
    assert_eq!(code(&world.chain(), &bundle("example.org", &others)), "x509.unknown-authority");
    others.push(world.root_der());
    assert_eq!(code(&world.chain(), &bundle("example.org", &others)), "ok");
    // The same key again, expired: the path takes the one that is valid.
    let mut expired = world.root.clone();
    expired.not_after = utc("251231235959Z");
    others.insert(0, expired.sign(&KEYS.root));
    assert_eq!(code(&world.chain(), &bundle("example.org", &others)), "ok");
}

#[test]
fn a_root_that_was_certified_again_and_again_is_one_anchor() {
    let world = World::new();
    let roots: Vec<Vec<u8>> = (1..=60)
        .map(|serial| {
            let mut again = world.root.clone();
            again.serial = vec![2, 1, serial];
            again.sign(&KEYS.root)
        })
        .collect();
    let bundles = bundle("example.org", &roots);
    assert_eq!(code(&world.chain(), &bundles), "ok");
    // A bad signature at the very end of a long path would be found again under each of them.
    let mut chain = tower(6);
    let root = chain.pop().unwrap();
    let verified = verify(&chain, &bundle("example.org", &[root]), NOW).unwrap();
    assert_eq!(verified.authorities().len(), 7);
    assert_eq!(verified.authorities()[0].der(), chain[1]);
    let mut forged = world.chain();
    forged[0] = world.leaf.sign(&KEYS.other);
    assert_eq!(code(&forged, &bundles), "x509.signature");
}

#[test]
fn an_authority_of_one_trust_domain_cannot_speak_for_another() {
    // Both bundles are known; example.com's authority, without an ID of its own, signs for example.org.
    let mut world = World::new();
    world.root.remove(ALTERNATIVE_NAME);
    world.intermediate.remove(ALTERNATIVE_NAME);
    let own = key(KeyAlgorithm::EcP256);
    let own =
        Forge::authority("own", "own", "spiffe://example.org", own.public_key(), own.public_key()).sign(&own);
    let mut bundles = world.bundle_of("example.com").into();
    let extend = |bundles: &mut BundleMap| {
        bundles.insert(bundle("example.org", &[own]).iter().next().unwrap().1.clone())
    };
    extend(&mut bundles);
    assert_eq!(code(&world.chain(), &bundles), "x509.unknown-authority");
}

#[test]
fn a_leaf_signs_nothing() {
    let world = World::new();
    let mut forged =
        Forge::leaf("web", "spiffe://example.org/admin", KEYS.other.public_key(), KEYS.leaf.public_key());
    forged.issuer = world.leaf.subject.clone();
    let mut signer = world.leaf.clone();
    signer.subject = name("web");
    signer.set(SUBJECT_KEY_ID, false, element(4, &KEYS.leaf.public_key().key_id()));
    forged.issuer = name("web");
    let chain =
        vec![forged.sign(&KEYS.leaf), signer.sign(&KEYS.intermediate), world.intermediate.sign(&KEYS.root)];
    assert_eq!(code(&chain, &(world.bundles)(&world)), "x509.not-an-authority");
}

#[test]
fn a_leaf_in_the_bundle_is_no_root() {
    let mut forge = Forge::leaf("web", ID, KEYS.leaf.public_key(), KEYS.leaf.public_key());
    forge.subject = name("web");
    forge.set(SUBJECT_KEY_ID, false, element(4, &KEYS.leaf.public_key().key_id()));
    let der = forge.sign(&KEYS.leaf);
    assert_eq!(
        code(std::slice::from_ref(&der), &bundle("example.org", std::slice::from_ref(&der))),
        "x509.not-an-authority"
    );
}

#[test]
fn chains_of_a_foreign_library() {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://example.org".try_into().unwrap())];
    let root = rcgen::CertifiedIssuer::self_signed(params, root_key).unwrap();

    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![rcgen::SanType::URI(ID.try_into().unwrap())];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&rcgen::KeyPair::generate().unwrap(), &root).unwrap();

    let bundles = bundle("example.org", &[root.der().to_vec()]);
    assert_eq!(code(&[leaf.der().to_vec()], &bundles), "ok");
}

#[test]
fn own_svids() {
    let world = World::new();
    let chain: Vec<_> = world.chain().iter().map(|der| Certificate::from_der(der).unwrap()).collect();
    let secret = || PrivateKey::from_pkcs8_der(&KEYS.leaf.to_pkcs8_der()).unwrap();
    let svid = X509Svid::new(chain.clone(), secret(), Some("internal".to_owned())).unwrap();
    assert_eq!((svid.id().as_str(), svid.hint()), (ID, Some("internal")));
    assert!(!format!("{svid:?}").contains("key"));

    let wrong = Arc::new(PrivateKey::from_pkcs8_der(&KEYS.other.to_pkcs8_der()).unwrap());
    assert_eq!(X509Svid::new(chain.clone(), wrong, None).unwrap_err(), X509SvidError::Key);
    assert_eq!(X509Svid::new(vec![], secret(), None).unwrap_err(), X509SvidError::ChainLength);
    let reversed = chain.iter().rev().cloned().collect();
    assert_eq!(X509Svid::new(reversed, secret(), None).unwrap_err().code(), "x509.leaf-is-authority");
    let hint = Some("x".repeat(1025));
    assert_eq!(X509Svid::new(chain, secret(), hint).unwrap_err(), X509SvidError::Hint);
}
