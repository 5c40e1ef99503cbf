use bonafide_sdk::{Authorizer, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake_agent::FakeAgent;

#[tokio::test]
async fn streams_know_who_is_at_their_end_and_survive_rotation() {
    let agent = FakeAgent::start();
    let source = agent.x509().await;
    let members = Authorizer::member_of(agent.domain.trust_domain().clone());
    let mut listener = tls::TlsListener::bind("127.0.0.1:0", &source, members.clone()).await.unwrap();
    let address = listener.local_addr();

    let (accepted, connected) = tokio::join!(
        listener.accept(),
        tls::connect(address, &source, Authorizer::id(agent.domain.id("/web")))
    );
    let ((mut here, caller), (mut there, callee)) = (accepted.unwrap(), connected.unwrap());
    assert_eq!(caller.id(), callee.id());
    assert_eq!(caller.instance(), source.svid().unwrap().attributes().unwrap().instance);
    assert_eq!(caller.label("env"), Some("test"));
    assert_eq!(caller.labels().collect::<Vec<_>>(), [("env", &b"test"[..])]);

    let mut updates = source.updates();
    let renewed = agent.grant("/web");
    assert!(updates.changed().await);
    there.write_all(b"on").await.unwrap();
    there.flush().await.unwrap();
    let mut text = [0; 2];
    here.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"on");

    let (accepted, connected) = tokio::join!(listener.accept(), tls::connect(address, &source, members));
    connected.unwrap();
    assert_eq!(accepted.unwrap().1.svid().leaf().der(), renewed.leaf().der());
}

#[tokio::test]
async fn the_wrong_server_is_refused_by_name() {
    let agent = FakeAgent::start();
    let source = agent.x509().await;
    let members = Authorizer::member_of(agent.domain.trust_domain().clone());
    let mut listener = tls::TlsListener::bind("127.0.0.1:0", &source, members).await.unwrap();
    let address = listener.local_addr();
    let wanted = Authorizer::id(agent.domain.id("/database"));
    let error = tokio::select! {
        _ = listener.accept() => panic!("it hung up"),
        connected = tls::connect(address, &source, wanted) => connected.unwrap_err(),
    };
    assert_eq!(error.code(), "tls.peer-not-authorized");
    assert_eq!(error.to_string(), "`spiffe://example.org/web` is not `spiffe://example.org/database`");
}
