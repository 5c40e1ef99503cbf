//! What a mutual handshake costs, against rustls with its own WebPKI verifiers and the same certificates.
//!
//! Prints CPU time per handshake (both sides) and the ratio; the budget is 1.1.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bonafide_identity::{Clock, X509Svid};
use bonafide_testkit::{TestClock, TestDomain};
use bonafide_tls::{Authorizer, Clients, IdentitySlot, client_config, server_config};
use rustls::{
    RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::io::duplex;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const ROUNDS: u32 = 400;
const REPEATS: u32 = 7;

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

async fn measure<F: AsyncFnMut()>(mut once: F) -> Duration {
    let before = cpu();
    for _ in 0..ROUNDS {
        once().await;
    }
    (cpu() - before) / ROUNDS
}

fn chain(svid: &X509Svid) -> Vec<CertificateDer<'static>> {
    svid.chain().iter().map(|each| CertificateDer::from(each.der().to_vec())).collect()
}

fn key(svid: &X509Svid) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key().to_pkcs8_der().to_vec()))
}

/// The time of the test clock, and no opinion on names: the certificates have no DNS name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl rustls::client::danger::ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(leaf, others, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidForName
                | rustls::CertificateError::NotValidForNameContext { .. },
            )) => Ok(rustls::client::danger::ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Bare rustls reads the system's clock, so the certificates live around now.
    let clock = TestClock::new();
    clock.set(bonafide_identity::time::SystemClock.now());
    let domain = TestDomain::new("example.org", clock.now());
    let (server_svid, client_svid) =
        (domain.svid("/server", clock.now()), domain.svid("/client", clock.now()));

    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(domain.root().der().to_vec())).unwrap();
    let roots = Arc::new(roots);
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .unwrap();
    let mut bare_server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain(&server_svid), key(&server_svid))
        .unwrap();
    bare_server.send_tls13_tickets = 0;
    bare_server.session_storage = Arc::new(NoServerSessionStorage {});
    let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().unwrap();
    let mut bare_client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName(servers)))
        .with_client_auth_cert(chain(&client_svid), key(&client_svid))
        .unwrap();
    bare_client.resumption = Resumption::disabled();
    bare_client.enable_sni = false;
    let (acceptor, connector) =
        (TlsAcceptor::from(Arc::new(bare_server)), TlsConnector::from(Arc::new(bare_client)));

    let end = |svid: &X509Svid| {
        let slot = IdentitySlot::new();
        slot.set(svid);
        slot
    };
    let trust = Arc::new(ArcSwap::from_pointee(domain.bundles()));
    let members = Authorizer::member_of(domain.trust_domain().clone());
    let server = server_config(
        &end(&server_svid),
        &trust,
        Clients::Required(members.clone()),
        Arc::clone(&clock) as _,
    )
    .unwrap();
    let client = client_config(Some(&end(&client_svid)), &trust, members, Arc::clone(&clock) as _).unwrap();

    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        // Turn and turn about, so that both meet the same machine.
        bare.push(
            measure(async || {
                let (here, there) = duplex(64 * 1024);
                let name = ServerName::try_from("example.org").unwrap();
                let (accepted, connected) =
                    tokio::join!(acceptor.accept(here), connector.connect(name, there));
                drop((accepted.unwrap(), connected.unwrap()));
            })
            .await,
        );
        ours.push(
            measure(async || {
                let (here, there) = duplex(64 * 1024);
                let (accepted, connected) = tokio::join!(server.accept(here), client.connect(there));
                drop((accepted.unwrap(), connected.unwrap()));
            })
            .await,
        );
    }
    bare.sort();
    ours.sort();
    let (bare, ours) = (bare.remove(bare.len() / 2), ours.remove(ours.len() / 2));
    println!("mutual TLS 1.3 handshake, both sides, CPU time, median of {REPEATS} x {ROUNDS}");
    println!("bare rustls  {:>8.1} µs", bare.as_secs_f64() * 1e6);
    println!("bonafide     {:>8.1} µs", ours.as_secs_f64() * 1e6);
    println!("ratio        {:>8.3}   (budget 1.1)", ours.as_secs_f64() / bare.as_secs_f64());
}
