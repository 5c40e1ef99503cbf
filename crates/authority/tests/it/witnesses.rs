//! Agents that have witnessed the ledger, and servers that were put back to an older state.

use std::fs;
use std::path::{Path, PathBuf};

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_ledger::{
    Bindings, Cosignature, Ledger, LedgerConfig, SignedCheckpoint, VerifierKey, verify, verify_consistency,
};
use bonafide_testkit::Postgres;
use bonafide_wire::admin::StatusRequest;
use bonafide_wire::node::agent_message::Kind as Say;
use bonafide_wire::node::authority_message::Kind as Heard;
use bonafide_wire::node::{Checkpoint, Cosigned, Hello};
use bonafide_wire::problem_of;
use bytes::Bytes;

use crate::agents::{Agent, Connected};
use crate::rollback::copy_all;
use crate::world::{World, entry, in_time};

fn witness(checkpoints: &[&Bytes]) -> Hello {
    let checkpoints = checkpoints.iter().map(|note| (*note).clone()).collect();
    Hello { witnesses: true, checkpoints, ..Hello::default() }
}

/// Connects as a witness that holds these checkpoints. With what it is sent, if that is another one.
async fn connect(agent: &Agent, held: &[&Bytes]) -> (Connected, Checkpoint) {
    let mut stream = in_time(agent.try_connect(witness(held))).await.unwrap();
    stream.synced().await;
    match stream.next().await.unwrap() {
        Heard::Checkpoint(checkpoint) => (stream, checkpoint),
        other => panic!("{other:?}"),
    }
}

/// Code of the end of a stream that began with these checkpoints.
async fn refused(agent: &Agent, held: &[&Bytes]) -> String {
    let mut stream = in_time(agent.try_connect(witness(held))).await.unwrap();
    problem_of(&stream.next().await.unwrap_err()).code
}

fn parsed(checkpoint: &Checkpoint) -> SignedCheckpoint {
    let key: VerifierKey = checkpoint.key.parse().unwrap();
    SignedCheckpoint::parse(&checkpoint.note, &key).unwrap()
}

pub async fn started(world: &World, agent: &mut Agent) -> World {
    let world =
        World::start(world.directory.clone(), world.config.clone(), world.clock.clone()).await.unwrap();
    agent.address = world.running().node_address().to_string();
    world
}

pub async fn start_refused(world: &World) -> String {
    match World::start(world.directory.clone(), world.config.clone(), world.clock.clone()).await {
        Ok(_) => panic!("it starts"),
        Err(error) => error.code().to_owned(),
    }
}

pub async fn accepted(world: &World, agent: &mut Agent) -> World {
    let mut config = world.config.clone();
    config.accept_restore = true;
    let world = World::start(world.directory.clone(), config, world.clock.clone()).await.unwrap();
    agent.address = world.running().node_address().to_string();
    world
}

/// A server, an agent of it, and a copy of all that the server had a while ago.
async fn yesterday() -> (World, Agent, PathBuf) {
    let mut world = World::on(None).await;
    world.put_site("lab", &["spiffe://example.org/app/**"]).await;
    world.put(entry("app", "/app/app")).await;
    let mut agent = Agent::join(&mut world, "lab").await;
    world.stop().await;
    let copy = world.directory.path().join("yesterday");
    copy_all(&world.config.data_dir, &copy);
    (started(&world, &mut agent).await, agent, copy)
}

pub fn put_back(world: &World, copy: &Path) {
    fs::remove_dir_all(&world.config.data_dir).unwrap();
    copy_all(copy, &world.config.data_dir);
    set_mode(&world.config.data_dir);
}

