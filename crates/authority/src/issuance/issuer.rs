//! The threads that sign, and the order of things around them: log, sign, release.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bonafide_crypto::key::PublicKey;
use bonafide_crypto::random::{DrawnAhead, Random};
use bonafide_identity::revocation::Subject;
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_identity::{InstanceId, SpiffeId};
use bonafide_wire::node::authority_message::Kind;
use bonafide_wire::node::{IssueJwt, IssueX509, JwtIssued, RenewAgent, RenewX509, X509Issued};
use bytes::Bytes;
use prost::Message;

use super::earnings::Earnings;
use super::lineages::Lineages;
use super::moves::Moves;
use super::ownership::Claim;
use super::prepare::{self, Context, Noted, Unsigned};
use super::queue::{Lane, Queue};
use super::renewal::{Hold, revoked};
use crate::entry::entry::Kind as EntryKind;
use crate::journal::{Journal, Source};
use crate::keys::{KeySet, Keys};
use crate::presence::Connection;
use crate::refusal::Refusal;
use crate::registration::{admitted_attestation, check_quarantine};
use crate::registry::Registry;
use crate::state::{SiteState, State};
use crate::stream::outbound::{self, Ticket};

/// Signs what agents ask for.
#[derive(Debug)]
pub(crate) struct Issuer {
    parts: Arc<IssuerParts>,
    queue: Arc<Queue<Job>>,
}

/// What it works with.
#[derive(Debug)]
pub(crate) struct IssuerParts {
    pub(crate) registry: Registry,
    pub(crate) keys: Arc<Keys>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) lineages: Arc<Lineages>,
    pub(crate) moves: Arc<Moves>,
    /// Where a renewal goes on that had to wait. None: on the thread that waited.
    pub(crate) queue: OnceLock<Weak<Queue<Job>>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) backdate: Duration,
    pub(crate) agent_lifetime: Duration,
}

/// One request and the right to answer it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) ticket: Ticket,
    pub(crate) asker: Arc<Asker>,
    pub(crate) ask: Ask,
    /// What this server has taken its instance over for.
    pub(crate) taken: Option<Box<Claim>>,
}

/// Who asks.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) agent: SpiffeId,
    /// Of the SVID that the agent connected with.
    pub(crate) attestation: u64,
    pub(crate) site: String,
    pub(crate) connection: Connection,
}

/// What for.
#[derive(Debug)]
pub(crate) enum Ask {
    First(IssueX509),
    Renewal(Box<RenewX509>),
    Jwt(IssueJwt),
    Agent(RenewAgent),
}

/// A certificate that may be released.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) chain: Vec<Bytes>,
    pub(crate) renew_after: UnixTime,
}

/// A batch's member between log and release.
struct Signed {
    job: Job,
    noted: Option<Noted>,
    answer: Result<Kind, Refusal>,
    /// Of an agent's own SVID.
    agent_svid_expires_at: Option<UnixTime>,
}

/// What is logged and signed at the same time, and released by whoever is done last: the signing thread or the
/// ledger's.
#[derive(Clone)]
struct Batch {
    parts: Arc<IssuerParts>,
    decided_at: u64,
    half: Arc<Mutex<Half>>,
}

/// Which part of the work is done.
#[derive(Default)]
enum Half {
    #[default]
    Neither,
    Signed(Vec<Signed>),
    Logged(Result<(), Refusal>),
}

impl Batch {
    fn is_signed(&self, signed: Vec<Signed>) {
        let mut half = self.half.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *half) {
            Half::Logged(logged) => {
                drop(half);
                self.release(signed, &logged);
            }
            Half::Neither | Half::Signed(_) => *half = Half::Signed(signed),
        }
    }

    fn is_logged(&self, logged: Result<(), Refusal>) {
        let mut half = self.half.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *half) {
            Half::Signed(signed) => {
                drop(half);
                self.release(signed, &logged);
            }
            Half::Neither | Half::Logged(_) => *half = Half::Logged(logged),
        }
    }

    fn release(&self, signed: Vec<Signed>, logged: &Result<(), Refusal>) {
        // The disk took its time: what was written meanwhile counts, a ban above all.
        let state = self.parts.registry.state();
        let answers = signed.into_iter().map(|signed| {
            let Job { asker, ask, .. } = &signed.job;
            let still =
                still_earned(&state, self.decided_at, (&asker.agent, asker.attestation), ask.registration());
            let still = still.and_then(|()| not_revoked(&state, &ask.instance()));
            self.parts.release(signed, logged.clone().and(still))
        });
        outbound::answer(answers.collect());
    }
}

