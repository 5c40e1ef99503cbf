//! Patterns of segments as sets: literal segments, `*` for one of any text, and an open end for any further ones.
//!
//! Such sets are closed under intersection, and the alphabet of segments is infinite: a text that no pattern names
//! behaves like every other one. So each answer here is exact.

use std::sync::Arc;

use super::{Exhausted, fresh};

/// Patterns that an intersection of lists may have.
const MAX_ALTERNATIVES: usize = 4096;

/// A set of lists of segments.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Glob {
    /// `None` is any one segment.
    fixed: Vec<Option<Arc<str>>>,
    /// Whether further segments may follow.
    open: bool,
}

impl Glob {
    /// Every list that begins with `fixed`, and that ends there unless `open`; `None` is any one segment.
    pub fn new(fixed: Vec<Option<Arc<str>>>, open: bool) -> Self {
        Self { fixed, open }
    }

    /// The fixed segments, `None` being any one, and whether further ones may follow.
    pub fn parts(&self) -> (&[Option<Arc<str>>], bool) {
        (&self.fixed, self.open)
    }

    /// Whether the list is in the set.
    pub fn matches(&self, segments: &[Arc<str>]) -> bool {
        let long_enough =
            segments.len() == self.fixed.len() || self.open && segments.len() > self.fixed.len();
        long_enough
            && self
                .fixed
                .iter()
                .zip(segments)
                .all(|(pattern, segment)| pattern.as_ref().is_none_or(|literal| literal == segment))
    }

    /// What both have in common, if anything.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let (long, short) = if self.fixed.len() >= other.fixed.len() { (self, other) } else { (other, self) };
        if long.fixed.len() > short.fixed.len() && !short.open {
            return None;
        }
        let mut fixed = Vec::with_capacity(long.fixed.len());
        for (index, one) in long.fixed.iter().enumerate() {
            fixed.push(match (one, short.fixed.get(index).unwrap_or(&None)) {
                (Some(one), Some(two)) if one != two => return None,
                (Some(literal), _) | (None, Some(literal)) => Some(literal.clone()),
                (None, None) => None,
            });
        }
        Some(Self { fixed, open: self.open && other.open })
    }

    /// Whether `other` has nothing that this has not.
    pub fn covers(&self, other: &Self) -> bool {
        let ends = if other.open { self.open } else { self.open || self.fixed.len() == other.fixed.len() };
        ends && self.fixed.len() <= other.fixed.len()
            && self.fixed.iter().zip(&other.fixed).all(|(one, two)| one.is_none() || one == two)
    }

    /// A list with as many segments more than the fixed ones as `more` says, each `*` being `filler`.
    fn instance(&self, more: usize, filler: &Arc<str>) -> Vec<Arc<str>> {
        let fixed = self.fixed.iter().map(|segment| segment.as_ref().unwrap_or(filler).clone());
        fixed.chain(std::iter::repeat_n(filler.clone(), more)).collect()
    }

    fn literals(&self) -> impl Iterator<Item = &str> {
        self.fixed.iter().flatten().map(|literal| &**literal)
    }
}

/// A list that is in one set of each of `wanted`, and in none of `avoided`; `None` when there is none.
///
/// # Errors
/// When there are too many combinations of alternatives.
pub(super) fn pick(wanted: &[&[Glob]], avoided: &[&Glob]) -> Result<Option<Vec<Arc<str>>>, Exhausted> {
    let anything = Glob::new(Vec::new(), true);
    let mut alternatives = vec![anything];
    for list in wanted {
        let mut next: Vec<Glob> = Vec::new();
        for one in &alternatives {
            for both in list.iter().filter_map(|other| one.intersect(other)) {
                if !next.contains(&both) {
                    next.push(both);
                }
                if next.len() > MAX_ALTERNATIVES {
                    return Err(Exhausted);
                }
            }
        }
        alternatives = next;
    }
    Ok(alternatives.iter().find_map(|alternative| pick_one(alternative, avoided)))
}

/// A text that no avoided pattern names is in the fewest of them, so for each length one list decides.
fn pick_one(glob: &Glob, avoided: &[&Glob]) -> Option<Vec<Arc<str>>> {
    let near: Vec<&Glob> = avoided.iter().copied().filter(|other| other.intersect(glob).is_some()).collect();
    let filler =
        fresh("any", |text| near.iter().any(|other| other.literals().any(|literal| literal == text)));
    let longest = near.iter().map(|other| other.fixed.len()).max().unwrap_or(0);
    // Beyond the longest pattern all lengths are alike.
    let most = if glob.open { (longest + 1).saturating_sub(glob.fixed.len()).max(1) } else { 0 };
    // One more segment reads better than none.
    let lengths = (1..=most).chain(std::iter::once(0));
    lengths
        .map(|more| glob.instance(more, &filler))
        .find(|list| !near.iter().any(|other| other.matches(list)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment() -> impl Strategy<Value = Arc<str>> {
        prop::sample::select(vec!["a", "b"]).prop_map(Arc::from)
    }

    fn glob() -> impl Strategy<Value = Glob> {
        (prop::collection::vec(prop::option::of(segment()), 0..4), any::<bool>())
            .prop_map(|(fixed, open)| Glob::new(fixed, open))
    }

    /// All lists of up to five segments of three texts, of which patterns can name only two.
    fn universe() -> Vec<Vec<Arc<str>>> {
        let mut lists = vec![Vec::new()];
        let mut last = lists.clone();
        for _ in 0..5 {
            last = last
                .iter()
                .flat_map(|list: &Vec<Arc<str>>| {
                    ["a", "b", "c"].map(|text| list.iter().cloned().chain([Arc::from(text)]).collect())
                })
                .collect();
            lists.extend(last.clone());
        }
        lists
    }

    proptest! {
        #[test]
        fn sets_are_what_enumeration_says(one in glob(), two in glob()) {
            let both = one.intersect(&two);
            let mut covered = true;
            for list in universe() {
                let in_both = one.matches(&list) && two.matches(&list);
                prop_assert_eq!(both.as_ref().is_some_and(|both| both.matches(&list)), in_both);
                covered &= !two.matches(&list) || one.matches(&list);
            }
            prop_assert_eq!(one.covers(&two), covered);
        }

        #[test]
        fn something_is_picked_when_there_is_something(
            wanted in prop::collection::vec(prop::collection::vec(glob(), 1..3), 0..3),
            avoided in prop::collection::vec(glob(), 0..5),
        ) {
            let wanted: Vec<&[Glob]> = wanted.iter().map(Vec::as_slice).collect();
            let avoided: Vec<&Glob> = avoided.iter().collect();
            let fits = |list: &[Arc<str>]| {
                wanted.iter().all(|any| any.iter().any(|glob| glob.matches(list)))
                    && !avoided.iter().any(|glob| glob.matches(list))
            };
            let picked = pick(&wanted, &avoided).unwrap();
            prop_assert_eq!(picked.is_some(), universe().iter().any(|list| fits(list)));
            prop_assert!(picked.is_none_or(|list| fits(&list)));
        }
    }
}
