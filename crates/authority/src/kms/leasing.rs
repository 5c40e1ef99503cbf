//! Leases: given to agents, decided again whenever something changes, and counted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bonafide_crypto::erased::Erased;
use bonafide_identity::SpiffeId;
use bonafide_identity::time::UnixTime;
use bonafide_kms::algorithm::{KeyType, Operation};
use bonafide_kms::ciphertext::Kind;
use bonafide_kms::engine::Answer;
use bonafide_kms::envelope::DATA_KEY;
use bonafide_kms::key::Local;
use bonafide_net::drain::Shutdown;
use bonafide_wire::node::LeaseEnded;
use bytes::Bytes;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::callers::Caller;
use super::guard::{Ask, Denied};
use super::hands::Task;
use super::leases::{Ceilings, Granted, LeaseId, Over, Use, Used};
use super::record::KeyRecord;
use super::service::{Service, action, key_refusal, read_context};
use crate::key_entry::{self, key_entry::Kind as EntryKind, lease_over::How};
use crate::records::Object;
use crate::refusal::Refusal;
use crate::registry::Applied;
use crate::state::State;

/// Leases of one request.
pub(crate) const MAX_LEASES: usize = 64;
/// Leases that are renewed or returned with one request.
pub(crate) const MAX_RENEWALS: usize = 256;
/// How often what has ended in silence is looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// A lease that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) key: String,
    pub(crate) context: BTreeMap<String, String>,
    pub(crate) usage: Wanted,
}

/// What for.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Encrypt,
    Decrypt { wrapped: Bytes, version: u32 },
    Verify,
}

/// A lease that was given.
pub(crate) struct Leased {
    pub(crate) id: LeaseId,
    pub(crate) record: Arc<KeyRecord>,
    pub(crate) version: u32,
    /// Unless it is for verification.
    pub(crate) data_key: Option<(Erased, Bytes)>,
    pub(crate) public: Vec<(u32, KeyType, Bytes)>,
    pub(crate) terms: Terms,
}

/// How long it holds, and what for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) expires_at: UnixTime,
    pub(crate) renew_after: UnixTime,
    pub(crate) ceilings: Ceilings,
    pub(crate) max_stale: Duration,
    pub(crate) local: Local,
    pub(crate) revision: u64,
}

/// A decision to give or keep a lease.
struct Decided {
    record: Arc<KeyRecord>,
    version: u32,
    expires_at: UnixTime,
    by: String,
    revision: u64,
}

/// What has changed, as far as leases may depend on it.
#[derive(Debug, Default)]
struct Touched {
    /// Anything.
    all: bool,
    keys: HashSet<[u8; 16]>,
    registrations: HashSet<String>,
    agents: HashSet<SpiffeId>,
}

impl Wanted {
    fn usage(&self) -> Use {
        match self {
            Self::Encrypt => Use::Encrypt,
            Self::Decrypt { .. } => Use::Decrypt,
            Self::Verify => Use::Verify,
        }
    }
}

impl Service {
    /// Gives leases to the agent that asks for this caller. Each is on the ledger before it is given.
    ///
    /// # Errors
    /// A caller that no agent asks for; an agent that could not be told of the end of a lease; a ledger that can't be written.
    pub(crate) async fn lease(
        &self,
        caller: &Caller,
        wishes: &[Wish],
    ) -> Result<Vec<Result<Leased, Refusal>>, Refusal> {
        let parts = self.parts();
        let agent = caller.through().ok_or_else(|| {
            Refusal::denied("kms.not-an-agent", "only agents hold leases")
                .hint("ask the agent of the node: it leases what it needs")
        })?;
        if wishes.is_empty() || wishes.len() > MAX_LEASES {
            return Err(Refusal::invalid("kms.batch", "a request is for 1 to 64 leases"));
        }
        if !parts.ends.reaches(agent) {
            return Err(Refusal::unavailable(
                "kms.no-stream",
                "the agent has no stream to this server, so it would not hear that a lease is over",
            )
            .hint("ask the server that the agent is connected to"));
        }
        let mut leased = Vec::with_capacity(wishes.len());
        let mut entries = Vec::new();
        for wish in wishes {
            let one = self.lease_one(caller, agent, wish).await;
            if let Ok((_, entry)) = &one {
                entries.push(entry.clone());
            }
            leased.push(one.map(|(leased, _)| leased));
        }
        let written = parts.book.append(parts.clock.now(), entries).await;
        if let Err(refusal) = written {
            // Nobody has them.
            for lease in leased.iter().flatten() {
                self.leases().take_back(&lease.id, Used::default());
            }
            return Err(refusal);
        }
        if leased.iter().any(Result::is_ok) {
            parts.ends.given(agent);
        }
        Ok(leased)
    }

