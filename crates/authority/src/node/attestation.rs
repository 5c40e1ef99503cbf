//! `Attest`: a node proves what it is and gets the agent's SVID.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bonafide_identity::{InstanceId, SpiffeId, reserved};
use bonafide_wire::node::attest_request::Step as Said;
use bonafide_wire::node::attest_response::Step as Answer;
use bonafide_wire::node::{AttestBegin, AttestRequest, AttestResponse, Attested};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::NodeShared;
use super::attestor::{Asked, NodeAttestor, Step, Verdict};
use crate::entry::{self, entry::Kind as EntryKind};
use crate::journal::Source;
use crate::rates::Limit;
use crate::records::{Agent, Object, RecordChange};
use crate::refusal::Refusal;
use crate::registration::{check_quarantine, unbanned_agent};
use crate::stream::driver::printable;

/// For each message of the node.
const STEP_TIME: Duration = Duration::from_secs(10);
/// Challenges of one attestation.
const MAX_STEPS: usize = 4;

type Sender = mpsc::Sender<Result<AttestResponse, Status>>;

/// One attestation.
struct Attestation {
    shared: Arc<NodeShared>,
    source: Option<IpAddr>,
    inbound: Streaming<AttestRequest>,
    sender: Sender,
}

/// Runs an attestation in a task of its own.
pub(super) fn start(
    shared: Arc<NodeShared>,
    source: Option<IpAddr>,
    inbound: Streaming<AttestRequest>,
) -> ReceiverStream<Result<AttestResponse, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let shutdown = shared.shutdown.clone();
        let attestation = Attestation { shared, source, inbound, sender };
        let _stopped = shutdown.unless_triggered(attestation.run()).await;
    });
    ReceiverStream::new(receiver)
}

impl Attestation {
    async fn run(mut self) {
        if let Err(refusal) = self.attest().await {
            let address = self.source.map(|source| source.to_string()).unwrap_or_default();
            let source = Source { address: &address, ..Source::default() };
            self.shared.journal.refused(self.shared.clock.now(), &refusal, source);
            let _gone = self.sender.send(Err(refusal.into())).await;
        }
    }

    async fn attest(&mut self) -> Result<(), Refusal> {
        self.check_source()?;
        let begin = match self.next().await? {
            Said::Begin(begin) => begin,
            Said::ChallengeResponse(_) => return Err(malformed("it did not begin")),
        };
        let attestor = self.attestor(&begin)?;
        let verdict = self.verdict(&*attestor, &begin).await?;
        let agent = self.agent_id(&verdict)?;
        // The key before the token is spent: a node with a broken request may try again.
        let key = self.shared.issuer.proven_key(begin.csr.clone(), agent.clone()).await?;
        let (site, evidence) = (verdict.site.clone(), verdict.evidence.clone());
        let number = self.admit(&agent, attestor.kind(), verdict, &begin.agent_version).await?;
        let attestation = EntryKind::Attestation(entry::Attestation {
            agent: agent.to_string(),
            site: site.clone(),
            attestor: attestor.kind().to_owned(),
            evidence,
            source: self.source.map(|source| source.to_string()).unwrap_or_default(),
            attestation: number,
        });
        let issued = self.shared.issuer.agent_svid(agent.clone(), key, number, attestation).await?;
        tracing::info!(agent = %agent, site, attestor = attestor.kind(), attestation = number, "a node was attested");
        let bundle = Arc::clone(self.shared.registry.state().bundle());
        self.say(Answer::Attested(Attested {
            chain: issued.chain,
            bundle: self.shared.feed.document(&bundle),
            site,
            renew_after: issued.renew_after.as_secs(),
        }))
        .await
    }

    /// Before anything is read: whoever floods us pays with his own address' rate.
    fn check_source(&self) -> Result<(), Refusal> {
        let Some(source) = self.source else { return Ok(()) };
        let limit = Limit::per_second(self.shared.limits.attestations_per_source);
        self.shared.sources.take(&prefix(source), limit, Instant::now()).map_err(|too_many| {
            Refusal::new(
                Code::ResourceExhausted,
                "rate.source",
                format!("too many attestations from this address: {too_many}"),
            )
        })
    }

    fn attestor(&self, begin: &AttestBegin) -> Result<Arc<dyn NodeAttestor>, Refusal> {
        let attestor = self.shared.attestors.iter().find(|attestor| attestor.kind() == begin.attestor);
        let attestor = attestor.ok_or_else(|| {
            Refusal::invalid("attest.attestor", "the authority has no such node attestor")
                .hint("use `join_token` or `x509pop`, or ask an operator which attestors there are")
        })?;
        if begin.evidence.len() > attestor.max_evidence() {
            return Err(malformed("its evidence is too long"));
        }
        let state = self.shared.registry.state();
        if let Some(site) = attestor.claimed_site(&begin.evidence, &state) {
            let scope = state.site(&site).and_then(|site| site.site()).map(|site| &site.scope);
            let per_second = scope
                .and_then(|scope| scope.attestations_per_second)
                .map_or(self.shared.limits.attestations_per_second, std::num::NonZero::get);
            let limit = Limit::per_second(per_second);
            self.shared.attestations.take(site.as_str(), limit, Instant::now()).map_err(|too_many| {
                Refusal::new(
                    Code::ResourceExhausted,
                    "rate.attestations",
                    format!("the site attests too many nodes: {too_many}"),
                )
                .hint("try again; an operator can raise `attestations_per_second` of the site's scope")
            })?;
        }
        Ok(Arc::clone(attestor))
    }

