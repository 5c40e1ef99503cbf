//! Decisions in this process: may this caller do this to that?
//!
//! ```no_run
//! use bonafide_sdk::{Caller, Guard, On};
//! # async fn example(caller: &Caller) -> Result<(), Box<dyn std::error::Error>> {
//! // The policies that apply to this program. They change by themselves, as long as it lives.
//! let guard = Guard::connect().await?;
//! guard.authorize(caller, "POST", On::path("/v1/orders/7"))?;
//!
//! // Or for everything that a server serves, in one line:
//! // tonic::transport::Server::builder().layer(guard.layer())
//! # Ok(())
//! # }
//! ```
//!
//! A decision takes about a microsecond and no round trip, so it can be asked for deep inside of a program. Everything
//! that goes wrong denies: without policies nobody is allowed anything.

mod layer;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bonafide_crypto::random::Random;
use bonafide_identity::{Clock, TrustDomain, UnixTime};
pub use bonafide_policy::{AssertedProps, Circumstances, Thing as On};
use bonafide_policy::{
    Body, Caller as Certified, CertifiedLabels, Policy, Reason, Request, Snapshot, model::Mode, several,
};
use bonafide_wire::agent::{PoliciesUpdate, WatchPoliciesRequest};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Status, Streaming};

pub use self::layer::{Guarded, Layer};
use crate::{
    Caller, Endpoint, Error, Options, backoff::Backoff, endpoint::AgentClient, error::Ended, task::Task,
};

/// Decides by the policies that apply to this program. Clones share everything.
#[derive(Clone, Debug)]
pub struct Guard {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

/// A caller, as policies see it.
pub(crate) type Subject = (TrustDomain, Certified);

/// It was allowed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// `policy/rule`.
    pub by: String,
    /// Log revision of the policies that were asked.
    pub revision: u64,
    /// What policies in shadow mode would have done, if that is something else: `deny policy/rule`.
    pub would: Option<String>,
}

/// It was denied. As text it is for operators; [`Denied::code`] is what a caller may know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{caller} may not {action}: {reason}")]
pub struct Denied {
    code: &'static str,
    caller: String,
    action: String,
    reason: String,
    revision: u64,
}

#[derive(Debug)]
struct Shared {
    compiled: ArcSwap<Compiled>,
    /// When it was last known that the policies are the current ones, Unix seconds.
    current_at: AtomicI64,
    seed: u64,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Compiled {
    /// One for each set of labels of this program; none before policies have come.
    snapshots: Vec<Snapshot>,
    trust_domain: Option<TrustDomain>,
    /// Why everything is denied.
    closed: Option<String>,
}

/// What the agent has told.
#[derive(Debug, Default)]
struct Told {
    bodies: std::collections::BTreeMap<String, Option<Arc<Body>>>,
}

impl Guard {
    /// Follows the policies of the agent that the environment names, and waits for the first of them.
    ///
    /// # Errors
    /// [`Error::Unreachable`] without an agent, [`Error::Refused`] with the agent's reason if this program has no identity:
    /// no policy could apply to it.
    pub async fn connect() -> Result<Self, Error> {
        Self::connect_with(Options::default()).await
    }

    /// The same as `options` say; which identity to pick is the agent's affair.
    ///
    /// # Errors
    /// As [`Guard::connect`].
    pub async fn connect_with(options: Options) -> Result<Self, Error> {
        let endpoint = match options.endpoint {
            Some(endpoint) => endpoint,
            None => Endpoint::from_environment()?,
        };
        let mut client = endpoint.agent_client();
        let mut backoff = Backoff::new(Arc::clone(&options.random));
        let deadline = Instant::now() + options.patience;
        let shared = Arc::new(Shared::new(&*options.random, options.clock));
        let (stream, told) = loop {
            let opened = timeout_at(deadline, open(&mut client, &shared)).await;
            match opened.unwrap_or_else(|_| Err(Status::unavailable("the agent does not answer"))) {
                Ok(opened) => break opened,
                Err(status) => {
                    let Ended { error, .. } = Ended::of_status(&status);
                    let pause = backoff.next();
                    if Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    sleep(pause).await;
                }
            }
        };
        let task = Task::spawn(follow(Arc::clone(&shared), client, stream, told, backoff));
        Ok(Self { shared, _task: Arc::new(task) })
    }