impl Issuer {
    /// Starts the threads; 0: one for each core.
    pub(crate) fn start(parts: IssuerParts, threads: usize, capacity: usize) -> std::io::Result<Self> {
        let parts = Arc::new(parts);
        let worker = Arc::clone(&parts);
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let queue = Arc::new(Queue::start(threads, capacity, move |batch| worker.work(batch))?);
        let _first = parts.queue.set(Arc::downgrade(&queue));
        Ok(Self { parts, queue })
    }

    /// Queues requests; each is answered through its ticket, at once if there is no room.
    pub(crate) fn submit(&self, jobs: Vec<Job>) {
        submit(&self.queue, jobs);
    }

    /// The first SVID of an agent after its attestation of this number. Resolves when it is on the ledger.
    pub(crate) async fn agent_svid(
        &self,
        agent: SpiffeId,
        key: PublicKey,
        number: u64,
        attestation: EntryKind,
    ) -> Result<Issued, Refusal> {
        let (parts, asker) = (Arc::clone(&self.parts), agent.clone());
        let signed = tokio::task::spawn_blocking(move || {
            let now = parts.clock.now();
            let state = parts.registry.state();
            let keys = parts.keys.current_in(&state, now);
            let earnings = Earnings::new(&state, now);
            let context = parts.context(&asker, &state, &earnings, &keys, &*parts.random, now);
            let (unsigned, entry) = context.agent(key, parts.agent_lifetime, number)?;
            let logged = parts.journal.append_soon(now, vec![attestation, entry]);
            let Unsigned::Certificate { linted, renew_after, .. } = unsigned else { return Err(internal()) };
            let chain = keys.sign(*linted)?;
            Ok((logged, Issued { chain, renew_after }))
        });
        let (logged, issued) = signed.await.map_err(|_| internal())??;
        logged.await?;
        admitted_attestation(&self.parts.registry.state(), &agent, number)?;
        Ok(issued)
    }

    /// Checks a request for the first SVID of an agent, away from the runtime's threads.
    pub(crate) async fn proven_key(&self, request: Bytes, agent: SpiffeId) -> Result<PublicKey, Refusal> {
        let proven = tokio::task::spawn_blocking(move || prepare::proven_key(&request, &agent));
        proven.await.map_err(|_| internal())?
    }
}

fn submit(queue: &Queue<Job>, jobs: Vec<Job>) {
    let jobs = jobs.into_iter().map(|job| (job.ask.lane(), job));
    for job in queue.push(jobs) {
        let busy = Refusal::unavailable("issuance.busy", "the authority has more requests than it can sign")
            .hint("it is tried again by itself");
        job.ticket.refuse(busy.to_problem(), 1);
    }
}

impl Ask {
    /// An agent's own SVID counts as first: without it nothing else works.
    fn lane(&self) -> Lane {
        match self {
            Self::First(_) | Self::Jwt(_) | Self::Agent(_) => Lane::First,
            Self::Renewal(_) => Lane::Renewal,
        }
    }

    /// Of its message.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::First(ask) => ask.encoded_len(),
            Self::Renewal(ask) => ask.encoded_len(),
            Self::Jwt(ask) => ask.encoded_len(),
            Self::Agent(ask) => ask.encoded_len(),
        }
    }

    /// Empty for the agent's own SVID.
    pub(crate) fn registration(&self) -> &str {
        match self {
            Self::First(ask) => &ask.registration,
            Self::Renewal(ask) => &ask.registration,
            Self::Jwt(ask) => &ask.registration,
            Self::Agent(_) => "",
        }
    }

    fn instance(&self) -> Bytes {
        match self {
            Self::Renewal(ask) => ask.instance.clone(),
            Self::Jwt(ask) => ask.instance.clone(),
            Self::First(_) | Self::Agent(_) => Bytes::new(),
        }
    }
}

