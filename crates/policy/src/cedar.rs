//! Policies as Cedar (<https://cedarpolicy.com>), which decides the same: it too denies by default, lets `forbid` beat
//! `permit`, and knows no order.
//!
//! Each rule becomes one policy with an annotation `@id("policy/rule")`. What a rule asks is asked of the context, which
//! [`request`] makes:
//!
//! | in the context | what it is |
//! |---|---|
//! | `who.trustDomain`, `who.depth`, `who.s0`, `who.s1`, … | the caller's ID: how many segments its path has, and each |
//! | `who.labels`, `who.props` | certified labels, asserted properties |
//! | `on.path`, `on.key` | `depth`, `s0`, `s1`, … of the normal form |
//! | `on.host` | `name`, and `parent`: what follows its first label |
//! | `on.service`, `on.props` | as they are |
//! | `callee` | the certified labels of the workload that is asked |
//! | `aad`, `alg`, `source`, `props`, `now` | circumstances; `now` in seconds since 1970 |
//!
//! What a request does not have is not in the context. Policies in shadow mode are left out, because Cedar has no such
//! mode; so is staleness, and a request that is denied for itself (a path with `..`) has no form in Cedar at all.

use std::fmt::Write as _;

use crate::{
    asked::{Asked, InputFault, with_room},
    canonical::quote,
    glob::{Glob, Segment, path_segments},
    host::HostPattern,
    model::{
        Bound, Effect, LabelRequirements, Mode, Policy, PropRequirements, Requirement, Rule, Target, When,
        Who,
    },
    request::{CertifiedLabels, Request},
    set::Set,
};

/// The rules of policies as Cedar's.
pub fn policies<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> String {
    let mut out = String::new();
    for policy in policies {
        if policy.mode == Mode::Shadow {
            let _ = writeln!(out, "// {} is in shadow mode.", policy.name);
            continue;
        }
        for rule in &policy.rules {
            write_rule(&mut out, policy, rule);
        }
    }
    out
}

/// A request as Cedar's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CedarRequest {
    /// The ID of the principal, of type `Workload`: the caller's SPIFFE ID.
    pub principal: String,
    /// The ID of the action, of type `Action`.
    pub action: String,
    /// The context, as JSON. Labels whose values are not text are in it with U+FFFD in place of what is none.
    pub context: String,
}

/// A request to a workload with these labels. Its resource is of no importance.
///
/// # Errors
/// If the request is denied for itself.
pub fn request(request: &Request<'_>, callee: &CertifiedLabels) -> Result<CedarRequest, InputFault> {
    let context = with_room(request, |room| Ok(context(&Asked::new(request, callee, room)?)))?;
    Ok(CedarRequest { principal: request.who.id().to_string(), action: request.can.to_owned(), context })
}

fn write_rule(out: &mut String, policy: &Policy, rule: &Rule) {
    let effect = match rule.effect {
        Effect::Allow => "permit",
        Effect::Deny => "forbid",
    };
    let actions: Vec<String> =
        rule.can.iter().map(|action| format!("Action::{:?}", action.as_str())).collect();
    let action = match actions.as_slice() {
        [] => "action".to_owned(),
        [one] => format!("action == {one}"),
        many => format!("action in [{}]", many.join(", ")),
    };
    let _ = writeln!(out, "@id(\"{}/{}\")\n{effect} (principal, {action}, resource)", policy.name, rule.name);
    let mut all = Vec::new();
    labels(&mut all, "context.callee", &policy.applies_to);
    who(&mut all, &rule.who);
    target(&mut all, &rule.on);
    when(&mut all, &rule.when);
    for condition in all {
        let _ = writeln!(out, "when {{ {condition} }}");
    }
    for except in &rule.except {
        let mut all = Vec::new();
        who(&mut all, &except.who);
        if !actions_of(&except.can).is_empty() {
            all.push(format!("[{}].contains(action)", actions_of(&except.can)));
        }
        target(&mut all, &except.on);
        let _ = writeln!(out, "unless {{ {} }}", all.join(" && "));
    }
    out.truncate(out.trim_end().len());
    out.push_str(";\n\n");
}

fn actions_of(actions: &Set<crate::words::Action>) -> String {
    let actions: Vec<String> =
        actions.iter().map(|action| format!("Action::{:?}", action.as_str())).collect();
    actions.join(", ")
}

