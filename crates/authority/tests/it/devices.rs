//! A PKCS#11 device (SoftHSM) behind a whole authority: seals that are changed while it goes on, and keys of applications whose
//! private halves are in there. Its module is loaded in the key worker alone, which is this program once more.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bonafide_authority::Authority;
use bonafide_authority::config::{AuthorityConfig, Pkcs11Config, SealConfig};
use bonafide_authority::entry::{Entry, entry::Kind, seal_change::Stage};
use bonafide_authority::keys::application_keys;
use bonafide_crypto::key::{PublicKey, SignatureAlgorithm};
use bonafide_crypto::random::SystemRandom;
use bonafide_keyring::{WorkerProgram, serve_worker_with};
use bonafide_testkit::{SoftHsm, TestClock};
use bonafide_wire::admin::{
    AddSeal, ChangeKeyRequest, ChangeSealsRequest, CreateKeyRequest, DeleteRequest, DestroyKey,
    ExportKeyRequest, Key, KeySettings, ListKeysRequest, ListSealsRequest, RemoveSeals, RenewSeals,
    RotateKey, SealsResponse, StatusRequest, add_seal::Source, change_key_request::Change,
    change_seals_request::Change as SealChange,
};
use bonafide_wire::kms::{
    DecryptItem, DecryptRequest, EncryptItem, EncryptLease, EncryptRequest, LeaseItem, LeaseRequest,
    SignItem, SignRequest, VerifyItem, VerifyRequest, lease_item,
};
use bonafide_wire::problem_of;
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use crate::agents::{Agent, Connected, Instance};
use crate::kms::{apply, keys, on_behalf_of};
use crate::world::{World, entry, in_time, trust_domain};

#[test]
#[ignore = "what the other tests start"]
fn worker_process() {
    let random = Arc::new(SystemRandom);
    serve_worker_with(Arc::clone(&random) as _, application_keys(random)).unwrap();
}

/// A device, and an authority that has it.
struct Bench {
    hsm: SoftHsm,
    world: World,
}

