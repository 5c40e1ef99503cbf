use std::path::PathBuf;

use bonafide_net::{drain::Shutdown, unix};
use bonafide_sdk::{Authorizer, Caller, Denied, Endpoint, Guard, On, Options, X509Source, grpc, tls};
use bonafide_wire::{
    agent::{
        AgentStatus, AuthorizeRequest, AuthorizeResponse, ExplainRequest, Explanation, ListDecisionsRequest,
        ListDecisionsResponse, PoliciesUpdate, RevocationsUpdate, StatusRequest, WatchPoliciesRequest,
        WatchRevocationsRequest, WhoAmIRequest,
        agent_client::AgentClient,
        agent_server::{Agent, AgentServer},
    },
    types::Policy,
};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Request, Response, Status, codegen::BoxStream, service::Routes};

use crate::fake_agent::FakeAgent;

/// An agent that has policies, and nothing else; as a server it says who called.
#[derive(Clone)]
struct Policies(watch::Receiver<PoliciesUpdate>);

#[tonic::async_trait]
impl Agent for Policies {
    type WatchRevocationsStream = BoxStream<RevocationsUpdate>;
    type WatchPoliciesStream = BoxStream<PoliciesUpdate>;

    async fn watch_policies(
        &self,
        _: Request<WatchPoliciesRequest>,
    ) -> Result<Response<Self::WatchPoliciesStream>, Status> {
        Ok(Response::new(Box::pin(WatchStream::new(self.0.clone()).map(Ok))))
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<Explanation>, Status> {
        let agent_id = Caller::of(&request)?.id().to_string();
        Ok(Response::new(Explanation { agent_id, ..Explanation::default() }))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<Explanation>, Status> {
        Ok(Response::new(Explanation::default()))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<AgentStatus>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn authorize(&self, _: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_decisions(
        &self,
        _: Request<ListDecisionsRequest>,
    ) -> Result<Response<ListDecisionsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn watch_revocations(
        &self,
        _: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

fn update(source: &str, revision: u64, current_at: i64) -> PoliciesUpdate {
    let document = bonafide_policy::read(source).unwrap().remove(0);
    let policy = Policy {
        name: document.body().name().to_string(),
        document: document.canonical().into(),
        revision,
        ..Policy::default()
    };
    PoliciesUpdate {
        start: true,
        policies: vec![policy],
        revision,
        current_at,
        trust_domain: "example.org".into(),
        ..PoliciesUpdate::default()
    }
}

struct World {
    agent: FakeAgent,
    source: X509Source,
    policies: watch::Sender<PoliciesUpdate>,
    guard: Guard,
    shutdown: Shutdown,
    _dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl World {
    async fn new(source: &str) -> Self {
        let agent = FakeAgent::start();
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("policies.sock");
        let current_at = bonafide_sdk::Clock::now(&*agent.clock).as_secs();
        let policies = watch::Sender::new(update(source, 1, current_at));
        let router = Routes::new(AgentServer::new(Policies(policies.subscribe()))).into_axum_router();
        let listener = unix::Listener::bind(&path, 0o666, None).unwrap();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        tokio::spawn(async move { unix::serve(listener, router, &stop).await });
        let mut options: Options = agent.options();
        options.endpoint = Some(Endpoint::unix(&path));
        let guard = Guard::connect_with(options).await.unwrap();
        let x509 = agent.x509().await;
        Self { agent, source: x509, policies, guard, shutdown, _dir: dir }
    }

    /// Who calls when this process calls itself.
    async fn caller(&self) -> Caller {
        let members = Authorizer::member_of(self.agent.domain.trust_domain().clone());
        let mut listener =
            tls::TlsListener::bind("127.0.0.1:0", &self.source, members.clone()).await.unwrap();
        let address = listener.local_addr().to_string();
        let client = tls::connect(address, &self.source, members);
        let (server, _client) = tokio::join!(listener.accept(), client);
        server.unwrap().1
    }

    /// Waits until an answer is as it should be.
    async fn until(&self, what: impl Fn(&Guard) -> bool) {
        while !what(&self.guard) {
            tokio::task::yield_now().await;
        }
    }

    fn now(&self) -> i64 {
        bonafide_sdk::Clock::now(&*self.agent.clock).as_secs()
    }
}

fn get(guard: &Guard, caller: &Caller) -> Result<String, Denied> {
    guard.authorize(caller, "GET", On::path("/v1/orders")).map(|allowed| allowed.by)
}

const READERS: &str = "
kind: Policy
name: shop
stale: {after: 10m, then: deny}
rules:
- name: readers
  allow: {who: {id: spiffe://example.org/web}, can: [GET], on: {path: /v1/**}}
";
const NOBODY: &str = "
kind: Policy
name: shop
rules:
- name: readers
  allow: {who: {id: spiffe://example.org/other}, can: [GET], on: {path: /v1/**}}
";

#[tokio::test]
async fn decisions_follow_the_policies_and_say_why() {
    let world = World::new(READERS).await;
    let caller = world.caller().await;
    assert_eq!(get(&world.guard, &caller).unwrap(), "shop/readers");
    let denied = world.guard.authorize(&caller, "POST", On::path("/v1/orders")).unwrap_err();
    assert_eq!(denied.code(), "policy.no-rule");
    let near = world.guard.near_misses(&caller, "POST", On::path("/v1/orders"));
    assert!(near[0].contains("readers"), "{near:?}");
    assert!(world.guard.authorize(&caller, "GET", On::path("/v1/../v1/orders")).is_err());
    world.policies.send_replace(update(NOBODY, 2, world.now()));
    world.until(|guard| get(guard, &caller).is_err()).await;
    assert_eq!(get(&world.guard, &caller).unwrap_err().revision(), 2);
}

#[tokio::test]
async fn policies_that_nobody_confirms_deny_when_they_say_so() {
    let world = World::new(READERS).await;
    let caller = world.caller().await;
    world.agent.clock.advance(std::time::Duration::from_secs(599));
    assert!(get(&world.guard, &caller).is_ok());
    world.agent.clock.advance(std::time::Duration::from_secs(2));
    assert_eq!(get(&world.guard, &caller).unwrap_err().code(), "policy.stale");
    // A heartbeat.
    world.policies.send_modify(|update| {
        update.start = false;
        update.policies.clear();
        update.current_at += 601;
    });
    world.until(|guard| get(guard, &caller).is_ok()).await;
}

#[tokio::test]
async fn policies_for_any_identity_of_the_program_guard_it() {
    let policy = "
kind: Guardrail
name: quiet
appliesTo: {app: ledger}
rules:
- name: none
  deny: {who: anyone}
";
    let world = World::new(READERS).await;
    let caller = world.caller().await;
    assert!(get(&world.guard, &caller).is_ok());
    let mut more = update(policy, 2, world.now());
    more.start = false;
    // Of its first identity it has no labels.
    let labels = [("app".to_owned(), "ledger".to_owned())].into();
    more.other_labels = vec![bonafide_wire::agent::LabelSet { labels }];
    world.policies.send_replace(more);
    world.until(|guard| get(guard, &caller).is_err()).await;
    assert_eq!(get(&world.guard, &caller).unwrap_err().code(), "policy.rule");
}

#[tokio::test]
async fn what_is_not_understood_denies_everything() {
    let world = World::new(READERS).await;
    let caller = world.caller().await;
    let mut newer = update(READERS, 2, world.now());
    newer.policies.push(Policy {
        name: "newer".into(),
        document: "{kind: Newer}".into(),
        ..Policy::default()
    });
    world.policies.send_replace(newer);
    world.until(|guard| get(guard, &caller).is_err()).await;
    assert_eq!(get(&world.guard, &caller).unwrap_err().code(), "policy.closed");
}

#[tokio::test]
async fn one_line_guards_a_server() {
    let policy = "
kind: Policy
name: mirror
rules:
- name: who
  allow: {who: {id: spiffe://example.org/web}, can: [POST], on: {path: /bonafide.agent.v1.Agent/WhoAmI}}
";
    let world = World::new(policy).await;
    let members = Authorizer::member_of(world.agent.domain.trust_domain().clone());
    let incoming = grpc::Incoming::bind("127.0.0.1:0", &world.source, members.clone()).await.unwrap();
    let address = incoming.local_addr().to_string();
    let server = tonic::transport::Server::builder()
        .layer(world.guard.layer())
        .add_service(AgentServer::new(Policies(world.policies.subscribe())));
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = AgentClient::new(grpc::channel(&world.source, &address, members).await.unwrap());
    let answer = client.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.agent_id, "spiffe://example.org/web");
    let status = client.explain(ExplainRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "policy.denied"));
}
