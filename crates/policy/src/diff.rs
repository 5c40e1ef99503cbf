//! Who gains and who loses access by an edit, each with a request that shows it.
//!
//! A change is a pair: the rule that allows on one side, and what denies on the other, a rule or nothing. For every
//! request whose decision differs, for each rule that allows it on the one side and each rule that denies it on the
//! other, that pair is among the changes, as long as [`Diff::undecided`] is empty and
//! [`Diff::is_cut`] is false. Programs (`RegoPolicy`) are not looked into: [`Diff::programs`] names those that differ.

use std::collections::BTreeSet;

use crate::{
    analysis::{
        region::{Answer, Region},
        witness,
        world::{Entry, Scope, World, find_among},
    },
    judge::{Judge, Ruling},
    model::{Body, Document, Effect},
    scenario::Scenario,
};

/// Most changes that are told of what is gained, and of what is lost, by one set of policies that decide together.
pub const MAX_CHANGES: usize = 1_000;

/// What an edit changes.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    /// What is allowed now and was not.
    pub gained: Vec<Change>,
    /// What was allowed and is not any more.
    pub lost: Vec<Change>,
    /// Pairs of rules of which it would take too long to tell.
    pub undecided: Vec<(String, Option<String>)>,
    /// Whether there are more changes than are told.
    pub is_cut: bool,
    /// Programs that are not the same.
    pub programs: Vec<String>,
}

/// Requests whose decision changes.
#[derive(Clone, Debug)]
pub struct Change {
    /// The `SecretPolicy` that it is about; `None` for calls and keys.
    pub secret: Option<String>,
    /// The rule that allows, `policy/rule`: after, what was gained; before, what was lost.
    pub allowed_by: String,
    /// The rule that denies on the other side; `None`: there no rule allows it.
    pub denied_by: Option<String>,
    /// Such a request.
    pub witness: Scenario,
    /// How it was decided.
    pub before: Ruling,
    /// How it is decided.
    pub after: Ruling,
}

impl Diff {
    /// Whether every request is decided as before, as far as can be told.
    pub fn is_empty(&self) -> bool {
        self.gained.is_empty()
            && self.lost.is_empty()
            && self.undecided.is_empty()
            && self.programs.is_empty()
    }
}

/// Compares all enforced policies of two sets, and each `SecretPolicy` with the one of the same name.
pub fn diff(old: &[Document], new: &[Document]) -> Diff {
    let mut diff = Diff { programs: programs(old, new), ..Diff::default() };
    let (before, after) = (World::all(old), World::all(new));
    let scopes: BTreeSet<Scope<'_>> = before.iter().chain(&after).map(|world| world.scope).collect();
    let nothing = World { scope: Scope::Enforced, entries: Vec::new() };
    for scope in scopes.into_iter().filter(|scope| *scope != Scope::Shadow) {
        let of = |worlds: &'_ [World<'_>]| worlds.iter().position(|world| world.scope == scope);
        let one = of(&before).and_then(|index| before.get(index)).unwrap_or(&nothing);
        let other = of(&after).and_then(|index| after.get(index)).unwrap_or(&nothing);
        let judges = (Judge::new(old, scope), Judge::new(new, scope));
        let rule = |witness: &Scenario| (judges.0.judge(witness), judges.1.judge(witness));
        let secret = if let Scope::Secret(name) = scope { Some(name.to_owned()) } else { None };
        for (pair, witness) in pairs(one, other, &mut diff) {
            let (before, after) = rule(&witness);
            diff.gained.push(Change {
                secret: secret.clone(),
                allowed_by: pair.0,
                denied_by: pair.1,
                witness,
                before,
                after,
            });
        }
        for (pair, witness) in pairs(other, one, &mut diff) {
            let (before, after) = rule(&witness);
            diff.lost.push(Change {
                secret: secret.clone(),
                allowed_by: pair.0,
                denied_by: pair.1,
                witness,
                before,
                after,
            });
        }
    }
    diff
}

type Pair = (String, Option<String>);

/// What `after` allows and `before` does not.
fn pairs(before: &World<'_>, after: &World<'_>, diff: &mut Diff) -> Vec<(Pair, Scenario)> {
    let regions = |world: &World<'_>, effect| -> BTreeSet<Region> {
        world.of(effect).map(|entry| entry.region.clone()).collect()
    };
    let (old_allows, new_denies) = (regions(before, Effect::Allow), regions(after, Effect::Deny));
    let gone: Vec<&Entry<'_>> =
        before.of(Effect::Deny).filter(|deny| !new_denies.contains(&deny.region)).collect();
    let mut found = Vec::new();
    for allow in after.of(Effect::Allow) {
        let mut look = |denied: Option<&Entry<'_>>, answer: Answer| {
            let pair = (allow.title(), denied.map(Entry::title));
            if found.len() >= MAX_CHANGES {
                diff.is_cut |= answer != Answer::Nothing;
                return;
            }
            match answer {
                Answer::Nothing => {}
                Answer::Unknown => diff.undecided.push(pair),
                Answer::Point(point) => {
                    found.extend(witness::scenario(&point).map(|witness| (pair, witness)))
                }
            }
        };
        if !old_allows.contains(&allow.region) {
            // No rule at all spoke of it.
            let all = before.entries.iter().map(|entry| &entry.region).chain(&new_denies);
            look(None, find_among(&[&allow.region], all));
        }
        for deny in gone.iter().filter(|deny| deny.region.may_meet(&allow.region)) {
            look(Some(deny), find_among(&[&allow.region, &deny.region], &new_denies));
        }
    }
    found
}

fn programs(old: &[Document], new: &[Document]) -> Vec<String> {
    let of = |documents: &[Document]| -> BTreeSet<(String, String)> {
        let programs = documents.iter().filter(|document| matches!(document.body, Body::Rego(_)));
        programs.map(|document| (document.body.name().to_string(), document.canonical())).collect()
    };
    let (old, new) = (of(old), of(new));
    let names: BTreeSet<String> = old.symmetric_difference(&new).map(|(name, _)| name.clone()).collect();
    names.into_iter().collect()
}
