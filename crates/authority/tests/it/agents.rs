//! Scripted agents.

use std::sync::Arc;

use bonafide_attest::join::JoinLine;
use bonafide_attest::lineage::transcript;
use bonafide_attest::registration::digest_item;
use bonafide_crypto::csr;
use bonafide_crypto::digest::SetDigest;
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, Signer};
use bonafide_identity::{BundleMap, Certificate, InstanceId, SpiffeId, TrustBundle, X509Svid};
use bonafide_tls::{Authorizer, ClientConfig, IdentitySlot, Trust, Trusted};
use bonafide_wire::node::agent_message::Kind as Say;
use bonafide_wire::node::authority_message::Kind as Heard;
use bonafide_wire::node::node_client::NodeClient;
use bonafide_wire::node::{
    Acknowledge, AgentMessage, AttestBegin, AttestRequest, Attested, AuthorityMessage, Hello, IssueX509,
    RenewX509, Update, X509Issued, attest_request, attest_response,
};
use bonafide_wire::problem_of;
use bonafide_wire::types::{Problem, Registration};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::world::{World, in_time, trust_domain};

pub fn new_key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::EcP256).unwrap()
}

pub fn request_for(key: &PrivateKey) -> Bytes {
    csr::build(key).unwrap().into()
}

/// A node that has joined.
pub struct Agent {
    pub id: SpiffeId,
    pub address: String,
    pub slot: Arc<IdentitySlot>,
    pub trust: Trust,
    pub clock: Arc<dyn bonafide_identity::time::Clock>,
}

/// Its stream, and what it holds by what it was told.
pub struct Connected {
    pub say: mpsc::Sender<AgentMessage>,
    pub hear: Streaming<AuthorityMessage>,
    pub registrations: std::collections::BTreeMap<String, Registration>,
    pub bundle: Bytes,
    pub incarnation: Bytes,
    pub revision: u64,
    pub snapshots: usize,
    requests: u64,
}

/// An SVID of an instance.
pub struct Instance {
    pub key: PrivateKey,
    pub chain: Vec<Bytes>,
    pub id: InstanceId,
    pub generation: u64,
    pub registration: String,
}

/// Opens a connection.
pub async fn dial(address: &str, config: &ClientConfig) -> Result<Channel, bonafide_tls::TlsError> {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let stream = config.with_protocols(&[b"h2"]).connect(tcp).await?;
    let stream = std::sync::Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.lock().unwrap().take().map(TokioIo::new);
        async move { stream.ok_or_else(|| std::io::Error::other("closed")) }
    });
    Ok(Endpoint::from_static("http://authority").connect_with_connector(connector).await.unwrap())
}

/// Attests with the token of a join line.
pub async fn attest(channel: Channel, line: &JoinLine, csr: Bytes) -> Result<Attested, Status> {
    let begin = AttestBegin {
        attestor: "join_token".into(),
        evidence: Bytes::copy_from_slice(line.token.expose()),
        csr,
        agent_version: "test".into(),
    };
    let request = AttestRequest { step: Some(attest_request::Step::Begin(begin)) };
    let mut answers = NodeClient::new(channel).attest(tokio_stream::iter([request])).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.step) {
        Some(attest_response::Step::Attested(attested)) => Ok(attested),
        other => panic!("{other:?}"),
    }
}

pub fn pinned(line: &JoinLine, world: &World) -> Arc<ClientConfig> {
    bonafide_tls::pinned_client_config(line.trust_domain.clone(), line.root_pin, world.clock()).unwrap()
}

impl Agent {
    /// One that has been attested.
    pub fn new(id: SpiffeId, address: String, slot: Arc<IdentitySlot>, trust: Trust, world: &World) -> Self {
        Self { id, address, slot, trust, clock: world.clock() }
    }

    /// A node joins `site`.
    pub async fn join(world: &mut World, site: &str) -> Self {
        let line: JoinLine = world.join_line(site).await.parse().unwrap();
        let channel = dial(&line.address, &pinned(&line, world)).await.unwrap();
        let key = new_key();
        let attested = in_time(attest(channel, &line, request_for(&key))).await.unwrap();
        assert_eq!(attested.site, site);
        let chain = attested.chain.iter().map(|der| Certificate::from_der(der).unwrap()).collect();
        let svid = X509Svid::new(chain, key, None).unwrap();
        let bundle = TrustBundle::parse(&trust_domain(), &attested.bundle).unwrap();
        let mut bundles = BundleMap::new();
        bundles.insert(bundle);
        let trust = Trust::new(Trusted::new(bundles));
        let slot = IdentitySlot::new();
        slot.set(&svid);
        let id = svid.id().clone();
        world.fail_over().await;
        let address = world.running().node_address().to_string();
        Self { id, address, slot, trust, clock: world.clock() }
    }

    pub async fn channel(&self) -> Channel {
        let servers = Authorizer::member_of(trust_domain());
        let config = bonafide_tls::client_config(Some(&self.slot), &self.trust, servers, self.clock.clone());
        dial(&self.address, &config.unwrap()).await.unwrap()
    }

    pub async fn try_connect(&self, hello: Hello) -> Result<Connected, Status> {
        let (say, said) = mpsc::channel(1024);
        say.send(AgentMessage { kind: Some(Say::Hello(hello)) }).await.unwrap();
        let hear =
            NodeClient::new(self.channel().await).connect(ReceiverStream::new(said)).await?.into_inner();
        Ok(Connected {
            say,
            hear,
            registrations: Default::default(),
            bundle: Bytes::new(),
            incarnation: Bytes::new(),
            revision: 0,
            snapshots: 0,
            requests: 0,
        })
    }

