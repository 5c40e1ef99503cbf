//! Documents from YAML.
//!
//! Everything is bounded: a text has at most 1 MiB, a list 256 items, a policy 10,000 rules, a program 64 KiB. The same
//! holds of the [canonical text](crate::canonical) of a document, so that whoever gets that can read it.

mod clause;
mod list;
mod secret;
mod test;

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    model::{
        Body, Computed, Document, Effect, Kind, Mode, Places, Policy, RegoPolicy, Rule, Stale, WhenStale,
    },
    words::Name,
    yaml::{
        fault::{Fault, Spot},
        fields::{Fields, is_nothing, nearest, quoted, short, text, wrong_type},
        json,
        tree::{self, Node, Value},
    },
};

/// Bytes of a text.
pub const MAX_TEXT: usize = 1024 * 1024;
/// Rules of one policy.
pub const MAX_RULES: usize = 10_000;
/// Bytes of a program in Rego.
pub const MAX_REGO: usize = 64 * 1024;
/// The version of the language that this reader knows.
pub const VERSION: u32 = 1;

/// Every kind that is read here.
pub const KINDS: [&str; 4] = ["Policy", "Guardrail", "SecretPolicy", "RegoPolicy"];
const POLICY: [&str; 10] =
    ["kind", "version", "name", "labels", "sites", "appliesTo", "mode", "stale", "rules", "tests"];
const SECRET: [&str; 9] =
    ["kind", "version", "name", "labels", "cacheFor", "evidence", "witness", "rules", "tests"];
const REGO: [&str; 10] =
    ["kind", "version", "name", "labels", "sites", "appliesTo", "mode", "stale", "entrypoint", "rego"];
const RULE: [&str; 3] = ["name", "allow", "deny"];
/// What people bring from elsewhere.
const POLICY_HABITS: [(&str, &str); 9] = [
    ("apiVersion", "leave it out: a document begins with `kind`"),
    ("metadata", "write `name` and `labels` beside `kind`, not indented"),
    ("spec", "leave it out: `appliesTo` and `rules` stand beside `kind`"),
    ("selector", "write `appliesTo: {label: value}`"),
    ("action", "write `allow` or `deny` in each rule"),
    ("default", "leave it out: what no rule allows is denied"),
    ("cacheFor", "only a `SecretPolicy` has it"),
    ("priority", "leave it out: deny beats allow, and order has no meaning"),
    ("algo", "leave it out: deny beats allow, and order has no meaning"),
];
const SECRET_HABITS: [(&str, &str); 5] = [
    ("node", "write it below `witness:`"),
    ("workload", "write it below `witness:`"),
    ("appliesTo", "leave it out: a `SecretPolicy` holds wherever its secret is"),
    ("mode", "leave it out: a `SecretPolicy` is always enforced"),
    ("stale", "leave it out: a `SecretPolicy` never changes, because secrets are sealed to it"),
];
const RULE_HABITS: [(&str, &str); 4] = [
    ("effect", "write `allow:` or `deny:`, and the clauses below it"),
    ("action", "write `allow:` or `deny:`, and the clauses below it"),
    ("who", "write it below `allow:` or `deny:`"),
    ("id", "write `name`"),
];

/// Reads every document of a text, all of which must be of [`KINDS`].
///
/// # Errors
/// All faults, in the order of their places.
pub fn read(text: &str) -> Result<Vec<Document>, Vec<Fault>> {
    if text.len() > MAX_TEXT {
        let spot = Spot { line: 1, column: 1, length: 1 };
        return Err(vec![Fault::new(
            "resource.too-large",
            spot,
            "these are more than 1 MiB",
            "split it into several files",
        )]);
    }
    let mut faults = Vec::new();
    let mut documents = Vec::new();
    let mut names = BTreeSet::new();
    for node in tree::parse(text, &mut faults) {
        let Some(document) = read_node(&node, &mut faults) else { continue };
        if !names.insert(document.body.name().clone()) {
            faults.push(Fault::new(
                "resource.twice",
                document.places.name,
                format!("there are two policies `{}`", document.body.name()),
                "give one of the two another name",
            ));
        }
        documents.push(document);
    }
    faults.sort_by_key(|fault| (fault.spot.line, fault.spot.column));
    if faults.is_empty() { Ok(documents) } else { Err(faults) }
}

/// Reads a document that somebody else has read and printed: its [canonical text](crate::canonical), in a small part of
/// the time of [`read`]. `None` when it is not one document without faults.
pub fn read_canonical(text: &str) -> Option<Document> {
    let exactly = |text: &str| {
        let mut faults = Vec::new();
        let document = document(&json::parse(text)?, &mut faults)?;
        // Of the same bytes, `read` could make nothing else: they mean one thing.
        (faults.is_empty() && document.canonical() == text).then_some(document)
    };
    if text.len() > MAX_TEXT {
        return None;
    }
    exactly(text).or_else(|| <[_; 1]>::try_from(read(text).ok()?).ok().map(|[document]| document))
}

/// What stands in a text that must be canonical.
#[derive(Debug)]
pub(crate) enum Exact {
    Document(Box<Document>),
    /// It is for another reader.
    Version,
    Malformed,
}

