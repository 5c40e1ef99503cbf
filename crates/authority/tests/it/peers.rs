//! Servers that witness each other's ledgers.

use std::fs;

use bonafide_wire::admin::StatusRequest;

use crate::agents::Agent;
use crate::rollback::copy_all;
use crate::servers::first;
use crate::witnesses::{accepted, put_back, start_refused, started};
use crate::world::{World, entry, in_time};

/// Starts it anew on what it left.
async fn again(world: &World) -> World {
    World::start(world.directory.clone(), world.config.clone(), world.clock.clone()).await.unwrap()
}

/// How much of this server's ledger `b` has cosigned, once that is so much at least.
async fn cosigned(world: &mut World, least: u64) -> u64 {
    in_time(async {
        loop {
            let status = world.admin.status(StatusRequest::default()).await.unwrap().into_inner();
            match status.peers.as_slice() {
                [peer] if peer.server == "b" && peer.size >= least => return peer.size,
                [] | [_] => tokio::task::yield_now().await,
                more => panic!("{more:?}"),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_cosigns_what_continues_what_it_has_seen() {
    let Some((mut a, _)) = first().await else { return };
    let mut b = a.beside("b").await;
    a.put(entry("app", "/app/app")).await;
    let mut agent = Agent::join(&mut a, "lab").await;
    let mut known = cosigned(&mut a, 0).await;
    // The first was taken as it is; the others come with proofs from what the store says that `b` holds.
    for _ in 0..3 {
        for _ in 0..5 {
            agent.connect().await.issue("app").await.unwrap();
        }
        a.stop().await;
        b.stop().await;
        a = started(&a, &mut agent).await;
        b = again(&b).await;
        known = cosigned(&mut a, known + 5).await;
    }
}

/// Database and disk of `a` are yesterday's; `b` has lost all but what it has seen of `a`, and the store has outgrown that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_put_back_with_the_store_is_stopped_by_another_one() {
    let Some((mut a, database)) = first().await else { return };
    let mut b = a.beside("b").await;
    a.put(entry("app", "/app/app")).await;
    let mut agent = Agent::join(&mut a, "lab").await;
    a.stop().await;
    b.stop().await;
    let copies = ["a", "b"].map(|name| a.directory.path().join("yesterday").join(name));
    copy_all(&a.config.data_dir, &copies[0]);
    copy_all(&b.config.data_dir, &copies[1]);
    let yesterday = database.copy("yesterday");

    let mut a = started(&a, &mut agent).await;
    let mut b = again(&b).await;
    for _ in 0..3 {
        agent.connect().await.issue("app").await.unwrap();
    }
    a.stop().await;
    b.stop().await;

    let seen = b.config.data_dir.join("peers");
    let kept = b.directory.path().join("kept");
    copy_all(&seen, &kept);
    database.put_back(&yesterday);
    put_back(&a, &copies[0]);
    put_back(&b, &copies[1]);
    let _ = fs::remove_dir_all(&seen);
    copy_all(&kept, &seen);

    // It finds nothing wrong by itself.
    let mut a = started(&a, &mut agent).await;
    for number in 0..40 {
        a.put(entry(&format!("more{number}"), &format!("/app/more{number}"))).await;
    }
    let mut b = again(&b).await;
    let error = in_time(a.running.take().unwrap().wait()).await.unwrap_err();
    assert_eq!(error.code(), "ledger.rolled-back");
    assert!(error.to_string().contains("entries that were witnessed are missing"), "{error}");
    for _ in 0..2 {
        assert_eq!(start_refused(&a).await, "ledger.rolled-back");
    }
    // Neither does it go on if the proof on its own disk is gone: the store has it, too.
    fs::remove_dir_all(a.config.data_dir.join("rolled-back")).unwrap();
    assert_eq!(start_refused(&a).await, "ledger.rolled-back");

    // The operator says that it is so; then the other one follows.
    let mut a = accepted(&a, &mut agent).await;
    agent.connect().await.issue("app").await.unwrap();
    a.stop().await;
    b.stop().await;
    let mut a = started(&a, &mut agent).await;
    let _b = again(&b).await;
    cosigned(&mut a, 0).await;
}
