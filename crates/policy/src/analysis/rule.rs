//! Rules as regions of the space of requests.

use std::{net::IpAddr, sync::Arc};

use bonafide_identity::{SpiffeIdPattern, TrustDomain};

use super::{
    atom::{Atom, Trail, Variable},
    domain::Domain,
    glob::Glob,
    range::{Network, Span},
    region::Region,
};
use crate::{
    glob::{self as patterns, Segment},
    host::HostPattern,
    model::{Bound, Exception, LabelRequirements, PropRequirements, Requirement, Rule, Target, When, Who},
    network,
    words::Action,
};

/// The requests that meet a rule of a policy that applies to these workloads.
pub fn region(applies_to: &LabelRequirements, rule: &Rule) -> Region {
    let mut atoms = workloads(applies_to);
    who(&rule.who, &mut atoms);
    can(rule.can.iter(), &mut atoms);
    on(&rule.on, &mut atoms);
    when(&rule.when, &mut atoms);
    Region { atoms, except: rule.except.iter().map(exception).collect() }
}

/// What must be true of a workload that a policy applies to.
pub fn workloads(applies_to: &LabelRequirements) -> Vec<Atom> {
    let atoms = applies_to.iter().map(|(key, requirement)| {
        Atom::Value(Variable::WorkloadLabel(key.as_str().into()), domain(requirement, |value| value.as_str()))
    });
    atoms.collect()
}

fn exception(exception: &Exception) -> Vec<Atom> {
    let mut atoms = Vec::new();
    who(&exception.who, &mut atoms);
    can(exception.can.iter(), &mut atoms);
    on(&exception.on, &mut atoms);
    atoms
}

fn who(who: &Who, atoms: &mut Vec<Atom>) {
    trail(Trail::Caller, who.ids.iter().map(id_glob), atoms);
    trail(Trail::Caller, who.trust_domains.iter().map(trust_domain_glob), atoms);
    for (key, requirement) in who.labels.iter() {
        let domain = domain(requirement, |value| value.as_str());
        atoms.push(Atom::Value(Variable::CallerLabel(key.as_str().into()), domain));
    }
    props(&who.props, Variable::CallerProperty, atoms);
}

fn can<'a>(actions: impl Iterator<Item = &'a Action>, atoms: &mut Vec<Atom>) {
    texts(Variable::Action, actions.map(Action::as_str), atoms);
}

fn on(target: &Target, atoms: &mut Vec<Atom>) {
    trail(Trail::Path, target.paths.iter().map(|path| glob(path.glob())), atoms);
    trail(Trail::Host, target.hosts.iter().map(host_glob), atoms);
    trail(Trail::Key, target.keys.iter().map(|key| glob(key.glob())), atoms);
    texts(Variable::Service, target.services.iter().map(|service| service.as_str()), atoms);
    props(&target.props, Variable::ResourceProperty, atoms);
}

fn when(when: &When, atoms: &mut Vec<Atom>) {
    for key in when.same.iter() {
        let key: Arc<str> = key.as_str().into();
        atoms.push(Atom::Equal(Variable::CallerLabel(key.clone()), Variable::WorkloadLabel(key)));
    }
    for (name, bound) in when.aad.iter() {
        let entry = Variable::Context(name.as_str().into());
        atoms.push(match bound {
            Bound::Is(value) => Atom::Value(entry, Domain::one_of([value.as_str().into()])),
            Bound::CallersLabel(key) => Atom::Equal(entry, Variable::CallerLabel(key.as_str().into())),
        });
    }
    texts(Variable::Algorithm, when.algorithms.iter().map(|algorithm| algorithm.as_str()), atoms);
    if when.from.is_some() || when.until.is_some() {
        let from = when.from.map_or(i64::MIN, |moment| moment.as_secs());
        atoms.push(Atom::Time(Span { from, until: when.until.map(|moment| moment.as_secs()) }));
    }
    if !when.sources.is_empty() {
        atoms.push(Atom::Source(when.sources.iter().filter_map(network).collect()));
    }
    props(&when.props, Variable::SituationProperty, atoms);
}

fn trail(trail: Trail, globs: impl Iterator<Item = Glob>, atoms: &mut Vec<Atom>) {
    let globs: Vec<Glob> = globs.collect();
    if !globs.is_empty() {
        atoms.push(Atom::Trail(trail, globs));
    }
}

fn texts<'a>(variable: Variable, texts: impl Iterator<Item = &'a str>, atoms: &mut Vec<Atom>) {
    let texts: Vec<Arc<str>> = texts.map(Arc::from).collect();
    if !texts.is_empty() {
        atoms.push(Atom::Value(variable, Domain::one_of(texts)));
    }
}

fn props(all: &PropRequirements, variable: fn(Arc<str>) -> Variable, atoms: &mut Vec<Atom>) {
    for (name, requirement) in all.iter() {
        let domain = domain(requirement, |value| value.as_str());
        atoms.push(Atom::Value(variable(name.as_str().into()), domain));
    }
}

fn domain<V: Ord>(requirement: &Requirement<V>, text: impl Fn(&V) -> &str) -> Domain {
    let text = |value| Arc::from(text(value));
    match requirement {
        Requirement::In(values) => Domain::one_of(values.iter().map(text)),
        Requirement::NotIn(values) => Domain::none_of(values.iter().map(text)),
        Requirement::Exists => Domain::present(),
        Requirement::Absent => Domain::absent(),
    }
}

fn glob(glob: &patterns::Glob) -> Glob {
    let segments = glob.segments().iter().map(|segment| match segment {
        Segment::Any => None,
        Segment::Is(text) => Some(Arc::from(&**text)),
    });
    Glob::new(segments.collect(), glob.is_open())
}

/// The trust domain, then the path.
fn id_glob(pattern: &SpiffeIdPattern) -> Glob {
    let text = pattern.to_string();
    let text = text.strip_prefix("spiffe://").unwrap_or(&text);
    // `**` of an ID is one segment or more.
    let (text, open) = text.strip_suffix("/**").map_or((text, false), |text| (text, true));
    let segments = text.split('/').map(|segment| (segment != "*").then(|| Arc::from(segment)));
    Glob::new(segments.chain(open.then_some(None)).collect(), open)
}

fn trust_domain_glob(trust_domain: &TrustDomain) -> Glob {
    Glob::new(vec![Some(trust_domain.as_str().into())], true)
}

/// The last label first.
fn host_glob(pattern: &HostPattern) -> Glob {
    let (name, wildcard) = pattern.parts();
    let labels = name.rsplit('.').map(|label| Some(Arc::from(label)));
    Glob::new(labels.chain(wildcard.then_some(None)).collect(), false)
}

fn network(network: &network::Network) -> Option<Network> {
    let text = network.to_string();
    let (address, length) = text.split_once('/')?;
    Network::new(address.parse::<IpAddr>().ok()?, length.parse().ok()?)
}
