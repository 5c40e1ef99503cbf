use std::{sync::Arc, time::Duration};

use bonafide_sdk::Clock;
use bonafide_testkit::TestDomain;
use bonafide_wire::types::Problem;

use crate::fake_agent::FakeAgent;

#[tokio::test]
async fn a_token_is_fetched_once_until_half_of_its_life_is_over() {
    let agent = FakeAgent::start();
    let source = agent.jwt().await;
    let first = source.fetch(&["api", "other"]).await.unwrap();
    assert_eq!(first.id().path(), "/web");
    let again = source.fetch(&["other", "api", "api"]).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(agent.jwt_requests(), 1);

    source.fetch(&["elsewhere"]).await.unwrap();
    assert_eq!(agent.jwt_requests(), 2);

    agent.clock.advance(Duration::from_secs(149));
    source.fetch(&["api", "other"]).await.unwrap();
    assert_eq!(agent.jwt_requests(), 2);
    agent.clock.advance(Duration::from_secs(2));
    let renewed = source.fetch(&["api", "other"]).await.unwrap();
    assert_eq!(agent.jwt_requests(), 3);
    assert!(renewed.expires_at() > first.expires_at());
}

#[tokio::test]
async fn while_the_agent_is_away_a_token_serves_until_it_expires() {
    let mut agent = FakeAgent::start();
    let source = agent.jwt().await;
    let first = source.fetch(&["api"]).await.unwrap();
    agent.stop().await;
    agent.clock.advance(Duration::from_secs(200));
    assert!(Arc::ptr_eq(&first, &source.fetch(&["api"]).await.unwrap()));
    agent.clock.advance(Duration::from_secs(100));
    assert_eq!(source.fetch(&["api"]).await.unwrap_err().code(), "sdk.agent-unreachable");
}

#[tokio::test]
async fn tokens_are_validated_without_the_agent() {
    let mut agent = FakeAgent::start();
    let source = agent.jwt().await;
    agent.stop().await;
    let token = agent.domain.jwt("/caller", &["api"], agent.clock.now());
    assert_eq!(source.validate(&token, "api").unwrap().id().path(), "/caller");
    assert!(source.validate(&token, "other").is_err());

    let impostor = TestDomain::new("example.org", agent.clock.now());
    let forged = impostor.jwt("/caller", &["api"], agent.clock.now());
    assert!(source.validate(&forged, "api").is_err());
    agent.clock.advance(Duration::from_secs(400));
    assert!(source.validate(&token, "api").is_err());
}

#[tokio::test]
async fn when_the_agent_withdraws_everything_no_key_and_no_token_is_left() {
    let agent = FakeAgent::start();
    let source = agent.jwt().await;
    source.fetch(&["api"]).await.unwrap();
    let token = agent.domain.jwt("/caller", &["api"], agent.clock.now());
    source.validate(&token, "api").unwrap();
    agent.refuse(Problem { code: "workload.no-registration".to_owned(), ..Problem::default() });
    while !source.bundles().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(source.validate(&token, "api").unwrap_err().code(), "jwt.unknown-trust-domain");
    source.fetch(&["api"]).await.unwrap();
    assert_eq!(agent.jwt_requests(), 2, "the cached token is gone");
}
