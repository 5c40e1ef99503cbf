//! The admin API. Each call first asks who calls, then what that caller may do in the very state that it changes.

mod apply;
mod authorities;
mod caller;
mod guard;
mod insight;
mod keys;
mod nodes;
mod paging;
mod policies;
mod quota;
mod registrations;
mod revocations;
mod seals;
mod service;
mod sites;

use std::{collections::BTreeMap, fmt, sync::Arc};

use bonafide_crypto::random::Random;
use bonafide_identity::InstanceId;
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_wire::admin::admin_server::AdminServer;
use prost::Message;
use tonic::service::interceptor::InterceptedService;

pub use self::caller::{Caller, LocalAdmins};
use self::{caller::Rights, guard::Guard, quota::Quota};
use crate::{
    idempotency::Idempotency, keys::Rotation, kms::service::Service, presence::Presence,
    records::RecordChange, refusal::Refusal, registry::Registry, seals::Seals, state::State,
};

/// Largest message of an admin: as many resources as one apply may have.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// How the issuance ledger stands.
#[derive(Clone, Debug, Default)]
pub struct LedgerStatus {
    /// Entries that it has.
    pub size: u64,
    /// Entries that agents have witnessed.
    pub witnessed_size: u64,
    /// Agents that have cosigned that.
    pub witnesses: usize,
    /// Other servers that have cosigned the ledger, and how many of its entries.
    pub peers: Vec<(String, u64)>,
    /// Unless there is none.
    pub replica: Option<ReplicaStatus>,
}

/// How the copy of the ledger stands.
#[derive(Clone, Debug, Default)]
pub struct ReplicaStatus {
    /// Entries that are safe there.
    pub size: u64,
    /// Why there are no more.
    pub problem: Option<String>,
}

/// What the admin API tells about the server that runs it.
#[derive(Clone)]
pub struct ServerInfo {
    /// Name of this server.
    pub server: String,
    /// Of the software.
    pub version: String,
    /// Where agents connect: `host:port`.
    pub address: String,
    /// What the root key was opened with: `key-file`, `passphrase`, `pkcs11`.
    pub seal: String,
    /// When it started.
    pub started_at: UnixTime,
    /// Who may use the local socket.
    pub local: LocalAdmins,
    /// How the issuance ledger stands.
    pub ledger: Arc<dyn Fn() -> LedgerStatus + Send + Sync>,
    /// The site of an instance that this server has issued to, while one of its certificates is valid.
    pub site_of_instance: Arc<dyn Fn(InstanceId) -> Option<String> + Send + Sync>,
}

/// The admin API's implementation, over a registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin {
    registry: Registry,
    presence: Presence,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    info: Arc<ServerInfo>,
    quota: Arc<Quota>,
    guard: Arc<Guard>,
    /// None where there are no keys to change.
    rotation: Option<Rotation>,
    /// Of applications. None where there are none.
    keys: Option<Service>,
    /// None where there are no keys to seal.
    seals: Option<Arc<Seals>>,
}

impl Admin {
    /// Serves on both listeners: the calls find out who is there.
    #[must_use]
    pub fn new(
        registry: Registry,
        presence: Presence,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        info: ServerInfo,
    ) -> Self {
        let (info, quota) = (Arc::new(info), Arc::default());
        let guard = Arc::new(Guard::new(u64::from_ne_bytes(random.array())));
        Self {
            registry,
            presence,
            clock,
            random,
            info,
            quota,
            guard,
            rotation: None,
            keys: None,
            seals: None,
        }
    }

    /// Lets operators change what signs.
    pub(crate) fn with_rotation(self, rotation: Rotation) -> Self {
        Self { rotation: Some(rotation), ..self }
    }

    /// Lets operators change what the root key rests under.
    pub(crate) fn with_seals(self, seals: Arc<Seals>) -> Self {
        Self { seals: Some(seals), ..self }
    }

    /// Lets admins make keys of applications, and change them.
    pub(crate) fn with_keys(self, keys: Service) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// The service of gRPC. Who may not administer is refused before his message is read: nobody else may make the
    /// server hold one.
    pub(crate) fn into_service(self) -> InterceptedService<AdminServer<Self>, Self> {
        let server = AdminServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE);
        InterceptedService::new(server, self)
    }

    /// State and rights for a call that only reads.
    fn reader(&self, caller: &Caller) -> Result<(Arc<State>, Rights), Refusal> {
        let state = self.registry.state();
        let rights = caller.rights(&state, self.clock.now())?;
        Ok((state, rights))
    }

    /// Runs a write: rights, then replay of an idempotency key, then `change`, all in the state that is committed to.
    ///
    /// `change` returns the changes and the name of what they write; no changes: it is so already.
    async fn write(
        &self,
        caller: &Caller,
        idempotency: Idempotency,
        mut change: impl FnMut(&State, &Rights) -> Result<(Vec<RecordChange>, String), Refusal> + Send + 'static,
    ) -> Result<Answer, Refusal> {
        self.quota.charge(caller, 1)?;
        let caller = caller.clone();
        let now = self.clock.now();
        let (_, answer) = self
            .registry
            .write_with(move |state| {
                let rights = caller.rights(state, now)?;
                if let Some(replay) = idempotency.replay(state, now)? {
                    return Ok((
                        Vec::new(),
                        Answer { revision: replay.revision, name: replay.name, replayed: true },
                    ));
                }
                let (mut changes, name) = change(state, &rights)?;
                let revision = state.revision() + changes.len() as u64;
                if changes.is_empty() {
                    // To ask again changes nothing either, so there is nothing to remember.
                    return Ok((changes, Answer { revision, name, replayed: false }));
                }
                changes.extend(idempotency.remember(revision, &name, now));
                Ok((changes, Answer { revision, name, replayed: false }))
            })
            .await?;
        Ok(answer)
    }
}

/// What a write has come to.
#[derive(Clone, Debug)]
struct Answer {
    revision: u64,
    name: String,
    replayed: bool,
}

/// A put without management labels leaves those that stand: whoever does not know of them must not take them away.
fn kept_labels(
    wanted: &BTreeMap<String, String>,
    before: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    match before {
        Some(before) if wanted.is_empty() => before.clone(),
        _ => wanted.clone(),
    }
}

/// The idempotency of a request whose own field is cleared in `request`.
fn idempotency(
    caller: &Caller,
    rpc: &str,
    key: &str,
    request: &impl Message,
) -> Result<Idempotency, Refusal> {
    Idempotency::new(&caller.name(), rpc, key, &request.encode_to_vec())
}

impl fmt::Debug for ServerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerInfo")
            .field("server", &self.server)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
