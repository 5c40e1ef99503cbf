//! Greets whoever belongs to its trust domain, and says who that is.
#![allow(clippy::print_stdout, reason = "an example talks to people")]

use bonafide_sdk::{Authorizer, Caller, Error, X509Source, grpc::Incoming};
use hello::{
    GreetReply, GreetRequest,
    hello_server::{Hello, HelloServer},
};
use tonic::{Request, Response, Status, transport::Server};

#[derive(Debug)]
struct Greeter;

#[tonic::async_trait]
impl Hello for Greeter {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetReply>, Status> {
        let caller = Caller::of(&request)?.clone();
        let labels: Vec<String> =
            caller.labels().map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value))).collect();
        let instance = caller.instance().map_or("?".to_owned(), |instance| instance.to_string());
        let who = format!("{}, instance {instance}, labels [{}]", caller.id(), labels.join(" "));
        println!("{who} said: {}", request.into_inner().words);
        Ok(Response::new(GreetReply { words: format!("hello, {who}") }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7700".to_owned());
    serve(&address).await.inspect_err(|error| {
        if let Some(error) = error.downcast_ref::<Error>() {
            println!("{} ({}): {}", error, error.code(), error.hint());
        }
    })
}

async fn serve(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let source = X509Source::connect().await?;
    let members = Authorizer::member_of(source.id()?.trust_domain().clone());
    let incoming = Incoming::bind(address, &source, members).await?;
    println!("I am {}, at {}", source.id()?, incoming.local_addr());
    Ok(Server::builder().add_service(HelloServer::new(Greeter)).serve_with_incoming(incoming).await?)
}
