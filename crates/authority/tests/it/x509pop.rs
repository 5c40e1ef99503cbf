//! Nodes that attest by certificate.

use bonafide_attest::join::JoinLine;
use bonafide_attest::x509pop::{Proof, algorithm_for, scheme_of};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, SignatureAlgorithm, Signer};
use bonafide_identity::{BundleMap, Certificate, SpiffeId, TrustBundle, X509Svid};
use bonafide_tls::{IdentitySlot, Trust, Trusted};
use bonafide_wire::admin::{BanAgentRequest, ListAgentsRequest, PutSiteRequest};
use bonafide_wire::node::authority_message::Kind as Heard;
use bonafide_wire::node::node_client::NodeClient;
use bonafide_wire::node::{
    AttestBegin, AttestRequest, AttestResponse, Attested, X509PopChallenge, X509PopEvidence, X509PopResponse,
    attest_request, attest_response,
};
use bonafide_wire::problem_of;
use bonafide_wire::types::{Scope, Site};
use bytes::Bytes;
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose as Usage, SanType,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::agents::{Agent, dial, new_key, pinned, request_for};
use crate::world::{World, entry, in_time, trust_domain};

/// A PKI that knows nothing of SPIFFE.
struct Pki {
    issuer: Issuer<'static, KeyPair>,
    der: Bytes,
}

fn key_pair(key: &PrivateKey) -> KeyPair {
    let der = key.to_pkcs8_der();
    KeyPair::try_from(der.as_slice()).unwrap()
}

fn authority(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
    parameters
}

impl Pki {
    fn new() -> Self {
        Self::of(authority("factory root"))
    }

    fn of(parameters: CertificateParams) -> Self {
        let key = key_pair(&new_key());
        let der = Bytes::copy_from_slice(parameters.self_signed(&key).unwrap().der());
        Self { issuer: Issuer::new(parameters, key), der }
    }

    /// An authority below this one.
    fn below(&self, name: &str) -> Self {
        let (parameters, key) = (authority(name), key_pair(&new_key()));
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let der = Bytes::copy_from_slice(certificate.der());
        Self { issuer: Issuer::new(parameters, key), der }
    }

    fn leaf(&self, key: &PrivateKey, change: impl FnOnce(&mut CertificateParams)) -> Bytes {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "node-7");
        parameters.subject_alt_names = vec![SanType::DnsName("node-7.example.org".try_into().unwrap())];
        parameters.key_usages = vec![Usage::DigitalSignature];
        parameters.extended_key_usages = vec![Purpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = true;
        change(&mut parameters);
        Bytes::copy_from_slice(parameters.signed_by(&key_pair(key), &self.issuer).unwrap().der())
    }
}

/// A node with a certificate.
struct Node {
    key: PrivateKey,
    chain: Vec<Bytes>,
    site: String,
}

impl Node {
    fn of(pki: &Pki, algorithm: KeyAlgorithm) -> Self {
        let key = PrivateKey::generate(algorithm).unwrap();
        let chain = vec![pki.leaf(&key, |_| ())];
        Self { key, chain, site: "lab".into() }
    }

    fn with(pki: &Pki, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = new_key();
        let chain = vec![pki.leaf(&key, change)];
        Self { key, chain, site: "lab".into() }
    }

    fn answer(&self, nonce: [u8; 32], csr: &[u8]) -> X509PopResponse {
        self.answer_with(algorithm_for(self.key.public_key().algorithm()), nonce, csr)
    }

    fn answer_with(&self, algorithm: SignatureAlgorithm, nonce: [u8; 32], csr: &[u8]) -> X509PopResponse {
        let proof = Proof {
            trust_domain: &trust_domain(),
            site: &self.site,
            authority_nonce: &nonce,
            node_nonce: &[7; 32],
            certificate: &self.chain[0],
            csr,
        };
        X509PopResponse {
            nonce: Bytes::from_static(&[7; 32]),
            scheme: scheme_of(algorithm).unwrap(),
            signature: self.key.sign_with(algorithm, &proof.transcript()).unwrap().into(),
        }
    }

    /// Attests as it should.
    async fn attest(&self, world: &mut World, csr: Bytes) -> Result<Attested, String> {
        let mut open = Open::begin(world, self, csr.clone()).await;
        let nonce = open.challenge().await?;
        open.answer(&self.answer(nonce, &csr)).await
    }