fn set_mode(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn a_server_put_back_as_a_whole_is_stopped_by_a_witness_and_stays_so() {
    let (mut world, mut agent, copy) = yesterday().await;
    // Today: something is issued, and a registration is deleted.
    agent.connect().await.issue("app").await.unwrap();
    world.put(entry("other", "/app/other")).await;
    world.stop().await;
    let mut world = started(&world, &mut agent).await;
    let (stream, seen) = connect(&agent, &[]).await;
    drop(stream);
    world.stop().await;

    put_back(&world, &copy);
    // It finds nothing wrong by itself, nor does whoever has seen nothing.
    let mut world = started(&world, &mut agent).await;
    agent.connect().await.issue("app").await.unwrap();
    assert_eq!(refused(&agent, &[&seen.note]).await, "store.rolled-back");
    let error = in_time(world.running.take().unwrap().wait()).await.unwrap_err();
    assert_eq!(error.code(), "store.rolled-back");
    assert!(error.hint().contains("--accept-restore"), "{}", error.hint());
    // Also the next day, when nobody is there to show it.
    for _ in 0..2 {
        assert_eq!(start_refused(&world).await, "ledger.rolled-back");
    }

    // The operator says that it is so. Then it goes on, and the witness can follow.
    let mut world = accepted(&world, &mut agent).await;
    let (stream, next) = connect(&agent, &[&seen.note]).await;
    let (before, after) = (parsed(&seen), parsed(&next));
    assert_eq!(after.checkpoint().bindings.life, before.checkpoint().bindings.life + 1);
    assert_ne!(after.checkpoint().bindings.incarnation, before.checkpoint().bindings.incarnation);
    drop(stream);
    world.stop().await;
    let mut world = started(&world, &mut agent).await;
    let (stream, _) = connect(&agent, &[&seen.note]).await;
    drop(stream);
    world.stop().await;
    // A second time it is not accepted.
    put_back(&world, &copy);
    let mut world = started(&world, &mut agent).await;
    assert_eq!(refused(&agent, &[&next.note]).await, "store.rolled-back");
    assert!(in_time(world.running.take().unwrap().wait()).await.is_err());
}

#[tokio::test]
async fn a_ledger_that_has_outgrown_the_one_that_was_witnessed_is_found_out() {
    let (mut world, mut agent, copy) = yesterday().await;
    agent.connect().await.issue("app").await.unwrap();
    world.stop().await;
    let mut world = started(&world, &mut agent).await;
    let (stream, seen) = connect(&agent, &[]).await;
    drop(stream);
    world.stop().await;
    let before = parsed(&seen).checkpoint().clone();

    put_back(&world, &copy);
    let mut world = started(&world, &mut agent).await;
    // Its store and its ledger are both further than the witness has seen them.
    let mut stream = agent.connect().await;
    while world.admin.status(StatusRequest::default()).await.unwrap().into_inner().ledger_size
        < before.size + 2
    {
        stream.issue("app").await.unwrap();
    }
    for number in 0..before.bindings.revision {
        world.put(entry(&format!("more-{number}"), &format!("/app/more-{number}"))).await;
    }
    assert_eq!(refused(&agent, &[&seen.note]).await, "ledger.rolled-back");
    let error = in_time(world.running.take().unwrap().wait()).await.unwrap_err();
    assert!(error.to_string().contains("does not begin with"), "{error}");
}

#[tokio::test]
async fn nobody_but_the_server_itself_can_prove_that_it_is_behind() {
    let mut world = World::new().await;
    world.put(entry("app", "/app/app")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let (_stream, good) = connect(&agent, &[]).await;

    // What a liar with a key of his own can make: much larger, of the same name, of another server's.
    let liar = std::sync::Arc::new(PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap());
    let far = Bindings { incarnation: [7; 16], revision: u64::MAX, set_digest: [0; 32], life: u64::MAX };
    let mut lies = vec![
        Bytes::new(),
        Bytes::from_static(b"\n"),
        Bytes::from_static(b"example.org/bonafide/authority/a\n"),
        Bytes::from(vec![b'a'; 64 * 1024]),
        good.note.slice(..good.note.len() - 2),
        Bytes::from(String::from_utf8(good.note.to_vec()).unwrap().replacen("revision ", "revision 9", 1)),
    ];
    for origin in [parsed(&good).checkpoint().origin.as_str(), "example.org/bonafide/authority/b", "x"] {
        let directory = tempfile::tempdir().unwrap();
        let config = LedgerConfig { origin: origin.to_owned() };
        let ledger = Ledger::open(directory.path(), config, liar.clone()).unwrap();
        ledger.append(vec![1]).await.unwrap();
        let note = ledger.checkpoint(&far).await.unwrap().note().to_owned();
        lies.push(note.into());
    }
    // Alone, all together, and more of them than are looked at.
    let many: Vec<Bytes> = lies.iter().cycle().take(100).cloned().collect();
    for lies in lies.iter().map(std::slice::from_ref).chain([lies.as_slice(), &many]) {
        let held: Vec<&Bytes> = lies.iter().collect();
        let mut stream = in_time(agent.try_connect(witness(&held))).await.unwrap();
        stream.synced().await;
    }
    agent.connect().await.issue("app").await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn a_witness_is_sent_what_it_can_verify_and_its_word_is_kept() {
    let mut world = World::new().await;
    world.put(entry("app", "/app/app")).await;
    let mut agent = Agent::join(&mut world, "lab").await;
    let (stream, first) = connect(&agent, &[]).await;
    assert!(first.consistency.is_empty());
    drop(stream);
    for _ in 0..3 {
        agent.connect().await.issue("app").await.unwrap();
    }
    world.stop().await;
    let mut world = started(&world, &mut agent).await;
    let (stream, second) = connect(&agent, &[&first.note]).await;
    let (old, new) = (parsed(&first), parsed(&second));
    let proof: Vec<[u8; 32]> = second.consistency.iter().map(|hash| (**hash).try_into().unwrap()).collect();
    let (old, checkpoint) = (old.checkpoint(), new.checkpoint());
    assert!(checkpoint.size > old.size);
    verify_consistency((old.size, &old.root), (checkpoint.size, &checkpoint.root), &proof).unwrap();
    assert_eq!(first.key, second.key);

    let svid = agent.slot.current().unwrap();
    let cosignature = Cosignature::sign(&new, agent.id.as_str(), 1_800_000_000, &**svid.key()).unwrap();
    stream.say(Say::Cosigned(Cosigned { line: cosignature.line().to_owned() })).await;
    // The next answer comes after it.
    let mut stream = stream;
    stream.issue("app").await.unwrap();
    drop(stream);
    world.stop().await;
    let note = fs::read(world.config.data_dir.join("ledger.cosigned")).unwrap();
    let kept = SignedCheckpoint::parse(&note, &second.key.parse().unwrap()).unwrap();
    assert_eq!(kept.checkpoint(), checkpoint);
    assert!(String::from_utf8(note).unwrap().ends_with(cosignature.line()));

    // Another's word, in its name, ends its stream.
    let mut world = started(&world, &mut agent).await;
    let (mut stream, third) = connect(&agent, &[&second.note]).await;
    let other = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
    let forged = Cosignature::sign(&parsed(&third), agent.id.as_str(), 1, &other).unwrap();
    stream.say(Say::Cosigned(Cosigned { line: forged.line().to_owned() })).await;
    assert_eq!(problem_of(&stream.next().await.unwrap_err()).code, "stream.cosignature");
    // Whoever does not witness is sent nothing, and says nothing that counts.
    let mut plain = agent.connect().await;
    plain.say(Say::Cosigned(Cosigned { line: forged.line().to_owned() })).await;
    plain.issue("app").await.unwrap();
    drop(plain);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_showed_stops_another_on_a_database_that_was_put_back() {
    let Some(postgres) = Postgres::shared() else { return };
    let database = postgres.database();
    let mut a = World::on(Some(database.clone())).await;
    a.put_site("lab", &["spiffe://example.org/app/**"]).await;
    a.put(entry("app", "/app/app")).await;
    let mut agent = Agent::join(&mut a, "lab").await;
    let mut b = a.beside("b").await;
    b.stop().await;
    let copy = a.directory.path().join("yesterday");
    copy_all(&b.config.data_dir, &copy);
    a.stop().await;
    let yesterday = database.copy("yesterday");

    let mut a = started(&a, &mut agent).await;
    a.put(entry("other", "/app/other")).await;
    a.stop().await;
    let mut a = started(&a, &mut agent).await;
    let (stream, seen) = connect(&agent, &[]).await;
    drop(stream);
    a.stop().await;

    database.put_back(&yesterday);
    put_back(&b, &copy);
    let mut b = started(&b, &mut agent).await;
    agent.connect().await.issue("app").await.unwrap();
    assert_eq!(refused(&agent, &[&seen.note]).await, "store.rolled-back");
    assert!(in_time(b.running.take().unwrap().wait()).await.is_err());
    assert_eq!(start_refused(&b).await, "store.rolled-back");
}

/// A server whose ledger is copied, and that has issued something.
async fn with_replica() -> (World, Agent, PathBuf) {
    let (mut world, mut agent, _) = yesterday().await;
    world.stop().await;
    let replica = world.directory.path().join("mount/replica");
    world.config.ledger.replica = Some(replica.clone());
    let world = started(&world, &mut agent).await;
    agent.connect().await.issue("app").await.unwrap();
    (world, agent, replica)
}

/// Until `status` says that the replica is not what it should be.
async fn replica_fails(world: &mut World) {
    in_time(async {
        loop {
            let status = world.admin.status(StatusRequest::default()).await.unwrap().into_inner();
            if !status.replica.unwrap().problem.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn key_of(world: &World) -> VerifierKey {
    fs::read_to_string(world.config.data_dir.join("ledger.pub")).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_lost_server_leaves_a_ledger_that_anybody_can_verify() {
    let (mut world, mut agent, replica) = with_replica().await;
    let key = key_of(&world);
    let status = in_time(async {
        loop {
            let status = world.admin.status(StatusRequest::default()).await.unwrap().into_inner();
            let copy = status.replica.clone().unwrap();
            assert_eq!(copy.problem, "");
            if copy.size == status.ledger_size {
                return status;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    // While the server runs, and of all that it had told of.
    assert_eq!(verify(&replica, &key).unwrap().size, status.ledger_size);
    // What comes last is copied when it stops; of a server that is killed it is what `status` said was missing.
    agent.connect().await.issue("app").await.unwrap();
    world.stop().await;
    let whole = verify(world.config.data_dir.join("ledger"), &key).unwrap();
    assert_eq!(verify(&replica, &key).unwrap().size, whole.size);

    // It knows more than a server that is put back.
    put_back(&world, &world.directory.path().join("yesterday"));
    assert_eq!(start_refused(&world).await, "ledger.rolled-back");
    let mut world = accepted(&world, &mut agent).await;
    // And is kept as it is: evidence.
    replica_fails(&mut world).await;
    world.stop().await;
    assert_eq!(verify(&replica, &key).unwrap().size, whole.size);
}

#[tokio::test]
async fn a_replica_that_can_not_be_written_holds_up_nothing() {
    let (mut world, mut agent, _) = yesterday().await;
    world.stop().await;
    let file = world.directory.path().join("file");
    fs::write(&file, "no directory").unwrap();
    world.config.ledger.replica = Some(file.join("replica"));
    let mut world = started(&world, &mut agent).await;
    agent.connect().await.issue("app").await.unwrap();
    replica_fails(&mut world).await;
    agent.connect().await.issue("app").await.unwrap();
    world.stop().await;
}
