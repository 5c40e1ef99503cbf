//! Who uses a key: a workload by itself, or an instance for which its agent asks.
//!
//! What counts of a caller was certified by this trust domain's authority. An agent says for which instance it asks, and shows
//! the instance's certificate; that this agent holds the instance stands in the certificate too. Nothing else that a message
//! says of a caller is looked at.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bonafide_crypto::digest::sha256;
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_identity::{InstanceId, SpiffeId, VerifiedX509Svid, jwt, reserved, x509};
use bonafide_net::tls_listener::{PeerAddress, PeerSvid};
use bonafide_policy::{Caller as Subject, CertifiedLabels};
use bonafide_wire::kms::OnBehalfOf;
use bytes::Bytes;
use tonic::{Code, Extensions};

use crate::certified::Certified;
use crate::issuance::lineages::Lineages;
use crate::key_entry;
use crate::keys::Keys;
use crate::refusal::Refusal;
use crate::registration::{admitted_attestation, attestation_of};
use crate::registry::Registry;
use crate::state::State;

/// Instances that are remembered as verified.
const MAX_SEEN: usize = 65_536;
/// Certificates of a chain, and bytes of each.
const MAX_CHAIN: usize = 8;
const MAX_CERTIFICATE: usize = 16 * 1024;

/// A workload that uses keys. What is certified of it is judged again in every state: [`Caller::check`].
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    certified: Arc<Certified>,
    subject: Arc<Subject>,
    /// The agent that asks for it, if it does not ask itself.
    through: Option<SpiffeId>,
    source: Option<IpAddr>,
}

/// Finds out who calls.
#[derive(Debug)]
pub(crate) struct Callers {
    registry: Registry,
    keys: Arc<Keys>,
    lineages: Arc<Lineages>,
    clock: Arc<dyn Clock>,
    seen: Mutex<HashMap<InstanceId, Seen>>,
}

/// An instance whose certificate was verified.
#[derive(Clone, Debug)]
struct Seen {
    leaf: [u8; 32],
    caller: Caller,
}

impl Caller {
    /// What the certificate of a workload says of it. `None`: too little.
    pub(crate) fn of(svid: &VerifiedX509Svid, source: Option<IpAddr>) -> Option<Self> {
        let certified = Certified::of(svid)?;
        let subject = Subject::new(certified.id.clone(), certified.labels.clone());
        Some(Self { certified: Arc::new(certified), subject: Arc::new(subject), through: None, source })
    }

    /// Whether it may do anything in this state.
    ///
    /// # Errors
    /// `kms.caller-over`.
    pub(crate) fn check(&self, state: &State, now: UnixTime) -> Result<(), Refusal> {
        if self.certified.standing(state, now).is_some() {
            return Ok(());
        }
        Err(Refusal::denied(
            "kms.caller-over",
            "the caller's SVID has ended, was revoked, or would not be issued to it any more",
        )
        .hint("`bonafide explain` on its node shows why it gets no new one"))
    }

    pub(crate) fn id(&self) -> &SpiffeId {
        &self.certified.id
    }

    pub(crate) fn instance(&self) -> Option<InstanceId> {
        self.certified.instance
    }

    pub(crate) fn site(&self) -> &str {
        &self.certified.site
    }

    pub(crate) fn registration(&self) -> &str {
        &self.certified.registration
    }

    /// When its SVID ends.
    pub(crate) fn expires_at(&self) -> UnixTime {
        self.certified.expires_at
    }

    /// When its SVID was issued.
    pub(crate) fn issued_at(&self) -> UnixTime {
        self.certified.issued_at
    }

    /// As policies see it.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// The agent that asks for it.
    pub(crate) fn through(&self) -> Option<&SpiffeId> {
        self.through.as_ref()
    }

