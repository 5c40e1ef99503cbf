//! Writes one certificate of each profile for foreign linters and verifiers: `cargo run -p bonafide-ca --example
//! sample_certificates -- FOLDER`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a tool for people: it prints, reads the clock, and ends when something fails"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bonafide_ca::lint::lint;
use bonafide_ca::template::{self, NodeLeaf, WorkloadLeaf};
use bonafide_ca::{CertificateAuthority, SerialNumber, Validity, self_sign_root, sign_intermediate};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::attributes::{Attribute, Attributes, Kind};
use bonafide_identity::time::{Clock, SystemClock};
use bonafide_identity::{Certificate, InstanceId, SpiffeId, reserved};

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder).unwrap();
    for (name, algorithm) in [
        ("p256", KeyAlgorithm::EcP256),
        ("p384", KeyAlgorithm::EcP384),
        ("rsa", KeyAlgorithm::Rsa2048),
        ("ed25519", KeyAlgorithm::Ed25519),
    ] {
        write_family(&folder.join(name), algorithm);
    }
    println!("wrote {}", folder.display());
}

fn write_family(folder: &Path, algorithm: KeyAlgorithm) {
    std::fs::create_dir_all(folder).unwrap();
    let now = SystemClock.now();
    let serial = || SerialNumber::random(&SystemRandom);
    let lifetime = |hours: u64| Validity::starting(now, Duration::from_secs(hours * 3600)).unwrap();
    let trust_domain = "example.org".parse().unwrap();
    let key = || PrivateKey::generate(algorithm).unwrap();

    let root_key = key();
    let root = self_sign_root(&trust_domain, &root_key, lifetime(24 * 365), serial()).unwrap();
    let authority_key = key();
    let public = authority_key.public_key();
    let intermediate =
        sign_intermediate(&trust_domain, &root, &root_key, public, lifetime(24), serial()).unwrap();
    let authority = CertificateAuthority::new(vec![intermediate], Arc::new(authority_key)).unwrap();
    let issuer = authority.certificate();

    let attributes = Attributes {
        instance: Some(InstanceId::from_bytes([7; 16])),
        generation: 1,
        attributes: vec![Attribute::site("berlin"), Attribute::new(Kind::Label, "tier", "gold")],
    };
    let node = |id: SpiffeId, key: &PrivateKey| NodeLeaf {
        id,
        public_key: key.public_key().clone(),
        dns_names: vec![],
        attributes: attributes.encode().unwrap(),
        validity: lifetime(12).within(issuer).unwrap(),
        serial: serial(),
    };
    let workload_key = key();
    let workload = NodeLeaf {
        dns_names: vec!["cart.shop.example.org".parse().unwrap()],
        ..node("spiffe://example.org/ns/shop/sa/cart".parse().unwrap(), &workload_key)
    };
    let NodeLeaf { id, public_key, dns_names, attributes, validity, serial } = workload;
    let workload = WorkloadLeaf { id, public_key, dns_names, attributes, validity, serial };
    let uuid = InstanceId::from_bytes([1; 16]).to_string();
    let agent = node(reserved::agent_id(&trust_domain, "berlin", &uuid).unwrap(), &key());
    let server = node(reserved::authority_id(&trust_domain, "one").unwrap(), &key());
    for (name, tbs) in [
        ("workload", template::workload(workload, issuer).unwrap()),
        ("agent", template::agent(agent, issuer).unwrap()),
        ("authority", template::authority(server, issuer).unwrap()),
    ] {
        let der = authority.issue(lint(&tbs, issuer).unwrap()).unwrap();
        write(folder, name, &Certificate::from_der(&der).unwrap());
    }
    write(folder, "root", &root);
    write(folder, "intermediate", issuer);
    std::fs::write(folder.join("workload-key.der"), workload_key.to_pkcs8_der()).unwrap();
}

fn write(folder: &Path, name: &str, certificate: &Certificate) {
    std::fs::write(folder.join(format!("{name}.der")), certificate.der()).unwrap();
}
