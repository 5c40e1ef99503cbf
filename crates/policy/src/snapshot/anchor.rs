//! Under which keys a rule can be found.

use super::key::{Facet, KeyHash, LabelUse, Literal, MAX_DEPTH, Places, Shape, bit};
use crate::{
    model::{Requirement, Rule},
    request::CertifiedLabels,
};

/// Values of one list that a rule is posted under.
const MAX_ALTERNATIVES: usize = 16;
/// Actions of a rule that it is posted under.
const MAX_ACTIONS: usize = 8;

/// Keys of which a request that a rule is about has at least one.
pub(super) type Dimension = Vec<u64>;

/// All that a rule can be found by.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    pub(super) dimensions: Vec<Dimension>,
    /// Pairs of the beginning of an ID and of a path, or of a key's name.
    pub(super) pairs: Vec<Pair>,
    /// The bits of keys that a request must have.
    pub(super) need: u64,
    /// The bits of actions, of which it must have one.
    pub(super) actions: u64,
    /// The keys of its actions, if they are few.
    pub(super) action_keys: Vec<u64>,
}

/// Two keys at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) key: u64,
    id_depth: usize,
    other_depth: usize,
    is_path: bool,
}

impl Pair {
    /// Has requests look for it.
    pub(super) fn note(self, shape: &mut Shape) {
        let with = if self.is_path { &mut shape.id_paths } else { &mut shape.id_keys };
        if let Some(depths) = with.get_mut(self.id_depth) {
            *depths |= 1 << self.other_depth;
        }
    }
}

/// Which labels any of the rules looks at.
pub(super) fn label_uses<'a>(rules: impl Iterator<Item = &'a Rule>) -> Box<[LabelUse]> {
    let mut uses = std::collections::BTreeMap::<&str, (bool, bool)>::new();
    for rule in rules {
        for (key, requirement) in rule.who.labels.iter() {
            match requirement {
                Requirement::Exists => uses.entry(key.as_str()).or_default().0 = true,
                Requirement::In(_) => uses.entry(key.as_str()).or_default().1 = true,
                Requirement::NotIn(_) | Requirement::Absent => {}
            }
        }
        for key in &rule.when.same {
            uses.entry(key.as_str()).or_default().1 = true;
        }
    }
    uses.into_iter().map(|(key, (exists, values))| LabelUse { key: key.into(), exists, values }).collect()
}

impl Anchors {
    /// Of a rule. What requests must compute for it is noted in the shape, whose labels are there already.
    pub(super) fn of(rule: &Rule, callee: &CertifiedLabels, shape: &mut Shape) -> Self {
        let mut anchors = Self { actions: u64::MAX, ..Self::default() };
        let hashes = shape.hashes.clone();
        let ids = anchors.callers(rule, &hashes, &mut shape.ids);
        anchors.labels(rule, callee, shape);
        let paths: Vec<Literal> =
            rule.on.paths.iter().map(|pattern| Literal::of_glob(pattern.glob(), true)).collect();
        let facets = (Facet::Path, Facet::PathSegment);
        let paths = anchors.texts(paths, &hashes, facets, &mut shape.paths, 1);
        let keys: Vec<Literal> =
            rule.on.keys.iter().map(|pattern| Literal::of_glob(pattern.glob(), false)).collect();
        let keys = anchors.texts(keys, &hashes, (Facet::Key, Facet::KeySegment), &mut shape.keys, 1);
        for (others, is_path) in [(&paths, true), (&keys, false)] {
            if ids.len() * others.len() <= MAX_ALTERNATIVES {
                anchors.pairs.extend(ids.iter().flat_map(|(id_depth, id)| {
                    let hashes = &hashes;
                    others.iter().map(move |(other_depth, other)| Pair {
                        key: hashes.pair(*id, *other),
                        id_depth: *id_depth,
                        other_depth: *other_depth,
                        is_path,
                    })
                }));
            }
            if !anchors.pairs.is_empty() {
                break;
            }
        }
        let host = |host: &crate::host::HostPattern| match host.parts() {
            (name, false) => Some(hashes.text(Facet::Host, 0, name.as_bytes())),
            (_, true) => None,
        };
        let hosts: Option<Dimension> = rule.on.hosts.iter().map(host).collect();
        if let Some(hosts) = hosts.filter(|hosts| !hosts.is_empty()) {
            shape.hosts = true;
            anchors.add(hosts);
        }
        let service =
            |name: &crate::words::ServiceName| hashes.text(Facet::Service, 0, name.as_str().as_bytes());
        let services: Dimension = rule.on.services.iter().map(service).collect();
        if !services.is_empty() {
            shape.services = true;
            anchors.add(services);
        }
        anchors.actions(rule, &hashes);
        anchors
    }

