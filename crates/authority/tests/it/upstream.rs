//! An authority whose root is a company's CA, as its agents see it.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use bonafide_authority::config::UpstreamConfig;
use bonafide_authority::{Authority, AuthorityConfig, StartError};
use bonafide_crypto::random::SystemRandom;
use bonafide_testkit::TestClock;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

use crate::agents::Agent;
use crate::world::{World, entry, trust_domain};

async fn start(certificate: &str, key: &str) -> Result<World, StartError> {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("ca.pem"), certificate).unwrap();
    std::fs::write(at("ca.key"), key).unwrap();
    std::fs::set_permissions(at("ca.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut config = AuthorityConfig::new(trust_domain(), at("data"));
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.upstream = Some(UpstreamConfig { cert_file: at("ca.pem"), key_file: at("ca.key") });
    let clock = TestClock::new();
    Authority::init(&config, clock.clone(), &SystemRandom).await.unwrap();
    World::start(directory, config, clock).await
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters.use_authority_key_identifier_extension = true;
    parameters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_join_and_workloads_are_issued_to_under_a_companys_ca() {
    let (root, root_key) = (parameters("company root"), KeyPair::generate().unwrap());
    let key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(root, root_key);
    let ca = parameters("issuing").signed_by(&key, &issuer).unwrap();
    let mut world = start(&ca.pem(), &key.serialize_pem()).await.unwrap();
    world.put_site("lab", &["spiffe://example.org/app/**"]).await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let issued = agent.connect().await.issue("web").await.unwrap();
    assert_eq!(issued.chain.len(), 3);
    assert_eq!(issued.chain[2], **ca.der());

    // Nothing of it is read again.
    std::fs::remove_file(world.directory.path().join("ca.key")).unwrap();
    let mut world = world.restart().await;
    let agent = Agent::join(&mut world, "lab").await;
    agent.connect().await.issue("web").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_ca_an_authority_does_not_start() {
    let key = KeyPair::generate().unwrap();
    let ca = parameters("issuing").self_signed(&key).unwrap().pem();
    let other = KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(start(&ca, &other).await.err().unwrap().code(), "ca.upstream-mismatch");
    assert_eq!(start("", &other).await.err().unwrap().code(), "ca.upstream-unfit");
}
