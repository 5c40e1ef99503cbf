//! A virtual agent: keeps what it is sent, acknowledges it, and asks for its launches.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bonafide_attest::registration::digest_item;
use bonafide_crypto::{
    digest::SetDigest,
    random::{Random, SystemRandom},
};
use bonafide_identity::{
    TrustDomain,
    time::{Clock, SystemClock, UnixTime},
};
use bonafide_wire::{
    node::{
        Acknowledge, AgentMessage, AuthorityMessage, Bookmark, Hello, RenewAgent, Renewals, Update,
        agent_message, authority_message::Kind,
    },
    problem_of,
    types::Problem,
};
use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::Instant,
};

use crate::{
    line::{Line, failed, version},
    tally::{Event, Tally},
    workload::{Keys, Workload},
};

/// First wait between two attempts to connect; it doubles up to [`LAST_WAIT`]. Half of each is drawn by lot.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(60);
/// Requests of one agent that wait for their answer.
const IN_FLIGHT: usize = 64;
/// After a refusal that does not say when to come again.
const RETRY: Duration = Duration::from_secs(5);
/// Number of the request for the agent's own SVID; launches have the numbers after it.
const OWN: u64 = 0;
/// The agent's own SVID is renewed in the first part of the time for renewals, of so many.
const PARTS: u32 = 32;
/// The `hint` of a registration whose delivery is timed: microseconds since the fleet began follow.
pub(crate) const TIMED: &str = "simulated-at-";

/// What all agents share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tally: Tally,
    pub(crate) keys: Keys,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) began: Instant,
    /// Agents that have all registrations.
    pub(crate) synced: watch::Sender<usize>,
    /// Launches that have had an SVID.
    pub(crate) launched: watch::Sender<usize>,
    /// Deliveries that were timed.
    pub(crate) delivered: AtomicUsize,
    pub(crate) delivery: tokio::sync::Notify,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct VirtualAgent {
    line: Line,
    shared: Arc<Shared>,
    workloads: Vec<Workload>,
    /// Launches that want something, earliest first.
    due: BTreeSet<(Instant, usize)>,
    in_flight: HashMap<u64, usize>,
    hosted: HashMap<String, u64>,
    digest: SetDigest,
    incarnation: Bytes,
    revision: u64,
    own_due: Instant,
    /// The revision whose bundle told of authorities that were tainted, and how many SVIDs under them were told of.
    tainted: Option<(u64, u32)>,
    /// Whether the stream has said all that there was when it began.
    synced: bool,
}

/// Why a stream has ended.
enum Ended {
    Banned,
    Broken(Problem),
    Stopped,
}

impl VirtualAgent {
    pub(crate) fn new(line: Line, shared: Arc<Shared>, workloads: Vec<Workload>) -> Self {
        let now = Instant::now();
        let own_due = instant_of(line.renew_after, 0);
        Self {
            line,
            shared,
            due: (0..workloads.len()).map(|launch| (now, launch)).collect(),
            workloads,
            in_flight: HashMap::new(),
            hosted: HashMap::new(),
            digest: SetDigest::default(),
            incarnation: Bytes::new(),
            revision: 0,
            own_due,
            tainted: None,
            synced: false,
        }
    }

    /// Serves until it is told to stop, or banned. `turn` is held until the first connection works.
    pub(crate) async fn run(mut self, turn: OwnedSemaphorePermit, mut stop: watch::Receiver<bool>) {
        let mut turn = Some(turn);
        let mut failures = 0;
        loop {
            let ended = self.stream(&mut turn, &mut stop).await;
            let worked = self.disconnected();
            drop(turn.take());
            match ended {
                Ended::Stopped => return,
                Ended::Banned => return self.shared.tally.error("agent.banned"),
                Ended::Broken(problem) => self.shared.tally.error(&problem.code),
            }
            failures = if worked { 0 } else { failures + 1 };
            tokio::select! {
                () = tokio::time::sleep(wait(failures)) => {}
                () = told(&mut stop) => return,
            }
            self.shared.tally.reconnected();
        }
    }

