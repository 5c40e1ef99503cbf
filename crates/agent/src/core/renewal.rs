//! Next generations: of instances, and of the agent's own SVID.

use std::{sync::Arc, time::Duration};

use bonafide_attest::lineage;
use bonafide_crypto::{
    csr,
    key::{KeyAlgorithm, PrivateKey, SignError, Signer as _},
};
use bonafide_identity::{InstanceId, time::UnixTime};
use bonafide_wire::{
    node::{Refused, RenewAgent, RenewX509, X509Issued, agent_message},
    types::Problem,
};
use bytes::Bytes;

use super::{
    Core, Effect, LAST_RETRY, RENEWAL_GAP, Timer, backoff,
    claim::{Instance, Renewal, Successor},
    conversation::Request,
    issued_unfit,
};
use crate::{
    convert,
    credential::{Credential, CredentialError},
};

/// The agent's own SVID.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) credential: Arc<Credential>,
    renew_after: UnixTime,
    /// Not before then, after a failure.
    retry_at: Option<UnixTime>,
    /// Kept until the authority has answered.
    successor: Option<Arc<PrivateKey>>,
    in_flight: bool,
    failures: u32,
    pub(super) problem: Option<Problem>,
}

impl Core {
    /// The agent's own SVID is there, or another one.
    pub(crate) fn set_node(&mut self, credential: Arc<Credential>, renew_after: UnixTime) {
        self.timers.insert((renew_after, Timer::Node));
        self.node = Some(Node {
            credential,
            renew_after,
            retry_at: None,
            successor: None,
            in_flight: false,
            failures: 0,
            problem: None,
        });
    }

    /// Why the agent's own SVID was not renewed, if it was to be.
    pub(crate) fn node_problem(&self) -> Option<&Problem> {
        self.node.as_ref()?.problem.as_ref()
    }

    /// When the agent's own SVID ends.
    pub(crate) fn node_expiry(&self) -> Option<UnixTime> {
        Some(self.node.as_ref()?.credential.not_after())
    }

    /// An instance of a launch should be renewed as soon as it may.
    pub(super) fn want_renewal(&mut self, id: InstanceId, now: UnixTime) {
        let synced = self.conversation.synced;
        if self.instances.get(&id).is_none_or(|instance| self.is_withheld(instance)) {
            return;
        }
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let renewal = &mut instance.renewal;
        let may = instance.binding.is_some()
            && instance.renew_after <= now
            && !renewal.in_flight
            && !renewal.queued;
        if synced && may && renewal.not_before.is_none_or(|at| at <= now) {
            renewal.queued = true;
            self.conversation.jobs.renewals.push_back(id);
        } else {
            self.schedule(id, now);
        }
    }

