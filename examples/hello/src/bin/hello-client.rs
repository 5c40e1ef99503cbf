//! Says hello to a server of its own trust domain, or to one exact SPIFFE ID.
#![allow(clippy::print_stdout, reason = "an example talks to people")]

use bonafide_sdk::{Authorizer, Error, X509Source, grpc};
use hello::{GreetRequest, hello_client::HelloClient};

/// `hello-client [host:port [spiffe-id-of-the-server]]`
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7700".to_owned());
    greet(&address, arguments.next()).await.inspect_err(|error| {
        if let Some(error) = error.downcast_ref::<Error>() {
            println!("{} ({}): {}", error, error.code(), error.hint());
        }
    })
}

async fn greet(address: &str, wanted: Option<String>) -> Result<(), Box<dyn std::error::Error>> {
    let source = X509Source::connect().await?;
    let servers = match wanted {
        Some(id) => Authorizer::id(id.parse()?),
        None => Authorizer::member_of(source.id()?.trust_domain().clone()),
    };
    let channel = grpc::channel(&source, address, servers).await?;
    let mut client = HelloClient::new(channel.clone());
    let request = GreetRequest { words: "good day".to_owned() };
    let reply = client.greet(request).await.map_err(|status| Error::of_status(&status))?;
    if let Some(callee) = channel.callee() {
        println!("{} answered: {}", callee.id(), reply.into_inner().words);
    }
    Ok(())
}