    /// Adds keys of which a request has at least one.
    fn add(&mut self, dimension: Dimension) {
        if let [key] = dimension.as_slice() {
            self.need |= bit(*key);
        }
        if (1..=MAX_ALTERNATIVES).contains(&dimension.len()) {
            self.dimensions.push(dimension);
        }
    }

    fn callers(&mut self, rule: &Rule, hashes: &KeyHash, places: &mut Places) -> Vec<(usize, u64)> {
        let start = |domain: &bonafide_identity::TrustDomain| format!("spiffe://{domain}");
        let literals: Vec<Literal> = if rule.who.ids.is_empty() {
            let domains = rule.who.trust_domains.iter();
            domains.map(|domain| Literal { beginning: start(domain), ..Literal::default() }).collect()
        } else {
            let ids = rule.who.ids.iter();
            ids.map(|pattern| {
                let segments = pattern.segments().map(|segment| (segment != "*").then_some(segment));
                Literal::of(&start(pattern.trust_domain()), true, segments)
            })
            .collect()
        };
        self.texts(literals, hashes, (Facet::Id, Facet::IdSegment), places, 0)
    }

    /// Beginnings of at least `least` segments, and single segments behind a wildcard. The beginnings, with their depths.
    fn texts(
        &mut self,
        literals: Vec<Literal>,
        hashes: &KeyHash,
        (facet, segment_facet): (Facet, Facet),
        places: &mut Places,
        least: usize,
    ) -> Vec<(usize, u64)> {
        if let [literal] = literals.as_slice() {
            for (place, text) in &literal.others {
                places.segments |= 1 << place;
                self.add(vec![hashes.text(segment_facet, *place, text.as_bytes())]);
            }
        }
        if literals.len() > MAX_ALTERNATIVES || literals.iter().any(|literal| literal.depth < least) {
            return Vec::new();
        }
        let beginnings: Vec<(usize, u64)> = literals
            .iter()
            .map(|literal| {
                places.depths |= 1 << literal.depth.min(MAX_DEPTH);
                (literal.depth, hashes.text(facet, literal.depth, literal.beginning.as_bytes()))
            })
            .collect();
        if !beginnings.is_empty() {
            self.add(beginnings.iter().map(|(_, key)| *key).collect());
        }
        beginnings
    }

    fn labels(&mut self, rule: &Rule, callee: &CertifiedLabels, shape: &Shape) {
        let place = |key: &str| shape.labels.binary_search_by(|own| (*own.key).cmp(key)).ok();
        let value = |place, value: &[u8]| shape.hashes.text(Facet::Label, place, value);
        for (key, requirement) in rule.who.labels.iter() {
            let Some(place) = place(key.as_str()) else { continue };
            match requirement {
                Requirement::Exists => self.add(vec![shape.hashes.text(Facet::HasLabel, place, &[])]),
                Requirement::In(values) => {
                    self.add(values.iter().map(|one| value(place, one.as_str().as_bytes())).collect());
                }
                Requirement::NotIn(_) | Requirement::Absent => {}
            }
        }
        for key in &rule.when.same {
            // A callee without the label: the rule is never met, wherever it is posted.
            if let (Some(place), Some(own)) = (place(key.as_str()), callee.get(key.as_str())) {
                self.add(vec![value(place, own)]);
            }
        }
    }

    fn actions(&mut self, rule: &Rule, hashes: &KeyHash) {
        if rule.can.is_empty() {
            return;
        }
        let keys: Dimension =
            rule.can.iter().map(|action| hashes.text(Facet::Action, 0, action.as_str().as_bytes())).collect();
        self.actions = keys.iter().fold(0, |bits, key| bits | bit(*key));
        if keys.len() <= MAX_ACTIONS {
            self.action_keys.clone_from(&keys);
            self.add(keys);
        }
    }
}
