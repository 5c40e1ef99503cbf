//! What agents are told, and how the server comes back.

use std::time::Duration;

use bonafide_authority::Authority;
use bonafide_authority::audit::{find_certificate, verify_ledger};
use bonafide_crypto::random::SystemRandom;
use bonafide_wire::admin::{DeleteRequest, WaitRequest};
use bonafide_wire::node::agent_message::Kind as Say;
use bonafide_wire::node::authority_message::Kind as Heard;
use bonafide_wire::node::{Acknowledge, Hello};
use bonafide_wire::problem_of;
use bytes::Bytes;

use crate::agents::{Agent, new_key};
use crate::world::{World, entry, in_time};

#[tokio::test]
async fn changes_are_pushed_and_acknowledged() {
    let mut world = World::new().await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let revision = world.put(entry("web", "/app/web")).await;
    stream.until(revision).await;
    assert_eq!(stream.registrations["web"].revision, revision);
    let waited = world.admin.wait(WaitRequest { revision, timeout: 10 }).await.unwrap().into_inner();
    assert!(waited.behind.is_empty());

    let deleted = DeleteRequest { name: "web".into(), ..DeleteRequest::default() };
    let revision = world.admin.delete_registration(deleted).await.unwrap().into_inner().revision;
    stream.until(revision).await;
    assert!(stream.registrations.is_empty());
}

#[tokio::test]
async fn a_registration_that_moves_away_is_removed() {
    let mut world = World::new().await;
    let (agent, other) = (Agent::join(&mut world, "lab").await, Agent::join(&mut world, "lab").await);
    let (mut one, mut two) = (agent.connect().await, other.connect().await);
    let revision = world.put(entry("web", "/app/web")).await;
    one.until(revision).await;
    two.until(revision).await;
    let mut moved = entry("web", "/app/web");
    moved.parent = other.id.to_string();
    let revision = world.put(moved).await;
    one.until(revision).await;
    two.until(revision).await;
    assert!(one.registrations.is_empty());
    assert_eq!(two.registrations.len(), 1);
}

#[tokio::test]
async fn an_agent_that_was_away_gets_what_changed_and_a_confused_one_gets_everything() {
    let mut world = World::new().await;
    for number in 0..10 {
        world.put(entry(&format!("w{number}"), &format!("/app/{number}"))).await;
    }
    let agent = Agent::join(&mut world, "lab").await;
    let first = agent.connect().await;
    let hello = first.hello();
    let held = first.registrations.clone();
    drop(first);
    world.put(entry("w3", "/app/other")).await;

    let mut resumed = in_time(agent.try_connect(hello.clone())).await.unwrap();
    let Heard::Update(update) = in_time(resumed.hear.message()).await.unwrap().unwrap().kind.unwrap() else {
        panic!()
    };
    assert!(!update.snapshot_start && !update.more);
    assert_eq!(update.upserts.len(), 1);
    resumed.registrations = held;
    resumed.apply(&update);
    resumed.acknowledge().await;

    // A restart is no reason for a snapshot either.
    let hello = resumed.hello();
    let mut world = world.restart().await;
    let mut agent = agent;
    agent.address = world.running().node_address().to_string();
    let mut stream = in_time(agent.try_connect(hello.clone())).await.unwrap();
    stream.synced().await;
    assert_eq!(stream.snapshots, 0);

    for confused in [
        Hello { set_digest: Bytes::from_static(&[1; 32]), ..hello.clone() },
        Hello { incarnation: Bytes::from_static(&[1; 16]), ..hello.clone() },
        Hello { revision: u64::MAX, ..hello },
    ] {
        let mut stream = in_time(agent.try_connect(confused)).await.unwrap();
        stream.synced().await;
        assert_eq!((stream.snapshots, stream.registrations.len()), (1, 10));
    }
    world.stop().await;
}

#[tokio::test]
async fn a_digest_that_disagrees_brings_a_snapshot() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = in_time(agent.try_connect(Hello::default())).await.unwrap();
    let Heard::Update(update) = in_time(stream.hear.message()).await.unwrap().unwrap().kind.unwrap() else {
        panic!()
    };
    let wrong = Acknowledge {
        revision: update.revision,
        set_digest: Bytes::from_static(&[1; 32]),
        ..Acknowledge::default()
    };
    stream.say(Say::Acknowledge(wrong)).await;
    stream.synced().await;
    assert_eq!((stream.snapshots, stream.registrations.len()), (1, 1));

    let ahead = Acknowledge { revision: u64::MAX, ..Acknowledge::default() };
    stream.say(Say::Acknowledge(ahead)).await;
    let ended = stream.next().await.unwrap_err();
    assert_eq!(problem_of(&ended).code, "stream.acknowledgement");
}

#[tokio::test]
async fn a_stream_begins_with_hello() {
    let mut world = World::new().await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    stream.say(Say::Hello(Hello::default())).await;
    assert_eq!(problem_of(&stream.next().await.unwrap_err()).code, "stream.hello");
}

#[tokio::test]
async fn many_requests_at_once_are_all_answered() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let csr = crate::agents::request_for(&new_key());
    for request in 1..=200 {
        let ask = bonafide_wire::node::IssueX509 {
            request,
            registration: "web".into(),
            selectors: vec![],
            csr: csr.clone(),
        };
        stream.say(Say::IssueX509(ask)).await;
    }
    let mut instances = std::collections::BTreeSet::new();
    let mut serials = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let Heard::X509Issued(issued) = stream.next().await.unwrap() else { panic!() };
        instances.insert(issued.instance);
        serials.insert(bonafide_identity::Certificate::from_der(&issued.chain[0]).unwrap().serial().to_vec());
    }
    assert_eq!((instances.len(), serials.len()), (200, 200));
}

