use bonafide_sdk::{Authorizer, Caller, Error, X509Source, grpc};
use bonafide_wire::agent::{
    AgentStatus, AuthorizeRequest, AuthorizeResponse, ExplainRequest, Explanation, ListDecisionsRequest,
    ListDecisionsResponse, PoliciesUpdate, RevocationsUpdate, StatusRequest, WatchPoliciesRequest,
    WatchRevocationsRequest, WhoAmIRequest,
    agent_client::AgentClient,
    agent_server::{Agent, AgentServer},
};
use tonic::{Request, Response, Status};

use crate::fake_agent::FakeAgent;

/// A service that says who called.
struct Mirror;

#[tonic::async_trait]
impl Agent for Mirror {
    type WatchRevocationsStream = tonic::codegen::BoxStream<RevocationsUpdate>;
    type WatchPoliciesStream = tonic::codegen::BoxStream<PoliciesUpdate>;

    async fn authorize(&self, _: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn watch_policies(
        &self,
        _: Request<WatchPoliciesRequest>,
    ) -> Result<Response<Self::WatchPoliciesStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_decisions(
        &self,
        _: Request<ListDecisionsRequest>,
    ) -> Result<Response<ListDecisionsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<Explanation>, Status> {
        let caller = Caller::of(&request)?;
        let agent_id = format!("{} {}", caller.id(), caller.instance().unwrap());
        Ok(Response::new(Explanation { agent_id, ..Explanation::default() }))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<Explanation>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<AgentStatus>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn watch_revocations(
        &self,
        _: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Serves the mirror and returns its address.
async fn serve(source: &X509Source, clients: Authorizer) -> String {
    let incoming = grpc::Incoming::bind("127.0.0.1:0", source, clients).await.unwrap();
    let address = incoming.local_addr().to_string();
    let server = tonic::transport::Server::builder().add_service(AgentServer::new(Mirror));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

#[tokio::test]
async fn client_and_server_know_each_other() {
    let agent = FakeAgent::start();
    let source = agent.x509().await;
    let members = Authorizer::member_of(agent.domain.trust_domain().clone());
    let address = serve(&source, members.clone()).await;
    let channel = grpc::channel(&source, &address, members).await.unwrap();
    assert_eq!(channel.callee().unwrap().id(), &source.id().unwrap());
    let mut client = AgentClient::new(channel);
    let answer = client.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    let instance = source.svid().unwrap().attributes().unwrap().instance.unwrap();
    assert_eq!(answer.agent_id, format!("spiffe://example.org/web {instance}"));
}

#[tokio::test]
async fn an_unwelcome_client_learns_that_it_was_refused() {
    let agent = FakeAgent::start();
    let source = agent.x509().await;
    let members = Authorizer::member_of(agent.domain.trust_domain().clone());
    let address = serve(&source, Authorizer::id(agent.domain.id("/admin"))).await;
    let error = match grpc::channel(&source, &address, members).await {
        Err(error) => error,
        Ok(channel) => {
            let status = AgentClient::new(channel).who_am_i(WhoAmIRequest {}).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            Error::of_status(&status)
        }
    };
    assert_eq!(error.code(), "tls.refused-by-peer", "{error:?}");
}

#[tokio::test]
async fn the_wrong_server_is_refused_before_anything_is_said() {
    let agent = FakeAgent::start();
    let source = agent.x509().await;
    let members = Authorizer::member_of(agent.domain.trust_domain().clone());
    let address = serve(&source, members).await;
    let error =
        grpc::channel(&source, &address, Authorizer::id(agent.domain.id("/database"))).await.unwrap_err();
    assert_eq!(error.code(), "tls.peer-not-authorized");
}

#[test]
fn a_request_of_another_listener_has_no_caller() {
    assert_eq!(Caller::of(&Request::new(())).unwrap_err().code(), tonic::Code::Unauthenticated);
}
