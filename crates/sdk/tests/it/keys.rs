//! Keys in this process, with an agent that lends them and says what it says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bonafide_crypto::random::{Random as _, SystemRandom};
use bonafide_kms::{
    algorithm::KeyType,
    ciphertext::{Ciphertext, Header, KeyId, Kind},
    context::Context as Pairs,
    material::{Flags, Material},
};
use bonafide_net::{drain::Shutdown, unix};
use bonafide_sdk::{Clock as _, Context, Endpoint, Error, Keys, Options};
use bonafide_testkit::TestClock;
use bonafide_wire::{
    IntoStatus,
    kms::{
        self as wire, EncryptRequest, EndedLease, LeaseItem, LeaseRequest, LeaseResult, LeaseTerms,
        LeasesUpdate, Local, RenewLeasesRequest, RenewResult, ReturnLeasesRequest, WatchLeasesRequest,
        keys_server::{Keys as Service, KeysServer},
        lease_item::Use,
        leases_server::{Leases, LeasesServer},
    },
    types::Problem,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Request, Response, Status, codegen::BoxStream, service::Routes};

const KEY: KeyId = KeyId::from_bytes([9; 16]);

struct State {
    versions: Vec<Material>,
    denied: Option<&'static str>,
    given: Vec<Bytes>,
    used: HashMap<Bytes, u64>,
    asked: usize,
    remote: usize,
    now: i64,
}

#[derive(Clone)]
struct Agent {
    state: Arc<Mutex<State>>,
    told: watch::Sender<Result<LeasesUpdate, &'static str>>,
}

fn problem(code: &str) -> Problem {
    Problem { code: code.into(), message: "no".into(), hint: "ask".into() }
}

impl State {
    fn rotate(&mut self) {
        let flags = Flags::default();
        self.versions.push(Material::generate(KeyType::Aes256Gcm, flags, &SystemRandom).unwrap().0);
    }

    fn terms(&self) -> LeaseTerms {
        LeaseTerms {
            expires_at: self.now + 300,
            renew_after: self.now + 200,
            max_messages: 1000,
            max_bytes: 1 << 30,
            max_stale: 60,
            local: Local::Process.into(),
            revision: self.versions.len() as u64,
        }
    }

    fn lease(&mut self, item: LeaseItem) -> LeaseResult {
        self.asked += 1;
        let failed = |code: &str| LeaseResult { problem: Some(problem(code)), ..LeaseResult::default() };
        if let Some(code) = self.denied {
            return failed(code);
        }
        let context = Pairs::new(item.context).unwrap().digest();
        let (version, wrapped) = match item.r#use.unwrap() {
            Use::Decrypt(asked) => (asked.version, Some(asked.wrapped)),
            _ => (self.versions.len() as u32, None),
        };
        let header = Header { kind: Kind::DataKey, key_type: KeyType::Aes256Gcm, key: KEY, version };
        let material = &self.versions[version as usize - 1];
        let aad = header.aad(&context);
        let (data_key, wrapped) = match wrapped {
            Some(wrapped) => match material.decrypt(&aad, &wrapped) {
                Ok(data_key) => (data_key.to_vec(), wrapped),
                Err(error) => return failed(error.code()),
            },
            None => {
                let (mut drawn, mut wrapped) = (vec![0; 32], Vec::new());
                SystemRandom.fill(&mut drawn);
                material.encrypt_into(&aad, &drawn, &SystemRandom, &mut wrapped).unwrap();
                (drawn, wrapped.into())
            }
        };
        let mut lease = [0; 16];
        SystemRandom.fill(&mut lease);
        let lease = Bytes::copy_from_slice(&lease);
        self.given.push(lease.clone());
        LeaseResult {
            problem: None,
            lease,
            key_id: Bytes::copy_from_slice(KEY.as_bytes()),
            r#type: KeyType::Aes256Gcm.as_str().into(),
            version,
            data_key: data_key.into(),
            wrapped,
            public_keys: Vec::new(),
            terms: Some(self.terms()),
            name: "orders".into(),
        }
    }
}

macro_rules! not_here {
    ($($method:ident($request:ident) -> $response:ident),+) => {
        $(fn $method<'a, 'b>(
            &'a self,
            _: Request<wire::$request>,
        ) -> BoxFuture<'b, Result<Response<wire::$response>, Status>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented("not here")) })
        })+
    };
}

