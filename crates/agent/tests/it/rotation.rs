//! Keys of the authority are changed, or stolen, while workloads of several agents talk to each other.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bonafide_agent::Running;
use bonafide_authority::records::{Object, SigningKey, signing_key, signing_key_key};
use bonafide_ca::{SerialNumber, Validity, sign_intermediate};
use bonafide_crypto::{
    key::{KeyAlgorithm, PrivateKey, Signer},
    random::SystemRandom,
};
use bonafide_identity::{
    Certificate, TrustBundle, TrustDomain, X509Svid,
    bundle::BundleMap,
    time::{Clock, UnixTime},
};
use bonafide_keyring::{KeyFileSeal, Keyring};
use bonafide_store::{SqliteStore, Store};
use bonafide_testkit::{TestClock, TestDomain};
use bonafide_tls::{Authorizer, Clients, IdentitySlot, Trust, client_config, server_config};
use bonafide_wire::{
    admin::{
        ChangeAuthorityRequest, ChangeAuthorityResponse, ListAuthoritiesRequest, PrepareAuthorityRequest,
        SigningAuthority, admin_client::AdminClient, signing_authority::Kind,
    },
    workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use tokio::sync::watch;
use tonic::{Code, Request, transport::Channel};

use crate::world::{World, local};

const AGENTS: usize = 3;

fn trust_domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

/// A workload: what its agent gives it, and what it had before.
struct Workload {
    now: Arc<IdentitySlot>,
    before: Arc<IdentitySlot>,
    trust: Trust,
    clock: Arc<TestClock>,
    changes: watch::Receiver<Option<X509Svid>>,
}

impl Workload {
    async fn start(socket: PathBuf, clock: Arc<TestClock>) -> Self {
        let (now, before, trust) = (IdentitySlot::new(), IdentitySlot::new(), Trust::default());
        let (sender, mut changes) = watch::channel(None);
        let (presents, presented, believes) = (now.clone(), before.clone(), trust.clone());
        tokio::spawn(async move {
            let mut client = SpiffeWorkloadApiClient::new(local(&socket).await);
            let mut stream = loop {
                let mut request = Request::new(X509svidRequest {});
                request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
                match client.fetch_x509svid(request).await {
                    Ok(answer) => break answer.into_inner(),
                    // As every client does: the agent has not heard from its authority yet.
                    Err(status) if status.code() == Code::Unavailable => tokio::task::yield_now().await,
                    Err(status) => return eprintln!("a workload is refused: {status}"),
                }
            };
            let mut last: Option<X509Svid> = None;
            loop {
                let response = match stream.message().await {
                    Ok(Some(response)) => response,
                    Ok(None) => return,
                    Err(status) => return eprintln!("the stream of a workload ended: {status}"),
                };
                let (svid, bundles) = read(&response);
                believes.store(Arc::new(bundles));
                let leaf = |svid: &X509Svid| svid.chain()[0].der().to_vec();
                if last.as_ref().is_none_or(|last| leaf(last) != leaf(&svid)) {
                    if let Some(last) = &last {
                        presented.set(last);
                    }
                    presents.set(&svid);
                    last = Some(svid.clone());
                    let _ = sender.send(Some(svid));
                }
            }
        });
        changes.wait_for(Option::is_some).await.unwrap();
        Self { now, before, trust, clock, changes }
    }

    /// Waits for an SVID under another authority than this one.
    async fn renewed(&mut self, authority: &[u8]) {
        let other = |svid: &Option<X509Svid>| {
            svid.as_ref().is_some_and(|svid| svid.chain()[0].authority_key_id() != Some(authority))
        };
        in_time(self.changes.wait_for(other)).await.unwrap();
    }

    fn issuer(&self) -> Vec<u8> {
        self.changes.borrow().as_ref().unwrap().chain()[0].authority_key_id().unwrap().to_vec()
    }
}

fn read(response: &X509svidResponse) -> (X509Svid, BundleMap) {
    let message = &response.svids[0];
    let chain = Certificate::many_from_der(&message.x509_svid, 8).unwrap();
    let key = PrivateKey::from_pkcs8_der(&message.x509_svid_key).unwrap();
    let (roots, _) = Certificate::authorities_from_der(&message.bundle, 128).unwrap();
    let bundle = roots.into_iter().fold(TrustBundle::new(trust_domain()), TrustBundle::with_x509_authority);
    (X509Svid::new(chain, key, None).unwrap(), bundle.into())
}

/// A handshake; none if the client has nothing valid to show.
async fn handshake(
    server: (&Arc<IdentitySlot>, &Trust),
    client: (&Arc<IdentitySlot>, &Trust),
    clock: &Arc<TestClock>,
) -> Option<Result<(), String>> {
    let now = clock.now();
    let alive = |slot: &Arc<IdentitySlot>| {
        slot.current()
            .is_some_and(|svid| svid.chain()[0].not_after() > now.saturating_add(Duration::from_secs(2)))
    };
    if !alive(server.0) || !alive(client.0) {
        return None;
    }
    let members = Authorizer::member_of(trust_domain());
    let serving =
        server_config(server.0, server.1, Clients::Required(members.clone()), clock.clone()).unwrap();
    let calling = client_config(Some(client.0), client.1, members, clock.clone()).unwrap();
    let (here, there) = tokio::io::duplex(64 * 1024);
    let (served, called) = tokio::join!(serving.accept(here), calling.connect(there));
    Some(
        served
            .map(|_| ())
            .map_err(|error| error.to_string())
            .and(called.map(|_| ()).map_err(|error| error.to_string())),
    )
}

/// Handshakes of everybody with everybody, old and new SVIDs, as long as it is not dropped.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Load {
    fn start(workloads: &[Workload]) -> Self {
        let ends: Vec<_> = workloads
            .iter()
            .flat_map(|workload| {
                [&workload.now, &workload.before].map(|slot| (slot.clone(), workload.trust.clone()))
            })
            .collect();
        let clock = workloads[0].clock.clone();
        let (stop, done, failed) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (stopped, count, failures) = (stop.clone(), done.clone(), failed.clone());
        let task = tokio::spawn(async move {
            let mut why = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                for server in &ends {
                    for client in &ends {
                        match handshake((&server.0, &server.1), (&client.0, &client.1), &clock).await {
                            Some(Ok(())) => drop(count.fetch_add(1, Ordering::Relaxed)),
                            Some(Err(error)) => {
                                failures.fetch_add(1, Ordering::Relaxed);
                                why.push(error);
                            }
                            None => {}
                        }
                    }
                }
                tokio::task::yield_now().await;
            }
            why
        });
        Self { stop, done, failed, task }
    }

    /// Waits for some more handshakes.
    async fn go_on(&self) {
        let target = self.done.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed) + 60;
        in_time(async {
            while self.done.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed) < target {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn finish(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let why = self.task.await.unwrap();
        (self.done.load(Ordering::Relaxed), why)
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it hangs")
}

/// The authority's operator.
struct Operator(AdminClient<Channel>);

impl Operator {
    async fn list(&mut self) -> Vec<SigningAuthority> {
        self.0.list_authorities(ListAuthoritiesRequest {}).await.unwrap().into_inner().authorities
    }

    async fn active(&mut self, kind: Kind) -> SigningAuthority {
        let list = self.list().await;
        list.into_iter().find(|key| key.kind() == kind && key.state == "active").unwrap()
    }

    async fn prepare(&mut self, kind: Kind) -> String {
        let request = PrepareAuthorityRequest { kind: kind.into() };
        let prepared = self.0.prepare_authority(request).await.unwrap().into_inner();
        prepared.authority.unwrap().id
    }

    async fn activate(&mut self, id: &str) -> ChangeAuthorityResponse {
        let request = ChangeAuthorityRequest { id: id.into(), force: false, wait: 30 };
        self.0.activate_authority(request).await.unwrap().into_inner()
    }

    async fn taint(&mut self, id: &str) -> ChangeAuthorityResponse {
        let request = ChangeAuthorityRequest { id: id.into(), ..Default::default() };
        self.0.taint_authority(request).await.unwrap().into_inner()
    }

    async fn revoke(&mut self, id: &str) -> ChangeAuthorityResponse {
        let request = ChangeAuthorityRequest { id: id.into(), force: false, wait: 30 };
        self.0.revoke_authority(request).await.unwrap().into_inner()
    }
}

/// What lay on the authority's disk: with the seal beside it, that is everything.
struct Thief {
    root: (Certificate, PrivateKey),
    intermediate: (Certificate, PrivateKey),
    jwt: PrivateKey,
}

impl Thief {
    /// The authority must be down.
    async fn of(world: &World) -> Self {
        let data = &world.authorities.config.data_dir;
        let seal = KeyFileSeal::open(data.join("seal.key")).unwrap();
        let keyring = Keyring::open(data.join("keyring"), &seal).unwrap();
        let store = SqliteStore::open_existing(data.join("store.sqlite"), keyring.mac_key("store")).unwrap();
        let snapshot = store.snapshot().await.unwrap();
        let keys: Vec<Arc<SigningKey>> = snapshot
            .objects
            .iter()
            .filter_map(|object| {
                match Object::decode(&object.key, &object.value, object.revision.0).unwrap() {
                    Some(Object::SigningKey(key)) if key.state() == signing_key::State::Active => Some(key),
                    _ => None,
                }
            })
            .collect();
        let of = |usage| {
            let record = keys.iter().find(|key| key.r#use() == usage).unwrap();
            let opened = keyring.unwrap(&signing_key_key(&record.id), &record.wrapped_key).unwrap();
            (record.certificate.clone(), PrivateKey::from_pkcs8_der(&opened).unwrap())
        };
        let certified = |usage| {
            let (certificate, key) = of(usage);
            (Certificate::from_der(&certificate).unwrap(), key)
        };
        Self {
            root: certified(signing_key::Use::Root),
            intermediate: certified(signing_key::Use::Intermediate),
            jwt: of(signing_key::Use::Jwt).1,
        }
    }

    fn jwt_key(&self) -> PrivateKey {
        PrivateKey::from_pkcs8_der(&self.jwt.to_pkcs8_der()).unwrap()
    }

    /// An SVID of a workload, signed with the stolen intermediate.
    fn by_intermediate(&self, now: UnixTime) -> X509Svid {
        let key: Arc<dyn Signer> =
            Arc::new(PrivateKey::from_pkcs8_der(&self.intermediate.1.to_pkcs8_der()).unwrap());
        let (root, intermediate) = (self.root.0.clone(), self.intermediate.0.clone());
        TestDomain::with_keys(trust_domain(), root, intermediate, key, self.jwt_key()).svid("/app/web", now)
    }

    /// An SVID of a workload, under an intermediate that nobody has seen before.
    fn by_root(&self, now: UnixTime) -> X509Svid {
        let key = PrivateKey::generate(KeyAlgorithm::EcP256).unwrap();
        let validity = Validity::starting(now, Duration::from_secs(3 * 3600)).unwrap();
        let serial = SerialNumber::random(&SystemRandom);
        let (root, root_key) = &self.root;
        let intermediate =
            sign_intermediate(&trust_domain(), root, root_key, key.public_key(), validity, serial).unwrap();
        TestDomain::with_keys(trust_domain(), root.clone(), intermediate, Arc::new(key), self.jwt_key())
            .svid("/app/web", now)
    }
}

struct Fleet {
    world: World,
    _agents: Vec<Running>,
    workloads: Vec<Workload>,
    operator: Operator,
}

impl Fleet {
    async fn new() -> Self {
        // A server that is dead confirms no key: it dies later.
        Self::of(World::deferred().await).await
    }

    async fn robbed() -> (Self, Thief) {
        let mut world = World::new().await;
        world.stop_authority().await;
        let thief = Thief::of(&world).await;
        world.start_authority().await;
        (Self::of(world).await, thief)
    }

    async fn of(world: World) -> Self {
        let (mut agents, mut workloads) = (Vec::new(), Vec::new());
        for number in 0..AGENTS {
            let (running, socket) = world.another_agent(&format!("agent-{number}")).await;
            agents.push(running);
            workloads.push(in_time(Workload::start(socket, world.clock.clone())).await);
        }
        let operator = Operator(world.authorities.lasting_admin().await);
        Self { world, _agents: agents, workloads, operator }
    }

    async fn renewed(&mut self, authority: &[u8]) {
        for workload in &mut self.workloads {
            workload.renewed(authority).await;
        }
    }

    /// A forged SVID at every workload, as client and as server, until all refuse it. How often it was let in, and how long
    /// that took.
    async fn attack(&self, forged: &X509Svid, since: Instant) -> (usize, Duration) {
        let slot = IdentitySlot::new();
        slot.set(forged);
        // The thief believes everybody.
        let mut accepted = 0;
        in_time(async {
            loop {
                let mut refused = 0;
                for workload in &self.workloads {
                    let (own, theirs) = ((&slot, &workload.trust), (&workload.now, &workload.trust));
                    for outcome in [
                        handshake(theirs, own, &workload.clock).await,
                        handshake(own, theirs, &workload.clock).await,
                    ] {
                        if outcome.unwrap().is_ok() { accepted += 1 } else { refused += 1 }
                    }
                }
                if refused == 2 * self.workloads.len() {
                    return (accepted, since.elapsed());
                }
            }
        })
        .await
    }

    async fn is_let_in(&self, forged: &X509Svid) -> bool {
        let slot = IdentitySlot::new();
        slot.set(forged);
        let workload = &self.workloads[0];
        let met =
            handshake((&workload.now, &workload.trust), (&slot, &workload.trust), &workload.clock).await;
        met.unwrap().is_ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_change_of_root_and_jwt_key_costs_no_handshake() {
    let mut fleet = Fleet::new().await;
    let load = Load::start(&fleet.workloads);
    load.go_on().await;
    let issuer = fleet.workloads[0].issuer();
    let (old_root, old_jwt) =
        (fleet.operator.active(Kind::Root).await, fleet.operator.active(Kind::Jwt).await);

    let root = fleet.operator.prepare(Kind::Root).await;
    let jwt = fleet.operator.prepare(Kind::Jwt).await;
    assert_eq!(fleet.operator.prepare(Kind::Root).await, root, "to ask again changes nothing");
    load.go_on().await;
    assert_eq!(fleet.operator.active(Kind::Root).await.id, old_root.id, "prepared is not used");
    assert_eq!(fleet.operator.activate(&root).await.behind, Vec::<String>::new());
    assert_eq!(fleet.operator.activate(&jwt).await.behind, Vec::<String>::new());
    assert_eq!(fleet.operator.active(Kind::Root).await.id, root);
    assert_eq!(fleet.operator.active(Kind::Jwt).await.id, jwt);
    load.go_on().await;

    // They renew when they would have anyway: old and new ones meet.
    fleet.world.authorities.fail_over().await;
    fleet.world.clock.advance(Duration::from_secs(35 * 60));
    fleet.renewed(&issuer).await;
    load.go_on().await;
    fleet.world.clock.advance(Duration::from_secs(20 * 60));
    load.go_on().await;
    let list = fleet.operator.list().await;
    let state = |id: &str| list.iter().find(|key| key.id == id).map(|key| key.state.clone());
    assert_eq!(state(&old_root.id).as_deref(), Some("old"));
    assert!(matches!(state(&old_jwt.id).as_deref(), Some("old") | None));

    let (done, why) = load.finish().await;
    println!("planned rotation: {done} handshakes, {} failed", why.len());
    assert_eq!(why, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_root_is_believed_by_nobody_after_the_drill_and_costs_the_others_nothing() {
    let (mut fleet, thief) = Fleet::robbed().await;
    let load = Load::start(&fleet.workloads);
    let stolen = fleet.operator.active(Kind::Root).await;
    let (forged, other) =
        (thief.by_root(fleet.world.clock.now()), thief.by_intermediate(fleet.world.clock.now()));
    assert!(fleet.is_let_in(&forged).await, "the theft is real");
    load.go_on().await;

    let began = Instant::now();
    let issuer = fleet.workloads[0].issuer();
    let refused = fleet
        .operator
        .0
        .taint_authority(ChangeAuthorityRequest { id: stolen.id.clone(), ..Default::default() });
    assert_eq!(bonafide_wire::problem_of(&refused.await.unwrap_err()).code, "ca.active");
    let root = fleet.operator.prepare(Kind::Root).await;
    fleet.operator.activate(&root).await;
    fleet.operator.taint(&stolen.id).await;
    let revoked = fleet.operator.revoke(&stolen.id).await;
    assert_eq!(revoked.behind, Vec::<String>::new(), "all have renewed before it was revoked");
    let (accepted, took) = fleet.attack(&forged, began).await;
    fleet.renewed(&issuer).await;
    assert!(!fleet.is_let_in(&other).await, "what hung from it is gone as well");
    load.go_on().await;
    let (done, why) = load.finish().await;
    let of_old = why.len();
    println!(
        "stolen root: refused everywhere after {took:.2?}; the thief was let in {accepted} times after the last step; {done} handshakes of others, {of_old} failed"
    );
    // Only SVIDs from before, which nobody is given any more, are refused.
    assert!(fleet.operator.list().await.iter().any(|key| key.id == stolen.id && key.state == "revoked"));
    let load = Load::start(&fleet.workloads.iter().map(Workload::renewed_only).collect::<Vec<_>>());
    load.go_on().await;
    assert_eq!(load.finish().await.1, Vec::<String>::new());
}

impl Workload {
    /// Without what it had before.
    fn renewed_only(&self) -> Self {
        Self {
            now: self.now.clone(),
            before: IdentitySlot::new(),
            trust: self.trust.clone(),
            clock: self.clock.clone(),
            changes: self.changes.clone(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_intermediate_is_replaced_at_once() {
    let (mut fleet, thief) = Fleet::robbed().await;
    let stolen = fleet.operator.active(Kind::Intermediate).await;
    let forged = thief.by_intermediate(fleet.world.clock.now());
    assert!(fleet.is_let_in(&forged).await, "the theft is real");
    let issuer = fleet.workloads[0].issuer();
    let began = Instant::now();
    // Time stands still: whoever asks gets a good SVID the first time.
    fleet.operator.taint(&stolen.id).await;
    let revoked = fleet.operator.revoke(&stolen.id).await;
    assert_eq!(revoked.behind, Vec::<String>::new());
    fleet.renewed(&issuer).await;
    println!("stolen intermediate: everything renewed after {:.2?}", began.elapsed());
    assert_ne!(fleet.operator.active(Kind::Intermediate).await.id, stolen.id);
    // Who knows roots only takes a new root.
    let root = fleet.operator.active(Kind::Root).await;
    let next = fleet.operator.prepare(Kind::Root).await;
    fleet.operator.activate(&next).await;
    fleet.operator.taint(&root.id).await;
    fleet.operator.revoke(&root.id).await;
    let (accepted, took) = fleet.attack(&forged, began).await;
    println!(
        "stolen intermediate, roots alone: refused everywhere after {took:.2?}, let in {accepted} times after the last step"
    );
}
