//! Decides for programs that guard something on this node, by the policies that apply to each.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bonafide_crypto::digest::sha256;
use bonafide_identity::{Certificate, SpiffeId, TrustDomain, time::UnixTime, x509};
use bonafide_policy::{
    AssertedProps, Body, Caller, CertifiedLabels, Circumstances, RegoPolicy, Request, Snapshot, Thing,
    model::Mode,
};
#[cfg(feature = "rego")]
use bonafide_policy::{
    Effect,
    rego::program::{self, Program},
};
use bonafide_wire::agent::Question;
use bytes::Bytes;

use crate::{engine::Published, refusal::Refusal, view::Policies};

/// Snapshots that are kept, one for each set of labels of guarded programs.
const MAX_GUARDS: usize = 256;
/// Certificates of callers that are remembered as verified.
const MAX_CALLERS: usize = 4096;
/// Certificates of a chain, and bytes of each.
const MAX_CHAIN: usize = 8;
const MAX_CERTIFICATE: usize = 16 * 1024;

/// Certified labels of a program.
pub(crate) type Labels = BTreeMap<String, String>;

/// What decides for the programs of this node.
#[derive(Debug)]
pub(crate) struct Guards {
    /// Whose labels count.
    trust_domain: TrustDomain,
    /// Keeps callers from choosing requests that are slow to decide.
    seed: u64,
    compiled: Mutex<Compiled>,
    callers: Mutex<Callers>,
}

/// All that is decided by for programs with the same labels.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) snapshot: Snapshot,
    /// Of the programs.
    pub(crate) callee: Arc<CertifiedLabels>,
    /// Why everything is denied, whatever the snapshot says.
    pub(crate) closed: Option<Refusal>,
    /// Whether an answer may depend on what was certified of the caller.
    looks_at_labels: bool,
    /// Programs that take part.
    #[cfg(feature = "rego")]
    programs: Vec<Program>,
}

/// A question that can be asked of a snapshot.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    question: &'a Question,
    /// It is a call over HTTP: no path, or no host, is not nothing, but wrong.
    pub(crate) is_http: bool,
    pub(crate) caller: Arc<Caller>,
    /// Whether the caller's labels are known.
    certified: bool,
    source: Option<IpAddr>,
    caller_props: AssertedProps,
    props: AssertedProps,
    aad: AssertedProps,
    context: AssertedProps,
}

#[derive(Debug, Default)]
struct Compiled {
    of: Arc<Policies>,
    /// Who comes first compiles; others of the same labels wait for him, and nobody else does.
    guards: HashMap<Labels, Arc<OnceLock<Arc<Guard>>>>,
}

#[derive(Debug, Default)]
struct Callers {
    /// What they were verified against.
    by: Arc<Published>,
    known: HashMap<[u8; 32], (Arc<Caller>, UnixTime)>,
}

impl Guards {
    pub(crate) fn new(trust_domain: TrustDomain, seed: u64) -> Self {
        Self { trust_domain, seed, compiled: Mutex::default(), callers: Mutex::default() }
    }

    /// What decides for programs with these labels. May take a while where policies are new: not to be called under a lock.
    pub(crate) fn of(&self, policies: &Arc<Policies>, revision: u64, labels: &Labels) -> Arc<Guard> {
        let cell = {
            let mut compiled = lock(&self.compiled);
            if !Arc::ptr_eq(&compiled.of, policies) {
                *compiled = Compiled { of: Arc::clone(policies), guards: HashMap::new() };
            }
            if compiled.guards.len() >= MAX_GUARDS
                && !compiled.guards.contains_key(labels)
                && let Some(some) = compiled.guards.keys().next().cloned()
            {
                compiled.guards.remove(&some);
            }
            Arc::clone(compiled.guards.entry(labels.clone()).or_default())
        };
        Arc::clone(cell.get_or_init(|| Arc::new(Guard::compile(policies, revision, labels, self.seed))))
    }

