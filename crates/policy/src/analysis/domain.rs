//! What one value of a request may be: one of some texts, anything but some texts, nothing at all.

use std::{collections::BTreeSet, sync::Arc};

/// A set of texts, and perhaps of their absence.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Domain {
    values: BTreeSet<Arc<str>>,
    /// The values are what is not meant.
    inverted: bool,
    /// Whether a value that is not there is in the set.
    absent: bool,
}

impl Domain {
    /// One of these.
    pub fn one_of(values: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { values: values.into_iter().collect(), inverted: false, absent: false }
    }

    /// Anything but these. Nothing at all is in the set, as it is for the labels of Kubernetes.
    pub fn none_of(values: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { values: values.into_iter().collect(), inverted: true, absent: true }
    }

    /// Any text.
    pub fn present() -> Self {
        Self { values: BTreeSet::new(), inverted: true, absent: false }
    }

    /// No text.
    pub fn absent() -> Self {
        Self { values: BTreeSet::new(), inverted: false, absent: true }
    }

    /// Any text or none.
    pub fn anything() -> Self {
        Self { values: BTreeSet::new(), inverted: true, absent: true }
    }

    /// Whether the value is in the set.
    pub fn contains(&self, value: Option<&str>) -> bool {
        match value {
            None => self.absent,
            Some(text) => self.values.contains(text) != self.inverted,
        }
    }

    /// What is not in it.
    #[must_use]
    pub fn complement(&self) -> Self {
        Self { values: self.values.clone(), inverted: !self.inverted, absent: !self.absent }
    }

    /// What is in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let absent = self.absent && other.absent;
        let (values, inverted) = match (self.inverted, other.inverted) {
            (false, _) => {
                (self.values.iter().filter(|text| other.contains(Some(text))).cloned().collect(), false)
            }
            (true, false) => {
                (other.values.iter().filter(|text| self.contains(Some(text))).cloned().collect(), false)
            }
            (true, true) => (self.values.union(&other.values).cloned().collect(), true),
        };
        Self { values, inverted, absent }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.absent && !self.inverted && self.values.is_empty()
    }

    /// Whether a value may be missing.
    pub fn may_be_absent(&self) -> bool {
        self.absent
    }

    /// Its texts, if they are finitely many.
    pub fn listed(&self) -> Option<&BTreeSet<Arc<str>>> {
        (!self.inverted).then_some(&self.values)
    }

    /// The texts that it names, be they in it or not.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|text| &**text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain() -> impl Strategy<Value = Domain> {
        let values = prop::collection::btree_set(prop::sample::select(vec!["a", "b", "c"]), 0..3);
        (values, any::<bool>(), any::<bool>()).prop_map(|(values, inverted, absent)| Domain {
            values: values.into_iter().map(Arc::from).collect(),
            inverted,
            absent,
        })
    }

    proptest! {
        #[test]
        fn sets_are_what_enumeration_says(one in domain(), two in domain()) {
            let both = one.intersect(&two);
            let mut found = false;
            for value in [None, Some("a"), Some("b"), Some("c"), Some("d")] {
                prop_assert_eq!(one.complement().contains(value), !one.contains(value));
                let in_both = one.contains(value) && two.contains(value);
                prop_assert_eq!(both.contains(value), in_both);
                found |= in_both;
            }
            prop_assert_eq!(both.is_empty(), !found);
        }
    }
}