    async fn stream(
        &mut self,
        turn: &mut Option<OwnedSemaphorePermit>,
        stop: &mut watch::Receiver<bool>,
    ) -> Ended {
        let began = Instant::now();
        let hello = Hello {
            incarnation: self.incarnation.clone(),
            revision: self.revision,
            set_digest: Bytes::copy_from_slice(&self.digest.bytes()),
            agent_version: version(),
            // It plays no peer that would have to know them.
            revocations_digest: Bytes::new(),
            ..Hello::default()
        };
        let opened = tokio::select! {
            opened = self.line.open(hello) => opened,
            () = told(stop) => return Ended::Stopped,
        };
        let (say, mut hear) = match opened {
            Ok(stream) => stream,
            Err(problem) => return Ended::Broken(problem),
        };
        loop {
            let next = self.next_due();
            let was_synced = self.synced;
            let served = tokio::select! {
                () = told(stop) => return Ended::Stopped,
                message = hear.message() => match message {
                    Ok(Some(AuthorityMessage { kind: Some(Kind::Banned(_)) })) => return Ended::Banned,
                    Ok(Some(message)) => self.hear(message, &say).await,
                    Ok(None) => {
                        let why = "the authority closed the stream";
                        return Ended::Broken(failed("simulation.stream-closed", why));
                    }
                    Err(status) => return Ended::Broken(problem_of(&status)),
                },
                () = tokio::time::sleep_until(next), if was_synced => self.ask(&say).await,
            };
            if let Err(problem) = served {
                return Ended::Broken(problem);
            }
            if self.synced && !was_synced {
                drop(turn.take());
                self.shared.tally.record(Event::Sync, began.elapsed());
                self.shared.synced.send_modify(|count| *count += 1);
            }
        }
    }

    /// Forgets what belonged to the stream; whether it had worked.
    fn disconnected(&mut self) -> bool {
        for (_, launch) in self.in_flight.drain() {
            if let Some(workload) = self.workloads.get_mut(launch) {
                workload.forget_request();
                self.due.insert((Instant::now(), launch));
            }
        }
        let worked = std::mem::take(&mut self.synced);
        if worked {
            self.shared.synced.send_modify(|count| *count = count.saturating_sub(1));
        }
        worked
    }

    fn next_due(&self) -> Instant {
        let launch = self.due.first().filter(|_| self.in_flight.len() < IN_FLIGHT).map(|(at, _)| *at);
        launch.map_or(self.own_due, |launch| launch.min(self.own_due))
    }

    /// Asks for all that is due.
    async fn ask(&mut self, say: &mpsc::Sender<AgentMessage>) -> Result<(), Problem> {
        let now = Instant::now();
        if self.own_due <= now {
            // Until the answer comes.
            self.own_due = now + Duration::from_secs(60);
            let csr = self.line.renewal()?;
            tell(say, agent_message::Kind::RenewAgent(RenewAgent { request: OWN, csr })).await?;
        }
        while self.in_flight.len() < IN_FLIGHT
            && let Some((at, launch)) = self.due.first().copied()
            && at <= now
        {
            self.due.remove(&(at, launch));
            let request = launch as u64 + 1;
            let Some(workload) = self.workloads.get_mut(launch) else { continue };
            let message = workload.ask(request, &self.shared.trust_domain, &self.shared.keys)?;
            self.in_flight.insert(request, launch);
            tell(say, message).await?;
        }
        Ok(())
    }

