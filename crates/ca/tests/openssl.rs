//! What OpenSSL says of our chains when it is strict (`openssl verify -x509_strict`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a failed test is a panic; OpenSSL has a clock of its own"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bonafide_ca::lint::lint;
use bonafide_ca::template::{self, WorkloadLeaf};
use bonafide_ca::{CertificateAuthority, SerialNumber, Validity, self_sign_root, sign_intermediate};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::attributes::{Attribute, Attributes};
use bonafide_identity::time::{Clock, SystemClock};

/// Writes root, intermediate and leaf into a folder.
fn chain(folder: &Path, algorithm: KeyAlgorithm) {
    let now = SystemClock.now();
    let serial = || SerialNumber::random(&SystemRandom);
    let hours = |hours: u64| Validity::starting(now, Duration::from_secs(hours * 3600)).unwrap();
    let trust_domain = "example.org".parse().unwrap();
    let (root_key, key) =
        (PrivateKey::generate(algorithm).unwrap(), PrivateKey::generate(algorithm).unwrap());
    let root = self_sign_root(&trust_domain, &root_key, hours(48), serial()).unwrap();
    let intermediate =
        sign_intermediate(&trust_domain, &root, &root_key, key.public_key(), hours(24), serial()).unwrap();
    let authority = CertificateAuthority::new(vec![intermediate], Arc::new(key)).unwrap();
    let leaf = WorkloadLeaf {
        id: "spiffe://example.org/ns/shop/sa/cart".parse().unwrap(),
        public_key: PrivateKey::generate(algorithm).unwrap().public_key().clone(),
        dns_names: vec!["cart.example.org".parse().unwrap()],
        attributes: Attributes { attributes: vec![Attribute::site("berlin")], ..Attributes::default() }
            .encode()
            .unwrap(),
        validity: hours(1).within(authority.certificate()).unwrap(),
        serial: serial(),
    };
    let tbs = template::workload(leaf, authority.certificate()).unwrap();
    let leaf = authority.issue(lint(&tbs, authority.certificate()).unwrap()).unwrap();
    let files =
        [("root", root.der()), ("intermediate", authority.certificate().der()), ("leaf", leaf.as_slice())];
    for (name, der) in files {
        let (input, output) = (folder.join(format!("{name}.der")), folder.join(format!("{name}.pem")));
        std::fs::write(&input, der).unwrap();
        let arguments =
            ["x509", "-inform", "der", "-in", input.to_str().unwrap(), "-out", output.to_str().unwrap()];
        assert!(Command::new("openssl").args(arguments).status().unwrap().success());
    }
}

#[test]
fn strict_openssl_accepts_a_chain_for_both_uses() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: there is no openssl here");
        return;
    }
    for algorithm in [
        KeyAlgorithm::EcP256,
        KeyAlgorithm::EcP384,
        KeyAlgorithm::Rsa2048,
        KeyAlgorithm::Rsa3072,
        KeyAlgorithm::Ed25519,
    ] {
        let folder = tempfile::tempdir().unwrap();
        chain(folder.path(), algorithm);
        for purpose in ["sslserver", "sslclient"] {
            let output = Command::new("openssl")
                .current_dir(folder.path())
                .args(["verify", "-x509_strict", "-purpose", purpose])
                .args(["-CAfile", "root.pem", "-untrusted", "intermediate.pem", "leaf.pem"])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
