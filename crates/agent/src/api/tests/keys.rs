//! Keys on the socket, with an authority that has one key and no policy but a switch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bonafide_identity::InstanceId;
use bonafide_kms::{
    algorithm::KeyType,
    ciphertext::{Ciphertext, Header, KeyId, Kind},
    context::Context,
    envelope::DATA_KEY,
    material::{Flags, Material},
};
use bonafide_wire::{
    kms::{
        self as wire, DecryptItem, DecryptRequest, EncryptItem, EncryptRequest, LeaseItem, LeaseRequest,
        LeaseResult, LeaseTerms, LeaseUse, Local, OnBehalfOf, RenewLeasesRequest, RenewResult,
        ReturnLeasesRequest, WatchLeasesRequest, keys_client::KeysClient, keys_server::Keys, lease_item::Use,
        leases_client::LeasesClient,
    },
    node::{LeaseEnded, LeasesEnded, authority_message},
};
use bytes::Bytes;

use super::*;
use crate::keys::Subject;

const KEY: KeyId = KeyId::from_bytes([9; 16]);

/// One key, `orders`, and the leases that were given of it.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeKeys(Arc<Mutex<State>>);

pub(super) struct State {
    versions: Vec<Material>,
    denied: Option<&'static str>,
    local: Local,
    /// Seconds.
    age: i64,
    max_stale: u32,
    messages: u64,
    revision: u64,
    /// By which instance.
    given: HashMap<Bytes, Bytes>,
    /// What was said last of each.
    used: HashMap<Bytes, (u64, u64)>,
    returned: HashMap<Bytes, (u64, u64)>,
    chains: usize,
    asked: usize,
    renewed: usize,
    remote: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl Default for State {
    fn default() -> Self {
        let mut state = Self {
            versions: Vec::new(),
            denied: None,
            local: Local::Process,
            age: 300,
            max_stale: 60,
            messages: 1_000_000,
            revision: 1,
            given: HashMap::new(),
            used: HashMap::new(),
            returned: HashMap::new(),
            chains: 0,
            asked: 0,
            renewed: 0,
            remote: 0,
        };
        state.rotate();
        state
    }
}

impl State {
    fn rotate(&mut self) {
        self.revision += 1;
        let flags = Flags::default();
        self.versions.push(Material::generate(KeyType::Aes256Gcm, flags, &SystemRandom).unwrap().0);
    }

    fn header(kind: Kind, version: u32) -> Header {
        Header { kind, key_type: KeyType::Aes256Gcm, key: KEY, version }
    }

    fn primary(&self) -> u32 {
        self.versions.len() as u32
    }

    fn terms(&self) -> LeaseTerms {
        let now = SystemClock.now().as_secs();
        LeaseTerms {
            expires_at: now + self.age,
            renew_after: now + self.age * 2 / 3,
            max_messages: self.messages,
            max_bytes: 1 << 30,
            max_stale: self.max_stale,
            local: self.local.into(),
            revision: self.revision,
        }
    }

    fn check(&mut self, of: Option<&OnBehalfOf>) -> Result<Bytes, Status> {
        let of = of.expect("an agent says for whom it asks");
        assert_eq!(of.instance.len(), 16);
        if !of.chain.is_empty() {
            self.chains += 1;
        } else if self.chains == 0 {
            return Err(refusal("kms.instance-unknown"));
        }
        Ok(of.instance.clone())
    }

    fn lease(&mut self, instance: &Bytes, item: LeaseItem) -> LeaseResult {
        self.asked += 1;
        let context = Context::new(item.context).unwrap().digest();
        let refused = |code: &str| LeaseResult {
            problem: Some(problem(code, "no", "ask whoever runs the authority")),
            ..LeaseResult::default()
        };
        if let Some(code) = self.denied {
            return refused(code);
        }
        if item.key != "orders" {
            return refused("kms.no-key");
        }
        let (version, wrapped) = match item.r#use.unwrap() {
            Use::Encrypt(_) => (self.primary(), None),
            Use::Decrypt(asked) => (asked.version, Some(asked.wrapped)),
            Use::Verify(_) => return refused("kms.operation-unfit"),
        };
        let Some(material) = self.versions.get(version as usize - 1) else {
            return refused("kms.no-version");
        };
        let aad = Self::header(Kind::DataKey, version).aad(&context);
        let (data_key, wrapped) = match wrapped {
            Some(wrapped) => match material.decrypt(&aad, &wrapped) {
                Ok(data_key) => (data_key, wrapped),
                Err(error) => return refused(error.code()),
            },
            None => {
                let mut drawn = bonafide_crypto::erased::Erased::new(vec![0; DATA_KEY]);
                bonafide_crypto::random::Random::fill(&SystemRandom, &mut drawn);
                let mut wrapped = Vec::new();
                material.encrypt_into(&aad, &drawn, &SystemRandom, &mut wrapped).unwrap();
                (drawn, wrapped.into())
            }
        };
        let random: &dyn bonafide_crypto::random::Random = &SystemRandom;
        let lease = Bytes::copy_from_slice(&random.array::<16>());
        self.given.insert(lease.clone(), instance.clone());
        LeaseResult {
            problem: None,
            lease,
            key_id: Bytes::copy_from_slice(KEY.as_bytes()),
            r#type: KeyType::Aes256Gcm.as_str().into(),
            version,
            data_key: data_key.to_vec().into(),
            wrapped,
            public_keys: Vec::new(),
            terms: Some(self.terms()),
            name: "orders".into(),
        }
    }
}

