//! A point that satisfies many statements at once, or that there is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Exhausted,
    atom::{Atom, Literal, Point, Trail, Variable},
    domain::Domain,
    fresh,
    glob::{self, Glob},
    range::{self, Network, Span},
};

/// When witnesses happen unless a clause has its own idea: 2026-01-01.
const USUAL_TIME: i64 = 1_767_225_600;
/// Assignments that are tried where texts must differ.
const MAX_TRIES: u32 = 10_000;

/// A point where each literal is true.
///
/// # Errors
/// When that takes too long to tell.
pub(super) fn point(literals: &[Literal<'_>]) -> Result<Option<Point>, Exhausted> {
    let mut facts = Facts::default();
    for literal in literals {
        facts.take(*literal);
    }
    facts.point()
}

#[derive(Default)]
struct Facts<'a> {
    networks: (Vec<&'a [Network]>, Vec<&'a [Network]>),
    spans: (Vec<Span>, Vec<Span>),
    trails: BTreeMap<Trail, (Vec<&'a [Glob]>, Vec<&'a Glob>)>,
    domains: BTreeMap<&'a Variable, Domain>,
    equal: Vec<(&'a Variable, &'a Variable)>,
    unequal: Vec<(&'a Variable, &'a Variable)>,
}

impl<'a> Facts<'a> {
    fn take(&mut self, literal: Literal<'a>) {
        match (literal.atom, literal.holds) {
            (Atom::Source(networks), true) => self.networks.0.push(networks),
            (Atom::Source(networks), false) => self.networks.1.push(networks),
            (Atom::Time(span), true) => self.spans.0.push(*span),
            (Atom::Time(span), false) => self.spans.1.push(*span),
            (Atom::Trail(trail, globs), true) => self.trails.entry(*trail).or_default().0.push(globs),
            (Atom::Trail(trail, globs), false) => self.trails.entry(*trail).or_default().1.extend(globs),
            (Atom::Value(variable, domain), true) => self.restrict(variable, domain),
            (Atom::Value(variable, domain), false) => self.restrict(variable, &domain.complement()),
            (Atom::Equal(one, other), true) => {
                self.restrict(one, &Domain::present());
                self.restrict(other, &Domain::present());
                self.equal.push((one, other));
            }
            (Atom::Equal(one, other), false) => self.unequal.push((one, other)),
        }
    }

    fn restrict(&mut self, variable: &'a Variable, domain: &Domain) {
        let known = self.domains.entry(variable).or_insert_with(|| universe(variable));
        *known = known.intersect(domain);
    }

    fn point(mut self) -> Result<Option<Point>, Exhausted> {
        self.restrict(&Variable::Action, &Domain::anything());
        let Some(source) = self.source() else { return Ok(None) };
        let Some(time) = range::pick_moment(&self.spans.0, &self.spans.1, USUAL_TIME) else {
            return Ok(None);
        };
        self.trails.entry(Trail::Caller).or_default();
        let mut trails = BTreeMap::new();
        for (trail, (wanted, avoided)) in &self.trails {
            // Only a caller is always there.
            if wanted.is_empty() && *trail != Trail::Caller {
                continue;
            }
            // Only a path may have no segments: it is `/`.
            let any = [Glob::new(if *trail == Trail::Path { Vec::new() } else { vec![None] }, true)];
            let mut wanted = wanted.clone();
            wanted.push(&any);
            let Some(segments) = glob::pick(&wanted, avoided)? else { return Ok(None) };
            trails.insert(*trail, segments);
        }
        let Some(values) = self.values()? else { return Ok(None) };
        Ok(Some(Point { source, time, trails, values }))
    }

    /// `Some(None)`: it need not be known where the request comes from.
    fn source(&self) -> Option<Option<IpAddr>> {
        let (wanted, avoided) = &self.networks;
        if wanted.is_empty() { Some(None) } else { range::pick_address(wanted, avoided).map(Some) }
    }