    /// For the ledger.
    pub(crate) fn actor(&self) -> key_entry::Actor {
        key_entry::Actor {
            id: self.id().to_string(),
            instance: self
                .instance()
                .map(|instance| Bytes::copy_from_slice(instance.as_bytes()))
                .unwrap_or_default(),
            site: self.site().to_owned(),
            agent: self.through.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl Callers {
    pub(crate) fn new(
        registry: Registry,
        keys: Arc<Keys>,
        lineages: Arc<Lineages>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { registry, keys, lineages, clock, seen: Mutex::default() }
    }

    /// Who a call is for.
    ///
    /// # Errors
    /// Nobody; a workload that asks for another one; an agent that asks for itself, or for an instance that it does not hold.
    pub(crate) fn of(
        &self,
        extensions: &Extensions,
        on_behalf_of: Option<&OnBehalfOf>,
    ) -> Result<Caller, Refusal> {
        let svid = peer(extensions)?;
        let source = source(extensions);
        let (state, now) = (self.registry.state(), self.clock.now());
        let caller = match (reserved::agent_site(svid.id()), on_behalf_of) {
            (None, None) => Caller::of(&svid, source).ok_or_else(unknown)?,
            (None, Some(_)) => {
                return Err(Refusal::denied("kms.not-an-agent", "only an agent asks for another workload")
                    .hint("leave `on_behalf_of` out: the caller is who it proves to be"));
            }
            (Some(_), None) => {
                return Err(Refusal::denied("kms.agent-itself", "an agent has no use for keys of its own")
                    .hint("say in `on_behalf_of` for which instance it asks"));
            }
            (Some(_), Some(of)) => {
                self.admit(&svid, &state, now)?;
                self.instance(&svid, of, source, now)?
            }
        };
        if let Some(instance) = caller.instance()
            && self.lineages.has_ended(instance, now)
        {
            return Err(Refusal::denied("kms.instance-over", "the process of this instance has ended")
                .hint("start the workload again: it gets another instance"));
        }
        caller.check(&state, now)?;
        Ok(caller)
    }

    /// Whether the other side of the connection has shown an SVID.
    pub(crate) fn has_shown(extensions: &Extensions) -> bool {
        extensions.get::<PeerSvid>().is_some_and(|peer| peer.0.is_some())
    }

    /// The workload that a JWT-SVID of this authority is of, given for a call to `audience`, and when it was issued and ends.
    ///
    /// # Errors
    /// A token that is not valid; else as [`Callers::bearer`].
    pub(crate) fn by_jwt(
        &self,
        token: &str,
        audience: &str,
        extensions: &Extensions,
    ) -> Result<Caller, Refusal> {
        let svid = jwt::verify(token, self.keys.current().bundles(), audience, self.clock.now()).map_err(
            |error| {
                Refusal::new(Code::Unauthenticated, error.code(), error.to_string())
                    .hint(format!("ask the agent for a token whose audience is `{audience}`"))
            },
        )?;
        let issued_at = svid.issued_at().unwrap_or(UnixTime::from_secs(0));
        self.bearer(svid.id().clone(), svid.instance(), issued_at, svid.expires_at(), extensions)
    }

    /// A workload that has shown a token, and no certificate: what a certificate would say of it is looked up. It administers
    /// nothing.
    ///
    /// # Errors
    /// An instance that there is not, or that has ended; a workload that would not get this identity now.
    pub(crate) fn bearer(
        &self,
        id: SpiffeId,
        instance: Option<InstanceId>,
        issued_at: UnixTime,
        expires_at: UnixTime,
        extensions: &Extensions,
    ) -> Result<Caller, Refusal> {
        let (state, now) = (self.registry.state(), self.clock.now());
        let known = instance.and_then(|instance| self.lineages.newest(instance, now));
        let found = known.filter(|known| !known.ended).and_then(|known| {
            let registration = state.registration(&known.registration)?;
            let labels = registration.labels.iter().map(|(key, value)| (key, value.as_bytes()));
            let certified = Certified {
                id,
                site: registration.site.clone(),
                instance,
                issued_at,
                registration: known.registration.to_string(),
                agent: (*known.agent).clone(),
                selectors: registration.selectors.clone(),
                labels: CertifiedLabels::new(labels).ok()?,
                admin: BTreeSet::new(),
                authorities: Vec::new(),
                expires_at,
            };
            let subject = Subject::new(certified.id.clone(), certified.labels.clone());
            Some(Caller {
                certified: Arc::new(certified),
                subject: Arc::new(subject),
                through: None,
                source: source(extensions),
            })
        });
        let caller = found.ok_or_else(|| {
            Refusal::denied("kms.instance-unknown", "the token is not of a launch that this server knows")
                .hint("log in at the server that the workload's agent is connected to, or with the X509-SVID")
        })?;
        caller.check(&state, now)?;
        Ok(caller)
    }

    /// The agent that calls.
    ///
    /// # Errors
    /// Anybody else.
    pub(crate) fn agent(&self, extensions: &Extensions) -> Result<SpiffeId, Refusal> {
        let svid = peer(extensions)?;
        if reserved::agent_site(svid.id()).is_none() {
            return Err(Refusal::denied("kms.not-an-agent", "only agents hold leases")
                .hint("ask the agent of the node: it leases what it needs"));
        }
        self.admit(&svid, &self.registry.state(), self.clock.now())?;
        Ok(svid.id().clone())
    }

    /// As for a stream of the agent.
    fn admit(&self, svid: &VerifiedX509Svid, state: &State, now: UnixTime) -> Result<(), Refusal> {
        admitted_attestation(state, svid.id(), attestation_of(svid))?;
        if svid.not_after() <= now || !state.vouches(svid.authorities()) {
            return Err(Refusal::new(
                Code::Unauthenticated,
                "kms.agent-svid",
                "the SVID that the agent connected with has expired, or its authority was revoked",
            )
            .hint("connect again"));
        }
        self.lineages.agents.recognise(svid, state, now)
    }

    /// The instance for which an agent asks.
    fn instance(
        &self,
        agent: &VerifiedX509Svid,
        of: &OnBehalfOf,
        source: Option<IpAddr>,
        now: UnixTime,
    ) -> Result<Caller, Refusal> {
        let instance = <[u8; 16]>::try_from(of.instance.as_ref())
            .map(InstanceId::from_bytes)
            .map_err(|_| Refusal::invalid("kms.instance", "an instance ID has 16 bytes"))?;
        let known = self.lock().get(&instance).cloned();
        let leaf = of.chain.first().map(|leaf| sha256(leaf));
        let caller = match (known, leaf) {
            (Some(known), None) if known.caller.expires_at() > now => known.caller,
            (Some(known), Some(leaf)) if known.leaf == leaf => known.caller,
            (_, Some(leaf)) => self.verified(&of.chain, leaf, instance, now)?,
            (_, None) => {
                return Err(Refusal::precondition(
                    "kms.instance-unknown",
                    "this server has not seen a valid SVID of this instance yet",
                )
                .hint("send its chain along"));
            }
        };
        // Another agent may have shown it.
        if caller.certified.agent != *agent.id() {
            return Err(Refusal::denied("kms.not-its-agent", "the instance is of another agent")
                .hint("an agent asks for the instances that it has started, and for no others"));
        }
        Ok(Caller { through: Some(agent.id().clone()), source, ..caller })
    }

    fn verified(
        &self,
        chain: &[Bytes],
        leaf: [u8; 32],
        instance: InstanceId,
        now: UnixTime,
    ) -> Result<Caller, Refusal> {
        if chain.len() > MAX_CHAIN || chain.iter().any(|der| der.len() > MAX_CERTIFICATE) {
            return Err(Refusal::invalid("kms.chain", "`chain` is longer than any X509-SVID's"));
        }
        let shown: Vec<&[u8]> = chain.iter().map(|der| &**der).collect();
        let svid = x509::verify(&shown, self.keys.current().bundles(), now).map_err(|error| {
            Refusal::denied("kms.chain", format!("the chain of the instance is not valid: {error}"))
                .hint(error.hint())
        })?;
        let caller = Caller::of(&svid, None).filter(|_| reserved::agent_site(svid.id()).is_none());
        let caller = caller.ok_or_else(unknown)?;
        if caller.instance() != Some(instance) {
            return Err(Refusal::denied("kms.chain", "the chain is of another instance"));
        }
        let mut seen = self.lock();
        if seen.len() >= MAX_SEEN && !seen.contains_key(&instance) {
            seen.retain(|_, seen| seen.caller.expires_at() > now);
            if seen.len() >= MAX_SEEN {
                // Whoever is forgotten is asked for his chain again.
                seen.clear();
            }
        }
        seen.insert(instance, Seen { leaf, caller: caller.clone() });
        Ok(caller)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn peer(extensions: &Extensions) -> Result<Arc<VerifiedX509Svid>, Refusal> {
    extensions.get::<PeerSvid>().and_then(|peer| peer.0.clone()).ok_or_else(|| {
        Refusal::new(Code::Unauthenticated, "kms.unauthenticated", "the caller has shown no SVID")
            .hint("connect with an X509-SVID of this trust domain")
    })
}

fn source(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<PeerAddress>().map(|address| address.0.ip().to_canonical())
}

fn unknown() -> Refusal {
    Refusal::denied("kms.unknown-caller", "the caller's SVID is not one of a workload of this authority")
        .hint("keys are for workloads that this authority has attested")
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A caller whose certificate says this.
    pub(crate) fn caller(certified: Certified, through: Option<SpiffeId>) -> Caller {
        let subject = Subject::new(certified.id.clone(), certified.labels.clone());
        Caller { certified: Arc::new(certified), subject: Arc::new(subject), through, source: None }
    }
}