impl IssuerParts {
    /// One batch, on a signing thread. The batch's entries go to the ledger in one append, and while the disk works
    /// the signatures are made.
    pub(crate) fn work(self: &Arc<Self>, batch: Vec<Job>) {
        let now = self.clock.now();
        let state = self.registry.state();
        let keys = self.keys.current_in(&state, now);
        let mut ready = Vec::with_capacity(batch.len());
        let mut entries = Vec::with_capacity(batch.len());
        let earnings = Earnings::new(&state, now);
        let random = DrawnAhead::new(&*self.random, batch.len() * prepare::RANDOM_OF_EACH);
        for job in batch {
            let context = self.context(&job.asker.agent, &state, &earnings, &keys, &random, now);
            let attestation = job.asker.attestation;
            let admitted = admitted_attestation(&state, &job.asker.agent, attestation);
            let prepared = admitted.map_err(Hold::from).and_then(|_| match &job.ask {
                Ask::First(ask) => Ok(context.first(ask)?),
                Ask::Renewal(ask) => context.renewal(ask, job.taken.as_deref()),
                Ask::Jwt(ask) => Ok(context.jwt(ask)?),
                Ask::Agent(ask) => Ok(context.agent_renewal(ask, self.agent_lifetime, attestation)?),
            });
            match prepared {
                Ok((unsigned, entry)) => {
                    entries.push(entry);
                    ready.push((job, unsigned));
                }
                Err(Hold::Refused(refusal)) => self.refuse(job, &refusal, now),
                Err(Hold::Elsewhere(claim)) => self.take_over(job, claim),
            }
        }
        let decided_at = state.revision();
        if ready.is_empty() {
            return;
        }
        let batch = Batch { parts: Arc::clone(self), decided_at, half: Arc::default() };
        let written = batch.clone();
        let begun = self.journal.append_then(now, entries, move |logged| written.is_logged(logged));
        batch.is_signed(sign(ready, &keys));
        if let Err(refusal) = begun {
            batch.is_logged(Err(refusal));
        }
    }

    /// Has the log say that this server renews the instance from now on, and then goes on with the job.
    fn take_over(self: &Arc<Self>, job: Job, claim: Box<Claim>) {
        let parts = Arc::clone(self);
        self.moves.spawn(async move {
            if let Err(refusal) = parts.moves.take_over(&claim).await {
                return parts.refuse(job, &refusal, parts.clock.now());
            }
            let job = Job { taken: Some(claim), ..job };
            match parts.queue.get() {
                None => parts.work(vec![job]),
                Some(queue) => {
                    if let Some(queue) = queue.upgrade() {
                        submit(&queue, vec![job]);
                    }
                }
            }
        });
    }

    /// The answer, as it may be given now.
    fn release(&self, signed: Signed, may: Result<(), Refusal>) -> (Ticket, Kind) {
        let Signed { job, noted, answer, agent_svid_expires_at } = signed;
        match may.and(answer) {
            Ok(kind) => {
                if let Some(expires_at) = agent_svid_expires_at {
                    job.asker.connection.renewed(expires_at);
                }
                (job.ticket, kind)
            }
            Err(refusal) => {
                if let Some(Noted { instance, next, before }) = noted {
                    self.lineages.undo(instance, &next, before);
                }
                let retry_after = u32::from(refusal.kind() == tonic::Code::Unavailable);
                let kind = job.ticket.refusal(refusal.to_problem(), retry_after);
                (job.ticket, kind)
            }
        }
    }

    fn refuse(&self, job: Job, refusal: &Refusal, now: UnixTime) {
        let source = Source {
            agent: job.asker.agent.as_str(),
            site: &job.asker.site,
            registration: job.ask.registration(),
            instance: job.ask.instance(),
            address: "",
        };
        self.journal.refused(now, refusal, source);
        let retry_after = u32::from(refusal.kind() == tonic::Code::Unavailable);
        job.ticket.refuse(refusal.to_problem(), retry_after);
    }

