//! The smallest statements that a clause is made of, and the point in the space of requests that they are about.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    domain::Domain,
    glob::Glob,
    range::{Network, Span},
};

/// A value of a request that is a list of segments.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Trail {
    /// The caller's SPIFFE ID: its trust domain, then its path.
    Caller,
    /// The host that is asked, the last label first.
    Host,
    /// The name of a key.
    Key,
    /// The path that is asked for.
    Path,
}

/// A value of a request that is one text.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Variable {
    /// What is to be done.
    Action,
    /// The algorithm of a key operation.
    Algorithm,
    /// A certified label of the caller.
    CallerLabel(Arc<str>),
    /// An asserted property of the caller.
    CallerProperty(Arc<str>),
    /// An entry of the context that a ciphertext is bound to.
    Context(Arc<str>),
    /// An asserted property of the resource.
    ResourceProperty(Arc<str>),
    /// The service that is asked.
    Service,
    /// An asserted property of the circumstances.
    SituationProperty(Arc<str>),
    /// A certified label of the workload that is called.
    WorkloadLabel(Arc<str>),
}

/// One statement about a request.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Atom {
    /// Both are there, and have the same text.
    Equal(Variable, Variable),
    /// The request comes from one of these networks.
    Source(Vec<Network>),
    /// It is made in this time.
    Time(Span),
    /// The segments are in one of these sets. What is not there is in none.
    Trail(Trail, Vec<Glob>),
    /// The text is one of these.
    Value(Variable, Domain),
}

/// A request, reduced to what statements can be about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Point {
    /// Where it comes from, if that is known.
    pub source: Option<IpAddr>,
    /// When, in seconds since the Unix epoch.
    pub time: i64,
    /// What is not there is missing.
    pub trails: BTreeMap<Trail, Vec<Arc<str>>>,
    /// What is not there is missing.
    pub values: BTreeMap<Variable, Arc<str>>,
}

impl Point {
    /// The text of a variable.
    pub fn value(&self, variable: &Variable) -> Option<&str> {
        self.values.get(variable).map(|text| &**text)
    }
}

impl Atom {
    /// Whether the statement is true.
    pub fn holds(&self, point: &Point) -> bool {
        match self {
            Self::Equal(one, other) => point.value(one).is_some_and(|text| point.value(other) == Some(text)),
            Self::Source(networks) => {
                point.source.is_some_and(|address| networks.iter().any(|network| network.contains(address)))
            }
            Self::Time(span) => span.contains(point.time),
            Self::Trail(trail, globs) => point
                .trails
                .get(trail)
                .is_some_and(|segments| globs.iter().any(|glob| glob.matches(segments))),
            Self::Value(variable, domain) => domain.contains(point.value(variable)),
        }
    }
}

impl Atom {
    /// Whether both may be true at once: no is certain, and quick.
    pub(super) fn may_meet(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Trail(one, globs), Self::Trail(two, others)) if one == two => {
                globs.iter().any(|glob| others.iter().any(|other| glob.intersect(other).is_some()))
            }
            (Self::Value(one, domain), Self::Value(two, other)) if one == two => {
                !domain.intersect(other).is_empty()
            }
            _ => true,
        }
    }

    /// Whether both are about the same value of a request.
    pub(super) fn shares_subject(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Source(_), Self::Source(_)) | (Self::Time(_), Self::Time(_)) => true,
            (Self::Trail(one, _), Self::Trail(two, _)) => one == two,
            _ => self.variables().any(|one| other.variables().any(|two| one == two)),
        }
    }

    /// The variables that it is about.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &Variable> {
        let (one, two) = match self {
            Self::Equal(one, two) => (Some(one), Some(two)),
            Self::Value(one, _) => (Some(one), None),
            Self::Source(_) | Self::Time(_) | Self::Trail(..) => (None, None),
        };
        one.into_iter().chain(two)
    }
}

/// An atom, or that it is not so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Literal<'a> {
    pub(super) atom: &'a Atom,
    pub(super) holds: bool,
}

impl Literal<'_> {
    pub(super) fn is_true(&self, point: &Point) -> bool {
        self.atom.holds(point) == self.holds
    }
}
