//! Instances whose agent moves between servers on one store, and thieves who try the same.

use std::sync::Arc;

use bonafide_identity::time::Clock;
use bonafide_identity::{BundleMap, TrustBundle, jwt};
use bonafide_testkit::Postgres;
use bonafide_wire::admin::StatusRequest;
use bonafide_wire::node::agent_message::Kind as Say;
use bonafide_wire::node::authority_message::Kind as Heard;
use bonafide_wire::node::{End, IssueJwt, RenewX509, Report};
use bytes::Bytes;

use crate::agents::{Agent, Connected, Instance, new_key};
use crate::world::{World, entry, in_time, trust_domain};

/// Two servers, an agent of the first one, and a registration; nothing if PostgreSQL is not installed.
async fn two() -> Option<(World, World, Agent)> {
    let database = Postgres::shared()?.database();
    let mut a = World::on(Some(database)).await;
    a.put_site("lab", &["spiffe://example.org/app/**"]).await;
    a.put(entry("web", "/app/web")).await;
    let b = a.beside("b").await;
    let agent = Agent::join(&mut a, "lab").await;
    follow(&b, &a).await;
    Some((a, b, agent))
}

async fn revision(world: &World) -> u64 {
    world.admin.clone().status(StatusRequest::default()).await.unwrap().into_inner().revision
}