#[tonic::async_trait]
impl Service for Agent {
    async fn encrypt(
        &self,
        request: Request<EncryptRequest>,
    ) -> Result<Response<wire::EncryptResponse>, Status> {
        let mut state = self.state();
        state.remote += 1;
        if let Some(code) = state.denied.filter(|code| *code != "kms.local-agent") {
            return Err(problem(code).into_status(Code::PermissionDenied));
        }
        let results = request.into_inner().items.into_iter().map(|item| wire::EncryptResult {
            ciphertext: item.plaintext,
            version: 1,
            problem: None,
        });
        Ok(Response::new(wire::EncryptResponse { results: results.collect() }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<wire::LeaseResponse>, Status> {
        let mut state = self.state();
        let results = request.into_inner().items.into_iter().map(|item| state.lease(item)).collect();
        Ok(Response::new(wire::LeaseResponse { results }))
    }

    async fn renew_leases(
        &self,
        request: Request<RenewLeasesRequest>,
    ) -> Result<Response<wire::RenewLeasesResponse>, Status> {
        let mut state = self.state();
        let results = request.into_inner().leases.into_iter().map(|used| {
            if !state.given.contains(&used.lease) {
                return RenewResult { problem: Some(problem("kms.lease-unknown")), terms: None };
            }
            state.used.insert(used.lease, used.messages);
            RenewResult { problem: None, terms: Some(state.terms()) }
        });
        Ok(Response::new(wire::RenewLeasesResponse { results: results.collect() }))
    }

    async fn return_leases(
        &self,
        request: Request<ReturnLeasesRequest>,
    ) -> Result<Response<wire::ReturnLeasesResponse>, Status> {
        let mut state = self.state();
        for used in request.into_inner().leases {
            state.used.insert(used.lease, used.messages);
        }
        Ok(Response::new(wire::ReturnLeasesResponse {}))
    }

    not_here!(
        decrypt(DecryptRequest) -> DecryptResponse,
        rewrap(RewrapRequest) -> RewrapResponse,
        mac(MacRequest) -> MacResponse,
        verify_mac(VerifyMacRequest) -> VerifyResponse,
        sign(SignRequest) -> SignResponse,
        verify(VerifyRequest) -> VerifyResponse,
        generate_data_key(GenerateDataKeyRequest) -> GenerateDataKeyResponse,
        random(RandomRequest) -> RandomResponse,
        get_public_key(GetPublicKeyRequest) -> GetPublicKeyResponse,
        fetch(FetchRequest) -> FetchResponse,
        grant(GrantRequest) -> GrantResponse,
        revoke_grant(RevokeGrantRequest) -> RevokeGrantResponse
    );
}

#[tonic::async_trait]
impl Leases for Agent {
    type WatchStream = BoxStream<LeasesUpdate>;

    async fn watch(&self, _: Request<WatchLeasesRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let told = WatchStream::new(self.told.subscribe());
        let told = told.map(|told| told.map_err(|code| problem(code).into_status(Code::PermissionDenied)));
        Ok(Response::new(Box::pin(told)))
    }
}

impl Agent {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

struct World {
    agent: Agent,
    clock: Arc<TestClock>,
    keys: Keys,
    shutdown: Shutdown,
    _dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl World {
    async fn new() -> Self {
        let clock = TestClock::new();
        let now = clock.now().as_secs();
        let mut state = State {
            versions: Vec::new(),
            denied: None,
            given: Vec::new(),
            used: HashMap::new(),
            asked: 0,
            remote: 0,
            now,
        };
        state.rotate();
        let update = LeasesUpdate {
            epoch: 1,
            connected: true,
            heard_at: now,
            identity_expires_at: now + 3600,
            ..LeasesUpdate::default()
        };
        let agent = Agent { state: Arc::new(Mutex::new(state)), told: watch::Sender::new(Ok(update)) };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let router = Routes::new(KeysServer::new(agent.clone()))
            .add_service(LeasesServer::new(agent.clone()))
            .into_axum_router();
        let listener = unix::Listener::bind(&path, 0o666, None).unwrap();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        tokio::spawn(async move { unix::serve(listener, router, &stop).await });
        let mut options = Options::default();
        options.endpoint = Some(Endpoint::unix(&path));
        options.clock = Arc::clone(&clock) as _;
        let keys = Keys::connect_with(options).await.unwrap();
        Self { agent, clock, keys, shutdown, _dir: dir }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.agent.state()
    }

    /// Leases that were asked for, and operations.
    fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.asked, state.remote)
    }

    /// The agent says something else.
    fn tell(&self, change: impl FnOnce(&mut LeasesUpdate)) {
        self.agent.told.send_modify(|told| {
            if let Ok(told) = told {
                told.ended.clear();
                change(told);
            }
        });
    }

    fn end_leases(&self) {
        let ended = std::mem::take(&mut self.state().given);
        let ended = ended.into_iter().map(|lease| EndedLease { lease, problem: None });
        self.tell(|told| told.ended = ended.collect());
    }

    async fn encrypt(&self, context: &Context) -> Result<Vec<u8>, Error> {
        self.keys.encrypt("orders", context, b"4111").await
    }

    async fn refused(&self, context: &Context) -> String {
        let refused = async {
            loop {
                match self.encrypt(context).await {
                    Err(error) => return error.code().to_owned(),
                    Ok(_) => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(2), refused).await.expect("it is refused")
    }
}

fn version(ciphertext: &[u8]) -> u32 {
    Ciphertext::decode(ciphertext).unwrap().header.version
}

#[tokio::test]
async fn what_was_lent_is_used_here_and_nobody_is_asked() {
    let world = World::new().await;
    let context = Context::new([("a", "1")]).unwrap();
    let mut last = Vec::new();
    for _ in 0..50 {
        last = world.encrypt(&context).await.unwrap();
    }
    assert_eq!(world.counts(), (1, 0));
    assert_eq!(&**world.keys.decrypt("orders", &context, &last).await.unwrap(), b"4111");
    assert_eq!(world.state().asked, 2, "to decrypt is another lease");
    let other = Context::new([("a", "2")]).unwrap();
    let error = world.keys.decrypt("orders", &other, &last).await.unwrap_err();
    assert_eq!(error.code(), "kms.ciphertext-refused");
    last[20] ^= 1;
    assert!(world.keys.decrypt("orders", &context, &last).await.is_err());
    let batch = world.keys.encrypt_batch("orders", &[(&context, b"a"), (&other, b"b")]).await.unwrap();
    assert!(batch.into_iter().all(|one| one.is_ok()));
    // The agent is gone; what was lent goes on.
    world.shutdown.trigger();
    assert!(world.encrypt(&context).await.is_ok());
}

#[tokio::test]
async fn nothing_is_used_that_is_stale_and_a_heartbeat_from_before_a_pause_is_no_word() {
    let world = World::new().await;
    let context = Context::none();
    world.encrypt(&context).await.unwrap();
    world.clock.advance(Duration::from_secs(59));
    assert!(world.encrypt(&context).await.is_ok());
    assert_eq!(world.state().remote, 0);
    world.clock.advance(Duration::from_secs(3));
    world.encrypt(&context).await.unwrap();
    assert_eq!(world.state().remote, 1, "it went to the agent, who knows better");
    // Sent when it was true, read a minute later.
    world.tell(|told| told.unheard = 0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.encrypt(&context).await.unwrap();
    assert_eq!(world.state().remote, 2);
    let now = world.clock.now().as_secs();
    world.tell(|told| told.heard_at = now);
    while world.keys.unheard() > Some(Duration::from_secs(5)) {
        tokio::task::yield_now().await;
    }
    world.encrypt(&context).await.unwrap();
    assert_eq!(world.state().remote, 2, "it is fresh again");
}

#[tokio::test]
async fn what_the_agent_ends_is_refused_with_the_reason() {
    let world = World::new().await;
    let context = Context::none();
    world.encrypt(&context).await.unwrap();
    world.state().denied = Some("kms.denied");
    world.end_leases();
    assert_eq!(world.refused(&context).await, "kms.denied");
}

#[tokio::test]
async fn a_withdrawn_identity_ends_everything() {
    let world = World::new().await;
    let context = Context::none();
    world.encrypt(&context).await.unwrap();
    world.state().denied = Some("kms.identity-ended");
    let _ = world.agent.told.send_replace(Err("kms.identity-ended"));
    assert_eq!(world.refused(&context).await, "kms.identity-ended");
}

#[tokio::test]
async fn after_a_rotation_the_old_version_only_decrypts() {
    let world = World::new().await;
    let (one, two) = (Context::new([("a", "1")]).unwrap(), Context::new([("a", "2")]).unwrap());
    let old = world.encrypt(&one).await.unwrap();
    world.state().rotate();
    assert_eq!(version(&world.encrypt(&two).await.unwrap()), 2);
    assert_eq!(version(&world.encrypt(&one).await.unwrap()), 2, "it has heard of it by the other lease");
    assert_eq!(&**world.keys.decrypt("orders", &one, &old).await.unwrap(), b"4111");
}

#[tokio::test]
async fn another_connection_of_the_agent_means_to_renew_and_counts_come_along() {
    let world = World::new().await;
    let context = Context::none();
    for _ in 0..4 {
        world.encrypt(&context).await.unwrap();
    }
    world.tell(|told| told.epoch = 2);
    while !world.state().used.values().any(|messages| *messages == 4) {
        tokio::task::yield_now().await;
    }
    // An agent that was started anew knows nothing of them.
    world.state().given.clear();
    world.state().denied = Some("kms.denied");
    world.tell(|told| told.epoch = 3);
    assert_eq!(world.refused(&context).await, "kms.denied");
}

#[tokio::test]
async fn keys_that_stay_in_the_agent_are_used_there() {
    let world = World::new().await;
    world.state().denied = Some("kms.local-agent");
    for _ in 0..3 {
        world.encrypt(&Context::none()).await.unwrap();
    }
    assert_eq!(world.counts(), (1, 3));
}
