//! Who may have an answer. All of it is judged here, beside the share, on the very bytes that the answer is about: the server that
//! speaks TLS is believed in nothing.
//!
//! In this order: the caller's chain up to an anchor of the roster; its rate; the question, and whether there is such a share; the
//! caller's signature over this question and a nonce of ours; the deny-list; the policy. Only then is anything computed with the share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::{PrivateKey, SignatureAlgorithm};
use bonafide_crypto::mac::MacKey;
use bonafide_crypto::random::Random;
use bonafide_identity::x509::{self, VerifiedX509Svid};
use bonafide_identity::{BundleMap, Certificate, UnixTime};
use bonafide_policy::{Caller, CertifiedLabels, SecretPolicy};
use bonafide_sealing::deny::TrustedDenyList;
use bonafide_sealing::document::{Digest, Document as _};
use bonafide_sealing::exchange::EvaluationRequest;
use bonafide_sealing::group::Index;
use bonafide_sealing::identity::Identity;
use bonafide_sealing::share::{PreparedPolicy, Share};

use crate::audit;
use crate::error::Refusal;
use crate::generated::worker;

/// For how many seconds a nonce counts.
const NONCE_LIFE: u32 = 60;
/// The most bytes of a signature: RSA with 8192 bits.
const MAX_SIGNATURE: usize = 1024;
/// Prepared policies of one share that are kept: about 20 KiB each.
const MAX_PREPARED: usize = 128;
/// Questions that a caller may ask at once, and how many it gets back each second.
const BURST: f64 = 200.0;
const PER_SECOND: f64 = 50.0;
/// Callers whose rate is remembered.
const MAX_CALLERS: usize = 65_536;

/// What questions are judged with: replaced as a whole when anything changes.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) bundles: BundleMap,
    pub(crate) deny: Option<TrustedDenyList>,
    pub(crate) signer: Arc<PrivateKey>,
    pub(crate) keys: Vec<Arc<Key>>,
}

/// A share in use, and what it has made of policies. Both are erased together.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) share: Share,
    /// Of its epoch.
    roster: Digest,
    prepared: Mutex<Vec<Arc<PreparedPolicy>>>,
}

/// What stays when the rest is replaced.
#[derive(Debug)]
pub(crate) struct Judge {
    nonces: MacKey,
    rates: Mutex<HashMap<String, (f64, UnixTime)>>,
    pub(crate) bench: RwLock<Option<Arc<Bench>>>,
}

/// What came of a question, and what is written about it.
pub(crate) struct Judged {
    pub(crate) outcome: Result<Vec<u8>, Refusal>,
    pub(crate) entry: Vec<u8>,
}

impl Key {
    pub(crate) fn new(share: Share, roster: Digest) -> Arc<Self> {
        Arc::new(Self { share, roster, prepared: Mutex::default() })
    }

    /// What was prepared before, or now. The least recently used goes.
    fn prepare(&self, identity: &Identity) -> Result<Arc<PreparedPolicy>, Refusal> {
        let lock = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = lock();
        if let Some(place) = kept.iter().position(|policy| policy.identity() == identity.digest()) {
            let found = kept.remove(place);
            kept.push(Arc::clone(&found));
            return Ok(found);
        }
        drop(kept);
        let made = Arc::new(self.share.prepare(identity)?);
        let mut kept = lock();
        if kept.len() >= MAX_PREPARED {
            kept.remove(0);
        }
        kept.push(Arc::clone(&made));
        Ok(made)
    }
}

impl Judge {
    pub(crate) fn new(random: &dyn Random) -> Self {
        Self {
            nonces: MacKey::from_bytes(&random.array()),
            rates: Mutex::default(),
            bench: RwLock::default(),
        }
    }

    /// A nonce for the owner of this certificate. Nothing is remembered of it.
    pub(crate) fn nonce(&self, leaf: &[u8], now: UnixTime) -> [u8; 16] {
        let time = seconds(now).to_be_bytes();
        let mut nonce = [0; 16];
        let tag = self.nonces.tag(&[&time, &sha256(leaf)]);
        for (to, from) in nonce.iter_mut().zip(time.iter().chain(&tag)) {
            *to = *from;
        }
        nonce
    }

    /// Judges a question, and answers it.
    pub(crate) fn answer(&self, asked: &worker::Evaluate, now: UnixTime, random: &dyn Random) -> Judged {
        let mut entry = audit::Entry::new(now, &asked.question);
        let outcome = self.judged(asked, now, random, &mut entry);
        entry.end(outcome.as_ref().map(drop));
        Judged { outcome, entry: entry.encode() }
    }

