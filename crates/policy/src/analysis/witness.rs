//! Points as requests that can be shown, decided and written into a test; and requests as points.

use std::{collections::BTreeMap, sync::Arc};

use bonafide_identity::{SpiffeId, UnixTime};

use super::atom::{Point, Trail, Variable};
use crate::{
    glob::{is_key_name, path_segments},
    host::Host,
    path::{self, Scratch},
    request::{AssertedProps, Caller, CertifiedLabels, FactsFault},
    scenario::Scenario,
    words,
};

/// The request at a point. `None` if no request can be there, because it would be longer than requests may be.
pub fn scenario(point: &Point) -> Option<Scenario> {
    let caller = point.trails.get(&Trail::Caller)?;
    let id = SpiffeId::parse(&format!("spiffe://{}", caller.join("/"))).ok()?;
    let mut all = Facts::default();
    let (mut action, mut service, mut algorithm) = (None, None, None);
    for (variable, text) in &point.values {
        let (facts, key) = match variable {
            Variable::Action => {
                action = Some(text.to_string());
                continue;
            }
            Variable::Algorithm => {
                algorithm = Some(text.to_string());
                continue;
            }
            Variable::Service => {
                service = Some(text.to_string());
                continue;
            }
            Variable::CallerLabel(key) => (&mut all.labels, key),
            Variable::CallerProperty(key) => (&mut all.who_props, key),
            Variable::Context(key) => (&mut all.aad, key),
            Variable::ResourceProperty(key) => (&mut all.on_props, key),
            Variable::SituationProperty(key) => (&mut all.when_props, key),
            Variable::WorkloadLabel(key) => (&mut all.callee, key),
        };
        facts.push((&**key, &**text));
    }
    let segments = |trail| point.trails.get(&trail);
    let host =
        segments(Trail::Host).map(|labels| labels.iter().rev().map(|label| &**label).collect::<Vec<_>>());
    let mut scenario = Scenario::new(Caller::new(id, CertifiedLabels::new(all.labels).ok()?), action?);
    scenario.callee = CertifiedLabels::new(all.callee).ok()?;
    all.who_props.props(&mut scenario.who_props)?;
    all.on_props.props(&mut scenario.on_props)?;
    all.when_props.props(&mut scenario.when_props)?;
    all.aad.props(&mut scenario.aad)?;
    scenario.path = segments(Trail::Path).map(|segments| encode_path(&format!("/{}", segments.join("/"))));
    scenario.host = host.map(|labels| labels.join("."));
    scenario.key = segments(Trail::Key).map(|segments| segments.join("/"));
    scenario.service = service;
    scenario.algorithm = algorithm;
    scenario.source = point.source;
    scenario.now = UnixTime::from_secs(point.time);
    Some(scenario)
}

/// The point of a request. `None` if it is denied whatever rules say, because its path or host has no normal form, or a
/// word is none.
pub fn point(scenario: &Scenario) -> Option<Point> {
    let is_fit = words::is_action(&scenario.can)
        && scenario.algorithm.as_deref().is_none_or(words::is_action)
        && scenario.service.as_deref().is_none_or(words::is_key)
        && scenario.key.as_deref().is_none_or(is_key_name);
    if !is_fit {
        return None;
    }
    let mut trails = BTreeMap::new();
    let id = scenario.who.id();
    let caller = std::iter::once(id.trust_domain().as_str()).chain(path_segments(id.path()));
    trails.insert(Trail::Caller, caller.map(Arc::from).collect());
    if let Some(raw) = &scenario.path {
        let mut scratch = Scratch::new();
        let normal = path::normalise(raw, &mut scratch).ok()?;
        trails.insert(Trail::Path, path_segments(normal).map(Arc::from).collect());
    }
    if let Some(raw) = &scenario.host {
        let host = Host::parse(raw).ok()?;
        trails.insert(Trail::Host, host.as_str().rsplit('.').map(Arc::from).collect());
    }
    if let Some(key) = &scenario.key {
        trails.insert(Trail::Key, key.split('/').map(Arc::from).collect());
    }
    let mut values: BTreeMap<Variable, Arc<str>> = BTreeMap::new();
    values.insert(Variable::Action, scenario.can.as_str().into());
    let single = [(Variable::Algorithm, &scenario.algorithm), (Variable::Service, &scenario.service)];
    for (variable, text) in single {
        if let Some(text) = text {
            values.insert(variable, text.as_str().into());
        }
    }
    let labels = [
        (scenario.who.labels(), Variable::CallerLabel as fn(_) -> _),
        (&scenario.callee, Variable::WorkloadLabel as fn(_) -> _),
    ];
    for (labels, variable) in labels {
        for (key, value) in labels.iter() {
            // Other values have no name that a rule could give; that they are there is all that is known of them.
            let text = String::from_utf8(value.to_vec()).unwrap_or_else(|_| format!("\u{0}{value:?}"));
            values.insert(variable(key.into()), text.into());
        }
    }
    let props = [
        (&scenario.who_props, Variable::CallerProperty as fn(_) -> _),
        (&scenario.on_props, Variable::ResourceProperty),
        (&scenario.when_props, Variable::SituationProperty),
        (&scenario.aad, Variable::Context),
    ];
    for (props, variable) in props {
        values.extend(props.iter().map(|(key, value)| (variable(key.into()), value.into())));
    }
    let source = scenario.source.map(|address| address.to_canonical());
    Some(Point { source, time: scenario.now.as_secs(), trails, values })
}

/// A path of a request whose normal form this is. What is no normal form stays what it is.
pub fn encode_path(normal: &str) -> String {
    let mut out = String::new();
    for letter in normal.chars() {
        match letter {
            ' ' | '*' => out.push_str(&format!("%{:02X}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out
}

type Pairs<'a> = Vec<(&'a str, &'a str)>;

#[derive(Default)]
struct Facts<'a> {
    labels: Pairs<'a>,
    callee: Pairs<'a>,
    who_props: Pairs<'a>,
    on_props: Pairs<'a>,
    when_props: Pairs<'a>,
    aad: Pairs<'a>,
}

trait IntoProps {
    fn props(self, into: &mut AssertedProps) -> Option<()>;
}

impl IntoProps for Pairs<'_> {
    fn props(self, into: &mut AssertedProps) -> Option<()> {
        *into = AssertedProps::new(self).map_err(|_: FactsFault| ()).ok()?;
        Some(())
    }
}
