//! The task of one stream: reads in bursts, lets the session decide, keeps everything bounded.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bonafide_identity::{InstanceId, SpiffeId, VerifiedX509Svid};
use bonafide_wire::IntoStatus;
use bonafide_wire::node::agent_message::Kind as Said;
use bonafide_wire::node::authority_message::Kind;
use bonafide_wire::node::{AgentMessage, AuthorityMessage, Banned, Hello, Renewals, Report, Reported};
use bonafide_wire::types::Problem;
use futures_util::Stream;
use prost::Message;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::feed::Subscription;
use super::outbound::{Sender, Ticket};
use super::session::{Session, Violation};
use crate::entry::{self, entry::Kind as EntryKind};
use crate::issuance::{Ask, Asker, Job};
use crate::journal::Source;
use crate::node::NodeShared;
use crate::rates::Limit;
use crate::records::Agent;
use crate::refusal::Refusal;
use crate::registration::admitted_attestation;
use crate::witnesses::Seat;

/// An agent says hello at once.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// How often the digest is compared when nothing happens; whenever something does, it is compared too. It also shows each
/// side that the other one lives, so that neither has to ping.
const BOOKMARK_EVERY: Duration = Duration::from_secs(300);
/// How often an agent hears that nothing has changed while it holds leases of keys: it stops using them when it hears nothing.
const BOOKMARK_LEASED: Duration = Duration::from_secs(10);
/// When it is looked again, while the store can't be read, whether there is a bookmark to send.
const BOOKMARK_AGAIN: Duration = Duration::from_secs(10);
/// How long an agent may take to read what it is sent.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Messages that are taken from the stream at once.
const MAX_BURST: usize = 64;
/// Launches and ends of one report.
const MAX_REPORT: usize = 1024;
/// Bytes of one launch's selectors. An entry of the ledger has room for so many.
const MAX_LAUNCH: usize = 32 * 1024;
/// Bytes of one request. All requests in flight, of all agents, are held in memory.
const MAX_REQUEST: usize = 64 * 1024;
/// A registration's ID is not longer.
const MAX_REGISTRATION: usize = 64;
const MAX_VERSION: usize = 64;
/// What one agent may report: one for each launch, each end and each KiB. The ledger keeps it for ever.
const REPORTS: Limit = Limit { per_second: 128, burst: 4096 };

/// A stream whose peer has been verified.
pub(crate) struct Driver {
    pub(crate) shared: Arc<NodeShared>,
    pub(crate) agent: SpiffeId,
    /// What the peer connected with.
    pub(crate) svid: Arc<VerifiedX509Svid>,
    /// The attestation that it belongs to.
    pub(crate) attestation: u64,
    pub(crate) sender: Sender,
}

/// Why a stream ends.
enum End {
    /// The agent has closed it, or is gone.
    Gone,
    /// The agent is told, and gets nothing more.
    Banned(Problem),
    Status(Status),
}

/// What a stream needs once it has begun.
struct Open {
    asker: Arc<Asker>,
    record: Arc<Agent>,
    session: Session,
    /// Of an agent that witnesses.
    seat: Option<Seat>,
}

impl Driver {
    /// Runs the stream to its end.
    pub(crate) async fn run(self, mut inbound: Streaming<AgentMessage>) {
        let place = self.shared.places.take(&self.agent);
        let served = tokio::select! {
            biased;
            () = place.replaced() => Err(End::Gone),
            served = self.serve(&mut inbound) => served,
        };
        let end = match served {
            Ok(()) => return,
            Err(end) => end,
        };
        let last = match end {
            End::Gone => return self.sender.abandon(),
            End::Banned(problem) => {
                Ok(AuthorityMessage { kind: Some(Kind::Banned(Banned { problem: Some(problem) })) })
            }
            End::Status(status) => {
                tracing::info!(agent = %self.agent, "the stream ends: {}", status.message());
                Err(status)
            }
        };
        if tokio::time::timeout(WRITE_TIME, self.sender.updates.send(Box::new(last))).await.is_err() {
            self.sender.abandon();
        }
    }

