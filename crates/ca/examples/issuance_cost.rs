//! CPU time of issuing a leaf, beside the cost of the signature itself: `cargo run --release -p bonafide-ca --example
//! issuance_cost`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement prints, and ends when something fails"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bonafide_ca::lint::lint;
use bonafide_ca::template::{self, WorkloadLeaf};
use bonafide_ca::{CertificateAuthority, SerialNumber, Validity, self_sign_root, sign_intermediate};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, Signer};
use bonafide_crypto::random::SystemRandom;
use bonafide_crypto::{csr, digest};
use bonafide_identity::attributes::{Attribute, Attributes, Kind};
use bonafide_identity::time::UnixTime;
use bonafide_identity::{Certificate, InstanceId};

const ROUNDS: u32 = 3000;

fn main() {
    let now = UnixTime::from_secs(1_800_000_000);
    let day = Validity::starting(now, Duration::from_secs(86_400)).unwrap();
    let serial = || SerialNumber::random(&SystemRandom);
    let trust_domain = "example.org".parse().unwrap();
    let root_key = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
    let root = self_sign_root(&trust_domain, &root_key, day, serial()).unwrap();
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcP256).unwrap());
    let intermediate =
        sign_intermediate(&trust_domain, &root, &root_key, key.public_key(), day, serial()).unwrap();
    let authority = CertificateAuthority::new(vec![intermediate], key.clone()).unwrap();
    let issuer = authority.certificate();
    let leaf_key = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
    let leaf = WorkloadLeaf {
        id: "spiffe://example.org/ns/shop/sa/cart".parse().unwrap(),
        public_key: leaf_key.public_key().clone(),
        dns_names: vec!["cart.shop.svc".parse().unwrap()],
        attributes: Attributes {
            instance: Some(InstanceId::from_bytes([7; 16])),
            generation: 1,
            attributes: vec![
                Attribute::site("berlin"),
                Attribute::registration("cart"),
                Attribute::new(Kind::Label, "tier", "gold"),
                Attribute::new(Kind::Selector, "unix.uid", "1000"),
                Attribute::new(Kind::Selector, "unix.path", "/usr/bin/cart"),
                Attribute::new(Kind::Evidence, "caller", "pidfd"),
            ],
        }
        .encode()
        .unwrap(),
        validity: day.within(issuer).unwrap(),
        serial: serial(),
    };
    let tbs = template::workload(leaf.clone(), issuer).unwrap();
    let request = csr::build(&leaf_key).unwrap();
    let signature = key.sign(tbs.der()).unwrap();
    let der = authority.issue(lint(&tbs, issuer).unwrap()).unwrap();

    let floor = measure("sign, P-256 (the floor)", None, || key.sign(tbs.der()).unwrap());
    let cost = |name, work: &mut dyn FnMut()| measure(name, Some(floor), work);
    cost("draw a serial number", &mut || {
        black_box(serial());
    });
    cost("lay out a leaf", &mut || drop(black_box(template::workload(leaf.clone(), issuer).unwrap())));
    cost("lint it", &mut || drop(black_box(lint(&tbs, issuer).unwrap())));
    cost("lay out, lint and sign", &mut || {
        let leaf = WorkloadLeaf { serial: serial(), ..leaf.clone() };
        let linted = lint(&template::workload(leaf, issuer).unwrap(), issuer).unwrap();
        drop(black_box(authority.issue(linted).unwrap()));
    });
    cost("verify, P-256", &mut || {
        leaf_key.public_key().verify(key.signature_algorithm(), b"", &signature).unwrap_err();
    });
    cost("parse and verify a CSR", &mut || drop(black_box(csr::parse_and_verify(&request).unwrap())));
    cost("parse the certificate", &mut || drop(black_box(Certificate::from_der(&der).unwrap())));
    let mut set = digest::SetDigest::default();
    cost("add to a set digest", &mut || set.insert(&der));
    println!("the leaf has {} bytes", der.len());
}

/// Microseconds of one run: the best of five, because other work on the machine only ever adds.
fn measure<T>(name: &str, floor: Option<f64>, mut work: impl FnMut() -> T) -> f64 {
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                black_box(work());
            }
            start.elapsed()
        })
        .min()
        .unwrap();
    let each = best.as_secs_f64() * 1e6 / f64::from(ROUNDS);
    let ratio = floor.map(|floor| format!("{:6.2} of a signature", each / floor)).unwrap_or_default();
    println!("{name:<28} {each:8.2} µs {ratio}");
    each
}