    /// Whether the caller may do this. `action` is what policies call it: the method of a call over HTTP, or any word of
    /// this program.
    ///
    /// # Errors
    /// [`Denied`], with the reason.
    pub fn authorize(&self, caller: &Caller, action: &str, on: On<'_>) -> Result<Allowed, Denied> {
        self.authorize_in(caller, action, on, Circumstances::none())
    }

    /// The same with what else policies may look at.
    ///
    /// # Errors
    /// [`Denied`], with the reason.
    pub fn authorize_in(
        &self,
        caller: &Caller,
        action: &str,
        on: On<'_>,
        when: Circumstances<'_>,
    ) -> Result<Allowed, Denied> {
        let compiled = self.shared.compiled.load();
        let denied = |code, reason: String| Denied {
            code,
            caller: caller.id().to_string(),
            action: action.chars().take(64).collect(),
            reason,
            revision: compiled.snapshots.first().map_or(0, Snapshot::revision),
        };
        if let Some(why) = &compiled.closed {
            return Err(denied("policy.closed", why.clone()));
        }
        let decision = self.ask(&compiled, caller, action, on, when, |snapshots, request| {
            several::strictest(snapshots.iter().map(|snapshot| snapshot.decide(request)))
        });
        let Some(decision) = decision.flatten() else {
            return Err(denied("policy.none", "no policies have come yet".to_owned()));
        };
        if let Some(would) = &decision.would {
            tracing::info!(
                caller = %caller.id(), action, policy = would.rule.policy, rule = would.rule.rule,
                "a policy in shadow mode would {} this", would.effect
            );
        }
        match decision.reason {
            Reason::Rule(rule) if decision.is_allowed() => {
                let by = format!("{}/{}", rule.policy, rule.rule);
                let would = decision
                    .would
                    .map(|would| format!("{} {}/{}", would.effect, would.rule.policy, would.rule.rule));
                Ok(Allowed { by, revision: decision.revision, would })
            }
            reason => Err(denied(reason.code(), reason.to_string())),
        }
    }

    /// Rules that nearly allow this, and what is missing, in words: for operators who ask why. Looks at every rule, so it is
    /// not for each request that is denied.
    pub fn near_misses(&self, caller: &Caller, action: &str, on: On<'_>) -> Vec<String> {
        let compiled = self.shared.compiled.load();
        let told = self.ask(&compiled, caller, action, on, Circumstances::none(), |snapshots, request| {
            let near = snapshots.iter().flat_map(|snapshot| snapshot.explain(request).near_misses);
            near.map(|near| near.to_string()).collect()
        });
        told.unwrap_or_default()
    }

    fn ask<'c, T>(
        &self,
        compiled: &'c Compiled,
        caller: &Caller,
        action: &str,
        on: On<'_>,
        when: Circumstances<'_>,
        ask: impl FnOnce(&'c [Snapshot], &Request<'_>) -> T,
    ) -> Option<T> {
        let trust_domain = compiled.trust_domain.as_ref()?;
        let fresh;
        let who = match caller.subject.get_or_init(|| subject(caller, trust_domain)) {
            (own, certified) if own == trust_domain => certified,
            _ => {
                fresh = subject(caller, trust_domain);
                &fresh.1
            }
        };
        let request = Request {
            who,
            who_props: AssertedProps::none(),
            can: action,
            on,
            when,
            now: self.shared.clock.now(),
            current_at: UnixTime::from_secs(self.shared.current_at.load(Ordering::Relaxed)),
        };
        Some(ask(&compiled.snapshots, &request))
    }

    /// Guards everything that a server serves: a request passes if its caller may use its method on its path.
    pub fn layer(&self) -> Layer {
        Layer::new(self.clone())
    }
}

impl Denied {
    /// A stable name for why; nothing of the rules.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Why, in words. For operators.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Log revision of the policies that were asked.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

impl From<Denied> for Status {
    /// For the caller: that it is denied, and nothing of the rules.
    fn from(_: Denied) -> Self {
        Self::permission_denied("policy.denied")
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "allowed by {} at revision {}", self.by, self.revision)
    }
}

/// Labels count if our own authority has certified them.
fn subject(caller: &Caller, trust_domain: &TrustDomain) -> Subject {
    let own = caller.svid().attributes().filter(|_| caller.id().trust_domain() == trust_domain);
    let labels = own.and_then(|attributes| CertifiedLabels::of(attributes).ok());
    let labels = labels.unwrap_or_else(CertifiedLabels::none);
    (trust_domain.clone(), Certified::new(caller.id().clone(), labels))
}