    fn context<'a>(
        &'a self,
        agent: &'a SpiffeId,
        state: &'a State,
        earnings: &'a Earnings<'a>,
        keys: &'a KeySet,
        random: &'a dyn Random,
        now: UnixTime,
    ) -> Context<'a> {
        Context {
            agent,
            server: &self.moves.server,
            state,
            earnings,
            keys,
            lineages: &self.lineages,
            random,
            backdate: self.backdate,
            now,
        }
    }
}

/// An instance that was revoked while its next SVID was made does not get it.
fn not_revoked(state: &State, instance: &[u8]) -> Result<(), Refusal> {
    let Ok(bytes) = instance.try_into() else { return Ok(()) };
    let subject = Subject::Instance(InstanceId::from_bytes(bytes));
    match state.revocations().get(&subject) {
        Some(_) => Err(revoked(&subject)),
        None => Ok(()),
    }
}

/// Whether what was decided at a revision may be released now: not if the agent has been banned since, or the
/// registration or its site changed.
fn still_earned(
    state: &State,
    decided_at: u64,
    (agent, attestation): (&SpiffeId, u64),
    registration: &str,
) -> Result<(), Refusal> {
    if state.revision() == decided_at {
        return Ok(());
    }
    let record = admitted_attestation(state, agent, attestation)?;
    if !registration.is_empty() {
        check_quarantine(state, &record.site)?;
    }
    let as_decided = |revision: u64| revision <= decided_at;
    let site = state.site(&record.site).and_then(SiteState::site);
    let stands = registration.is_empty()
        || site.is_some_and(|site| as_decided(site.revision))
            && state.registration_revision(registration).is_some_and(as_decided);
    if stands {
        return Ok(());
    }
    Err(Refusal::unavailable(
        "issuance.overtaken",
        "the registration or its site was changed while the SVID was made",
    )
    .hint("it is tried again by itself"))
}

/// Signs all that a batch asks for, each kind in one go.
fn sign(ready: Vec<(Job, Unsigned)>, keys: &KeySet) -> Vec<Signed> {
    let (mut linted, mut claims) = (Vec::with_capacity(ready.len()), Vec::new());
    let asked = |(job, unsigned): (Job, Unsigned)| match unsigned {
        Unsigned::Jwt(wanted) => {
            let expires_at = wanted.expires_at.as_secs();
            claims.push(wanted);
            (job, Asked::Token { expires_at })
        }
        Unsigned::Certificate { linted: wanted, instance, generation, renew_after, noted } => {
            let is_agent = matches!(job.ask, Ask::Agent(_));
            let agent_svid_expires_at = is_agent.then(|| wanted.validity().not_after());
            let instance =
                instance.map_or_else(Bytes::new, |instance| Bytes::copy_from_slice(instance.as_bytes()));
            linted.push(*wanted);
            (job, Asked::Chain { instance, generation, renew_after, noted, agent_svid_expires_at })
        }
    };
    let asked: Vec<(Job, Asked)> = ready.into_iter().map(asked).collect();
    let mut chains = keys.sign_each(&linted).into_iter();
    let mut tokens = keys.tokens(&claims).into_iter();
    let signed = |(job, asked): (Job, Asked)| {
        let request = job.ticket.request;
        match asked {
            Asked::Token { expires_at } => {
                let token = tokens.next().unwrap_or_else(|| Err(internal()));
                let answer = token.map(|token| Kind::JwtIssued(JwtIssued { request, token, expires_at }));
                Signed { job, noted: None, answer, agent_svid_expires_at: None }
            }
            Asked::Chain { instance, generation, renew_after, noted, agent_svid_expires_at } => {
                let chain = chains.next().unwrap_or_else(|| Err(internal()));
                let answer = chain.map(|chain| {
                    let renew_after = renew_after.as_secs();
                    Kind::X509Issued(X509Issued { request, chain, instance, generation, renew_after })
                });
                Signed { job, noted, answer, agent_svid_expires_at }
            }
        }
    };
    asked.into_iter().map(signed).collect()
}

