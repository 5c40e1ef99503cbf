//! Roots that come from files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bonafide_identity::bundle::BundleMap;
use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, NameConstraints, SanType,
};

use super::*;
use crate::config::UpstreamConfig;

/// A CA of a company that knows nothing of SPIFFE.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    key: String,
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.use_authority_key_identifier_extension = true;
    // Not as ours are.
    parameters.key_identifier_method = KeyIdMethod::Sha384;
    parameters
}

impl Ca {
    fn root() -> Self {
        let (parameters, key) = (parameters("company root"), KeyPair::generate().unwrap());
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { pem, key: key.serialize_pem(), issuer: Issuer::new(parameters, key) }
    }

    fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut parameters, key) = (parameters(name), KeyPair::generate().unwrap());
        change(&mut parameters);
        let pem = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        Self { pem, key: key.serialize_pem(), issuer: Issuer::new(parameters, key) }
    }
}

type Change = fn(&mut CertificateParams);

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, certificates: &[&str], key: &str) {
        fs::write(self.at("ca.pem"), certificates.concat()).unwrap();
        fs::write(self.at("ca.key"), key).unwrap();
        self.mode(0o600);
    }

    fn mode(&self, mode: u32) {
        fs::set_permissions(self.at("ca.key"), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn upstream(&self) -> Option<Arc<Upstream>> {
        let config = UpstreamConfig { cert_file: self.at("ca.pem"), key_file: self.at("ca.key") };
        Some(Arc::new(Upstream::new(config, "example.org".parse().unwrap())))
    }
}

impl Fixture {
    /// A certificate as a server has it, verified with nothing but the bundle; its chain, leaf first.
    fn chain(&self) -> Vec<Bytes> {
        use bonafide_ca::{SerialNumber, Validity, lint::lint, template};
        use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
        let (keys, now) = (self.keys().current(), self.clock.now());
        let issuer = keys.issuer().certificate();
        let leaf = template::WorkloadLeaf {
            id: "spiffe://example.org/web".parse().unwrap(),
            public_key: PrivateKey::generate(KeyAlgorithm::EcP256).unwrap().public_key().clone(),
            dns_names: Vec::new(),
            attributes: bonafide_identity::attributes::Attributes::default().encode().unwrap(),
            validity: Validity::starting(now, HOUR).unwrap(),
            serial: SerialNumber::random(&SystemRandom),
        };
        let tbs = template::workload(leaf, issuer).unwrap();
        let chain = keys.sign(lint(&tbs, issuer).unwrap()).unwrap();
        let mut bundles = BundleMap::new();
        bundles.insert(Arc::clone(self.rotation.registry.state().bundle()));
        let ders: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        x509::verify(&ders, &bundles, now).unwrap();
        chain
    }
}

fn named(uri: &str) -> Vec<SanType> {
    vec![SanType::URI(uri.try_into().unwrap())]
}

fn der(pem: &str) -> Vec<u8> {
    der::pem::decode_vec(pem.as_bytes()).unwrap().1
}

fn pem(der: &[u8]) -> String {
    der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der).unwrap()
}

/// Whoever knows the company's root alone, and nothing of SPIFFE.
fn openssl_verifies(directory: &Path, root: &str, chain: &[Bytes]) -> bool {
    let write = |name: &str, text: String| {
        fs::write(directory.join(name), text).unwrap();
        directory.join(name)
    };
    let above = chain[1..].iter().map(|der| pem(der)).collect();
    let verified = std::process::Command::new("openssl")
        .args(["verify", "-x509_strict", "-no_check_time", "-CAfile"])
        .arg(write("root.pem", root.to_owned()))
        .arg("-untrusted")
        .arg(write("above.pem", above))
        .arg(write("leaf.pem", pem(&chain[0])))
        .output();
    verified.unwrap().status.success()
}

