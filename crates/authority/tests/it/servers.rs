//! Several servers on one PostgreSQL store.

use std::collections::BTreeSet;
use std::sync::Arc;

use bonafide_attest::join::JoinLine;
use bonafide_authority::StartError;
use bonafide_testkit::{Database, Postgres};
use bonafide_wire::admin::signing_authority::Kind;
use bonafide_wire::admin::{ListAuthoritiesRequest, ListRegistrationsRequest, StatusRequest};
use bonafide_wire::problem_of;
use futures_util::future::join_all;

use crate::agents::{Agent, attest, dial, new_key, pinned, request_for};
use crate::world::{World, entry, in_time};

/// A server `a` with the site `lab`; nothing if PostgreSQL is not installed.
pub async fn first() -> Option<(World, Database)> {
    let database = Postgres::shared()?.database();
    let mut world = World::on(Some(database.clone())).await;
    world.put_site("lab", &["spiffe://example.org/app/**"]).await;
    Some((world, database))
}

async fn revision(world: &mut World) -> u64 {
    world.admin.status(StatusRequest::default()).await.unwrap().into_inner().revision
}

/// Until the server has seen `wanted`.
async fn reached(world: &mut World, wanted: u64) {
    in_time(async {
        while revision(world).await < wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn registrations(world: &mut World) -> BTreeSet<String> {
    let listed = world.admin.list_registrations(ListRegistrationsRequest::default()).await.unwrap();
    listed.into_inner().registrations.into_iter().map(|registration| registration.id).collect()
}

/// Starts it anew on what it left.
async fn again(world: &World) -> Result<World, StartError> {
    World::start(world.directory.clone(), world.config.clone(), world.clock.clone()).await
}

/// Why it ended by itself.
async fn end(world: &mut World) -> StartError {
    world.running.take().unwrap().wait().await.expect_err("it was stopped by nobody")
}

async fn refused(world: &World) -> StartError {
    match again(world).await {
        Ok(_) => panic!("it starts"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_see_each_others_writes_and_issue_under_one_root() {
    let Some((mut a, _)) = first().await else { return };
    let mut b = a.beside("b").await;
    for round in 0..10 {
        for (world, other) in [(&mut a, "a"), (&mut b, "b")] {
            world.put(entry(&format!("{other}{round}"), &format!("/app/{other}{round}"))).await;
        }
    }
    // At the same time, so that commits collide.
    let (mut a2, mut b2) = (a.admin.clone(), b.admin.clone());
    let put = |name: String| bonafide_wire::admin::PutRegistrationRequest {
        registration: Some(entry(&name, &format!("/app/{name}"))),
        ..Default::default()
    };
    let (of_a, of_b) = tokio::join!(
        async {
            for n in 0..40 {
                a2.put_registration(put(format!("x{n}"))).await.unwrap();
            }
        },
        async {
            for n in 0..40 {
                b2.put_registration(put(format!("y{n}"))).await.unwrap();
            }
        },
    );
    let ((), ()) = (of_a, of_b);
    let last = revision(&mut a).await.max(revision(&mut b).await);
    reached(&mut a, last).await;
    reached(&mut b, last).await;
    assert_eq!(registrations(&mut a).await, registrations(&mut b).await);
    assert_eq!(registrations(&mut a).await.len(), 100);

    assert_eq!(a.running().root_pin(), b.running().root_pin());
    let keys = a.admin.list_authorities(ListAuthoritiesRequest::default()).await.unwrap().into_inner();
    let of = |kind: Kind| keys.authorities.iter().filter(|key| key.kind() == kind).count();
    assert_eq!((of(Kind::Root), of(Kind::Intermediate)), (1, 2));

    // An agent that joined through one gets from the other what its site was given through either.
    let mut agent = Agent::join(&mut a, "lab").await;
    let mut there = agent.connect().await;
    there.issue("b3").await.unwrap();
    agent.address = b.running().node_address().to_string();
    agent.connect().await.issue("x7").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_admits_one_node_whichever_server_it_is_shown_to() {
    let Some((mut a, _)) = first().await else { return };
    let b = a.beside("b").await;
    let servers = [a.running().node_address().to_string(), b.running().node_address().to_string()];
    for _ in 0..5 {
        // The other server is not waited for: it must not say no before it has looked.
        let line: JoinLine = a.join_line("lab").await.parse().unwrap();
        let config = pinned(&line, &a);
        let uses = (0..24).map(|n| {
            let (server, line, config) = (servers[n % 2].clone(), &line, Arc::clone(&config));
            async move {
                let channel = dial(&server, &config).await.unwrap();
                attest(channel, line, request_for(&new_key())).await
            }
        });
        let (won, lost): (Vec<_>, Vec<_>) =
            in_time(join_all(uses)).await.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for status in lost.into_iter().filter_map(Result::err) {
            assert_eq!(problem_of(&status).code, "token.invalid");
        }
    }
}

#[test]
fn what_a_killed_server_has_acknowledged_is_there_and_the_other_one_goes_on() {
    // A server that is killed has a runtime of its own, which is dropped in the middle of whatever it does.
    let victim = tokio::runtime::Runtime::new().unwrap();
    let survivor = tokio::runtime::Runtime::new().unwrap();
    let Some((mut a, _)) = survivor.block_on(first()) else { return };
    let mut b = victim.block_on(a.beside("b"));
    let acknowledged = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (told, mut admin) = (Arc::clone(&acknowledged), b.admin.clone());
    victim.spawn(async move {
        for n in 0.. {
            let name = format!("b{n}");
            let registration = Some(entry(&name, &format!("/app/{name}")));
            let request = bonafide_wire::admin::PutRegistrationRequest { registration, ..Default::default() };
            admin.put_registration(request).await.unwrap();
            told.lock().unwrap().push(name);
        }
    });
    survivor.block_on(async {
        for n in 0..30 {
            a.put(entry(&format!("a{n}"), &format!("/app/a{n}"))).await;
        }
        in_time(async {
            while acknowledged.lock().unwrap().len() < 30 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
    victim.shutdown_background();
    drop(b.running.take());
    let acknowledged: Vec<_> = acknowledged.lock().unwrap().clone();
    survivor.block_on(async {
        for n in 30..60 {
            a.put(entry(&format!("a{n}"), &format!("/app/a{n}"))).await;
        }
        let known = registrations(&mut a).await;
        assert!(acknowledged.iter().all(|name| known.contains(name)), "{acknowledged:?}");
        assert_eq!(known.iter().filter(|name| name.starts_with('a')).count(), 60);
        // It comes back once its threads have let go of its files.
        let mut back = in_time(async {
            loop {
                match again(&b).await {
                    Ok(world) => break world,
                    Err(error) => assert!(error.code().contains("lock"), "{error}"),
                }
            }
        })
        .await;
        let last = revision(&mut a).await;
        reached(&mut back, last).await;
        assert!(registrations(&mut back).await.is_superset(&known));
        back.put(entry("back", "/app/back")).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_went_back_stops_every_server_until_one_is_told_to_accept_it() {
    let Some((mut a, database)) = first().await else { return };
    let mut b = a.beside("b").await;
    a.put(entry("kept", "/app/kept")).await;
    a.stop().await;
    b.stop().await;
    database.cut_connections();
    let backup = database.copy("backup");
    let (mut a, mut b) = (again(&a).await.unwrap(), again(&b).await.unwrap());
    let lost = a.put(entry("lost", "/app/lost")).await;
    reached(&mut b, lost).await;

    // What a standby that lacked the end is, to those who run.
    database.put_back(&backup);
    for world in [&mut a, &mut b] {
        let error = in_time(end(world)).await;
        // Whoever looks first: the store at its own table, or the server at the revision.
        assert!(["store.went-back", "registry.rolled-back"].contains(&error.code()), "{error}");
        assert!(error.hint().contains("--accept-restore"));
    }
    // And to those who start: each has a ledger that knows better.
    for world in [&a, &b] {
        assert_eq!(refused(world).await.code(), "store.rolled-back");
    }
    let mut accepting = a.config.clone();
    accepting.accept_restore = true;
    let mut a = World::start(a.directory.clone(), accepting, a.clock.clone()).await.unwrap();
    a.config.accept_restore = false;
    a.put(entry("after", "/app/after")).await;
    // The others find in the store that it was accepted.
    let mut b = again(&b).await.unwrap();
    assert_eq!(registrations(&mut b).await, ["after", "kept"].map(String::from).into());
    b.put(entry("on", "/app/on")).await;
    a.stop().await;
    b.stop().await;
    // What was taken back can't be put back: it is of the incarnation before.
    database.put_back(&backup);
    for world in [&a, &b] {
        assert_eq!(refused(world).await.code(), "store.rolled-back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rogue_writer_in_the_database_is_refused_and_named() {
    let Some((mut a, database)) = first().await else { return };
    a.put(entry("web", "/app/web")).await;
    a.stop().await;
    database.cut_connections();
    let clean = database.copy("clean");
    let last: u64 = database.sql("SELECT revision FROM head").trim().parse().unwrap();
    for (attack, place) in [
        // A registration of his own, as a row and as a change.
        (
            "INSERT INTO object SELECT 'registration/mine', revision, value, mac FROM object WHERE key = 'registration/web'".to_owned(),
            "key `registration/mine`".to_owned(),
        ),
        (
            format!("UPDATE head SET revision = revision + 1; INSERT INTO change SELECT {last} + 1, 'registration/mine', value, mac FROM change WHERE key = 'registration/web'"),
            "table `head`".to_owned(),
        ),
        // A wider scope of a site.
        (
            "UPDATE object SET value = replace(encode(value, 'escape'), '/app/', '/any/')::bytea WHERE key = 'site/lab'".to_owned(),
            "key `site/lab`".to_owned(),
        ),
        // The end of the log, with and without what it did.
        (format!("DELETE FROM change WHERE revision >= {last}"), format!("revision {last}")),
        (
            format!("DELETE FROM change WHERE revision >= {last}; UPDATE head SET revision = {last} - 1"),
            "table `head`".to_owned(),
        ),
        // Another incarnation.
        ("UPDATE head SET incarnation = decode(repeat('ab', 16), 'hex')".to_owned(), "table `head`".to_owned()),
    ] {
        database.sql(&attack);
        let error = refused(&a).await;
        assert_eq!(error.code(), "store.broken", "{attack}: {error}");
        assert!(error.to_string().contains(&place), "{attack}: {error}");
        database.put_back(&clean);
    }
    // A server that runs follows no such change either.
    let mut a = again(&a).await.unwrap();
    database.sql("UPDATE head SET revision = revision + 1; INSERT INTO change SELECT (SELECT revision FROM head), 'registration/mine', value, mac FROM change WHERE key = 'registration/web'");
    let error = in_time(end(&mut a)).await;
    assert_eq!(error.code(), "store.broken");
    assert!(error.to_string().contains("table `head`"), "{error}");
}