/// What is asked for, while it is signed.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one, and live as long as a batch")]
enum Asked {
    Token {
        expires_at: i64,
    },
    Chain {
        instance: Bytes,
        generation: u64,
        renew_after: UnixTime,
        noted: Option<Noted>,
        agent_svid_expires_at: Option<UnixTime>,
    },
}

fn internal() -> Refusal {
    Refusal::new(tonic::Code::Internal, "issuance.internal", "the authority failed to sign")
}

#[cfg(test)]
mod tests {
    use bonafide_store::Incarnation;

    use super::*;
    use crate::records::{Agent, Ban, Object};
    use crate::{convert, site::Site};

    const AGENT: &str = "spiffe://example.org/bonafide/agent/edge/0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";
    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn put(state: &mut State, object: &Object) {
        let revision = state.revision() + 1;
        state.apply(revision, &object.key(), Some(&object.encode())).unwrap();
    }

    fn agent(ban: Option<Ban>) -> Object {
        Object::Agent(Arc::new(Agent {
            id: AGENT.parse().unwrap(),
            site: "edge".into(),
            attestor: "join_token".into(),
            selectors: bonafide_attest::SelectorSet::new(),
            attested_at: NOW,
            ban,
            version: String::new(),
            attestation: 0,
            proof: None,
        }))
    }

    fn site(ttl: u32) -> Object {
        let scope = bonafide_wire::types::Scope { max_x509_ttl: ttl, ..Default::default() };
        let wire =
            bonafide_wire::types::Site { name: "edge".into(), scope: Some(scope), ..Default::default() };
        let site: Site = convert::wire::to_site(&wire, &"example.org".parse().unwrap(), NOW).unwrap();
        Object::Site(Arc::new(site))
    }

    fn registration(id: &str) -> Object {
        let selector = bonafide_wire::types::Selector { key: "unix.uid".into(), value: "1".into() };
        let wire = bonafide_wire::types::Registration {
            kind: bonafide_wire::types::registration::Kind::Entry.into(),
            site: "edge".into(),
            spiffe_id: "spiffe://example.org/web".into(),
            selectors: vec![selector],
            ..Default::default()
        };
        let typed = convert::wire::to_registration(&wire, &"example.org".parse().unwrap(), id, NOW).unwrap();
        Object::Registration(Arc::new(typed))
    }

    #[test]
    fn what_was_written_while_the_disk_worked_counts() {
        let mut state = State::empty("example.org".parse().unwrap(), Incarnation::from_bytes([1; 16]));
        for object in [site(3600), agent(None), registration("web"), registration("other")] {
            put(&mut state, &object);
        }
        let decided_at = state.revision();
        let id: SpiffeId = AGENT.parse().unwrap();
        let code = |state: &State, registration: &str| {
            still_earned(state, decided_at, (&id, 0), registration)
                .map_err(|refusal| refusal.code().to_owned())
        };
        assert_eq!(code(&state, "web"), Ok(()));
        put(&mut state, &registration("other"));
        assert_eq!(code(&state, "web"), Ok(()), "others' changes are nothing to it");
        assert_eq!(code(&state, "other").unwrap_err(), "issuance.overtaken");

        let mut narrowed = state.clone();
        put(&mut narrowed, &site(600));
        assert_eq!(code(&narrowed, "web").unwrap_err(), "issuance.overtaken");
        assert_eq!(code(&narrowed, ""), Ok(()), "the agent's own SVID has no registration");

        let mut deleted = state.clone();
        deleted.apply(deleted.revision() + 1, "registration/web", None).unwrap();
        assert_eq!(code(&deleted, "web").unwrap_err(), "issuance.overtaken");

        put(&mut state, &agent(Some(Ban { at: NOW, reason: String::new() })));
        assert_eq!(code(&state, "web").unwrap_err(), "agent.banned");
        assert_eq!(code(&state, "").unwrap_err(), "agent.banned");
    }
}
