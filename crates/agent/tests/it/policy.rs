//! Policies, from the admin who writes one to the decision of the agent.

use std::collections::BTreeMap;

use bonafide_wire::{
    admin::{
        ApplyRequest, DeleteRequest, PutRegistrationRequest, PutSiteRequest, Resource, RevokeRequest,
        resource,
    },
    agent::{
        AuthorizeRequest, Decision, ListDecisionsRequest, Question, WatchPoliciesRequest,
        agent_client::AgentClient,
    },
    external_auth::{
        AttributeContext, CheckRequest, CheckResponse, attribute_context,
        authorization_client::AuthorizationClient, check_response::HttpResponse,
    },
    types::{Policy, Registration, Revocation, Scope, Selector, Site, registration, revocation},
};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::Channel;

use crate::world::{World, local};

const READERS: &str = "
kind: Policy
name: ledger-callers
appliesTo: {app: ledger}
rules:
- name: readers
  allow: {who: {labels: {env: prod}}, can: [GET], on: {path: /v1/**}}
";
const WRITERS: &str = "
kind: Policy
name: ledger-callers
appliesTo: {app: ledger}
rules:
- name: readers
  allow: {who: {labels: {env: prod}}, can: [GET], on: {path: /v1/**}}
- name: writers
  allow: {who: {labels: {env: prod}}, can: [POST], on: {path: /v1/orders}}
";
const OTHERS: &str = "
kind: Policy
name: somebody-else
appliesTo: {app: billing}
rules:
- name: all
  allow: {who: anyone}
";
const SHADOW: &str = "
kind: Guardrail
name: quiet-night
mode: shadow
rules:
- name: no-orders
  deny: {who: anyone, on: {path: /v1/orders/**}}
";
const BY_ID: &str = "
kind: Policy
name: ledger-callers
appliesTo: {app: ledger}
rules:
- name: friends
  allow: {who: {id: spiffe://example.org/app/*}, can: [GET, can_read], on: {path: '/**'}}
";

/// A world in which this process is a ledger in production.
async fn world() -> World {
    let mut world = World::new().await;
    let mut admin = world.admin().await;
    let any = |key: &str| Selector { key: key.into(), value: "*".into() };
    let scope = Scope {
        spiffe_ids: vec!["spiffe://example.org/app/**".into()],
        labels: vec![any("app"), any("env")],
        ..Scope::default()
    };
    let site = Site { name: "lab".into(), scope: Some(scope), ..Site::default() };
    admin.put_site(PutSiteRequest { site: Some(site), ..Default::default() }).await.unwrap();
    let uid = rustix::process::geteuid().as_raw().to_string();
    let registration = Registration {
        id: "web".into(),
        kind: registration::Kind::Entry.into(),
        site: "lab".into(),
        spiffe_id: "spiffe://example.org/app/web".into(),
        selectors: vec![Selector { key: "unix.uid".into(), value: uid }],
        labels: [("app", "ledger"), ("env", "prod")].map(|(key, value)| (key.into(), value.into())).into(),
        ..Registration::default()
    };
    let request = PutRegistrationRequest { registration: Some(registration), ..Default::default() };
    admin.put_registration(request).await.unwrap();
    let line = world.join_line().await;
    world.start_agent(Some(&line)).await.unwrap();
    world.connected().await;
    world
}

/// Puts policies, and waits until the agent has them.
async fn apply(world: &World, sources: &[&str]) {
    let policy = |source: &&str| Resource {
        resource: Some(resource::Resource::Policy(Policy { source: (*source).into(), ..Policy::default() })),
    };
    let resources = sources.iter().map(policy).collect();
    let mut admin = world.admin().await;
    let answer = admin.apply(ApplyRequest { resources, ..Default::default() }).await.unwrap().into_inner();
    assert!(answer.results.iter().all(|result| result.problem.is_none()), "{answer:?}");
    wait(world, answer.revision).await;
}

/// Until the agent knows it, whichever server tells it.
async fn wait(world: &World, revision: u64) {
    world.until("told of the change", |status| status.revision >= revision).await;
}

async fn chain(world: &World) -> Vec<Bytes> {
    let svid = world.svids().await.unwrap().svids.remove(0).x509_svid;
    // DER after DER.
    let mut rest = &svid[..];
    let mut chain = Vec::new();
    while !rest.is_empty() {
        let length = 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        chain.push(Bytes::copy_from_slice(&rest[..length]));
        rest = &rest[length..];
    }
    chain
}

fn question(chain: &[Bytes], action: &str, path: &str) -> Question {
    Question { chain: chain.to_vec(), action: action.into(), path: path.into(), ..Question::default() }
}

async fn client(world: &World) -> AgentClient<Channel> {
    AgentClient::new(local(&world.socket).await)
}

async fn decide(world: &World, question: Question) -> Decision {
    let request = AuthorizeRequest { questions: vec![question], explain: true };
    client(world).await.authorize(request).await.unwrap().into_inner().decisions.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_takes_effect_and_every_denial_says_why() {
    let world = world().await;
    let chain = chain(&world).await;
    // Without any policy nothing is allowed.
    let nothing = decide(&world, question(&chain, "GET", "/v1/orders")).await;
    assert_eq!((nothing.allowed, nothing.code.as_str()), (false, "policy.no-rule"));

    apply(&world, &[READERS, OTHERS]).await;
    let read = decide(&world, question(&chain, "GET", "/v1/orders?all")).await;
    assert!(read.allowed, "{read:?}");
    assert_eq!((read.policy.as_str(), read.rule.as_str()), ("ledger-callers", "readers"));
    assert!(read.digest.starts_with("sha256:") && read.revision > 0);
    let write = decide(&world, question(&chain, "POST", "/v1/orders")).await;
    assert_eq!((write.allowed, write.code.as_str()), (false, "policy.no-rule"));
    assert!(write.near_misses.iter().any(|near| near.contains("readers")), "{:?}", write.near_misses);

    apply(&world, &[WRITERS]).await;
    let write = decide(&world, question(&chain, "POST", "/v1/orders")).await;
    assert_eq!((write.allowed, write.rule.as_str()), (true, "writers"));

    // A shadow rule changes nothing, and is told.
    apply(&world, &[SHADOW]).await;
    let would = decide(&world, question(&chain, "GET", "/v1/orders/7")).await;
    assert_eq!((would.allowed, would.would.as_str()), (true, "deny quiet-night/no-orders"));

    let mut admin = world.admin().await;
    let request = DeleteRequest { name: "ledger-callers".into(), ..Default::default() };
    let revision = admin.delete_policy(request).await.unwrap().into_inner().revision;
    wait(&world, revision).await;
    assert!(!decide(&world, question(&chain, "GET", "/v1/orders")).await.allowed);

    let request = ListDecisionsRequest { would_only: true, ..Default::default() };
    let listed = client(&world).await.list_decisions(request).await.unwrap().into_inner();
    let events: Vec<Value> = listed.events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["decision_id"], would.id.as_str());
    assert_eq!(events[0]["input"]["bonafide"]["who"]["labels"]["env"], "prod");
    assert_eq!(events[0]["input"]["bonafide"]["on"]["path"], "/v1/orders/7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_count_only_where_a_certificate_shows_them() {
    let world = world().await;
    let chain = chain(&world).await;
    apply(&world, &[READERS]).await;
    // By its ID alone nobody has labels, so the question can't be decided.
    let by_id =
        Question { spiffe_id: "spiffe://example.org/app/web".into(), ..question(&[], "GET", "/v1/a") };
    assert_eq!(decide(&world, by_id.clone()).await.code, "policy.labels-unknown");
    // What the program asserts is not what the authority certified.
    let props = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    let lies = Question { caller_props: props, ..by_id.clone() };
    assert!(!decide(&world, lies).await.allowed);
    // A certificate that nobody signed.
    let mut forged = chain.clone();
    let mut leaf = forged[0].to_vec();
    let last = leaf.len() - 1;
    leaf[last] ^= 1;
    forged[0] = leaf.into();
    assert_eq!(decide(&world, question(&forged, "GET", "/v1/a")).await.code, "policy.caller-unverified");
    // Somebody else's.
    let other =
        Question { spiffe_id: "spiffe://example.org/app/other".into(), ..question(&chain, "GET", "/v1/a") };
    let request = AuthorizeRequest { questions: vec![other], explain: false };
    assert!(client(&world).await.authorize(request).await.is_err());
    // Paths that can be read in two ways.
    for path in ["/v1/%2e%2e/x", "/v1/..", "/v1/a%2fb", "/v1/\0"] {
        let decision = decide(&world, question(&chain, "GET", path)).await;
        assert!(!decision.allowed && decision.code.starts_with("policy.path"), "{path}: {decision:?}");
    }

    apply(&world, &[BY_ID]).await;
    assert!(decide(&world, by_id).await.allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_go_to_programs_that_they_apply_to_and_survive_a_restart() {
    let mut world = world().await;
    apply(&world, &[READERS, OTHERS]).await;
    let mut updates =
        client(&world).await.watch_policies(WatchPoliciesRequest {}).await.unwrap().into_inner();
    let first = updates.message().await.unwrap().unwrap();
    let names: Vec<&str> = first.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!((first.start, names), (true, vec!["ledger-callers"]));
    assert_eq!(first.labels.get("app").map(String::as_str), Some("ledger"));
    assert!(first.policies.iter().all(|policy| policy.source.is_empty()));
    apply(&world, &[WRITERS]).await;
    let next = loop {
        let next = updates.message().await.unwrap().unwrap();
        if !next.policies.is_empty() {
            break next;
        }
    };
    assert!(!next.start);
    assert_eq!(next.policies.len(), 1);
    drop(updates);

    let chain = chain(&world).await;
    world.stop_agent().await;
    world.stop_authority().await;
    world.start_agent(None).await.unwrap();
    let write = decide(&world, question(&chain, "POST", "/v1/orders")).await;
    assert!(write.allowed, "{write:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_ask_in_the_words_that_they_have() {
    let world = world().await;
    apply(&world, &[BY_ID]).await;
    let evaluation = |name: &str| {
        json!({
            "subject": { "type": "workload", "id": "spiffe://example.org/app/web" },
            "action": { "name": name },
            "resource": { "type": "record", "id": "7" },
        })
    };
    let (status, body) = post(&world, "/access/v1/evaluation", &evaluation("can_read")).await;
    assert_eq!((status, &body["decision"]), (200, &json!(true)), "{body}");
    let (status, body) = post(&world, "/access/v1/evaluation", &evaluation("can_write")).await;
    assert_eq!((status, &body["decision"]), (200, &json!(false)));
    assert_eq!(body["context"]["reason_admin"]["code"], "policy.no-rule");
    let alice = json!({
        "subject": { "type": "user", "id": "alice" },
        "action": { "name": "can_read" },
        "resource": { "type": "record", "id": "7" },
    });
    let (status, body) = post(&world, "/access/v1/evaluation", &alice).await;
    assert_eq!((status, &body["decision"]), (200, &json!(false)));
    for wrong in
        [json!({}), json!([]), json!({ "subject": "alice" }), json!({ "subject": { "type": "user" } })]
    {
        let (status, _) = post(&world, "/access/v1/evaluation", &wrong).await;
        assert_eq!(status, 400, "{wrong}");
    }
    let batch = json!({
        "subject": { "type": "workload", "id": "spiffe://example.org/app/web" },
        "resource": { "type": "record", "id": "7" },
        "evaluations": [
            { "action": { "name": "can_read" } },
            { "action": { "name": "can_write" } },
            { "action": { "name": "can_read" } },
        ],
        "options": { "evaluations_semantic": "deny_on_first_deny" },
    });
    let (_, body) = post(&world, "/access/v1/evaluations", &batch).await;
    let decisions: Vec<&Value> =
        body["evaluations"].as_array().unwrap().iter().map(|each| &each["decision"]).collect();
    assert_eq!(decisions, [&json!(true), &json!(false)]);

    let input =
        json!({ "input": { "spiffe_id": "spiffe://example.org/app/web", "action": "GET", "path": "/x" } });
    let (_, body) = post(&world, "/v1/data/bonafide/allow", &input).await;
    assert_eq!(body["result"], json!(true), "{body}");
    let (_, body) = post(&world, "/v1/data/some/other", &input).await;
    assert!(body.get("result").is_none());

    let mut envoy = AuthorizationClient::new(local(&world.socket).await);
    let check = |principal: &str, method: &str| check(principal, method, "/v1/orders?x=1");
    let allowed = envoy.check(check("spiffe://example.org/app/web", "GET")).await.unwrap().into_inner();
    assert_eq!(allowed.status.unwrap().code, 0);
    let denied = envoy.check(check("spiffe://example.org/app/web", "PUT")).await.unwrap().into_inner();
    assert_eq!(denied.status.unwrap().code, 7);
    let Some(HttpResponse::DeniedResponse(response)) = denied.http_response else { panic!() };
    assert_eq!(response.status.unwrap().code, 403);
    assert!(!response.body.contains("no-rule"), "whoever is refused learns nothing of the rules");
    let nobody = envoy.check(check("", "GET")).await.unwrap().into_inner();
    assert_eq!(nobody.status.unwrap().message, "policy.no-caller");
}

fn check(principal: &str, method: &str, path: &str) -> CheckRequest {
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(attribute_context::Peer { principal: principal.into(), ..Default::default() }),
            request: Some(attribute_context::Request {
                http: Some(attribute_context::HttpRequest {
                    method: method.into(),
                    path: path.into(),
                    host: "ledger.example.org".into(),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_is_denied_however_it_is_asked_about() {
    let world = world().await;
    apply(&world, &[BY_ID]).await;
    let web = "spiffe://example.org/app/web";
    let by_id = Question { spiffe_id: web.into(), ..question(&[], "GET", "/x") };
    assert!(decide(&world, by_id.clone()).await.allowed);
    let mut envoy = AuthorizationClient::new(local(&world.socket).await);
    let verdict = |answer: CheckResponse| answer.status.unwrap().code;
    assert_eq!(verdict(envoy.check(check(web, "GET", "/x")).await.unwrap().into_inner()), 0);

    let subject =
        Revocation { subject: Some(revocation::Subject::SpiffeId(web.into())), ..Default::default() };
    let request = RevokeRequest { subject: Some(subject), ..Default::default() };
    let revision = world.admin().await.revoke(request).await.unwrap().into_inner().revision;
    wait(&world, revision).await;
    assert_eq!(decide(&world, by_id).await.code, "policy.caller-unverified");
    assert_eq!(verdict(envoy.check(check(web, "GET", "/x")).await.unwrap().into_inner()), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_caller_sends_is_an_error_of_the_proxy() {
    let world = world().await;
    apply(&world, &[BY_ID]).await;
    let mut envoy = AuthorizationClient::new(local(&world.socket).await);
    let long = format!("/{}", "a".repeat(100_000));
    for (principal, method, path) in [
        ("CN=mallory", "GET", "/x"),
        ("spiffe://example.org/app/web", "", "/x"),
        ("spiffe://example.org/app/web", "GET", ""),
        ("spiffe://example.org/app/web", "GET", "*"),
        ("spiffe://example.org/app/web", "GET", long.as_str()),
    ] {
        let answer = envoy.check(check(principal, method, path)).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code, 7, "{principal} {method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_identity_lifts_no_guardrail_of_another_one() {
    let world = world().await;
    let chain = chain(&world).await;
    let quiet =
        "{kind: Guardrail, name: quiet, appliesTo: {app: vault}, rules: [{name: none, deny: {who: anyone}}]}";
    apply(&world, &[READERS, quiet]).await;
    assert!(decide(&world, question(&chain, "GET", "/v1/a")).await.allowed);
    // The same process gets one more identity, which the guardrail is about; its first one stays the default.
    let mut admin = world.admin().await;
    let uid = rustix::process::geteuid().as_raw().to_string();
    let registration = Registration {
        id: "vault".into(),
        kind: registration::Kind::Entry.into(),
        site: "lab".into(),
        spiffe_id: "spiffe://example.org/app/vault".into(),
        selectors: vec![Selector { key: "unix.uid".into(), value: uid }],
        labels: [("app".to_owned(), "vault".to_owned())].into(),
        ..Registration::default()
    };
    let request = PutRegistrationRequest { registration: Some(registration), ..Default::default() };
    let revision = admin.put_registration(request).await.unwrap().into_inner().revision;
    wait(&world, revision).await;
    let denied = decide(&world, question(&chain, "GET", "/v1/a")).await;
    assert_eq!((denied.allowed, denied.rule.as_str()), (false, "none"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_is_none_is_refused_with_its_place() {
    let world = World::new().await;
    let mut admin = world.admin().await;
    for (source, code) in [
        (
            "kind: Policy\nname: a\nrules:\n- name: b\n  allow: {who: anyone, unless: x}\n",
            "resource.unknown-field",
        ),
        ("kind: SecretPolicy\nname: a\nrules:\n- name: b\n  allow: {who: anyone}\n", "policy.secret"),
        ("{}", "resource.missing-field"),
    ] {
        let policy = Policy { source: source.into(), ..Policy::default() };
        let resources = vec![Resource { resource: Some(resource::Resource::Policy(policy)) }];
        let request = ApplyRequest { resources, ..Default::default() };
        let answer = admin.apply(request).await.unwrap().into_inner();
        assert!(!answer.committed);
        assert_eq!(answer.results[0].problem.as_ref().unwrap().code, code, "{answer:?}");
    }
}

const PROGRAM: &str = "
kind: RegoPolicy
name: programmed
entrypoint: data.orders.verdict
rego: |
  package orders
  import rego.v1
  default verdict := {}
  verdict := {\"allow\": true, \"reasons\": [\"prod reads\"]} if {
    input.bonafide.can == \"GET\"
    input.bonafide.who.labels.env == \"prod\"
  }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_take_part_where_the_agent_runs_them_and_deny_everything_elsewhere() {
    let world = world().await;
    let chain = chain(&world).await;
    apply(&world, &[WRITERS, PROGRAM]).await;
    let write = decide(&world, question(&chain, "POST", "/v1/orders")).await;
    let read = decide(&world, question(&chain, "GET", "/elsewhere")).await;
    if cfg!(feature = "rego") {
        assert!(write.allowed, "{write:?}");
        assert_eq!(
            (read.allowed, read.code.as_str(), read.policy.as_str()),
            (true, "policy.program", "programmed")
        );
    } else {
        assert_eq!((write.allowed, write.code.as_str()), (false, "policy.no-rego"));
        assert_eq!((read.allowed, read.code.as_str()), (false, "policy.no-rego"));
    }
    let other = decide(&world, question(&chain, "PUT", "/elsewhere")).await;
    assert!(!other.allowed);
}

/// Status and body of a request as JSON over the agent's socket.
async fn post(world: &World, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = tokio::net::UnixStream::connect(&world.socket).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}