    async fn serve(&self, inbound: &mut Streaming<AgentMessage>) -> Result<(), End> {
        // Boxed: a stream that lives for an hour should not have room for how it began.
        let (mut open, changes) = Box::pin(self.begin(inbound)).await?;
        let expires_in = self.svid.not_after().since(self.shared.clock.now());
        let expiry = tokio::time::sleep(expires_in);
        let bookmark = tokio::time::sleep(BOOKMARK_EVERY);
        let endings = self.shared.keys.endings(&self.agent);
        tokio::pin!(expiry, bookmark);
        loop {
            tokio::select! {
                biased;
                () = self.shared.shutdown.triggered() => {
                    return Err(closing(Code::Unavailable, "stream.shutdown", "the server is stopping"));
                }
                () = &mut expiry => {
                    return Err(closing(Code::Unauthenticated, "stream.svid-expired", "the SVID that the agent connected with has expired"));
                }
                () = self.sender.answers.too_slow() => {
                    return Err(closing(Code::ResourceExhausted, "stream.too-slow", "the agent does not read its answers"));
                }
                ended = endings.next() => self.send(vec![Kind::LeasesEnded(ended)]).await?,
                () = changes.changed() => {
                    open.record = self.admitted()?;
                    let view = self.shared.feed.view(&open.record, open.asker.connection.concern());
                    let messages = open.session.advance(&view);
                    drop(view);
                    if !messages.is_empty() {
                        bookmark.as_mut().reset(Instant::now() + self.quiet());
                    }
                    self.send(messages).await?;
                    // After it was told: an honest agent knows then why, and whom to distrust.
                    self.vouched_for()?;
                    open.asker.connection.acknowledge(open.session.acknowledged());
                }
                // Boxed, as is how it began: for most of its time, a stream waits.
                burst = burst(inbound) => Box::pin(self.hear(&mut open, burst?)).await?,
                () = called(open.seat.as_ref()) => self.offer(&mut open).await?,
                () = endings.given() => {
                    let soon = Instant::now() + BOOKMARK_LEASED;
                    if bookmark.deadline() > soon {
                        bookmark.as_mut().reset(soon);
                    }
                }
                () = &mut bookmark => {
                    // An agent takes what it has for current when it hears so: not from a server that can't know.
                    let current = self.shared.registry.is_current();
                    let next = if current { self.quiet() } else { BOOKMARK_AGAIN };
                    bookmark.as_mut().reset(Instant::now() + next);
                    let view = self.shared.feed.view(&open.record, open.asker.connection.concern());
                    let mut messages = open.session.advance(&view);
                    drop(view);
                    if current {
                        messages.push(open.session.bookmark());
                    }
                    self.send(messages).await?;
                }
            }
        }
    }

    /// How long the agent may hear nothing when nothing happens.
    fn quiet(&self) -> Duration {
        if self.shared.keys.holds(&self.agent) { BOOKMARK_LEASED } else { BOOKMARK_EVERY }
    }

    /// From the agent's hello until it has been told where it stands.
    async fn begin(&self, inbound: &mut Streaming<AgentMessage>) -> Result<(Open, Subscription), End> {
        let hello = self.hello(inbound).await?;
        let record = self.admitted()?;
        let version = printable(&hello.agent_version);
        self.shared.journal.arrived(&self.shared.presence, &self.svid, self.shared.clock.now());
        let connection = self.shared.presence.connect(self.agent.clone(), self.svid.not_after(), &version);
        let changes = self.shared.feed.subscribe(&record, Arc::clone(connection.concern()));
        self.shared.feed.caught_up().await;
        let record = self.admitted()?;
        self.vouched_for()?;
        self.recognised()?;
        // Before it gets anything: what follows would be written after a past that is not the last one.
        let shown = self.shared.witnesses.shown(&hello.checkpoints).await;
        let shown = shown
            .map_err(|(behind, proof)| End::Status(self.shared.rolled_back.stop(behind, &proof).into()))?;
        let (session, first) = Session::begin(&hello, &self.shared.feed.view(&record, connection.concern()));
        changes.begin(session.told());
        let asker = Asker {
            agent: self.agent.clone(),
            attestation: self.attestation,
            site: record.site.clone(),
            connection,
        };
        let seat = hello.witnesses.then(|| self.shared.witnesses.seat(shown));
        let mut open = Open { asker: Arc::new(asker), record, session, seat };
        tracing::info!(agent = %self.agent, version, messages = first.len(), "an agent has connected");
        self.send(first).await?;
        self.offer(&mut open).await?;
        Ok((open, changes))
    }

