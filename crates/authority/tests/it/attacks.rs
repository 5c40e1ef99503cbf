//! What a compromised agent, a stranger on the network, and somebody with the data directory try.

use std::sync::Arc;
use std::time::Duration;

use bonafide_attest::join::JoinLine;
use bonafide_authority::records::{Object, SigningKey, signing_key, signing_key_key};
use bonafide_ca::lint::lint;
use bonafide_ca::template::{self, NodeLeaf};
use bonafide_ca::{CertificateAuthority, SerialNumber, Validity, sign_intermediate};
use bonafide_crypto::key::PrivateKey;
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::attributes::{Attribute, Attributes};
use bonafide_identity::{Certificate, SpiffeId, X509Svid};
use bonafide_keyring::{KeyFileSeal, Keyring};
use bonafide_store::{SqliteStore, Store};
use bonafide_wire::admin::{BanAgentRequest, PutSiteRequest, PutSiteResponse};
use bonafide_wire::node::agent_message::Kind as Say;
use bonafide_wire::node::authority_message::Kind as Heard;
use bonafide_wire::node::{Hello, IssueJwt, IssueX509};
use bonafide_wire::problem_of;
use bytes::Bytes;
use tonic::{Code, Request};

use crate::agents::{Agent, dial, new_key, pinned, request_for};
use crate::world::{World, entry, in_time, trust_domain};

fn jwt(request: u64, audience: Vec<String>) -> Say {
    Say::IssueJwt(IssueJwt { request, registration: "web".into(), audience, ..IssueJwt::default() })
}

#[tokio::test]
async fn what_is_too_long_is_neither_logged_nor_said_again_and_harms_nobody_else() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;

    // An entry that the ledger can't hold fails together with all that are appended with it.
    for (audience, code) in [
        (vec!["a".repeat(100_000)], "issuance.too-large"),
        (vec!["a".repeat(2000); 31], "issuance.audience"),
        (vec!["a".into(); 33], "issuance.audience"),
        (vec![String::new()], "issuance.audience"),
        (vec![], "issuance.audience"),
    ] {
        let request = stream.request();
        let problem = stream.ask(jwt(request, audience)).await.unwrap_err();
        assert_eq!(problem.code, code);
    }
    let long = "x".repeat(60_000);
    let (csr, registration) = (request_for(&new_key()), "web".to_owned());
    for (registration, csr) in [(long, csr), (registration, Bytes::from(vec![0; 100_000]))] {
        let ask = IssueX509 { request: stream.request(), registration, csr, ..IssueX509::default() };
        let problem = stream.ask(Say::IssueX509(ask)).await.unwrap_err();
        assert_eq!(problem.code, "issuance.too-large");
        assert!(problem.message.len() < 200, "an answer must not be as large as the request");
    }
    stream.issue("web").await.unwrap();
}

#[tokio::test]
async fn an_agent_holds_two_streams_and_begins_them_slowly() {
    let mut world = World::new().await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut first = agent.connect().await;
    let second = agent.connect().await;
    let _third = agent.connect().await;
    assert!(first.next().await.is_err(), "the newest stream takes the place of the oldest");
    second.acknowledge().await;

    let mut last = None;
    for _ in 0..40 {
        match in_time(agent.try_connect(Hello::default())).await {
            Ok(_) => {}
            Err(status) => last = Some(problem_of(&status).code),
        }
    }
    assert_eq!(last.as_deref(), Some("stream.too-often"));
}

#[tokio::test]
async fn a_connection_that_outlives_its_certificate_begins_no_stream() {
    let mut world = World::new().await;
    let agent = Agent::join(&mut world, "lab").await;
    let channel = agent.channel().await;
    let mut node = bonafide_wire::node::node_client::NodeClient::new(channel);
    world.clock.advance(Duration::from_secs(3600));
    let status = in_time(node.connect(tokio_stream::pending())).await.unwrap_err();
    assert_eq!(problem_of(&status).code, "stream.svid-expired");
}

