//! XAES-256-GCM against the tests of its specification (c2sp.org/XAES-256-GCM), through the material of a key.

use std::fmt;
use std::sync::Mutex;

use bonafide_crypto::random::Random;
use bonafide_kms::algorithm::KeyType;
use bonafide_kms::material::{Flags, Material};

/// Gives what it was given.
#[derive(Debug)]
struct Given(Mutex<Vec<u8>>);

impl Random for Given {
    fn fill(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0.lock().unwrap());
    }
}

fn encrypt(key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let (material, _) = Material::import(KeyType::Aes256Gcm, Flags::default(), key).unwrap();
    let mut body = Vec::new();
    material.encrypt_into(aad, plaintext, &Given(Mutex::new(nonce.to_vec())), &mut body).unwrap();
    assert_eq!(body.len(), material.body_length(plaintext.len()));
    assert_eq!(*material.decrypt(aad, &body).unwrap(), plaintext);
    assert_eq!(&body[..24], nonce);
    body.split_off(24)
}

#[test]
fn keeps_the_vectors() {
    let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        hex(encrypt(&[1; 32], nonce, b"", b"XAES-256-GCM")),
        "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"
    );
    assert_eq!(
        hex(encrypt(&[3; 32], nonce, b"c2sp.org/XAES-256-GCM", b"XAES-256-GCM")),
        "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"
    );
}

#[test]
fn keeps_the_accumulated_test() {
    assert_eq!(accumulated(10_000), "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
}

#[test]
#[ignore = "takes minutes"]
fn keeps_the_long_accumulated_test() {
    assert_eq!(accumulated(1_000_000), "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15");
}

fn accumulated(iterations: usize) -> String {
    let (mut random, mut hash) = (Shake128::default(), Shake128::default());
    let mut draw = |length: usize| {
        let mut out = vec![0; length];
        random.squeeze(&mut out);
        out
    };
    for _ in 0..iterations {
        let (key, nonce) = (draw(32), draw(24));
        let length = draw(1)[0];
        let plaintext = draw(usize::from(length));
        let length = draw(1)[0];
        let aad = draw(usize::from(length));
        hash.absorb(&encrypt(&key, &nonce, &aad, &plaintext));
    }
    let mut out = [0; 32];
    hash.squeeze(&mut out);
    out.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// FIPS 202 section 6.2.
#[derive(Default)]
struct Shake128 {
    state: [u64; 25],
    at: usize,
    squeezing: bool,
}

impl Shake128 {
    const RATE: usize = 168;

    fn absorb(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state[self.at / 8] ^= u64::from(*byte) << (8 * (self.at % 8));
            self.at += 1;
            if self.at == Self::RATE {
                permute(&mut self.state);
                self.at = 0;
            }
        }
    }

    fn squeeze(&mut self, out: &mut [u8]) {
        if !self.squeezing {
            self.state[self.at / 8] ^= 0x1f << (8 * (self.at % 8));
            self.state[20] ^= 0x80 << 56;
            permute(&mut self.state);
            (self.at, self.squeezing) = (0, true);
        }
        for byte in out {
            if self.at == Self::RATE {
                permute(&mut self.state);
                self.at = 0;
            }
            *byte = (self.state[self.at / 8] >> (8 * (self.at % 8))) as u8;
            self.at += 1;
        }
    }
}

impl fmt::Debug for Shake128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shake128")
    }
}

/// Keccak-f[1600] (FIPS 202 section 3).
fn permute(state: &mut [u64; 25]) {
    let mut register = 1_u8;
    for _ in 0..24 {
        let column: [u64; 5] = std::array::from_fn(|x| (0..5).fold(0, |sum, y| sum ^ state[x + 5 * y]));
        for (at, lane) in state.iter_mut().enumerate() {
            *lane ^= column[(at + 4) % 5] ^ column[(at % 5 + 1) % 5].rotate_left(1);
        }
        let (mut x, mut y, mut lane) = (1, 0, state[1]);
        for step in 1..=24_u32 {
            (x, y) = (y, (2 * x + 3 * y) % 5);
            lane = std::mem::replace(&mut state[x + 5 * y], lane.rotate_left(step * (step + 1) / 2 % 64));
        }
        for row in state.chunks_exact_mut(5) {
            let old: [u64; 5] = row.try_into().unwrap();
            for (x, lane) in row.iter_mut().enumerate() {
                *lane = old[x] ^ (!old[(x + 1) % 5] & old[(x + 2) % 5]);
            }
        }
        for bit in 0..7 {
            if register & 1 == 1 {
                state[0] ^= 1 << ((1 << bit) - 1);
            }
            register = if register >> 7 == 1 { register << 1 ^ 0x71 } else { register << 1 };
        }
    }
}

/// The stream that the specification says it begins with.
#[test]
fn the_generator_of_the_test_is_right() {
    let mut out = [0; 400];
    Shake128::default().squeeze(&mut out);
    assert_eq!(out[..4], [0x7f, 0x9c, 0x2b, 0xa4]);
}