impl Shared {
    fn new(random: &dyn Random, clock: Arc<dyn Clock>) -> Self {
        let nothing = Compiled { snapshots: Vec::new(), trust_domain: None, closed: None };
        Self {
            compiled: ArcSwap::from_pointee(nothing),
            current_at: AtomicI64::new(0),
            seed: u64::from_ne_bytes(random.array()),
            clock,
        }
    }

    /// Takes in one message. Whether that was the last part of a change.
    fn take(&self, told: &mut Told, update: &PoliciesUpdate) -> bool {
        if update.start {
            *told = Told::default();
        }
        for name in &update.removed {
            told.bodies.remove(name);
        }
        for policy in &update.policies {
            let text = std::str::from_utf8(&policy.document).unwrap_or_default();
            let body =
                bonafide_policy::read_canonical(text).map(|document| Arc::new(document.body().clone()));
            told.bodies.insert(policy.name.clone(), body);
        }
        if update.more {
            return false;
        }
        // Of a heartbeat nothing needs to be compiled.
        let changed = update.start || !update.removed.is_empty() || !update.policies.is_empty();
        let compiled = self.compiled.load();
        let sets = std::iter::once(&update.labels).chain(update.other_labels.iter().map(|set| &set.labels));
        let callees: Result<Vec<CertifiedLabels>, _> = sets.map(CertifiedLabels::new).collect();
        let same = callees
            .as_ref()
            .is_ok_and(|callees| compiled.snapshots.iter().map(Snapshot::callee).eq(callees.iter()));
        if changed || !same {
            self.compiled.store(Arc::new(told.compile(callees.ok(), update, self.seed)));
        }
        self.current_at.store(update.current_at, Ordering::Relaxed);
        true
    }
}

impl Told {
    fn compile(&self, callees: Option<Vec<CertifiedLabels>>, update: &PoliciesUpdate, seed: u64) -> Compiled {
        let mut closed = None;
        let mut rules: Vec<Arc<Policy>> = Vec::new();
        for (name, body) in &self.bodies {
            match body.as_deref() {
                None => closed = Some(format!("this program does not understand the policy `{name}`")),
                Some(Body::Policy(policy)) => rules.push(Arc::clone(policy)),
                Some(Body::Rego(rego)) if rego.mode() == Mode::Enforce => {
                    closed = Some(format!("`{name}` is Rego: ask the agent, which can run it"));
                }
                Some(Body::Rego(_)) => {}
            }
        }
        if callees.is_none() {
            closed = Some("the labels of this program are of no use".to_owned());
        }
        let mut snapshots = Vec::new();
        for callee in callees.unwrap_or_default() {
            match Snapshot::compile(rules.iter().cloned(), &callee, update.revision, seed) {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(fault) => closed = Some(fault.to_string()),
            }
        }
        Compiled { snapshots, trust_domain: TrustDomain::parse(&update.trust_domain).ok(), closed }
    }
}

type Stream = Streaming<PoliciesUpdate>;

async fn open(client: &mut AgentClient, shared: &Shared) -> Result<(Stream, Told), Status> {
    let mut stream = client.watch_policies(WatchPoliciesRequest {}).await?.into_inner();
    let mut told = Told::default();
    loop {
        let update = stream.message().await?.ok_or_else(|| Status::unavailable("it ended the stream"))?;
        if shared.take(&mut told, &update) {
            return Ok((stream, told));
        }
    }
}

/// What is known goes on to decide while the agent is away, as far as each policy lets it.
async fn follow(
    shared: Arc<Shared>,
    mut client: AgentClient,
    mut stream: Stream,
    mut told: Told,
    mut backoff: Backoff,
) {
    loop {
        backoff.reset();
        let ended = loop {
            match stream.message().await {
                Ok(Some(update)) => _ = shared.take(&mut told, &update),
                Ok(None) => break Status::unavailable("the agent ended the stream"),
                Err(status) => break status,
            }
        };
        let error = Error::of_status(&ended);
        tracing::warn!(code = error.code(), %error, "the stream of policies broke; what is known goes on to decide");
        (stream, told) = loop {
            sleep(backoff.next().max(Duration::from_millis(10))).await;
            match open(&mut client, &shared).await {
                Ok(opened) => break opened,
                Err(status) => {
                    let Ended { error, withdrawn } = Ended::of_status(&status);
                    if withdrawn {
                        let closed = Some(format!("this program has no identity any more: {error}"));
                        let closed = Compiled { snapshots: Vec::new(), trust_domain: None, closed };
                        shared.compiled.store(Arc::new(closed));
                    }
                }
            }
        };
    }
}
