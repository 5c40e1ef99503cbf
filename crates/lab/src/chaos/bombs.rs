//! `bombs`: what is too large, too deep or too much, sent by strangers.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bonafide_attest::join::JoinLine;
use bonafide_identity::{
    X509Svid,
    time::{Clock as _, SystemClock},
};
use bonafide_testkit::TestDomain;
use bonafide_tls::{ClientConfig, pinned_client_config};
use bonafide_wire::{
    node::{AttestBegin, AttestRequest, X509PopEvidence, attest_request},
    problem_of,
    types::{Scope, Site},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rustls::{
    ClientConfig as BareConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};

use super::{
    admin::{Operator, refused},
    cage::Cage,
    case::{Case, Report, Stage},
    flood::dial,
    frames::{self, Frames},
    issuing::Issuing,
    server::{Server, Settings, TRUST_DOMAIN},
};
use crate::clock::CpuClock;

pub(crate) const CASE: Case = Case {
    name: "bombs",
    fault: "strangers send keys of 16,384 bits, chains of 100 certificates, messages of 100 MB, nested 60,000 deep, or \
            compressed; heads without end, repeated fields, resets, settings and pings by the 100,000",
    promise: "an authority with 256 MB lives, accepts none, and spends at most 50 ms of processor time on each",
    short: true,
    run: |stage| Box::pin(run(stage)),
};

const MEMORY: u64 = 256 << 20;
/// At a time, each from an address of its own.
const AT_ONCE: u8 = 8;
const SITE: &str = "pki";
const PATIENCE: Duration = Duration::from_secs(20);
const COUNT: usize = 100_000;
const MESSAGE: usize = 100_000_000;
/// Bytes of as many groups.
const NESTED: usize = 60_000;

/// One kind of what is sent.
#[derive(Clone, Copy, Debug)]
enum Bomb {
    /// A handshake with 100 certificates.
    ClientChain,
    /// A handshake message of 16 MB.
    ClientHello,
    /// A request for a certificate, with a modulus of 16,384 bits.
    Modulus,
    /// With an exponent of 4096 bits.
    Exponent,
    /// 100 certificates as evidence of a node.
    Evidence,
    Message,
    Nested,
    Compressed,
    Frames(Frames),
}

/// Each with its name, and the code with which it is refused; none, if the connection is ended instead.
const BOMBS: [(&str, Bomb, Option<&str>); 14] = [
    ("client chain", Bomb::ClientChain, None),
    ("client hello", Bomb::ClientHello, None),
    ("modulus", Bomb::Modulus, Some("crypto.key-too-long")),
    ("exponent", Bomb::Exponent, Some("crypto.rsa-exponent-refused")),
    ("evidence", Bomb::Evidence, Some("attest.malformed")),
    ("message", Bomb::Message, Some("attest.malformed")),
    ("nested", Bomb::Nested, Some("attest.malformed")),
    ("compressed", Bomb::Compressed, Some("rpc.unimplemented")),
    ("fields", Bomb::Frames(Frames::Fields), None),
    ("head without end", Bomb::Frames(Frames::Continuations), None),
    ("repeated field", Bomb::Frames(Frames::Repeated), None),
    ("resets", Bomb::Frames(Frames::Resets), None),
    ("settings", Bomb::Frames(Frames::Settings), None),
    ("pings", Bomb::Frames(Frames::Pings), None),
];

async fn run(stage: &Stage) -> Result<Report> {
    let cage = Cage::new(MEMORY)?;
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.enter(&cage);
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    let stranger = Arc::new(Stranger::new(&mut operator).await?);
    let mut issuing = Issuing::join(&mut operator).await?;
    let processor = CpuClock::of(server.id()?)?;
    let mut told = Vec::new();
    let mut worst: f64 = 0.0;
    for (name, bomb, code) in BOMBS {
        let rounds = stage.times(5, 1);
        let before = processor.now()?;
        for _ in 0..rounds {
            let thrown = (1..=AT_ONCE).map(|source| stranger.throw(bomb, source));
            for outcome in tokio::time::timeout(PATIENCE, join_all(thrown)).await.with_context(|| name)? {
                let refused = outcome.context(name)?;
                ensure!(refused.as_deref() == code, "`{name}` is refused with {refused:?}");
            }
        }
        let spent = (processor.now()? - before).as_secs_f64() * 1e3 / (rounds * usize::from(AT_ONCE)) as f64;
        ensure!(server.look()?.is_none(), "after `{name}` the authority has ended: {}", server.last_words());
        issuing.issue().await?.map_err(refused).context(name)?;
        worst = worst.max(spent);
        told.push(format!("{name} {spent:.1} ms"));
    }
    let peak = cage.peak()? as f64 / 1e6;
    server.stop().await?;
    issuing.check_logged(server.data())?;
    Ok(Report {
        value: worst,
        unit: "ms",
        at_most: Some(50.0),
        what: format!(
            "of processor time for each, at most: {}; {peak:.0} MB of {} MB, with what the kernel keeps of files",
            told.join(", "),
            MEMORY >> 20
        ),
    })
}

/// Somebody without an identity.
struct Stranger {
    server: SocketAddr,
    line: JoinLine,
    pinned: Arc<ClientConfig>,
    /// A certificate of the PKI that a site believes, with its key.
    node: X509Svid,
}

impl Stranger {
    async fn new(operator: &mut Operator) -> Result<Self> {
        let line: JoinLine = operator.join_word().await?.parse()?;
        let pinned = pinned_client_config(line.trust_domain.clone(), line.root_pin, Arc::new(SystemClock))?
            .with_protocols(&[b"h2"]);
        let pki = TestDomain::new("pki.example", SystemClock.now());
        let site = Site {
            name: SITE.to_owned(),
            scope: Some(Scope {
                spiffe_ids: vec![format!("spiffe://{TRUST_DOMAIN}/pki/**")],
                ..Default::default()
            }),
            x509pop_roots: vec![Bytes::copy_from_slice(pki.root().der())],
            ..Default::default()
        };
        let put = bonafide_wire::admin::PutSiteRequest { site: Some(site), ..Default::default() };
        operator.0.put_site(put).await?;
        let node = pki.svid("/node", SystemClock.now());
        Ok(Self { server: line.address.parse()?, line, pinned, node })
    }

    /// Until it is refused: with which code, if not by the end of the connection.
    async fn throw(&self, bomb: Bomb, source: u8) -> Result<Option<String>> {
        let tcp = dial(self.server, source).await?;
        match bomb {
            Bomb::ClientChain => self.client_chain(tcp).await,
            Bomb::ClientHello => client_hello(tcp).await,
            Bomb::Modulus => self.ask(tcp, &self.attest(request(2048, 3)), None).await,
            Bomb::Exponent => self.ask(tcp, &self.attest(request(512, 512)), None).await,
            Bomb::Evidence => {
                let leaf = self.node.chain().first().context("no leaf")?.der();
                let chain = vec![Bytes::copy_from_slice(leaf); 100];
                let evidence = X509PopEvidence { site: SITE.to_owned(), chain }.encode_to_vec();
                self.ask(tcp, &attest("x509pop", evidence.into(), request(256, 3)), None).await
            }
            Bomb::Message => self.message(tcp).await,
            // A group in a group in a group.
            Bomb::Nested => self.ask(tcp, &[0x7b; NESTED], None).await,
            Bomb::Compressed => self.ask(tcp, &[0; NESTED], Some("gzip")).await,
            Bomb::Frames(kind) => {
                frames::send(self.pinned.connect(tcp).await?, kind, COUNT).await;
                Ok(None)
            }
        }
    }

    /// With a good token: a node with a broken request may try again.
    fn attest(&self, csr: Vec<u8>) -> Vec<u8> {
        attest("join_token", Bytes::copy_from_slice(self.line.token.expose()), csr)
    }

    /// One message to `Attest`, which must be refused.
    async fn ask(&self, tcp: TcpStream, message: &[u8], coding: Option<&str>) -> Result<Option<String>> {
        let head =
            [&[u8::from(coding.is_some())], u32::try_from(message.len())?.to_be_bytes().as_slice()].concat();
        let parts = [Bytes::from(head), Bytes::copy_from_slice(message)];
        self.send(tcp, stream::iter(parts), coding).await
    }

    /// One that is too large by its own word, and comes.
    async fn message(&self, tcp: TcpStream) -> Result<Option<String>> {
        let head = [&[0], u32::try_from(MESSAGE)?.to_be_bytes().as_slice()].concat();
        let part = Bytes::from(vec![0; 64 * 1024]);
        let rest = stream::repeat(part.clone()).take(MESSAGE / part.len());
        self.send(tcp, stream::iter([Bytes::from(head)]).chain(rest), None).await
    }

    async fn send(
        &self,
        tcp: TcpStream,
        parts: impl stream::Stream<Item = Bytes> + Send + 'static,
        coding: Option<&str>,
    ) -> Result<Option<String>> {
        let tls = TokioIo::new(self.pinned.connect(tcp).await?);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), tls).await?;
        let connection = tokio::spawn(connection);
        let body = StreamBody::new(parts.map(|part| Ok::<_, Infallible>(Frame::data(part))));
        let ask = http::Request::post("http://authority/bonafide.node.v1.Node/Attest")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-encoding", coding.unwrap_or("identity"))
            .body(BodyExt::boxed_unsync(body))?;
        let answer = sender.send_request(ask).await?;
        let status = match Status::from_header_map(answer.headers()) {
            Some(status) => status,
            None => {
                let rest = answer.into_body().collect().await?;
                let trailers = rest.trailers().context("an answer without a status")?;
                Status::from_header_map(trailers).context("an answer without a status")?
            }
        };
        connection.abort();
        ensure!(status.code() != Code::Ok, "it was accepted");
        Ok(Some(problem_of(&status).code))
    }

    async fn client_chain(&self, tcp: TcpStream) -> Result<Option<String>> {
        let leaf = self.node.chain().first().context("no leaf")?.der();
        let chain = vec![CertificateDer::from(leaf.to_vec()); 100];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.node.key().to_pkcs8_der().to_vec()));
        let config = BareConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(chain, key)?;
        let name = ServerName::try_from(TRUST_DOMAIN)?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        // A client has finished before the server has looked at it.
        ensure!(!matches!(stream.read(&mut [0]).await, Ok(1..)), "it was let in");
        Ok(None)
    }
}

