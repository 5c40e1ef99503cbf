//! Rules under their rarest keys.

use super::{
    Class, Found, HashedMap,
    anchor::{Anchors, Dimension, label_uses},
    key::{KeyHash, Keys, MAX_DEPTH, Places, Shape, bit, label_bit},
};
use crate::{
    asked::Asked,
    model::{Mode, Rule},
    request::CertifiedLabels,
};

/// A rule whose rarest key is shared by more is also posted under pairs of keys.
const CROWDED: u32 = 8;
/// A longer list is split by the actions of its rules.
const SPLIT_AT: usize = 16;

/// Which rules a request must look at.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) shape: Shape,
    buckets: HashedMap<Bucket>,
    /// Rules that have no key.
    everything: Bucket,
    postings: Box<[Posting]>,
}

/// Where the rules of one key stand, by class and number.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Where the rules of each class begin, and where the last ones end.
    bounds: [u32; Class::ALL.len() + 1],
    /// Rules with few actions stand under the pair of this key and the action.
    split: bool,
}

/// One rule under one key.
#[derive(Clone, Copy, Debug)]
struct Posting {
    /// Bits of keys that the request must have.
    need: u64,
    /// Bits of actions, of which it must have one.
    actions: u64,
    rule: u32,
}

/// A posting and where it belongs.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u64,
    class: Class,
    posting: Posting,
}

/// The key of rules that have none.
const EVERYTHING: u64 = 0;

impl Index {
    /// Of rules in the order of their numbers.
    pub(super) fn build<'a>(
        rules: impl Iterator<Item = (Mode, &'a Rule)>,
        callee: &CertifiedLabels,
        seed: u64,
    ) -> Self {
        let rules: Vec<(Mode, &Rule)> = rules.collect();
        let labels = label_uses(rules.iter().map(|(_, rule)| *rule));
        let mut shape = Shape {
            hashes: KeyHash::new(seed),
            label_bits: labels.iter().fold(0, |bits, own| bits | label_bit(&own.key)),
            ids: Places::default(),
            paths: Places::default(),
            keys: Places::default(),
            labels,
            hosts: false,
            services: false,
            id_paths: [0; MAX_DEPTH + 1],
            id_keys: [0; MAX_DEPTH + 1],
        };
        let anchors: Vec<Anchors> =
            rules.iter().map(|(_, rule)| Anchors::of(rule, callee, &mut shape)).collect();
        let counts = count(&anchors);
        let mut entries = Vec::with_capacity(anchors.len());
        for ((number, (mode, rule)), anchors) in (0_u32..).zip(&rules).zip(&anchors) {
            let posting = Posting { need: anchors.need, actions: anchors.actions, rule: number };
            let class = Class::of(*mode, rule.effect);
            let keys = choose(anchors, &counts, &mut shape);
            entries.extend(keys.into_iter().map(|key| Entry { key, class, posting }));
        }
        let split = split(&mut entries, &anchors, &shape.hashes);
        entries.sort_unstable_by_key(|entry| (entry.key, entry.class as u8, entry.posting.rule));
        entries.dedup_by_key(|entry| (entry.key, entry.posting.rule));
        Self::of(shape, &entries, &split)
    }

    fn of(shape: Shape, entries: &[Entry], split: &HashedMap<()>) -> Self {
        let mut buckets = HashedMap::with_capacity_and_hasher(entries.len(), super::Hashes);
        let mut everything = Bucket::default();
        let mut at = 0;
        for of_key in entries.chunk_by(|one, other| one.key == other.key) {
            let Some(first) = of_key.first() else { continue };
            let mut bucket =
                Bucket { bounds: [at; Class::ALL.len() + 1], split: split.contains_key(&first.key) };
            for entry in of_key {
                at += 1;
                for end in bucket.bounds.iter_mut().skip(entry.class as usize + 1) {
                    *end = at;
                }
            }
            if first.key == EVERYTHING {
                everything = bucket;
            } else {
                buckets.insert(first.key, bucket);
            }
        }
        // All of its rules may have gone to the parts.
        for key in split.keys() {
            buckets.entry(*key).or_insert(Bucket { split: true, ..Bucket::default() });
        }
        if split.contains_key(&EVERYTHING) {
            everything.split = true;
        }
        let postings = entries.iter().map(|entry| entry.posting).collect();
        Self { shape, buckets, everything, postings }
    }