    async fn lease_one(
        &self,
        caller: &Caller,
        agent: &SpiffeId,
        wish: &Wish,
    ) -> Result<(Leased, EntryKind), Refusal> {
        let parts = self.parts();
        let now = parts.clock.now();
        let usage = wish.usage.usage();
        let (digest, props) = read_context(&wish.context)?;
        let context = Arc::new(props);
        let version = match &wish.usage {
            Wanted::Decrypt { version, .. } => Some(*version),
            Wanted::Encrypt | Wanted::Verify => None,
        };
        let (decided, material, public) = {
            let state = parts.registry.state();
            let record = self.key_for(&state, caller, &wish.key, usage.operation(), now)?;
            let decided =
                self.decide(&state, &record, caller, usage, version, &context, now).inspect_err(|stopped| {
                    if let Stopped::Denied(denied) = stopped {
                        parts.book.refused(now, &caller.actor(), usage.operation(), &wish.key, denied);
                    }
                });
            let decided = decided.map_err(|stopped| stopped.refusal(usage, &wish.key))?;
            let public = if usage == Use::Verify { public_keys(&state, &decided.record) } else { Vec::new() };
            let material = state.key_version(decided.record.id(), decided.version).cloned();
            (decided, material, public)
        };
        let material = material.ok_or_else(|| {
            Refusal::new(tonic::Code::DataLoss, "kms.no-material", "the secret of the version is missing")
                .hint("restore the store from a backup")
        })?;
        let data_key = match &wish.usage {
            Wanted::Verify => None,
            Wanted::Encrypt => {
                let handle = parts.hands.open(&material).await?;
                let length = u8::try_from(DATA_KEY).unwrap_or_default();
                let task = Task::DataKey { handle, context: digest, length, plaintext: true };
                match parts.hands.one(task).await? {
                    Answer::DataKey { plaintext: Some(plaintext), wrapped } => {
                        Some((plaintext, wrapped.into()))
                    }
                    _ => None,
                }
            }
            Wanted::Decrypt { wrapped, .. } => {
                let handle = parts.hands.open(&material).await?;
                let task =
                    Task::Decrypt { handle, context: digest, kind: Kind::DataKey, body: wrapped.clone() };
                match parts.hands.one(task).await? {
                    // Data keys of other lengths are the callers' own.
                    Answer::Bytes(plaintext) if plaintext.len() == DATA_KEY => {
                        Some((plaintext, wrapped.clone()))
                    }
                    _ => None,
                }
            }
        };
        if data_key.is_none() && usage != Use::Verify {
            return Err(Refusal::invalid("kms.not-an-envelope", "this is no data key that agents use")
                .hint("`Decrypt` opens it"));
        }
        let ceilings = decided.record.key.ceilings;
        let ceilings = Ceilings { messages: ceilings.messages, bytes: ceilings.bytes };
        let id: LeaseId = parts.random.array();
        let granted = Granted {
            agent: agent.clone(),
            caller: caller.clone(),
            usage,
            key: *decided.record.id(),
            version: decided.version,
            context: Arc::clone(&context),
            context_sha256: Bytes::copy_from_slice(digest.as_bytes()),
            ceilings,
            used: Used::default(),
            given_at: now,
            expires_at: decided.expires_at,
        };
        let entry = given(&id, &granted, &decided.record, decided.by.clone(), false);
        {
            let mut leases = self.leases();
            leases.room(agent, caller.instance())?;
            leases.give(id, granted);
        }
        // What has changed since the decision was perhaps judged before this lease was among those that are.
        let state = parts.registry.state();
        if state.revision() != decided.revision
            && let Err(stopped) =
                self.decide(&state, &decided.record, caller, usage, Some(decided.version), &context, now)
        {
            self.leases().take_back(&id, Used::default());
            return Err(stopped.refusal(usage, &wish.key));
        }
        let terms = self.terms(&decided, ceilings, now);
        let Decided { record, version, .. } = decided;
        Ok((Leased { id, record, version, data_key, public, terms }, entry))
    }

