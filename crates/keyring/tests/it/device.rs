//! Keys and a seal in SoftHSM, in a worker: the module's settings are an environment variable, and nothing of it is
//! loaded into this process.

use std::process::Command;

use bonafide_crypto::key::{KeyAlgorithm, SignatureAlgorithm};
use bonafide_keyring::{DeviceConfig, KeySpec, LiveKeys, SealSource, Worker};
use bonafide_secmem::Confinement;
use bonafide_testkit::SoftHsm;

use super::*;

/// A token of its own for one test, and a place for a keyring; none without SoftHSM.
pub(crate) struct Token {
    pub(crate) hsm: SoftHsm,
    pub(crate) directory: Directory,
}

impl Token {
    pub(crate) fn new() -> Option<Self> {
        Some(Self { hsm: SoftHsm::with_token("ours")?, directory: Directory::new() })
    }

    pub(crate) fn config(&self) -> DeviceConfig {
        let pin = secret(SoftHsm::PIN.as_bytes());
        DeviceConfig { module: SoftHsm::MODULE.into(), token: "ours".into(), pin }
    }

    pub(crate) fn worker(&self) -> Worker {
        let mut program = worker::program();
        program.environment = vec![("SOFTHSM2_CONF".into(), self.hsm.settings().into())];
        program.confinement = Confinement { network: false, foreign_code: true };
        Worker::start(&program, drop).unwrap()
    }

    /// A keyring whose seal is in the device, and a worker that has both open.
    fn created(&self) -> Worker {
        let worker = self.worker();
        worker.create(&self.directory.at("keyring"), &SealSource::Device, Some(&self.config())).unwrap();
        worker
    }

    fn opened(&self) -> Worker {
        let worker = self.worker();
        worker.unseal(&self.directory.at("keyring"), &[SealSource::Device], Some(&self.config())).unwrap();
        worker
    }
}

fn context(key: &bonafide_keyring::NewKey) -> String {
    let id = key.signer.public_key().key_id();
    format!("key/{}", id.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[test]
fn keys_of_a_device_sign_and_outlive_the_worker() {
    let Some(token) = Token::new() else { return };
    let worker = token.created();
    let (es, pss) = (SignatureAlgorithm::EcdsaP256Sha256, SignatureAlgorithm::RsaPssSha256);
    let kinds = [
        (KeyAlgorithm::EcP256, vec![es]),
        (KeyAlgorithm::EcP384, vec![SignatureAlgorithm::EcdsaP384Sha384]),
        (
            KeyAlgorithm::Rsa2048,
            vec![SignatureAlgorithm::RsaPkcs1Sha256, pss, SignatureAlgorithm::RsaPssSha512],
        ),
    ];
    let mut made = Vec::new();
    for (algorithm, signatures) in kinds {
        let key = worker.generate(KeySpec { algorithm, in_device: true }, "key/").unwrap();
        // Often enough for numbers with a leading zero.
        for round in 0..40_u8 {
            for algorithm in &signatures {
                let signature = key.signer.sign_with(*algorithm, &[round]).unwrap();
                key.signer.public_key().verify(*algorithm, &[round], &signature).unwrap();
            }
        }
        assert!(key.signer.sign_with(SignatureAlgorithm::Ed25519, b"x").is_err());
        made.push(key);
    }
    // A key of the keyring, beside.
    let soft = KeySpec { algorithm: KeyAlgorithm::Ed25519, in_device: false };
    made.push(worker.generate(soft, "key/").unwrap());
    let no = worker.generate(KeySpec { algorithm: KeyAlgorithm::Ed25519, in_device: true }, "key/");
    assert_eq!(no.unwrap_err().code(), "keyring.device-algorithm");
    let kept: Vec<_> =
        made.iter().map(|key| (context(key), key.wrapped.clone(), key.signer.public_key().clone())).collect();
    drop((made, worker));

    let worker = token.opened();
    for (context, wrapped, public) in &kept {
        let key = worker.open(context, wrapped).unwrap();
        assert_eq!(key.public_key(), public);
        public.verify(key.signature_algorithm(), b"again", &key.sign(b"again").unwrap()).unwrap();
    }
    let (first, second) = (&kept[0], &kept[1]);
    assert_eq!(worker.open(&first.0, &second.1).unwrap_err().code(), "keyring.unwrap");
}

#[test]
fn several_threads_sign_with_one_key() {
    let Some(token) = Token::new() else { return };
    let worker = token.created();
    let spec = KeySpec { algorithm: KeyAlgorithm::EcP256, in_device: true };
    let key = worker.generate(spec, "key/").unwrap().signer;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20_u8).for_each(|round| drop(key.sign(&[round]).unwrap())));
        }
    });
}

