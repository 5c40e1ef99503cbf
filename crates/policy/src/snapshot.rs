//! Policies compiled for one workload: an immutable index that decides.
//!
//! A snapshot is for one *callee*, the workload that is asked: policies whose `appliesTo` it does not meet are left
//! out, and `same` compares with its labels. Each rule is posted under its rarest *anchor*: a key, such as a prefix of
//! the caller's ID or a label with its value, that every request which the rule is about has. A request looks only at
//! the rules under the keys that it has; bits beside each posting sort out most candidates; what a rule means is asked
//! of the rule itself ([`crate::asked`]). Keys are hashed with a seed that callers don't know, and a collision costs
//! time but never changes an answer.

mod anchor;
mod index;
mod key;
mod plain;

use std::{collections::HashMap, fmt, sync::Arc};

use self::{index::Index, key::Hashes, plain::PlainRules};
use crate::{
    asked::{Asked, with_room},
    canonical::Digest,
    decision::{Decision, Determining, Reason, Would},
    model::{Body, Effect, Kind, LabelRequirements, Mode, Policy, RegoPolicy, Rule, Stale, WhenStale},
    request::{CertifiedLabels, Request},
    words::Name,
};

/// Rules of one snapshot.
pub const MAX_RULES: usize = 1_000_000;

/// Compiled policies. It is never changed: a new one takes its place.
pub struct Snapshot {
    revision: u64,
    callee: CertifiedLabels,
    policies: Box<[Compiled]>,
    /// Guardrails first, then by the name of the policy and the rule. What is posted are indices into it.
    rules: Box<[Place]>,
    index: Index,
    plain: PlainRules,
    /// Seconds, and by the policy of which name.
    stale: Option<(u64, Name)>,
}

#[derive(Debug)]
pub(crate) struct Compiled {
    policy: Arc<Policy>,
    digest: Digest,
}

impl Compiled {
    pub(crate) fn mode(&self) -> Mode {
        self.policy.mode
    }
}

/// Which rule of which policy.
#[derive(Clone, Copy, Debug)]
struct Place {
    policy: u32,
    rule: u32,
}

/// Why policies are not compiled.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CompileFault {
    /// Two policies of one name.
    #[error("there are two policies `{0}`")]
    Twice(String),
    /// More than a million rules.
    #[error("there are more than 1000000 rules")]
    TooMany,
}

impl CompileFault {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Twice(_) => "policy.twice",
            Self::TooMany => "policy.too-many-rules",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Twice(_) => "give one of the two another name",
            Self::TooMany => "let policies apply to fewer workloads",
        }
    }
}

impl Snapshot {
    /// Compiles the policies that apply to a workload with these labels.
    ///
    /// `revision` is told in every decision. `seed` must not be known to callers: it keeps them from choosing requests
    /// that are slow to decide.
    ///
    /// # Errors
    /// [`CompileFault`]
    pub fn compile(
        policies: impl IntoIterator<Item = Arc<Policy>>,
        callee: &CertifiedLabels,
        revision: u64,
        seed: u64,
    ) -> Result<Self, CompileFault> {
        let mut policies: Vec<Arc<Policy>> =
            policies.into_iter().filter(|policy| policy.applies_to_callee(callee)).collect();
        policies.sort_by(|one, other| (one.kind.rank(), &one.name).cmp(&(other.kind.rank(), &other.name)));
        let mut names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
        names.sort_unstable();
        if let Some((name, _)) = names.iter().zip(names.iter().skip(1)).find(|(one, other)| one == other) {
            return Err(CompileFault::Twice((*name).to_owned()));
        }
        let mut places = Vec::new();
        for (policy, of) in (0_u32..).zip(&policies) {
            places.extend((0_u32..).zip(&of.rules).map(|(rule, _)| Place { policy, rule }));
        }
        if places.len() > MAX_RULES {
            return Err(CompileFault::TooMany);
        }
        let rules = places.iter().filter_map(|place| {
            let policy = policies.get(place.policy as usize)?;
            Some((policy.mode, policy.rules.get(place.rule as usize)?))
        });
        let mut plain = PlainRules::default();
        rules.clone().for_each(|(_, rule)| plain.push(rule));
        let index = Index::build(rules, callee, seed);
        let stale = policies
            .iter()
            .filter_map(|policy| Some((denies_after(policy.mode, policy.stale)?, &policy.name)))
            .min_by_key(|(after, _)| *after)
            .map(|(after, name)| (after, name.clone()));
        let policies = policies.into_iter().map(|policy| Compiled { digest: policy.digest(), policy });
        Ok(Self {
            revision,
            callee: callee.clone(),
            policies: policies.collect(),
            rules: places.into(),
            index,
            plain,
            stale,
        })
    }

