//! `handshake`: mutual TLS, both sides, against rustls with its own WebPKI verifiers and the same certificates.

use std::sync::Arc;

use anyhow::Result;
use bonafide_identity::{
    X509Svid,
    time::{Clock, SystemClock},
};
use bonafide_testkit::TestDomain;
use bonafide_tls::{Authorizer, Clients, IdentitySlot, Trusted, client_config, server_config};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::io::duplex;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{clock::CpuClock, figure::Figure, pairs::Pairs};

const PER_TURN: u32 = 150;
const ROUNDS: usize = 11;

pub(crate) async fn figure() -> Result<Figure> {
    let now = SystemClock.now();
    let domain = TestDomain::new("lab.example", now);
    let (server_svid, client_svid) = (domain.svid("/server", now), domain.svid("/client", now));
    let (acceptor, connector) = bare(&domain, &server_svid, &client_svid)?;

    let end = |svid: &X509Svid| {
        let slot = IdentitySlot::new();
        slot.set(svid);
        slot
    };
    let trust = Arc::new(Trusted::new(domain.bundles()));
    let members = Authorizer::member_of(domain.trust_domain().clone());
    let server =
        server_config(&end(&server_svid), &trust, Clients::Required(members.clone()), Arc::new(SystemClock))?;
    let client = client_config(Some(&end(&client_svid)), &trust, members, Arc::new(SystemClock))?;

    let floor = async || -> Result<()> {
        let (here, there) = duplex(64 * 1024);
        let name = ServerName::try_from(domain.trust_domain().as_str().to_owned())?;
        tokio::try_join!(acceptor.accept(here), connector.connect(name, there))?;
        Ok(())
    };
    let ours = async || -> Result<()> {
        let (here, there) = duplex(64 * 1024);
        tokio::try_join!(server.accept(here), client.connect(there))?;
        Ok(())
    };
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rounds.push([cost(&floor).await?, cost(&ours).await?, cost(&ours).await?, cost(&floor).await?]);
    }
    let pairs = Pairs::of(&rounds);
    Ok(Figure {
        name: "handshake",
        value: pairs.ours,
        unit: "µs",
        floor: Some(pairs.floor),
        ratio: Some(pairs.ratio),
        peer_ratio: None,
        target: Some(1.1),
        what: "mutual TLS 1.3, both sides, X25519MLKEM768; floor: bare rustls, same keys".to_owned(),
    })
}

async fn cost(once: &impl AsyncFn() -> Result<()>) -> Result<f64> {
    let start = CpuClock::process().now()?;
    for _ in 0..PER_TURN {
        once().await?;
    }
    Ok((CpuClock::process().now()? - start).as_secs_f64() * 1e6 / f64::from(PER_TURN))
}

/// rustls as anybody would set it up, with the same key exchange and without resumption.
fn bare(domain: &TestDomain, server: &X509Svid, client: &X509Svid) -> Result<(TlsAcceptor, TlsConnector)> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(domain.root().der().to_vec()))?;
    let roots = Arc::new(roots);
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
    let mut accepting = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain(server), key(server))?;
    accepting.send_tls13_tickets = 0;
    accepting.session_storage = Arc::new(NoServerSessionStorage {});
    let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let mut connecting = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName(servers)))
        .with_client_auth_cert(chain(client), key(client))?;
    connecting.resumption = Resumption::disabled();
    connecting.enable_sni = false;
    Ok((TlsAcceptor::from(Arc::new(accepting)), TlsConnector::from(Arc::new(connecting))))
}

fn chain(svid: &X509Svid) -> Vec<CertificateDer<'static>> {
    svid.chain().iter().map(|each| CertificateDer::from(each.der().to_vec())).collect()
}

fn key(svid: &X509Svid) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key().to_pkcs8_der().to_vec()))
}

/// WebPKI without an opinion on names: SVIDs need no DNS name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(leaf, others, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