    /// Asks for the next generation, with the same key as long as no answer has come.
    pub(super) fn renew(&mut self, id: InstanceId, now: UnixTime) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.renewal.queued = false;
        if instance.successor.is_none() {
            let Ok(key) = PrivateKey::generate(self.habits.key) else { return };
            instance.successor = Some(Successor { key: Arc::new(key), nonce: self.random.array() });
            // Stored before it is sent: a restart must not make another one.
            self.save(id);
        }
        let Some(instance) = self.instances.get_mut(&id) else { return };
        match renewal_of(instance, &self.trust_domain) {
            Ok(message) => {
                instance.renewal.in_flight = true;
                self.ask(Request::Renew { instance: id }, now, |request| {
                    agent_message::Kind::RenewX509(RenewX509 { request, ..message })
                });
            }
            Err(error) => tracing::error!(%error, "a key that cannot sign its own renewal"),
        }
        // It may expire before an answer comes.
        self.schedule(id, now);
    }

    pub(super) fn renewed(&mut self, id: InstanceId, issued: X509Issued, now: UnixTime) {
        let Some(instance) = self.instances.get(&id) else { return };
        let Some(successor) = instance.successor.clone() else { return };
        let claim = Arc::clone(&instance.claim);
        let expected = instance.generation.saturating_add(1);
        let fit = Credential::new(issued.chain, successor.key, &*self.reader)
            .and_then(|credential| {
                let named = issued.instance.as_ref() == id.as_bytes() && issued.generation == expected;
                if named { Ok(credential) } else { Err(CredentialError::Other { what: "generation" }) }
            })
            .and_then(|credential| self.check_issued(&credential, id, &claim, now).map(|()| credential));
        let credential = match fit {
            Ok(credential) => credential,
            Err(error) => return self.renewal_failed(id, issued_unfit(&error), None, now),
        };
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.credential = Arc::new(credential);
        instance.generation = expected;
        instance.renew_after = UnixTime::from_secs(issued.renew_after).max(now.saturating_add(RENEWAL_GAP));
        instance.successor = None;
        instance.renewal = Renewal::default();
        let launch = instance.binding.as_ref().map(|binding| binding.launch);
        self.tainted_again(id, now);
        self.save(id);
        self.schedule(id, now);
        self.effects.extend(launch.map(Effect::Launch));
    }

    pub(super) fn renewal_refused(&mut self, id: InstanceId, refused: Refused, now: UnixTime) {
        let wait = (refused.retry_after > 0).then(|| Duration::from_secs(refused.retry_after.into()));
        let problem = refused.problem.unwrap_or_default();
        let is_over = wait.is_none() && problem.code.starts_with("lineage.");
        self.renewal_failed(id, problem, wait.or(Some(Duration::MAX)), now);
        if is_over {
            self.replace(id, now);
        }
    }

    /// The authority will never renew this instance: its launch gets another one, and keeps this one until then.
    fn replace(&mut self, id: InstanceId, now: UnixTime) {
        let Some(instance) = self.instances.get(&id) else { return };
        let Some(launch) = instance.binding.as_ref().map(|binding| binding.launch) else { return };
        let bin = self.bin_for(&Arc::clone(&instance.claim), now);
        self.wait_at(bin, launch, now);
        self.serve_waiting(bin, now);
    }

    /// Keeps what there is until it expires, and says why there is nothing newer.
    fn renewal_failed(&mut self, id: InstanceId, problem: Problem, wait: Option<Duration>, now: UnixTime) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        tracing::warn!(instance = %id, code = problem.code, message = problem.message, "an SVID was not renewed");
        let renewal = &mut instance.renewal;
        renewal.in_flight = false;
        let wait = wait.unwrap_or_else(|| backoff(renewal.failures));
        renewal.failures = renewal.failures.saturating_add(1);
        // Asked again when a stream opens or the registration changes, even after a final no.
        renewal.not_before = now.checked_add(wait);
        renewal.problem = Some(problem);
        self.schedule(id, now);
    }

    pub(super) fn node_may_try_again(&mut self) {
        if let Some(node) = &mut self.node {
            node.retry_at = None;
        }
    }

    /// The agent's own SVID is to be renewed earlier than it would be.
    pub(super) fn renew_node_by(&mut self, at: UnixTime, now: UnixTime) {
        if let Some(node) = &mut self.node {
            node.renew_after = node.renew_after.min(at);
            node.retry_at = None;
        }
        self.node_is_due(now);
    }

    pub(super) fn node_is_due(&mut self, now: UnixTime) {
        let synced = self.conversation.synced;
        let Some(node) = self.node.as_mut().filter(|node| !node.in_flight) else { return };
        let due = node.retry_at.map_or(node.renew_after, |at| at.max(node.renew_after));
        if due > now {
            self.timers.insert((due, Timer::Node));
            return;
        }
        if !synced {
            return;
        }
        if node.successor.is_none() {
            node.successor = PrivateKey::generate(KeyAlgorithm::EcP256).ok().map(Arc::new);
        }
        let Some(csr) = node.successor.as_ref().and_then(|key| csr::build(key).ok()) else { return };
        node.in_flight = true;
        self.ask(Request::Node, now, |request| {
            agent_message::Kind::RenewAgent(RenewAgent { request, csr: csr.into() })
        });
    }

    pub(super) fn node_renewed(&mut self, issued: X509Issued, now: UnixTime) {
        let Some(node) = self.node.as_mut() else { return };
        node.in_flight = false;
        let Some(key) = node.successor.clone() else { return };
        let fit = Credential::new(issued.chain, key, &*self.reader).and_then(|credential| {
            if credential.spiffe_id() != node.credential.spiffe_id() {
                return Err(CredentialError::Other { what: "SPIFFE ID" });
            }
            if credential.not_after() <= now { Err(CredentialError::Expired) } else { Ok(credential) }
        });
        match fit {
            Ok(credential) => {
                let renew_after =
                    UnixTime::from_secs(issued.renew_after).max(now.saturating_add(RENEWAL_GAP));
                let credential = Arc::new(credential);
                self.set_node(Arc::clone(&credential), renew_after);
                self.node_tainted_again(now);
                self.effects.push(Effect::Node(credential, renew_after));
            }
            Err(error) => self.node_failed(issued_unfit(&error), None, now),
        }
    }

    pub(super) fn node_refused(&mut self, refused: Refused, now: UnixTime) {
        let wait = (refused.retry_after > 0).then(|| Duration::from_secs(refused.retry_after.into()));
        self.node_failed(refused.problem.unwrap_or_default(), wait.or(Some(LAST_RETRY)), now);
    }

    pub(super) fn node_renewal_lost(&mut self) {
        if let Some(node) = &mut self.node {
            node.in_flight = false;
        }
    }

    fn node_failed(&mut self, problem: Problem, wait: Option<Duration>, now: UnixTime) {
        let Some(node) = self.node.as_mut() else { return };
        tracing::warn!(
            code = problem.code,
            message = problem.message,
            "the agent's own SVID was not renewed"
        );
        node.in_flight = false;
        let retry_at = now.saturating_add(wait.unwrap_or_else(|| backoff(node.failures)));
        node.retry_at = Some(retry_at);
        node.failures = node.failures.saturating_add(1);
        node.problem = Some(problem);
        self.timers.insert((retry_at, Timer::Node));
    }
}

fn renewal_of(
    instance: &Instance,
    trust_domain: &bonafide_identity::TrustDomain,
) -> Result<RenewX509, SignError> {
    let Some(successor) = &instance.successor else { return Err(SignError::Unfit) };
    let previous = instance.credential.key();
    let generation = instance.generation.saturating_add(1);
    let transcript = lineage::transcript(
        trust_domain,
        instance.id,
        generation,
        &successor.nonce,
        previous.public_key().spki_der(),
        successor.key.public_key().spki_der(),
    );
    Ok(RenewX509 {
        request: 0,
        registration: instance.claim.subject.registration.to_string(),
        selectors: convert::to_wire(&instance.claim.subject.selectors),
        instance: Bytes::copy_from_slice(instance.id.as_bytes()),
        generation,
        nonce: Bytes::copy_from_slice(&successor.nonce),
        public_key: Bytes::copy_from_slice(successor.key.public_key().spki_der()),
        previous_key_signature: previous.sign(&transcript)?.into(),
        new_key_signature: successor.key.sign(&transcript)?.into(),
        previous_chain: instance.credential.chain().to_vec(),
        evidence: Bytes::new(),
    })
}
