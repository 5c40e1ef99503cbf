//! Keys of applications over the wire: who may ask for whom, what agents hear, and several servers with the same keys.

use std::collections::BTreeMap;
use std::time::Duration;

use bonafide_authority::audit::verify_key_ledger;
use bonafide_identity::{Certificate, X509Svid};
use bonafide_tls::{Authorizer, IdentitySlot};
use bonafide_wire::admin::{
    Applied, ApplyRequest, ChangeKeyRequest, CreateKeyRequest, DeleteRequest, DestroyKey, ExportKeyRequest,
    Key, KeySettings, ListKeysRequest, Resource, RotateKey, StringSet, change_key_request::Change, resource,
};
use bonafide_wire::kms::keys_client::KeysClient;
use bonafide_wire::kms::{
    DecryptItem, DecryptRequest, EncryptItem, EncryptLease, EncryptRequest, GetPublicKeyRequest, LeaseItem,
    LeaseRequest, LeaseUse, OnBehalfOf, RandomRequest, RenewLeasesRequest, SignItem, SignRequest, lease_item,
};
use bonafide_wire::node::authority_message::Kind as Heard;
use bonafide_wire::problem_of;
use bonafide_wire::types::{Policy, Scope, Site};
use bytes::Bytes;
use tonic::Status;
use tonic::transport::Channel;

use crate::agents::{Agent, Instance, dial};
use crate::world::{World, entry, in_time, trust_domain};