    async fn hello(&self, inbound: &mut Streaming<AgentMessage>) -> Result<Hello, End> {
        match tokio::time::timeout(HELLO_TIME, inbound.message()).await {
            Ok(Ok(Some(AgentMessage { kind: Some(Said::Hello(hello)) }))) => Ok(hello),
            Ok(Ok(None) | Err(_)) => Err(End::Gone),
            Ok(Ok(Some(_))) | Err(_) => {
                Err(closing(Code::InvalidArgument, "stream.hello", "the agent did not begin with hello"))
            }
        }
    }

    /// Whether the SVID that the agent connected with is good still. Whoever has stolen the key of an authority can be any
    /// agent, until he has to show an SVID again.
    fn vouched_for(&self) -> Result<(), End> {
        if self.shared.registry.state().vouches(self.svid.authorities()) {
            return Ok(());
        }
        Err(closing(
            Code::Unauthenticated,
            "stream.authority-revoked",
            "an authority above the SVID that the agent connected with was revoked",
        ))
    }

    /// Whether the SVID that the agent connected with was issued at all.
    fn recognised(&self) -> Result<(), End> {
        let now = self.shared.clock.now();
        let recognised =
            self.shared.lineages.agents.recognise(&self.svid, &self.shared.registry.state(), now);
        recognised.map_err(|refusal| {
            let source = Source { agent: self.agent.as_str(), ..Source::default() };
            self.shared.journal.refused(now, &refusal, source);
            End::Status(refusal.into())
        })
    }

    /// The agent's record, as long as it may have a stream.
    fn admitted(&self) -> Result<Arc<Agent>, End> {
        match admitted_attestation(&self.shared.registry.state(), &self.agent, self.attestation) {
            Ok(record) => Ok(Arc::clone(record)),
            Err(refusal) if refusal.code() == "agent.banned" => Err(End::Banned(refusal.to_problem())),
            Err(refusal) => {
                if refusal.code() == "agent.superseded" {
                    tracing::warn!(agent = %self.agent, attestation = self.attestation, "a newer attestation with the same certificate ends a stream");
                }
                Err(End::Status(refusal.into()))
            }
        }
    }

    /// Handles what has arrived together. Requests go to the signing threads with one wake-up.
    async fn hear(&self, open: &mut Open, burst: Vec<AgentMessage>) -> Result<(), End> {
        let mut jobs = Vec::with_capacity(burst.len());
        for message in burst {
            match message.kind {
                Some(Said::Hello(_)) => {
                    return Err(closing(Code::InvalidArgument, "stream.hello", "the agent said hello twice"));
                }
                Some(Said::Acknowledge(acknowledge)) => {
                    let view = self.shared.feed.view(&open.record, open.asker.connection.concern());
                    let messages = open.session.acknowledge(&acknowledge, &view).map_err(violated)?;
                    drop(view);
                    if !messages.is_empty() {
                        tracing::warn!(agent = %self.agent, revision = acknowledge.revision, "the agent's registrations differ; it gets a snapshot");
                    }
                    self.send(messages).await?;
                    open.asker.connection.acknowledge(open.session.acknowledged());
                }
                Some(Said::IssueX509(ask)) => self.ask(open, ask.request, Ask::First(ask), &mut jobs),
                Some(Said::RenewX509(ask)) => {
                    self.ask(open, ask.request, Ask::Renewal(Box::new(ask)), &mut jobs);
                }
                Some(Said::IssueJwt(ask)) => self.ask(open, ask.request, Ask::Jwt(ask), &mut jobs),
                Some(Said::RenewAgent(ask)) => self.ask(open, ask.request, Ask::Agent(ask), &mut jobs),
                Some(Said::Report(report)) => self.report(open, report),
                Some(Said::Renewals(Renewals { revision, remaining })) => {
                    open.asker.connection.renewals(revision, remaining);
                }
                Some(Said::Cosigned(cosigned)) => self.cosigned(open, &cosigned.line)?,
                // Of a newer agent; one that matters would have a request number and a time-out.
                None => {}
            }
        }
        if !jobs.is_empty() {
            self.shared.issuer.submit(jobs);
        }
        Ok(())
    }