#[tokio::test]
async fn a_ca_of_files_is_the_root_and_changes_with_them() {
    let (files, root) = (Files::new(), Ca::root());
    let policy = root.below("policy", |_| ());
    let first = policy.below("issuing 1", |_| ());
    files.put(&[&first.pem, &policy.pem, &root.pem], &first.key);
    let fixture = Fixture::with(files.upstream()).await;

    // Nobody else under that root may vouch for this trust domain.
    let authorities = |fixture: &Fixture| -> Vec<Vec<u8>> {
        let state = fixture.rotation.registry.state();
        state.bundle().x509_authorities().iter().map(|authority| authority.der().to_vec()).collect()
    };
    assert_eq!(authorities(&fixture), [der(&first.pem)]);
    let chain = fixture.chain();
    assert_eq!(chain.len(), 4, "leaf, intermediate, and two above");
    assert_eq!((&*chain[2], &*chain[3]), (&*der(&first.pem), &*der(&policy.pem)));
    assert!(openssl_verifies(files.0.path(), &root.pem, &chain));

    // The key is not needed any more.
    fs::remove_file(files.at("ca.key")).unwrap();
    fixture.pass(13 * HOUR).await;
    fixture.chain();
    // Half of its life is over: of itself nothing takes its place.
    assert_eq!(fixture.of(Family::Root).len(), 1);

    let second = root.below("issuing 2", |_| ());
    files.put(&[&second.pem], &second.key);
    fixture.pass(HOUR).await;
    assert_eq!(authorities(&fixture).len(), 2, "published before it is used");
    assert_eq!(fixture.chain()[2], der(&first.pem));
    fixture.pass(HOUR).await;
    assert_eq!(fixture.chain()[2], der(&second.pem));
    fixture.pass(2 * DAY).await;
    assert_eq!(authorities(&fixture), [der(&second.pem)]);
    assert!(openssl_verifies(files.0.path(), &root.pem, &fixture.chain()));
}

#[tokio::test]
async fn a_drawn_root_gives_way_to_an_upstream_ca() {
    let (files, ca) = (Files::new(), Ca::root());
    let mut fixture = Fixture::new().await;
    let drawn = fixture.of(Family::Root);
    files.put(&[&ca.pem], &ca.key);
    fixture.rotation.upstream = files.upstream();
    fixture.pass(HOUR).await;
    fixture.pass(2 * HOUR).await;
    let roots = fixture.of(Family::Root);
    assert!(roots.contains(&(rotation::State::Old, drawn[0].1.clone())), "{roots:?}");
    assert_eq!(fixture.chain().len(), 2, "a root of its own is not sent");
}

#[tokio::test]
async fn a_stolen_upstream_ca_signs_nothing_until_there_is_another() {
    let (files, ca) = (Files::new(), Ca::root());
    files.put(&[&ca.pem], &ca.key);
    let fixture = Fixture::with(files.upstream()).await;
    let id = fixture.of(Family::Root)[0].1.clone();
    let order = rotation::Order::Taint { id: id.clone(), force: true };
    fixture.rotation.order("test", order, Duration::ZERO).await.unwrap();
    let tainted = fixture.rotation.registry.state().bundle().tainted().to_vec();
    let certificate = Certificate::from_der(&der(&ca.pem)).unwrap();
    assert!(tainted.iter().any(|key| Some(&*key.key_id) == certificate.subject_key_id()));
    // It lies in the files still.
    assert_eq!(fixture.rotation.catch_up().await.unwrap_err().code(), "ca.upstream-unchanged");
    let refused = fixture.rotation.prepare("test", Family::Root).await.unwrap_err();
    assert_eq!(refused.code(), "ca.upstream-unchanged");
    let next = Ca::root();
    files.put(&[&next.pem], &next.key);
    fixture.rotation.catch_up().await.unwrap();
    fixture.chain();
}

