//! Rules that decide together, as regions.

use super::{
    atom::Point,
    region::{Answer, Region, find},
    rule,
};
use crate::model::{Document, Effect, Kind, Mode, Policy, Rule};

/// Rules that decide together.
#[derive(Debug)]
pub struct World<'a> {
    /// Which policies these are.
    pub scope: Scope<'a>,
    /// Their rules.
    pub entries: Vec<Entry<'a>>,
}

/// Policies that decide together.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scope<'a> {
    /// Every `Policy` and `Guardrail` that is enforced.
    Enforced,
    /// Every `Policy` and `Guardrail` in shadow mode.
    Shadow,
    /// The `SecretPolicy` of this name alone.
    Secret(&'a str),
}

/// A rule in its policy.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Index of the document.
    pub document: usize,
    /// Its policy.
    pub policy: &'a Policy,
    /// Index of the rule in [`Policy::rules`].
    pub index: usize,
    /// The rule.
    pub rule: &'a Rule,
    /// The requests that meet it.
    pub region: Region,
}

impl<'a> World<'a> {
    /// All worlds of some documents. Programs are in none: nothing can be told of them in advance.
    pub fn all(documents: &'a [Document]) -> Vec<Self> {
        let mut worlds: Vec<Self> = Vec::new();
        for (document, policy) in documents.iter().enumerate() {
            let Some(policy) = policy.policy() else { continue };
            let scope = Scope::of(policy);
            let entries = policy.rules.iter().enumerate().map(|(index, rule)| Entry {
                document,
                policy,
                index,
                rule,
                region: rule::region(&policy.applies_to, rule),
            });
            match worlds.iter_mut().find(|world| world.scope == scope) {
                Some(world) => world.entries.extend(entries),
                None => worlds.push(Self { scope, entries: entries.collect() }),
            }
        }
        worlds.sort_by(|one, other| one.scope.cmp(&other.scope));
        worlds
    }

    /// Its rules of one effect.
    pub fn of(&self, effect: Effect) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(move |entry| entry.rule.effect == effect)
    }

    /// The rules that a point meets.
    pub fn met(&self, point: &Point) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(|entry| entry.region.contains(point))
    }
}

impl<'a> Scope<'a> {
    /// Where a policy decides.
    pub fn of(policy: &'a Policy) -> Self {
        match (policy.kind, policy.mode) {
            (Kind::SecretPolicy, _) => Self::Secret(policy.name.as_str()),
            (_, Mode::Enforce) => Self::Enforced,
            (_, Mode::Shadow) => Self::Shadow,
        }
    }
}

impl Entry<'_> {
    /// `policy/rule`, as decisions name it.
    pub fn title(&self) -> String {
        format!("{}/{}", self.policy.name, self.rule.name)
    }

    /// Whether both are one rule.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.document, self.index) == (other.document, other.index)
    }
}

/// A point that is in all of `inside` and in none of those of `outside` that come near.
pub(crate) fn find_among<'a>(inside: &[&Region], outside: impl IntoIterator<Item = &'a Region>) -> Answer {
    let near = outside.into_iter().filter(|other| inside.iter().all(|region| region.may_meet(other)));
    find(inside, &near.collect::<Vec<_>>())
}