    /// Sends the newest checkpoint, if the agent witnesses and does not have it.
    async fn offer(&self, open: &mut Open) -> Result<(), End> {
        let Some(seat) = &mut open.seat else { return Ok(()) };
        match seat.offer().await {
            Ok(None) => Ok(()),
            Ok(Some(checkpoint)) => self.send(vec![Kind::Checkpoint(checkpoint)]).await,
            Err(error) => {
                tracing::error!(code = error.code(), "a checkpoint can't be proved to an agent: {error}");
                Ok(())
            }
        }
    }

    fn cosigned(&self, open: &mut Open, line: &str) -> Result<(), End> {
        let Some(seat) = &mut open.seat else { return Ok(()) };
        seat.cosigned(line, self.agent.as_str(), self.svid.leaf().public_key())
            .map_err(|error| closing(Code::InvalidArgument, "stream.cosignature", &error.to_string()))
    }

    fn ask(&self, open: &Open, request: u64, ask: Ask, jobs: &mut Vec<Job>) {
        let Some(ticket) = self.ticket(open, request) else { return };
        if ask.size() > MAX_REQUEST || ask.registration().len() > MAX_REGISTRATION {
            // In words of our own: what is too long is not said again.
            let refusal =
                Refusal::invalid("issuance.too-large", "the request is larger than any request needs to be")
                    .hint("at most 64 KiB, and 64 bytes of a registration's ID");
            let source =
                Source { agent: open.asker.agent.as_str(), site: &open.asker.site, ..Source::default() };
            self.shared.journal.refused(self.shared.clock.now(), &refusal, source);
            ticket.refuse(refusal.to_problem(), 0);
            return;
        }
        jobs.push(Job { ticket, asker: Arc::clone(&open.asker), ask, taken: None });
    }

    /// The right to an answer, within the bounds of this stream and of its site.
    fn ticket(&self, open: &Open, request: u64) -> Option<Ticket> {
        let Some(ticket) = self.sender.answers.ticket(request) else {
            let full = Refusal::new(
                Code::ResourceExhausted,
                "stream.in-flight",
                "the agent has too many requests in flight",
            );
            self.sender.answers.refuse(request, full.to_problem(), 1);
            return None;
        };
        let limit = self.signatures_of(&open.record.site);
        match self.shared.signatures.take(open.record.site.as_str(), limit, Instant::now()) {
            Ok(()) => Some(ticket),
            Err(too_many) => {
                let refusal = Refusal::new(Code::ResourceExhausted, "rate.signatures", format!("the site asks for too many signatures: {too_many}"))
                    .hint("it is tried again by itself; an operator can raise `signatures_per_second` of the site's scope");
                ticket.refuse(refusal.to_problem(), retry_after(too_many.retry_after));
                None
            }
        }
    }

    fn signatures_of(&self, site: &str) -> Limit {
        let state = self.shared.registry.state();
        let of_scope =
            state.site(site).and_then(|site| site.site()).and_then(|site| site.scope.signatures_per_second);
        Limit::per_second(of_scope.map_or(self.shared.limits.signatures_per_second, std::num::NonZero::get))
    }

