//! A virtual launch: it has no process, but an instance, keys, and SVIDs that are renewed.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use bonafide_attest::lineage;
use bonafide_crypto::{
    key::{KeyAlgorithm, PrivateKey, Signer as _},
    random::{Random, SystemRandom},
};
use bonafide_identity::{InstanceId, TrustDomain};
use bonafide_wire::{
    node::{IssueX509, RenewX509, X509Issued, agent_message},
    types::{Problem, Selector},
};
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    line::{failed, request},
    tally::Event,
};

/// Keys that are drawn from when keys may be used again.
const POOL: usize = 512;

/// Where keys of workloads come from.
#[derive(Debug)]
pub(crate) enum Keys {
    Fresh,
    Pool(Vec<(Arc<PrivateKey>, Bytes)>, AtomicUsize),
}

/// One launch.
#[derive(Debug)]
pub(crate) struct Workload {
    registration: String,
    selectors: Vec<Selector>,
    held: Option<Held>,
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Held {
    instance: InstanceId,
    generation: u64,
    key: Arc<PrivateKey>,
    chain: Vec<Bytes>,
}

#[derive(Debug)]
struct Asked {
    at: Instant,
    key: Arc<PrivateKey>,
    event: Event,
}

impl Keys {
    pub(crate) fn new(reuse: bool) -> Result<Self, Problem> {
        if !reuse {
            return Ok(Self::Fresh);
        }
        let keys = (0..POOL).map(|_| Self::Fresh.next()).collect::<Result<_, _>>()?;
        Ok(Self::Pool(keys, AtomicUsize::new(0)))
    }

    /// A key, and the request that proves its possession.
    fn next(&self) -> Result<(Arc<PrivateKey>, Bytes), Problem> {
        if let Self::Pool(keys, next) = self
            && let Some(pair) = keys.get(next.fetch_add(1, Ordering::Relaxed) % POOL)
        {
            return Ok(pair.clone());
        }
        let key = PrivateKey::generate(KeyAlgorithm::EcP256).map_err(|error| failed(error.code(), error))?;
        let request = request(&key)?;
        Ok((Arc::new(key), request))
    }
}

impl Workload {
    pub(crate) const fn new(registration: String, selectors: Vec<Selector>) -> Self {
        Self { registration, selectors, held: None, asked: None }
    }

    /// Whether it has had an SVID.
    pub(crate) const fn is_launched(&self) -> bool {
        self.held.is_some()
    }

    /// The DER of its SVID and of what stands above it; empty before it has one.
    pub(crate) fn chain(&self) -> &[Bytes] {
        self.held.as_ref().map_or(&[], |held| &held.chain)
    }

    /// What it asks for next: a first SVID, or the successor of the last one.
    pub(crate) fn ask(
        &mut self,
        request: u64,
        trust_domain: &TrustDomain,
        keys: &Keys,
    ) -> Result<agent_message::Kind, Problem> {
        let (key, csr) = keys.next()?;
        let (message, event) = match &self.held {
            None => {
                let issue = IssueX509 {
                    request,
                    registration: self.registration.clone(),
                    selectors: self.selectors.clone(),
                    csr,
                };
                (agent_message::Kind::IssueX509(issue), Event::FirstSvid)
            }
            Some(held) => (
                agent_message::Kind::RenewX509(self.renewal(request, held, &key, trust_domain)?),
                Event::Renewal,
            ),
        };
        self.asked = Some(Asked { at: Instant::now(), key, event });
        Ok(message)
    }

    fn renewal(
        &self,
        request: u64,
        held: &Held,
        key: &PrivateKey,
        trust_domain: &TrustDomain,
    ) -> Result<RenewX509, Problem> {
        let random: &dyn Random = &SystemRandom;
        let nonce = random.array::<16>();
        let generation = held.generation + 1;
        let (previous, next) = (held.key.public_key().spki_der(), key.public_key().spki_der());
        let transcript = lineage::transcript(trust_domain, held.instance, generation, &nonce, previous, next);
        let signed = |key: &PrivateKey| -> Result<Bytes, Problem> {
            Ok(key.sign(&transcript).map_err(|error| failed(error.code(), &error))?.into())
        };
        Ok(RenewX509 {
            request,
            registration: self.registration.clone(),
            selectors: self.selectors.clone(),
            instance: Bytes::copy_from_slice(held.instance.as_bytes()),
            generation,
            nonce: Bytes::copy_from_slice(&nonce),
            public_key: Bytes::copy_from_slice(next),
            previous_key_signature: signed(&held.key)?,
            new_key_signature: signed(key)?,
            previous_chain: held.chain.clone(),
            evidence: Bytes::new(),
        })
    }

    /// The answer. Says what it was, and how long it took.
    pub(crate) fn issued(&mut self, issued: X509Issued) -> Result<Option<(Event, Duration)>, Problem> {
        let Some(asked) = self.asked.take() else { return Ok(None) };
        let instance: [u8; 16] = (*issued.instance)
            .try_into()
            .map_err(|_| failed("simulation.answer", "an instance has 16 bytes"))?;
        self.held = Some(Held {
            instance: InstanceId::from_bytes(instance),
            generation: issued.generation,
            key: asked.key,
            chain: issued.chain,
        });
        Ok(Some((asked.event, asked.at.elapsed())))
    }

    /// The request was refused, or its answer will never come.
    pub(crate) fn forget_request(&mut self) {
        self.asked = None;
    }
}
