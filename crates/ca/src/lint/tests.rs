use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, PublicKey, Signer};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::attributes::{Attribute, Attributes, Kind};
use bonafide_identity::time::UnixTime;
use bonafide_identity::{
    BundleMap, Certificate, DnsName, InstanceId, SpiffeId, TrustBundle, TrustDomain, x509,
};
use proptest::prelude::*;

use super::*;
use crate::template::{self, Extension, Issuer, Layout, NodeLeaf, WorkloadLeaf, lay_out};
use crate::{CertificateAuthority, IssueError, self_sign_root, sign_intermediate};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

struct House {
    trust_domain: TrustDomain,
    root_key: PrivateKey,
    root: Certificate,
    authority: CertificateAuthority,
}

fn serial() -> SerialNumber {
    SerialNumber::random(&SystemRandom)
}

fn build(name: &str, root: KeyAlgorithm, intermediate: KeyAlgorithm) -> House {
    let trust_domain: TrustDomain = name.parse().unwrap();
    let root_key = PrivateKey::generate(root).unwrap();
    let year = Validity::starting(NOW, HOUR * 24 * 365).unwrap();
    let root = self_sign_root(&trust_domain, &root_key, year, serial()).unwrap();
    let key = PrivateKey::generate(intermediate).unwrap();
    let day = Validity::starting(NOW, HOUR * 24).unwrap();
    let certificate =
        sign_intermediate(&trust_domain, &root, &root_key, key.public_key(), day, serial()).unwrap();
    let authority = CertificateAuthority::new(vec![certificate], Arc::new(key)).unwrap();
    House { trust_domain, root_key, root, authority }
}

fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(|| build("example.org", KeyAlgorithm::EcP256, KeyAlgorithm::EcP256))
}

fn leaf_key() -> PublicKey {
    static KEY: OnceLock<PublicKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(KeyAlgorithm::EcP256).unwrap().public_key().clone()).clone()
}

fn attributes() -> Attributes {
    Attributes {
        instance: Some(InstanceId::from_bytes([7; 16])),
        generation: 3,
        attributes: vec![Attribute::new(Kind::Label, "tier", "gold"), Attribute::site("berlin")],
    }
}

fn workload() -> WorkloadLeaf {
    WorkloadLeaf {
        id: "spiffe://example.org/ns/shop/sa/cart".parse().unwrap(),
        public_key: leaf_key(),
        dns_names: vec!["cart.shop.svc".parse().unwrap(), "cart".parse().unwrap()],
        attributes: attributes().encode().unwrap(),
        validity: Validity::starting(NOW, HOUR).unwrap(),
        serial: serial(),
    }
}

fn node(id: SpiffeId) -> NodeLeaf {
    let WorkloadLeaf { public_key, dns_names, attributes, validity, serial, .. } = workload();
    NodeLeaf { id, public_key, dns_names, attributes, validity, serial }
}

/// One certificate of each profile, and what issues it.
fn every_profile() -> Vec<(Tbs, Option<Certificate>)> {
    let house = house();
    let issuer = house.authority.certificate();
    let day = Validity::starting(NOW, HOUR * 24).unwrap();
    let agent =
        reserved::agent_id(&house.trust_domain, "berlin", &InstanceId::from_bytes([1; 16]).to_string());
    let server = reserved::authority_id(&house.trust_domain, "one");
    vec![
        (template::root(&house.trust_domain, &leaf_key(), day, serial()), None),
        (
            template::intermediate(&house.trust_domain, &leaf_key(), day, serial(), &house.root),
            Some(house.root.clone()),
        ),
        (template::workload(workload(), issuer).unwrap(), Some(issuer.clone())),
        (template::agent(node(agent.unwrap()), issuer).unwrap(), Some(issuer.clone())),
        (template::authority(node(server.unwrap()), issuer).unwrap(), Some(issuer.clone())),
    ]
}

fn lint_any(tbs: &Tbs, issuer: Option<&Certificate>) -> Result<LintedTbs, LintError> {
    match issuer {
        Some(issuer) => lint(tbs, issuer),
        None => lint_root(tbs),
    }
}