    /// Who the caller of a question is.
    ///
    /// # Errors
    /// A chain that is not of a workload of ours or of a trust domain that we trust, or revoked; no ID at all.
    pub(crate) fn ask<'a>(
        &self,
        question: &'a Question,
        trusted: &Arc<Published>,
        now: UnixTime,
    ) -> Result<Asked<'a>, Refusal> {
        let (caller, certified) = match (question.chain.as_slice(), question.spiffe_id.as_str()) {
            ([], id) => {
                let id: SpiffeId = id.parse().map_err(|error| {
                    Refusal::invalid("request.spiffe-id", format!("`spiffe_id`: {error}"))
                })?;
                // Nothing says when its SVID was issued, so it counts as one that is revoked, if any is.
                check_id(&id, trusted)?;
                (Arc::new(Caller::new(id, CertifiedLabels::none())), false)
            }
            (chain, id) => {
                let caller = self.verified(chain, trusted, now)?;
                if !id.is_empty() && id != caller.id().as_str() {
                    let message = "the chain is of another workload than `spiffe_id` says";
                    return Err(Refusal::invalid("request.spiffe-id", message));
                }
                (caller, true)
            }
        };
        self.asked(question, caller, certified)
    }

    fn asked<'a>(
        &self,
        question: &'a Question,
        caller: Arc<Caller>,
        certified: bool,
    ) -> Result<Asked<'a>, Refusal> {
        let source = match question.source.as_str() {
            "" => None,
            text => Some(
                text.parse().map_err(|_| Refusal::invalid("request.source", "`source` is no IP address"))?,
            ),
        };
        Ok(Asked {
            question,
            is_http: false,
            caller,
            certified,
            source,
            caller_props: props(&question.caller_props)?,
            props: props(&question.props)?,
            aad: props(&question.aad)?,
            context: props(&question.context)?,
        })
    }

    /// The same for a proxy, which has verified its peer itself and shows only the leaf. What it says of the peer is its
    /// word, as is what it does with the answer.
    ///
    /// # Errors
    /// A leaf that is not of this peer, has expired or is revoked.
    pub(crate) fn ask_for_proxy<'a>(
        &self,
        question: &'a Question,
        leaf: &[u8],
        trusted: &Arc<Published>,
        now: UnixTime,
    ) -> Result<Asked<'a>, Refusal> {
        let leaf = Certificate::from_der(leaf).map_err(|error| unverified(&error))?;
        let id = leaf.spiffe_id().filter(|id| id.as_str() == question.spiffe_id);
        let id = id.ok_or_else(|| unverified(&"it is of another workload than the proxy says"))?;
        if now < leaf.not_before() || leaf.not_after() <= now {
            return Err(unverified(&"it has expired, or is not valid yet"));
        }
        if let Some(set) = trusted.bundles.revocations(id.trust_domain()) {
            if let Some(subject) = set.of_certificate(&leaf) {
                return Err(unverified(&format!("the {subject} is revoked")));
            }
            if leaf.authority_key_id().is_none_or(|key| set.is_distrusted(key)) {
                return Err(unverified(&"its authority is not trusted any more"));
            }
        }
        let own = leaf.attributes().filter(|_| id.trust_domain() == &self.trust_domain);
        let labels = own.map_or_else(|| Ok(CertifiedLabels::none()), CertifiedLabels::of);
        let labels = labels.map_err(|error| unverified(&error))?;
        self.asked(question, Arc::new(Caller::new(id.clone(), labels)), true)
    }

    fn verified(
        &self,
        chain: &[Bytes],
        trusted: &Arc<Published>,
        now: UnixTime,
    ) -> Result<Arc<Caller>, Refusal> {
        let fits = chain.len() <= MAX_CHAIN && chain.iter().all(|der| der.len() <= MAX_CERTIFICATE);
        if !fits {
            return Err(Refusal::invalid("request.chain", "`chain` is longer than any X509-SVID's"));
        }
        let digest = sha256(&chain.concat());
        let mut callers = lock(&self.callers);
        if !Arc::ptr_eq(&callers.by, trusted) {
            *callers = Callers { by: Arc::clone(trusted), known: HashMap::new() };
        }
        if let Some((caller, not_after)) = callers.known.get(&digest)
            && *not_after > now
        {
            return Ok(Arc::clone(caller));
        }
        drop(callers);
        let shown: Vec<&[u8]> = chain.iter().map(|der| &**der).collect();
        let svid = x509::verify(&shown, &trusted.bundles, now).map_err(|error| unverified(&error))?;
        // What another authority certifies is for its own trust domain.
        let own = svid.attributes().filter(|_| svid.id().trust_domain() == &self.trust_domain);
        let labels = match own {
            Some(attributes) => CertifiedLabels::of(attributes).map_err(|error| unverified(&error))?,
            None => CertifiedLabels::none(),
        };
        let caller = Arc::new(Caller::new(svid.id().clone(), labels));
        let mut callers = lock(&self.callers);
        if Arc::ptr_eq(&callers.by, trusted) {
            if callers.known.len() >= MAX_CALLERS {
                callers.known.clear();
            }
            callers.known.insert(digest, (Arc::clone(&caller), svid.not_after()));
        }
        Ok(caller)
    }
}