    /// Asks whether leases may go on, and notes what was used. The answers are in the same order.
    ///
    /// # Errors
    /// A ledger that can't be written.
    pub(crate) async fn renew(
        &self,
        agent: &SpiffeId,
        uses: &[(LeaseId, Used)],
    ) -> Result<Vec<Result<Terms, Refusal>>, Refusal> {
        bound(uses)?;
        let parts = self.parts();
        let now = parts.clock.now();
        let mut entries = Vec::new();
        let mut results = Vec::with_capacity(uses.len());
        for (id, used) in uses {
            let held = self.leases().held(id, agent, now).cloned();
            let Some(granted) = held else {
                results.push(Err(unknown()));
                continue;
            };
            match self.still(&granted, now) {
                Ok(decided) => {
                    let mut leases = self.leases();
                    let renewed = leases.renew(id, *used, decided.expires_at).cloned();
                    drop(leases);
                    let Some(renewed) = renewed else {
                        results.push(Err(unknown()));
                        continue;
                    };
                    entries.push(given(id, &renewed, &decided.record, decided.by.clone(), true));
                    results.push(Ok(self.terms(&decided, renewed.ceilings, now)));
                }
                Err(refusal) => {
                    if let Some(granted) = self.leases().take_back(id, *used) {
                        entries.push(over(id, &granted, granted.used, How::Ended, refusal.code()));
                    }
                    results.push(Err(refusal));
                }
            }
        }
        parts.book.append(now, entries).await?;
        if results.iter().any(Result::is_ok) {
            parts.ends.given(agent);
        }
        Ok(results)
    }

    /// Ends leases, with what was used of them. One that is not known here is noted all the same: another server gave it.
    ///
    /// # Errors
    /// A ledger that can't be written: then the agent says it again.
    pub(crate) async fn give_back(&self, agent: &SpiffeId, uses: &[(LeaseId, Used)]) -> Result<(), Refusal> {
        bound(uses)?;
        let parts = self.parts();
        let now = parts.clock.now();
        let mut entries = Vec::new();
        for (id, used) in uses {
            let mine = self.leases().held(id, agent, now).is_some();
            let granted = if mine { self.leases().take_back(id, *used) } else { None };
            entries.push(match granted {
                Some(granted) => over(id, &granted, granted.used, How::Returned, ""),
                None => EntryKind::LeaseOver(key_entry::LeaseOver {
                    lease: Bytes::copy_from_slice(id),
                    how: How::Returned.into(),
                    messages: used.messages,
                    bytes: used.bytes,
                    code: String::new(),
                    agent: agent.to_string(),
                }),
            });
        }
        parts.book.append(now, entries).await
    }

    /// Whether an agent holds any: then it hears often that nothing has changed.
    pub(crate) fn holds(&self, agent: &SpiffeId) -> bool {
        self.leases().holds(agent)
    }

