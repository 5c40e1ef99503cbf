//! Keys, from the admin who creates one to the workloads of two nodes that use it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bonafide_wire::{
    admin::{
        ApplyRequest, ChangeKeyRequest, CreateKeyRequest, Resource, RotateKey, change_key_request::Change,
        resource,
    },
    agent::{StatusRequest, agent_client::AgentClient},
    kms::{
        DecryptItem, DecryptRequest, EncryptItem, EncryptRequest, SignItem, SignRequest, VerifyItem,
        VerifyRequest, keys_client::KeysClient,
    },
    problem_of,
    types::Policy,
};
use bytes::Bytes;
use tonic::Request;

use crate::world::{World, local};

const WEB: &str = "
kind: Policy
name: keys
rules:
- name: web
  allow: {who: {id: spiffe://example.org/app/web}, can: [encrypt, decrypt, sign, verify], on: {key: '**'}}
";
const NOBODY: &str = "
kind: Policy
name: keys
rules:
- name: web
  allow: {who: {id: spiffe://example.org/app/nobody}, can: [encrypt], on: {key: '**'}}
";

async fn apply(world: &World, source: &str) {
    let policy = Policy { source: source.into(), ..Policy::default() };
    let resources = vec![Resource { resource: Some(resource::Resource::Policy(policy)) }];
    let request = ApplyRequest { resources, ..ApplyRequest::default() };
    assert!(world.admin().await.apply(request).await.unwrap().get_ref().committed);
}

async fn create(world: &World, name: &str, key_type: &str) {
    let request =
        CreateKeyRequest { name: name.into(), r#type: key_type.into(), ..CreateKeyRequest::default() };
    world.admin().await.create_key(request).await.unwrap();
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

/// Ciphertext and version, or the refusal's code and hint.
async fn encrypt(socket: &Path) -> Result<(Bytes, u32), (String, String)> {
    let context = [("tenant".to_owned(), "acme".to_owned())].into();
    let item = EncryptItem { plaintext: "4111".into(), context, version: 0 };
    let request = EncryptRequest { key: "orders".into(), items: vec![item], on_behalf_of: None };
    let answer = KeysClient::new(local(socket).await).encrypt(with_header(request)).await;
    let refused = |problem: bonafide_wire::types::Problem| (problem.code, problem.hint);
    let one = answer.map_err(|status| refused(problem_of(&status)))?.into_inner().results.remove(0);
    one.problem.map_or(Ok((one.ciphertext, one.version)), |problem| Err(refused(problem)))
}

async fn decrypt(socket: &Path, ciphertext: &Bytes) -> Result<Bytes, (String, String)> {
    let context = [("tenant".to_owned(), "acme".to_owned())].into();
    let item = DecryptItem { ciphertext: ciphertext.clone(), context };
    let request = DecryptRequest { key: "orders".into(), items: vec![item], on_behalf_of: None };
    let answer = KeysClient::new(local(socket).await).decrypt(with_header(request)).await;
    let refused = |problem: bonafide_wire::types::Problem| (problem.code, problem.hint);
    let one = answer.map_err(|status| refused(problem_of(&status)))?.into_inner().results.remove(0);
    one.problem.map_or(Ok(one.plaintext), |problem| Err(refused(problem)))
}

async fn world() -> World {
    let mut world = World::new().await;
    create(&world, "orders", "").await;
    apply(&world, WEB).await;
    // Keys outlive the server that they were made at. It ends here at the latest: what leases do in such a moment is not asked.
    world.fail_over().await;
    let line = world.join_line().await;
    world.start_agent(Some(&line)).await.unwrap();
    world.connected().await;
    world
}

async fn connected(socket: &Path) {
    let wait = async {
        loop {
            let mut client = AgentClient::new(local(socket).await);
            let status = client.status(StatusRequest {}).await.unwrap().into_inner();
            if status.connected && status.pooled > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_encrypted_before_a_rotation_another_agent_decrypts_without_the_authority() {
    let mut world = world().await;
    let (other, there) = world.another_agent("other").await;
    connected(&there).await;
    let (old, version) = encrypt(&world.socket).await.unwrap();
    assert_eq!(version, 1);
    let change = Some(Change::Rotate(RotateKey::default()));
    let request = ChangeKeyRequest { name: "orders".into(), change, ..ChangeKeyRequest::default() };
    world.admin().await.change_key(request).await.unwrap();
    let begun = Instant::now();
    while encrypt(&world.socket).await.unwrap().1 != 2 {
        assert!(begun.elapsed() < Duration::from_secs(2), "the old version is still in use");
    }
    assert_eq!(decrypt(&there, &old).await.unwrap(), "4111");

    world.stop_authority().await;
    assert_eq!(decrypt(&there, &old).await.unwrap(), "4111");
    world.clock.advance(Duration::from_secs(61));
    let (code, hint) = decrypt(&there, &old).await.unwrap_err();
    assert_eq!(code, "kms.stale");
    assert!(!hint.is_empty());
    other.stop().await.unwrap();
    world.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_policy_refuses_within_two_seconds_with_the_reason() {
    let mut world = world().await;
    encrypt(&world.socket).await.unwrap();
    apply(&world, NOBODY).await;
    let begun = Instant::now();
    let (code, hint) = loop {
        if let Err(refused) = encrypt(&world.socket).await {
            break refused;
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "it goes on");
    };
    assert_eq!(code, "kms.denied");
    assert!(!hint.is_empty());
    world.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_are_verified_here_also_without_the_authority() {
    let mut world = world().await;
    create(&world, "receipts", "ed25519").await;
    let mut client = KeysClient::new(local(&world.socket).await);
    let item = SignItem { message: "paid".into(), ..SignItem::default() };
    let request = SignRequest { key: "receipts".into(), items: vec![item], on_behalf_of: None };
    let signed = client.sign(with_header(request)).await.unwrap().into_inner().results.remove(0);
    assert_eq!(signed.problem, None);
    let mut verify = async |message: &'static str| {
        let signature = signed.signature.clone();
        let item = VerifyItem { message: message.into(), signature, ..VerifyItem::default() };
        let request = VerifyRequest { key: "receipts".into(), items: vec![item], on_behalf_of: None };
        let one = client.verify(with_header(request)).await.unwrap().into_inner().results.remove(0);
        assert_eq!(one.problem, None);
        one.valid
    };
    assert!(verify("paid").await);
    world.stop_authority().await;
    assert!(verify("paid").await);
    assert!(!verify("owed").await);
    world.stop_agent().await;
}
