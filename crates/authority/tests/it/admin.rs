//! The admin API's own behaviour, for a caller who may do everything.

use std::time::Duration;

use bonafide_authority::Refusal;
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_wire::{
    admin::{
        BanAgentRequest, CreateJoinTokenRequest, DeleteRequest, ExplainRequest, ListAgentsRequest,
        ListRegistrationsRequest, PutRegistrationRequest, PutSiteRequest, StatusRequest, WaitRequest,
    },
    types,
};

use crate::support::{LOCAL, Server, entry, put, rule, scope, selectors, site_admin};

async fn server() -> Server {
    let server = Server::new().await;
    let scope = types::Scope {
        dns_names: vec!["*.edge.example.org".into()],
        labels: selectors(&[("tier", "*"), ("env", "prod")]),
        max_x509_ttl: 600,
        max_jwt_ttl: 60,
        admin: vec!["edge".into()],
        ..scope(&["spiffe://example.org/user/*", "spiffe://example.org/edge/**"])
    };
    server.put_site("edge", scope).await;
    server
}

fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    result.unwrap_err().code().to_owned()
}

#[tokio::test]
async fn a_registration_must_fit_the_scope_of_its_site() {
    let server = server().await;
    let id = "spiffe://example.org/edge/web";
    let own: &[(&str, &str)] = &[("unix.uid", "1000")];
    let good = entry("edge", "web", id, own);
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let cases: Vec<(&str, types::Registration)> = vec![
        ("scope.spiffe-id", entry("edge", "x", "spiffe://example.org/core/web", own)),
        ("scope.spiffe-id", entry("edge", "x", "spiffe://example.org/edge", own)),
        ("scope.spiffe-id", entry("edge", "x", "spiffe://example.org", own)),
        ("scope.trust-domain", entry("edge", "x", "spiffe://example.com/edge/web", own)),
        ("scope.reserved", entry("edge", "x", "spiffe://example.org/bonafide/authority/one", own)),
        ("scope.reserved", entry("edge", "x", "spiffe://example.org/Bonafide/x", own)),
        ("scope.spiffe-id", rule("edge", "x", "spiffe://example.org/{unix.user}/x", own)),
        ("scope.spiffe-id", rule("edge", "x", "spiffe://example.org/user/{unix.user}/more", own)),
        ("scope.reserved", rule("edge", "x", "spiffe://example.org/bonafide/{unix.user}", own)),
        ("scope.trust-domain", rule("edge", "x", "spiffe://example.com/user/{unix.user}", own)),
        ("template.no-placeholder", rule("edge", "x", id, own)),
        ("template.placeholder", rule("edge", "x", "spiffe://example.org/user/u-{unix.user}", own)),
        (
            "scope.dns-name",
            types::Registration { dns_names: vec!["edge.example.org".into()], ..good.clone() },
        ),
        (
            "scope.dns-name",
            types::Registration { dns_names: vec!["a.b.edge.example.org".into()], ..good.clone() },
        ),
        ("scope.label", types::Registration { labels: label("env", "test"), ..good.clone() }),
        ("scope.label", types::Registration { labels: label("other", "x"), ..good.clone() }),
        ("label.value", types::Registration { labels: label("tier", "*"), ..good.clone() }),
        ("scope.admin", types::Registration { admin: vec!["core".into()], ..good.clone() }),
        ("scope.x509-ttl", types::Registration { x509_ttl: 601, ..good.clone() }),
        ("scope.x509-ttl", types::Registration { x509_ttl: 5, ..good.clone() }),
        ("scope.jwt-ttl", types::Registration { jwt_ttl: 61, ..good.clone() }),
        ("registration.no-selectors", entry("edge", "x", id, &[])),
        ("selector.key", entry("edge", "x", id, &[("uid", "1")])),
        ("registration.id", entry("edge", "../site/edge", id, own)),
        ("registration.id", entry("edge", &"x".repeat(65), id, own)),
        ("site.name", entry("Edge", "x", id, own)),
        ("site.unknown", entry("nowhere", "x", id, own)),
        ("registration.parent", types::Registration { parent: id.into(), ..good.clone() }),
        (
            "registration.parent",
            types::Registration { parent: crate::support::agent_id("core", 1).to_string(), ..good.clone() },
        ),
        ("registration.expired", types::Registration { expires_at: 1, ..good.clone() }),
        ("registration.kind", types::Registration { kind: 0, ..good.clone() }),
        ("registration.hint", types::Registration { hint: "x".repeat(129), ..good.clone() }),
    ];
    let before = server.registry.state().revision();
    for (expected, registration) in cases {
        let refused = server.admin.put_registration(&LOCAL, put(registration.clone())).await;
        assert_eq!(code(refused), expected, "{registration:?}");
    }
    assert_eq!(server.registry.state().revision(), before);
    let fits = types::Registration {
        dns_names: vec!["web.edge.example.org".into()],
        labels: [("tier".to_owned(), "front".to_owned()), ("env".to_owned(), "prod".to_owned())].into(),
        admin: vec!["edge".into()],
        x509_ttl: 600,
        jwt_ttl: 60,
        parent: crate::support::agent_id("edge", 1).to_string(),
        ..good
    };
    let answer = server.admin.put_registration(&LOCAL, put(fits.clone())).await.unwrap();
    let returned = answer.registration.unwrap();
    assert_eq!(returned.revision, answer.revision);
    assert_eq!(types::Registration { revision: 0, created_at: 0, ..returned }, fits);
    let anyone = rule("edge", "users", "spiffe://example.org/user/{unix.user}", own);
    server.admin.put_registration(&LOCAL, put(anyone)).await.unwrap();
}

