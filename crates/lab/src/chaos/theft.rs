//! `stolen-intermediate` and `stolen-root`: somebody has the key of the authority, and the operator plays the drill.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bonafide_authority::records::{Object, SigningKey, signing_key, signing_key_key};
use bonafide_ca::{SerialNumber, Validity, sign_intermediate};
use bonafide_crypto::{
    key::{KeyAlgorithm, PrivateKey, Signer},
    random::SystemRandom,
};
use bonafide_identity::{
    Certificate, X509Svid,
    time::{Clock as _, SystemClock},
};
use bonafide_keyring::{KeyFileSeal, Keyring};
use bonafide_simulation::{Fleet, Plan};
use bonafide_store::{SqliteStore, Store as _};
use bonafide_testkit::TestDomain;
use bonafide_tls::{
    Authorizer, ClientConfig, Clients, IdentitySlot, Trust, Trusted, client_config, server_config,
};

use super::{
    admin::{Operator, entry, refused},
    agent::Agent,
    case::{Case, Report, Stage},
    peers::{Load, Peer, handshake},
    server::{Server, Settings, TRUST_DOMAIN},
};

pub(crate) const INTERMEDIATE: Case = Case {
    name: "stolen-intermediate",
    fault: "the key of the intermediate is stolen, and the drill is played with 1,000 agents",
    promise: "our verifiers refuse what the thief signs within 2 s, as client and as server",
    short: false,
    run: |stage| Box::pin(run(stage, Stolen::Intermediate)),
};