#[tokio::test]
async fn a_stranger_can_not_make_the_server_hold_his_message() {
    let mut world = World::new().await;
    let line: JoinLine = world.join_line("lab").await.parse().unwrap();
    let channel = dial(&line.address, &pinned(&line, &world)).await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/bonafide.admin.v1.Admin/PutSite");
    let codec = tonic_prost::ProstCodec::<PutSiteRequest, PutSiteResponse>::default();
    // A message that never comes to its end: who waits for it has not asked yet who sends it.
    let endless = Request::new(tokio_stream::pending::<PutSiteRequest>());
    let status = in_time(client.client_streaming(endless, path, codec)).await.unwrap_err();
    assert_eq!(
        (status.code(), problem_of(&status).code.as_str()),
        (Code::Unauthenticated, "admin.unauthenticated")
    );
}

#[tokio::test]
async fn a_ledger_that_was_removed_or_cut_is_noticed() {
    let mut world = World::new().await;
    let agent = Agent::join(&mut world, "lab").await;
    let ban = BanAgentRequest { id: agent.id.to_string(), ..BanAgentRequest::default() };
    world.admin.ban_agent(ban).await.unwrap();
    let (directory, mut config, clock) = world.stop().await;
    let ledger = config.data_dir.join("ledger");

    std::fs::rename(ledger.join("checkpoint"), directory.path().join("checkpoint")).unwrap();
    let unsigned = World::start(directory.clone(), config.clone(), clock.clone()).await.err().unwrap();
    assert_eq!(unsigned.code(), "ledger.rolled-back", "the store could be rolled back unnoticed");
    std::fs::rename(directory.path().join("checkpoint"), ledger.join("checkpoint")).unwrap();
    let mut world = World::start(directory.clone(), config.clone(), clock.clone()).await.unwrap();
    world.stop().await;

    std::fs::remove_dir_all(&ledger).unwrap();
    let gone = World::start(directory.clone(), config.clone(), clock.clone()).await.err().unwrap();
    assert_eq!(gone.code(), "ledger.rolled-back");
    let again = World::start(directory.clone(), config.clone(), clock.clone()).await.err().unwrap();
    assert_eq!(again.code(), "ledger.rolled-back", "one refusal does not mend it");

    config.accept_restore = true;
    let mut world = World::start(directory.clone(), config.clone(), clock.clone()).await.unwrap();
    world.stop().await;
    config.accept_restore = false;
    World::start(directory, config, clock).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_ban_ends_what_is_in_flight() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let ban = BanAgentRequest { id: agent.id.to_string(), ..BanAgentRequest::default() };
    world.admin.ban_agent(ban).await.unwrap();
    // Asked after the ban has been acknowledged to the operator: whatever comes first, it is no SVID.
    let ask = IssueX509 {
        request: stream.request(),
        registration: "web".into(),
        csr: request_for(&new_key()),
        ..IssueX509::default()
    };
    let _closed =
        stream.say.send(bonafide_wire::node::AgentMessage { kind: Some(Say::IssueX509(ask)) }).await;
    while let Ok(heard) = stream.next().await {
        assert!(matches!(heard, Heard::Banned(_) | Heard::Refused(_)), "{heard:?}");
    }
}

/// Whoever has read a server's disk, with the seal.
struct Thief {
    keys: Vec<(Arc<SigningKey>, PrivateKey)>,
}

