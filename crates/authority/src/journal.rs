//! What this server signed and refused, on its ledger.

use std::sync::Arc;

use bonafide_identity::VerifiedX509Svid;
use bonafide_identity::time::UnixTime;
use bonafide_ledger::{Ledger, LedgerError};
use bytes::Bytes;
use prost::Message;
use tokio::time::Instant;

use crate::entry::{self, Entry, entry::Kind};
use crate::presence::Presence;
use crate::rates::{Limit, Rates};
use crate::refusal::Refusal;

/// Refusals of one agent or address that are written down, per second. The ledger is for ever; who asks for what he
/// may not have, a thousand times a second, is noted often enough.
const REFUSALS: Limit = Limit { per_second: 2, burst: 20 };
/// Errors of one kind that are logged when the ledger can't be written.
const COMPLAINTS: Limit = Limit { per_second: 1, burst: 1 };

/// Writes entries.
#[derive(Debug)]
pub(crate) struct Journal {
    ledger: Pages,
    refusals: Rates<String>,
    complaints: Arc<Complaints>,
}

/// What was said of a ledger that can't be written: on a full disk everybody who asks for something meets it.
#[derive(Debug)]
struct Complaints(Rates<&'static str>);

/// Where entries go.
#[derive(Debug)]
enum Pages {
    Ledger(Arc<Ledger>),
    #[cfg(feature = "simulation")]
    Simulated(crate::simulation::Pages),
}

/// Who was refused, and what for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source<'a> {
    pub(crate) agent: &'a str,
    pub(crate) site: &'a str,
    pub(crate) registration: &'a str,
    pub(crate) instance: Bytes,
    /// Of a node that attests.
    pub(crate) address: &'a str,
}

