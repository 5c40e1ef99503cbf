//! Policies as a module in Rego v1, which decides the same on the `input` of [`crate::record`].
//!
//! `allow` is the answer, `denies` and `allows` are the rules that the request meets, and `reasons` those that
//! determine it. Each rule stands there in full: nothing is optimised, so that people can compare.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{
    analysis::{
        atom::{Atom, Trail, Variable},
        domain::Domain,
        glob::Glob,
        range::{Network, Span},
        world::{Entry, Scope, World},
    },
    model::{Document, Effect},
};

/// The module of the policies of one scope; the package is `bonafide.policies`, or that of one secret.
pub fn module(documents: &[Document], scope: Scope<'_>) -> String {
    let package = match scope {
        Scope::Enforced => "package bonafide.policies".to_owned(),
        Scope::Shadow => "package bonafide.shadow".to_owned(),
        Scope::Secret(name) => format!("package bonafide.secrets[{}]", quote(name)),
    };
    let mut writer = Writer { out: String::new(), helpers: String::new(), number: 0 };
    let _ = write!(
        writer.out,
        "{package}\n\nimport rego.v1\n\n\
         # Deny beats allow, and what no rule allows is denied. A request with a fault is denied for itself.\n\
         default allow := false\n\n\
         allow if {{\n\tcount(allows) > 0\n\tcount(denies) == 0\n\tnot input.bonafide.fault\n}}\n\n\
         reasons := denies if count(denies) > 0\n\nelse := allows\n"
    );
    for name in ["allows", "denies"] {
        let _ = write!(writer.out, "\n{name} contains _ if false\n");
    }
    let worlds = World::all(documents);
    for entry in worlds.iter().filter(|world| world.scope == scope).flat_map(|world| &world.entries) {
        writer.rule(entry);
    }
    writer.out.push_str(&writer.helpers);
    writer.out
}

struct Writer {
    out: String,
    /// One for each clause that can't stand in the body of its rule.
    helpers: String,
    number: u32,
}

impl Writer {
    fn rule(&mut self, entry: &Entry<'_>) {
        let set = if entry.rule.effect == Effect::Allow { "allows" } else { "denies" };
        let mut body = self.statements(&entry.region.atoms);
        for except in &entry.region.except {
            let lines = self.statements(except);
            let name = self.helper(&[lines]);
            body.push(format!("not {name}"));
        }
        if body.is_empty() {
            body.push("true".to_owned());
        }
        let _ = write!(
            self.out,
            "\n{set} contains {} if {{\n\t{}\n}}\n",
            quote(&entry.title()),
            body.join("\n\t")
        );
    }

    fn statements(&mut self, atoms: &[Atom]) -> Vec<String> {
        atoms.iter().flat_map(|atom| self.statement(atom)).collect()
    }

    fn statement(&mut self, atom: &Atom) -> Vec<String> {
        match atom {
            Atom::Equal(one, other) => {
                vec![format!("{} != null", value(one)), format!("{} == {}", value(one), value(other))]
            }
            Atom::Source(networks) => {
                let bodies: Vec<Vec<String>> = networks.iter().map(network).collect();
                vec![self.helper(&bodies)]
            }
            Atom::Time(span) => time(*span),
            Atom::Trail(trail, globs) => {
                let bodies: Vec<Vec<String>> = globs.iter().map(|glob| segments(*trail, glob)).collect();
                vec![self.helper(&bodies)]
            }
            Atom::Value(variable, domain) => vec![is_in(variable, domain)],
        }
    }

    /// A rule of its own, which is true when one of the bodies is.
    fn helper(&mut self, bodies: &[Vec<String>]) -> String {
        self.number += 1;
        let name = format!("clause_{}", self.number);
        for body in bodies {
            let body = if body.is_empty() { "true".to_owned() } else { body.join("\n\t") };
            let _ = write!(self.helpers, "\n{name} if {{\n\t{body}\n}}\n");
        }
        name
    }
}

/// The text of a variable, or null.
fn value(variable: &Variable) -> String {
    let (folder, key) = match variable {
        Variable::Action => return "input.bonafide.can".to_owned(),
        Variable::Algorithm => (r#""when""#, quote("alg")),
        Variable::Service => (r#""on""#, quote("service")),
        Variable::CallerLabel(key) => (r#""who", "labels""#, quote(key)),
        Variable::CallerProperty(key) => (r#""who", "props""#, quote(key)),
        Variable::Context(key) => (r#""when", "aad""#, quote(key)),
        Variable::ResourceProperty(key) => (r#""on", "props""#, quote(key)),
        Variable::SituationProperty(key) => (r#""when", "props""#, quote(key)),
        Variable::WorkloadLabel(key) => (r#""callee", "labels""#, quote(key)),
    };
    format!("object.get(input.bonafide, [{folder}, {key}], null)")
}

fn is_in(variable: &Variable, domain: &Domain) -> String {
    let mut named: Vec<String> = domain.named().map(quote).collect();
    let inverted = domain.listed().is_none();
    // Whether nothing at all is in the set of names as it is written.
    if inverted != domain.may_be_absent() {
        named.push("null".to_owned());
    }
    let value = value(variable);
    match (named.as_slice(), inverted) {
        ([], inverted) => inverted.to_string(),
        ([one], false) => format!("{value} == {one}"),
        ([one], true) => format!("{value} != {one}"),
        (all, false) => format!("{value} in {{{}}}", all.join(", ")),
        (all, true) => format!("not {value} in {{{}}}", all.join(", ")),
    }
}

fn segments(trail: Trail, glob: &Glob) -> Vec<String> {
    let (list, reversed) = match trail {
        Trail::Caller => ("input.bonafide.who.segments", false),
        Trail::Host => (r#"split(input.bonafide.on.host, ".")"#, true),
        Trail::Key => ("input.bonafide.on.key_segments", false),
        Trail::Path => ("input.bonafide.on.segments", false),
    };
    let (fixed, open) = glob.parts();
    let comparison = if open { ">=" } else { "==" };
    let mut lines = vec![format!("list := {list}"), format!("count(list) {comparison} {}", fixed.len())];
    for (index, literal) in fixed.iter().enumerate() {
        let Some(literal) = literal else { continue };
        let at = if reversed { format!("count(list) - {}", index + 1) } else { index.to_string() };
        lines.push(format!("list[{at}] == {}", quote(literal)));
    }
    lines
}

fn network(network: &Network) -> Vec<String> {
    let family = if network.is_ipv4() { "not contains" } else { "contains" };
    vec![
        "source := input.bonafide.when.source".to_owned(),
        format!(r#"{family}(source, ":")"#),
        format!("net.cidr_contains({}, source)", quote(&network.to_string())),
    ]
}

fn time(span: Span) -> Vec<String> {
    let now = "input.bonafide.when.now";
    let from = (span.from > i64::MIN).then(|| format!("{now} >= {}", span.from));
    from.into_iter().chain(span.until.map(|until| format!("{now} < {until}"))).collect()
}

/// Text as Rego and JSON write it.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}
