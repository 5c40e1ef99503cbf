//! The agent's own service: who a process is to it, and how it is itself.

use std::sync::Arc;

use bonafide_crypto::kept::{KeptKey, Protection};
use bonafide_wire::agent::{
    AgentStatus, AuthorizeRequest, AuthorizeResponse, ExplainRequest, Explanation, Identity,
    ListDecisionsRequest, ListDecisionsResponse, NearMiss, PeerEvidence, StatusRequest, WatchPoliciesRequest,
    WatchRevocationsRequest, WhoAmIRequest, agent_server::Agent,
};
use tonic::{Request, Response, Status};

use super::{Api, peer_of};
use crate::{
    attestor::Attested,
    convert,
    core::{IdentityState, LaunchKey},
    link::rejoin_needed,
    peer::Peer,
    process::{Evidence, Process},
    refusal::Refusal,
};

/// Registrations that nearly matched, at most.
const NEAR_MISSES: usize = 10;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct OwnService(pub(crate) Api);

#[tonic::async_trait]
impl Agent for OwnService {
    type WatchRevocationsStream = super::revocations::Stream;
    type WatchPoliciesStream = super::policies::Stream;

    async fn authorize(
        &self,
        request: Request<AuthorizeRequest>,
    ) -> Result<Response<AuthorizeResponse>, Status> {
        let peer = peer_of(&request)?;
        Ok(Response::new(self.0.authorize(peer, request.get_ref()).await?))
    }

    async fn watch_policies(
        &self,
        request: Request<WatchPoliciesRequest>,
    ) -> Result<Response<Self::WatchPoliciesStream>, Status> {
        let peer = peer_of(&request)?;
        Ok(Response::new(self.0.watch_policies(peer).await?))
    }

    async fn list_decisions(
        &self,
        request: Request<ListDecisionsRequest>,
    ) -> Result<Response<ListDecisionsResponse>, Status> {
        let peer = peer_of(&request)?;
        peer.check_unchanged().await?;
        Ok(Response::new(self.0.decisions(&peer, request.get_ref()).await?))
    }