impl Journal {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger: Pages::Ledger(ledger), refusals: Rates::new(), complaints: Complaints::new() }
    }

    /// Of a server in a simulation.
    #[cfg(feature = "simulation")]
    pub(crate) fn simulated(pages: crate::simulation::Pages) -> Self {
        Self { ledger: Pages::Simulated(pages), refusals: Rates::new(), complaints: Complaints::new() }
    }

    /// Writes entries; they are on disk when this returns. Returns the index of the first.
    pub(crate) async fn append(&self, now: UnixTime, kinds: Vec<Kind>) -> Result<u64, Refusal> {
        let entries = encode(now, kinds);
        let written = match &self.ledger {
            Pages::Ledger(ledger) => ledger.append_batch(entries).await,
            #[cfg(feature = "simulation")]
            Pages::Simulated(pages) => pages.append(entries),
        };
        written.map_err(|error| self.complaints.failed(&error))
    }

    /// Begins to write entries at once, from any thread. They are on disk when what is returned resolves.
    pub(crate) fn append_soon(
        &self,
        now: UnixTime,
        kinds: Vec<Kind>,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let entries = encode(now, kinds);
        let begun = match &self.ledger {
            #[cfg(not(feature = "simulation"))]
            Pages::Ledger(ledger) => ledger.append_soon(entries),
            #[cfg(feature = "simulation")]
            Pages::Ledger(ledger) => ledger.append_soon(entries).map(futures_util::future::Either::Left),
            #[cfg(feature = "simulation")]
            Pages::Simulated(pages) => {
                let written = std::future::ready(pages.append(entries));
                Ok(futures_util::future::Either::Right(written))
            }
        };
        let complaints = Arc::clone(&self.complaints);
        let begun = begun.map_err(|error| complaints.failed(&error));
        async move { begun?.await.map(|_| ()).map_err(|error| complaints.failed(&error)) }
    }

    /// As [`append_soon`](Self::append_soon), but calls `then` on the ledger's thread, once: it is to be quick.
    pub(crate) fn append_then(
        &self,
        now: UnixTime,
        kinds: Vec<Kind>,
        then: impl FnOnce(Result<(), Refusal>) + Send + 'static,
    ) -> Result<(), Refusal> {
        let entries = encode(now, kinds);
        let complaints = Arc::clone(&self.complaints);
        let then = move |written: Result<u64, LedgerError>| {
            then(written.map(|_| ()).map_err(|error| complaints.failed(&error)));
        };
        match &self.ledger {
            Pages::Ledger(ledger) => {
                ledger.append_then(entries, then).map_err(|error| self.complaints.failed(&error))
            }
            #[cfg(feature = "simulation")]
            Pages::Simulated(pages) => {
                then(pages.append(entries));
                Ok(())
            }
        }
    }

    /// Remembers, for a server that starts again, an agent that opens a stream, unless it is known.
    pub(crate) fn arrived(&self, presence: &Presence, svid: &VerifiedX509Svid, now: UnixTime) {
        if presence.knows(svid.id(), svid.not_after()) {
            return;
        }
        let arrival = entry::Arrival {
            agent: svid.id().to_string(),
            not_after: svid.not_after().as_secs(),
            issuer_key_id: Bytes::copy_from_slice(svid.leaf().authority_key_id().unwrap_or_default()),
        };
        let _resolves_by_itself = self.append_soon(now, vec![Kind::Arrival(arrival)]);
    }

    /// The ledger itself.
    #[cfg(test)]
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        match &self.ledger {
            Pages::Ledger(ledger) => ledger,
            #[cfg(feature = "simulation")]
            Pages::Simulated(_) => unreachable!("a simulated server has no ledger of files"),
        }
    }

    /// Tells people about a refusal, and the ledger too if somebody asked for what he may not have.
    pub(crate) fn refused(&self, now: UnixTime, refusal: &Refusal, source: Source<'_>) {
        if matches!(refusal.kind(), tonic::Code::Unavailable | tonic::Code::ResourceExhausted) {
            tracing::debug!(code = refusal.code(), agent = source.agent, "not now: {refusal}");
            return;
        }
        let who = if source.agent.is_empty() { source.address } else { source.agent };
        if self.refusals.take(who, REFUSALS, Instant::now()).is_err() {
            return;
        }
        let Source { agent, site, registration, address, .. } = source;
        if refusal.code() == "lineage.forked" {
            let instance = hex(&source.instance);
            tracing::error!(agent, registration, instance, "an instance was cloned: {refusal}");
        } else {
            tracing::warn!(code = refusal.code(), agent, registration, address, "refused: {refusal}");
        }
        let entry = entry::Refusal {
            code: refusal.code().to_owned(),
            message: refusal.message().to_owned(),
            agent: agent.to_owned(),
            site: site.to_owned(),
            registration: registration.chars().take(64).collect(),
            instance: source.instance.slice(..source.instance.len().min(16)),
            source: address.to_owned(),
        };
        let _resolves_by_itself = self.append_soon(now, vec![Kind::Refusal(entry)]);
    }
}

impl Complaints {
    fn new() -> Arc<Self> {
        Arc::new(Self(Rates::new()))
    }

    fn failed(&self, why: &LedgerError) -> Refusal {
        if self.0.take(&why.code(), COMPLAINTS, Instant::now()).is_ok() {
            tracing::error!(code = why.code(), "the ledger can't be written, so nothing is issued: {why}");
        }
        // What passes by itself, or once somebody makes room, has its own name: whoever waits knows for what.
        if let (LedgerError::Full | LedgerError::Overloaded, Some(hint)) = (why, why.hint()) {
            return Refusal::unavailable(why.code(), format!("{why}, so nothing is issued")).hint(hint);
        }
        Refusal::unavailable("issuance.ledger", "the authority can't write its ledger, so it issues nothing")
            .hint("look at the authority's log and at the disk of its ledger")
    }
}

fn encode(now: UnixTime, kinds: Vec<Kind>) -> Vec<Vec<u8>> {
    kinds.into_iter().map(|kind| Entry { at: now.as_secs(), kind: Some(kind) }.encode_to_vec()).collect()
}

/// Bytes for people.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