    /// Attests, and becomes what the scripted agents of the other tests are.
    async fn join(&self, world: &mut World) -> Agent {
        let key = new_key();
        let attested = self.attest(world, request_for(&key)).await.unwrap();
        agent(world, &attested, key)
    }
}

fn agent(world: &World, attested: &Attested, key: PrivateKey) -> Agent {
    let chain = attested.chain.iter().map(|der| Certificate::from_der(der).unwrap()).collect();
    let svid = X509Svid::new(chain, key, None).unwrap();
    let mut bundles = BundleMap::new();
    bundles.insert(TrustBundle::parse(&trust_domain(), &attested.bundle).unwrap());
    let slot = IdentitySlot::new();
    slot.set(&svid);
    let address = world.running().node_address().to_string();
    Agent::new(svid.id().clone(), address, slot, Trust::new(Trusted::new(bundles)), world)
}

/// An attestation under way.
struct Open {
    say: mpsc::Sender<AttestRequest>,
    hear: Streaming<AttestResponse>,
}

impl Open {
    async fn begin(world: &mut World, node: &Node, csr: Bytes) -> Self {
        let evidence = X509PopEvidence { site: node.site.clone(), chain: node.chain.clone() }.encode_to_vec();
        let line: JoinLine = world.join_line("lab").await.parse().unwrap();
        let channel = dial(&line.address, &pinned(&line, world)).await.unwrap();
        let begin = AttestBegin {
            attestor: "x509pop".into(),
            evidence: evidence.into(),
            csr,
            agent_version: "test".into(),
        };
        let (say, said) = mpsc::channel(4);
        say.send(AttestRequest { step: Some(attest_request::Step::Begin(begin)) }).await.unwrap();
        let hear = NodeClient::new(channel).attest(ReceiverStream::new(said)).await.unwrap().into_inner();
        Self { say, hear }
    }

    async fn next(&mut self) -> Result<attest_response::Step, String> {
        let answer = in_time(self.hear.message()).await.map_err(|status| problem_of(&status).code)?;
        Ok(answer.unwrap().step.unwrap())
    }

