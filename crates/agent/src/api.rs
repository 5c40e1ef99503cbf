//! What is served on the agent's socket.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bonafide_crypto::random::Random;
use bonafide_identity::SpiffeId;
use tonic::Request;

use crate::{
    attestor::{Attestation, Attested},
    config::{AgentConfig, DecisionsConfig},
    core::LaunchKey,
    decisions::Decisions,
    engine::Engine,
    guard::Guards,
    peer::Peer,
    process::Evidence,
    refusal::Refusal,
};

mod authorize;
mod authzen;
mod ext_authz;
mod feed;
mod json;
mod jwts;
mod keys;
mod opa;
mod own;
mod policies;
mod revocations;
#[cfg(test)]
mod tests;
mod workload;

pub(crate) use ext_authz::{ExtAuthzService, MAX_CHECK};
pub(crate) use json::routes as json_routes;
pub(crate) use keys::{KeysService, LeasesService};
pub(crate) use own::OwnService;
pub(crate) use workload::WorkloadService;

/// How long a caller waits for an SVID that has been asked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest request of a workload.
pub(crate) const MAX_REQUEST: usize = 64 * 1024;

/// What all services share.
#[derive(Clone, Debug)]
pub(crate) struct Api(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    attestation: Attestation,
    streams: Streams,
    jwts: jwts::Cache,
    guards: Guards,
    decisions: Decisions,
    allow_unauthenticated_verifiers: bool,
    evidence: Evidence,
}

/// An attested caller.
#[derive(Clone, Debug)]
struct Caller {
    peer: Peer,
    key: LaunchKey,
    attested: Attested,
}

impl Api {
    pub(crate) fn new(
        engine: Arc<Engine>,
        attestation: Attestation,
        config: &AgentConfig,
        evidence: Evidence,
        random: &dyn Random,
    ) -> Self {
        let guards = Guards::new(engine.trust_domain().clone(), u64::from_ne_bytes(random.array()));
        let DecisionsConfig { keep, allowed_one_in } = config.decisions;
        let name: [u8; 6] = random.array();
        let name = name.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(Arc::new(Shared {
            engine,
            attestation,
            streams: Streams { limit: config.limits.streams_per_process, open: Mutex::default() },
            jwts: jwts::Cache::new(config.limits.jwts),
            guards,
            decisions: Decisions::new(keep, allowed_one_in, name),
            allow_unauthenticated_verifiers: config.allow_unauthenticated_verifiers,
            evidence,
        }))
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }

    /// Attests the caller anew: what it was a minute ago says nothing.
    async fn caller(&self, peer: Peer) -> Result<Caller, Refusal> {
        let key = LaunchKey { pid: peer.process()?.pid(), image: peer.image().await? };
        let attested = self.0.attestation.attest(&peer).await?;
        Ok(Caller { peer, key, attested })
    }

    /// Gives the caller's launch its identities, as far as they are there.
    async fn attach(&self, caller: &Caller) -> Result<(), Refusal> {
        let process = caller.peer.process()?;
        self.engine().attach(process, caller.key, caller.attested.selectors.clone())?;
        // It may have ended, or become another, since it was attested.
        caller.peer.check_unchanged().await
    }

    /// Whether bundles are for this caller.
    fn may_verify(&self, caller: &Caller) -> Result<(), Refusal> {
        let allowed = self.0.allow_unauthenticated_verifiers;
        self.engine().with(|core, now| {
            core.check_ready()?;
            let identified = || !core.matches(&caller.attested.selectors, now).is_empty();
            if allowed || identified() { Ok(()) } else { Err(Refusal::no_registration()) }
        })
    }
}

/// Who sent a request; put there when the connection was accepted.
fn peer_of<T>(request: &Request<T>) -> Result<Peer, Refusal> {
    request.extensions().get::<Peer>().cloned().ok_or_else(Refusal::stopping)
}

/// SPIFFE Workload Endpoint §6.1: exactly this, so that nobody can be made to ask by accident.
fn check_security_header<T>(request: &Request<T>) -> Result<(), Refusal> {
    let mut values = request.metadata().get_all("workload.spiffe.io").iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Refusal::no_security_header()),
    }
}

/// Reads a SPIFFE ID of a request; none if it is empty.
fn wanted_id(text: &str) -> Result<Option<SpiffeId>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = text.parse();
    id.map(Some).map_err(|error| Refusal::invalid("request.spiffe-id", format!("`spiffe_id`: {error}")))
}

/// Counts open streams of each process.
#[derive(Debug)]
struct Streams {
    limit: usize,
    open: Mutex<HashMap<LaunchKey, usize>>,
}

/// One open stream.
#[derive(Debug)]
struct StreamSlot {
    api: Api,
    key: LaunchKey,
}

impl Api {
    fn open_stream(&self, key: LaunchKey) -> Result<StreamSlot, Refusal> {
        let streams = &self.0.streams;
        let mut open = streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(key).or_default();
        if *count >= streams.limit {
            return Err(Refusal::too_many("open streams of the process", streams.limit));
        }
        *count += 1;
        Ok(StreamSlot { api: self.clone(), key })
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut open = self.api.0.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}
