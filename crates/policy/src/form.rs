//! A policy as fields and values again: what is hashed and what is printed are two ways to write one form.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    duration,
    model::{
        Body, Bound, Document, Evidence, Exception, Kind, LabelRequirements, Mode, Policy, PropRequirements,
        RegoPolicy, Requirement, Rule, SelectorRequirements, Stale, Target, Test, When, WhenStale, Who,
    },
    request::AssertedProps,
    scenario::{DEFAULT_NOW, Scenario},
    words::{LabelKey, Name},
};

/// A field's name: one of the language, or a person's.
pub(crate) type Field = Cow<'static, str>;

/// A value, as documents have them.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Form {
    Number(u32),
    Text(String),
    /// Whose order has no meaning; sorted.
    Set(Vec<Self>),
    /// By name, or in the order in which people expect them.
    List(Vec<Self>),
    Map(Vec<(Field, Self)>),
}

impl Form {
    fn text(text: impl ToString) -> Self {
        Self::Text(text.to_string())
    }

    fn set<T: ToString>(items: &[T]) -> Self {
        if let [one] = items {
            return Self::Set(vec![Self::Text(one.to_string())]);
        }
        let texts: BTreeSet<String> = items.iter().map(ToString::to_string).collect();
        Self::Set(texts.into_iter().map(Self::Text).collect())
    }
}

/// Fields in their order; empty ones are left out.
#[derive(Default)]
struct Map(Vec<(Field, Form)>);

impl Map {
    fn add(&mut self, name: impl Into<Field>, form: Form) -> &mut Self {
        let is_empty = match &form {
            Form::Set(items) | Form::List(items) => items.is_empty(),
            Form::Map(fields) => fields.is_empty(),
            Form::Number(_) | Form::Text(_) => false,
        };
        if !is_empty {
            self.0.push((name.into(), form));
        }
        self
    }

    fn add_some(&mut self, name: &'static str, text: Option<impl ToString>) -> &mut Self {
        if let Some(text) = text {
            self.add(name, Form::text(text));
        }
        self
    }

    fn form(&mut self) -> Form {
        Form::Map(std::mem::take(&mut self.0))
    }
}

/// What decides: all but comments, management labels and tests. With its version, if asked for.
pub(crate) fn body(body: &Body, version: Option<u32>) -> Vec<(Field, Form)> {
    match body {
        Body::Policy(own) => policy(own, version),
        Body::Rego(RegoPolicy { name, applies_to, mode, stale, entrypoint, rego }) => {
            let mut map = head((Kind::RegoPolicy, version), name, applies_to, *mode, *stale);
            map.add("entrypoint", Form::text(entrypoint)).add("rego", Form::text(rego));
            map.0
        }
    }
}

/// As [`body`], of a policy of rules.
pub(crate) fn policy(policy: &Policy, version: Option<u32>) -> Vec<(Field, Form)> {
    let Policy { kind, name, applies_to, mode, stale, cache_for, evidence, rules, digest: _ } = policy;
    let mut map = head((*kind, version), name, applies_to, *mode, *stale);
    map.add_some("cacheFor", cache_for.map(|seconds| duration::format(seconds.into())));
    if *kind == Kind::SecretPolicy {
        map.add("evidence", Form::text(evidence.as_str()));
    }
    if let Evidence::Witness(witness) = evidence {
        let mut named = Map::default();
        named.add("node", selectors(&witness.node)).add("workload", selectors(&witness.workload));
        map.add("witness", named.form());
    }
    map.add("rules", Form::List(rules.iter().map(rule).collect()));
    map.0
}

fn head(
    (kind, version): (Kind, Option<u32>),
    name: &Name,
    applies_to: &LabelRequirements,
    mode: Mode,
    stale: Option<Stale>,
) -> Map {
    let mut map = Map::default();
    map.add("kind", Form::text(kind));
    if let Some(version) = version {
        map.add("version", Form::Number(version));
    }
    map.add("name", Form::text(name));
    map.add("appliesTo", label_requirements(applies_to));
    if mode == Mode::Shadow {
        map.add("mode", Form::text(Mode::Shadow));
    }
    map.add("stale", self::stale(stale));
    map
}

fn selectors(all: &SelectorRequirements) -> Form {
    let mut map = Map::default();
    for (key, values) in all.iter() {
        map.add(key.to_string(), Form::set(values));
    }
    map.form()
}

/// All of a document.
pub(crate) fn document(document: &Document) -> Vec<(Field, Form)> {
    let mut fields = body(&document.body, None);
    let mut labels = Map::default();
    for (key, value) in &document.labels {
        labels.add(key.to_owned(), Form::text(value));
    }
    let labels = labels.form();
    if labels != Form::Map(Vec::new()) {
        fields.insert(2, ("labels".into(), labels));
    }
    if !document.sites.is_empty() {
        let sites = document.sites.iter().map(Form::text).collect();
        let after = 1 + fields.iter().position(|(name, _)| matches!(&**name, "name" | "labels")).unwrap_or(0);
        fields.insert(after, ("sites".into(), Form::Set(sites)));
    }
    if !document.tests.is_empty() {
        let kind = document.body.kind();
        let tests = document.tests.iter().map(|own| test(own, kind)).collect();
        fields.push(("tests".into(), Form::List(tests)));
    }
    fields
}

fn stale(stale: Option<Stale>) -> Form {
    let mut map = Map::default();
    if let Some(Stale { after, then }) = stale {
        let then = if then == WhenStale::Deny { "deny" } else { "continue" };
        map.add("after", Form::text(duration::format(after.into()))).add("then", Form::text(then));
    }
    map.form()
}