#[tokio::test]
async fn a_scope_must_be_of_this_trust_domain_and_within_bounds() {
    let server = server().await;
    let put = |scope: types::Scope, default_x509_ttl| PutSiteRequest {
        site: Some(types::Site {
            name: "core".into(),
            scope: Some(scope),
            default_x509_ttl,
            ..types::Site::default()
        }),
        ..PutSiteRequest::default()
    };
    for (expected, request) in [
        ("scope.trust-domain", put(scope(&["spiffe://example.com/**"]), 0)),
        ("scope.reserved", put(scope(&["spiffe://example.org/bonafide/**"]), 0)),
        ("scope.pattern", put(scope(&["spiffe://example.org/a*"]), 0)),
        ("scope.max-x509-ttl", put(types::Scope { max_x509_ttl: 86401, ..scope(&[]) }, 0)),
        ("scope.max-jwt-ttl", put(types::Scope { max_jwt_ttl: 301, ..scope(&[]) }, 0)),
        ("site.default-x509-ttl", put(types::Scope { max_x509_ttl: 600, ..scope(&[]) }, 601)),
        ("scope.spiffe-ids", put(scope(&["spiffe://example.org/a"; 257]), 0)),
        ("site.missing", PutSiteRequest::default()),
    ] {
        assert_eq!(code(server.admin.put_site(&LOCAL, request).await), expected);
    }
    let answer = server.admin.put_site(&LOCAL, put(scope(&["spiffe://example.org/**"]), 0)).await.unwrap();
    let site = answer.site.unwrap();
    assert_eq!((site.default_x509_ttl, site.default_jwt_ttl), (3600, 300));
    let again = PutSiteRequest { create_only: true, ..put(scope(&[]), 0) };
    assert_eq!(code(server.admin.put_site(&LOCAL, again).await), "site.exists");
}

#[tokio::test]
async fn an_id_stays_with_its_site() {
    let server = server().await;
    server.put_site("core", scope(&["spiffe://example.org/core/**"])).await;
    server.put_entry("edge", "web", "spiffe://example.org/edge/web", &[("unix.uid", "1")]).await;
    let steal = entry("core", "web", "spiffe://example.org/core/web", &[("unix.uid", "1")]);
    assert_eq!(code(server.admin.put_registration(&LOCAL, put(steal)).await), "registration.exists");
    let again = entry("edge", "web", "spiffe://example.org/edge/web", &[("unix.uid", "2")]);
    let again = PutRegistrationRequest { create_only: true, ..put(again) };
    assert_eq!(code(server.admin.put_registration(&LOCAL, again).await), "registration.exists");
}

