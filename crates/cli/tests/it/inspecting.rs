//! What `inspect` says about true, false and broken artefacts.

use std::{sync::Arc, time::Duration};

use bonafide_ca::{
    CertificateAuthority, SerialNumber, Validity, lint, self_sign_root, sign_intermediate, template,
};
use bonafide_cli::{
    Format, Moment, View as _,
    inspect::{Trust, inspect},
    pem, render,
    view::inspection::InspectionView,
};
use bonafide_crypto::{
    csr,
    key::{KeyAlgorithm, PrivateKey},
    random::SystemRandom,
};
use bonafide_identity::{
    Certificate, InstanceId, JwtClaims, TrustBundle, TrustDomain, UnixTime,
    attributes::{Attribute, Attributes, Kind},
    jwt,
};

const NOW: UnixTime = UnixTime::from_secs(1_767_323_045);
const HOUR: Duration = Duration::from_secs(3_600);

/// A trust domain with everything that can be inspected.
struct Fixture {
    root: Certificate,
    /// Leaf first.
    chain: Vec<Vec<u8>>,
    key: PrivateKey,
    token: String,
    bundle: Vec<u8>,
}

fn fixture(trust_domain: &str) -> Fixture {
    let trust_domain: TrustDomain = trust_domain.parse().unwrap();
    let new_key = || PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
    let serial = || SerialNumber::random(&SystemRandom);
    let validity = |hours: u32| Validity::starting(NOW, HOUR * hours).unwrap();
    let (root_key, intermediate_key, key) = (new_key(), Arc::new(new_key()), new_key());
    let root = self_sign_root(&trust_domain, &root_key, validity(100), serial()).unwrap();
    let intermediate = sign_intermediate(
        &trust_domain,
        &root,
        &root_key,
        intermediate_key.public_key(),
        validity(10),
        serial(),
    )
    .unwrap();
    let authority = CertificateAuthority::new(vec![intermediate.clone()], intermediate_key).unwrap();
    let leaf = template::WorkloadLeaf {
        id: format!("spiffe://{trust_domain}/web").parse().unwrap(),
        public_key: key.public_key().clone(),
        dns_names: vec!["web.example.org".parse().unwrap()],
        attributes: Attributes {
            instance: Some(InstanceId::from_bytes([7; 16])),
            generation: 3,
            attributes: vec![
                Attribute::new(Kind::Label, "tier", "front"),
                Attribute::new(Kind::Label, "blob", [0, 0xff]),
            ],
        }
        .encode()
        .unwrap(),
        validity: validity(1),
        serial: serial(),
    };
    let linted = lint::lint(&template::workload(leaf, &intermediate).unwrap(), &intermediate).unwrap();
    let chain = vec![authority.issue(linted).unwrap(), intermediate.der().to_vec()];
    let jwt_key = new_key();
    let claims = JwtClaims {
        id: format!("spiffe://{trust_domain}/web").parse().unwrap(),
        audience: vec!["db".into()],
        issued_at: NOW,
        expires_at: NOW.saturating_add(HOUR),
        instance: Some(InstanceId::from_bytes([7; 16])),
        jti: Some("1".into()),
    };
    let token = jwt::issue(&claims, &jwt_key, "k1").unwrap();
    let bundle = TrustBundle::new(trust_domain)
        .with_x509_authority(root.clone())
        .with_jwt_authority("k1", jwt_key.public_key().clone())
        .to_json();
    Fixture { root, chain, key, token, bundle }
}

impl Fixture {
    fn pem(&self) -> String {
        pem::encode_certificates(self.chain.iter().map(Vec::as_slice))
    }

    fn trust(&self) -> Trust {
        Trust { bundle: Some(self.bundle.clone()), ..Trust::default() }
    }
}

fn table(view: &InspectionView) -> String {
    render(view, Format::Table, false, false, Moment(NOW.as_secs())).unwrap()
}

#[test]
fn a_chain_is_shown_but_not_called_verified_without_a_bundle() {
    let fixture = fixture("example.org");
    let view = inspect(fixture.pem().as_bytes(), &Trust::default(), NOW).unwrap();
    let text = table(&view);
    assert!(view.is_sound(), "{text}");
    for part in [
        "1 x509-svid",
        "2 authority",
        "spiffe://example.org/web",
        "07070707-0707-0707-0707-070707070707",
        "tier=front",
        "blob=0x00ff",
        "web.example.org",
        "in 1h (",
        "· not verified  no bundle was given: --bundle",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(!text.contains('✓'), "{text}");
    assert_eq!(view.names()[0], "spiffe://example.org/web");
}

#[test]
fn a_chain_is_verified_against_its_bundle_in_each_form() {
    let fixture = fixture("example.org");
    let root_pem = pem::encode_certificates([fixture.root.der()]).into_bytes();
    let der = fixture.chain.concat();
    for bundle in [fixture.bundle.clone(), root_pem] {
        for input in [fixture.pem().into_bytes(), der.clone()] {
            let trust = Trust { bundle: Some(bundle.clone()), ..Trust::default() };
            let text = table(&inspect(&input, &trust, NOW).unwrap());
            assert!(text.contains("✓ verified"), "{text}");
        }
    }
}

#[test]
fn a_chain_of_another_root_is_refused() {
    let ours = fixture("example.org");
    let theirs = fixture("example.org");
    let view = inspect(ours.pem().as_bytes(), &theirs.trust(), NOW).unwrap();
    assert!(!view.is_sound());
    assert!(table(&view).contains("✗ refused"), "{}", table(&view));
}

#[test]
fn a_demanded_trust_domain_is_demanded() {
    let fixture = fixture("example.org");
    let trust = Trust { trust_domain: Some("other.org".parse().unwrap()), ..fixture.trust() };
    for input in [fixture.pem(), fixture.token.clone()] {
        let view = inspect(input.as_bytes(), &trust, NOW).unwrap();
        assert!(!view.is_sound());
        assert!(table(&view).contains("inspect.trust-domain"), "{}", table(&view));
    }
}

#[test]
fn an_expired_chain_is_a_problem_with_and_without_bundle() {
    let fixture = fixture("example.org");
    let later = NOW.saturating_add(2 * HOUR);
    for trust in [Trust::default(), fixture.trust()] {
        let view = inspect(fixture.pem().as_bytes(), &trust, later).unwrap();
        assert!(!view.is_sound());
        assert!(table(&view).contains("x509.expired"), "{}", table(&view));
    }
}

#[test]
fn a_key_must_fit_its_certificate_and_is_never_shown() {
    let ours = fixture("example.org");
    let secret = ours.key.to_pkcs8_der();
    let with = |key: &[u8]| format!("{}{}", ours.pem(), pem::encode("PRIVATE KEY", key));
    let view = inspect(with(&secret).as_bytes(), &Trust::default(), NOW).unwrap();
    assert!(view.is_sound(), "{}", table(&view));
    let shown = [Format::Table, Format::Json, Format::Yaml]
        .map(|format| render(&view, format, false, false, Moment(0)).unwrap())
        .concat();
    // The private scalar of a P-256 key in PKCS#8, in any form that a dump of bytes could take.
    let scalar: String = secret[36..68].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!shown.contains(&scalar) && !shown.contains("PRIVATE"), "{shown}");
    let other = fixture("example.org").key.to_pkcs8_der();
    let view = inspect(with(&other).as_bytes(), &Trust::default(), NOW).unwrap();
    assert!(table(&view).contains("inspect.key-mismatch"), "{}", table(&view));
}

