//! `kms-local-encrypt-1k`: what encryption costs a workload that holds a leased data key.

use std::hint::black_box;

use anyhow::{Result, ensure};
use bonafide_crypto::cipher::{Cipher, CipherKey, NONCE, TAG};
use bonafide_crypto::random::{Random, SystemRandom};
use bonafide_kms::algorithm::KeyType;
use bonafide_kms::ciphertext::{Ciphertext, KeyId};
use bonafide_kms::context::Context;
use bonafide_kms::envelope::DataKey;
use bonafide_kms::lease::{Decision, Effect, Grant, LeaseId, Leases, Purpose, Terms};

use crate::{clock::CpuClock, figure::Figure, pairs::Pairs};

const ROUNDS: usize = 41;
const TIMES: u32 = 20_000;
const SIZE: usize = 1024;
/// Of a data key under XAES-256-GCM.
const WRAPPED: usize = 72;

/// From a plaintext to a ciphertext that names key, version and data key: the lease is asked and counted, the context was
/// digested before, the nonce is drawn. The floor is AES-256-GCM of as many bytes with a key that is ready and a nonce that is
/// counted.
pub(crate) fn local_encrypt_figure() -> Result<Figure> {
    let random = SystemRandom;
    let drawn: [u8; 32] = (&random as &dyn Random).array();
    let (key, context) = (KeyId::from_bytes([7; 16]), Context::new([("table", "orders")])?.digest());
    let data_key = DataKey::new(KeyType::Aes256Gcm, key, 1, &context, &drawn, &[9; WRAPPED])?;
    let mut held = held(key, &context)?;
    let plain = CipherKey::new(Cipher::Aes256Gcm, &drawn);
    let plain = plain.ok_or_else(|| anyhow::anyhow!("32 bytes are no key"))?;
    let plaintext = vec![5; SIZE];
    let mut ours = || -> Result<f64> {
        let start = CpuClock::thread().now()?;
        for _ in 0..TIMES {
            let now = std::time::Duration::from_secs(1);
            let decision = held.decide("orders", &context, Purpose::Encrypt, SIZE as u64, now);
            ensure!(matches!(decision, Decision::Use(_)), "the lease does not last: {decision:?}");
            black_box(data_key.seal(black_box(&plaintext), &random)?);
        }
        Ok((CpuClock::thread().now()? - start).as_secs_f64() * 1e6 / f64::from(TIMES))
    };
    let mut sealed = vec![0; SIZE + TAG];
    let mut floor = || -> Result<f64> {
        let start = CpuClock::thread().now()?;
        for number in 0..TIMES {
            let mut nonce = [0; NONCE];
            nonce[..4].copy_from_slice(&number.to_be_bytes());
            plain.seal_into(&nonce, &[], black_box(&plaintext), &mut sealed)?;
            black_box(&sealed);
        }
        Ok((CpuClock::thread().now()? - start).as_secs_f64() * 1e6 / f64::from(TIMES))
    };
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rounds.push([floor()?, ours()?, ours()?, floor()?]);
    }
    let made = data_key.seal(&plaintext, &random)?;
    let parts = Ciphertext::decode(&made)?.envelope().ok_or_else(|| anyhow::anyhow!("no envelope"))?;
    ensure!(**data_key.open(parts)? == plaintext, "it does not come back");
    let Pairs { ours, floor, ratio } = Pairs::of(&rounds);
    Ok(Figure {
        name: "kms-local-encrypt-1k",
        value: ours,
        unit: "µs",
        floor: Some(floor),
        // What is asked for is a time, and no ratio.
        ratio: None,
        peer_ratio: None,
        target: Some(2.0),
        what: format!(
            "1 KiB with a leased data key, to a whole ciphertext of {} bytes; {ratio:.1} times AES-256-GCM alone",
            made.len()
        ),
    })
}

/// A holder with one lease.
fn held(key: KeyId, context: &bonafide_kms::context::ContextDigest) -> Result<Leases> {
    let (now, end) = (std::time::Duration::ZERO, std::time::Duration::from_secs(1000));
    let mut leases = Leases::new();
    leases.identity(end);
    leases.connected(now);
    leases.decide("orders", context, Purpose::Encrypt, 0, now);
    let effects = leases.effects();
    let Some(Effect::Ask(question)) = effects.first() else { anyhow::bail!("no lease is asked for") };
    let terms = Terms { ends: end, renew_after: end, messages: u64::MAX, bytes: u64::MAX, max_stale: end };
    let (lease, local) = (LeaseId::from_bytes([1; 16]), bonafide_kms::key::Local::Process);
    let grant = Grant { lease, key, version: 1, local, terms };
    ensure!(leases.granted(question, grant, now).is_some(), "no lease is granted");
    Ok(leases)
}
