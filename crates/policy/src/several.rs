//! One answer for a program that has several identities, each with policies of its own.

use crate::{
    decision::{Decision, Reason},
    model::Effect,
};

/// The answer of all: what any of them denies for a reason is denied; otherwise what any allows is allowed. `None` for none.
///
/// So a further identity, which no policy applies to, takes nothing away, and lifts nothing that guards another one.
pub fn strictest<'a>(decisions: impl IntoIterator<Item = Decision<'a>>) -> Option<Decision<'a>> {
    let rank = |decision: &Decision<'_>| match (decision.effect, &decision.reason) {
        (Effect::Deny, Reason::NoRule) => 0,
        (Effect::Allow, _) => 1,
        (Effect::Deny, _) => 2,
    };
    let mut strictest: Option<Decision<'a>> = None;
    let mut would = None;
    for decision in decisions {
        would = would.or(decision.would);
        if strictest.as_ref().is_none_or(|known| rank(known) < rank(&decision)) {
            strictest = Some(decision);
        }
    }
    let would = would.filter(|would| strictest.as_ref().is_some_and(|known| known.effect != would.effect));
    strictest.map(|decision| Decision { would, ..decision })
}