    /// What became of instances goes to the ledger; the agent may forget it when it is told so.
    fn report(&self, open: &Open, report: Report) {
        let Some(ticket) = self.ticket(open, report.request) else { return };
        let now = self.shared.clock.now();
        let agent = open.asker.agent.to_string();
        let malformed = report.launches.len() + report.ends.len() > MAX_REPORT
            || report.launches.iter().any(|launch| {
                launch.instance.len() != 16
                    || launch.registration.len() > MAX_REGISTRATION
                    || launch.encoded_len() > MAX_LAUNCH
                    || crate::convert::wire::to_selectors(&launch.selectors).is_err()
            })
            || report.ends.iter().any(|end| end.instance.len() != 16);
        if malformed {
            let refusal = Refusal::invalid("report.malformed", "the report is malformed or too long");
            let source = Source { agent: &agent, site: &open.asker.site, ..Source::default() };
            self.shared.journal.refused(now, &refusal, source);
            ticket.refuse(refusal.to_problem(), 0);
            return;
        }
        let cost = (report.launches.len() + report.ends.len()).saturating_add(report.encoded_len() / 1024);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX).max(1);
        if let Err(too_many) = self.shared.reports.charge(&agent, cost, REPORTS, Instant::now()) {
            let message = format!("the agent reports too much: {too_many}");
            let refusal = Refusal::new(Code::ResourceExhausted, "rate.reports", message)
                .hint("it is reported again by itself");
            ticket.refuse(refusal.to_problem(), retry_after(too_many.retry_after));
            return;
        }
        let launches = report.launches.into_iter().map(|launch| {
            let selectors =
                launch.selectors.into_iter().map(|selector| format!("{}:{}", selector.key, selector.value));
            EntryKind::Launch(entry::Launch {
                instance: launch.instance,
                registration: launch.registration,
                agent: agent.clone(),
                selectors: selectors.collect(),
                launched_at: launch.launched_at,
            })
        });
        let mut entries: Vec<EntryKind> = launches.collect();
        for end in report.ends {
            if let Ok(instance) = <[u8; 16]>::try_from(&*end.instance) {
                self.shared.lineages.end(InstanceId::from_bytes(instance), &open.asker.agent);
            }
            entries.push(EntryKind::End(entry::End {
                instance: end.instance,
                agent: agent.clone(),
                ended_at: end.ended_at,
            }));
        }
        let logged = self.shared.journal.append_soon(now, entries);
        tokio::spawn(async move {
            match logged.await {
                Ok(()) => {
                    let request = ticket.request;
                    ticket.answer(Kind::Reported(Reported { request }));
                }
                Err(refusal) => ticket.refuse(refusal.to_problem(), 5),
            }
        });
    }

    /// Sends updates. An agent that doesn't read them is disconnected.
    async fn send(&self, messages: Vec<Kind>) -> Result<(), End> {
        for kind in messages {
            let message = Box::new(Ok(AuthorityMessage { kind: Some(kind) }));
            match tokio::time::timeout(WRITE_TIME, self.sender.updates.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(End::Gone),
                Err(_) => {
                    return Err(closing(
                        Code::ResourceExhausted,
                        "stream.too-slow",
                        "the agent does not read its updates",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// All messages that are there, at least one.
async fn burst(inbound: &mut Streaming<AgentMessage>) -> Result<Vec<AgentMessage>, End> {
    let mut burst = Vec::new();
    std::future::poll_fn(|context| {
        while burst.len() < MAX_BURST {
            match std::pin::Pin::new(&mut *inbound).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => burst.push(message),
                Poll::Ready(Some(Err(_)) | None) if burst.is_empty() => return Poll::Ready(Err(End::Gone)),
                Poll::Pending if burst.is_empty() => return Poll::Pending,
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    Ok(burst)
}

/// Never, if the agent does not witness.
async fn called(seat: Option<&Seat>) {
    match seat {
        Some(seat) => seat.called().await,
        None => std::future::pending().await,
    }
}

fn closing(code: Code, problem: &str, message: &str) -> End {
    let problem =
        Problem { code: problem.to_owned(), message: message.to_owned(), hint: "connect again".to_owned() };
    End::Status(problem.into_status(code))
}

fn violated(violation: Violation) -> End {
    let code = match violation {
        Violation::Ahead => "stream.acknowledgement",
        Violation::Diverged => "stream.diverged",
    };
    closing(Code::FailedPrecondition, code, &violation.to_string())
}

fn retry_after(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// What an agent says of its software, fit for logs and tables.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(MAX_VERSION).collect()
}