const WEB: &str = "
kind: Policy
name: web
rules:
- name: web-encrypts
  allow: {who: {id: spiffe://example.org/app/web}, can: [encrypt, decrypt, sign, public-key], on: {key: orders/**}}
";

pub async fn apply(world: &mut World, source: &str) -> u64 {
    let policy = Policy { source: source.into(), ..Policy::default() };
    let resources = vec![Resource { resource: Some(resource::Resource::Policy(policy)) }];
    let answer = world.admin.apply(ApplyRequest { resources, ..ApplyRequest::default() }).await.unwrap();
    assert!(answer.get_ref().committed, "{answer:?}");
    answer.into_inner().revision
}

async fn create(world: &mut World, name: &str, key_type: &str) {
    let request =
        CreateKeyRequest { name: name.into(), r#type: key_type.into(), ..CreateKeyRequest::default() };
    world.admin.create_key(request).await.unwrap();
}

async fn change(world: &mut World, name: &str, change: Change) -> Result<(), Status> {
    let request = ChangeKeyRequest { name: name.into(), change: Some(change), ..ChangeKeyRequest::default() };
    world.admin.change_key(request).await.map(drop)
}

/// A world with the workload `web`, its key and its policy.
async fn world() -> World {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    world.put(entry("db", "/app/db")).await;
    create(&mut world, "orders/pii", "").await;
    apply(&mut world, WEB).await;
    world
}

pub async fn keys(agent: &Agent) -> KeysClient<Channel> {
    KeysClient::new(agent.channel().await)
}

pub fn on_behalf_of(instance: &Instance) -> Option<OnBehalfOf> {
    Some(OnBehalfOf {
        instance: Bytes::copy_from_slice(instance.id.as_bytes()),
        chain: instance.chain.clone(),
    })
}

fn encrypt(instance: Option<OnBehalfOf>) -> EncryptRequest {
    let item = EncryptItem { plaintext: Bytes::from_static(b"plain"), ..EncryptItem::default() };
    EncryptRequest { key: "orders/pii".into(), items: vec![item], on_behalf_of: instance }
}

fn decrypt(ciphertext: &Bytes, instance: Option<OnBehalfOf>) -> DecryptRequest {
    let item = DecryptItem { ciphertext: ciphertext.clone(), context: BTreeMap::new() };
    DecryptRequest { key: "orders/pii".into(), items: vec![item], on_behalf_of: instance }
}

/// The ciphertext, or the code of why there is none.
async fn encrypted(client: &mut KeysClient<Channel>, of: Option<OnBehalfOf>) -> Result<Bytes, String> {
    let answer = client.encrypt(encrypt(of)).await.map_err(|status| problem_of(&status).code)?;
    let result = answer.into_inner().results.pop().unwrap();
    result.problem.map_or(Ok(result.ciphertext), |problem| Err(problem.code))
}

async fn decrypted(
    client: &mut KeysClient<Channel>,
    ciphertext: &Bytes,
    of: Option<OnBehalfOf>,
) -> Result<u32, String> {
    let answer = client.decrypt(decrypt(ciphertext, of)).await.map_err(|status| problem_of(&status).code)?;
    let result = answer.into_inner().results.pop().unwrap();
    match result.problem {
        Some(problem) => Err(problem.code),
        None => {
            assert_eq!(&*result.plaintext, b"plain");
            Ok(result.version)
        }
    }
}

/// The connection of a workload by itself.
async fn as_workload(agent: &Agent, instance: &Instance) -> KeysClient<Channel> {
    let chain = instance.chain.iter().map(|der| Certificate::from_der(der).unwrap()).collect();
    let pkcs8 = instance.key.to_pkcs8_der();
    let key = bonafide_crypto::key::PrivateKey::from_pkcs8_der(&pkcs8).unwrap();
    let slot = IdentitySlot::new();
    slot.set(&X509Svid::new(chain, key, None).unwrap());
    let servers = Authorizer::member_of(trust_domain());
    let config = bonafide_tls::client_config(Some(&slot), &agent.trust, servers, agent.clock.clone());
    KeysClient::new(dial(&agent.address, &config.unwrap()).await.unwrap())
}

#[tokio::test]
async fn an_agent_asks_for_its_own_instances_and_for_nobody_else() {
    let mut world = world().await;
    let (one, two) = (Agent::join(&mut world, "lab").await, Agent::join(&mut world, "lab").await);
    let mut stream = one.connect().await;
    let web = stream.issue("web").await.unwrap();
    let db = stream.issue("db").await.unwrap();
    let (mut of_one, mut of_two) = (keys(&one).await, keys(&two).await);
    let ciphertext = encrypted(&mut of_one, on_behalf_of(&web)).await.unwrap();
    // The chain is known now.
    let known = Some(OnBehalfOf { chain: vec![], ..on_behalf_of(&web).unwrap() });
    assert_eq!(decrypted(&mut of_one, &ciphertext, known.clone()).await, Ok(1));
    let refused = |code: &str| Err::<Bytes, _>(code.to_owned());
    // A copied certificate is of no use to another node, whether or not this server has seen it.
    for stolen in [on_behalf_of(&web), known] {
        assert_eq!(encrypted(&mut of_two, stolen).await, refused("kms.not-its-agent"));
    }
    let unknown = Some(OnBehalfOf { chain: vec![], ..on_behalf_of(&db).unwrap() });
    assert_eq!(encrypted(&mut of_one, unknown).await, refused("kms.instance-unknown"));
    // The chain of one with the name of another.
    let mixed = Some(OnBehalfOf { chain: web.chain.clone(), ..on_behalf_of(&db).unwrap() });
    assert_eq!(encrypted(&mut of_one, mixed).await, refused("kms.chain"));
    let noise = Some(OnBehalfOf { chain: vec![Bytes::from_static(b"x")], ..on_behalf_of(&db).unwrap() });
    assert_eq!(encrypted(&mut of_one, noise).await, refused("kms.chain"));
    assert_eq!(encrypted(&mut of_one, on_behalf_of(&db)).await, refused("kms.denied"));
    assert_eq!(encrypted(&mut of_one, None).await, refused("kms.agent-itself"));
    let short = Some(OnBehalfOf { instance: Bytes::from_static(b"x"), chain: vec![] });
    assert_eq!(encrypted(&mut of_one, short).await, refused("kms.instance"));
    // The instance's process ends.
    let end = bonafide_wire::node::End { instance: Bytes::copy_from_slice(web.id.as_bytes()), ended_at: 1 };
    let request = stream.request();
    let report = bonafide_wire::node::Report { request, launches: vec![], ends: vec![end] };
    stream.ask(bonafide_wire::node::agent_message::Kind::Report(report)).await.unwrap();
    assert_eq!(encrypted(&mut of_one, on_behalf_of(&web)).await, refused("kms.instance-over"));
}

#[tokio::test]
async fn a_workload_asks_for_itself_and_a_stranger_for_nothing() {
    let mut world = world().await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let (web, db) = (stream.issue("web").await.unwrap(), stream.issue("db").await.unwrap());
    let (mut as_web, mut as_db) = (as_workload(&agent, &web).await, as_workload(&agent, &db).await);
    let ciphertext = encrypted(&mut as_web, None).await.unwrap();
    assert_eq!(decrypted(&mut as_web, &ciphertext, None).await, Ok(1));
    assert_eq!(decrypted(&mut as_db, &ciphertext, None).await, Err("kms.denied".into()));
    let posed = encrypted(&mut as_db, on_behalf_of(&web)).await;
    assert_eq!(posed, Err("kms.not-an-agent".into()));
    let random = RandomRequest { bytes: 32, on_behalf_of: None };
    assert_eq!(as_db.random(random).await.unwrap().into_inner().random.len(), 32);
    let random = RandomRequest { bytes: 1 << 20, on_behalf_of: None };
    assert_eq!(problem_of(&as_db.random(random).await.unwrap_err()).code, "kms.random-length");
    // Leases are for agents.
    let item = LeaseItem {
        key: "orders/pii".into(),
        r#use: Some(lease_item::Use::Encrypt(EncryptLease {})),
        ..LeaseItem::default()
    };
    let refused = as_web.lease(LeaseRequest { items: vec![item], on_behalf_of: None }).await.unwrap_err();
    assert_eq!(problem_of(&refused).code, "kms.not-an-agent");
    let renewal = RenewLeasesRequest { leases: vec![LeaseUse::default()] };
    assert_eq!(problem_of(&as_web.renew_leases(renewal).await.unwrap_err()).code, "kms.not-an-agent");
    // Nobody without an SVID is let in so far.
    let servers = Authorizer::member_of(trust_domain());
    let config = bonafide_tls::client_config(None, &agent.trust, servers, agent.clock.clone());
    let mut stranger = KeysClient::new(dial(&agent.address, &config.unwrap()).await.unwrap());
    assert!(in_time(stranger.encrypt(encrypt(None))).await.is_err());
}

#[tokio::test]
async fn an_agent_hears_within_two_seconds_that_a_lease_is_over() {
    let mut world = world().await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let web = stream.issue("web").await.unwrap();
    let mut client = keys(&agent).await;
    let item = LeaseItem {
        key: "orders/pii".into(),
        context: [("tenant".to_owned(), "t1".to_owned())].into(),
        r#use: Some(lease_item::Use::Encrypt(EncryptLease {})),
    };
    let request = LeaseRequest { items: vec![item], on_behalf_of: on_behalf_of(&web) };
    let leased = client.lease(request.clone()).await.unwrap().into_inner().results.pop().unwrap();
    assert_eq!((leased.problem, leased.data_key.len(), leased.name.as_str()), (None, 32, "orders/pii"));
    let withdrawn = std::time::Instant::now();
    let delete = DeleteRequest { name: "web".into(), ..DeleteRequest::default() };
    world.admin.delete_policy(delete).await.unwrap();
    let Heard::LeasesEnded(ended) = stream.next().await.unwrap() else { panic!() };
    assert!(withdrawn.elapsed() < Duration::from_secs(2));
    assert_eq!(ended.ended[0].lease, leased.lease);
    assert_eq!(ended.ended[0].problem.as_ref().unwrap().code, "kms.denied");
    let refused = client.lease(request.clone()).await.unwrap().into_inner().results.pop().unwrap();
    assert_eq!(refused.problem.unwrap().code, "kms.denied");

    // A ban ends everything.
    apply(&mut world, WEB).await;
    client.lease(request.clone()).await.unwrap();
    drop(stream);
    let ban = bonafide_wire::admin::BanAgentRequest {
        id: agent.id.to_string(),
        reason: "test".into(),
        ..Default::default()
    };
    world.admin.ban_agent(ban).await.unwrap();
    let refused = in_time(client.lease(request)).await.unwrap_err();
    assert_eq!(problem_of(&refused).code, "agent.banned");
}

#[tokio::test]
async fn servers_of_one_trust_domain_hold_the_same_keys() {
    let database = bonafide_testkit::Postgres::shared().unwrap().database();
    let mut first = World::on(Some(database)).await;
    first.put_site("lab", &["spiffe://example.org/app/**"]).await;
    first.put(entry("web", "/app/web")).await;
    create(&mut first, "orders/pii", "").await;
    apply(&mut first, WEB).await;
    let mut agent = Agent::join(&mut first, "lab").await;
    let web = agent.connect().await.issue("web").await.unwrap();
    let mut at_first = keys(&agent).await;
    let before = encrypted(&mut at_first, on_behalf_of(&web)).await.unwrap();
    let mut second = first.beside("second").await;
    change(&mut second, "orders/pii", Change::Rotate(RotateKey::default())).await.unwrap();
    agent.address = second.running().node_address().to_string();
    let mut at_second = keys(&agent).await;
    assert_eq!(decrypted(&mut at_second, &before, on_behalf_of(&web)).await, Ok(1));
    let after = encrypted(&mut at_second, on_behalf_of(&web)).await.unwrap();
    // What the second has written the first sees a moment later.
    let opened = in_time(async {
        loop {
            match decrypted(&mut at_first, &after, on_behalf_of(&web)).await {
                Err(code) if code == "kms.no-version" => tokio::task::yield_now().await,
                other => return other,
            }
        }
    });
    assert_eq!(opened.await, Ok(2));
    // The first is gone; nothing is lost.
    first.stop().await;
    assert_eq!(decrypted(&mut at_second, &before, on_behalf_of(&web)).await, Ok(1));
}

#[tokio::test]
async fn keys_are_made_changed_and_destroyed_by_operators_and_survive_a_restart() {
    let mut world = world().await;
    let agent = Agent::join(&mut world, "lab").await;
    let web = agent.connect().await.issue("web").await.unwrap();
    let ciphertext = encrypted(&mut keys(&agent).await, on_behalf_of(&web)).await.unwrap();
    let again = CreateKeyRequest { name: "orders/pii".into(), ..CreateKeyRequest::default() };
    assert_eq!(problem_of(&world.admin.create_key(again).await.unwrap_err()).code, "kms.name-taken");
    change(&mut world, "orders/pii", Change::AddAlias("pii".into())).await.unwrap();
    let alias = CreateKeyRequest { name: "pii".into(), ..CreateKeyRequest::default() };
    assert_eq!(problem_of(&world.admin.create_key(alias).await.unwrap_err()).code, "kms.name-taken");
    // Once, although it is sent twice.
    let rotate = ChangeKeyRequest {
        name: "pii".into(),
        change: Some(Change::Rotate(RotateKey::default())),
        idempotency_key: "one".into(),
    };
    for _ in 0..2 {
        let key = world.admin.change_key(rotate.clone()).await.unwrap().into_inner().key.unwrap();
        assert_eq!(key.versions.len(), 2);
    }
    let export = ExportKeyRequest { name: "pii".into(), version: 0 };
    assert_eq!(problem_of(&world.admin.export_key(export).await.unwrap_err()).code, "kms.not-exportable");
    let import = CreateKeyRequest {
        name: "orders/in".into(),
        r#type: "hmac-sha256".into(),
        exportable: true,
        material: Bytes::from_static(&[7; 32]),
        ..CreateKeyRequest::default()
    };
    world.admin.create_key(import).await.unwrap();
    let export = ExportKeyRequest { name: "orders/in".into(), version: 0 };
    let exported = world.admin.export_key(export).await.unwrap().into_inner();
    assert_eq!((exported.version, &*exported.material), (1, &[7; 32][..]));
    for (name, key_type, code) in [
        ("", "", "kms.key-name"),
        ("a b", "", "kms.key-name"),
        ("good", "rot13", "kms.key-type"),
        ("good", "rsa-512", "kms.key-type"),
    ] {
        let request =
            CreateKeyRequest { name: name.into(), r#type: key_type.into(), ..CreateKeyRequest::default() };
        assert_eq!(problem_of(&world.admin.create_key(request).await.unwrap_err()).code, code);
    }

    let mut world = world.restart().await;
    let mut agent = agent;
    agent.address = world.running().node_address().to_string();
    let mut client = keys(&agent).await;
    assert_eq!(decrypted(&mut client, &ciphertext, on_behalf_of(&web)).await, Ok(1));
    let early = DestroyKey { version: 0, grace: 60 };
    let refused = change(&mut world, "pii", Change::Destroy(early)).await.unwrap_err();
    assert_eq!(problem_of(&refused).code, "kms.grace-too-short");
    change(&mut world, "pii", Change::Destroy(DestroyKey { version: 0, grace: 3600 })).await.unwrap();
    assert_eq!(
        decrypted(&mut client, &ciphertext, on_behalf_of(&web)).await,
        Err("kms.key-destroy-scheduled".into())
    );
    change(&mut world, "pii", Change::Restore(Default::default())).await.unwrap();
    change(&mut world, "pii", Change::Enable(Default::default())).await.unwrap();
    assert_eq!(decrypted(&mut client, &ciphertext, on_behalf_of(&web)).await, Ok(1));
    let delete = DeleteRequest { name: "pii".into(), ..DeleteRequest::default() };
    assert_eq!(
        problem_of(&world.admin.delete_key(delete.clone()).await.unwrap_err()).code,
        "kms.not-destroyed"
    );
    change(&mut world, "pii", Change::Destroy(DestroyKey { version: 0, grace: 3600 })).await.unwrap();
    world.clock.advance(Duration::from_secs(3600));
    in_time(async {
        loop {
            let request = ListKeysRequest { name: "pii".into(), ..ListKeysRequest::default() };
            let key = world.admin.list_keys(request).await.unwrap().into_inner().keys.pop().unwrap();
            if key.state == "destroyed" {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    world.admin.delete_key(delete).await.unwrap();
    create(&mut world, "orders/pii", "").await;
    let (_directory, config, _) = world.stop().await;
    // And the ledger has all of it.
    let key = std::fs::read_to_string(config.data_dir.join("key-ledger.pub")).unwrap();
    let key = key.trim().parse().unwrap();
    let (report, contents) = verify_key_ledger(&config.data_dir.join("key-ledger"), &key).unwrap();
    assert_eq!(report.unsigned, 0);
    assert!(contents.changes >= 8 && contents.operations >= 2, "{contents:?}");
    assert_eq!((contents.open_intents, contents.unknown), (0, 0));
}

#[tokio::test]
async fn admins_of_sites_have_the_keys_of_their_sites_and_no_others() {
    let mut world = world().await;
    let scope = Scope {
        spiffe_ids: vec!["spiffe://example.org/app/**".into()],
        admin: vec!["lab".into()],
        ..Scope::default()
    };
    let site = Site { name: "lab".into(), scope: Some(scope), ..Site::default() };
    world
        .admin
        .put_site(bonafide_wire::admin::PutSiteRequest { site: Some(site), ..Default::default() })
        .await
        .unwrap();
    let mut boss = entry("boss", "/app/boss");
    boss.admin = vec!["lab".into()];
    world.put(boss).await;
    let agent = Agent::join(&mut world, "lab").await;
    let boss = agent.connect().await.issue("boss").await.unwrap();
    let chain = boss.chain.iter().map(|der| Certificate::from_der(der).unwrap()).collect();
    let key = bonafide_crypto::key::PrivateKey::from_pkcs8_der(&boss.key.to_pkcs8_der()).unwrap();
    let slot = IdentitySlot::new();
    slot.set(&X509Svid::new(chain, key, None).unwrap());
    let servers = Authorizer::member_of(trust_domain());
    let config = bonafide_tls::client_config(Some(&slot), &agent.trust, servers, agent.clock.clone());
    let channel = dial(&agent.address, &config.unwrap()).await.unwrap();
    let mut admin = bonafide_wire::admin::admin_client::AdminClient::new(channel);
    let of = |sites: &[&str]| {
        let values = sites.iter().map(|site| (*site).to_owned()).collect();
        Some(KeySettings { sites: Some(StringSet { values }), ..KeySettings::default() })
    };
    let request = |name: &str, sites: &[&str]| CreateKeyRequest {
        name: name.into(),
        settings: of(sites),
        ..CreateKeyRequest::default()
    };
    admin.create_key(request("lab/own", &["lab"])).await.unwrap();
    world.put_site("edge", &["spiffe://example.org/edge/**"]).await;
    for (sites, code) in [
        (&[][..], "admin.local-only"),
        (&["edge"], "admin.other-site"),
        (&["edge", "lab"], "admin.other-site"),
    ] {
        let refused = admin.create_key(request("lab/other", sites)).await.unwrap_err();
        assert_eq!(problem_of(&refused).code, code, "{sites:?}");
    }
    let listed = admin.list_keys(ListKeysRequest::default()).await.unwrap().into_inner().keys;
    assert_eq!(listed.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["lab/own"]);
    let rotate = |name: &str| ChangeKeyRequest {
        name: name.into(),
        change: Some(Change::Rotate(RotateKey::default())),
        ..ChangeKeyRequest::default()
    };
    admin.change_key(rotate("lab/own")).await.unwrap();
    let refused = admin.change_key(rotate("orders/pii")).await.unwrap_err();
    assert_eq!(problem_of(&refused).code, "kms.unknown-key");
    let export = ExportKeyRequest { name: "orders/pii".into(), version: 0 };
    assert_eq!(problem_of(&admin.export_key(export).await.unwrap_err()).code, "kms.unknown-key");
    // Nor does he give his own to everybody.
    let everybody = ChangeKeyRequest {
        name: "lab/own".into(),
        change: Some(Change::Configure(of(&[]).unwrap())),
        ..ChangeKeyRequest::default()
    };
    assert_eq!(problem_of(&admin.change_key(everybody).await.unwrap_err()).code, "admin.local-only");
}

#[tokio::test]
async fn signatures_are_checked_with_the_public_key_alone() {
    let mut world = world().await;
    create(&mut world, "orders/sign", "ecdsa-p256").await;
    let agent = Agent::join(&mut world, "lab").await;
    let web = agent.connect().await.issue("web").await.unwrap();
    let mut client = keys(&agent).await;
    let item = SignItem { message: Bytes::from_static(b"message"), ..SignItem::default() };
    let sign = SignRequest {
        key: "orders/sign".into(),
        items: vec![item.clone()],
        on_behalf_of: on_behalf_of(&web),
    };
    let signed = client.sign(sign.clone()).await.unwrap().into_inner().results.pop().unwrap();
    assert_eq!(signed.algorithm, "ecdsa-p256-sha256");
    change(&mut world, "orders/sign", Change::Rotate(RotateKey::default())).await.unwrap();
    let public =
        GetPublicKeyRequest { key: "orders/sign".into(), versions: vec![], on_behalf_of: on_behalf_of(&web) };
    let public = in_time(async {
        loop {
            let keys = client.get_public_key(public.clone()).await.unwrap().into_inner().results;
            if keys.len() == 2 {
                return keys;
            }
        }
    })
    .await;
    let key = bonafide_crypto::key::PublicKey::from_spki_der(&public[0].spki).unwrap();
    let algorithm = bonafide_crypto::key::SignatureAlgorithm::EcdsaP256Sha256;
    key.verify(algorithm, b"message", &signed.raw).unwrap();
    let none = SignItem { algorithm: "rot13".into(), ..item };
    let refused = client.sign(SignRequest { items: vec![none], ..sign }).await.unwrap_err();
    assert_eq!(problem_of(&refused).code, "kms.algorithm");
}

fn described(name: &str, key_type: &str) -> Key {
    Key { name: name.into(), r#type: key_type.into(), ..Key::default() }
}

fn resources(keys: &[Key]) -> ApplyRequest {
    let resource = |key: &Key| Resource { resource: Some(resource::Resource::Key(key.clone())) };
    ApplyRequest { resources: keys.iter().map(resource).collect(), ..ApplyRequest::default() }
}

/// Actions and codes, one for each result.
async fn applied(world: &mut World, request: ApplyRequest) -> Vec<String> {
    let answer = world.admin.apply(request).await.unwrap().into_inner();
    let told = |result: &Applied| {
        let action = result.action().as_str_name().trim_start_matches("ACTION_").to_lowercase();
        match &result.problem {
            Some(problem) => format!("{action} {}", problem.code),
            None => action,
        }
    };
    let told: Vec<String> = answer.results.iter().map(told).collect();
    assert_eq!(
        answer.committed,
        told.iter().any(|told| told != "unchanged") && !told.iter().any(|told| told.starts_with("refused"))
    );
    told
}

#[tokio::test]
async fn keys_become_what_is_described_and_keep_what_they_encrypted() {
    let mut world = world().await;
    let agent = Agent::join(&mut world, "lab").await;
    let web = agent.connect().await.issue("web").await.unwrap();
    let mut client = keys(&agent).await;
    let ciphertext = encrypted(&mut client, on_behalf_of(&web)).await.unwrap();

    let pii = Key {
        aliases: vec!["pii".into()],
        settings: Some(KeySettings { rotation: Some(86_400), ..KeySettings::default() }),
        ..described("orders/pii", "")
    };
    let new = described("orders/new", "ecdsa-p256");
    let dry = ApplyRequest { dry_run: true, ..resources(&[pii.clone(), new.clone()]) };
    let planned = world.admin.apply(dry).await.unwrap().into_inner();
    assert!(!planned.committed && planned.results.iter().all(|result| result.after.is_some()));
    assert_eq!(applied(&mut world, resources(&[pii.clone(), new.clone()])).await, ["changed", "created"]);
    assert_eq!(applied(&mut world, resources(&[pii.clone(), new.clone()])).await, ["unchanged", "unchanged"]);
    assert_eq!(decrypted(&mut client, &ciphertext, on_behalf_of(&web)).await, Ok(1));
    // Idempotent, although a key that is drawn again would be another one.
    let once = ApplyRequest { idempotency_key: "once".into(), ..resources(&[described("orders/once", "")]) };
    let first = world.admin.apply(once.clone()).await.unwrap().into_inner();
    let list = |name: &str| ListKeysRequest { name: name.into(), ..ListKeysRequest::default() };
    let born = world.admin.list_keys(list("orders/once")).await.unwrap().into_inner().keys;
    let again = world.admin.apply(once).await.unwrap().into_inner();
    assert_eq!((again.revision, again.replayed), (first.revision, true));
    assert_eq!(world.admin.list_keys(list("orders/once")).await.unwrap().into_inner().keys, born);

    // Each of these refuses all of it.
    for (key, code) in [
        (described("orders/new", "rsa-2048"), "kms.born-otherwise"),
        (Key { exportable: true, ..described("orders/new", "ecdsa-p256") }, "kms.born-otherwise"),
        (described("pii", ""), "kms.name-taken"),
        (Key { aliases: vec!["pii".into()], ..described("orders/new", "ecdsa-p256") }, "kms.name-taken"),
        (described("a b", ""), "kms.key-name"),
        (described("x", "rot13"), "kms.key-type"),
        (described("orders/fresh", ""), "apply.twice"),
        (Key { aliases: vec!["orders/fresh".into()], ..described("x", "") }, "kms.name-taken"),
    ] {
        let told = applied(&mut world, resources(&[described("orders/fresh", ""), key])).await;
        assert_eq!(told, ["created".to_owned(), format!("refused {code}")]);
        assert!(world.admin.list_keys(list("orders/fresh")).await.is_err());
    }
    // What was looked at must still be so.
    let stale = bonafide_wire::admin::Compared {
        kind: bonafide_wire::admin::ResourceKind::Key.into(),
        name: "orders/pii".into(),
        revision: 1,
    };
    let back = ApplyRequest { compared: vec![stale], ..resources(&[described("orders/pii", "")]) };
    assert_eq!(applied(&mut world, back).await, ["refused apply.changed-meanwhile"]);

    let (_directory, config, _) = world.stop().await;
    let key = std::fs::read_to_string(config.data_dir.join("key-ledger.pub")).unwrap();
    let (_, contents) =
        verify_key_ledger(&config.data_dir.join("key-ledger"), &key.trim().parse().unwrap()).unwrap();
    assert_eq!((contents.open_intents, contents.unknown), (0, 0));
    // Each server has a ledger of its own.
    assert!(contents.changes >= 4 || bonafide_testkit::two_servers(), "{contents:?}");
}