/// 16 MB of a message that was announced to be as long.
async fn client_hello(mut tcp: TcpStream) -> Result<Option<String>> {
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.resize(5 + 0x4000, 0);
    let mut bytes = record.clone();
    if let Some(head) = bytes.get_mut(5..9) {
        head.copy_from_slice(&[1, 0xff, 0xff, 0xff]);
    }
    for _ in 0..1024 {
        if tcp.write_all(&bytes).await.is_err() {
            return Ok(None);
        }
        bytes.clone_from(&record);
    }
    ensure!(!matches!(tcp.read(&mut [0; 64]).await, Ok(64..)), "it was answered");
    Ok(None)
}

fn attest(attestor: &str, evidence: Bytes, csr: Vec<u8>) -> Vec<u8> {
    let begin = AttestBegin {
        attestor: attestor.to_owned(),
        evidence,
        csr: csr.into(),
        agent_version: "chaos".to_owned(),
    };
    AttestRequest { step: Some(attest_request::Step::Begin(begin)) }.encode_to_vec()
}

/// A request (RFC 2986) for an RSA key of so many bytes, with a signature as long as it should be.
fn request(modulus: usize, exponent: usize) -> Vec<u8> {
    const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    const RSA_SHA256: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";
    let number = |bytes: usize| der(0x02, &[&[0], vec![0xab; bytes].as_slice()]);
    let key = der(0x30, &[&number(modulus), &number(exponent)]);
    let spki = der(0x30, &[RSA, &der(0x03, &[&[0], &key])]);
    let info = der(0x30, &[&der(0x02, &[&[0]]), &der(0x30, &[]), &spki, &der(0xa0, &[])]);
    let signature = der(0x03, &[&[0], vec![1; modulus].as_slice()]);
    der(0x30, &[&info, RSA_SHA256, &signature])
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut bytes = vec![tag];
    match u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, low @ ..0x80] => bytes.push(low),
        [0, low] => bytes.extend([0x81, low]),
        [high, low] => bytes.extend([0x82, high, low]),
    }
    bytes.extend(content);
    bytes
}

/// Believes any server: it is the server who is tried.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