    /// With what programs say of themselves: requests are denied too once one that is enforced, and applies to the
    /// workload, is [stale](crate::model::Stale). That is all that a snapshot knows of programs; they are asked beside
    /// it.
    #[must_use]
    pub fn with_programs<'p>(mut self, programs: impl IntoIterator<Item = &'p RegoPolicy>) -> Self {
        for program in programs {
            let Some(after) = denies_after(program.mode, program.stale) else { continue };
            let is_first = self.stale.as_ref().is_none_or(|(first, _)| after < *first);
            if is_first && is_met(&program.applies_to, &self.callee) {
                self.stale = Some((after, program.name.clone()));
            }
        }
        self
    }

    /// Answers a request. Nothing is allocated.
    pub fn decide<'s>(&'s self, request: &Request<'_>) -> Decision<'s> {
        let denied = |reason| Decision { effect: Effect::Deny, reason, would: None, revision: self.revision };
        if let Some(reason) = self.staleness(request) {
            return denied(reason);
        }
        with_room(request, |room| match Asked::new(request, &self.callee, room) {
            Ok(asked) => self.judge(&self.find(&asked)),
            Err(fault) => denied(Reason::Input(fault)),
        })
    }

    /// The number of the policies that it was compiled from.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The certified labels of the workload that it is for.
    pub fn callee(&self) -> &CertifiedLabels {
        &self.callee
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none, so that everything is denied.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The policies that apply, guardrails first, then by name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter().map(|compiled| &compiled.policy)
    }

    /// How many rules a request may have to look at: the longest list under one key, with the rules that stand under
    /// none. Those are about a nanosecond each.
    pub fn longest_posting(&self) -> usize {
        self.index.longest()
    }

    /// Denied, because it is unknown for too long whether the policies are the current ones?
    pub(crate) fn staleness<'s>(&'s self, request: &Request<'_>) -> Option<Reason<'s>> {
        let (after, policy) = self.stale.as_ref()?;
        let age = request.now.since(request.current_at).as_secs();
        (age > *after).then(|| Reason::Stale { policy: policy.as_str() })
    }

    /// The first rule of each class that is met.
    fn find(&self, asked: &Asked<'_>) -> Found {
        let mut found = Found::default();
        let is_met = |number: u32| match self.plain.is_met(number, asked) {
            Some(is_met) => is_met,
            None => self.rule(number).is_some_and(|(_, rule)| rule.is_met(asked)),
        };
        self.index.find(asked, is_met, &mut found);
        found
    }

    pub(crate) fn rule(&self, number: u32) -> Option<(&Compiled, &Rule)> {
        let place = self.rules.get(number as usize)?;
        let compiled = self.policies.get(place.policy as usize)?;
        Some((compiled, compiled.policy.rules.get(place.rule as usize)?))
    }

    pub(crate) fn determining(&self, number: u32) -> Option<Determining<'_>> {
        let (compiled, rule) = self.rule(number)?;
        Some(Determining {
            policy: compiled.policy.name.as_str(),
            rule: rule.name.as_str(),
            kind: compiled.policy.kind,
            mode: compiled.policy.mode,
            digest: compiled.digest,
        })
    }

    /// Deny beats allow beats default deny.
    pub(crate) fn judge(&self, found: &Found) -> Decision<'_> {
        let rule = |class: Class| self.determining(found.get(class)?);
        let (effect, reason) = if let Some(rule) = rule(Class::Deny) {
            (Effect::Deny, Reason::Rule(rule))
        } else if let Some(rule) = rule(Class::Allow) {
            (Effect::Allow, Reason::Rule(rule))
        } else {
            (Effect::Deny, Reason::NoRule)
        };
        let would = if let Some(rule) = rule(Class::ShadowDeny) {
            Some(Would { effect: Effect::Deny, rule })
        } else if matches!(reason, Reason::NoRule) {
            rule(Class::ShadowAllow).map(|rule| Would { effect: Effect::Allow, rule })
        } else {
            None
        };
        let would = would.filter(|would| would.effect != effect);
        Decision { effect, reason, would, revision: self.revision }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.revision)
            .field("policies", &self.policies.len())
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// Whether it applies to a workload with these labels.
    pub fn applies_to_callee(&self, callee: &CertifiedLabels) -> bool {
        is_met(&self.applies_to, callee)
    }
}

impl Body {
    /// Whether it applies to a workload with these labels.
    pub fn applies_to_callee(&self, callee: &CertifiedLabels) -> bool {
        is_met(self.applies_to(), callee)
    }
}

fn is_met(applies_to: &LabelRequirements, callee: &CertifiedLabels) -> bool {
    applies_to.iter().all(|(key, wanted)| wanted.is_met(callee.get(key.as_str())))
}

/// After how many seconds without news a policy denies everything, if it ever does.
fn denies_after(mode: Mode, stale: Option<Stale>) -> Option<u64> {
    let stale = stale.filter(|stale| mode == Mode::Enforce && stale.then == WhenStale::Deny)?;
    Some(u64::from(stale.after))
}

impl Kind {
    /// Guardrails come first.
    fn rank(self) -> u8 {
        u8::from(self != Self::Guardrail)
    }
}

/// What a rule does when it is met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Class {
    Deny,
    Allow,
    ShadowDeny,
    ShadowAllow,
}

impl Class {
    pub(crate) const ALL: [Self; 4] = [Self::Deny, Self::Allow, Self::ShadowDeny, Self::ShadowAllow];

    pub(crate) fn of(mode: Mode, effect: Effect) -> Self {
        match (mode, effect) {
            (Mode::Enforce, Effect::Deny) => Self::Deny,
            (Mode::Enforce, Effect::Allow) => Self::Allow,
            (Mode::Shadow, Effect::Deny) => Self::ShadowDeny,
            (Mode::Shadow, Effect::Allow) => Self::ShadowAllow,
        }
    }
}

/// The lowest number of a rule of each class that was met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found([u32; 4]);

impl Default for Found {
    fn default() -> Self {
        Self([u32::MAX; 4])
    }
}

impl Found {
    pub(crate) fn get(&self, class: Class) -> Option<u32> {
        Some(self.best(class)).filter(|number| *number != u32::MAX)
    }

    fn best(&self, class: Class) -> u32 {
        self.0.get(class as usize).copied().unwrap_or(u32::MAX)
    }

    pub(crate) fn set(&mut self, class: Class, number: u32) {
        if let Some(slot) = self.0.get_mut(class as usize) {
            *slot = number.min(*slot);
        }
    }

    /// Once something is denied, nothing else needs to be known than by which rule.
    fn is_denied(&self) -> bool {
        self.best(Class::Deny) != u32::MAX
    }
}

/// A map whose keys are hashes already.
type HashedMap<V> = HashMap<u64, V, Hashes>;
