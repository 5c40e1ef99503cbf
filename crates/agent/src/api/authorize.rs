//! Decisions for the program that guards something: it asks, and is answered by the policies that apply to it.
//!
//! A guarded program is attested once for each connection: what it may learn is what it decides by anyway. What it says
//! of its callers is its own word, but for their certificates.

use std::sync::Arc;

use bonafide_identity::SpiffeId;
use bonafide_policy::{Reason, Request, several};
use bonafide_wire::agent::{
    AuthorizeRequest, AuthorizeResponse, Decision, ListDecisionsRequest, ListDecisionsResponse, Question,
};

use super::Api;
use crate::{
    decisions::Asker,
    guard::{Guard, Labels},
    peer::Peer,
    refusal::Refusal,
};

/// Questions of one request.
pub(super) const MAX_QUESTIONS: usize = 256;
/// Sentences about rules that nearly met a question.
const NEAR_MISSES: usize = 10;
/// Sets of labels of one program.
const MAX_IDENTITIES: usize = 16;
/// What every process in a container has.
const CONTAINER: &str = "container.id";

/// A program that guards something.
#[derive(Debug)]
pub(super) struct Guarded {
    id: Option<SpiffeId>,
    /// Of each of its identities, the default one first; each once. Policies for any of them guard the program.
    labels: Vec<Labels>,
}

/// A question, and what is around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    /// As the decision log calls it.
    pub(super) name: &'static str,
    /// Tell of near misses.
    pub(super) explain: bool,
    /// What a proxy shows of its peer; empty for everybody else.
    pub(super) leaf: &'a [u8],
    /// Path and host must be there.
    pub(super) is_http: bool,
}

impl Way<'_> {
    pub(super) fn of(name: &'static str) -> Self {
        Self { name, explain: false, leaf: &[], is_http: false }
    }
}

impl Guarded {
    /// Certified labels, by which policies apply to it.
    pub(super) fn labels(&self) -> &[Labels] {
        &self.labels
    }
}

impl Api {
    /// Who guards.
    ///
    /// # Errors
    /// A program without an identity: no policy can say that it applies to it.
    pub(super) async fn guarded(&self, peer: &Peer) -> Result<Guarded, Refusal> {
        let attested = peer.attested(&self.0.attestation).await?;
        let now = self.engine().now();
        self.engine().read(|core| {
            core.check_ready()?;
            let registrations = core.matches(&attested.selectors, now);
            let (_, first) = registrations.first().ok_or_else(Refusal::no_registration)?;
            let id = first.spiffe_id(&attested.selectors).ok();
            let mut labels: Vec<Labels> = Vec::new();
            for (_, registration) in &registrations {
                if !labels.contains(&registration.labels) {
                    labels.push(registration.labels.clone());
                }
            }
            if labels.len() > MAX_IDENTITIES {
                return Err(Refusal::too_many("identities with other labels of one program", MAX_IDENTITIES));
            }
            Ok(Guarded { id, labels })
        })
    }

    /// Answers questions of the program at the other end.
    pub(super) async fn authorize(
        &self,
        peer: Peer,
        request: &AuthorizeRequest,
    ) -> Result<AuthorizeResponse, Refusal> {
        if request.questions.len() > MAX_QUESTIONS {
            return Err(Refusal::too_many("questions of one request", MAX_QUESTIONS));
        }
        let guarded = self.guarded(&peer).await?;
        let way = Way { explain: request.explain, ..Way::of("grpc") };
        let decisions = request
            .questions
            .iter()
            .map(|question| self.decide(&guarded, question, way))
            .collect::<Result<_, _>>()?;
        Ok(AuthorizeResponse { decisions })
    }