fn rule(rule: &Rule) -> Form {
    let mut clauses = Map::default();
    clauses.add("who", if rule.who.is_anyone() { Form::text("anyone") } else { who(&rule.who).form() });
    clauses.add("can", Form::set(&rule.can));
    clauses.add("on", target(&rule.on).form());
    clauses.add("when", when(&rule.when));
    let exceptions: BTreeSet<Form> = rule.except.iter().map(exception).collect();
    clauses.add("except", Form::Set(exceptions.into_iter().collect()));
    let mut map = Map::default();
    map.add("name", Form::text(&rule.name));
    map.0.push((rule.effect.as_str().into(), clauses.form()));
    map.form()
}

fn who(who: &Who) -> Map {
    let mut map = Map::default();
    map.add("id", Form::set(&who.ids));
    map.add("trustDomain", Form::set(&who.trust_domains));
    map.add("labels", label_requirements(&who.labels));
    map.add("props", prop_requirements(&who.props));
    map
}

fn target(target: &Target) -> Map {
    let mut map = Map::default();
    map.add("path", Form::set(&target.paths));
    map.add("host", Form::set(&target.hosts));
    map.add("key", Form::set(&target.keys));
    map.add("service", Form::set(&target.services));
    map.add("props", prop_requirements(&target.props));
    map
}

fn when(when: &When) -> Form {
    let mut aad = Map::default();
    for (name, bound) in when.aad.iter() {
        aad.add(
            name.as_str().to_owned(),
            match bound {
                Bound::Is(value) => Form::text(value),
                Bound::CallersLabel(key) => Form::text(template(key)),
            },
        );
    }
    let mut time = Map::default();
    time.add_some("from", when.from).add_some("until", when.until);
    let mut map = Map::default();
    map.add("same", Form::set(&when.same));
    map.add("aad", aad.form());
    map.add("alg", Form::set(&when.algorithms));
    map.add("time", time.form());
    map.add("source", Form::set(&when.sources));
    map.add("props", prop_requirements(&when.props));
    map.form()
}

/// As documents write the caller's value of a label.
pub(crate) fn template(key: &LabelKey) -> String {
    format!("{{who.labels.{key}}}")
}

fn exception(exception: &Exception) -> Form {
    let mut map = who(&exception.who);
    map.add("can", Form::set(&exception.can));
    map.0.extend(target(&exception.on).0);
    map.form()
}

fn label_requirements(all: &LabelRequirements) -> Form {
    requirements(all.iter().map(|(key, requirement)| (key.as_str(), requirement)))
}

fn prop_requirements(all: &PropRequirements) -> Form {
    requirements(all.iter().map(|(key, requirement)| (key.as_str(), requirement)))
}

fn requirements<'a, V: Ord + std::fmt::Display + 'a>(
    all: impl Iterator<Item = (&'a str, &'a Requirement<V>)>,
) -> Form {
    let mut map = Map::default();
    for (key, requirement) in all {
        let form = match requirement {
            Requirement::In(values) => Form::set(values),
            Requirement::NotIn(values) => {
                let mut not = Map::default();
                not.add("not", Form::set(values));
                not.form()
            }
            Requirement::Exists => Form::text("exists"),
            Requirement::Absent => Form::text("absent"),
        };
        map.add(key.to_owned(), form);
    }
    map.form()
}

/// One of a document's own examples.
pub(crate) fn test(test: &Test, kind: Kind) -> Form {
    let Scenario { who, who_props, can, callee, .. } = &test.scenario;
    let mut map = Map::default();
    map.add("who", Form::text(who.id().as_str()));
    map.add("labels", certified(who.labels().iter()));
    map.add("props", asserted(who_props));
    if kind != Kind::SecretPolicy {
        map.add("can", Form::text(can));
    }
    map.add("on", test_on(&test.scenario));
    map.add("callee", certified(callee.iter()));
    map.add("when", test_when(&test.scenario));
    map.add("expect", Form::text(test.expect));
    map.add_some("by", test.by.as_ref());
    map.form()
}

fn test_on(scenario: &Scenario) -> Form {
    let mut map = Map::default();
    map.add_some("path", scenario.path.as_ref());
    map.add_some("host", scenario.host.as_ref());
    map.add_some("key", scenario.key.as_ref());
    map.add_some("service", scenario.service.as_ref());
    map.add("props", asserted(&scenario.on_props));
    match map.0.as_slice() {
        [(name, path)] if name == "path" => path.clone(),
        _ => map.form(),
    }
}

fn test_when(scenario: &Scenario) -> Form {
    let mut map = Map::default();
    map.add("aad", asserted(&scenario.aad));
    map.add_some("alg", scenario.algorithm.as_ref());
    map.add_some("source", scenario.source);
    map.add("props", asserted(&scenario.when_props));
    map.add_some("now", Some(scenario.now).filter(|now| *now != DEFAULT_NOW));
    map.form()
}

fn certified<'a>(labels: impl Iterator<Item = (&'a str, &'a [u8])>) -> Form {
    let facts: BTreeMap<&str, String> =
        labels.map(|(key, value)| (key, String::from_utf8_lossy(value).into_owned())).collect();
    Form::Map(facts.into_iter().map(|(key, value)| (key.to_owned().into(), Form::Text(value))).collect())
}

fn asserted(props: &AssertedProps) -> Form {
    Form::Map(props.iter().map(|(key, value)| (key.to_owned().into(), Form::text(value))).collect())
}
