//! Join tokens are spent once.

use std::time::Duration;

use bonafide_attest::join::{JoinLine, Token};
use bonafide_authority::{
    Refusal,
    node::{Asked, JoinTokens, NodeAttestor as _, Step},
    registry::Registry,
};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::time::{Clock as _, UnixTime};
use bonafide_wire::admin::{CreateJoinTokenRequest, DeleteRequest, ListJoinTokensRequest};
use futures_util::future::join_all;

use crate::support::{LOCAL, Server, scope};

/// What an attestation commits together with the agent's record.
async fn spend(registry: &Registry, token: &Token, now: UnixTime) -> Result<(), Refusal> {
    let asked = Asked { evidence: token.expose(), csr: &[] };
    let Step::Verdict(verdict) = JoinTokens.begin(asked, &registry.state(), now)? else {
        panic!("a token needs no challenge")
    };
    registry.write(move |state| (verdict.spend)(state)).await.map(drop)
}

async fn token(server: &Server) -> (String, Token) {
    let request = CreateJoinTokenRequest { site: "edge".into(), ..CreateJoinTokenRequest::default() };
    let created = server.admin.create_join_token(&LOCAL, request).await.unwrap();
    (created.id, created.token.parse().unwrap())
}

async fn server() -> Server {
    let server = Server::new().await;
    server.put_site("edge", scope(&["spiffe://example.org/**"])).await;
    server.add_root().await;
    server
}

#[tokio::test]
async fn of_two_hundred_nodes_with_one_token_at_two_servers_one_is_admitted() {
    let one = server().await;
    let two = Server::over(one.store.clone(), one.clock.clone()).await;
    let (_, token) = token(&one).await;
    two.registry.reached(one.registry.state().revision()).await;
    let now = one.clock.now();
    let spends = (0..200).map(|n| {
        let registry = if n % 2 == 0 { one.registry.clone() } else { two.registry.clone() };
        let token = token.clone();
        tokio::spawn(async move { spend(&registry, &token, now).await })
    });
    let results: Vec<_> = join_all(spends).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(
        results
            .iter()
            .filter_map(|result| result.as_ref().err())
            .all(|refusal| refusal.code() == "token.invalid")
    );
    let revision = one.registry.state().revision().max(two.registry.state().revision());
    for server in [one, two] {
        server.registry.reached(revision).await;
        assert_eq!(server.registry.state().tokens().count(), 0);
    }
}

#[tokio::test]
async fn spent_expired_deleted_and_unknown_tokens_are_refused_alike() {
    let server = server().await;
    let now = server.clock.now();
    let (_, spent) = token(&server).await;
    spend(&server.registry, &spent, now).await.unwrap();
    let (id, deleted) = token(&server).await;
    server
        .admin
        .delete_join_token(&LOCAL, DeleteRequest { name: id, ..DeleteRequest::default() })
        .await
        .unwrap();
    let (_, expired) = token(&server).await;
    let mut refusals = vec![
        spend(&server.registry, &spent, now).await.unwrap_err(),
        spend(&server.registry, &deleted, now).await.unwrap_err(),
        spend(&server.registry, &Token::generate(&SystemRandom), now).await.unwrap_err(),
    ];
    server.clock.advance(Duration::from_secs(600));
    refusals.push(spend(&server.registry, &expired, server.clock.now()).await.unwrap_err());
    let first = refusals[0].clone();
    assert_eq!(first.code(), "token.invalid");
    assert!(refusals.iter().all(|refusal| *refusal == first));
}

#[tokio::test]
async fn the_token_itself_is_nowhere_but_in_the_answer() {
    let server = server().await;
    let request = CreateJoinTokenRequest { site: "edge".into(), ..CreateJoinTokenRequest::default() };
    let created = server.admin.create_join_token(&LOCAL, request).await.unwrap();
    let token: Token = created.token.parse().unwrap();
    let line: JoinLine = created.join.parse().unwrap();
    assert_eq!(line.token, token);
    assert_eq!(line.root_pin, bonafide_crypto::digest::sha256(b"der"));
    assert_eq!(line.address, "authority.example.org:8443");
    let stored = server.store.value(&format!("token/{}", created.id)).unwrap();
    assert!(!stored.windows(32).any(|window| window == token.expose()));
    assert!(stored.windows(32).any(|window| window == token.sha256()));
    let listed = server.admin.list_join_tokens(&LOCAL, &ListJoinTokensRequest::default()).unwrap();
    assert_eq!(listed.tokens.len(), 1);
    let shown = format!("{listed:?}{:?}", server.registry.state());
    assert!(!shown.contains(&created.token));
}
