//! Keys, for the process at the other end: what is leased is used here, everything else at the authority.
//!
//! - The key is always the one that the caller names, never the one that a ciphertext does.
//! - What a lease is for one context and one purpose: who may encrypt may not decrypt for that.
//! - Nobody says for whom he asks. That is what the kernel and the core are for.

mod here;
pub(super) mod json;
mod watch;

use bonafide_kms::key::MAX_NAME;
use bonafide_wire::{
    kms::{
        DecryptRequest, DecryptResponse, DecryptResult, EncryptRequest, EncryptResponse, EncryptResult,
        FetchRequest, FetchResponse, GenerateDataKeyRequest, GenerateDataKeyResponse, GetPublicKeyRequest,
        GetPublicKeyResponse, GrantRequest, GrantResponse, LeaseRequest, LeaseResponse, MacRequest,
        MacResponse, RandomRequest, RandomResponse, RenewLeasesRequest, RenewLeasesResponse,
        ReturnLeasesRequest, ReturnLeasesResponse, RevokeGrantRequest, RevokeGrantResponse, RewrapRequest,
        RewrapResponse, SignRequest, SignResponse, VerifyMacRequest, VerifyRequest, VerifyResponse,
        VerifyResult, keys_server::Keys,
    },
    types::Problem,
};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::{Api, PATIENCE, check_security_header, peer_of};
use crate::{
    core::{Core, LaunchKey, LaunchState},
    keys::{OnBehalf, Subject, remote},
    peer::Peer,
    refusal::Refusal,
};
pub(crate) use watch::LeasesService;