impl Guard {
    fn compile(policies: &Policies, revision: u64, labels: &Labels, seed: u64) -> Self {
        let callee = CertifiedLabels::new(labels.iter());
        let mut closed = callee.as_ref().err().map(|fault| {
            Refusal::undecided(
                fault.code(),
                format!("the labels of the guarded program are of no use: {fault}"),
            )
        });
        let callee = callee.unwrap_or_default();
        if let Some(name) = policies.not_understood() {
            let message = format!("this agent does not understand the policy `{name}`");
            closed = Some(Refusal::undecided("policy.not-understood", message));
        }
        let mut rules = Vec::new();
        #[cfg(feature = "rego")]
        let mut programs = Vec::new();
        for body in policies.bodies() {
            match &**body {
                Body::Policy(policy) => rules.push(Arc::clone(policy)),
                Body::Rego(_) if !body.applies_to_callee(&callee) => {}
                #[cfg(feature = "rego")]
                Body::Rego(rego) => match Program::load(rego) {
                    Ok(program) => programs.push(program),
                    Err(fault) if rego.mode() == Mode::Enforce => {
                        let message = format!("`{}` can't be run: {fault}", rego.name());
                        closed = Some(Refusal::undecided(fault.code(), message));
                    }
                    Err(fault) => {
                        tracing::warn!(policy = %rego.name(), "a program in shadow mode can't be run: {fault}")
                    }
                },
                #[cfg(not(feature = "rego"))]
                Body::Rego(rego) if rego.mode() == Mode::Enforce => {
                    let message = format!("this agent runs no Rego, which `{}` needs", rego.name());
                    closed = Some(Refusal::undecided("policy.no-rego", message));
                }
                #[cfg(not(feature = "rego"))]
                Body::Rego(_) => {}
            }
        }
        let looks_at_labels =
            rules.iter().any(|policy| policy.applies_to_callee(&callee) && policy.looks_at_labels());
        // Nobody knows what a program looks at.
        #[cfg(feature = "rego")]
        let looks_at_labels = looks_at_labels || !programs.is_empty();
        let known = Arc::new(callee.clone());
        let none = || Snapshot::compile([], &CertifiedLabels::none(), revision, seed);
        let (snapshot, closed) = match Snapshot::compile(rules, &callee, revision, seed) {
            Ok(snapshot) => (Some(snapshot), closed),
            Err(fault) => (none().ok(), Some(Refusal::undecided(fault.code(), fault.to_string()))),
        };
        #[expect(clippy::expect_used, reason = "no policies at all can be compiled")]
        let snapshot = snapshot.expect("a snapshot");
        Self {
            snapshot: snapshot.with_programs(programs_of(policies)),
            callee: known,
            closed,
            looks_at_labels,
            #[cfg(feature = "rego")]
            programs,
        }
    }

    /// Lets programs take part in what the rules have decided.
    #[cfg(feature = "rego")]
    pub(crate) fn ask_programs(
        &self,
        decided: &bonafide_policy::Decision<'_>,
        request: &Request<'_>,
        decision: &mut bonafide_wire::agent::Decision,
    ) {
        if self.programs.is_empty() {
            return;
        }
        let input = bonafide_policy::record::input(request, self.snapshot.callee());
        // A program takes 100 ms at most.
        let answer = tokio::task::block_in_place(|| program::merge(decided, &self.programs, &input));
        decision.allowed = answer.effect == Effect::Allow;
        if let Some((effect, policy)) = &answer.would {
            decision.would = format!("{effect} {policy}");
        }
        let (policy, code, reason) = match answer.by {
            program::By::Rules => return,
            program::By::Program { policy, reasons } => (policy, "policy.program", reasons.join("; ")),
            program::By::Fault { policy, fault } => (policy, fault.code(), fault.to_string()),
        };
        decision.code = code.to_owned();
        decision.reason = format!("program `{policy}`: {reason}");
        decision.policy = policy;
        decision.rule.clear();
        decision.digest.clear();
    }

    /// Why the question can't be answered by policies; it is denied then.
    pub(crate) fn check(&self, asked: &Asked<'_>) -> Result<(), Refusal> {
        if let Some(refusal) = &self.closed {
            return Err(refusal.clone());
        }
        if self.looks_at_labels && !asked.certified {
            return Err(Refusal::undecided(
                "policy.labels-unknown",
                "policies look at labels, and nothing shows which ones the caller has".to_owned(),
            )
            .with_hint("show the caller's X509-SVID in place of its ID"));
        }
        Ok(())
    }
}

impl Asked<'_> {
    pub(crate) fn request(&self, now: UnixTime, current_at: UnixTime) -> Request<'_> {
        let question = self.question;
        let some = |text| Some(text).filter(|text: &&str| !text.is_empty());
        let http = |text| Some(text).filter(|text: &&str| self.is_http || !text.is_empty());
        Request {
            who: &self.caller,
            who_props: &self.caller_props,
            can: &question.action,
            on: Thing {
                path: http(&question.path),
                host: http(&question.host),
                key: some(&question.key),
                service: some(&question.service),
                props: &self.props,
            },
            when: Circumstances {
                aad: &self.aad,
                algorithm: some(&question.algorithm),
                source: self.source,
                props: &self.context,
            },
            now,
            current_at,
        }
    }
}

/// Programs, for how long they may go on unconfirmed.
fn programs_of(policies: &Policies) -> impl Iterator<Item = &RegoPolicy> {
    policies.bodies().filter_map(|body| match &**body {
        Body::Rego(program) => Some(program),
        Body::Policy(_) => None,
    })
}

fn check_id(id: &SpiffeId, trusted: &Published) -> Result<(), Refusal> {
    let set = trusted.bundles.revocations(id.trust_domain());
    match set.and_then(|set| set.of_token(id, None, None)) {
        Some(subject) => Err(unverified(&format!("the {subject} is revoked"))),
        None => Ok(()),
    }
}

fn props(props: &BTreeMap<String, String>) -> Result<AssertedProps, Refusal> {
    AssertedProps::new(props).map_err(|fault| Refusal::invalid(fault.code(), fault.to_string()))
}

fn unverified(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::undecided("policy.caller-unverified", format!("the caller's X509-SVID is not valid: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