impl Bench {
    /// None without SoftHSM. The authority's own keys are elsewhere: what is in the device is what a test puts there.
    async fn new() -> Option<Self> {
        let hsm = SoftHsm::with_token("ours")?;
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let pin = directory.path().join("pin");
        std::fs::write(&pin, SoftHsm::PIN).unwrap();
        let mut config = AuthorityConfig::new(trust_domain(), directory.path().join("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        let variable = ("SOFTHSM2_CONF".to_owned(), hsm.settings().display().to_string());
        config.keys.pkcs11 = Some(Pkcs11Config {
            module: SoftHsm::MODULE.into(),
            token: "ours".into(),
            pin_file: pin,
            network: false,
            environment: [variable].into(),
            authority: false,
        });
        config.key_worker =
            Some(WorkerProgram::this(["--exact", "devices::worker_process", "--ignored", "--nocapture"]));
        let clock = TestClock::new();
        Authority::init(&config, clock.clone(), &SystemRandom).await.unwrap();
        let mut world = World::start(directory, config, clock).await.unwrap();
        world.put_site("lab", &["spiffe://example.org/app/**"]).await;
        world.put(entry("web", "/app/web")).await;
        Some(Self { hsm, world })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.world.directory.path().join(name)
    }

    /// What the key pairs of applications in the device are called.
    fn labels(&self) -> Vec<String> {
        let objects = self.hsm.objects();
        let label = |object: &Vec<u8>| {
            let start = object.windows(4).position(|window| window == b"kms/")?;
            let label = object[start..].iter().take_while(|byte| byte.is_ascii_graphic());
            Some(label.map(|byte| char::from(*byte)).collect())
        };
        let mut labels: Vec<String> = objects.iter().filter_map(label).collect();
        labels.sort();
        labels
    }
}

async fn seals(world: &mut World, change: SealChange) -> Result<SealsResponse, Status> {
    let request = ChangeSealsRequest { change: Some(change) };
    world.admin.change_seals(request).await.map(tonic::Response::into_inner)
}

fn add(name: &str, source: Source) -> SealChange {
    SealChange::Add(AddSeal { name: name.into(), source: Some(source) })
}

fn remove(names: &[&str]) -> SealChange {
    SealChange::Remove(RemoveSeals { names: names.iter().map(|name| (*name).to_owned()).collect() })
}

fn names(seals: &SealsResponse) -> Vec<&str> {
    seals.seals.iter().map(|seal| seal.name.as_str()).collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
    problem_of(&result.unwrap_err()).code
}

#[tokio::test]
async fn seals_are_changed_while_the_authority_goes_on() {
    let Some(mut bench) = Bench::new().await else { return };
    let (passphrase, file) = (bench.at("passphrase"), bench.at("other.key"));
    std::fs::write(&passphrase, "four words of some kind\n").unwrap();
    let text = |path: &PathBuf| path.display().to_string();
    let world = &mut bench.world;
    let worker = world.running().key_worker();

    let listed = world.admin.list_seals(ListSealsRequest {}).await.unwrap().into_inner();
    assert_eq!(names(&listed), ["key-file"]);
    assert!(listed.seals[0].opened_by.starts_with("key file `") && listed.problems.is_empty());
    let all = seals(world, add("words", Source::PassphraseFile(text(&passphrase)))).await.unwrap();
    assert_eq!(names(&all), ["key-file", "words"]);
    seals(world, add("hsm", Source::Device(true))).await.unwrap();
    let all = seals(world, add("disk", Source::KeyFile(text(&file)))).await.unwrap();
    assert_eq!(names(&all), ["key-file", "words", "hsm", "disk"]);
    assert!(all.seals.iter().all(|seal| !seal.opened_by.is_empty()) && all.problems.is_empty(), "{all:?}");

    // What can't be is refused, and changes nothing.
    for (change, expected) in [
        (add("words", Source::Device(true)), "keyring.seal-exists"),
        (add("again", Source::Device(true)), "keyring.seal-exists"),
        (add("Not A Name", Source::Device(true)), "keyring.seal-name"),
        (add("x", Source::KeyFile("relative".into())), "seal.change"),
        (
            add("x", Source::PassphraseFile(text(&bench.world.directory.path().join("none")))),
            "keyring.seal-missing",
        ),
        (remove(&["nobody"]), "keyring.seal-unknown"),
        (remove(&["key-file", "words", "hsm", "disk"]), "keyring.last-seal"),
        (remove(&[]), "seal.change"),
    ] {
        assert_eq!(code(seals(&mut bench.world, change.clone()).await), expected, "{change:?}");
    }
    // A seal that is away can't take a new root key; removed together with what needs one, it is not missed.
    std::fs::rename(&file, file.with_extension("away")).unwrap();
    assert_eq!(code(seals(&mut bench.world, remove(&["key-file"])).await), "keyring.seal-away");
    assert_eq!(code(seals(&mut bench.world, SealChange::Renew(RenewSeals {})).await), "keyring.seal-away");
    let left = seals(&mut bench.world, remove(&["key-file", "disk"])).await.unwrap();
    assert_eq!(names(&left), ["words", "hsm"]);
    seals(&mut bench.world, SealChange::Renew(RenewSeals {})).await.unwrap();
    let world = &mut bench.world;
    assert_eq!(world.running().key_worker(), worker, "the one that signs was not disturbed");
    assert!(Agent::join(world, "lab").await.connect().await.issue("web").await.is_ok());

    // The seal that the settings still name opens nothing any more; without another one nothing starts.
    let (directory, mut config, clock) = world.stop().await;
    let started = World::start(directory.clone(), config.clone(), clock.clone()).await;
    assert_eq!(started.err().unwrap().code(), "keyring.wrong-seal-kind");
    config.seals = vec![SealConfig::Passphrase { file: "/nowhere/passphrase".into() }, SealConfig::Pkcs11];
    bench.world = World::start(directory, config, clock).await.unwrap();
    let world = &mut bench.world;
    let status = world.admin.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.seal, "pkcs11");
    assert!(Agent::join(world, "lab").await.connect().await.issue("web").await.is_ok());
    let listed = world.admin.list_seals(ListSealsRequest {}).await.unwrap().into_inner();
    let by: Vec<_> = listed.seals.iter().map(|seal| seal.opened_by.as_str()).collect();
    assert_eq!((names(&listed), by), (vec!["words", "hsm"], vec!["", "PKCS#11 device"]));
    let codes: Vec<_> =
        listed.problems.iter().map(|found| found.problem.as_ref().unwrap().code.as_str()).collect();
    assert_eq!(codes, ["keyring.wrong-seal-kind", "keyring.seal-missing"]);

    let (_directory, config, _) = world.stop().await;
    let stages = seal_changes(&config);
    assert_eq!(stages.iter().filter(|stage| **stage == Stage::Intent).count(), stages.len() / 2);
    assert_eq!(stages.iter().filter(|stage| **stage == Stage::Done).count(), 5);
}

/// What the ledger says of changes of the seals.
fn seal_changes(config: &AuthorityConfig) -> Vec<Stage> {
    let key = std::fs::read_to_string(config.data_dir.join("ledger.pub")).unwrap();
    let verifier = key.trim().parse().unwrap();
    let mut stages = Vec::new();
    bonafide_ledger::verify_entries(config.data_dir.join("ledger"), &verifier, &mut |_, entry| {
        if let Some(Kind::SealChange(change)) = Entry::decode(entry).unwrap().kind {
            assert!(change.actor.starts_with("local uid "));
            assert_eq!(change.stage() == Stage::Failed, !change.code.is_empty());
            stages.push(change.stage());
        }
    })
    .unwrap();
    stages
}

const USES: &str = "
kind: Policy
name: web
rules:
- name: web-uses
  allow: {who: {id: spiffe://example.org/app/web}, can: [encrypt, decrypt, sign, verify, public-key], on: {key: hsm/**}}
";

async fn create(world: &mut World, name: &str, key_type: &str) -> Result<Key, Status> {
    let request = CreateKeyRequest {
        name: name.into(),
        r#type: key_type.into(),
        external: true,
        ..CreateKeyRequest::default()
    };
    world.admin.create_key(request).await.map(|made| made.into_inner().key.unwrap())
}

async fn change(world: &mut World, name: &str, change: Change) -> Result<Key, Status> {
    let request = ChangeKeyRequest { name: name.into(), change: Some(change), ..ChangeKeyRequest::default() };
    world.admin.change_key(request).await.map(|made| made.into_inner().key.unwrap())
}

struct User {
    agent: Agent,
    web: Instance,
    /// Whoever has none gets no lease.
    _stream: Connected,
}

impl User {
    async fn new(world: &mut World) -> Self {
        apply(world, USES).await;
        Self::join(world).await
    }

    async fn join(world: &mut World) -> Self {
        let agent = Agent::join(world, "lab").await;
        let mut stream = agent.connect().await;
        let web = stream.issue("web").await.unwrap();
        Self { agent, web, _stream: stream }
    }

    async fn signed(&self, key: &str, algorithm: &str) -> Result<(Bytes, Bytes, u32), String> {
        let item = SignItem {
            message: Bytes::from_static(b"message"),
            algorithm: algorithm.into(),
            ..SignItem::default()
        };
        let request =
            SignRequest { key: key.into(), items: vec![item], on_behalf_of: on_behalf_of(&self.web) };
        let answer = keys(&self.agent).await.sign(request).await;
        let signed = answer.map_err(|status| problem_of(&status).code)?.into_inner().results.pop().unwrap();
        match signed.problem {
            Some(problem) => Err(problem.code),
            None => Ok((signed.signature, signed.raw, signed.version)),
        }
    }

    async fn verified(&self, key: &str, signature: &Bytes) -> Result<bool, String> {
        let item = VerifyItem {
            message: Bytes::from_static(b"message"),
            signature: signature.clone(),
            ..VerifyItem::default()
        };
        let request =
            VerifyRequest { key: key.into(), items: vec![item], on_behalf_of: on_behalf_of(&self.web) };
        let answer = keys(&self.agent).await.verify(request).await;
        let result = answer.map_err(|status| problem_of(&status).code)?.into_inner().results.pop().unwrap();
        result.problem.map_or(Ok(result.valid), |problem| Err(problem.code))
    }

    async fn encrypted(&self, key: &str, tenant: &str) -> Result<Bytes, String> {
        let item = EncryptItem {
            plaintext: Bytes::from_static(b"plain"),
            context: [("tenant".to_owned(), tenant.to_owned())].into(),
            ..EncryptItem::default()
        };
        let request =
            EncryptRequest { key: key.into(), items: vec![item], on_behalf_of: on_behalf_of(&self.web) };
        let answer = keys(&self.agent).await.encrypt(request).await;
        let result = answer.map_err(|status| problem_of(&status).code)?.into_inner().results.pop().unwrap();
        result.problem.map_or(Ok(result.ciphertext), |problem| Err(problem.code))
    }

    async fn decrypted(&self, key: &str, ciphertext: &Bytes, tenant: &str) -> Result<Bytes, String> {
        let item = DecryptItem {
            ciphertext: ciphertext.clone(),
            context: [("tenant".to_owned(), tenant.to_owned())].into(),
        };
        let request =
            DecryptRequest { key: key.into(), items: vec![item], on_behalf_of: on_behalf_of(&self.web) };
        let answer = keys(&self.agent).await.decrypt(request).await;
        let result = answer.map_err(|status| problem_of(&status).code)?.into_inner().results.pop().unwrap();
        result.problem.map_or(Ok(result.plaintext), |problem| Err(problem.code))
    }
}

#[tokio::test]
async fn keys_in_a_device_sign_and_decrypt_there_and_never_leave_it() {
    let Some(mut bench) = Bench::new().await else { return };
    let user = User::new(&mut bench.world).await;
    let (es, rsa) = ("hsm/sign", "hsm/open");
    let key = create(&mut bench.world, es, "ecdsa-p384").await.unwrap();
    let id: String = key.id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(key.external && key.settings.as_ref().unwrap().local() == "never");
    assert_eq!(bench.labels(), [format!("kms/{id}/1")]);
    assert_eq!(bench.hsm.objects().len(), 2, "the name of the private half can't be read there");
    create(&mut bench.world, rsa, "rsa-2048").await.unwrap();
    let world = &mut bench.world;

    let (signature, raw, version) = user.signed(es, "").await.unwrap();
    let public = PublicKey::from_spki_der(&key.versions[0].public_key).unwrap();
    public.verify(SignatureAlgorithm::EcdsaP384Sha384, b"message", &raw).unwrap();
    assert_eq!((version, user.verified(es, &signature).await), (1, Ok(true)));
    for algorithm in ["rsa-pss-sha256", "rsa-pss-sha512", "rsa-pkcs1-sha256", "rsa-pkcs1-sha384"] {
        let (signature, ..) = user.signed(rsa, algorithm).await.unwrap();
        assert_eq!(user.verified(rsa, &signature).await, Ok(true), "{algorithm}");
        assert_eq!(user.verified(es, &signature).await, Err("kms.other-key".into()));
    }
    let sealed = user.encrypted(rsa, "t7").await.unwrap();
    assert_eq!(user.decrypted(rsa, &sealed, "t7").await.unwrap(), "plain");
    assert_eq!(user.decrypted(rsa, &sealed, "t8").await, Err("kms.ciphertext-refused".into()));
    for at in [sealed.len() - 256, sealed.len() - 100, sealed.len() - 1] {
        let mut changed = sealed.to_vec();
        changed[at] ^= 1;
        let refused = user.decrypted(rsa, &changed.into(), "t7").await;
        assert_eq!(refused, Err("kms.ciphertext-refused".into()), "byte {at}");
    }
    assert_eq!(user.encrypted(es, "t7").await, Err("kms.operation-unfit".into()));

    // It leaves in no way, and nothing comes in.
    let export = ExportKeyRequest { name: es.into(), version: 0 };
    assert_eq!(code(world.admin.export_key(export).await), "kms.external");
    let import = RotateKey { material: Bytes::from_static(b"a private key") };
    assert_eq!(code(change(world, es, Change::Rotate(import)).await), "kms.external");
    let born = |exportable, convergent, material: &'static [u8], key_type: &str| CreateKeyRequest {
        name: "hsm/odd".into(),
        r#type: key_type.into(),
        external: true,
        exportable,
        convergent,
        material: material.into(),
        ..CreateKeyRequest::default()
    };
    for (request, expected) in [
        (born(true, false, b"", "rsa-2048"), "kms.external"),
        (born(false, false, b"a private key", "rsa-2048"), "kms.external"),
        (born(false, true, b"", "rsa-2048"), "kms.key-convergent"),
        (born(false, false, b"", ""), "kms.external-type"),
        (born(false, false, b"", "ed25519"), "kms.external-type"),
        (born(false, false, b"", "ecdsa-p521"), "kms.external-type"),
    ] {
        assert_eq!(code(world.admin.create_key(request).await), expected);
    }
    let local = KeySettings { local: Some("agent".into()), ..KeySettings::default() };
    assert_eq!(code(change(world, es, Change::Configure(local)).await), "kms.external-local");
    let lease = LeaseItem {
        key: rsa.into(),
        r#use: Some(lease_item::Use::Encrypt(EncryptLease::default())),
        ..LeaseItem::default()
    };
    let request = LeaseRequest { items: vec![lease], on_behalf_of: on_behalf_of(&user.web) };
    let leased = keys(&user.agent).await.lease(request).await.unwrap().into_inner().results.pop().unwrap();
    assert_eq!(leased.problem.unwrap().code, "kms.external-local");
    // What was refused has left nothing behind.
    assert_eq!(bench.labels().len(), 2);
    let taken = create(&mut bench.world, es, "ecdsa-p256").await;
    assert_eq!((code(taken), bench.labels().len()), ("kms.name-taken".into(), 2));

    // A rotation makes a new object; old signatures verify, and what was encrypted before opens.
    let world = &mut bench.world;
    change(world, es, Change::Rotate(RotateKey::default())).await.unwrap();
    change(world, rsa, Change::Rotate(RotateKey::default())).await.unwrap();
    assert_eq!(bench.labels().len(), 4);
    assert_eq!(user.signed(es, "").await.unwrap().2, 2);
    assert_eq!(user.verified(es, &signature).await, Ok(true));
    assert_eq!(user.decrypted(rsa, &sealed, "t7").await.unwrap(), "plain");

    // All of it is there when the authority comes back.
    bench.world = bench.world.restart().await;
    let user = User {
        agent: Agent { address: bench.world.running().node_address().to_string(), ..user.agent },
        ..user
    };
    assert_eq!(user.verified(es, &signature).await, Ok(true));
    assert_eq!(user.decrypted(rsa, &sealed, "t7").await.unwrap(), "plain");
    assert_eq!(user.signed(es, "").await.unwrap().2, 2);

    // What is destroyed leaves the device, after the time of grace and not before.
    let world = &mut bench.world;
    let destroy = |version| Change::Destroy(DestroyKey { version, grace: 3600 });
    change(world, es, destroy(1)).await.unwrap();
    change(world, rsa, destroy(0)).await.unwrap();
    assert_eq!(bench.labels().len(), 4);
    bench.world.clock.advance(Duration::from_secs(3600));
    let delete = DeleteRequest { name: rsa.into(), ..DeleteRequest::default() };
    in_time(async {
        while bench.labels() != [format!("kms/{id}/2")] {
            tokio::task::yield_now().await;
        }
        while bench.world.admin.delete_key(delete.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(bench.hsm.objects().len(), 2, "private halves went, too");
    // SVIDs did not live that long.
    let user = User::join(&mut bench.world).await;
    assert_eq!(user.verified(es, &signature).await, Err("kms.version-destroyed".into()));
    assert_eq!(user.signed(es, "").await.unwrap().2, 2);
}

#[tokio::test]
async fn a_key_whose_device_has_lost_it_is_refused_and_the_rest_goes_on() {
    let Some(mut bench) = Bench::new().await else { return };
    let user = User::new(&mut bench.world).await;
    create(&mut bench.world, "hsm/open", "rsa-2048").await.unwrap();
    let sealed = user.encrypted("hsm/open", "t7").await.unwrap();
    let (signature, ..) = user.signed("hsm/open", "").await.unwrap();
    let soft = CreateKeyRequest {
        name: "hsm/soft".into(),
        r#type: "ecdsa-p256".into(),
        ..CreateKeyRequest::default()
    };
    bench.world.admin.create_key(soft).await.unwrap();

    let (directory, config, clock) = bench.world.stop().await;
    bench.hsm.lose_tokens();
    bench.world = World::start(directory, config, clock).await.unwrap();
    let user = User {
        agent: Agent { address: bench.world.running().node_address().to_string(), ..user.agent },
        ..user
    };
    assert_eq!(user.decrypted("hsm/open", &sealed, "t7").await, Err("kms.device-failed".into()));
    assert_eq!(user.signed("hsm/open", "").await, Err("kms.device-failed".into()));
    // For its public half nobody needs the device.
    assert_eq!(user.verified("hsm/open", &signature).await, Ok(true));
    assert!(user.encrypted("hsm/open", "t7").await.is_ok());
    assert!(user.signed("hsm/soft", "").await.is_ok());
    assert_eq!(code(create(&mut bench.world, "hsm/new", "rsa-2048").await), "kms.device-failed");

    // What the device could not destroy stays named, until it can.
    let destroy = Change::Destroy(DestroyKey { version: 0, grace: 3600 });
    change(&mut bench.world, "hsm/open", destroy).await.unwrap();
    bench.world.clock.advance(Duration::from_secs(3600));
    let list = ListKeysRequest { name: "hsm/open".into(), ..ListKeysRequest::default() };
    in_time(async {
        loop {
            let found = bench.world.admin.list_keys(list.clone()).await.unwrap().into_inner().keys;
            if found.first().is_some_and(|key| key.state == "destroyed") {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let delete = DeleteRequest { name: "hsm/open".into(), ..DeleteRequest::default() };
    assert_eq!(code(bench.world.admin.delete_key(delete.clone()).await), "kms.device-pending");
    let (directory, config, clock) = bench.world.stop().await;
    bench.hsm.add_token("ours");
    bench.world = World::start(directory, config, clock).await.unwrap();
    in_time(async {
        while bench.world.admin.delete_key(delete.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
