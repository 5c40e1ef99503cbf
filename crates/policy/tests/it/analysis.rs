//! What is said of policies without a request, against the decisions about requests.

use bonafide_policy::{
    Document, Effect,
    analysis::{
        witness,
        world::{Scope, World},
    },
    check::{self, Finding, Vocabulary},
    diff::{self, Change},
    judge::Judge,
    read,
};

use crate::generate::Generator;

/// Random documents, of at most `rules` rules.
fn documents(generator: &mut Generator, rules: usize) -> Vec<Document> {
    let rules = 1 + generator.below(rules);
    let text = generator.documents(rules);
    read(&text).unwrap_or_else(|faults| panic!("{text}\n{faults:?}"))
}

#[test]
fn regions_are_what_is_decided() {
    let mut generator = Generator::new(1);
    let mut decided = [0; 2];
    for _ in 0..300 {
        let documents = documents(&mut generator, 8);
        let judge = Judge::new(&documents, Scope::Enforced);
        let worlds = World::all(&documents);
        let world = worlds.iter().find(|world| world.scope == Scope::Enforced);
        for _ in 0..20 {
            let callee = generator.certified();
            let scenario = generator.scenario(&callee);
            let ruling = judge.judge(&scenario);
            let met = |effect| {
                let point = witness::point(&scenario)?;
                world?.met(&point).find(|entry| entry.rule.effect() == effect).map(|entry| entry.title())
            };
            let allowed = met(Effect::Allow).is_some() && met(Effect::Deny).is_none();
            assert_eq!(ruling.effect == Effect::Allow, allowed, "{scenario:?}");
            decided[usize::from(allowed)] += 1;
        }
    }
    assert!(decided.iter().all(|number| *number > 500), "{decided:?}");
}

#[test]
fn a_witness_is_the_point_that_it_was_made_of() {
    let mut generator = Generator::new(2);
    for _ in 0..200 {
        for world in World::all(&documents(&mut generator, 8)) {
            for entry in &world.entries {
                let found = bonafide_policy::analysis::region::find(&[&entry.region], &[]);
                let Some(point) = found.point() else { continue };
                let scenario = witness::scenario(&point).unwrap();
                assert_eq!(witness::point(&scenario), Some(point));
            }
        }
    }
}

#[test]
fn every_witness_of_check_shows_what_is_said() {
    let mut generator = Generator::new(3);
    let mut confirmed = std::collections::BTreeMap::new();
    for _ in 0..250 {
        let documents = documents(&mut generator, 10);
        for finding in check::check(&documents, &Vocabulary::default()) {
            confirm(&documents, &finding);
            *confirmed.entry(finding.code).or_insert(0) += 1;
        }
    }
    for code in [
        "check.anyone",
        "check.contradiction",
        "check.dead-allow",
        "check.duplicate",
        "check.idle-exception",
        "check.overlap",
        "check.subsumed",
        "check.whole-domain",
        "check.bare-wildcard",
    ] {
        assert!(confirmed.get(code).is_some_and(|number| *number > 0), "{code}: {confirmed:?}");
    }
}

fn confirm(documents: &[Document], finding: &Finding) {
    let Some(witness) = &finding.witness else {
        let without = ["check.contradiction", "check.duplicate", "check.idle-exception"];
        // What all is denied of has none either.
        let broad = ["check.anyone", "check.whole-domain", "check.bare-wildcard"];
        assert!(without.contains(&finding.code) || broad.contains(&finding.code), "{finding:?}");
        return;
    };
    let shadow = documents[finding.document].body().mode() == bonafide_policy::Mode::Shadow;
    let scope = if shadow { Scope::Shadow } else { Scope::Enforced };
    let ruling = Judge::new(documents, scope).judge(witness);
    let worlds = World::all(documents);
    let world = worlds.iter().find(|world| world.scope == scope).unwrap();
    let point = witness::point(witness).unwrap();
    let met: Vec<String> = world.met(&point).map(|entry| entry.title()).collect();
    let own = format!("{}/{}", finding.policy, finding.rule.clone().unwrap());
    assert!(met.contains(&own), "{finding:?}");
    match finding.code {
        "check.overlap" => {
            assert_eq!(ruling.effect, Effect::Deny, "{finding:?}");
            assert!(met.contains(&finding.others[0]), "{finding:?}");
        }
        "check.dead-allow" => {
            assert_eq!(ruling.effect, Effect::Deny, "{finding:?}");
            assert!(finding.others.iter().any(|deny| met.contains(deny)), "{finding:?}");
        }
        "check.subsumed" => assert!(finding.others.iter().any(|other| met.contains(other)), "{finding:?}"),
        _ => assert_eq!(ruling.effect, Effect::Allow, "{finding:?}"),
    }
}

