//! How some policies decide a request, for tests, witnesses and replays: by the engine that decides everywhere.

use crate::{
    analysis::{
        witness,
        world::{Scope, World},
    },
    model::{Document, Effect},
    scenario::Scenario,
};

/// Policies that decide together.
#[derive(Debug)]
pub struct Judge<'a> {
    world: World<'a>,
}

/// A decision, and what made it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ruling {
    /// What it is.
    pub effect: Effect,
    /// `policy/rule`; `None` if no rule allows it, or the request is denied for itself.
    pub by: Option<String>,
}

impl<'a> Judge<'a> {
    /// Of the policies of this scope.
    pub fn new(documents: &'a [Document], scope: Scope<'_>) -> Self {
        let world = World::all(documents).into_iter().find(|world| world.scope == scope);
        Self { world: world.unwrap_or(World { scope: Scope::Enforced, entries: Vec::new() }) }
    }

    /// The decision about a request.
    pub fn judge(&self, scenario: &Scenario) -> Ruling {
        let Some(point) = witness::point(scenario) else { return Ruling { effect: Effect::Deny, by: None } };
        let by = |effect| {
            self.world.met(&point).find(|entry| entry.rule.effect == effect).map(|entry| entry.title())
        };
        if let Some(by) = by(Effect::Deny) {
            return Ruling { effect: Effect::Deny, by: Some(by) };
        }
        match by(Effect::Allow) {
            Some(by) => Ruling { effect: Effect::Allow, by: Some(by) },
            None => Ruling { effect: Effect::Deny, by: None },
        }
    }
}

impl std::fmt::Display for Ruling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.by {
            Some(by) => write!(f, "{} by `{by}`", self.effect),
            None => write!(f, "{}, by no rule", self.effect),
        }
    }
}
