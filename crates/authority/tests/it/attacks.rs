//! What a compromised agent, a stranger on the network, and somebody with the data directory try.

use std::time::Duration;

use bonafide_attest::join::JoinLine;
use bonafide_wire::admin::{BanAgentRequest, PutSiteRequest, PutSiteResponse};
use bonafide_wire::node::agent_message::Kind as Say;
use bonafide_wire::node::authority_message::Kind as Heard;
use bonafide_wire::node::{Hello, IssueJwt, IssueX509};
use bonafide_wire::problem_of;
use bytes::Bytes;
use tonic::{Code, Request};

use crate::agents::{Agent, dial, new_key, pinned, request_for};
use crate::world::{World, entry, in_time};

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