    /// A text for each variable that needs one.
    fn values(&self) -> Result<Option<BTreeMap<Variable, Arc<str>>>, Exhausted> {
        let mut classes = Classes::default();
        for (variable, domain) in &self.domains {
            classes.add(variable, domain.clone());
        }
        for (one, other) in &self.equal {
            classes.merge(one, other);
        }
        // The texts that some statement names; a fresh one is none of them.
        let mut named: BTreeSet<Arc<str>> =
            self.domains.values().flat_map(|domain| domain.named().map(Arc::from)).collect();
        let mut chosen: Vec<Option<Option<Arc<str>>>> = Vec::new();
        for domain in &classes.domains {
            chosen.push(match domain.listed() {
                _ if domain.is_empty() => return Ok(None),
                _ if domain.may_be_absent() => Some(None),
                // Decided below.
                Some(_) => None,
                // A fresh one is unlike all others.
                None => {
                    let text: Arc<str> = fresh("other", |text| named.contains(text));
                    named.insert(text.clone());
                    Some(Some(text))
                }
            });
        }
        let mut unequal: Vec<(usize, usize)> = Vec::new();
        for (one, other) in &self.unequal {
            // A variable that nothing else is said of is not there.
            let (Some(one), Some(other)) = (classes.of(one), classes.of(other)) else { continue };
            // Of the same class they are both there, and equal.
            let absent = |class: usize| classes.domains.get(class).is_none_or(Domain::may_be_absent);
            if one == other && !absent(one) {
                return Ok(None);
            }
            unequal.push((one, other));
        }
        let mut tries = MAX_TRIES;
        if !assign(&classes.domains, &unequal, &mut chosen, 0, &mut tries)? {
            return Ok(None);
        }
        let text = |class: &usize| chosen.get(*class).cloned().flatten().flatten();
        Ok(Some(
            classes
                .class_of
                .iter()
                .filter_map(|(variable, class)| Some(((*variable).clone(), text(class)?)))
                .collect(),
        ))
    }
}

/// Every request has an action; all else may be missing.
fn universe(variable: &Variable) -> Domain {
    if *variable == Variable::Action { Domain::present() } else { Domain::anything() }
}

/// Variables that must have the same text.
#[derive(Default)]
struct Classes<'a> {
    class_of: BTreeMap<&'a Variable, usize>,
    domains: Vec<Domain>,
}

impl<'a> Classes<'a> {
    fn of(&self, variable: &Variable) -> Option<usize> {
        self.class_of.get(variable).copied()
    }

    fn add(&mut self, variable: &'a Variable, domain: Domain) {
        self.class_of.insert(variable, self.domains.len());
        self.domains.push(domain);
    }

    fn merge(&mut self, one: &Variable, other: &Variable) {
        let (Some(one), Some(other)) = (self.of(one), self.of(other)) else { return };
        if one == other {
            return;
        }
        let Some(domain) = self.domains.get(other).cloned() else { return };
        if let Some(own) = self.domains.get_mut(one) {
            *own = own.intersect(&domain);
        }
        // Nobody is of that class any more.
        if let Some(gone) = self.domains.get_mut(other) {
            *gone = Domain::anything();
        }
        for class in self.class_of.values_mut().filter(|class| **class == other) {
            *class = one;
        }
    }
}

/// Gives each class from `index` on that has finitely many texts one of them, so that unequal ones differ.
fn assign(
    domains: &[Domain],
    unequal: &[(usize, usize)],
    chosen: &mut Vec<Option<Option<Arc<str>>>>,
    index: usize,
    tries: &mut u32,
) -> Result<bool, Exhausted> {
    let Some(domain) = domains.get(index) else { return Ok(true) };
    if chosen.get(index).is_some_and(Option::is_some) {
        return assign(domains, unequal, chosen, index + 1, tries);
    }
    for text in domain.listed().into_iter().flatten() {
        *tries = tries.checked_sub(1).ok_or(Exhausted)?;
        let clashes = unequal.iter().any(|(one, other)| {
            let partner = match (*one == index, *other == index) {
                (true, _) => other,
                (_, true) => one,
                _ => return false,
            };
            chosen.get(*partner).is_some_and(|known| matches!(known, Some(Some(known)) if known == text))
        });
        if clashes {
            continue;
        }
        if let Some(own) = chosen.get_mut(index) {
            *own = Some(Some(text.clone()));
        }
        if assign(domains, unequal, chosen, index + 1, tries)? {
            return Ok(true);
        }
    }
    if let Some(own) = chosen.get_mut(index) {
        *own = None;
    }
    Ok(false)
}