pub(crate) const ROOT: Case = Case {
    name: "stolen-root",
    fault: "the key of the root is stolen, and the drill is played with 1,000 agents",
    promise: "our verifiers refuse what the thief signs within 2 s, as client and as server",
    short: false,
    run: |stage| Box::pin(run(stage, Stolen::Root)),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stolen {
    Intermediate,
    Root,
}

/// Agents with workloads that talk; the others are virtual.
const REAL: usize = 3;

async fn run(stage: &Stage, stolen: Stolen) -> Result<Report> {
    let mut server = Server::init(stage, &Settings::default()).await?;
    server.start().await?;
    server.stop().await?;
    let thief = Thief::at(server.data()).await?;
    server.start().await?;
    let mut operator = Operator(server.admin().await?);
    operator.put_site(3600).await?;
    operator
        .put(entry("web", &[("unix.uid", &nix::unistd::geteuid().to_string())]))
        .await
        .map_err(refused)?;
    let (mut agents, mut peers) = (Vec::new(), Vec::new());
    for number in 0..REAL {
        let mut agent = Agent::new(stage, &format!("agent-{number}"));
        agent.join(&operator.join_word().await?).await?;
        peers.push(Peer::of(&agent).await?);
        agents.push(agent);
    }
    let virtual_agents = stage.times(1000 - REAL, 20);
    let plan = Plan {
        site: "crowd".to_owned(),
        agents: virtual_agents,
        entries: virtual_agents + 1,
        workloads: 0,
        ttl: 3600,
        reuse_keys: true,
    };
    let fleet = Fleet::start(operator.0.clone(), plan, |_| ()).await?;
    fleet.settle().await?;
    let id = thief.id_of(stolen).to_owned();
    let forged = Forged::new(&match stolen {
        Stolen::Intermediate => thief.by_intermediate()?,
        Stolen::Root => thief.by_root()?,
    });
    ensure!(forged.accepted(&peers).await? == 2 * REAL, "the theft is not real");

    let load = Load::start(&peers);
    let mut drill = drill(stage, &server, stolen, &id);
    let began = Instant::now();
    let drill = tokio::task::spawn_blocking(move || drill.output());
    let mut let_in = 0;
    loop {
        match forged.accepted(&peers).await? {
            0 => break,
            count => let_in += count,
        }
        let still = if drill.is_finished() { "has ended" } else { "goes on" };
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "the thief is still let in, and the drill {still}"
        );
    }
    let refused_after = began.elapsed();
    let drilled = drill.await??;
    let whole = began.elapsed();
    ensure!(drilled.status.success(), "the drill: {}", String::from_utf8_lossy(&drilled.stderr));
    // Once everything is renewed, honest workloads have no trouble.
    let settled = Instant::now();
    while !all_meet(&peers).await {
        ensure!(settled.elapsed() < Duration::from_secs(60), "honest workloads refuse each other");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(forged.accepted(&peers).await? == 0, "the thief is let in again");
    let (done, failures) = load.finish().await?;
    fleet.stop().await;
    Ok(Report {
        value: refused_after.as_secs_f64(),
        unit: "s",
        at_most: Some(2.0),
        what: format!(
            "the drill begins → nobody lets the thief in, who was let in {let_in} times meanwhile; the whole drill took {:.1} s; {done} handshakes of honest workloads, {} failed",
            whole.as_secs_f64(),
            count(&failures)
        ),
    })
}

/// What the operator plays.
pub(super) fn drill(stage: &Stage, server: &Server, stolen: Stolen, id: &str) -> Command {
    let mut drill = Command::new(stage.program());
    let kind = if stolen == Stolen::Root { "root" } else { "intermediate" };
    // Agents that are gone are not waited for.
    drill.args(["ca", "drill", "--stolen", kind, "--id", id, "--timeout", "1s", "--socket"]);
    drill.arg(server.data().join("admin.sock"));
    drill
}

fn count(failures: &BTreeMap<String, u64>) -> u64 {
    failures.values().sum()
}

async fn all_meet(peers: &[Peer]) -> bool {
    for server in peers {
        for client in peers {
            if handshake(&server.server, &client.client).await.is_err() {
                return false;
            }
        }
    }
    true
}

/// What the thief shows.
pub(super) struct Forged(Arc<IdentitySlot>);

impl Forged {
    pub(super) fn new(svid: &X509Svid) -> Self {
        let slot = IdentitySlot::new();
        slot.set(svid);
        Self(slot)
    }

    /// How the thief calls those who believe the same as `peer`.
    pub(super) fn client(&self, peer: &Peer) -> Result<Arc<ClientConfig>> {
        Ok(client_config(Some(&self.0), &trust_of(peer), members()?, Arc::new(SystemClock))?)
    }

    /// How often workloads let the thief in, as their caller and as who they call.
    async fn accepted(&self, peers: &[Peer]) -> Result<usize> {
        let mut accepted = 0;
        for peer in peers {
            let calling = self.client(peer)?;
            let serving = server_config(
                &self.0,
                &trust_of(peer),
                Clients::Optional(members()?),
                Arc::new(SystemClock),
            )?;
            let (here, there) = tokio::io::duplex(64 * 1024);
            let (served, _) = tokio::join!(peer.server.accept(here), calling.connect(there));
            accepted += usize::from(served.is_ok());
            let (here, there) = tokio::io::duplex(64 * 1024);
            let (_, called) = tokio::join!(serving.accept(here), peer.client.connect(there));
            accepted += usize::from(called.is_ok());
        }
        Ok(accepted)
    }
}

/// The thief believes whom the other side believes, so that it is up to that side.
fn trust_of(peer: &Peer) -> Trust {
    Arc::new(Trusted::new((*peer.source.bundles()).clone()))
}

fn members() -> Result<Authorizer> {
    Ok(Authorizer::member_of(TRUST_DOMAIN.parse()?))
}

/// What lay on the authority's disk: with the seal beside it, that is everything.
pub(super) struct Thief {
    root_id: String,
    intermediate_id: String,
    root: (Certificate, PrivateKey),
    intermediate: (Certificate, PrivateKey),
    jwt: PrivateKey,
}

impl Thief {
    /// The authority must be down.
    pub(super) async fn at(data: &Path) -> Result<Self> {
        let keyring = Keyring::open(data.join("keyring"), &KeyFileSeal::open(data.join("seal.key"))?)?;
        let store = SqliteStore::open_existing(data.join("store.sqlite"), keyring.mac_key("store"))?;
        let mut keys: Vec<Arc<SigningKey>> = Vec::new();
        for object in store.snapshot().await?.objects {
            if let Some(Object::SigningKey(key)) =
                Object::decode(&object.key, &object.value, object.revision.0)?
                && key.state() == signing_key::State::Active
            {
                keys.push(key);
            }
        }
        let of = |usage| -> Result<(Vec<u8>, PrivateKey)> {
            let record = keys.iter().find(|key| key.r#use() == usage).context("a key is missing")?;
            let opened = keyring.unwrap(&signing_key_key(&record.id), &record.wrapped_key)?;
            Ok((record.certificate.to_vec(), PrivateKey::from_pkcs8_der(&opened)?))
        };
        let certified = |usage| -> Result<(Certificate, PrivateKey)> {
            let (certificate, key) = of(usage)?;
            Ok((Certificate::from_der(&certificate)?, key))
        };
        let id = |usage| keys.iter().find(|key| key.r#use() == usage).map(|key| key.id.clone());
        Ok(Self {
            root_id: id(signing_key::Use::Root).context("there is no root")?,
            intermediate_id: id(signing_key::Use::Intermediate).context("there is no intermediate")?,
            root: certified(signing_key::Use::Root)?,
            intermediate: certified(signing_key::Use::Intermediate)?,
            jwt: of(signing_key::Use::Jwt)?.1,
        })
    }

    /// As operators know what was stolen.
    pub(super) fn id_of(&self, stolen: Stolen) -> &str {
        match stolen {
            Stolen::Intermediate => &self.intermediate_id,
            Stolen::Root => &self.root_id,
        }
    }

    /// An SVID of a workload, signed with the stolen intermediate.
    fn by_intermediate(self) -> Result<X509Svid> {
        let key: Arc<dyn Signer> = Arc::new(self.intermediate.1);
        let (root, intermediate) = (self.root.0, self.intermediate.0);
        let domain = TestDomain::with_keys(TRUST_DOMAIN.parse()?, root, intermediate, key, self.jwt);
        Ok(domain.svid("/web", SystemClock.now()))
    }

    /// An SVID of a workload, under an intermediate that nobody has seen before.
    pub(super) fn by_root(self) -> Result<X509Svid> {
        let now = SystemClock.now();
        let key = PrivateKey::generate(KeyAlgorithm::EcP256)?;
        let validity = Validity::starting(now, Duration::from_secs(3 * 3600)).context("no such time")?;
        let serial = SerialNumber::random(&SystemRandom);
        let trust_domain = TRUST_DOMAIN.parse()?;
        let (root, root_key) = &self.root;
        let intermediate =
            sign_intermediate(&trust_domain, root, root_key, key.public_key(), validity, serial)?;
        let domain = TestDomain::with_keys(trust_domain, root.clone(), intermediate, Arc::new(key), self.jwt);
        Ok(domain.svid("/web", now))
    }
}