    async fn watch_revocations(
        &self,
        request: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let peer = peer_of(&request)?;
        peer.check_unchanged().await?;
        Ok(Response::new(self.0.watch_revocations(peer).await?))
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<Explanation>, Status> {
        Ok(Response::new(self.0.who_am_i(peer_of(&request)?).await?))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<Explanation>, Status> {
        let peer = peer_of(&request)?;
        Ok(Response::new(self.0.explain(peer, request.into_inner().pid).await?))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<AgentStatus>, Status> {
        let peer = peer_of(&request)?;
        peer.check_unchanged().await?;
        Ok(Response::new(self.0.status()))
    }
}

impl Api {
    /// What the agent knows of the caller. Binds nothing to it.
    pub(super) async fn who_am_i(&self, peer: Peer) -> Result<Explanation, Refusal> {
        let caller = self.caller(peer).await?;
        let evidence = caller.peer.process()?.evidence();
        let root = caller.attested.uid == 0;
        Ok(self.explanation(caller.key, evidence, caller.attested, root))
    }

    /// What the agent knows of a process, for root and for the process' own user.
    pub(super) async fn explain(&self, peer: Peer, pid: i32) -> Result<Explanation, Refusal> {
        let caller = self.caller(peer).await?;
        let root = caller.attested.uid == 0;
        let evidence = self.0.evidence;
        let process = Process::open(pid, evidence)?;
        let uid = process.credentials()?.uid;
        if !root && uid != caller.attested.uid {
            return Err(Refusal::not_yours());
        }
        let key = LaunchKey { pid, image: self.0.attestation.looks().image(&process, uid).await? };
        let attested = self.0.attestation.attest_other(&process).await?;
        if !root && attested.uid != caller.attested.uid {
            return Err(Refusal::not_yours());
        }
        Ok(self.explanation(key, evidence, attested, root))
    }

    fn explanation(&self, key: LaunchKey, evidence: Evidence, attested: Attested, root: bool) -> Explanation {
        let site = self.engine().node_facts().map(|(_, site)| site).unwrap_or_default();
        self.engine().with(|core, now| {
            let held = core.identities(&key);
            let mut identities: Vec<Identity> = Vec::new();
            for (id, registration) in core.matches(&attested.selectors, now) {
                let known = held.iter().find(|identity| identity.registration.id == *id);
                identities.push(match known {
                    Some(known) => to_identity(known),
                    None => Identity {
                        spiffe_id: registration
                            .spiffe_id(&attested.selectors)
                            .map_or_else(|_| registration.spiffe_id_text(), |id| id.to_string()),
                        registration: registration.id.clone(),
                        hint: registration.hint.clone(),
                        problem: registration
                            .spiffe_id(&attested.selectors)
                            .err()
                            .map(|error| crate::refusal::problem(error.code(), &error, error.hint())),
                        ..Identity::default()
                    },
                });
            }
            let problem = match core.check_ready() {
                Err(refusal) => Some(refusal.to_problem()),
                Ok(()) if identities.is_empty() => Some(Refusal::no_registration().to_problem()),
                Ok(()) => None,
            };
            let near_misses = if root {
                let nearest = core.view.near_misses(&attested.selectors, NEAR_MISSES);
                nearest
                    .into_iter()
                    .map(|(registration, missing)| NearMiss {
                        registration: registration.id.clone(),
                        spiffe_id: registration.spiffe_id_text(),
                        missing: convert::to_wire(&missing),
                    })
                    .collect()
            } else {
                Vec::new()
            };
            Explanation {
                pid: key.pid,
                peer_evidence: evidence.as_str().to_owned(),
                selectors: convert::to_wire(&attested.selectors),
                attestor_failures: attested.failures,
                identities,
                problem,
                near_misses,
                agent_id: core.agent_id().map(ToString::to_string).unwrap_or_default(),
                site,
            }
        })
    }

    pub(super) fn status(&self) -> AgentStatus {
        let engine: &Arc<_> = self.engine();
        let connection = engine.connection();
        let site = engine.node_facts().map(|(_, site)| site).unwrap_or_default();
        let sees_layout = Process::open(std::process::id().cast_signed(), self.0.evidence)
            .and_then(|process| process.image())
            .is_ok_and(|image| image.sees_layout());
        let keys_in = KeptKey::protection();
        engine.with(|core, now| {
            let (instances, pooled) = core.counts();
            let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let expires_at = core.node_expiry();
            let expired = expires_at.is_some_and(|at| at <= now);
            let problem = connection.problem.or_else(|| expired.then(rejoin_needed));
            AgentStatus {
                agent_id: core.agent_id().map(ToString::to_string).unwrap_or_default(),
                trust_domain: engine.trust_domain().to_string(),
                site,
                connected: connection.connected && core.is_synced(),
                problem: problem.or_else(|| core.node_problem().cloned()),
                revision: core.view.revision(),
                registrations: count(core.view.len()),
                instances: count(instances),
                pooled: count(pooled),
                agent_svid_expires_at: expires_at.map(|at| at.as_secs()).unwrap_or_default(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                peer_evidence: vec![
                    evidence("pidfd", self.0.evidence == Evidence::Pidfd),
                    evidence("exec-layout", sees_layout),
                    evidence("state-on-tmpfs", engine.storage().is_volatile()),
                    evidence("keys-in-memfd-secret", keys_in == Protection::Secret),
                    evidence("keys-never-swapped", keys_in >= Protection::Locked),
                ],
            }
        })
    }
}

fn evidence(name: &str, available: bool) -> PeerEvidence {
    PeerEvidence { name: name.to_owned(), available }
}

fn to_identity(identity: &IdentityState) -> Identity {
    let held = identity.held.as_ref();
    Identity {
        spiffe_id: identity
            .spiffe_id
            .as_ref()
            .map_or_else(|| identity.registration.spiffe_id_text(), ToString::to_string),
        registration: identity.registration.id.clone(),
        hint: identity.registration.hint.clone(),
        instance: held.map(|held| held.instance.to_string()).unwrap_or_default(),
        expires_at: held.map(|held| held.credential.not_after().as_secs()).unwrap_or_default(),
        renew_after: held.map(|held| held.renew_after.as_secs()).unwrap_or_default(),
        generation: held.map(|held| held.generation).unwrap_or_default(),
        problem: identity.problem.clone(),
    }
}