/// Reads one document of JSON alone. That the text is its canonical one is for the caller to compare.
pub(crate) fn exactly(text: &str) -> Exact {
    let Some(node) = json::parse(text) else { return Exact::Malformed };
    let mut faults = Vec::new();
    match document(&node, &mut faults) {
        Some(document) if faults.is_empty() => Exact::Document(Box::new(document)),
        _ if faults.iter().any(|fault| fault.code == "policy.version") => Exact::Version,
        _ => Exact::Malformed,
    }
}

/// Reads one document. `None` when it has faults, or is empty.
pub fn read_node(node: &Node, faults: &mut Vec<Fault>) -> Option<Document> {
    // What stands between two `---` may be comments alone.
    if is_nothing(node) {
        return None;
    }
    let before = faults.len();
    let document = document(node, faults)?;
    if faults.len() == before && !document.reads_back() {
        faults.push(Fault::new(
            "policy.canonical",
            document.places.name,
            "in its canonical form, which authorities and agents read, the document is too large",
            "split it into several policies",
        ));
    }
    if faults.len() > before { None } else { Some(document) }
}

impl Document {
    /// Whether its [canonical text](Document::canonical) can be read, and means the same. It does of every document
    /// that [`read`] or [`read_node`] gave: a text can be within all limits while its canonical form is not.
    pub fn reads_back(&self) -> bool {
        let text = self.canonical();
        if text.len() > MAX_TEXT {
            return false;
        }
        let mut faults = Vec::new();
        let nodes = tree::parse(&text, &mut faults);
        let [node] = nodes.as_slice() else { return false };
        let again = document(node, &mut faults);
        faults.is_empty() && again.is_some_and(|again| again.body == self.body)
    }
}

fn document(node: &Node, faults: &mut Vec<Fault>) -> Option<Document> {
    let kind = kind(node, faults)?;
    let (known, habits) = match kind {
        Kind::Policy | Kind::Guardrail => (POLICY.as_slice(), POLICY_HABITS.as_slice()),
        Kind::SecretPolicy => (SECRET.as_slice(), SECRET_HABITS.as_slice()),
        Kind::RegoPolicy => (REGO.as_slice(), POLICY_HABITS.as_slice()),
    };
    let fields = Fields::of(node, "the document", known, habits, faults)?;
    check_version(&fields, faults);
    let name = fields.required("name", "orders-callers", faults);
    let spot = name.map_or(node.spot, |name| name.spot);
    let name = name.and_then(|name| list::one(name, "name", faults, Name::parse));
    let labels = fields.pairs("labels", faults);
    let sites = list::many(fields.get("sites"), "sites", faults, Name::parse);
    let applies_to = clause::labels(&fields, "appliesTo", faults);
    let mode = mode(&fields, faults);
    let stale = stale(&fields, faults);
    if kind == Kind::RegoPolicy {
        let entrypoint = fields.required("entrypoint", "data.orders.allow", faults);
        let entrypoint = entrypoint.and_then(|node| list::one(node, "entrypoint", faults, entrypoint_of));
        let rego = fields.required("rego", "|", faults).and_then(|node| text(node, "rego", faults));
        let rego = rego?;
        if rego.text.len() > MAX_REGO {
            let help = "split it into several policies, or write it as rules of a `Policy`";
            faults.push(Fault::new(
                "policy.rego-too-large",
                rego.spot,
                "the program is larger than 64 KiB",
                help,
            ));
            return None;
        }
        let rego = rego.text.to_owned();
        let body =
            Body::Rego(RegoPolicy { name: name?, applies_to, mode, stale, entrypoint: entrypoint?, rego });
        let places = Places { name: spot, rules: Vec::new(), tests: Vec::new() };
        return Some(Document { body, labels, sites, tests: Vec::new(), places });
    }
    let cache_for = Some(fields.duration("cacheFor", faults)).filter(|seconds| *seconds > 0);
    let evidence = secret::evidence(&fields, faults);
    let mut rules = rules(&fields, kind, faults);
    rules.sort_by(|one, other| one.0.name.cmp(&other.0.name));
    let (rules, rule_spots) = rules.into_iter().unzip();
    let digest = Computed::default();
    let policy = Policy { kind, name: name?, applies_to, mode, stale, cache_for, evidence, rules, digest };
    let (tests, test_spots) = test::tests(&fields, &policy, faults).into_iter().unzip();
    let places = Places { name: spot, rules: rule_spots, tests: test_spots };
    Some(Document { body: Body::Policy(Arc::new(policy)), labels, sites, tests, places })
}

