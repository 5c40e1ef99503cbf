//! Which of many regions may meet one, without a look at each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    atom::{Atom, Trail},
    region::Region,
};

/// The values by which regions are told apart, and how many of their first segments.
const BY: [(Trail, usize); 3] = [(Trail::Caller, 3), (Trail::Path, 2), (Trail::Key, 2)];

type Prefix = Vec<Arc<str>>;

/// An index of regions by the first segments of what they ask for.
#[derive(Debug, Default)]
pub struct Nearby {
    by: [Shelf; 3],
}

#[derive(Debug, Default)]
struct Shelf {
    under: BTreeMap<Prefix, Vec<usize>>,
    /// Those that may begin with anything.
    anywhere: Vec<usize>,
}

impl Nearby {
    /// Of regions, which are then known by their place among these.
    pub fn new<'a>(regions: impl IntoIterator<Item = &'a Region>) -> Self {
        let mut nearby = Self::default();
        for (index, region) in regions.into_iter().enumerate() {
            for (shelf, (trail, length)) in nearby.by.iter_mut().zip(BY) {
                match prefixes(region, trail, length) {
                    None => shelf.anywhere.push(index),
                    Some(prefixes) => {
                        for prefix in prefixes {
                            shelf.under.entry(prefix).or_default().push(index);
                        }
                    }
                }
            }
        }
        nearby
    }

    /// Those that may meet this one, and some others; in their order.
    pub fn of(&self, region: &Region) -> Vec<usize> {
        let mut best: Option<Vec<usize>> = None;
        for (shelf, (trail, length)) in self.by.iter().zip(BY) {
            let Some(prefixes) = prefixes(region, trail, length) else { continue };
            let mut found = shelf.anywhere.clone();
            for prefix in prefixes {
                found.extend(shelf.under.get(&prefix).into_iter().flatten());
            }
            if best.as_ref().is_none_or(|best| found.len() < best.len()) {
                best = Some(found);
            }
        }
        let mut found = best.unwrap_or_else(|| {
            let shelf = self.by.first();
            let all = shelf.map(|shelf| shelf.anywhere.iter().chain(shelf.under.values().flatten()).copied());
            all.into_iter().flatten().collect()
        });
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The first segments of all that a region asks for; `None` if they may be anything.
fn prefixes(region: &Region, of: Trail, length: usize) -> Option<BTreeSet<Prefix>> {
    region.atoms.iter().find_map(|atom| {
        let Atom::Trail(trail, globs) = atom else { return None };
        if *trail != of {
            return None;
        }
        globs.iter().map(|glob| glob.parts().0.get(..length)?.iter().cloned().collect()).collect()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::glob::Glob;

    fn region() -> impl Strategy<Value = Region> {
        let segment = prop::option::weighted(0.8, prop::sample::select(vec!["a", "b"]).prop_map(Arc::from));
        let glob = (prop::collection::vec(segment, 0..5), any::<bool>());
        let globs = prop::collection::vec(glob.prop_map(|(fixed, open)| Glob::new(fixed, open)), 1..3);
        let trail = prop::sample::select(vec![Trail::Caller, Trail::Path, Trail::Key, Trail::Host]);
        let atoms =
            prop::collection::vec((trail, globs).prop_map(|(trail, globs)| Atom::Trail(trail, globs)), 0..3);
        atoms.prop_map(|atoms| Region { atoms, except: Vec::new() })
    }

    proptest! {
        #[test]
        fn nothing_that_may_meet_is_overlooked(all in prop::collection::vec(region(), 0..12), one in region()) {
            let near = Nearby::new(&all).of(&one);
            for (index, other) in all.iter().enumerate() {
                prop_assert!(!one.may_meet(other) || near.contains(&index), "{index}");
            }
            prop_assert!(near.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