    /// Decides again whatever changes may concern, and counts what has ended in silence, until the server stops.
    pub(crate) async fn follow(self, mut applied: Receiver<Applied>, shutdown: Shutdown) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let mut touched = Touched::default();
            tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                next = applied.recv() => match next {
                    Ok(applied) => touched.note(&applied),
                    Err(RecvError::Lagged(_)) => touched.all = true,
                    Err(RecvError::Closed) => return,
                },
                _ = sweep.tick() => {
                    self.sweep();
                    continue;
                }
            }
            // Whatever came together is judged once.
            loop {
                match applied.try_recv() {
                    Ok(applied) => touched.note(&applied),
                    Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => touched.all = true,
                    Err(_) => break,
                }
            }
            self.judge(&touched);
        }
    }

    /// Ends what is no longer allowed, and tells the agents.
    fn judge(&self, touched: &Touched) {
        self.close_versions(touched);
        let parts = self.parts();
        if touched.is_empty() || self.leases().len() == 0 {
            return;
        }
        let now = parts.clock.now();
        let over = self
            .leases()
            .judge(|granted| touched.concerns(granted), |granted| self.still(granted, now).map(drop));
        self.tell(over, now);
    }

    /// Erases secrets that nothing may use any more.
    fn close_versions(&self, touched: &Touched) {
        if touched.all || !touched.keys.is_empty() {
            let parts = self.parts();
            let state = parts.registry.state();
            for which in parts.hands.opened() {
                if state.key_version(which.0.as_bytes(), which.1).is_none() {
                    parts.hands.forget(&which);
                }
            }
        }
    }

    pub(super) fn sweep(&self) {
        let now = self.parts().clock.now();
        let over = self.leases().expired(now);
        self.tell(over, now);
    }

    fn tell(&self, all: Vec<Over>, now: UnixTime) {
        if all.is_empty() {
            return;
        }
        let parts = self.parts();
        let mut entries = Vec::with_capacity(all.len());
        let mut told: BTreeMap<SpiffeId, Vec<LeaseEnded>> = BTreeMap::new();
        for Over { id, granted, refusal } in all {
            // Until the agent says how much, it was all that was allowed.
            let most = Used { messages: granted.ceilings.messages, bytes: granted.ceilings.bytes };
            match refusal {
                Some(refusal) => {
                    entries.push(over(&id, &granted, most, How::Ended, refusal.code()));
                    let ended = LeaseEnded {
                        lease: Bytes::copy_from_slice(&id),
                        problem: Some(refusal.to_problem()),
                    };
                    told.entry(granted.agent).or_default().push(ended);
                }
                None => entries.push(over(&id, &granted, most, How::Silent, "")),
            }
        }
        for (agent, ended) in told {
            tracing::info!(agent = %agent, leases = ended.len(), "leases of keys are over");
            parts.ends.tell(&agent, &ended);
        }
        parts.book.append_soon(now, entries);
    }

    /// Decides a lease that was given once more.
    fn still(&self, granted: &Granted, now: UnixTime) -> Result<Decided, Refusal> {
        let state = self.parts().registry.state();
        let gone = || Refusal::precondition("kms.key-gone", "the key is not there any more");
        let record = Arc::clone(state.key_of_id(&granted.key).ok_or_else(gone)?);
        let version = match granted.usage {
            Use::Encrypt if record.key.primary != granted.version => {
                return Err(Refusal::precondition(
                    "kms.lease-superseded",
                    "another version of the key is the primary one",
                )
                .hint("ask for a new lease"));
            }
            // Versions may have come or gone.
            Use::Verify if record.key.primary != granted.version => {
                return Err(Refusal::precondition("kms.lease-superseded", "the key has other versions now")
                    .hint("ask for a new lease"));
            }
            Use::Encrypt | Use::Decrypt | Use::Verify => granted.version,
        };
        let (usage, context) = (granted.usage, &granted.context);
        let mut decided = self
            .decide(&state, &record, &granted.caller, usage, Some(version), context, now)
            .map_err(|stopped| stopped.refusal(usage, record.name()))?;
        if usage == Use::Encrypt {
            // A data key is not used for longer than a lease lasts: a new one costs as little.
            decided.expires_at =
                decided.expires_at.min(granted.given_at.saturating_add(record.key.ceilings.age));
        }
        Ok(decided)
    }

    #[expect(clippy::too_many_arguments, reason = "all that a decision rests on")]
    fn decide(
        &self,
        state: &State,
        record: &Arc<KeyRecord>,
        caller: &Caller,
        usage: Use,
        version: Option<u32>,
        context: &bonafide_policy::AssertedProps,
        now: UnixTime,
    ) -> Result<Decided, Stopped> {
        caller.check(state, now)?;
        // The record may have been read in an earlier state.
        let record = state.key_of_id(record.id()).unwrap_or(record);
        let current_at = self.current_at(record, now)?;
        let operation = match usage {
            Use::Encrypt => Operation::Encrypt,
            Use::Decrypt => Operation::Decrypt,
            Use::Verify => Operation::Verify,
        };
        let ask = Ask { action: action(operation), context, algorithm: None };
        let by = self
            .parts()
            .guard
            .decide(state, record, caller, ask, now, current_at)
            .map_err(Stopped::Denied)?;
        // A public half may be anywhere.
        if record.key.birth.external && usage != Use::Verify {
            return Err(Stopped::Refused(
                Refusal::precondition(
                    "kms.external-local",
                    "the private half of this key is in a device, which is used through the authority alone",
                )
                .hint("ask the authority for each operation"),
            ));
        }
        if record.key.local == Local::Never && !record.key.birth.external {
            return Err(Stopped::Refused(
                Refusal::precondition("kms.local-never", "this key is used at the authority alone")
                    .hint("ask the authority for each operation: `local` of the key says so"),
            ));
        }
        if usage == Use::Encrypt && record.key.birth.convergent {
            return Err(Stopped::Refused(
                Refusal::precondition(
                    "kms.local-never",
                    "a convergent key encrypts at the authority alone: a data key would never give the same ciphertext twice",
                )
                .hint("ask the authority for each operation"),
            ));
        }
        let version = record
            .key
            .version_for(operation, version)
            .map_err(|error| Stopped::Refused(key_refusal(&error)))?;
        let mut expires_at = now.saturating_add(record.key.ceilings.age).min(caller.expires_at());
        if let Some(grant) = by.strip_prefix("grant/").and_then(|id| state.key_grant(id)) {
            expires_at = expires_at.min(UnixTime::from_secs(grant.expires_at));
        }
        Ok(Decided { record: Arc::clone(record), version, expires_at, by, revision: state.revision() })
    }

    fn terms(&self, decided: &Decided, ceilings: Ceilings, now: UnixTime) -> Terms {
        // Two thirds, and up to a tenth earlier, so that what began together does not renew together.
        let span = decided.expires_at.since(now).as_secs();
        let [jitter] = self.parts().random.array::<1>();
        let early = span * u64::from(jitter) / 2560;
        let renew_after = now.saturating_add(Duration::from_secs((span * 2 / 3).saturating_sub(early)));
        Terms {
            expires_at: decided.expires_at,
            renew_after,
            ceilings,
            max_stale: decided.record.key.max_stale,
            local: decided.record.key.local,
            revision: decided.revision,
        }
    }
}