    async fn verdict(
        &mut self,
        attestor: &dyn NodeAttestor,
        begin: &AttestBegin,
    ) -> Result<Verdict, Refusal> {
        let asked = Asked { evidence: &begin.evidence, csr: &begin.csr };
        let now = self.shared.clock.now();
        // Whoever is refused costs a look at the store; how often he may try, the rates say.
        let mut step = self.shared.registry.judged(|state| attestor.begin(asked, state, now)).await?;
        for _ in 0..MAX_STEPS {
            let (challenge, pending) = match step {
                Step::Verdict(verdict) => return Ok(verdict),
                Step::Challenge { challenge, pending } => (challenge, pending),
            };
            self.say(Answer::Challenge(Bytes::from(challenge))).await?;
            let Said::ChallengeResponse(response) = self.next().await? else {
                return Err(malformed("it began twice"));
            };
            if response.len() > attestor.max_evidence() {
                return Err(malformed("its answer is too long"));
            }
            step = pending.answer(&response, &self.shared.registry.state(), self.shared.clock.now())?;
        }
        Err(malformed("it takes too many steps"))
    }

    /// Writes the agent's record and spends the evidence, in one commit. Returns how often the agent had attested
    /// before.
    async fn admit(
        &self,
        agent: &SpiffeId,
        attestor: &'static str,
        verdict: Verdict,
        version: &str,
    ) -> Result<u64, Refusal> {
        let again = verdict.agent.is_some();
        let record = Agent {
            id: agent.clone(),
            site: verdict.site,
            attestor: attestor.to_owned(),
            selectors: verdict.selectors,
            attested_at: self.shared.clock.now(),
            ban: None,
            version: printable(version),
            attestation: 0,
            proof: verdict.proof,
        };
        let presence = self.shared.presence.agent(agent);
        if presence.is_some_and(|presence| presence.is_connected()) {
            tracing::warn!(agent = %agent, source = ?self.source, "a node attests again while its agent is connected: its streams will end");
        }
        let numbered = Arc::new(AtomicU64::new(0));
        let number = Arc::clone(&numbered);
        let spend = verdict.spend;
        self.shared
            .registry
            .write(move |state| {
                let mut changes = spend(state)?;
                check_quarantine(state, &record.site)?;
                if state.site(&record.site).is_none() {
                    return Err(Refusal::denied("attest.site", "the site of this evidence is gone"));
                }
                let before = match state.agent(&record.id) {
                    None => None,
                    Some(before) if again && before.site == record.site => {
                        Some(unbanned_agent(state, &before.id)?)
                    }
                    Some(_) => {
                        return Err(Refusal::unavailable(
                            "attest.agent-exists",
                            "the agent's ID is taken; try again",
                        ));
                    }
                };
                let attestation = before.map_or(0, |before| before.attestation.saturating_add(1));
                number.store(attestation, Ordering::Relaxed);
                let record = Agent { attestation, ..record.clone() };
                changes.push(RecordChange::Put(Object::Agent(Arc::new(record))));
                Ok(changes)
            })
            .await?;
        // Of the last run of the mutation, the one that was committed.
        Ok(numbered.load(Ordering::Relaxed))
    }

    /// Random, unless the evidence has an agent of its own: nothing of a token shows in it.
    fn agent_id(&self, verdict: &Verdict) -> Result<SpiffeId, Refusal> {
        let fresh = || uuid::Builder::from_random_bytes(self.shared.random.array()).into_uuid().into_bytes();
        let uuid = InstanceId::from_bytes(verdict.agent.unwrap_or_else(fresh)).to_string();
        reserved::agent_id(self.shared.registry.state().trust_domain(), &verdict.site, &uuid)
            .map_err(|error| Refusal::invalid(error.code(), error.to_string()))
    }

    async fn next(&mut self) -> Result<Said, Refusal> {
        let message = tokio::time::timeout(STEP_TIME, self.inbound.message()).await;
        match message {
            Ok(Ok(Some(AttestRequest { step: Some(step) }))) => Ok(step),
            Ok(_) => Err(malformed("it ended early")),
            Err(_) => Err(malformed("it took too long")),
        }
    }

    async fn say(&self, step: Answer) -> Result<(), Refusal> {
        let gone = |_| Refusal::unavailable("attest.gone", "the node is gone");
        self.sender.send(Ok(AttestResponse { step: Some(step) })).await.map_err(gone)
    }
}

fn malformed(what: &str) -> Refusal {
    Refusal::invalid("attest.malformed", format!("the attestation is malformed: {what}"))
}

/// Who has one IPv6 address has 2^64 of them.
fn prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(network.into())
        }
    }
}
