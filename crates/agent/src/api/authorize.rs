//! Decisions for the program that guards something: it asks, and is answered by the policies that apply to it.
//!
//! A guarded program is attested once for each connection: what it may learn is what it decides by anyway. What it says
//! of its callers is its own word, but for their certificates.

use std::sync::Arc;

use bonafide_identity::SpiffeId;
use bonafide_policy::{Decision as Decided, Reason};
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

/// A program that guards something.
#[derive(Debug)]
pub(super) struct Guarded {
    uid: u32,
    id: Option<SpiffeId>,
    labels: Labels,
}

impl Guarded {
    /// Certified labels, by which policies apply to it.
    pub(super) fn labels(&self) -> &Labels {
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
            let (_, registration) = core
                .matches(&attested.selectors, now)
                .into_iter()
                .next()
                .ok_or_else(Refusal::no_registration)?;
            let id = registration.spiffe_id(&attested.selectors).ok();
            Ok(Guarded { uid: attested.uid, id, labels: registration.labels.clone() })
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
        let decisions = request
            .questions
            .iter()
            .map(|question| self.decide(&guarded, question, &[], request.explain, "grpc"))
            .collect::<Result<_, _>>()?;
        Ok(AuthorizeResponse { decisions })
    }

    /// Answers one question, and notes that it did. `proxied_leaf`: what a proxy shows of its peer, if it is one.
    ///
    /// # Errors
    /// A question that is none. That nobody can answer it is no error, but denied.
    pub(super) fn decide(
        &self,
        guarded: &Guarded,
        question: &Question,
        proxied_leaf: &[u8],
        explain: bool,
        way: &'static str,
    ) -> Result<Decision, Refusal> {
        let now = self.engine().now();
        let (guard, current_at) = self.engine().read(|core| {
            let guard = self.0.guards.of(core.view.policies(), core.view.revision(), &guarded.labels);
            (guard, core.heard_at().unwrap_or_default())
        });
        let trusted = Arc::clone(&self.engine().published().borrow());
        let id = self.0.decisions.name();
        let asked = match proxied_leaf {
            [] => self.0.guards.ask(question, &trusted, now),
            leaf => self.0.guards.ask_for_proxy(question, leaf, &trusted, now),
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(refusal) if refusal.status_code() == tonic::Code::InvalidArgument => return Err(refusal),
            Err(refusal) => return Ok(denied(&refusal, &guard, id)),
        };
        let decision = match guard.check(&asked) {
            Err(refusal) => denied(&refusal, &guard, id),
            Ok(()) => {
                let request = asked.request(now, current_at);
                let decided = guard.snapshot.decide(&request);
                let mut decision = answer(&decided, id);
                #[cfg(feature = "rego")]
                guard.ask_programs(&decided, &request, &mut decision);
                if explain && !decision.allowed && decided.reason == Reason::NoRule {
                    let near = guard.snapshot.explain(&request).near_misses;
                    let near = near.iter().take(NEAR_MISSES).map(ToString::to_string);
                    decision.near_misses = near.collect();
                }
                decision
            }
        };
        let spiffe_id = guarded.id.as_ref().map(SpiffeId::as_str).unwrap_or_default();
        let asker = Asker { uid: guarded.uid, spiffe_id, way };
        self.0.decisions.note(asker, (question, &asked.caller), &guard, &decision, now);
        Ok(decision)
    }

    /// The latest decisions: all of them for root, those of own programs for others.
    pub(super) fn decisions(&self, peer: &Peer, request: &ListDecisionsRequest) -> ListDecisionsResponse {
        let uid = Some(peer.uid()).filter(|uid| *uid != 0);
        let (events, dropped) = self.0.decisions.list(request, uid);
        ListDecisionsResponse { events: events.iter().map(ToString::to_string).collect(), dropped }
    }
}

fn answer(decided: &Decided<'_>, id: String) -> Decision {
    let rule = decided.reason.rule();
    Decision {
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
    }
}

fn denied(refusal: &Refusal, guard: &Guard, id: String) -> Decision {
    Decision {
        code: refusal.code().to_owned(),
        reason: refusal.message().to_owned(),
        revision: guard.snapshot.revision(),
        id,
        ..Decision::default()
    }
}