    fn judged(
        &self,
        asked: &worker::Evaluate,
        now: UnixTime,
        random: &dyn Random,
        entry: &mut audit::Entry,
    ) -> Result<Vec<u8>, Refusal> {
        let bench = self.bench.read().unwrap_or_else(PoisonError::into_inner).clone();
        let bench = bench.ok_or_else(|| Refusal::not_ready("this keyholder knows no roster yet"))?;
        let chain: Vec<&[u8]> = asked.chain.iter().map(AsRef::as_ref).collect();
        let svid = x509::verify(&chain, &bench.bundles, now)?;
        entry.caller(&svid);
        self.admit(svid.id().as_str(), now)?;
        let question = EvaluationRequest::decode(&asked.question)?;
        let identity = question.identity()?;
        entry.question(&question, &identity);
        let fits = |key: &&Arc<Key>| {
            let name = key.share.name();
            (name.tenant, &name.keyset, name.version) == (question.tenant, &question.keyset, question.version)
        };
        let key = bench.keys.iter().find(fits).ok_or(bonafide_sealing::share::ShareError::OtherKey)?;
        entry.epoch(key.share.name().epoch);
        self.check_signature(asked, key, svid.leaf(), now)?;
        let deny = bench.deny.as_ref().ok_or(bonafide_sealing::deny::Denied::Stale)?;
        let seconds = u64::try_from(now.as_secs()).unwrap_or(0);
        deny.check(&identity, &question.label, question.version, seconds)?;
        let rule = allowed(&question.policy, &svid)?;
        entry.rule(&rule);
        let prepared = key.prepare(&identity)?;
        let answer = question.answer(&key.share, &prepared, bench.signer.as_ref(), random)?;
        Ok(answer.encode())
    }

    /// One question of this caller more.
    fn admit(&self, caller: &str, now: UnixTime) -> Result<(), Refusal> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= MAX_CALLERS && !rates.contains_key(caller) {
            // Who has been silent for so long has all of its questions back.
            rates.retain(|_, (_, last)| now.since(*last).as_secs_f64() * PER_SECOND < BURST);
        }
        let refused = || {
            Refusal::new(
                "keyholder.rate",
                "this caller asks too often",
                "keep an opened secret for as long as its policy allows, and ask again in a second",
            )
        };
        if rates.len() >= MAX_CALLERS && !rates.contains_key(caller) {
            return Err(refused());
        }
        let (left, last) = rates.entry(caller.to_owned()).or_insert((BURST, now));
        *left = (*left + now.since(*last).as_secs_f64() * PER_SECOND).min(BURST);
        *last = (*last).max(now);
        if *left < 1.0 {
            return Err(refused());
        }
        *left -= 1.0;
        Ok(())
    }

    fn check_signature(
        &self,
        asked: &worker::Evaluate,
        key: &Key,
        leaf: &Certificate,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let nonce: [u8; 16] = asked.nonce.as_ref().try_into().map_err(|_| stale_nonce())?;
        let (time, tag) = nonce.split_first_chunk::<4>().ok_or_else(stale_nonce)?;
        let age = seconds(now).checked_sub(u32::from_be_bytes(*time));
        let expected = self.nonces.tag(&[time, &sha256(leaf.der())]);
        // What is compared are 96 bits of a MAC: a nonce is no secret, so the time that it takes tells nothing.
        if age.is_none_or(|age| age > NONCE_LIFE) || !expected.starts_with(tag) {
            return Err(stale_nonce());
        }
        let index = key.share.name().index;
        let message = caller_message(&key.roster, index, &sha256(&asked.question), leaf.der(), &nonce);
        let algorithm = SignatureAlgorithm::default_for(leaf.public_key().algorithm());
        let signed = asked.signature.len() <= MAX_SIGNATURE
            && leaf.public_key().verify(algorithm, &message, &asked.signature).is_ok();
        signed.then_some(()).ok_or_else(|| {
            Refusal::new(
                "keyholder.caller-signature",
                "the question is not signed by the key of the caller's certificate",
                "sign it with the nonce and the roster of this keyholder",
            )
        })
    }
}

/// What a caller signs: that it asks this question, of this keyholder, now.
#[must_use]
pub fn caller_message(
    roster: &Digest,
    index: Index,
    question: &Digest,
    leaf: &[u8],
    nonce: &[u8; 16],
) -> Vec<u8> {
    let mut message = b"bbf-caller-v1".to_vec();
    for part in [roster.as_slice(), &[index.number()], question, &sha256(leaf), nonce] {
        // INVARIANT: none is longer than a digest.
        message.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

/// The rule that allows it.
fn allowed(policy: &[u8], svid: &VerifiedX509Svid) -> Result<String, Refusal> {
    let policy = SecretPolicy::parse(policy).map_err(|fault| {
        let hint = "seal it again with this version of the program";
        Refusal::new("keyholder.policy", format!("the secret's policy is not one: {fault}"), hint)
    })?;
    let labels = match svid.attributes() {
        Some(attributes) => CertifiedLabels::of(attributes).map_err(|fault| {
            let hint = "see `bonafide inspect` of the caller's certificate";
            Refusal::new(
                "keyholder.caller-labels",
                format!("the caller's labels can't be read: {fault}"),
                hint,
            )
        })?,
        None => CertifiedLabels::none(),
    };
    let caller = Caller::new(svid.id().clone(), labels);
    // A statement of a node is not taken yet: policies that demand one are refused, and say so.
    match policy.decide(&caller, None) {
        Ok(rule) => Ok(rule.to_owned()),
        Err(denial) => {
            // The policy is public, and what it lacks is the caller's own: nothing is told that it could not know.
            let misses: Vec<String> = denial.near_misses.iter().map(ToString::to_string).collect();
            let hint = if misses.is_empty() {
                "the secret is not for this workload; its policy says for whom".to_owned()
            } else {
                misses.join(" | ")
            };
            Err(Refusal::new("keyholder.denied", format!("the secret's policy refuses it: {denial}"), &hint))
        }
    }
}

fn stale_nonce() -> Refusal {
    Refusal::new(
        "keyholder.caller-nonce",
        "the nonce is not one of this keyholder, for this caller and this minute",
        "get another nonce and ask again; check the clocks of both machines",
    )
}

fn seconds(now: UnixTime) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(0)
}