#[test]
fn a_token_is_verified_for_its_audience() {
    let fixture = fixture("example.org");
    let bare = table(&inspect(fixture.token.as_bytes(), &Trust::default(), NOW).unwrap());
    assert!(bare.contains("· not verified") && bare.contains("spiffe://example.org/web"), "{bare}");
    let own = table(&inspect(fixture.token.as_bytes(), &fixture.trust(), NOW).unwrap());
    assert!(own.contains("✓ verified") && own.contains("--audience pins it"), "{own}");
    let pinned = Trust { audience: Some("db".into()), ..fixture.trust() };
    assert!(table(&inspect(fixture.token.as_bytes(), &pinned, NOW).unwrap()).contains("✓ verified"));
    let other = Trust { audience: Some("cache".into()), ..fixture.trust() };
    let view = inspect(fixture.token.as_bytes(), &other, NOW).unwrap();
    assert!(!view.is_sound());
    let mut forged = fixture.token.into_bytes();
    let last = forged.len() - 10;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let view = inspect(&forged, &fixture_trust(&fixture.bundle), NOW).unwrap();
    assert!(!view.is_sound(), "{}", table(&view));
}

fn fixture_trust(bundle: &[u8]) -> Trust {
    Trust { bundle: Some(bundle.to_vec()), ..Trust::default() }
}

#[test]
fn a_bundle_names_its_trust_domain_by_its_roots() {
    let fixture = fixture("example.org");
    let text = table(&inspect(&fixture.bundle, &Trust::default(), NOW).unwrap());
    for part in ["1 bundle", "trust domain  example.org", "X.509 roots   1", "k1: ", "2 authority"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let empty = inspect(br#"{"keys":[]}"#, &Trust::default(), NOW).unwrap();
    assert!(!empty.is_sound());
}

#[test]
fn a_request_and_a_public_key() {
    let key = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
    let request = csr::build(&key).unwrap();
    for input in [request.clone(), pem::encode("CERTIFICATE REQUEST", &request).into_bytes()] {
        let text = table(&inspect(&input, &Trust::default(), NOW).unwrap());
        assert!(text.contains("certificate-request") && text.contains("signed by its own key"), "{text}");
    }
    let text = table(&inspect(key.public_key().spki_der(), &Trust::default(), NOW).unwrap());
    assert!(text.contains("public-key"), "{text}");
}

#[test]
fn what_is_nothing_is_told_so() {
    for input in ["", "hello", "{}", "a.b", "-----BEGIN CERTIFICATE-----\n", "\u{30}\u{82}"] {
        let failure = inspect(input.as_bytes(), &Trust::default(), NOW).unwrap_err();
        assert!(
            failure.code().starts_with("input.") || failure.code().starts_with("json."),
            "{input:?}: {failure}"
        );
    }
    let broken = pem::encode("CERTIFICATE", b"no certificate");
    assert!(!inspect(broken.as_bytes(), &Trust::default(), NOW).unwrap().is_sound());
    assert!(!inspect(b"a.b.c", &Trust::default(), NOW).unwrap().is_sound());
    assert!(!inspect(b"bfj1.AAAA", &Trust::default(), NOW).unwrap().is_sound());
    assert!(!inspect(b"spiffe://td//x", &Trust::default(), NOW).unwrap().is_sound());
}

proptest::proptest! {
    #[test]
    fn no_input_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = inspect(&bytes, &Trust::default(), NOW);
    }

    #[test]
    fn no_flipped_byte_makes_a_verified_chain_of_it(place in 0_usize..2_000, bit in 0_u8..8) {
        static FIXTURE: std::sync::LazyLock<Fixture> = std::sync::LazyLock::new(|| fixture("example.org"));
        let mut der = FIXTURE.chain.concat();
        let place = place % FIXTURE.chain[0].len();
        der[place] ^= 1 << bit;
        if let Ok(view) = inspect(&der, &FIXTURE.trust(), NOW) {
            proptest::prop_assert!(!view.is_sound());
        }
    }
}