impl FakeKeys {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Leases that were asked for, and operations.
    fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.asked, state.remote)
    }
}

fn refusal(code: &str) -> Status {
    bonafide_wire::IntoStatus::into_status(problem(code, "no", ""), Code::FailedPrecondition)
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
impl Keys for FakeKeys {
    async fn encrypt(
        &self,
        request: Request<EncryptRequest>,
    ) -> Result<Response<wire::EncryptResponse>, Status> {
        let mut state = self.state();
        state.check(request.get_ref().on_behalf_of.as_ref())?;
        state.remote += 1;
        let items = request.into_inner().items.into_iter();
        let results = items.map(|item| {
            let version = if item.version == 0 { state.primary() } else { item.version };
            let header = State::header(Kind::Direct, version);
            let mut body = Vec::new();
            let context = Context::new(item.context).unwrap().digest();
            let material = &state.versions[version as usize - 1];
            material.encrypt_into(&header.aad(&context), &item.plaintext, &SystemRandom, &mut body).unwrap();
            wire::EncryptResult { problem: None, ciphertext: header.with(&body).into(), version }
        });
        Ok(Response::new(wire::EncryptResponse { results: results.collect() }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<wire::LeaseResponse>, Status> {
        let mut state = self.state();
        let request = request.into_inner();
        let instance = state.check(request.on_behalf_of.as_ref())?;
        let results = request.items.into_iter().map(|item| state.lease(&instance, item)).collect();
        Ok(Response::new(wire::LeaseResponse { results }))
    }

    async fn renew_leases(
        &self,
        request: Request<RenewLeasesRequest>,
    ) -> Result<Response<wire::RenewLeasesResponse>, Status> {
        let mut state = self.state();
        let results = request.into_inner().leases.into_iter().map(|used| {
            state.renewed += 1;
            if !state.given.contains_key(&used.lease) {
                let problem = Some(problem("kms.lease-unknown", "no", ""));
                return RenewResult { problem, terms: None };
            }
            state.used.insert(used.lease, (used.messages, used.bytes));
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
            state.given.remove(&used.lease);
            state.returned.insert(used.lease, (used.messages, used.bytes));
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

async fn bench(keys: &FakeKeys) -> Bench {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let mut authority = FakeAuthority::new();
    authority.put(entry("web", "spiffe://example.org/web", &[("unix.uid", &uid)]));
    let bench = Bench::with_keys(authority, keys.clone()).await;
    bench.stocked().await;
    bench
}

fn context(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

impl Bench {
    async fn keys(&self) -> KeysClient<Channel> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        KeysClient::new(link::over(stream).await.unwrap())
    }

    /// Ciphertext and version, or the code of the refusal.
    async fn encrypt(&self, pairs: &[(&str, &str)]) -> Result<(Bytes, u32), (String, String)> {
        let item = EncryptItem { plaintext: "4111".into(), context: context(pairs), version: 0 };
        let request = EncryptRequest { key: "orders".into(), items: vec![item], on_behalf_of: None };
        match self.keys().await.encrypt(with_header(request)).await {
            Ok(answer) => {
                let one = answer.into_inner().results.remove(0);
                match one.problem {
                    None => Ok((one.ciphertext, one.version)),
                    Some(problem) => Err((problem.code, problem.hint)),
                }
            }
            Err(status) => Err((problem_of(&status).code, problem_of(&status).hint)),
        }
    }

    async fn decrypt(&self, ciphertext: &Bytes, pairs: &[(&str, &str)]) -> Result<Bytes, String> {
        let item = DecryptItem { ciphertext: ciphertext.clone(), context: context(pairs) };
        let request = DecryptRequest { key: "orders".into(), items: vec![item], on_behalf_of: None };
        let answer = self.keys().await.decrypt(with_header(request)).await;
        let one = answer.map_err(|status| problem_of(&status).code)?.into_inner().results.remove(0);
        one.problem.map_or(Ok(one.plaintext), |problem| Err(problem.code))
    }

    /// The authority says that all leases are over.
    fn end_leases(&self, keys: &FakeKeys, code: &str) {
        let given = std::mem::take(&mut keys.state().given);
        let ended =
            given.into_keys().map(|lease| LeaseEnded { lease, problem: Some(problem(code, "no", "")) });
        let kind = authority_message::Kind::LeasesEnded(LeasesEnded { ended: ended.collect() });
        self.server.0.said.lock().unwrap().push(AuthorityMessage { kind: Some(kind) });
        self.server.0.news.notify_one();
    }

    /// Who this process is.
    fn subject(&self) -> Subject {
        let process =
            crate::process::Process::open(std::process::id().cast_signed(), Evidence::Pidfd).unwrap();
        let key = LaunchKey { pid: process.pid(), image: process.image().unwrap() };
        let held = self.engine.read(|core| core.identities(&key)[0].held.clone()).unwrap();
        Subject { instance: held.instance, credential: held.credential }
    }

    fn sleep(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

fn wish() -> LeaseItem {
    LeaseItem {
        key: "orders".into(),
        context: BTreeMap::new(),
        r#use: Some(Use::Encrypt(wire::EncryptLease {})),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_agent_encrypts_another_decrypts_and_one_lease_serves_many() {
    let keys = FakeKeys::default();
    let (here, there) = (bench(&keys).await, bench(&keys).await);
    let mut ciphertext = Bytes::new();
    for _ in 0..20 {
        ciphertext = here.encrypt(&[("a", "1")]).await.unwrap().0;
    }
    assert_eq!(keys.counts(), (1, 0));
    assert_eq!(there.decrypt(&ciphertext, &[("a", "1")]).await.unwrap(), "4111");
    assert_eq!(there.decrypt(&ciphertext, &[("a", "2")]).await.unwrap_err(), "kms.ciphertext-refused");
    // The data key would open it whatever the header says.
    let mut other = ciphertext.to_vec();
    let read = Ciphertext::decode(&ciphertext).unwrap().header;
    let header = Header { key: KeyId::from_bytes([8; 16]), ..read }.encode();
    other[..header.len()].copy_from_slice(&header);
    let other = Bytes::from(other);
    assert_eq!(there.decrypt(&other, &[("a", "1")]).await.unwrap_err(), "kms.ciphertext-refused");
    assert_eq!(there.decrypt(&ciphertext.slice(..50), &[]).await.unwrap_err(), "kms.ciphertext-refused");
    assert_eq!(there.decrypt(&Bytes::from_static(b"x"), &[]).await.unwrap_err(), "kms.ciphertext-malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_encrypt_may_not_decrypt_with_the_same_lease() {
    let keys = FakeKeys::default();
    let bench = bench(&keys).await;
    let (ciphertext, _) = bench.encrypt(&[]).await.unwrap();
    keys.state().denied = Some("kms.denied");
    assert!(bench.encrypt(&[]).await.is_ok(), "the lease stands");
    assert_eq!(bench.decrypt(&ciphertext, &[]).await.unwrap_err(), "kms.denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_a_lease_works_until_it_is_stale_and_no_longer() {
    let keys = FakeKeys::default();
    let bench = bench(&keys).await;
    bench.encrypt(&[]).await.unwrap();
    bench.down().await;
    bench.sleep(50);
    assert!(bench.encrypt(&[]).await.is_ok());
    let (code, hint) = bench.encrypt(&[("never", "leased")]).await.unwrap_err();
    assert_eq!(code, "kms.unreachable");
    assert!(hint.contains("max_stale"));
    bench.sleep(15);
    let (code, hint) = bench.encrypt(&[]).await.unwrap_err();
    assert_eq!(code, "kms.stale");
    assert!(hint.contains("max_stale"));
    // Setting the clock back brings nothing back.
    bench.sleep(-60);
    assert_eq!(bench.encrypt(&[]).await.unwrap_err().0, "kms.stale");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_at_its_ceilings_even_if_it_is_not_stale() {
    let keys = FakeKeys::default();
    (keys.state().age, keys.state().max_stale) = (40, 3600);
    let bench = bench(&keys).await;
    bench.encrypt(&[]).await.unwrap();
    bench.down().await;
    bench.sleep(35);
    assert!(bench.encrypt(&[]).await.is_ok());
    bench.sleep(10);
    assert_eq!(bench.encrypt(&[]).await.unwrap_err().0, "kms.unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceiling_of_messages_is_never_passed() {
    let keys = FakeKeys::default();
    keys.state().messages = 3;
    let bench = bench(&keys).await;
    for _ in 0..7 {
        bench.encrypt(&[]).await.unwrap();
    }
    let most = |said: &HashMap<Bytes, (u64, u64)>| said.values().map(|(messages, _)| *messages).max();
    bench.until(|_| keys.state().returned.values().filter(|used| used.0 == 3).count() == 2).await;
    assert!(keys.state().asked >= 3 && most(&keys.state().used) <= Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_policy_is_refused_at_once_and_says_so() {
    let keys = FakeKeys::default();
    let bench = bench(&keys).await;
    bench.encrypt(&[]).await.unwrap();
    keys.state().denied = Some("kms.denied");
    let begun = std::time::Instant::now();
    bench.end_leases(&keys, "kms.denied");
    let code = loop {
        if let Err((code, hint)) = bench.encrypt(&[]).await {
            assert!(!hint.is_empty());
            break code;
        }
    };
    assert_eq!(code, "kms.denied");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // Remembered: whoever asks again and again is not passed on.
    let asked = keys.state().asked;
    for _ in 0..5 {
        bench.encrypt(&[]).await.unwrap_err();
    }
    assert!(keys.state().asked <= asked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_nothing_is_encrypted_with_the_old_version() {
    let keys = FakeKeys::default();
    let bench = bench(&keys).await;
    let (old, version) = bench.encrypt(&[("a", "1")]).await.unwrap();
    assert_eq!(version, 1);
    keys.state().rotate();
    // It hears of the new version by a lease for something else, before it is told that the old ones are over.
    assert_eq!(bench.encrypt(&[("a", "2")]).await.unwrap().1, 2);
    assert_eq!(bench.encrypt(&[("a", "1")]).await.unwrap().1, 2);
    assert_eq!(bench.decrypt(&old, &[("a", "1")]).await.unwrap(), "4111");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_come_back_at_renewal_and_at_the_end() {
    let keys = FakeKeys::default();
    let bench = bench(&keys).await;
    for _ in 0..5 {
        bench.encrypt(&[]).await.unwrap();
    }
    bench.sleep(220);
    // It is stale until the authority is heard again.
    bench.change(|authority| {
        authority.put(entry("other", "spiffe://example.org/other", &[("unix.uid", "1")]))
    });
    bench.until(|bench| bench.engine.read(|core| core.view.len()) == 2).await;
    bench.encrypt(&[]).await.unwrap();
    bench.until(|_| keys.state().used.values().any(|used| *used == (6, 24))).await;
    bench.encrypt(&[]).await.unwrap();
    let subject = bench.subject();
    bench.engine.keys().instance_over(subject.instance, subject.credential.not_after());
    bench.until(|_| keys.state().returned.values().any(|used| *used == (7, 28))).await;
    assert_eq!(bench.encrypt(&[]).await.unwrap_err().0, "kms.identity-ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reconnect_everything_is_renewed_before_it_counts_as_fresh() {
    let keys = FakeKeys::default();
    let bench = bench(&keys).await;
    bench.encrypt(&[]).await.unwrap();
    bench.down().await;
    // What ended meanwhile was told to nobody.
    keys.state().given.clear();
    keys.state().denied = Some("kms.denied");
    bench.server.0.up.store(true, Ordering::SeqCst);
    bench.until(|bench| bench.engine.read(|core| core.is_synced())).await;
    bench.until(|_| keys.state().renewed > 0).await;
    let refused = async {
        loop {
            if let Err((code, _)) = bench.encrypt(&[]).await {
                return code;
            }
        }
    };
    let code = tokio::time::timeout(Duration::from_secs(2), refused).await.unwrap();
    assert_eq!(code, "kms.denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_stay_at_the_authority_are_used_there() {
    let keys = FakeKeys::default();
    keys.state().denied = Some("kms.local-never");
    let bench = bench(&keys).await;
    let (ciphertext, _) = bench.encrypt(&[]).await.unwrap();
    assert_eq!(Ciphertext::decode(&ciphertext).unwrap().header.kind, Kind::Direct);
    assert_eq!(keys.counts(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_gets_what_may_be_there_and_nothing_of_another() {
    let keys = FakeKeys::default();
    let bench = bench(&keys).await;
    let mut client = bench.keys().await;
    let mut lease = async || {
        let request = LeaseRequest { items: vec![wish()], on_behalf_of: None };
        client.lease(with_header(request)).await.unwrap().into_inner().results.remove(0)
    };
    keys.state().local = Local::Agent;
    let refused = lease().await;
    assert_eq!(refused.problem.unwrap().code, "kms.local-agent");
    assert!(refused.data_key.is_empty() && refused.wrapped.is_empty());
    bench.until(|_| keys.state().returned.len() == 1).await;
    keys.state().local = Local::Process;
    let lent = lease().await;
    assert_eq!((lent.problem, lent.data_key.len()), (None, DATA_KEY));

    // Another instance, of the same user: it knows the lease's ID, and that is of no use.
    let mine = bench.subject();
    let thief = Subject { instance: InstanceId::from_bytes([5; 16]), ..mine.clone() };
    let said = [LeaseUse { lease: lent.lease.clone(), messages: 9, bytes: 9 }];
    let node = bench.engine.keys();
    let answer = node.renew_lent(&thief, &said).await.unwrap().results.remove(0);
    assert_eq!(answer.problem.unwrap().code, "kms.lease-unknown");
    node.take_back(&thief, &said);
    let answer = node.renew_lent(&mine, &said).await.unwrap().results.remove(0);
    assert!(answer.problem.is_none() && answer.terms.is_some());
    assert_eq!(keys.state().used[&lent.lease], (9, 9));
    // What was once said is not taken back.
    let less = [LeaseUse { messages: 1, bytes: 1, ..said[0].clone() }];
    node.renew_lent(&mine, &less).await.unwrap();
    assert_eq!(keys.state().used[&lent.lease], (9, 9));
    // It leases for itself, if it may.
    let asked = keys.state().asked;
    node.lend(&thief, vec![wish()]).await.unwrap();
    assert_eq!(keys.state().asked, asked + 1);
    assert_eq!(keys.state().given.values().filter(|of| of[..] == [5; 16]).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_hears_what_has_ended_and_how_fresh_it_is() {
    let keys = FakeKeys::default();
    let bench = bench(&keys).await;
    let stream = UnixStream::connect(&bench.socket).await.unwrap();
    let mut client = LeasesClient::new(link::over(stream).await.unwrap());
    let watch = client.watch(with_header(WatchLeasesRequest {})).await;
    let mut watch = watch.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert!(first.connected && first.identity_expires_at > SystemClock.now().as_secs());
    let request = LeaseRequest { items: vec![wish()], on_behalf_of: None };
    let lent = bench.keys().await.lease(with_header(request)).await.unwrap().into_inner().results.remove(0);
    bench.end_leases(&keys, "kms.denied");
    let ended = loop {
        let update = watch.message().await.unwrap().unwrap();
        if let Some(ended) = update.ended.into_iter().next() {
            break ended;
        }
    };
    assert_eq!((ended.lease, ended.problem.unwrap().code.as_str()), (lent.lease, "kms.denied"));
    bench.down().await;
    while watch.message().await.unwrap().unwrap().connected {}
    bench.change(|authority| authority.remove("web"));
    bench.server.0.up.store(true, Ordering::SeqCst);
    let status = loop {
        match watch.message().await {
            Ok(update) => assert!(update.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(problem_of(&status).code, "kms.identity-ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_name_another_or_lack_the_header_are_refused() {
    let keys = FakeKeys::default();
    let bench = bench(&keys).await;
    let mut client = bench.keys().await;
    let on_behalf_of = Some(OnBehalfOf { instance: Bytes::from_static(&[5; 16]), chain: Vec::new() });
    let request = LeaseRequest { items: vec![wish()], on_behalf_of };
    let status = client.lease(with_header(request.clone())).await.unwrap_err();
    assert_eq!(problem_of(&status).code, "kms.on-behalf-of");
    let status = client.lease(LeaseRequest { on_behalf_of: None, ..request }).await.unwrap_err();
    assert_eq!(problem_of(&status).code, "request.no-security-header");
    let item = EncryptItem { plaintext: "a".into(), ..EncryptItem::default() };
    let many = EncryptRequest { key: "orders".into(), items: vec![item; 257], on_behalf_of: None };
    assert_eq!(problem_of(&client.encrypt(with_header(many)).await.unwrap_err()).code, "kms.batch");
    assert_eq!(keys.state().asked, 0);
}