#[tokio::test]
async fn a_site_pays_for_its_own_flood() {
    let mut world = World::new().await;
    let (directory, mut config, clock) = world.stop().await;
    config.limits.signatures_per_second = 5;
    let mut world = World::start(directory, config, clock).await.unwrap();
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let mut refused = 0;
    for _ in 0..40 {
        match stream.issue("web").await {
            Ok(_) => {}
            Err(problem) => {
                assert_eq!(problem.code, "rate.signatures");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

#[tokio::test]
async fn a_restart_changes_no_trust() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let before = agent.connect().await.bundle;
    let pin = world.running().root_pin();
    let mut world = world.restart().await;
    assert_eq!(world.running().root_pin(), pin);
    let mut agent = agent;
    agent.address = world.running().node_address().to_string();
    assert_eq!(agent.connect().await.bundle, before);
    world.stop().await;
}

#[tokio::test]
async fn a_store_that_was_rolled_back_is_refused_unless_it_is_accepted() {
    let mut world = World::new().await;
    let (directory, mut config, clock) = world.stop().await;
    let store = config.data_dir.join("store.sqlite");
    // On PostgreSQL, `rollback` plays it.
    let Ok(old) = std::fs::read(&store) else { return };
    let mut world = World::start(directory, config.clone(), clock).await.unwrap();
    world.put(entry("web", "/app/web")).await;
    let (directory, _, clock) = world.stop().await;
    for suffix in ["-wal", "-shm"] {
        let _absent = std::fs::remove_file(config.data_dir.join(format!("store.sqlite{suffix}")));
    }
    std::fs::write(&store, old).unwrap();
    let refused = World::start(directory.clone(), config.clone(), clock.clone()).await.err().unwrap();
    assert_eq!(refused.code(), "store.rolled-back");
    assert!(!refused.hint().is_empty());

    config.accept_restore = true;
    let mut world = World::start(directory, config.clone(), clock.clone()).await.unwrap();
    let (directory, ..) = world.stop().await;
    config.accept_restore = false;
    // Once is enough.
    World::start(directory, config, clock).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_trust_domain_and_one_authority() {
    let mut world = World::new().await;
    let (_directory, config, clock) = world.stop().await;
    let mut other = config.clone();
    other.trust_domain = "example.net".parse().unwrap();
    let refused =
        Authority::start(other, clock.clone(), std::sync::Arc::new(SystemRandom)).await.unwrap_err();
    assert_eq!(refused.code(), "registry.other-trust-domain");
    let refused = Authority::init(&config, clock.clone(), &SystemRandom).await.unwrap_err();
    assert_eq!(refused.code(), "authority.exists");
    let mut nowhere = config.clone();
    nowhere.data_dir = config.data_dir.join("nothing");
    let refused =
        Authority::start(nowhere, clock.clone(), std::sync::Arc::new(SystemRandom)).await.unwrap_err();
    assert_eq!(refused.code(), "authority.not-initialised");

    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&config.data_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = Authority::start(config, clock, std::sync::Arc::new(SystemRandom)).await.unwrap_err();
    assert_eq!(refused.code(), "authority.data-directory");
}

#[tokio::test]
async fn the_ledger_has_everything_that_was_issued_and_shows_every_edit() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let first = stream.issue("web").await.unwrap();
    let second = stream.renew_with(&first, new_key()).await.unwrap();
    assert_eq!(stream.renew_with(&first, new_key()).await.err().unwrap().code, "lineage.forked");
    let (_directory, config, _) = world.stop().await;

    let ledger = config.data_dir.join("ledger");
    let key = std::fs::read_to_string(config.data_dir.join("ledger.pub")).unwrap().trim().parse().unwrap();
    let report = verify_ledger(&ledger, &key).unwrap();
    let contents = &report.contents;
    assert_eq!((contents.x509_svids, contents.attestations, contents.refusals), (2, 1, 1));
    assert_eq!((report.ledger.unsigned, contents.findings.len()), (0, 0));
    for instance in [&first, &second] {
        for der in &instance.chain {
            let certificate = bonafide_identity::Certificate::from_der(der).unwrap();
            assert!(find_certificate(&ledger, &key, &certificate).unwrap().is_some());
        }
    }
    let foreign = bonafide_testkit::TestDomain::new("example.org", first.leaf().not_before());
    assert_eq!(find_certificate(&ledger, &key, foreign.root()).unwrap(), None);

    let tail = std::fs::read_dir(ledger.join("tail")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&tail).unwrap();
    let at = bytes.windows(8).position(|window| window == b"/app/web").unwrap();
    bytes[at + 5] = b'x';
    std::fs::write(&tail, bytes).unwrap();
    assert!(verify_ledger(&ledger, &key).is_err());
}

#[tokio::test]
async fn an_agent_whose_svid_has_expired_is_not_let_in() {
    let mut world = World::new().await;
    let agent = Agent::join(&mut world, "lab").await;
    world.clock.advance(Duration::from_secs(3601));
    let outcome = tokio::spawn(async move { agent.try_connect(Hello::default()).await.map(|_| ()) });
    assert!(matches!(in_time(outcome).await, Ok(Err(_)) | Err(_)));
}
