//! Five servers of keyholders, each with an address, a disk and a socket of its own; their shares are in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::{PrivateKey, Signer as _};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::{Clock as _, SystemClock, UnixTime, X509Svid};
use bonafide_keyholder::{Keyholder, KeyholderConfig, Running, caller_message};
use bonafide_keyring::{KeyFileSeal, Keyring};
use bonafide_sealing::document::{Digest, Document as _, Signed};
use bonafide_sealing::epoch::{EpochRecord, TrustedEpoch};
use bonafide_sealing::exchange::{EvaluationReply, EvaluationRequest};
use bonafide_sealing::group::Index;
use bonafide_sealing::params::{SealParams, TrustedParams};
use bonafide_sealing::roster::{Roster, TrustedRoster};
use bonafide_testkit::TestDomain;
use bonafide_tls::{Authorizer, IdentitySlot, Trusted, client_config};
use bonafide_wire::keyholder::keyholder_admin_client::KeyholderAdminClient;
use bonafide_wire::keyholder::keyholder_client::KeyholderClient;
use bonafide_wire::keyholder::{
    ChallengeRequest, DecapsulateRequest, Documents, Generate, GetDocumentsRequest, GetStatusRequest,
    InstallRequest, KeyholderStatus, ProposeRequest, Refresh, propose_request::Kind,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::owner::TestOwner;

pub(crate) struct Ring {
    pub(crate) owner: TestOwner,
    pub(crate) domain: TestDomain,
    pub(crate) running: Vec<Option<Running>>,
    folder: tempfile::TempDir,
    ports: Vec<u16>,
}

/// What a client has pinned.
pub(crate) struct Pinned {
    pub(crate) params: TrustedParams,
    pub(crate) roster: TrustedRoster,
    pub(crate) epoch: TrustedEpoch,
}

pub(crate) fn now() -> UnixTime {
    SystemClock.now()
}

pub(crate) fn seconds() -> u64 {
    now().as_secs() as u64
}

impl Ring {
    /// Made, started, and in one roster.
    pub(crate) async fn start(threshold: u8, count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // All are held until each has one, so that none is given twice.
        let held: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = held.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        drop(held);
        let (owner, domain) = (TestOwner::new(count), TestDomain::new("example.org", now()));
        let mut ring = Self { owner, domain, running: Vec::new(), folder, ports };
        for number in 1..=count {
            ring.write_svid(number);
            let config = ring.config(number);
            Keyholder::init(&config, Arc::new(SystemClock), Arc::new(SystemRandom)).await.unwrap();
            ring.running.push(None);
            ring.start_one(number).await;
        }
        let mut keys = Vec::new();
        for number in 1..=count {
            keys.push(ring.status(number).await.key.to_vec());
        }
        let roster = ring.owner.roster(threshold, &keys, vec![ring.domain.root().der().to_vec()]);
        let documents = ring.owner.documents(roster, seconds());
        ring.install(&documents).await;
        ring
    }

    pub(crate) async fn start_one(&mut self, number: usize) {
        let config = self.config(number);
        let started = Keyholder::start(config, Arc::new(SystemClock), Arc::new(SystemRandom)).await;
        self.running[number - 1] = Some(started.unwrap());
    }

    pub(crate) async fn stop_one(&mut self, number: usize) {
        self.running[number - 1].take().unwrap().stop().await;
    }

    pub(crate) fn disk(&self, number: usize) -> std::path::PathBuf {
        self.folder.path().join(number.to_string())
    }

    fn config(&self, number: usize) -> KeyholderConfig {
        let disk = self.disk(number);
        let (data, port) = (disk.join("data").display().to_string(), self.ports[number - 1]);
        let (certificate, key) = (disk.join("svid.pem"), disk.join("key.pem"));
        let peers: Vec<String> = (1..=self.ports.len())
            .map(|peer| {
                format!("\"spiffe://example.org/keyholder/{peer}\" = \"127.0.0.1:{}\"", self.ports[peer - 1])
            })
            .collect();
        KeyholderConfig::parse(&format!(
            "data_dir = \"{data}\"\nlisten = \"127.0.0.1:{port}\"\nexchange_seconds = 1\n\
             [svid]\ncertificate = \"{}\"\nkey = \"{}\"\n[peers]\n{}\n",
            certificate.display(),
            key.display(),
            peers.join("\n")
        ))
        .unwrap()
    }

    fn write_svid(&self, number: usize) {
        let disk = self.disk(number);
        std::fs::create_dir_all(&disk).unwrap();
        let svid = self.domain.svid(&format!("/keyholder/{number}"), now());
        let pem = |label, der: &[u8]| der::pem::encode_string(label, der::pem::LineEnding::LF, der).unwrap();
        let chain: String = svid.chain().iter().map(|each| pem("CERTIFICATE", each.der())).collect();
        std::fs::write(disk.join("svid.pem"), chain).unwrap();
        std::fs::write(disk.join("key.pem"), pem("PRIVATE KEY", &svid.key().to_pkcs8_der())).unwrap();
    }

    // === the operators ===

    pub(crate) async fn admin(&self, number: usize) -> KeyholderAdminClient<Channel> {
        let socket = self.disk(number).join("data/admin.sock");
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
        KeyholderAdminClient::new(channel).max_decoding_message_size(4 << 20)
    }

    pub(crate) async fn status(&self, number: usize) -> KeyholderStatus {
        self.admin(number).await.get_status(GetStatusRequest {}).await.unwrap().into_inner()
    }

    pub(crate) async fn documents(&self, number: usize) -> Documents {
        self.admin(number).await.get_documents(GetDocumentsRequest {}).await.unwrap().into_inner()
    }

    pub(crate) async fn install(&self, documents: &Documents) {
        for number in self.alive() {
            let request = InstallRequest { documents: Some(documents.clone()) };
            self.admin(number).await.install(request).await.unwrap();
        }
    }

    pub(crate) fn alive(&self) -> Vec<usize> {
        (1..=self.running.len()).filter(|number| self.running[number - 1].is_some()).collect()
    }

    /// Until all that are alive say so.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&KeyholderStatus) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        for number in self.alive() {
            loop {
                let status = self.status(number).await;
                if holds(&status) {
                    break;
                }
                assert!(tokio::time::Instant::now() < deadline, "{what}: keyholder {number}: {status:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub(crate) async fn generate(&self) {
        let kind =
            Kind::Generate(Generate { version: 1, not_before: seconds() - 10, not_after: seconds() + 3600 });
        self.admin(1).await.propose(ProposeRequest { kind: Some(kind) }).await.unwrap();
        self.until("a key", |status| status.versions.iter().any(|version| version.has_share)).await;
        let unsigned = self.documents(2).await.versions[0].unsigned_params.clone();
        let signed = self.owner.sign_params(&unsigned);
        self.install(&signed).await;
        self.until("serving", |status| status.serving).await;
    }

    pub(crate) async fn propose_refresh(&self) {
        let kind = Some(Kind::Refresh(Refresh { version: 1 }));
        self.admin(2).await.propose(ProposeRequest { kind }).await.unwrap();
    }

    pub(crate) async fn pinned(&self, number: usize) -> Pinned {
        let (documents, owner) = (self.documents(number).await, self.owner.owner());
        let params = Signed::<SealParams>::decode(&documents.versions[0].params).unwrap();
        let params = TrustedParams::verify(&owner, &params).unwrap();
        let roster = Signed::<Roster>::decode(&documents.rosters[0]).unwrap();
        let roster = TrustedRoster::first(&owner, &roster).unwrap();
        let epoch = Signed::<EpochRecord>::decode(&documents.versions[0].certificate).unwrap();
        let epoch = TrustedEpoch::verify(&params, &roster, &epoch).unwrap();
        Pinned { params, roster, epoch }
    }

    /// The key that a keyholder signs answers with, as a thief has it who has its disk and its seal.
    pub(crate) fn stolen_key(&self, number: usize) -> PrivateKey {
        let data = self.disk(number).join("data");
        let seal = KeyFileSeal::open(data.join("seal.key")).unwrap();
        let keyring = Keyring::open(data.join("keyring"), &seal).unwrap();
        let state = std::fs::read(data.join("state")).unwrap();
        let state = keyring.unwrap("keyholder/state", &state).unwrap();
        // Field 1 of the message; shorter than 16 KiB.
        assert!(state[0] == 0x0a && state[2] & 0x80 == 0 || state[1] & 0x80 == 0);
        let length = usize::from(state[1] & 0x7f) | usize::from(state[2]) << 7;
        let wrapped =
            if state[1] & 0x80 == 0 { &state[2..2 + usize::from(state[1])] } else { &state[3..3 + length] };
        PrivateKey::from_pkcs8_der(&keyring.unwrap("keyholder/key", wrapped).unwrap()).unwrap()
    }

    /// What stands in the ledger, which its keyholder has closed.
    pub(crate) fn ledger(&self, number: usize) -> Vec<String> {
        let tail = files(&self.disk(number).join("data/ledger/tail"));
        let text: String = tail.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        text.split("decapsulate ").skip(1).map(str::to_owned).collect()
    }

    // === a caller ===

    /// One question to one keyholder, as a client with this SVID asks it.
    pub(crate) async fn ask(
        &self,
        number: usize,
        svid: &X509Svid,
        roster: &Digest,
        question: &EvaluationRequest,
    ) -> Result<Signed<EvaluationReply>, Status> {
        let slot = IdentitySlot::new();
        slot.set(svid);
        let trust = Arc::new(Trusted::new(self.domain.bundles()));
        let id = self.domain.id(&format!("/keyholder/{number}"));
        let tls = client_config(Some(&slot), &trust, Authorizer::id(id), Arc::new(SystemClock)).unwrap();
        let (tls, port) = (tls.with_protocols(&[b"h2"]), self.ports[number - 1]);
        let connector = tower::service_fn(move |_| {
            let tls = Arc::clone(&tls);
            async move {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                tls.connect(stream).await.map(TokioIo::new).map_err(std::io::Error::other)
            }
        });
        let channel = Endpoint::from_static("http://keyholder").connect_with_connector(connector).await;
        let mut client =
            KeyholderClient::new(channel.map_err(|error| Status::unavailable(error.to_string()))?);
        let nonce = client.challenge(ChallengeRequest {}).await?.into_inner().nonce;
        let bytes = question.encode();
        let index = Index::new(number as u64).unwrap();
        let nonce_bytes: [u8; 16] = nonce.as_ref().try_into().unwrap();
        let message = caller_message(roster, index, &sha256(&bytes), svid.leaf().der(), &nonce_bytes);
        let signature = svid.key().sign_with(svid.key().signature_algorithm(), &message).unwrap().into();
        let request = DecapsulateRequest { question: bytes.into(), nonce, signature };
        let answer = client.decapsulate(request).await?.into_inner().answer;
        Ok(Signed::decode(&answer).unwrap())
    }
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
    found
}