    /// Answers one question, and notes that it did.
    ///
    /// # Errors
    /// A question that is none. That nobody can answer it is no error, but denied.
    pub(super) fn decide(
        &self,
        guarded: &Guarded,
        question: &Question,
        way: Way<'_>,
    ) -> Result<Decision, Refusal> {
        let now = self.engine().now();
        let (policies, revision, current_at) = self.engine().read(|core| {
            let current_at = core.current_at().unwrap_or_default();
            (Arc::clone(core.view.policies()), core.view.revision(), current_at)
        });
        let guards: Vec<Arc<Guard>> =
            guarded.labels.iter().map(|labels| self.0.guards.of(&policies, revision, labels)).collect();
        let trusted = Arc::clone(&self.engine().published().borrow());
        let id = self.0.decisions.name();
        let asked = match way.leaf {
            [] => self.0.guards.ask(question, &trusted, now),
            leaf => self.0.guards.ask_for_proxy(question, leaf, &trusted, now),
        };
        let (decision, caller) = match asked {
            Ok(mut asked) => {
                asked.is_http = way.is_http;
                let decision = match guards.iter().try_for_each(|guard| guard.check(&asked)) {
                    Err(refusal) => denied(&refusal, revision, id),
                    Ok(()) => answer(&guards, &asked.request(now, current_at), way.explain, id),
                };
                (decision, Some(asked.caller))
            }
            Err(refusal) if refusal.status_code() == tonic::Code::InvalidArgument => return Err(refusal),
            Err(refusal) => (denied(&refusal, revision, id), None),
        };
        let spiffe_id = guarded.id.as_ref().map(SpiffeId::as_str).unwrap_or_default();
        let callee = guards.first().map(|guard| Arc::clone(&guard.callee)).unwrap_or_default();
        let asker = Asker { guarded: spiffe_id, callee, way: way.name };
        self.0.decisions.note(asker, (question, caller), &decision, now);
        Ok(decision)
    }

    /// The latest decisions: all of them for root of this node, and for others those of programs with their own identity.
    ///
    /// # Errors
    /// A caller without identity, unless it is root outside of any container.
    pub(super) async fn decisions(
        &self,
        peer: &Peer,
        request: &ListDecisionsRequest,
    ) -> Result<ListDecisionsResponse, Refusal> {
        let attested = peer.attested(&self.0.attestation).await?;
        // Root of a container without a user namespace has the same number.
        let is_contained = attested.selectors.values(CONTAINER).next().is_some();
        let own = if attested.uid == 0 && !is_contained {
            None
        } else {
            let id = self.guarded(peer).await?.id.ok_or_else(Refusal::no_registration)?;
            Some(id.to_string())
        };
        let (events, dropped) = self.0.decisions.list(request, own.as_deref());
        Ok(ListDecisionsResponse { events: events.iter().map(ToString::to_string).collect(), dropped })
    }
}

/// What all identities of the program come to.
fn answer(guards: &[Arc<Guard>], request: &Request<'_>, explain: bool, id: String) -> Decision {
    let decided = several::strictest(guards.iter().map(|guard| guard.snapshot.decide(request)));
    let Some(decided) = decided else {
        return Decision { code: "policy.none".to_owned(), id, ..Decision::default() };
    };
    let rule = decided.reason.rule();
    let mut decision = Decision {
        allowed: decided.is_allowed(),
        code: decided.reason.code().to_owned(),
        reason: decided.reason.to_string(),
        policy: rule.map(|rule| rule.policy.to_owned()).unwrap_or_default(),
        rule: rule.map(|rule| rule.rule.to_owned()).unwrap_or_default(),
        digest: rule.map(|rule| rule.digest.to_string()).unwrap_or_default(),
        revision: decided.revision,
        id,
        would: decided
            .would
            .map(|would| format!("{} {}/{}", would.effect, would.rule.policy, would.rule.rule))
            .unwrap_or_default(),
        near_misses: Vec::new(),
    };
    #[cfg(feature = "rego")]
    guards.iter().for_each(|guard| guard.ask_programs(&decided, request, &mut decision));
    if explain && !decision.allowed && decided.reason == Reason::NoRule {
        let near = guards.iter().flat_map(|guard| guard.snapshot.explain(request).near_misses);
        decision.near_misses = near.take(NEAR_MISSES).map(|near| near.to_string()).collect();
    }
    decision
}

fn denied(refusal: &Refusal, revision: u64, id: String) -> Decision {
    Decision {
        code: refusal.code().to_owned(),
        reason: refusal.message().to_owned(),
        revision,
        id,
        ..Decision::default()
    }
}