    /// Finds the first rule of each class that is met.
    pub(super) fn find(&self, asked: &Asked<'_>, is_met: impl Fn(u32) -> bool, found: &mut Found) {
        let mut keys = Keys::new();
        keys.gather(asked, &self.shape);
        self.look(EVERYTHING, self.everything, &keys, &is_met, found);
        keys.for_each_anchor(asked, &self.shape, |key| {
            if let Some(bucket) = self.buckets.get(&key) {
                self.look(key, *bucket, &keys, &is_met, found);
            }
        });
    }

    #[inline]
    fn look(&self, key: u64, bucket: Bucket, keys: &Keys, is_met: &impl Fn(u32) -> bool, found: &mut Found) {
        self.scan(bucket, keys, is_met, found);
        if bucket.split
            && let Some(part) = self.buckets.get(&self.shape.hashes.pair(key, keys.action))
        {
            self.scan(*part, keys, is_met, found);
        }
    }

    #[inline]
    fn scan(&self, bucket: Bucket, keys: &Keys, is_met: &impl Fn(u32) -> bool, found: &mut Found) {
        let (missing, action) = (!keys.have, bit(keys.action));
        for (class, bounds) in Class::ALL.into_iter().zip(bucket.bounds.array_windows()) {
            let [start, end] = *bounds;
            if class != Class::Deny && found.is_denied() {
                return;
            }
            let Some(postings) = self.postings.get(start as usize..end as usize) else { continue };
            let best = found.best(class);
            let mut candidates = postings
                .iter()
                .take_while(|posting| posting.rule < best)
                .filter(|posting| posting.need & missing == 0 && posting.actions & action != 0);
            if let Some(posting) = candidates.find(|posting| is_met(posting.rule)) {
                found.set(class, posting.rule);
            }
        }
    }

    /// How many rules a request may have to look at under one key, with those that stand under none.
    pub(super) fn longest(&self) -> usize {
        let length = |bucket: &Bucket| match bucket.bounds {
            [start, .., end] => (end - start) as usize,
        };
        let longest = self.buckets.values().map(length).max().unwrap_or(0);
        longest + length(&self.everything)
    }
}

/// How many rules have each key.
fn count(anchors: &[Anchors]) -> HashedMap<u32> {
    let mut counts = HashedMap::with_capacity_and_hasher(anchors.len() * 4, super::Hashes);
    for anchors in anchors {
        let pairs = anchors.pairs.iter().map(|pair| &pair.key);
        for key in anchors.dimensions.iter().flatten().chain(pairs) {
            *counts.entry(*key).or_insert(0_u32) += 1;
        }
    }
    counts
}

/// The rarest keys of a rule.
fn choose(anchors: &Anchors, counts: &HashedMap<u32>, shape: &mut Shape) -> Dimension {
    let count = |key: &u64| counts.get(key).copied().unwrap_or(0);
    let cost = |keys: &Dimension| (keys.iter().map(count).max().unwrap_or(0), keys.len());
    let single = anchors.dimensions.iter().min_by_key(|keys| cost(keys));
    let Some(single) = single else { return vec![EVERYTHING] };
    let pairs = anchors.pairs.iter().map(|pair| count(&pair.key)).max();
    if let Some(pairs) = pairs
        && cost(single).0 > CROWDED
        && pairs < cost(single).0 / 2
    {
        anchors.pairs.iter().for_each(|pair| pair.note(shape));
        return anchors.pairs.iter().map(|pair| pair.key).collect();
    }
    single.clone()
}

/// Moves rules of crowded keys to the pair of the key and each of their actions. Which keys they were.
fn split(entries: &mut Vec<Entry>, anchors: &[Anchors], hashes: &KeyHash) -> HashedMap<()> {
    let mut lengths: HashedMap<usize> = HashedMap::default();
    for entry in entries.iter() {
        *lengths.entry(entry.key).or_insert(0) += 1;
    }
    let mut split = HashedMap::default();
    let mut moved = Vec::new();
    entries.retain(|entry| {
        let crowded = lengths.get(&entry.key).is_some_and(|length| *length > SPLIT_AT);
        let actions = anchors.get(entry.posting.rule as usize).map(|own| own.action_keys.as_slice());
        let Some(actions) = actions.filter(|actions| crowded && !actions.is_empty()) else { return true };
        split.insert(entry.key, ());
        moved.extend(actions.iter().map(|action| Entry { key: hashes.pair(entry.key, *action), ..*entry }));
        false
    });
    entries.append(&mut moved);
    split
}