fn kind(node: &Node, faults: &mut Vec<Fault>) -> Option<Kind> {
    let Value::Map(fields) = &node.value else {
        wrong_type(
            node,
            "the document",
            "fields, such as `name: value`",
            "begin it with `kind: Policy`",
            faults,
        );
        return None;
    };
    let Some((_, found)) = fields.iter().find(|(key, _)| key.text == "kind") else {
        let spot = Spot { length: 1, ..node.spot };
        let help = format!("add `kind: Policy`; the kinds are {}", quoted(&KINDS));
        faults.push(Fault::new("resource.missing-field", spot, "the document has no `kind`", help));
        return None;
    };
    let name = text(found, "kind", faults)?;
    let kinds = [Kind::Policy, Kind::Guardrail, Kind::SecretPolicy, Kind::RegoPolicy];
    let kind = kinds.into_iter().find(|kind| kind.as_str() == name.text);
    if kind.is_none() {
        let help = match nearest(name.text, &KINDS) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the kinds are {}", quoted(&KINDS)),
        };
        let message = format!("there is no kind `{}` of policies", short(name.text));
        faults.push(Fault::new("resource.unknown-kind", name.spot, message, help));
    }
    kind
}

fn check_version(fields: &Fields<'_>, faults: &mut Vec<Fault>) {
    let Some(node) = fields.get("version") else { return };
    let before = faults.len();
    let version = fields.number("version", faults);
    if faults.len() == before && version != VERSION {
        faults.push(Fault::new(
            "policy.version",
            node.spot,
            format!("version {version} of the policy language is not known here"),
            "write `version: 1`, or leave it out; or use a newer program",
        ));
    }
}

fn mode(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Mode {
    let modes = [("enforce", Mode::Enforce), ("shadow", Mode::Shadow)];
    list::word(fields.get("mode"), "mode", &modes, faults).unwrap_or_default()
}

fn stale(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Option<Stale> {
    let node = fields.get("stale")?;
    let fields = Fields::of(node, "`stale`", &["after", "then"], &[], faults)?;
    let after = fields.required("after", "10m", faults).map(|_| fields.duration("after", faults));
    let then = fields.required("then", "deny", faults);
    let words = [("deny", WhenStale::Deny), ("continue", WhenStale::Continue)];
    let then = list::word(then, "then", &words, faults);
    Some(Stale { after: after?, then: then? })
}

fn entrypoint_of(text: &str) -> Result<String, crate::words::Unfit> {
    let mut parts = text.split('.');
    let word = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if text.len() <= 256 && parts.next() == Some("data") && text.contains('.') && parts.all(word) {
        return Ok(text.to_owned());
    }
    Err(crate::words::Unfit::new(
        "policy.entrypoint",
        "the entry point is no path of a Rego rule",
        "write it as `data.package.rule`",
    ))
}

fn rules(fields: &Fields<'_>, kind: Kind, faults: &mut Vec<Fault>) -> Vec<(Rule, Spot)> {
    let Some(node) = fields.required("rules", "…", faults) else { return Vec::new() };
    let Value::List(items) = &node.value else {
        wrong_type(node, "rules", "a list", "write one `- name: …` for each rule", faults);
        return Vec::new();
    };
    if items.is_empty() {
        let help = "write a rule; to deny everything, leave the policy out, or write `deny: {who: anyone}`";
        faults.push(Fault::new("policy.no-rules", node.spot, "there is no rule", help));
    }
    if items.len() > MAX_RULES {
        let message = format!("these are {} rules, more than {MAX_RULES}", items.len());
        faults.push(Fault::new(
            "policy.too-many-rules",
            node.spot,
            message,
            "split it into several policies",
        ));
        return Vec::new();
    }
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for item in items {
        let Some((rule, spot)) = rule(item, kind, faults) else { continue };
        if names.insert(rule.name.clone()) {
            rules.push((rule, spot));
        } else {
            let message = format!("there are two rules `{}`", rule.name);
            faults.push(Fault::new("policy.rule-twice", spot, message, "give one of the two another name"));
        }
    }
    rules
}

fn rule(node: &Node, kind: Kind, faults: &mut Vec<Fault>) -> Option<(Rule, Spot)> {
    let fields = Fields::of(node, "a rule", &RULE, &RULE_HABITS, faults)?;
    let name = fields.required("name", "readers", faults);
    let spot = name.map_or(node.spot, |name| name.spot);
    let name = name.and_then(|name| list::one(name, "name", faults, Name::parse));
    let (effect, body) = match (fields.get("allow"), fields.get("deny")) {
        (Some(allow), None) => (Effect::Allow, allow),
        (None, Some(deny)) => (Effect::Deny, deny),
        (found, _) => {
            let message = if found.is_some() {
                "a rule allows or denies, and this does both"
            } else {
                "a rule allows or denies, and this does neither"
            };
            let help = "write `allow:` or `deny:`, with `who`, `can`, `on`, `when` and `except` below it";
            faults.push(Fault::new("policy.effect", spot, message, help));
            return None;
        }
    };
    if kind == Kind::Guardrail && effect == Effect::Allow {
        faults.push(Fault::new(
            "policy.guardrail-allows",
            body.spot,
            "a guardrail only denies",
            "write `deny:`, or make the document a `Policy`",
        ));
    }
    let rule = clause::rule(name, effect, body, kind, faults)?;
    Some((rule, spot))
}

/// A moment as documents write it: `2027-01-01` or `2027-01-01T08:30:00Z`.
pub fn moment(text: &str) -> Option<bonafide_identity::UnixTime> {
    clause::moment(text).ok()
}