/// One of several; nothing if there are none.
fn any(all: &mut Vec<String>, conditions: Vec<String>) {
    if !conditions.is_empty() {
        all.push(format!("({})", conditions.join(" || ")));
    }
}

fn who(all: &mut Vec<String>, who: &Who) {
    any(
        all,
        who.ids
            .iter()
            .map(|pattern| {
                let mut parts =
                    vec![format!("context.who.trustDomain == {:?}", pattern.trust_domain().as_str())];
                let segments: Vec<Option<&str>> =
                    pattern.segments().map(|segment| (segment != "*").then_some(segment)).collect();
                let depth = if pattern.is_open() { ">" } else { "==" };
                parts.push(format!("context.who.depth {depth} {}", segments.len()));
                literals(&mut parts, "context.who", &segments);
                format!("({})", parts.join(" && "))
            })
            .collect(),
    );
    let domains = who.trust_domains.iter();
    any(all, domains.map(|domain| format!("context.who.trustDomain == {:?}", domain.as_str())).collect());
    labels(all, "context.who.labels", &who.labels);
    props(all, "context.who.props", &who.props);
}

fn literals(parts: &mut Vec<String>, of: &str, segments: &[Option<&str>]) {
    for (place, segment) in segments.iter().enumerate() {
        if let Some(text) = segment {
            parts.push(format!("{of}.s{place} == {text:?}"));
        }
    }
}

fn target(all: &mut Vec<String>, on: &Target) {
    let globs: Vec<&Glob> = on.paths.iter().map(|pattern| pattern.glob()).collect();
    texts(all, "path", &globs);
    if !on.hosts.is_empty() {
        let hosts: Vec<String> = on.hosts.iter().map(host).collect();
        all.push(format!("context.on has host && ({})", hosts.join(" || ")));
    }
    let globs: Vec<&Glob> = on.keys.iter().map(|pattern| pattern.glob()).collect();
    texts(all, "key", &globs);
    if !on.services.is_empty() {
        let services: Vec<String> = on.services.iter().map(|name| format!("{:?}", name.as_str())).collect();
        all.push(format!("context.on has service && [{}].contains(context.on.service)", services.join(", ")));
    }
    props(all, "context.on.props", &on.props);
}

fn texts(all: &mut Vec<String>, field: &str, globs: &[&Glob]) {
    if globs.is_empty() {
        return;
    }
    let of = format!("context.on.{field}");
    let conditions: Vec<String> = globs
        .iter()
        .map(|glob| {
            let segments: Vec<Option<&str>> = glob
                .segments()
                .iter()
                .map(|segment| match segment {
                    Segment::Any => None,
                    Segment::Is(text) => Some(&**text),
                })
                .collect();
            let depth = if glob.is_open() { ">=" } else { "==" };
            let mut parts = vec![format!("{of}.depth {depth} {}", segments.len())];
            literals(&mut parts, &of, &segments);
            format!("({})", parts.join(" && "))
        })
        .collect();
    all.push(format!("context.on has {field} && ({})", conditions.join(" || ")));
}

fn host(pattern: &HostPattern) -> String {
    match pattern.parts() {
        (name, false) => format!("context.on.host.name == {name:?}"),
        (name, true) => format!("(context.on.host has parent && context.on.host.parent == {name:?})"),
    }
}

fn when(all: &mut Vec<String>, when: &When) {
    for key in &when.same {
        let key = format!("{:?}", key.as_str());
        all.push(format!(
            "context.who.labels has {key} && context.callee has {key} && \
             context.who.labels[{key}] == context.callee[{key}]"
        ));
    }
    for (name, bound) in when.aad.iter() {
        let name = format!("{:?}", name.as_str());
        all.push(match bound {
            Bound::Is(value) => {
                format!("context.aad has {name} && context.aad[{name}] == {:?}", value.as_str())
            }
            Bound::CallersLabel(key) => {
                let key = format!("{:?}", key.as_str());
                format!(
                    "context.aad has {name} && context.who.labels has {key} && \
                     context.aad[{name}] == context.who.labels[{key}]"
                )
            }
        });
    }
    if !when.algorithms.is_empty() {
        let names: Vec<String> = when.algorithms.iter().map(|name| format!("{:?}", name.as_str())).collect();
        all.push(format!("context has alg && [{}].contains(context.alg)", names.join(", ")));
    }
    if let Some(from) = when.from {
        all.push(format!("context.now >= {}", from.as_secs()));
    }
    if let Some(until) = when.until {
        all.push(format!("context.now < {}", until.as_secs()));
    }
    if !when.sources.is_empty() {
        let ranges: Vec<String> = when
            .sources
            .iter()
            .map(|network| format!("context.source.isInRange(ip(\"{network}\"))"))
            .collect();
        all.push(format!("context has source && ({})", ranges.join(" || ")));
    }
    props(all, "context.props", &when.props);
}

