//! Peers that are not ours: a rustls client that wants to resume, a thief, OpenSSL.

use std::sync::{Arc, Mutex};

use bonafide_identity::{Clock, X509Svid};
use rustls::{
    ClientConfig, NamedGroup, RootCertStore,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        WebPkiServerVerifier,
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    version::TLS13,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsConnector;

use super::World;

/// Keeps every ticket.
#[derive(Debug, Default)]
struct Hoarder {
    tickets: Mutex<Vec<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for Hoarder {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.tickets.lock().unwrap().push(ticket);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.lock().unwrap().pop()
    }
}

/// Trusts everybody: the attack is on the server.
fn foreign_client(svid: &X509Svid, key_of: &X509Svid, store: Arc<Hoarder>) -> ClientConfig {
    #[derive(Debug)]
    struct Anybody(Arc<WebPkiServerVerifier>);
    impl rustls::client::danger::ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.0.verify_tls12_signature(message, cert, signed)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.0.verify_tls13_signature(message, cert, signed)
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    }

    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(svid.chain().last().unwrap().der().to_vec())).unwrap();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = svid.chain().iter().map(|each| CertificateDer::from(each.der().to_vec())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key_of.key().to_pkcs8_der().to_vec()));
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain, key);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(verifier)))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.resumption = Resumption::store(store);
    config
}

#[tokio::test]
async fn a_client_that_wants_to_resume_gets_no_ticket() {
    let world = World::new();
    let store = Arc::new(Hoarder::default());
    let svid = world.client.slot.current().unwrap();
    let connector = TlsConnector::from(Arc::new(foreign_client(&svid, &svid, Arc::clone(&store))));
    let server = world.server_config();
    for _ in 0..2 {
        let (here, there) = duplex(64 * 1024);
        let name = ServerName::try_from("example.org").unwrap();
        let (accepted, connected) = tokio::join!(server.accept(here), connector.connect(name, there));
        let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
        // Tickets would come before the first data.
        accepted.write_all(b"x").await.unwrap();
        accepted.flush().await.unwrap();
        assert_eq!(connected.read_u8().await.unwrap(), b'x');
        assert!(store.tickets.lock().unwrap().is_empty());
        assert_eq!(connected.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(accepted.peer().unwrap().id(), svid.id());
    }
}

#[tokio::test]
async fn a_stolen_certificate_without_its_key_is_worth_nothing() {
    let world = World::new();
    let victim = world.client.slot.current().unwrap();
    let thief = world.domain.svid("/thief", world.clock.now());
    let connector = TlsConnector::from(Arc::new(foreign_client(&victim, &thief, Arc::default())));
    let (here, there) = duplex(64 * 1024);
    let name = ServerName::try_from("example.org").unwrap();
    let server = world.server_config();
    let (accepted, _) = tokio::join!(server.accept(here), connector.connect(name, there));
    assert_eq!(accepted.unwrap_err().code(), "tls.handshake");
}

#[tokio::test]
async fn openssl_can_talk_but_not_resume_and_not_with_tls12() {
    use base64ct::{Base64, Encoding};
    use tokio::process::Command;

    if Command::new("openssl").arg("version").output().await.is_err() {
        return; // not on this machine
    }
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let svid = world.domain.svid("/client", world.clock.now());
    let pem = |label: &str, der: &[u8]| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", Base64::encode_string(der))
    };
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        // OpenSSL wants lines of 64 characters.
        let folded: Vec<String> = text
            .lines()
            .flat_map(|line| line.as_bytes().chunks(64).map(|part| String::from_utf8(part.to_vec()).unwrap()))
            .collect();
        std::fs::write(&path, folded.join("\n") + "\n").unwrap();
        path
    };
    let chain: String = svid.chain().iter().skip(1).map(|each| pem("CERTIFICATE", each.der())).collect();
    let (certificate, chain, key) = (
        write("leaf.pem", pem("CERTIFICATE", svid.leaf().der())),
        write("chain.pem", chain),
        write("key.pem", pem("PRIVATE KEY", &svid.key().to_pkcs8_der())),
    );
    let session = dir.path().join("session.pem");

    let mut listener = bonafide_tls::TlsListener::bind("127.0.0.1:0", &world.server_config()).await.unwrap();
    let address = listener.local_addr().to_string();
    let client = |version: &str| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address, version, "-cert"]).arg(&certificate);
        command.arg("-cert_chain").arg(&chain).arg("-key").arg(&key).arg("-sess_out").arg(&session);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    };

    let first = client("-tls1_3");
    let mut accepted = listener.accept().await.unwrap();
    assert_eq!(accepted.peer().unwrap().id(), svid.id());
    accepted.write_all(b"hello\n").await.unwrap();
    accepted.shutdown().await.unwrap();
    let output = first.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("hello"), "{text}");
    assert!(text.contains("TLSv1.3"), "{text}");
    assert!(!text.contains("Post-Handshake New Session Ticket"), "{text}");
    assert!(!session.exists(), "there was a session to keep");

    let old = client("-tls1_2").wait_with_output().await.unwrap();
    assert!(!old.status.success());
}