/// Until the one knows what the other one knows.
async fn follow(world: &World, other: &World) {
    let known = revision(other).await;
    in_time(async {
        while revision(world).await < known {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A stream to this server.
async fn at(agent: &mut Agent, world: &World) -> Connected {
    agent.address = world.running().node_address().to_string();
    agent.connect().await
}

async fn refusal(stream: &mut Connected, instance: &Instance) -> String {
    stream.renew_with(instance, new_key()).await.err().expect("it is renewed").code
}

async fn is_renewed(stream: &mut Connected, ask: RenewX509) -> bool {
    matches!(stream.ask(Say::RenewX509(ask)).await, Ok(Heard::X509Issued(_)))
}

/// Ends as a killed process does: nothing of it runs any more, and nothing is said.
fn kill(runtime: tokio::runtime::Runtime, world: &mut World) {
    runtime.shutdown_background();
    drop(world.running.take());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_renewed_wherever_its_agent_goes() {
    let Some((a, b, mut agent)) = two().await else { return };
    let (mut at_a, mut at_b) = (at(&mut agent, &a).await, at(&mut agent, &b).await);
    let mut instance = at_a.issue("web").await.unwrap();
    for round in 0..4 {
        let stream = if round % 2 == 0 { &mut at_b } else { &mut at_a };
        instance = stream.renew_with(&instance, new_key()).await.unwrap();
        instance = stream.renew_with(&instance, new_key()).await.unwrap();
    }
    assert_eq!(instance.generation, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_successors_at_two_servers_the_second_is_refused() {
    let Some((a, b, mut agent)) = two().await else { return };
    let (mut at_a, mut at_b) = (at(&mut agent, &a).await, at(&mut agent, &b).await);
    // The copy comes second, to the other server.
    let first = at_a.issue("web").await.unwrap();
    let second = at_a.renew_with(&first, new_key()).await.unwrap();
    assert_eq!(refusal(&mut at_b, &first).await, "lineage.forked");
    let third = at_a.renew_with(&second, new_key()).await.expect("the first successor goes on");
    // The owner is the other one, and comes second.
    let fourth = at_b.renew_with(&third, new_key()).await.unwrap();
    assert_eq!(refusal(&mut at_a, &third).await, "lineage.forked");
    assert_eq!(refusal(&mut at_b, &third).await, "lineage.forked");
    // An older certificate, anywhere.
    for stream in [&mut at_a, &mut at_b] {
        assert_eq!(refusal(stream, &first).await, "lineage.forked");
        assert_eq!(refusal(stream, &second).await, "lineage.forked");
    }
    at_a.renew_with(&fourth, new_key()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_successors_at_the_same_moment_one_is_issued() {
    let Some((a, b, mut agent)) = two().await else { return };
    let (mut at_a, mut at_b) = (at(&mut agent, &a).await, at(&mut agent, &b).await);
    for _ in 0..10 {
        let first = at_a.issue("web").await.unwrap();
        let (one, other) =
            tokio::join!(at_a.renew_with(&first, new_key()), at_b.renew_with(&first, new_key()));
        assert_eq!(
            usize::from(one.is_ok()) + usize::from(other.is_ok()),
            1,
            "{:?} {:?}",
            one.err(),
            other.err()
        );
        for refused in [one.err(), other.err()].into_iter().flatten() {
            assert_eq!(refused.code, "lineage.forked");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_asked_for_again_elsewhere() {
    let Some((a, b, mut agent)) = two().await else { return };
    let (mut at_a, mut at_b) = (at(&mut agent, &a).await, at(&mut agent, &b).await);
    let first = at_a.issue("web").await.unwrap();
    let key = new_key();
    let lost = first.renewal(70, &key);
    assert!(is_renewed(&mut at_a, lost.clone()).await);
    assert!(is_renewed(&mut at_b, lost.clone()).await);
    assert!(is_renewed(&mut at_a, lost.clone()).await);
    let second = at_b.renew_with(&first, key).await.unwrap();
    assert_eq!(refusal(&mut at_a, &first).await, "lineage.forked");
    at_a.renew_with(&second, new_key()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_at_one_server_is_not_renewed_at_another() {
    let Some((a, b, mut agent)) = two().await else { return };
    let (mut at_a, mut at_b) = (at(&mut agent, &a).await, at(&mut agent, &b).await);
    let first = at_a.issue("web").await.unwrap();
    let end = End { instance: Bytes::copy_from_slice(first.id.as_bytes()), ended_at: 1 };
    let report = Report { request: 90, launches: vec![], ends: vec![end] };
    assert!(matches!(at_a.ask(Say::Report(report)).await, Ok(Heard::Reported(_))));
    assert_eq!(refusal(&mut at_b, &first).await, "lineage.ended");
    assert_eq!(refusal(&mut at_a, &first).await, "lineage.ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_an_instance_are_issued_wherever_its_agent_is() {
    let Some((a, b, mut agent)) = two().await else { return };
    let mut at_a = at(&mut agent, &a).await;
    let (web, other) = (at_a.issue("web").await.unwrap(), at_a.issue("web").await.unwrap());
    let mut at_b = at(&mut agent, &b).await;
    let mut bundles = BundleMap::new();
    bundles.insert(TrustBundle::parse(&trust_domain(), &at_b.bundle).unwrap());
    let ask = |instance: &Instance, chain: &[Bytes]| {
        Say::IssueJwt(IssueJwt {
            request: 50,
            registration: "web".into(),
            selectors: vec![],
            audience: vec!["db".into()],
            instance: Bytes::copy_from_slice(instance.id.as_bytes()),
            chain: chain.to_vec(),
        })
    };
    let Ok(Heard::JwtIssued(issued)) = at_b.ask(ask(&web, &web.chain)).await else { panic!() };
    let svid = jwt::verify(&issued.token, &bundles, "db", b.clock.now()).unwrap();
    assert_eq!(svid.instance(), Some(web.id));
    for chain in [&[][..], &other.chain, &web.chain[1..]] {
        assert_eq!(at_b.ask(ask(&web, chain)).await.unwrap_err().code, "issuance.instance");
    }
}

/// A server `b` with a runtime of its own, so that it can be killed, and an agent that is at it.
fn doomed() -> Option<(tokio::runtime::Runtime, tokio::runtime::Runtime, World, World, Agent)> {
    let (survivor, victim) =
        (tokio::runtime::Runtime::new().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let database = Postgres::shared()?.database();
    let mut a = survivor.block_on(World::on(Some(database)));
    survivor.block_on(async {
        a.put_site("lab", &["spiffe://example.org/app/**"]).await;
        a.put(entry("web", "/app/web")).await;
    });
    let b = victim.block_on(a.beside("b"));
    let agent = survivor.block_on(async {
        let agent = Agent::join(&mut a, "lab").await;
        follow(&b, &a).await;
        agent
    });
    Some((survivor, victim, a, b, agent))
}

async fn again(world: &World) -> World {
    in_time(async {
        loop {
            let (directory, config) = (Arc::clone(&world.directory), world.config.clone());
            match World::start(directory, config, world.clock.clone()).await {
                Ok(world) => break world,
                Err(error) => assert!(error.code().contains("lock"), "{error}"),
            }
        }
    })
    .await
}

#[test]
fn when_its_server_is_dead_an_instance_is_renewed_elsewhere_and_a_copy_of_it_is_not() {
    let Some((survivor, victim, a, mut b, mut agent)) = doomed() else { return };
    survivor.block_on(async {
        let mut at_b = at(&mut agent, &b).await;
        let first = at_b.issue("web").await.unwrap();
        let (lost, key) = (at_b.issue("web").await.unwrap(), new_key());
        assert!(is_renewed(&mut at_b, lost.renewal(70, &key)).await);
        kill(victim, &mut b);

        let mut at_a = at(&mut agent, &a).await;
        let second = at_a.renew_with(&first, new_key()).await.unwrap();
        assert_eq!(refusal(&mut at_a, &first).await, "lineage.forked");
        // What the dead one had answered is answered again, for the same key.
        let next = at_a.renew_with(&lost, key).await.unwrap();
        assert_eq!(refusal(&mut at_a, &lost).await, "lineage.forked");

        // When it is back, it does not believe that it decides still.
        let b = again(&b).await;
        let mut at_b = at(&mut agent, &b).await;
        assert_eq!(refusal(&mut at_b, &first).await, "lineage.forked");
        let third = at_b.renew_with(&second, new_key()).await.unwrap();
        at_a.renew_with(&third, new_key()).await.unwrap();
        at_b.renew_with(&next, new_key()).await.unwrap();
    });
}

#[test]
fn a_thief_who_was_faster_than_the_news_of_a_dead_server_is_found_out() {
    let Some((survivor, victim, a, mut b, mut agent)) = doomed() else { return };
    survivor.block_on(async {
        let mut at_b = at(&mut agent, &b).await;
        let (shown, kept) = (at_b.issue("web").await.unwrap(), at_b.issue("web").await.unwrap());
        let shown_next = at_b.renew_with(&shown, new_key()).await.unwrap();
        let kept_next = at_b.renew_with(&kept, new_key()).await.unwrap();
        kill(victim, &mut b);

        // Nobody who lives knows that there was a successor.
        let mut at_a = at(&mut agent, &a).await;
        let stolen = at_a.renew_with(&shown, new_key()).await.unwrap();
        let stolen_too = at_a.renew_with(&kept, new_key()).await.unwrap();
        // The rightful one shows it, and both end.
        assert_eq!(refusal(&mut at_a, &shown_next).await, "lineage.forked");
        assert_eq!(refusal(&mut at_a, &stolen).await, "lineage.forked");
        // Or the server that knows comes back.
        let b = again(&b).await;
        let mut at_b = at(&mut agent, &b).await;
        for instance in [&kept_next, &stolen_too] {
            assert_eq!(refusal(&mut at_b, instance).await, "lineage.forked");
        }
        follow(&a, &b).await;
        assert_eq!(refusal(&mut at_a, &stolen_too).await, "lineage.forked");
    });
}