#[tokio::test]
async fn a_write_that_is_sent_again_happens_once() {
    let server = server().await;
    let request = PutRegistrationRequest {
        idempotency_key: "k1".into(),
        ..put(entry("edge", "", "spiffe://example.org/edge/web", &[("unix.uid", "1")]))
    };
    let first = server.admin.put_registration(&LOCAL, request.clone()).await.unwrap();
    let second = server.admin.put_registration(&LOCAL, request.clone()).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(server.registry.state().registration_count(), 1);

    let other = put(entry("edge", "", "spiffe://example.org/edge/other", &[("unix.uid", "1")]));
    let other = PutRegistrationRequest { idempotency_key: "k1".into(), ..other };
    assert_eq!(code(server.admin.put_registration(&LOCAL, other).await), "idempotency.reused");
    let delete = DeleteRequest { name: first.registration.unwrap().id, idempotency_key: "k1".into() };
    assert_eq!(code(server.admin.delete_registration(&LOCAL, delete.clone()).await), "idempotency.reused");

    // A repeated deletion does not fail because the first one succeeded.
    let delete = DeleteRequest { idempotency_key: "k2".into(), ..delete };
    let deleted = server.admin.delete_registration(&LOCAL, delete.clone()).await.unwrap();
    assert_eq!(server.admin.delete_registration(&LOCAL, delete.clone()).await.unwrap(), deleted);

    // A day later the key is free again.
    server.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(code(server.admin.delete_registration(&LOCAL, delete).await), "registration.unknown");
    let long = DeleteRequest { name: "x".into(), idempotency_key: "k".repeat(129) };
    assert_eq!(code(server.admin.delete_registration(&LOCAL, long).await), "idempotency.key");
}

#[tokio::test]
async fn a_token_is_not_shown_twice() {
    let server = server().await;
    let request = CreateJoinTokenRequest { site: "edge".into(), ttl: 60, idempotency_key: "k".into() };
    assert_eq!(code(server.admin.create_join_token(&LOCAL, request.clone()).await), "authority.no-root");
    server.add_root().await;
    server.admin.create_join_token(&LOCAL, request.clone()).await.unwrap();
    assert_eq!(code(server.admin.create_join_token(&LOCAL, request.clone()).await), "token.shown-once");
    assert_eq!(server.registry.state().tokens().count(), 1);
    let long = CreateJoinTokenRequest { ttl: 8 * 24 * 3600, idempotency_key: String::new(), ..request };
    assert_eq!(code(server.admin.create_join_token(&LOCAL, long).await), "token.ttl");
}

#[tokio::test]
async fn two_callers_keys_are_two_keys() {
    let server = server().await;
    let boss = types::Registration {
        admin: vec!["edge".into()],
        ..entry("edge", "boss", "spiffe://example.org/edge/boss", &[("unix.uid", "7")])
    };
    server.admin.put_registration(&LOCAL, put(boss)).await.unwrap();
    server.add_agent("edge", crate::support::ADMINS_AGENT).await;
    let caller = site_admin("spiffe://example.org/edge/boss", "edge", "boss", &["edge"]);
    let request = |id| PutRegistrationRequest {
        idempotency_key: "k".into(),
        ..put(entry("edge", id, "spiffe://example.org/edge/web", &[("unix.uid", "1")]))
    };
    server.admin.put_registration(&LOCAL, request("a")).await.unwrap();
    server.admin.put_registration(&caller, request("b")).await.unwrap();
    assert_eq!(server.registry.state().registration_count(), 3);
}