    async fn challenge(&mut self) -> Result<[u8; 32], String> {
        match self.next().await? {
            attest_response::Step::Challenge(challenge) => {
                let challenge = X509PopChallenge::decode(&*challenge).unwrap();
                Ok((*challenge.nonce).try_into().unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&mut self, response: &X509PopResponse) -> Result<Attested, String> {
        let step = attest_request::Step::ChallengeResponse(response.encode_to_vec().into());
        self.say.send(AttestRequest { step: Some(step) }).await.unwrap();
        match self.next().await? {
            attest_response::Step::Attested(attested) => Ok(attested),
            other => panic!("{other:?}"),
        }
    }
}

async fn trust(world: &mut World, site: &str, roots: &[&Pki]) -> Result<(), String> {
    let scope = Scope { spiffe_ids: vec!["spiffe://example.org/app/**".into()], ..Scope::default() };
    let site = Site {
        name: site.into(),
        scope: Some(scope),
        x509pop_roots: roots.iter().map(|pki| pki.der.clone()).collect(),
        ..Site::default()
    };
    let request = PutSiteRequest { site: Some(site), ..PutSiteRequest::default() };
    world.admin.put_site(request).await.map(|_| ()).map_err(|status| problem_of(&status).code)
}

async fn world(pki: &Pki) -> World {
    let mut world = World::new().await;
    trust(&mut world, "lab", &[pki]).await.unwrap();
    world
}

fn id(attested: &Attested) -> SpiffeId {
    Certificate::from_der(&attested.chain[0]).unwrap().spiffe_id().unwrap().clone()
}

#[tokio::test]
async fn a_node_with_a_certificate_becomes_an_agent() {
    let pki = Pki::new();
    let mut world = world(&pki).await;
    let middle = pki.below("factory line 3");
    let key = new_key();
    let chain = vec![middle.leaf(&key, |_| ()), middle.der.clone()];
    let node = Node { key, chain, site: "lab".into() };
    let agent = node.join(&mut world).await;
    agent.connect().await;

    let listed = world.admin.list_agents(ListAgentsRequest::default()).await.unwrap().into_inner().agents;
    assert_eq!((listed.len(), listed[0].attestor.as_str()), (1, "x509pop"));
    let found = |key: &str| -> Vec<String> {
        let all = listed[0].selectors.iter().filter(|selector| selector.key == key);
        all.map(|selector| selector.value.clone()).collect()
    };
    let digest = |der: &[u8]| -> String {
        bonafide_crypto::digest::sha256(der).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(found("x509pop.subject_cn"), ["node-7"]);
    assert_eq!(found("x509pop.san_dns"), ["node-7.example.org"]);
    assert_eq!(found("x509pop.fingerprint"), [digest(&node.chain[0])]);
    let mut authorities = vec![digest(&middle.der), digest(&pki.der)];
    authorities.sort();
    assert_eq!(found("x509pop.ca_fingerprint"), authorities);
    assert_eq!(found("x509pop.serialnumber").len(), 1);
}

#[tokio::test]
async fn every_kind_of_key_proves_itself() {
    let pki = Pki::new();
    let mut world = world(&pki).await;
    for algorithm in [
        KeyAlgorithm::EcP256,
        KeyAlgorithm::EcP384,
        KeyAlgorithm::EcP521,
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Rsa2048,
    ] {
        let node = Node::of(&pki, algorithm);
        node.attest(&mut world, request_for(&new_key())).await.unwrap();
        if algorithm != KeyAlgorithm::Rsa2048 {
            continue;
        }
        let csr = request_for(&new_key());
        let mut open = Open::begin(&mut world, &node, csr.clone()).await;
        let nonce = open.challenge().await.unwrap();
        open.answer(&node.answer_with(SignatureAlgorithm::RsaPkcs1Sha256, nonce, &csr)).await.unwrap();
    }
}

#[tokio::test]
async fn certificates_that_prove_nothing_are_refused() {
    let pki = Pki::new();
    let mut world = world(&pki).await;
    world.put_site("bare", &["spiffe://example.org/bare/**"]).await;
    let other = Pki::new();
    trust(&mut world, "other", &[&other]).await.unwrap();
    let elsewhere = |site: &str| Node { site: site.into(), ..Node::of(&pki, KeyAlgorithm::EcP256) };
    let mut old = authority("old root");
    old.not_after = rcgen::date_time_ymd(2025, 1, 1);
    let old = Pki::of(old);
    trust(&mut world, "old", &[&old]).await.unwrap();
    let long = {
        let mut chain = Node::of(&pki, KeyAlgorithm::EcP256);
        chain.chain.extend((0..5).map(|n| pki.below(&format!("{n}")).der));
        chain
    };
    let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    let cases = [
        ("an unknown root", Node::of(&Pki::new(), KeyAlgorithm::EcP256), "x509.unknown-authority"),
        ("a root of another site", Node::of(&other, KeyAlgorithm::EcP256), "x509.unknown-authority"),
        ("a certificate for another site", elsewhere("other"), "x509.unknown-authority"),
        ("a site without roots", elsewhere("bare"), "attest.x509pop-site"),
        ("no such site", elsewhere("nowhere"), "attest.x509pop-site"),
        ("no certificate", Node { chain: vec![], ..elsewhere("lab") }, "x509.empty"),
        ("too many certificates", long, "attest.malformed"),
        (
            "junk",
            Node { chain: vec![Bytes::from_static(b"junk")], ..elsewhere("lab") },
            "certificate.malformed",
        ),
        (
            "expired",
            Node::with(&pki, |leaf| leaf.not_after = rcgen::date_time_ymd(2025, 1, 1)),
            "x509.expired",
        ),
        (
            "not yet valid",
            Node::with(&pki, |leaf| leaf.not_before = rcgen::date_time_ymd(2027, 1, 1)),
            "x509.not-yet-valid",
        ),
        (
            "an expired root",
            Node { site: "old".into(), ..Node::of(&old, KeyAlgorithm::EcP256) },
            "x509.expired",
        ),
        (
            "a server's",
            Node::with(&pki, |leaf| leaf.extended_key_usages = vec![Purpose::ServerAuth]),
            "x509.no-client-auth",
        ),
        ("without key usage", Node::with(&pki, |leaf| leaf.key_usages = vec![]), "x509.no-key-usage"),
        (
            "that may not sign",
            Node::with(&pki, |leaf| leaf.key_usages = vec![Usage::KeyEncipherment]),
            "x509.no-digital-signature",
        ),
        (
            "an authority's",
            Node::with(&pki, |leaf| {
                leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                leaf.key_usages.push(Usage::KeyCertSign);
            }),
            "x509.leaf-is-authority",
        ),
        (
            "a workload's SVID",
            Node::with(&pki, |leaf| leaf.subject_alt_names = vec![uri("spiffe://example.org/app/web")]),
            "attest.own-svid",
        ),
    ];
    for (what, node, code) in cases {
        let csr = request_for(&new_key());
        assert_eq!(node.attest(&mut world, csr).await.map(|_| ()), Err(code.to_owned()), "{what}");
    }
    let foreign = Node::with(&pki, |leaf| leaf.subject_alt_names = vec![uri("spiffe://other.org/node/7")]);
    foreign.attest(&mut world, request_for(&new_key())).await.unwrap();
}

/// RFC 5280 has no bound for keys. Checking a signature of 16384 bits takes as long as four thousand of P-256.
#[tokio::test]
async fn a_giant_key_is_refused_before_it_is_used() {
    let pki = Pki::new();
    let mut world = world(&pki).await;
    let small = Node::of(&pki, KeyAlgorithm::Rsa2048).chain[0].clone();
    let spki = Certificate::from_der(&small).unwrap().public_key().spki_der().to_vec();
    let mut writer = bonafide_crypto::asn1::Writer::default();
    writer.nested(bonafide_crypto::asn1::SEQUENCE, |key| {
        key.positive(&[0xff; 2048]);
        key.positive(&[1, 0, 1]);
    });
    let key_der = writer.finish();
    let mut writer = bonafide_crypto::asn1::Writer::default();
    writer.nested(bonafide_crypto::asn1::SEQUENCE, |outer| {
        outer.nested(bonafide_crypto::asn1::SEQUENCE, |algorithm| {
            algorithm
                .primitive(bonafide_crypto::asn1::OBJECT_IDENTIFIER, b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01");
            algorithm.primitive(bonafide_crypto::asn1::NULL, &[]);
        });
        outer.bit_string(&key_der);
    });
    let giant = with_public_key(&small, &spki, &writer.finish());
    let node = Node { key: new_key(), chain: vec![giant], site: "lab".into() };
    let refused = node.attest(&mut world, request_for(&new_key())).await.unwrap_err();
    assert_eq!(refused, "certificate.public-key");
}

/// The certificate with another key in it, and lengths that fit. The signature doesn't, which nobody finds out.
fn with_public_key(certificate: &[u8], old: &[u8], new: &[u8]) -> Bytes {
    use bonafide_crypto::asn1::{Reader, SEQUENCE, Writer};
    let mut outer = Reader::new(certificate).nested(SEQUENCE).unwrap();
    let mut tbs = outer.nested(SEQUENCE).unwrap();
    let mut parts = Vec::new();
    while let Some(element) = tbs.any() {
        parts.push(if element.encoded == old { new.to_vec() } else { element.encoded.to_vec() });
    }
    let mut inner = parts.concat();
    while let Some(element) = outer.any() {
        inner.extend_from_slice(element.encoded);
    }
    // TBSCertificate, then what followed it.
    let length: usize = parts.iter().map(Vec::len).sum();
    let (tbs, rest) = inner.split_at(length);
    let mut writer = Writer::default();
    writer.primitive(SEQUENCE, tbs);
    let body = [writer.finish(), rest.to_vec()].concat();
    let mut writer = Writer::default();
    writer.primitive(SEQUENCE, &body);
    writer.finish().into()
}

#[tokio::test]
async fn a_proof_is_good_for_one_connection_and_one_request() {
    let pki = Pki::new();
    let mut world = world(&pki).await;
    let node = Node::of(&pki, KeyAlgorithm::EcP256);
    let refused = Err("attest.x509pop-proof".to_owned());
    let (csr, other_csr) = (request_for(&new_key()), request_for(&new_key()));

    // The thief of one answer brings it again.
    let mut first = Open::begin(&mut world, &node, csr.clone()).await;
    let answer = node.answer(first.challenge().await.unwrap(), &csr);
    first.answer(&answer).await.unwrap();
    let mut again = Open::begin(&mut world, &node, csr.clone()).await;
    again.challenge().await.unwrap();
    assert_eq!(again.answer(&answer).await.map(|_| ()), refused);

    // Challenges of two connections, swapped.
    let mut one = Open::begin(&mut world, &node, csr.clone()).await;
    let mut two = Open::begin(&mut world, &node, csr.clone()).await;
    let (nonce_one, nonce_two) = (one.challenge().await.unwrap(), two.challenge().await.unwrap());
    assert_ne!(nonce_one, nonce_two);
    assert_eq!(one.answer(&node.answer(nonce_two, &csr)).await.map(|_| ()), refused);
    assert_eq!(two.answer(&node.answer(nonce_one, &csr)).await.map(|_| ()), refused);

    // A man in the middle lets the node sign, and asks for an SVID of his own key.
    let mut open = Open::begin(&mut world, &node, other_csr.clone()).await;
    let nonce = open.challenge().await.unwrap();
    assert_eq!(open.answer(&node.answer(nonce, &csr)).await.map(|_| ()), refused);

    // Another key, another site, another nonce than was signed.
    let mut open = Open::begin(&mut world, &node, csr.clone()).await;
    let nonce = open.challenge().await.unwrap();
    let thief = Node { key: new_key(), chain: node.chain.clone(), site: "lab".into() };
    assert_eq!(open.answer(&thief.answer(nonce, &csr)).await.map(|_| ()), refused);
    trust(&mut world, "twin", &[&pki]).await.unwrap();
    let mut open = Open::begin(&mut world, &node, csr.clone()).await;
    let nonce = open.challenge().await.unwrap();
    let twin = Node { site: "twin".into(), key: node.key, chain: node.chain };
    assert_eq!(open.answer(&twin.answer(nonce, &csr)).await.map(|_| ()), refused);
    let mut open = Open::begin(&mut world, &twin, csr.clone()).await;
    let nonce = open.challenge().await.unwrap();
    let changed = X509PopResponse { nonce: Bytes::from_static(&[8; 32]), ..twin.answer(nonce, &csr) };
    assert_eq!(open.answer(&changed).await.map(|_| ()), refused);
    let mut open = Open::begin(&mut world, &twin, csr.clone()).await;
    let nonce = open.challenge().await.unwrap();
    let weak = X509PopResponse { scheme: 0x0201, ..twin.answer(nonce, &csr) };
    assert_eq!(open.answer(&weak).await.map(|_| ()), Err("attest.x509pop-scheme".to_owned()));
}

/// Asks for the agent's own SVID anew.
async fn renew(stream: &mut crate::agents::Connected) -> Result<Certificate, String> {
    let renewal = bonafide_wire::node::RenewAgent { request: 1, csr: request_for(&new_key()) };
    match stream.ask(bonafide_wire::node::agent_message::Kind::RenewAgent(renewal)).await {
        Ok(Heard::X509Issued(issued)) => Ok(Certificate::from_der(&issued.chain[0]).unwrap()),
        Ok(other) => panic!("{other:?}"),
        Err(problem) => Err(problem.code),
    }
}

/// Who has a node's certificate has an agent for as long as that is valid, however often he renews.
#[tokio::test]
async fn an_agent_does_not_outlive_its_nodes_certificate() {
    let pki = Pki::new();
    let mut world = world(&pki).await;
    let end = world.clock().now().as_secs() + 1800;
    let after = std::time::Duration::from_secs(end.try_into().unwrap());
    let node = Node::with(&pki, |leaf| leaf.not_after = rcgen::date_time_ymd(1970, 1, 1) + after);
    let agent = node.join(&mut world).await;
    let svid = agent.slot.current().unwrap();
    assert_eq!(svid.chain()[0].not_after().as_secs(), end);
    let mut stream = agent.connect().await;
    for _ in 0..4 {
        world.clock.advance(std::time::Duration::from_secs(360));
        assert_eq!(renew(&mut stream).await.unwrap().not_after().as_secs(), end);
    }
    world.clock.advance(std::time::Duration::from_secs(360));
    assert_eq!(renew(&mut stream).await.unwrap_err(), "agent.proof-expired");
    let csr = request_for(&new_key());
    world.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(node.attest(&mut world, csr).await.unwrap_err(), "x509.expired");
}

#[tokio::test]
async fn an_agent_is_admitted_as_long_as_its_site_trusts_the_root_of_its_node() {
    let (pki, next) = (Pki::new(), Pki::new());
    let mut world = world(&pki).await;
    world.put(entry("app", "/app/app")).await;
    let node = Node::of(&pki, KeyAlgorithm::EcP256);
    let agent = node.join(&mut world).await;
    let mut stream = agent.connect().await;
    stream.issue("app").await.unwrap();

    trust(&mut world, "lab", &[&next]).await.unwrap();
    let refused = "agent.proof-untrusted";
    let ended = loop {
        if let Err(ended) = in_time(stream.next()).await {
            break ended;
        }
    };
    assert_eq!(problem_of(&ended).code, refused);
    let again = agent.try_connect(Default::default()).await.err().unwrap();
    assert_eq!(problem_of(&again).code, refused);
    assert_eq!(node.attest(&mut world, request_for(&new_key())).await.unwrap_err(), "x509.unknown-authority");
    // A node that has got another certificate is another agent.
    Node::of(&next, KeyAlgorithm::EcP256).join(&mut world).await.connect().await.issue("app").await.unwrap();

    trust(&mut world, "lab", &[&pki, &next]).await.unwrap();
    agent.connect().await.issue("app").await.unwrap();
}

#[tokio::test]
async fn the_newest_attestation_ends_the_one_before() {
    let pki = Pki::new();
    let mut world = world(&pki).await;
    let node = Node::of(&pki, KeyAlgorithm::EcP256);
    let first = node.join(&mut world).await;
    let mut stream = first.connect().await;
    let second = node.join(&mut world).await;
    assert_eq!(first.id, second.id, "one certificate, one agent");

    let ended = stream.next().await.unwrap_err();
    assert_eq!(problem_of(&ended).code, "agent.superseded");
    let again = first.try_connect(Default::default()).await.err().unwrap();
    assert_eq!(problem_of(&again).code, "agent.superseded");
    let mut stream = second.connect().await;
    let listed = world.admin.list_agents(ListAgentsRequest::default()).await.unwrap().into_inner().agents;
    assert_eq!(listed.len(), 1);
    // What it renews is of the same attestation.
    let key = new_key();
    let renewal = bonafide_wire::node::RenewAgent { request: 1, csr: request_for(&key) };
    let asked = stream.ask(bonafide_wire::node::agent_message::Kind::RenewAgent(renewal)).await;
    let Ok(Heard::X509Issued(issued)) = asked else { panic!("{asked:?}") };
    let renewed = Attested { chain: issued.chain, bundle: stream.bundle.clone(), ..Attested::default() };
    agent(&world, &renewed, key).connect().await;

    // The next server on the same store knows as much.
    let world = world.restart().await;
    let address = world.running().node_address().to_string();
    let superseded = Agent { address: address.clone(), ..first };
    let refused = superseded.try_connect(Default::default()).await.err().unwrap();
    assert_eq!(problem_of(&refused).code, "agent.superseded");
    Agent { address, ..second }.connect().await;
}

#[tokio::test]
async fn a_banned_certificate_stays_banned() {
    let pki = Pki::new();
    let mut world = world(&pki).await;
    let node = Node::of(&pki, KeyAlgorithm::EcP256);
    let attested = node.attest(&mut world, request_for(&new_key())).await.unwrap();
    let request = BanAgentRequest { id: id(&attested).to_string(), ..BanAgentRequest::default() };
    world.admin.ban_agent(request).await.unwrap();
    let refused = node.attest(&mut world, request_for(&new_key())).await.unwrap_err();
    assert_eq!(refused, "agent.banned");
    let other = Node { chain: vec![pki.leaf(&node.key, |_| ())], ..node };
    other.attest(&mut world, request_for(&new_key())).await.unwrap();
}

#[tokio::test]
async fn roots_are_checked_when_they_are_put() {
    let pki = Pki::new();
    let mut world = world(&pki).await;
    let leaf = Pki { der: Node::of(&pki, KeyAlgorithm::EcP256).chain[0].clone(), ..Pki::new() };
    assert_eq!(trust(&mut world, "lab", &[&leaf]).await, Err("site.x509pop-root".to_owned()));
    let junk = Pki { der: Bytes::from_static(b"junk"), ..Pki::new() };
    assert_eq!(trust(&mut world, "lab", &[&junk]).await, Err("site.x509pop-root".to_owned()));
    assert_eq!(trust(&mut world, "lab", &[&pki; 17]).await, Err("site.x509pop-roots".to_owned()));

    // A root that is taken away while a node is about to prove itself admits it no more.
    let node = Node::of(&pki, KeyAlgorithm::EcP256);
    let csr = request_for(&new_key());
    let mut open = Open::begin(&mut world, &node, csr.clone()).await;
    let nonce = open.challenge().await.unwrap();
    trust(&mut world, "lab", &[&Pki::new()]).await.unwrap();
    let late = open.answer(&node.answer(nonce, &csr)).await;
    assert_eq!(late.map(|_| ()), Err("attest.x509pop-site".to_owned()));
}