#[tokio::test]
async fn files_that_are_no_ca_for_us_are_refused_and_the_present_root_stays() {
    let (files, root) = (Files::new(), Ca::root());
    let good = root.below("issuing", |_| ());
    files.put(&[&good.pem], &good.key);
    let fixture = Fixture::with(files.upstream()).await;
    let upstream = fixture.rotation.upstream.clone().unwrap();
    let state = fixture.rotation.registry.state();
    let code = || match fixture.rotation.vault.upstream(&upstream, &state, fixture.clock.now()) {
        Ok(_) => "taken up".to_owned(),
        Err(error) => error.code().to_owned(),
    };
    assert_eq!(code(), "ca.upstream-unchanged");
    let changes: [(&str, Change); 8] = [
        ("taken up", |ca| ca.subject_alt_names = named("spiffe://example.org")),
        ("taken up", |ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(1))),
        ("ca.upstream-unfit", |ca| ca.subject_alt_names = named("spiffe://other.org")),
        ("ca.upstream-unfit", |ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        ("ca.upstream-unfit", |ca| ca.is_ca = IsCa::NoCa),
        ("ca.upstream-unfit", |ca| ca.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ("ca.upstream-unfit", |ca| ca.not_after = rcgen::date_time_ymd(2025, 1, 1)),
        ("ca.upstream-unfit", |ca| {
            let permitted_subtrees = vec![GeneralSubtree::DnsName("example.org".to_owned())];
            ca.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
        }),
    ];
    for (expected, change) in changes {
        let ca = root.below("changed", change);
        files.put(&[&ca.pem], &ca.key);
        assert_eq!(code(), expected);
    }
    let other = root.below("other", |_| ());
    files.put(&[&other.pem], &good.key);
    assert_eq!(code(), "ca.upstream-mismatch");
    files.put(&[&other.pem, &good.pem], &other.key);
    assert_eq!(code(), "ca.upstream-unfit", "a chain that is none");
    files.put(&[&other.pem, &other.key], &other.key);
    assert_eq!(code(), "ca.upstream-unfit", "a key in the file that everybody reads");
    files.put(&[&other.pem], &format!("{}{}", other.key, good.key));
    assert_eq!(code(), "ca.upstream-unfit");
    files.put(&[&other.pem], &other.key);
    files.mode(0o640);
    assert_eq!(code(), "ca.upstream-key-open");
    files.put(&["no PEM"], &other.key);
    assert_eq!(code(), "ca.upstream-unfit");
    fs::remove_file(files.at("ca.pem")).unwrap();
    assert_eq!(code(), "ca.upstream-file");
    fixture.pass(HOUR).await;
    fixture.chain();
}

type Half = fn(&Files, &Ca, &Ca);

/// The certificate is replaced, and the key is not yet.
#[tokio::test]
async fn files_that_are_half_written_hold_up_no_other_key() {
    let (files, root) = (Files::new(), Ca::root());
    let (first, next) = (root.below("issuing 1", |_| ()), root.below("issuing 2", |_| ()));
    files.put(&[&first.pem], &first.key);
    let fixture = Fixture::with(files.upstream()).await;
    let mut issuer = fixture.chain()[1].clone();
    let halves: [(&str, Half); 3] = [
        ("another key", |files, first, next| files.put(&[&next.pem], &first.key)),
        ("an open key", |files, _, next| {
            files.put(&[&next.pem], &next.key);
            files.mode(0o644);
        }),
        ("half a key", |files, _, next| {
            let half: String = next.key.chars().take(next.key.len() / 2).collect();
            files.put(&[&next.pem], &half);
        }),
    ];
    for (what, write) in halves {
        write(&files, &first, &next);
        fixture.pass(13 * HOUR).await;
        let chain = fixture.chain();
        assert_ne!(chain[1], issuer, "{what}");
        assert_eq!(chain[2], der(&first.pem), "{what}");
        issuer = chain[1].clone();
    }
    files.put(&[&next.pem], &next.key);
    fixture.pass(HOUR).await;
    fixture.pass(HOUR).await;
    assert_eq!(fixture.chain()[2], der(&next.pem));
}
