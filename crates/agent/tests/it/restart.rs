use std::time::Duration;

use tonic::Code;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_restarts_with_its_authority_and_without() {
    let mut world = World::new().await;
    let line = world.join_line().await;
    world.start_agent(Some(&line)).await.unwrap();
    world.connected().await;
    let first = world.svids().await.unwrap();
    assert_eq!(first.svids[0].spiffe_id, "spiffe://example.org/app/web");

    // The line is spent; what the agent has stored is enough.
    world.stop_agent().await;
    world.start_agent(Some(&line)).await.unwrap();
    assert_eq!(world.svids().await.unwrap().svids, first.svids, "one launch, one key");
    world.connected().await;

    world.stop_agent().await;
    world.stop_authority().await;
    world.start_agent(None).await.unwrap();
    assert_eq!(world.svids().await.unwrap().svids, first.svids);
    let status = world.until("sees that", |status| status.problem.is_some()).await;
    assert_eq!(status.problem.unwrap().code, "agent.authority-unreachable");

    world.start_authority().await;
    world.connected().await;
    world.put("second").await;
    world.until("told of it", |status| status.registrations == 2).await;
    assert_eq!(world.svids().await.unwrap().svids.len(), 2);
    world.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_svid_has_expired_says_so_and_joins_again() {
    let mut world = World::new().await;
    world.start_agent(Some(&world.join_line().await)).await.unwrap();
    let status = world.connected().await;
    world.svids().await.unwrap();
    world.stop_agent().await;
    world.stop_authority().await;
    world.clock.advance(Duration::from_secs(40 * 86_400));
    world.start_authority().await;

    world.start_agent(None).await.unwrap();
    let late = world.until("sees that", |status| status.problem.is_some()).await;
    assert_eq!((late.problem.unwrap().code.as_str(), late.connected), ("agent.rejoin-needed", false));
    assert_eq!(late.agent_id, status.agent_id);
    assert_eq!(world.svids().await.unwrap_err().code(), Code::Unavailable);
    world.stop_agent().await;

    world.start_agent(Some(&world.join_line().await)).await.unwrap();
    assert_eq!(world.connected().await.problem, None);
    assert_eq!(world.svids().await.unwrap().svids[0].spiffe_id, "spiffe://example.org/app/web");
    world.stop_agent().await;
}

/// The agent's SVID is good for long, but nobody knows it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_join_line_is_used_although_the_old_svid_has_not_expired() {
    let mut world = World::new().await;
    world.start_agent(Some(&world.join_line().await)).await.unwrap();
    world.connected().await;
    let before = world.svids().await.unwrap();
    world.stop_agent().await;
    world.new_authority().await;

    world.start_agent(Some(&world.join_line().await)).await.unwrap();
    world.connected().await;
    let after = world.svids().await.unwrap();
    assert_ne!(before.svids[0].bundle, after.svids[0].bundle);
    world.stop_agent().await;

    // And it stays so.
    world.start_agent(None).await.unwrap();
    world.connected().await;
    world.stop_agent().await;
}