fn bundles(house: &House) -> BundleMap {
    let bundle = TrustBundle::new(house.trust_domain.clone()).with_x509_authority(house.root.clone());
    let mut bundles = BundleMap::default();
    bundles.insert(Arc::new(bundle));
    bundles
}

fn verified(house: &House, leaf: &[u8], now: UnixTime) -> Result<x509::VerifiedX509Svid, x509::X509Error> {
    let chain: Vec<&[u8]> = std::iter::once(leaf).chain(house.authority.chain_der()).collect();
    x509::verify(&chain, &bundles(house), now)
}

/// The leaf of a workload with a changed order and layout.
fn changed(
    order: impl FnOnce(&mut Order),
    layout: impl FnOnce(&mut Layout<'_>),
) -> Result<LintedTbs, LintError> {
    let issuer = house().authority.certificate();
    let mut tbs = template::workload(workload(), issuer).unwrap();
    order(&mut tbs.order);
    let of = Issuer {
        name: issuer.subject_der(),
        key: issuer.public_key(),
        key_id: issuer.subject_key_id().unwrap(),
    };
    let mut fields = lay_out(&tbs.order, &of);
    layout(&mut fields);
    let der = fields.encode();
    tbs.der = der;
    lint(&tbs, issuer)
}

fn extension<'a, 'b>(layout: &'a mut Layout<'b>, oid: &[u8]) -> &'a mut Extension<'b> {
    layout.extensions.iter_mut().find(|extension| extension.oid == oid).unwrap()
}

#[test]
fn every_profile_is_accepted_as_it_is_laid_out() {
    for (tbs, issuer) in every_profile() {
        let linted = lint_any(&tbs, issuer.as_ref()).unwrap();
        assert_eq!((linted.der(), linted.serial()), (tbs.der(), tbs.serial()));
    }
}

#[test]
fn every_key_signs_what_verifies() {
    use KeyAlgorithm::{EcP256, EcP384, EcP521, Ed25519, Rsa2048};
    for (root, intermediate) in [(EcP384, EcP256), (EcP521, EcP384), (Ed25519, Ed25519), (Rsa2048, Rsa2048)] {
        let house = build("example.org", root, intermediate);
        for leaf in [EcP256, EcP384, EcP521, Ed25519, Rsa2048] {
            let key = PrivateKey::generate(leaf).unwrap();
            let leaf = WorkloadLeaf { public_key: key.public_key().clone(), ..workload() };
            let issuer = house.authority.certificate();
            let der =
                house.authority.issue(lint(&template::workload(leaf, issuer).unwrap(), issuer).unwrap());
            let svid = verified(&house, &der.unwrap(), NOW).unwrap();
            assert_eq!(svid.leaf().public_key(), key.public_key());
        }
    }
}

#[test]
fn a_changed_field_is_refused() {
    type Change = fn(&mut Layout<'_>);
    use template::oid;
    let changes: [(Change, LintError); 34] = [
        (|tbs| tbs.version = 1, LintError::Structure),
        (|tbs| tbs.version = 3, LintError::Structure),
        (|tbs| tbs.serial = vec![0].into(), LintError::Serial),
        (|tbs| tbs.serial = vec![0x80; 16].into(), LintError::Serial),
        (|tbs| tbs.serial = vec![1; 21].into(), LintError::Serial),
        (|tbs| tbs.serial.to_mut().insert(0, 0), LintError::Serial),
        (
            |tbs| tbs.algorithm = SignatureAlgorithm::EcdsaP384Sha384.algorithm_identifier_der(),
            LintError::SignatureAlgorithm,
        ),
        // SHA-1 with ECDSA.
        (
            |tbs| tbs.algorithm = b"\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01",
            LintError::SignatureAlgorithm,
        ),
        (|tbs| tbs.issuer = vec![0x30, 0].into(), LintError::IssuerName),
        (|tbs| tbs.issuer = house().root.subject_der().to_vec().into(), LintError::IssuerName),
        (|tbs| tbs.not_before = tbs.not_before.saturating_sub(HOUR), LintError::Validity),
        (|tbs| tbs.not_after = tbs.not_after.saturating_add(HOUR), LintError::Validity),
        (|tbs| std::mem::swap(&mut tbs.not_before, &mut tbs.not_after), LintError::Validity),
        (|tbs| tbs.subject = tbs.issuer.to_vec(), LintError::Subject),
        (|tbs| tbs.public_key = house().root.public_key().clone(), LintError::Key),
        (
            |tbs| extension(tbs, oid::BASIC_CONSTRAINTS).critical = false,
            LintError::Extension("basicConstraints"),
        ),
        (
            |tbs| extension(tbs, oid::BASIC_CONSTRAINTS).value = b"\x30\x03\x01\x01\xff".into(),
            LintError::Extension("basicConstraints"),
        ),
        // FALSE written out is no DER.
        (
            |tbs| extension(tbs, oid::BASIC_CONSTRAINTS).value = b"\x30\x03\x01\x01\x00".into(),
            LintError::Extension("basicConstraints"),
        ),
        (|tbs| extension(tbs, oid::KEY_USAGE).critical = false, LintError::Extension("keyUsage")),
        // keyCertSign and cRLSign beside digitalSignature.
        (
            |tbs| extension(tbs, oid::KEY_USAGE).value = b"\x03\x02\x02\x84".into(),
            LintError::Extension("keyUsage"),
        ),
        (
            |tbs| extension(tbs, oid::KEY_USAGE).value = b"\x03\x02\x01\x82".into(),
            LintError::Extension("keyUsage"),
        ),
        (|tbs| extension(tbs, oid::EXTENDED_KEY_USAGE).critical = true, LintError::Extension("extKeyUsage")),
        (
            |tbs| {
                extension(tbs, oid::EXTENDED_KEY_USAGE).value =
                    b"\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01".into();
            },
            LintError::Extension("extKeyUsage"),
        ),
        (
            |tbs| extension(tbs, oid::SUBJECT_KEY_ID).value.to_mut()[3] ^= 1,
            LintError::Extension("subjectKeyIdentifier"),
        ),
        (
            |tbs| extension(tbs, oid::AUTHORITY_KEY_ID).value.to_mut()[5] ^= 1,
            LintError::Extension("authorityKeyIdentifier"),
        ),
        (
            |tbs| extension(tbs, oid::AUTHORITY_KEY_ID).critical = true,
            LintError::Extension("authorityKeyIdentifier"),
        ),
        (
            |tbs| extension(tbs, oid::SUBJECT_ALT_NAME).critical = false,
            LintError::Extension("subjectAltName"),
        ),
        // A second URI, another one, none, a wildcard, an e-mail address.
        (
            |tbs| names(tbs, &[(6, "spiffe://example.org/ns/shop/sa/cart"), (6, "spiffe://example.org/b")]),
            LintError::Names,
        ),
        (|tbs| names(tbs, &[(6, "spiffe://example.org/ns/shop/sa/admin")]), LintError::Names),
        (|tbs| names(tbs, &[(2, "cart.shop.svc"), (2, "cart")]), LintError::Names),
        (
            |tbs| names(tbs, &[(6, "spiffe://example.org/ns/shop/sa/cart"), (2, "*.shop.svc"), (2, "cart")]),
            LintError::Names,
        ),
        (
            |tbs| {
                names(
                    tbs,
                    &[
                        (6, "spiffe://example.org/ns/shop/sa/cart"),
                        (2, "cart.shop.svc"),
                        (2, "cart"),
                        (1, "a@b"),
                    ],
                )
            },
            LintError::Names,
        ),
        (
            |tbs| extension(tbs, bonafide_identity::attributes::OID.as_bytes()).critical = true,
            LintError::Attributes,
        ),
        // Name constraints, whatever is in them.
        (
            |tbs| {
                tbs.extensions.push(Extension {
                    oid: b"\x55\x1d\x1e",
                    critical: true,
                    value: vec![0x30, 0].into(),
                });
            },
            LintError::Extension("unknown"),
        ),
    ];
    assert!(changed(|_| (), |_| ()).is_ok());
    for (index, (change, error)) in changes.into_iter().enumerate() {
        assert_eq!(changed(|_| (), change).err(), Some(error), "change {index}");
    }
    for index in 0..7 {
        let error = changed(|_| (), |tbs| drop(tbs.extensions.remove(index)));
        assert!(error.is_err(), "without extension {index}");
        let error = changed(|_| (), |tbs| tbs.extensions.push(tbs.extensions[index].clone()));
        assert!(error.is_err(), "extension {index} twice");
    }
}

fn names(tbs: &mut Layout<'_>, list: &[(u8, &str)]) {
    let mut out = bonafide_crypto::asn1::Writer::default();
    out.nested(0x30, |out| {
        list.iter().for_each(|(tag, name)| out.primitive(0x80 | tag, name.as_bytes()));
    });
    extension(tbs, template::oid::SUBJECT_ALT_NAME).value = out.finish().into();
}

/// Here bytes and order agree, so only what no order may ask for stands between it and the key.
#[test]
fn an_order_out_of_bounds_is_refused() {
    type Change = fn(&mut Order);
    let changes: [(Change, LintError); 9] = [
        (|order| order.id = "spiffe://other.org/a".parse().unwrap(), LintError::TrustDomain),
        (|order| order.id = "spiffe://example.org".parse().unwrap(), LintError::Identity),
        (
            |order| order.id = "spiffe://example.org/bonafide/authority/one".parse().unwrap(),
            LintError::Identity,
        ),
        (|order| order.id = "spiffe://example.org/Bonafide/x".parse().unwrap(), LintError::Identity),
        (|order| order.profile = Profile::Agent, LintError::Identity),
        (|order| order.attributes = None, LintError::Attributes),
        (|order| order.public_key = house().authority.certificate().public_key().clone(), LintError::Key),
        (|order| order.validity = Validity::starting(NOW, HOUR * 25).unwrap(), LintError::OutlivesIssuer),
        (
            |order| order.validity = Validity::new(NOW.saturating_sub(HOUR), NOW).unwrap(),
            LintError::OutlivesIssuer,
        ),
    ];
    for (index, (change, error)) in changes.into_iter().enumerate() {
        assert_eq!(changed(change, |_| ()).err(), Some(error), "change {index}");
    }
}

#[test]
fn each_authority_signs_its_own_kind_only() {
    let house = house();
    let leaf = template::workload(workload(), &house.root).unwrap();
    assert_eq!(lint(&leaf, &house.root).err(), Some(LintError::Issuer));
    let day = Validity::starting(NOW, HOUR).unwrap();
    let issuer = house.authority.certificate();
    let below = template::intermediate(&house.trust_domain, &leaf_key(), day, serial(), issuer);
    assert_eq!(lint(&below, issuer).err(), Some(LintError::Issuer));
    let root = template::root(&house.trust_domain, &leaf_key(), day, serial());
    assert_eq!(lint(&root, &house.root).err(), Some(LintError::Issuer));
    assert_eq!(lint_root(&below).err(), Some(LintError::Issuer));

    let other = build("example.org", KeyAlgorithm::EcP256, KeyAlgorithm::EcP256);
    let tbs = template::workload(workload(), issuer).unwrap();
    assert_eq!(lint(&tbs, other.authority.certificate()).err(), Some(LintError::IssuerName));
    let linted = lint(&tbs, issuer).unwrap();
    assert!(matches!(other.authority.issue(linted), Err(IssueError::WrongIssuer)));
    let stolen =
        sign_intermediate(&house.trust_domain, &house.root, &other.root_key, &leaf_key(), day, serial());
    assert!(matches!(stolen, Err(IssueError::WrongIssuer)));
}

#[test]
fn a_chain_must_hold_together() {
    let house = house();
    let key =
        || Arc::new(PrivateKey::from_pkcs8_der(&house.root_key.to_pkcs8_der()).unwrap()) as Arc<dyn Signer>;
    let intermediate = house.authority.certificate().clone();
    assert!(CertificateAuthority::new(vec![], key()).is_err());
    assert!(CertificateAuthority::new(vec![intermediate], key()).is_err());
    assert!(CertificateAuthority::new(vec![house.root.clone()], key()).is_ok());
    let other = build("example.org", KeyAlgorithm::EcP256, KeyAlgorithm::EcP256).root;
    assert!(CertificateAuthority::new(vec![house.root.clone(), other], key()).is_err());
}

#[test]
fn names_of_authorities_are_their_own() {
    let (one, two) = (house(), build("example.org", KeyAlgorithm::EcP256, KeyAlgorithm::EcP256));
    let subjects = [&one.root, &two.root, one.authority.certificate(), two.authority.certificate()]
        .map(Certificate::subject_der);
    for (index, subject) in subjects.iter().enumerate() {
        assert!(!subjects[index + 1..].contains(subject));
    }
}

#[test]
fn times_beyond_2049_are_written_in_full() {
    let key = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
    for (from, to) in [(2049, 2050), (2050, 2051), (1999, 2000)] {
        let start = UnixTime::from_civil(from, 12, 31, 23, 59, 59).unwrap();
        let end = UnixTime::from_civil(to, 2, 28, 0, 0, 0).unwrap();
        let validity = Validity::new(start, end).unwrap();
        let root = self_sign_root(&"example.org".parse().unwrap(), &key, validity, serial()).unwrap();
        assert_eq!((root.not_before(), root.not_after()), (start, end));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_changed_byte_is_refused(profile in 0usize..5, at in any::<prop::sample::Index>(), flip in 1u8..) {
        static ALL: OnceLock<Vec<(Tbs, Option<Certificate>)>> = OnceLock::new();
        let (tbs, issuer) = &ALL.get_or_init(every_profile)[profile];
        let mut tbs = tbs.clone();
        let at = at.index(tbs.der.len());
        tbs.der[at] ^= flip;
        prop_assert!(lint_any(&tbs, issuer.as_ref()).is_err(), "byte {}", at);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_linted_verifies(
        path in prop::collection::vec("[a-zA-Z0-9_.-]{1,20}", 1..6),
        dns_names in prop::collection::vec("[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\\.[a-z]{1,8}){0,3}", 0..5),
        labels in prop::collection::btree_map("[a-z.]{1,10}", prop::collection::vec(any::<u8>(), 0..40), 0..6),
        instance in any::<Option<[u8; 16]>>(),
        generation in any::<u64>(),
        seconds in 1u64..90_000,
    ) {
        let house = house();
        let issuer = house.authority.certificate();
        let Ok(id) = SpiffeId::new(&house.trust_domain, &format!("/{}", path.join("/"))) else {
            return Ok(());
        };
        prop_assume!(!reserved::is_reserved(&id));
        let Ok(dns_names) = dns_names.iter().map(|name| name.parse()).collect::<Result<Vec<DnsName>, _>>() else {
            return Ok(());
        };
        let attributes = Attributes {
            instance: instance.map(InstanceId::from_bytes),
            generation,
            attributes: labels.into_iter().map(|(key, value)| Attribute::new(Kind::Label, key, value)).collect(),
        };
        let validity = Validity::starting(NOW, Duration::from_secs(seconds)).unwrap().within(issuer).unwrap();
        let leaf = WorkloadLeaf {
            id: id.clone(),
            dns_names: dns_names.clone(),
            attributes: attributes.encode().unwrap(),
            validity,
            ..workload()
        };
        let serial = leaf.serial;
        let der = house.authority.issue(lint(&template::workload(leaf, issuer).unwrap(), issuer).unwrap()).unwrap();
        let svid = verified(house, &der, NOW).unwrap();
        prop_assert_eq!(svid.id(), &id);
        prop_assert_eq!(svid.attributes(), Some(&attributes));
        prop_assert_eq!(svid.leaf().serial(), serial.as_bytes());
        let found: Vec<&str> = svid.leaf().dns_names().iter().map(|name| &**name).collect();
        prop_assert_eq!(found, dns_names.iter().map(DnsName::as_str).collect::<Vec<_>>());
        for (moment, valid) in [
            (validity.not_before(), true),
            (validity.not_after(), true),
            (validity.not_before().saturating_sub(Duration::from_secs(1)), false),
            (validity.not_after().saturating_add(Duration::from_secs(1)), false),
        ] {
            prop_assert_eq!(verified(house, &der, moment).is_ok(), valid);
        }
    }
}