    /// Connects as if for the first time, and takes the snapshot.
    pub async fn connect(&self) -> Connected {
        let mut connected = in_time(self.try_connect(Hello::default())).await.unwrap();
        connected.synced().await;
        connected
    }
}

impl Connected {
    pub async fn say(&self, kind: Say) {
        self.say.send(AgentMessage { kind: Some(kind) }).await.unwrap();
    }

    /// The next message that is no update; updates are applied and acknowledged.
    pub async fn next(&mut self) -> Result<Heard, Status> {
        loop {
            let message = in_time(self.hear.message()).await?;
            let kind = message.ok_or_else(|| Status::aborted("closed"))?.kind.unwrap();
            match &kind {
                Heard::Update(update) => {
                    self.apply(update);
                    if !update.more {
                        self.acknowledge().await;
                    }
                }
                Heard::Bookmark(bookmark) => {
                    self.revision = bookmark.revision;
                    self.acknowledge().await;
                }
                _ => return Ok(kind),
            }
        }
    }

    /// Waits for the end of the first update.
    pub async fn synced(&mut self) {
        self.until(1).await;
    }

    /// Follows updates up to a revision.
    pub async fn until(&mut self, revision: u64) {
        while self.revision < revision {
            match in_time(self.hear.message()).await.unwrap().unwrap().kind.unwrap() {
                Heard::Update(update) => {
                    self.apply(&update);
                    if !update.more {
                        self.acknowledge().await;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn apply(&mut self, update: &Update) {
        if update.snapshot_start {
            self.registrations.clear();
            self.snapshots += 1;
        }
        for id in &update.removals {
            self.registrations.remove(id);
        }
        for registration in &update.upserts {
            self.registrations.insert(registration.id.clone(), registration.clone());
        }
        if !update.bundle.is_empty() {
            self.bundle = update.bundle.clone();
        }
        if !update.more {
            self.revision = update.revision;
            self.incarnation = update.incarnation.clone();
        }
    }

    pub fn digest(&self) -> Bytes {
        let mut digest = SetDigest::default();
        for registration in self.registrations.values() {
            digest.insert(&digest_item(&registration.id, registration.revision));
        }
        Bytes::copy_from_slice(&digest.bytes())
    }

    pub fn hello(&self) -> Hello {
        Hello {
            incarnation: self.incarnation.clone(),
            revision: self.revision,
            set_digest: self.digest(),
            agent_version: "test".into(),
            ..Hello::default()
        }
    }

    pub async fn acknowledge(&self) {
        self.say(Say::Acknowledge(Acknowledge {
            revision: self.revision,
            set_digest: self.digest(),
            ..Acknowledge::default()
        }))
        .await;
    }

    pub fn request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// Asks, and returns the answer or why it was refused.
    pub async fn ask(&mut self, say: Say) -> Result<Heard, Problem> {
        self.say(say).await;
        match self.next().await.map_err(|status| problem_of(&status))? {
            Heard::Refused(refused) => Err(refused.problem.unwrap()),
            other => Ok(other),
        }
    }

    pub async fn issue_with(&mut self, registration: &str, csr: Bytes) -> Result<X509Issued, Problem> {
        let request = self.request();
        let ask = IssueX509 { request, registration: registration.into(), selectors: vec![], csr };
        match self.ask(Say::IssueX509(ask)).await? {
            Heard::X509Issued(issued) => {
                assert_eq!(issued.request, request);
                Ok(issued)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The first SVID of an instance.
    pub async fn issue(&mut self, registration: &str) -> Result<Instance, Problem> {
        let key = new_key();
        let issued = self.issue_with(registration, request_for(&key)).await?;
        Ok(Instance::of(key, &issued, registration))
    }

    /// The next SVID of an instance, with this key.
    pub async fn renew_with(&mut self, instance: &Instance, key: PrivateKey) -> Result<Instance, Problem> {
        let request = self.request();
        let ask = instance.renewal(request, &key);
        match self.ask(Say::RenewX509(ask)).await? {
            Heard::X509Issued(issued) => Ok(Instance::of(key, &issued, &instance.registration)),
            other => panic!("{other:?}"),
        }
    }
}

impl Instance {
    fn of(key: PrivateKey, issued: &X509Issued, registration: &str) -> Self {
        Self {
            key,
            chain: issued.chain.clone(),
            id: InstanceId::from_bytes((*issued.instance).try_into().unwrap()),
            generation: issued.generation,
            registration: registration.into(),
        }
    }

    pub fn leaf(&self) -> Certificate {
        Certificate::from_der(&self.chain[0]).unwrap()
    }

    /// A well-made request for the successor.
    pub fn renewal(&self, request: u64, key: &PrivateKey) -> RenewX509 {
        let nonce = [9; 16];
        let generation = self.generation + 1;
        let transcript = transcript(
            &trust_domain(),
            self.id,
            generation,
            &nonce,
            self.key.public_key().spki_der(),
            key.public_key().spki_der(),
        );
        RenewX509 {
            request,
            registration: self.registration.clone(),
            selectors: vec![],
            instance: Bytes::copy_from_slice(self.id.as_bytes()),
            generation,
            nonce: Bytes::copy_from_slice(&nonce),
            public_key: Bytes::copy_from_slice(key.public_key().spki_der()),
            previous_key_signature: self.key.sign(&transcript).unwrap().into(),
            new_key_signature: key.sign(&transcript).unwrap().into(),
            previous_chain: self.chain.clone(),
            evidence: Bytes::new(),
        }
    }
}