/// An edit: some documents of the one set, some of the other, some of both.
fn edited(generator: &mut Generator) -> (Vec<Document>, Vec<Document>) {
    let (all, rules) = (documents(generator, 10), 1 + generator.below(4));
    let other = read(&generator.documents(rules).replace("\nname: p", "\nname: q")).unwrap();
    let mut old: Vec<Document> = all.iter().filter(|_| !generator.one_in(4)).cloned().collect();
    let mut new: Vec<Document> = all.iter().filter(|_| !generator.one_in(4)).cloned().collect();
    if generator.one_in(2) {
        old.extend(other)
    } else {
        new.extend(other)
    }
    (old, new)
}

#[test]
fn every_change_is_shown_and_every_witness_is_a_change() {
    let mut generator = Generator::new(4);
    let (mut shown, mut differing) = (0, 0);
    for _ in 0..150 {
        let (old, new) = edited(&mut generator);
        let diff = diff::diff(&old, &new);
        assert!(diff.undecided.is_empty() && !diff.is_cut);
        let judges = [Judge::new(&old, Scope::Enforced), Judge::new(&new, Scope::Enforced)];
        for (changes, before, after) in
            [(&diff.gained, Effect::Deny, Effect::Allow), (&diff.lost, Effect::Allow, Effect::Deny)]
        {
            for change in changes {
                assert_eq!(judges[0].judge(&change.witness).effect, before, "{change:?}");
                assert_eq!(judges[1].judge(&change.witness).effect, after, "{change:?}");
                assert_eq!((change.before.effect, change.after.effect), (before, after));
                shown += 1;
            }
        }
        let worlds = [World::all(&old), World::all(&new)];
        for _ in 0..60 {
            let callee = generator.certified();
            let scenario = generator.scenario(&callee);
            let rulings = judges.each_ref().map(|judge| judge.judge(&scenario).effect);
            let (changes, allowing, denying) = match rulings {
                [Effect::Deny, Effect::Allow] => (&diff.gained, &worlds[1], &worlds[0]),
                [Effect::Allow, Effect::Deny] => (&diff.lost, &worlds[0], &worlds[1]),
                _ => continue,
            };
            differing += 1;
            let point = witness::point(&scenario).unwrap();
            let met = |worlds: &[World<'_>], effect: Effect| -> Vec<String> {
                let world = worlds.iter().find(|world| world.scope == Scope::Enforced);
                let met = world.into_iter().flat_map(|world| world.met(&point));
                met.filter(|entry| entry.rule.effect() == effect).map(|entry| entry.title()).collect()
            };
            let denies = met(denying, Effect::Deny);
            let denies: Vec<Option<String>> =
                if denies.is_empty() { vec![None] } else { denies.into_iter().map(Some).collect() };
            for allow in met(allowing, Effect::Allow) {
                for deny in &denies {
                    let is_it = |change: &Change| change.allowed_by == allow && change.denied_by == *deny;
                    assert!(changes.iter().any(is_it), "{allow} {deny:?}\n{scenario:?}");
                }
            }
        }
    }
    assert!(shown > 300 && differing > 300, "{shown} {differing}");
}

#[test]
fn nothing_changes_by_order_comments_and_names_of_policies() {
    let mut generator = Generator::new(5);
    for _ in 0..50 {
        let documents = documents(&mut generator, 10);
        let mut turned = documents.clone();
        turned.reverse();
        assert!(diff::diff(&documents, &turned).is_empty());
    }
}
