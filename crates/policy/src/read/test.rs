//! The examples of a document: who asks for what, and what the answer must be.

use std::net::IpAddr;

use super::{
    clause::{self, moment},
    list::{map, one, word},
};
use crate::{
    model::{Effect, Kind, Policy, Test},
    request::{AssertedProps, Caller, CertifiedLabels, FactsFault},
    scenario::Scenario,
    words::{Action, Name, Unfit},
    yaml::{
        fault::{Fault, Spot},
        fields::{Fields, nearest, short, text, wrong_type},
        tree::{Node, Value},
    },
};

const TEST: [&str; 9] = ["who", "labels", "props", "can", "on", "callee", "when", "expect", "by"];
const ON: [&str; 5] = ["path", "host", "key", "service", "props"];
const WHEN: [&str; 5] = ["aad", "alg", "source", "props", "now"];

pub(super) fn tests(fields: &Fields<'_>, policy: &Policy, faults: &mut Vec<Fault>) -> Vec<(Test, Spot)> {
    let Some(node) = fields.get("tests") else { return Vec::new() };
    let Value::List(items) = &node.value else {
        wrong_type(node, "tests", "a list", "write one `- {who: …, can: …, expect: allow}` a line", faults);
        return Vec::new();
    };
    items.iter().filter_map(|item| Some((test(item, policy, faults)?, item.spot))).collect()
}

fn test(node: &Node, policy: &Policy, faults: &mut Vec<Fault>) -> Option<Test> {
    let habits = [
        ("allow", "write `expect: allow`"),
        ("rule", "write `by`"),
        ("path", "write `on: /path`"),
        ("appliesTo", "write `callee`: the labels of the workload that is asked"),
    ];
    let fields = Fields::of(node, "a test", &TEST, &habits, faults)?;
    let who = fields.required("who", "spiffe://example.org/ns/shop/sa/web", faults);
    let who = who.and_then(|node| clause::id(node, faults));
    let labels = labels(&fields, "labels", faults);
    let can = if policy.kind == Kind::SecretPolicy && fields.get("can").is_none() {
        Some(clause::UNSEAL.to_owned())
    } else {
        fields
            .required("can", "GET", faults)
            .and_then(|node| one(node, "can", faults, |text| Action::parse(text).map(|_| text.to_owned())))
    };
    let expect = fields.required("expect", "allow", faults);
    let effects = [("allow", Effect::Allow), ("deny", Effect::Deny)];
    let expect = word(expect, "expect", &effects, faults);
    let by = fields.get("by").and_then(|node| rule_of(node, policy, faults));
    let who_props = props(&fields, "props", faults);
    let callee = labels_of(&fields, policy, faults);
    let mut scenario = Scenario::new(Caller::new(who?, labels?), can?);
    scenario.who_props = who_props?;
    scenario.callee = callee?;
    if let Some(node) = fields.get("on") {
        on(node, &mut scenario, faults)?;
    }
    if let Some(node) = fields.get("when") {
        when(node, &mut scenario, faults)?;
    }
    Some(Test { scenario, expect: expect?, by })
}

/// The workload that is asked: one that the policy applies to, if the test does not say.
fn labels_of(fields: &Fields<'_>, policy: &Policy, faults: &mut Vec<Fault>) -> Option<CertifiedLabels> {
    use crate::model::Requirement;
    if fields.get("callee").is_some() {
        return labels(fields, "callee", faults);
    }
    let pairs = policy.applies_to.iter().filter_map(|(key, requirement)| match requirement {
        Requirement::In(values) => Some((key.as_str(), values.first()?.as_str())),
        Requirement::Exists => Some((key.as_str(), "x")),
        Requirement::NotIn(_) | Requirement::Absent => None,
    });
    CertifiedLabels::new(pairs).ok()
}

fn rule_of(node: &Node, policy: &Policy, faults: &mut Vec<Fault>) -> Option<Name> {
    let name = one(node, "by", faults, Name::parse)?;
    if !policy.rules.iter().any(|rule| rule.name == name) {
        let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
        let help = match nearest(name.as_str(), &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write the name of a rule of this policy".to_owned(),
        };
        faults.push(Fault::new("policy.unknown-rule", node.spot, format!("there is no rule `{name}`"), help));
    }
    Some(name)
}

fn on(node: &Node, scenario: &mut Scenario, faults: &mut Vec<Fault>) -> Option<()> {
    if let Value::Text { .. } = &node.value {
        // A path of a request, which may well be a bad one.
        scenario.path = Some(text(node, "on", faults)?.text.to_owned());
        return Some(());
    }
    let fields = Fields::of(node, "`on`", &ON, &[], faults)?;
    let mut owned = |name: &str| fields.text(name, faults).map(|found| found.text.to_owned());
    scenario.path = owned("path");
    scenario.host = owned("host");
    scenario.key = owned("key");
    scenario.service = owned("service");
    scenario.on_props = props(&fields, "props", faults)?;
    Some(())
}

fn when(node: &Node, scenario: &mut Scenario, faults: &mut Vec<Fault>) -> Option<()> {
    let habits = [("time", "write `now`")];
    let fields = Fields::of(node, "`when`", &WHEN, &habits, faults)?;
    scenario.aad = props(&fields, "aad", faults)?;
    scenario.algorithm = fields.text("alg", faults).map(|found| found.text.to_owned());
    scenario.when_props = props(&fields, "props", faults)?;
    if let Some(node) = fields.get("source") {
        scenario.source = Some(one(node, "source", faults, |text| {
            text.parse::<IpAddr>().map_err(|_| {
                Unfit::new("policy.source", "this is no address", "write it as `10.0.0.1` or `2001:db8::1`")
            })
        })?);
    }
    if let Some(node) = fields.get("now") {
        scenario.now = one(node, "now", faults, moment)?;
    }
    Some(())
}

fn labels(fields: &Fields<'_>, name: &str, faults: &mut Vec<Fault>) -> Option<CertifiedLabels> {
    facts(fields, name, faults, CertifiedLabels::new)
}

fn props(fields: &Fields<'_>, name: &str, faults: &mut Vec<Fault>) -> Option<AssertedProps> {
    facts(fields, name, faults, AssertedProps::new)
}

fn facts<'a, T: Default>(
    fields: &Fields<'a>,
    name: &str,
    faults: &mut Vec<Fault>,
    collect: impl FnOnce(Vec<(&'a str, &'a str)>) -> Result<T, FactsFault>,
) -> Option<T> {
    let Some(node) = fields.get(name) else { return Some(T::default()) };
    let pairs = map(node, name, faults)?;
    let pairs = pairs
        .iter()
        .map(|(key, node)| Some((key.text.as_str(), text(node, &key.text, faults)?.text)))
        .collect::<Option<Vec<_>>>()?;
    match collect(pairs) {
        Ok(facts) => Some(facts),
        Err(fault) => {
            let message = format!("`{}`: {fault}", short(name));
            faults.push(Fault::new(fault.code(), node.spot, message, fault.hint()));
            None
        }
    }
}
