//! The names that exist, from a file.
//!
//! ```yaml
//! labels: {env: [prod, dev], team: []}      # no values: any
//! trustDomains: [prod.acme]
//! services: [orders.v1.Orders]
//! keys: [orders/pii]
//! actions: [GET, PUT]
//! workloads: [{app: ledger, env: prod}]
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use bonafide_policy::{
    check::Vocabulary,
    yaml::{
        fault::Fault,
        fields::{Fields, text, wrong_type},
        tree::{self, Node, Value},
    },
};

use super::files::tell;
use crate::{
    Console, Failure,
    resource::{fault, source},
};

const KNOWN: [&str; 6] = ["labels", "trustDomains", "services", "keys", "actions", "workloads"];

pub(super) fn read(path: &Path, console: &Console) -> Result<Vocabulary, Failure> {
    let sources = source::read(&[path.to_owned()])?;
    let mut faults = Vec::new();
    let nodes = sources.first().map(|source| tree::parse(&source.text, &mut faults)).unwrap_or_default();
    let mut vocabulary = Vocabulary::default();
    for node in &nodes {
        let Some(fields) = Fields::of(node, "a vocabulary", &KNOWN, &[], &mut faults) else { continue };
        let names = |name: &'static str, faults: &mut Vec<Fault>| {
            let known = fields.get(name)?;
            Some(texts(known, name, faults))
        };
        vocabulary.trust_domains = names("trustDomains", &mut faults);
        vocabulary.services = names("services", &mut faults);
        vocabulary.keys = names("keys", &mut faults);
        vocabulary.actions = names("actions", &mut faults);
        vocabulary.labels = fields.get("labels").map(|node| {
            let pairs = pairs(node, "labels", &mut faults);
            pairs.into_iter().map(|(key, node)| (key, texts(node, "labels", &mut faults))).collect()
        });
        vocabulary.workloads = fields.get("workloads").map(|node| {
            let items = list(node, "workloads", &mut faults);
            items.iter().map(|item| labels(item, &mut faults)).collect()
        });
    }
    if faults.is_empty() {
        return Ok(vocabulary);
    }
    tell(&fault::render_all(&faults, &sources, console.is_coloured()));
    let message = format!("the vocabulary `{}` has faults", path.display());
    Err(Failure::of("policy.vocabulary", message, "mend the file, and run it again"))
}

fn labels(node: &Node, faults: &mut Vec<Fault>) -> BTreeMap<String, String> {
    let pairs = pairs(node, "workloads", faults);
    let label = |(key, node): (String, &Node)| {
        let value = text(node, &key, faults)?.text.to_owned();
        Some((key, value))
    };
    pairs.into_iter().filter_map(label).collect()
}

fn texts(node: &Node, name: &'static str, faults: &mut Vec<Fault>) -> BTreeSet<String> {
    let items = list(node, name, faults);
    items.iter().filter_map(|item| Some(text(item, name, faults)?.text.to_owned())).collect()
}

fn list<'a>(node: &'a Node, name: &'static str, faults: &mut Vec<Fault>) -> &'a [Node] {
    if let Value::List(items) = &node.value {
        return items;
    }
    wrong_type(node, name, "a list", "write `[one, other]`", faults);
    &[]
}

fn pairs<'a>(node: &'a Node, name: &'static str, faults: &mut Vec<Fault>) -> Vec<(String, &'a Node)> {
    if let Value::Map(fields) = &node.value {
        return fields.iter().map(|(key, value)| (key.text.clone(), value)).collect();
    }
    wrong_type(node, name, "`key: value` pairs", "write one pair a line", faults);
    Vec::new()
}