#[tokio::test]
async fn pages_hold_what_was_asked_for_and_lead_to_the_end() {
    let server = server().await;
    server.put_site("core", scope(&["spiffe://example.org/core/**"])).await;
    for n in 0..25 {
        let site = if n % 5 == 0 { "core" } else { "edge" };
        server
            .put_entry(
                site,
                &format!("r{n:02}"),
                &format!("spiffe://example.org/{site}/w"),
                &[("unix.uid", "1")],
            )
            .await;
    }
    for (site, expected) in [("", 25), ("edge", 20), ("core", 5)] {
        let mut found = Vec::new();
        let mut request = ListRegistrationsRequest { site: site.into(), page_size: 4, ..Default::default() };
        loop {
            let page = server.admin.list_registrations(&LOCAL, &request).unwrap();
            assert!(page.registrations.len() <= 4);
            found.extend(page.registrations.into_iter().map(|registration| registration.id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(found.len(), expected);
        assert!(found.is_sorted());
    }
    let by_id =
        ListRegistrationsRequest { spiffe_id: "spiffe://example.org/core/w".into(), ..Default::default() };
    assert_eq!(server.admin.list_registrations(&LOCAL, &by_id).unwrap().registrations.len(), 5);
    let odd = ListRegistrationsRequest { page_token: "../x".into(), ..Default::default() };
    assert_eq!(code(server.admin.list_registrations(&LOCAL, &odd)), "registration.page-token");
}

#[tokio::test]
async fn a_site_goes_only_when_it_is_empty_and_takes_banned_agents_and_tokens_along() {
    let server = server().await;
    server.add_root().await;
    let delete = || DeleteRequest { name: "edge".into(), ..DeleteRequest::default() };
    server.put_entry("edge", "web", "spiffe://example.org/edge/web", &[("unix.uid", "1")]).await;
    let agent = server.add_agent("edge", 1).await;
    let token = CreateJoinTokenRequest { site: "edge".into(), ..Default::default() };
    server.admin.create_join_token(&LOCAL, token).await.unwrap();
    assert_eq!(code(server.admin.delete_site(&LOCAL, delete()).await), "site.not-empty");
    let web = DeleteRequest { name: "web".into(), ..DeleteRequest::default() };
    server.admin.delete_registration(&LOCAL, web).await.unwrap();
    assert_eq!(code(server.admin.delete_site(&LOCAL, delete()).await), "site.not-empty");
    let ban = BanAgentRequest { id: agent.to_string(), reason: "retired".into(), ..Default::default() };
    let banned = server.admin.ban_agent(&LOCAL, ban.clone()).await.unwrap();
    assert_eq!(server.admin.ban_agent(&LOCAL, ban).await.unwrap().revision, banned.revision);
    server.admin.delete_site(&LOCAL, delete()).await.unwrap();
    let state = server.registry.state();
    assert!(
        state.site("edge").is_none() && state.agents().next().is_none() && state.tokens().next().is_none()
    );
    assert_eq!(code(server.admin.delete_site(&LOCAL, delete()).await), "site.unknown");
}

#[tokio::test]
async fn explain_shows_what_would_be_issued_and_what_is_missing() {
    let server = server().await;
    server.put_site("core", scope(&["spiffe://example.org/core/**"])).await;
    let agent = server.add_agent("edge", 1).await;
    let own = [("unix.uid", "1000"), ("unix.user", "ann")];
    server.put_entry("edge", "web", "spiffe://example.org/edge/web", &own[..1]).await;
    server
        .put_entry("edge", "signed", "spiffe://example.org/edge/signed", &[own[0], ("unix.sha256", "ab")])
        .await;
    server.put_entry("core", "elsewhere", "spiffe://example.org/core/web", &own[..1]).await;
    let users = rule("edge", "users", "spiffe://example.org/user/{unix.user}", &own[..1]);
    server.admin.put_registration(&LOCAL, put(users)).await.unwrap();
    let other = types::Registration {
        parent: crate::support::agent_id("edge", 9).to_string(),
        ..entry("edge", "pinned", "spiffe://example.org/edge/pinned", &own[..1])
    };
    server.admin.put_registration(&LOCAL, put(other)).await.unwrap();
    let explain = |own: &[(&str, &str)]| {
        let request = ExplainRequest { agent: agent.to_string(), selectors: selectors(own) };
        server.admin.explain(&LOCAL, &request).unwrap()
    };
    let told = explain(&own);
    let outcomes: Vec<_> = told
        .outcomes
        .iter()
        .map(|outcome| (outcome.registration.as_str(), outcome.spiffe_id.as_str()))
        .collect();
    assert_eq!(
        outcomes,
        [("users", "spiffe://example.org/user/ann"), ("web", "spiffe://example.org/edge/web")]
    );
    assert!(told.problem.is_none() && told.outcomes.iter().all(|outcome| outcome.problem.is_none()));
    let near = |id: &str| told.near_misses.iter().find(|miss| miss.registration == id).unwrap().clone();
    assert_eq!(near("signed").missing, selectors(&[("unix.sha256", "ab")]));
    assert!(near("elsewhere").wrong_place.contains("`core`"));
    assert!(near("pinned").wrong_place.contains("for the agent"));

    // A value that is no path segment: matched, and refused in words.
    let told = explain(&[("unix.uid", "1000"), ("unix.user", "../root")]);
    let users = told.outcomes.iter().find(|outcome| outcome.registration == "users").unwrap();
    assert_eq!(users.problem.as_ref().unwrap().code, "template.value-not-a-segment");

    let told = explain(&[("unix.uid", "5")]);
    assert_eq!(told.problem.unwrap().code, "workload.no-registration");
    assert_eq!(told.near_misses[0].missing, selectors(&own[..1]));

    // A narrower scope holds at once for what was registered before.
    server.put_site("edge", scope(&["spiffe://example.org/user/*"])).await;
    let told = explain(&own);
    let web = told.outcomes.iter().find(|outcome| outcome.registration == "web").unwrap();
    assert_eq!(web.problem.as_ref().unwrap().code, "scope.spiffe-id");

    let ban = BanAgentRequest { id: agent.to_string(), ..Default::default() };
    server.admin.ban_agent(&LOCAL, ban).await.unwrap();
    assert_eq!(explain(&own).problem.unwrap().code, "agent.banned");
    let stranger =
        ExplainRequest { agent: crate::support::agent_id("edge", 77).to_string(), selectors: vec![] };
    assert_eq!(server.admin.explain(&LOCAL, &stranger).unwrap().problem.unwrap().code, "agent.unknown");
}

#[tokio::test(start_paused = true)]
async fn wait_returns_once_agents_have_caught_up_or_names_those_that_have_not() {
    let server = server().await;
    let (one, two) = (server.add_agent("edge", 1).await, server.add_agent("edge", 2).await);
    let expires = server.clock.now().saturating_add(Duration::from_secs(60));
    let first = server.presence.connect(one.clone(), expires, "0.1.0");
    let second = server.presence.connect(two.clone(), expires, "0.1.0");
    let revision =
        server.put_entry("edge", "web", "spiffe://example.org/edge/web", &[("unix.uid", "1")]).await;
    first.acknowledge(revision);
    let request = WaitRequest { revision, timeout: 5 };
    let behind = server.admin.wait(&LOCAL, &request).await.unwrap().behind;
    assert_eq!(behind, [two.to_string()]);
    let waited = async { server.admin.wait(&LOCAL, &request).await.unwrap().behind };
    let (behind, ()) = tokio::join!(waited, async { second.acknowledge(revision) });
    assert!(behind.is_empty());
    // A reconnected stream starts from nothing; the old stream's end does not end the new one.
    let again = server.presence.connect(two.clone(), expires, "0.2.0");
    drop(second);
    assert_eq!(server.admin.wait(&LOCAL, &request).await.unwrap().behind, [two.to_string()]);
    drop(again);
    assert!(server.admin.wait(&LOCAL, &request).await.unwrap().behind.is_empty());
    let listed = server.admin.list_agents(&LOCAL, &ListAgentsRequest::default()).unwrap().agents;
    assert_eq!(listed.iter().map(|agent| agent.connected).collect::<Vec<_>>(), [true, false]);
    assert_eq!(UnixTime::from_secs(listed[0].svid_expires_at), expires);
    let future = WaitRequest { revision: revision + 1000, timeout: 1 };
    assert_eq!(code(server.admin.wait(&LOCAL, &future).await), "wait.revision");
    let status = server.admin.status(&LOCAL, &StatusRequest {}).unwrap();
    assert_eq!((status.agents_connected, status.ledger_size), (1, 7));
}