/// Why there is no lease.
enum Stopped {
    Denied(Denied),
    Refused(Refusal),
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Stopped {
    fn refusal(self, usage: Use, key: &str) -> Refusal {
        match self {
            Self::Denied(denied) => denied.refusal(usage.operation(), key),
            Self::Refused(refusal) => refusal,
        }
    }
}

impl Touched {
    fn note(&mut self, applied: &Applied) {
        self.all |= applied.reset;
        for change in &*applied.changes {
            for object in [&change.before, &change.after].into_iter().flatten() {
                match object {
                    Object::Key(key) => _ = self.keys.insert(*key.id()),
                    Object::KeyVersion(version) => {
                        self.keys.extend(<[u8; 16]>::try_from(version.key.as_ref()));
                    }
                    Object::KeyGrant(grant) => self.keys.extend(<[u8; 16]>::try_from(grant.key.as_ref())),
                    Object::Registration(registration) => {
                        self.registrations.insert(registration.id.clone());
                    }
                    Object::Agent(agent) => _ = self.agents.insert(agent.id.clone()),
                    Object::Policy(_) | Object::Revocation(_) | Object::Site(_) | Object::SigningKey(_) => {
                        self.all = true;
                    }
                    _ => {}
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        !self.all && self.keys.is_empty() && self.registrations.is_empty() && self.agents.is_empty()
    }

    fn concerns(&self, granted: &Granted) -> bool {
        self.all
            || self.keys.contains(&granted.key)
            || self.registrations.contains(granted.caller.registration())
            || self.agents.contains(&granted.agent)
    }
}

/// Of the versions that may be verified with.
fn public_keys(state: &State, record: &KeyRecord) -> Vec<(u32, KeyType, Bytes)> {
    let key = &record.key;
    let versions = state.key_versions(record.id());
    let usable = versions.filter(|version| key.version_for(Operation::Verify, Some(version.number)).is_ok());
    usable.map(|version| (version.number, key.key_type, version.public_key.clone())).collect()
}

fn bound(uses: &[(LeaseId, Used)]) -> Result<(), Refusal> {
    if uses.is_empty() || uses.len() > MAX_RENEWALS {
        return Err(Refusal::invalid("kms.batch", "a request is about 1 to 256 leases"));
    }
    Ok(())
}

fn unknown() -> Refusal {
    Refusal::not_found(
        "kms.lease-unknown",
        "this server has not given such a lease to this agent, or it is over",
    )
    .hint("ask for a new lease")
}

fn given(id: &LeaseId, granted: &Granted, record: &KeyRecord, by: String, renewed: bool) -> EntryKind {
    EntryKind::LeaseGiven(key_entry::LeaseGiven {
        actor: Some(granted.caller.actor()),
        lease: Bytes::copy_from_slice(id),
        r#use: granted.usage.operation().to_owned(),
        key: record.name().to_owned(),
        key_id: Bytes::copy_from_slice(record.id()),
        version: granted.version,
        context_sha256: granted.context_sha256.clone(),
        expires_at: granted.expires_at.as_secs(),
        max_messages: granted.ceilings.messages,
        max_bytes: granted.ceilings.bytes,
        renewed,
        messages: granted.used.messages,
        bytes: granted.used.bytes,
        by,
    })
}

/// What is written of a lease that has ended.
fn over(id: &LeaseId, granted: &Granted, used: Used, how: How, code: &str) -> EntryKind {
    EntryKind::LeaseOver(key_entry::LeaseOver {
        lease: Bytes::copy_from_slice(id),
        how: how.into(),
        messages: used.messages,
        bytes: used.bytes,
        code: code.to_owned(),
        agent: granted.agent.to_string(),
    })
}