    async fn hear(
        &mut self,
        message: AuthorityMessage,
        say: &mpsc::Sender<AgentMessage>,
    ) -> Result<(), Problem> {
        match message.kind {
            Some(Kind::Update(update)) => self.apply(update, say).await,
            Some(Kind::Bookmark(Bookmark { revision, .. })) => {
                self.revision = revision;
                self.acknowledge(say).await
            }
            Some(Kind::X509Issued(issued)) if issued.request == OWN => {
                self.line.renewed(&issued.chain, issued.renew_after)?;
                self.own_due = instant_of(self.line.renew_after, 0);
                self.tell_renewals(say).await
            }
            Some(Kind::X509Issued(issued)) => {
                let Some(launch) = self.in_flight.remove(&issued.request) else { return Ok(()) };
                let due = instant_of(UnixTime::from_secs(issued.renew_after), launch);
                let Some(workload) = self.workloads.get_mut(launch) else { return Ok(()) };
                let first = !workload.is_launched();
                if let Some((event, took)) = workload.issued(issued)? {
                    self.shared.tally.record(event, took);
                }
                if first {
                    self.shared.launched.send_modify(|count| *count += 1);
                }
                self.due.insert((due, launch));
                self.tell_renewals(say).await
            }
            Some(Kind::Refused(refused)) => {
                let code = refused.problem.map(|problem| problem.code).unwrap_or_default();
                self.shared.tally.error(&code);
                if refused.request == OWN {
                    return Ok(());
                }
                let Some(launch) = self.in_flight.remove(&refused.request) else { return Ok(()) };
                let retry = Duration::from_secs(refused.retry_after.into());
                self.due.insert((Instant::now() + if retry.is_zero() { RETRY } else { retry }, launch));
                if let Some(workload) = self.workloads.get_mut(launch) {
                    workload.forget_request();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn apply(&mut self, update: Update, say: &mpsc::Sender<AgentMessage>) -> Result<(), Problem> {
        if update.snapshot_start {
            self.hosted.clear();
            self.digest = SetDigest::default();
        }
        self.incarnation = update.incarnation;
        let learned = !update.bundle.is_empty();
        if learned {
            self.line.learn(&update.bundle)?;
        }
        let mut timed = Vec::new();
        for registration in update.upserts {
            if self.synced
                && let Some(micros) =
                    registration.hint.strip_prefix(TIMED).and_then(|micros| micros.parse().ok())
            {
                timed.push(self.shared.began + Duration::from_micros(micros));
            }
            self.digest.insert(&digest_item(&registration.id, registration.revision));
            if let Some(before) = self.hosted.insert(registration.id.clone(), registration.revision) {
                self.digest.remove(&digest_item(&registration.id, before));
            }
        }
        for removed in update.removals {
            if let Some(before) = self.hosted.remove(&removed) {
                self.digest.remove(&digest_item(&removed, before));
            }
        }
        if update.more {
            return Ok(());
        }
        self.revision = update.revision;
        self.synced = true;
        self.acknowledge(say).await?;
        if learned {
            self.replace_tainted();
            self.tell_renewals(say).await?;
        }
        for began in timed {
            self.shared.tally.record(Event::Change, began.elapsed());
            self.shared.delivered.fetch_add(1, Ordering::Relaxed);
            self.shared.delivery.notify_waiters();
        }
        Ok(())
    }

    /// Authorities may have been tainted: what they have signed is renewed within the time that was named, the agent's own
    /// SVID first.
    fn replace_tainted(&mut self) {
        let now = Instant::now();
        self.tainted = self.line.knows_tainted().then_some((self.revision, 0));
        if let Some(within) = self.line.taint_of(self.line.chain()) {
            self.own_due = self.own_due.min(now + share_of(within) / PARTS);
        }
        for (launch, workload) in self.workloads.iter().enumerate() {
            let Some(within) = self.line.taint_of(workload.chain()) else { continue };
            if self.in_flight.values().all(|asked| *asked != launch) {
                self.due.retain(|(_, other)| *other != launch);
                self.due.insert((now + share_of(within), launch));
            }
        }
    }

    /// Tells what is still under a tainted authority: at first, and when nothing is any more.
    async fn tell_renewals(&mut self, say: &mpsc::Sender<AgentMessage>) -> Result<(), Problem> {
        let Some((revision, told)) = self.tainted else { return Ok(()) };
        let chains = self.workloads.iter().map(Workload::chain).chain([self.line.chain()]);
        let left = chains.filter(|chain| self.line.taint_of(chain).is_some()).count();
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        if left > 0 {
            self.tainted = Some((revision, left));
            if told > 0 {
                return Ok(());
            }
        } else {
            self.tainted = None;
        }
        tell(say, agent_message::Kind::Renewals(Renewals { revision, remaining: left })).await
    }

    async fn acknowledge(&self, say: &mpsc::Sender<AgentMessage>) -> Result<(), Problem> {
        let acknowledge = Acknowledge {
            revision: self.revision,
            set_digest: Bytes::copy_from_slice(&self.digest.bytes()),
            revocations_digest: Bytes::new(),
            policies_digest: Bytes::new(),
        };
        tell(say, agent_message::Kind::Acknowledge(acknowledge)).await
    }
}

/// Resolves when the agent is to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    // A fleet that is gone wants it to stop, too.
    let _gone = stop.wait_for(|stop| *stop).await;
}

async fn tell(say: &mpsc::Sender<AgentMessage>, kind: agent_message::Kind) -> Result<(), Problem> {
    let message = AgentMessage { kind: Some(kind) };
    say.send(message).await.map_err(|_| failed("simulation.stream-closed", "the stream is closed"))
}

/// A moment within so many seconds.
fn share_of(within: u32) -> Duration {
    Duration::from_secs(within.into()).mul_f64(lot())
}

/// A number from 0 to 1.
fn lot() -> f64 {
    let random: &dyn Random = &SystemRandom;
    f64::from(u32::from_le_bytes(random.array::<4>())) / f64::from(u32::MAX)
}

/// As the agent of this house waits.
fn wait(failures: u32) -> Duration {
    let longest = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LAST_WAIT);
    longest.mul_f64(0.5 + lot() / 2.0)
}

/// The authority speaks in whole seconds; launches spread over them.
fn instant_of(at: UnixTime, launch: usize) -> Instant {
    let share = (launch as f64 * 0.618_033_988_749_895).fract();
    Instant::now() + at.since(SystemClock.now()) + Duration::from_secs_f64(share)
}