/// Items of one call, and bytes of what they hold.
const MAX_ITEMS: usize = 256;
const MAX_BYTES: usize = 4 << 20;
/// Random bytes of one call.
const MAX_RANDOM: usize = 64 * 1024;
/// Leases of one question, and of one message about those that are held.
const MAX_ASKED: usize = 64;
const MAX_TOLD: usize = 256;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct KeysService(pub(crate) Api);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Keys for KeysService {
    async fn encrypt(&self, request: Request<EncryptRequest>) -> Answer<EncryptResponse> {
        let (subject, message) = self.0.admit_key_use(request).await?;
        Ok(Response::new(self.0.encrypt(&subject, message).await?))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Answer<DecryptResponse> {
        let peer = peer_of(&request)?;
        let (subject, message) = self.0.admit_key_use(request).await?;
        let answer = self.0.decrypt(&subject, message).await?;
        // Another program may have come while the authority was asked.
        peer.check_unchanged().await?;
        Ok(Response::new(answer))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Answer<VerifyResponse> {
        let (subject, message) = self.0.admit_key_use(request).await?;
        Ok(Response::new(self.0.verify(&subject, message).await?))
    }

    async fn random(&self, request: Request<RandomRequest>) -> Answer<RandomResponse> {
        let (_, message) = self.0.admit_key_use(request).await?;
        Ok(Response::new(self.0.random(&message)?))
    }

    async fn rewrap(&self, request: Request<RewrapRequest>) -> Answer<RewrapResponse> {
        self.forward(request, remote!(rewrap)).await
    }

    async fn mac(&self, request: Request<MacRequest>) -> Answer<MacResponse> {
        self.forward(request, remote!(mac)).await
    }

    async fn verify_mac(&self, request: Request<VerifyMacRequest>) -> Answer<VerifyResponse> {
        self.forward(request, remote!(verify_mac)).await
    }

    async fn sign(&self, request: Request<SignRequest>) -> Answer<SignResponse> {
        self.forward(request, remote!(sign)).await
    }

    async fn generate_data_key(
        &self,
        request: Request<GenerateDataKeyRequest>,
    ) -> Answer<GenerateDataKeyResponse> {
        self.forward(request, remote!(generate_data_key)).await
    }

    async fn get_public_key(&self, request: Request<GetPublicKeyRequest>) -> Answer<GetPublicKeyResponse> {
        self.forward(request, remote!(get_public_key)).await
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Answer<FetchResponse> {
        self.forward(request, remote!(fetch)).await
    }

    async fn grant(&self, request: Request<GrantRequest>) -> Answer<GrantResponse> {
        self.forward(request, remote!(grant)).await
    }

    async fn revoke_grant(&self, request: Request<RevokeGrantRequest>) -> Answer<RevokeGrantResponse> {
        self.forward(request, remote!(revoke_grant)).await
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Answer<LeaseResponse> {
        let peer = peer_of(&request)?;
        let (subject, message) = self.0.admit_key_use(request).await?;
        if message.items.is_empty() || message.items.len() > MAX_ASKED {
            return Err(Refusal::invalid("kms.batch", "a request is for 1 to 64 leases").into());
        }
        let answer = self.0.engine().keys().lend(&subject, message.items).await?;
        // Another program may have come while the authority was asked.
        peer.check_unchanged().await?;
        Ok(Response::new(answer))
    }

    async fn renew_leases(&self, request: Request<RenewLeasesRequest>) -> Answer<RenewLeasesResponse> {
        let (subject, message) = self.0.admit_lease_use(request).await?;
        check_told(message.leases.len())?;
        Ok(Response::new(self.0.engine().keys().renew_lent(&subject, &message.leases).await?))
    }

    async fn return_leases(&self, request: Request<ReturnLeasesRequest>) -> Answer<ReturnLeasesResponse> {
        let (subject, message) = self.0.admit_lease_use(request).await?;
        check_told(message.leases.len())?;
        self.0.engine().keys().take_back(&subject, &message.leases);
        Ok(Response::new(ReturnLeasesResponse {}))
    }
}

impl KeysService {
    /// What is done at the authority only.
    async fn forward<Q: OnBehalf, A>(&self, request: Request<Q>, call: crate::keys::Call<Q, A>) -> Answer<A> {
        let peer = peer_of(&request)?;
        let (subject, message) = self.0.admit_key_use(request).await?;
        let answer = self.0.engine().keys().ask(&subject, message, call).await?;
        peer.check_unchanged().await?;
        Ok(Response::new(answer))
    }
}

impl Api {
    async fn admit_key_use<Q: OnBehalf>(&self, request: Request<Q>) -> Result<(Subject, Q), Refusal> {
        check_security_header(&request)?;
        let peer = peer_of(&request)?;
        let mut message = request.into_inner();
        if message.on_behalf_of().is_some() {
            return Err(Refusal::invalid(
                "kms.on-behalf-of",
                "the agent finds out by itself for whom is asked",
            ));
        }
        Ok((self.key_user(&peer).await?, message))
    }

    async fn admit_lease_use<Q>(&self, request: Request<Q>) -> Result<(Subject, Q), Refusal> {
        check_security_header(&request)?;
        let subject = self.key_user(&peer_of(&request)?).await?;
        Ok((subject, request.into_inner()))
    }

    /// The instance that the process at the other end is, by its default identity. Attested when the process is first seen, and
    /// looked at each time: it must be the same program, of the same user.
    async fn key_user(&self, peer: &Peer) -> Result<Subject, Refusal> {
        let process = peer.process()?;
        let key = LaunchKey { pid: process.pid(), image: peer.image().await? };
        let credentials = process.credentials()?;
        if (credentials.uid, credentials.gid) != (peer.uid(), peer.gid()) {
            return Err(Refusal::credentials_changed());
        }
        peer.check_unchanged().await?;
        let known = self.engine().with(|core, _| core.check_ready().map(|()| held(core, &key)))?;
        if let Some(subject) = known {
            return Ok(subject);
        }
        let caller = self.caller(peer.clone()).await?;
        let mut launch = self.engine().launch(key);
        self.attach(&caller).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            launch.mark_unchanged();
            if let Some(subject) = self.engine().read(|core| held(core, &key)) {
                peer.check_unchanged().await?;
                return Ok(subject);
            }
            match self.engine().launch_state(&key) {
                (LaunchState::Gone, _) => return Err(Refusal::no_registration()),
                (LaunchState::Refused(problem), _) => return Err(Refusal::of_authority(&problem, false)),
                (_, false) => return Err(Refusal::authority_unavailable()),
                (LaunchState::Ready(_) | LaunchState::Waiting(_), true) => {}
            }
            if !matches!(timeout_at(deadline, launch.changed()).await, Ok(Ok(()))) {
                return Err(Refusal::authority_unavailable());
            }
        }
    }

    /// Encrypts, here where that may be.
    pub(super) async fn encrypt(
        &self,
        subject: &Subject,
        mut request: EncryptRequest,
    ) -> Result<EncryptResponse, Refusal> {
        check_batch(&request.key, &request.items, |item| item.plaintext.len())?;
        let keys = self.engine().keys();
        let here = request.items.iter().map(|item| here::encrypt(keys, subject, &request.key, item));
        let done: Vec<Option<EncryptResult>> = join_all(here).await;
        request.items = rest(&done, request.items);
        let elsewhere = async { Ok(keys.ask(subject, request, remote!(encrypt)).await?.results) };
        let failed = |problem| EncryptResult { problem: Some(problem), ..EncryptResult::default() };
        Ok(EncryptResponse { results: together(done, elsewhere, failed).await? })
    }

    /// Decrypts, here where that may be.
    pub(super) async fn decrypt(
        &self,
        subject: &Subject,
        mut request: DecryptRequest,
    ) -> Result<DecryptResponse, Refusal> {
        check_batch(&request.key, &request.items, |item| item.ciphertext.len())?;
        let keys = self.engine().keys();
        let here = request.items.iter().map(|item| here::decrypt(keys, subject, &request.key, item));
        let done: Vec<Option<DecryptResult>> = join_all(here).await;
        request.items = rest(&done, request.items);
        let elsewhere = async { Ok(keys.ask(subject, request, remote!(decrypt)).await?.results) };
        let failed = |problem| DecryptResult { problem: Some(problem), ..DecryptResult::default() };
        Ok(DecryptResponse { results: together(done, elsewhere, failed).await? })
    }

    /// Verifies, here where that may be.
    pub(super) async fn verify(
        &self,
        subject: &Subject,
        mut request: VerifyRequest,
    ) -> Result<VerifyResponse, Refusal> {
        check_batch(&request.key, &request.items, |item| item.message.len() + item.signature.len())?;
        let keys = self.engine().keys();
        let here = request.items.iter().map(|item| here::verify(keys, subject, &request.key, item));
        let done: Vec<Option<VerifyResult>> = join_all(here).await;
        request.items = rest(&done, request.items);
        let elsewhere = async { Ok(keys.ask(subject, request, remote!(verify)).await?.results) };
        let failed = |problem| VerifyResult { problem: Some(problem), ..VerifyResult::default() };
        Ok(VerifyResponse { results: together(done, elsewhere, failed).await? })
    }

    /// Random bytes of this node.
    pub(super) fn random(&self, request: &RandomRequest) -> Result<RandomResponse, Refusal> {
        let length = usize::try_from(request.bytes).unwrap_or(usize::MAX);
        if length > MAX_RANDOM {
            return Err(Refusal::invalid("kms.too-long", "at most 64 KiB of random bytes at a time"));
        }
        let mut random = vec![0; length];
        self.engine().keys().random().fill(&mut random);
        Ok(RandomResponse { random: Bytes::from(random) })
    }
}

/// The default identity that a launch holds.
fn held(core: &Core, key: &LaunchKey) -> Option<Subject> {
    let held = core.identities(key).into_iter().find_map(|identity| identity.held)?;
    Some(Subject { instance: held.instance, credential: held.credential })
}

fn check_told(count: usize) -> Result<(), Refusal> {
    match count {
        1..=MAX_TOLD => Ok(()),
        _ => Err(Refusal::invalid("kms.batch", "a request is about 1 to 256 leases")),
    }
}

fn check_batch<T>(key: &str, items: &[T], size: impl Fn(&T) -> usize) -> Result<(), Refusal> {
    if key.is_empty() || key.len() > MAX_NAME {
        return Err(Refusal::invalid("kms.key-name", "`key` is the name or an alias of a key"));
    }
    let size = items.iter().map(size).fold(0_usize, usize::saturating_add);
    if items.is_empty() || items.len() > MAX_ITEMS || size > MAX_BYTES {
        return Err(Refusal::invalid("kms.batch", "a batch has 1 to 256 items, and 4 MiB at most"));
    }
    Ok(())
}

/// What was not done here.
fn rest<T, I>(done: &[Option<T>], items: Vec<I>) -> Vec<I> {
    let rest = items.into_iter().zip(done).filter(|(_, done)| done.is_none());
    rest.map(|(item, _)| item).collect()
}

/// What was done here, and what was done elsewhere, in the order of the items.
async fn together<T>(
    done: Vec<Option<T>>,
    elsewhere: impl Future<Output = Result<Vec<T>, Refusal>>,
    failed: impl Fn(Problem) -> T,
) -> Result<Vec<T>, Refusal> {
    let missing = done.iter().filter(|done| done.is_none()).count();
    let mut answers = Vec::new();
    let mut problem = Refusal::key_answer();
    if missing > 0 {
        match elsewhere.await {
            Ok(results) if results.len() == missing => answers = results,
            Ok(_) => {}
            Err(refusal) if missing == done.len() => return Err(refusal),
            Err(refusal) => problem = refusal,
        }
    }
    let mut answers = answers.into_iter();
    let results = done
        .into_iter()
        .map(|done| done.or_else(|| answers.next()).unwrap_or_else(|| failed(problem.to_problem())));
    Ok(results.collect())
}
