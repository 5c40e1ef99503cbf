//! What a verification costs beyond its signatures. Run with `--release -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bonafide_crypto::key::SignatureAlgorithm;
use bonafide_identity::Certificate;

use crate::forge::NOW;
use crate::x509::{KEYS, World, verify};

fn measure(mut work: impl FnMut()) -> Duration {
    const ROUNDS: u32 = 2000;
    work();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    start.elapsed() / ROUNDS
}

#[test]
#[ignore = "a measurement, not a check"]
fn verification_against_its_floor() {
    use bonafide_crypto::key::Signer;

    let world = World::new();
    let (chain, bundles) = (world.chain(), (world.bundles)(&world));
    let message = [7; 400];
    let signature = KEYS.root.sign(&message).unwrap();
    let one_signature = measure(|| {
        KEYS.root.public_key().verify(SignatureAlgorithm::EcdsaP256Sha256, &message, &signature).unwrap();
    });
    let parse = measure(|| drop(black_box(Certificate::from_der(&chain[0]).unwrap())));
    let whole = measure(|| drop(black_box(verify(&chain, &bundles, NOW).unwrap())));
    println!(
        "one signature {one_signature:?}, parse {parse:?}, verify {whole:?} = floor x {:.3}",
        whole.as_secs_f64() / (2.0 * one_signature.as_secs_f64())
    );
}