#[test]
fn what_is_wrong_with_a_device_is_told() {
    let Some(token) = Token::new() else { return };
    let worker = token.created();
    let spec = KeySpec { algorithm: KeyAlgorithm::EcP256, in_device: true };
    let key = worker.generate(spec, "key/").unwrap();
    drop(worker);
    let refused = |change: &dyn Fn(&mut DeviceConfig)| {
        let mut config = token.config();
        change(&mut config);
        let worker = token.worker();
        worker.unseal(&token.directory.at("keyring"), &[SealSource::Device], Some(&config)).unwrap_err()
    };
    let wrong_pin = refused(&|config| config.pin = secret(b"0000"));
    assert_eq!(wrong_pin.code(), "keyring.device-pin");
    assert!(!wrong_pin.to_string().contains("0000"));
    assert_eq!(refused(&|config| config.token = "theirs".into()).code(), "keyring.device-token");
    assert_eq!(refused(&|config| config.module = "/no/such.so".into()).code(), "keyring.device-module");
    let none =
        token.worker().unseal(&token.directory.at("keyring"), &[SealSource::Device], None).unwrap_err();
    assert_eq!(none.code(), "keyring.no-device");

    // Another token of the same label has neither the seal's key nor ours, and two can't be told apart.
    token.hsm.add_token("ours");
    assert_eq!(refused(&|_| {}).code(), "keyring.device-token");
    token.hsm.lose_tokens();
    token.hsm.add_token("ours");
    assert_eq!(refused(&|_| {}).code(), "keyring.device-key");
    drop(key);
}

/// Somebody with the PIN puts a key of his own under our ID: it was not drawn in the device.
#[test]
fn a_key_that_was_brought_in_is_refused() {
    let Some(token) = Token::new() else { return };
    let worker = token.created();
    let spec = KeySpec { algorithm: KeyAlgorithm::EcP256, in_device: true };
    let key = worker.generate(spec, "key/").unwrap();
    let id = context(&key).split_off("key/".len());
    let foreign = bonafide_crypto::key::PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
    let (der, pem) = (token.directory.at("foreign.der"), token.directory.at("foreign.pem"));
    write_private(&der, &foreign.to_pkcs8_der());
    let written = Command::new("openssl")
        .args(["pkey", "-inform", "der", "-in"])
        .arg(&der)
        .arg("-out")
        .arg(&pem)
        .status();
    assert!(written.unwrap().success());
    token.hsm.import("ours", &id, &pem);
    drop(worker);
    let error = token.opened().open(&context(&key), &key.wrapped).unwrap_err();
    assert_eq!(error.code(), "keyring.device-key", "{error}");
}

/// A device that is away takes along what is in it, and nothing else.
#[test]
fn without_its_device_a_worker_holds_what_is_not_in_it() {
    let Some(token) = Token::new() else { return };
    let worker = token.worker();
    let (path, file) = (token.directory.at("keyring"), SealSource::KeyFile(token.directory.at("seal.key")));
    worker.create(&path, &file, Some(&token.config())).unwrap();
    let made = [true, false].map(|in_device| {
        worker.generate(KeySpec { algorithm: KeyAlgorithm::EcP256, in_device }, "key/").unwrap()
    });
    drop(worker);
    let mut config = token.config();
    config.token = "theirs".into();
    let worker = token.worker();
    let unsealed = worker.unseal(&path, &[SealSource::Device, file], Some(&config)).unwrap();
    assert_eq!(unsealed.device.unwrap().code(), "keyring.device-token");
    assert_eq!((unsealed.opened.by, unsealed.opened.seal.as_str()), (1, "key-file"));
    assert_eq!(unsealed.opened.problems[0].1.code(), "keyring.device-token");
    let [inside, outside] = &made;
    assert_eq!(worker.open(&context(inside), &inside.wrapped).unwrap_err().code(), "keyring.device-token");
    assert!(worker.open(&context(outside), &outside.wrapped).is_ok());
}