fn labels(all: &mut Vec<String>, of: &str, wanted: &LabelRequirements) {
    for (key, requirement) in wanted.iter() {
        all.push(requirement_of(of, key.as_str(), requirement));
    }
}

fn props(all: &mut Vec<String>, of: &str, wanted: &PropRequirements) {
    for (name, requirement) in wanted.iter() {
        all.push(requirement_of(of, name.as_str(), requirement));
    }
}

fn requirement_of<V: Ord + AsRef<str>>(of: &str, key: &str, requirement: &Requirement<V>) -> String {
    let among = |values: &Set<V>| {
        let values: Vec<String> = values.iter().map(|value| format!("{:?}", value.as_ref())).collect();
        format!("{of} has {key:?} && [{}].contains({of}[{key:?}])", values.join(", "))
    };
    match requirement {
        Requirement::In(values) => among(values),
        Requirement::NotIn(values) => format!("!({})", among(values)),
        Requirement::Exists => format!("{of} has {key:?}"),
        Requirement::Absent => format!("!({of} has {key:?})"),
    }
}

/// JSON, with what the request has.
fn context(asked: &Asked<'_>) -> String {
    let request = asked.request;
    let mut out = Json::new();
    out.open("who");
    out.text("trustDomain", request.who.id().trust_domain().as_str());
    out.segments(request.who.id().segments());
    let labels = |of: &CertifiedLabels| -> Vec<(String, String)> {
        of.iter().map(|(key, value)| (key.to_owned(), String::from_utf8_lossy(value).into_owned())).collect()
    };
    out.map("labels", labels(request.who.labels()));
    out.map("props", request.who_props.iter());
    out.close();
    out.open("on");
    if let Some(path) = asked.path {
        out.open("path");
        out.segments(path_segments(path));
        out.close();
    }
    if let Some(host) = asked.host {
        out.open("host");
        out.text("name", host);
        if let Some((_, parent)) = host.split_once('.') {
            out.text("parent", parent);
        }
        out.close();
    }
    if let Some(key) = request.on.key {
        out.open("key");
        out.segments(key.split('/'));
        out.close();
    }
    if let Some(service) = request.on.service {
        out.text("service", service);
    }
    out.map("props", request.on.props.iter());
    out.close();
    out.map("callee", labels(asked.callee));
    out.map("aad", request.when.aad.iter());
    if let Some(algorithm) = request.when.algorithm {
        out.text("alg", algorithm);
    }
    if let Some(source) = asked.source {
        out.open("source");
        out.open("__extn");
        out.text("fn", "ip");
        out.text("arg", &source.to_string());
        out.close();
        out.close();
    }
    out.map("props", request.when.props.iter());
    out.number("now", request.now.as_secs());
    out.finish()
}

/// Nested objects, written from front to back.
struct Json(String);

impl Json {
    fn new() -> Self {
        Self("{".to_owned())
    }

    fn name(&mut self, name: &str) {
        if !self.0.ends_with('{') {
            self.0.push(',');
        }
        quote(&mut self.0, name);
        self.0.push(':');
    }

    fn open(&mut self, name: &str) {
        self.name(name);
        self.0.push('{');
    }

    fn close(&mut self) {
        self.0.push('}');
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        quote(&mut self.0, text);
    }

    fn number(&mut self, name: &str, number: impl std::fmt::Display) {
        self.name(name);
        let _ = write!(self.0, "{number}");
    }

    fn map(&mut self, name: &str, pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) {
        self.open(name);
        for (key, value) in pairs {
            self.text(key.as_ref(), value.as_ref());
        }
        self.close();
    }

    /// How many, and each.
    fn segments<'a>(&mut self, segments: impl Iterator<Item = &'a str>) {
        let mut depth = 0_usize;
        for segment in segments {
            self.text(&format!("s{depth}"), segment);
            depth += 1;
        }
        self.number("depth", depth);
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}
