//! What a signature in the worker costs beside one in this process: CPU time of both processes for each signature, for
//! several sizes of a batch. Run it with `--release`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails has nothing to say")]

use std::sync::Arc;
use std::time::Duration;

use bonafide_crypto::key::{KeyAlgorithm, Signer};
use bonafide_crypto::random::SystemRandom;
use bonafide_keyring::{
    KeyFileSeal, KeySpec, Keyring, LiveKeys, LocalKeys, SealSource, Worker, WorkerProgram, serve_worker,
};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// A certificate of ours, before it is signed.
const MESSAGE: usize = 650;
const SIGNATURES: usize = 20_000;

fn main() {
    if std::env::args().nth(1).is_some() {
        serve_worker(Arc::new(SystemRandom)).unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (seal, path) = (directory.path().join("seal"), directory.path().join("keyring"));
    let keyring =
        Keyring::create(&path, &KeyFileSeal::create(&seal, &SystemRandom).unwrap(), &SystemRandom).unwrap();
    let local = LocalKeys::new(keyring, Arc::new(SystemRandom));
    let program = WorkerProgram::this(["worker"]);
    let worker = Worker::start(&program, drop).unwrap();
    let missing = worker.unseal(&path, &[SealSource::KeyFile(seal)], None).unwrap().missing;
    println!("protections that are missing: {missing:?}");
    let spec = KeySpec { algorithm: KeyAlgorithm::EcP256, in_device: false };
    let (here, there) = (local.generate(spec, "").unwrap().signer, worker.generate(spec, "").unwrap().signer);
    let theirs = ClockId::pid_cpu_clock_id(Pid::from_raw(worker.process().cast_signed())).unwrap();
    println!("{:>5}  {:>12}  {:>12}  {:>6}", "batch", "here", "worker", "ratio");
    for batch in [1, 4, 8, 16, 32] {
        // In turns, so that both meet the same neighbours.
        let mut spent = [Duration::ZERO; 2];
        for _ in 0..10 {
            spent[0] += measure(&*here, batch, theirs);
            spent[1] += measure(&*there, batch, theirs);
        }
        let [here, there] = spent.map(|spent| spent.as_secs_f64() * 1e6 / SIGNATURES as f64);
        println!("{batch:>5}  {here:>9.2} µs  {there:>9.2} µs  {:>6.3}", there / here);
    }
}

fn measure(signer: &dyn Signer, batch: usize, other: ClockId) -> Duration {
    let message = vec![7; MESSAGE];
    let messages = vec![message.as_slice(); batch];
    let now = || {
        let own = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
        Duration::from(own) + Duration::from(clock_gettime(other).unwrap())
    };
    let before = now();
    for _ in 0..SIGNATURES / 10 / batch {
        for signature in signer.sign_each(signer.signature_algorithm(), &messages) {
            signature.unwrap();
        }
    }
    now() - before
}
