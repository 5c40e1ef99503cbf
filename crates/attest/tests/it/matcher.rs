//! The index against the naive filter, through insertions, removals and changes of anchors.

use std::collections::BTreeMap;

use bonafide_attest::{
    Selector, SelectorSet,
    matcher::{NoSelectors, SubsetIndex},
};
use proptest::prelude::*;

fn set(selectors: impl IntoIterator<Item = u16>) -> SelectorSet {
    SelectorSet::collect(selectors.into_iter().map(|n| Selector::new("test.n", &n.to_string()).unwrap()))
        .unwrap()
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, Vec<u16>),
    Remove(u32),
    Query(Vec<u16>),
}

/// Few symbols, some of them in nearly every entry, so that anchors crowd and move.
fn symbol() -> impl Strategy<Value = u16> {
    prop_oneof![3 => 0_u16..2, 2 => 2_u16..12, 2 => 12_u16..200]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u32..400, prop::collection::vec(symbol(), 1..5)).prop_map(|(id, set)| Step::Insert(id, set)),
        2 => (0_u32..400).prop_map(Step::Remove),
        2 => prop::collection::vec(symbol(), 0..24).prop_map(Step::Query),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_index_answers_as_the_naive_filter_does(steps in prop::collection::vec(step(), 1..1200)) {
        let mut index = SubsetIndex::new();
        let mut model: BTreeMap<u32, SelectorSet> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(id, selectors) => {
                    let selectors = set(selectors);
                    index.insert(id, &selectors).unwrap();
                    model.insert(id, selectors);
                }
                Step::Remove(id) => assert_eq!(index.remove(&id), model.remove(&id).is_some()),
                Step::Query(attested) => {
                    let attested = set(attested);
                    let naive: Vec<u32> =
                        model.iter().filter(|(_, own)| own.is_subset_of(&attested)).map(|(id, _)| *id).collect();
                    prop_assert_eq!(sorted(index.matches(&attested)), naive);
                    check_near_misses(&index, &model, &attested);
                }
            }
            prop_assert_eq!(index.len(), model.len());
        }
    }
}

fn check_near_misses(index: &SubsetIndex<u32>, model: &BTreeMap<u32, SelectorSet>, attested: &SelectorSet) {
    let missing = |own: &SelectorSet| own.iter().filter(|selector| !attested.contains(selector)).count();
    let mut naive: Vec<usize> = model.values().map(missing).filter(|count| *count > 0).collect();
    naive.sort_unstable();
    naive.truncate(5);
    let found = index.near_misses(attested, 5);
    assert_eq!(found.iter().map(|(_, missing)| missing.len()).collect::<Vec<_>>(), naive);
    for (id, named) in found {
        let own = &model[&id];
        assert!(named.iter().all(|selector| own.contains(selector) && !attested.contains(selector)));
        assert_eq!(named.len(), missing(own));
    }
}

#[test]
fn an_entry_without_selectors_is_refused_and_changes_nothing() {
    let mut index = SubsetIndex::new();
    index.insert(1, &set([1])).unwrap();
    assert_eq!(index.insert(1, &SelectorSet::new()), Err(NoSelectors));
    assert_eq!(index.insert(2, &SelectorSet::new()), Err(NoSelectors));
    assert_eq!(index.matches(&set([1])), [1]);
    assert!(index.matches(&SelectorSet::new()).is_empty());
}

#[test]
fn a_crowded_anchor_gives_its_entries_to_rarer_ones() {
    let mut index = SubsetIndex::new();
    // In the order that is worst: the common selector is as rare as the other one when the entry comes.
    for id in 0_u32..4000 {
        index.insert(id, &set([0, 1000 + u16::try_from(id).unwrap()])).unwrap();
    }
    assert!(index.longest_posting() <= 130, "{}", index.longest_posting());
    assert_eq!(index.matches(&set([0, 1007])), [7]);
}

#[test]
fn what_is_removed_leaves_no_trace() {
    let mut index = SubsetIndex::new();
    for round in 0..3 {
        for id in 0..500 {
            index.insert(id, &set([round, 3, 100 + u16::try_from(id).unwrap()])).unwrap();
        }
        for id in 0..500 {
            assert!(index.remove(&id));
            assert!(!index.remove(&id));
        }
    }
    assert!(index.is_empty());
    assert_eq!(index.longest_posting(), 0);
    assert!(index.near_misses(&set([1]), 10).is_empty());
}