impl Thief {
    /// The server is down.
    async fn of(data: &std::path::Path) -> Self {
        let seal = KeyFileSeal::open(data.join("seal.key")).unwrap();
        let keyring = Keyring::open(data.join("keyring"), &seal).unwrap();
        let store = SqliteStore::open_existing(data.join("store.sqlite"), keyring.mac_key("store")).unwrap();
        let objects = store.snapshot().await.unwrap().objects;
        let keys = objects.iter().filter_map(|object| {
            match Object::decode(&object.key, &object.value, object.revision.0).unwrap() {
                Some(Object::SigningKey(key)) if !key.certificate.is_empty() => {
                    let opened = keyring.unwrap(&signing_key_key(&key.id), &key.wrapped_key).unwrap();
                    Some((key, PrivateKey::from_pkcs8_der(&opened).unwrap()))
                }
                _ => None,
            }
        });
        Self { keys: keys.collect() }
    }

    fn stolen(&self, usage: signing_key::Use) -> (Certificate, PrivateKey) {
        let (record, key) = self.keys.iter().find(|(record, _)| record.r#use() == usage).unwrap();
        let key = PrivateKey::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
        (Certificate::from_der(&record.certificate).unwrap(), key)
    }

    /// An SVID of this agent, under the intermediate that he has, or under one of his own.
    fn agent(&self, id: &SpiffeId, by_root: bool, world: &World) -> X509Svid {
        let validity = Validity::starting(world.clock().now(), Duration::from_secs(3600)).unwrap();
        let serial = || SerialNumber::random(&SystemRandom);
        let (intermediate, signer) = if by_root {
            let ((root, root_key), key) = (self.stolen(signing_key::Use::Root), new_key());
            let signed =
                sign_intermediate(&trust_domain(), &root, &root_key, key.public_key(), validity, serial());
            (signed.unwrap(), key)
        } else {
            self.stolen(signing_key::Use::Intermediate)
        };
        let key = new_key();
        let attributes = Attributes { attributes: vec![Attribute::site("lab")], ..Attributes::default() };
        let leaf = NodeLeaf {
            id: id.clone(),
            public_key: key.public_key().clone(),
            dns_names: Vec::new(),
            attributes: attributes.encode().unwrap(),
            validity,
            serial: serial(),
        };
        let linted = lint(&template::agent(leaf, &intermediate).unwrap(), &intermediate).unwrap();
        let authority = CertificateAuthority::new(vec![intermediate.clone()], Arc::new(signer)).unwrap();
        let leaf = Certificate::from_der(&authority.issue(linted).unwrap()).unwrap();
        X509Svid::new(vec![leaf, intermediate], key, None).unwrap()
    }
}

/// With what he signs himself he would be renewed, and what he gets then is good when the stolen key is revoked.
#[tokio::test]
async fn a_thief_of_an_authority_is_no_agent() {
    let mut world = World::new().await;
    if !world.config.data_dir.join("store.sqlite").exists() {
        return;
    }
    let agent = Agent::join(&mut world, "lab").await;
    let (directory, mut config, clock) = world.stop().await;
    let thief = Thief::of(&config.data_dir).await;
    let at = |agent: &Agent, world: &World| {
        let address = world.running().node_address().to_string();
        Agent::new(agent.id.clone(), address, agent.slot.clone(), agent.trust.clone(), world)
    };
    let mut world = World::start(directory.clone(), config.clone(), clock.clone()).await.unwrap();
    for by_root in [false, true] {
        let forged = at(&agent, &world);
        let forged = Agent { slot: bonafide_tls::IdentitySlot::new(), ..forged };
        forged.slot.set(&thief.agent(&agent.id, by_root, &world));
        let mut stream = in_time(forged.try_connect(Hello::default())).await.unwrap();
        let refused = stream.next().await.unwrap_err();
        assert_eq!(problem_of(&refused).code, "stream.unlogged-svid", "by root: {by_root}");
    }
    // The agent itself is known to the server that has started again.
    at(&agent, &world).connect().await;

    // The ledger is lost, and that was accepted: nobody knows what stood there.
    world.stop().await;
    std::fs::remove_dir_all(config.data_dir.join("ledger")).unwrap();
    config.accept_restore = true;
    let world = World::start(directory, config, clock).await.unwrap();
    at(&agent, &world).connect().await;
}
