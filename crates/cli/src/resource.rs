//! Resources as people keep them: YAML documents, read strictly and printed in one form.
//!
//! A document is `kind`, `name`, `labels` (by which operators find and prune what they manage) and `spec`. Further
//! kinds go into [`document`], and nothing else needs to know of them.
//!
//! Reading is strict, because a misspelt field of a policy is a hole: unknown and repeated fields, values of another
//! type, anchors, aliases and tags are faults. Each fault has its place, and all faults of a run are told, not only
//! the first. So documents are first read into a tree that knows its places ([`tree`]), and then into resources.

pub mod document;
pub mod fault;
mod key;
pub mod print;
pub mod source;
pub mod unified;

use bonafide_policy::yaml::tree;
use bonafide_policy::yaml::tree::{Node, Value};
use bonafide_wire::{
    admin::{self, ResourceKind, resource::Resource as Wire},
    types,
};

use self::{
    fault::{Fault, Spot},
    source::Source,
};

/// Resources of one run: as many as the authority takes.
const MAX_RESOURCES: usize = 4000;

/// One document, ready for the authority.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// For the authority.
    pub wire: Wire,
    /// Index of its source.
    pub source: usize,
    /// Where its name stands.
    pub spot: Spot,
}

/// Kind and name, as people write them: `Entry/web`.
pub fn title(wire: &Wire) -> String {
    use bonafide_wire::types::registration::Kind;
    match wire {
        Wire::Site(site) => format!("Site/{}", site.name),
        Wire::Registration(registration) if registration.kind() == Kind::Rule => {
            format!("Rule/{}", registration.id)
        }
        Wire::Registration(registration) => format!("Entry/{}", registration.id),
        Wire::Policy(policy) => format!("Policy/{}", policy.name),
        Wire::Key(key) => format!("Key/{}", key.name),
    }
}

/// Reads every document of every source.
///
/// # Errors
/// All faults, in the order of their places.
pub fn read(sources: &[Source]) -> Result<Vec<Resource>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut resources: Vec<Resource> = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    for (index, source) in sources.iter().enumerate() {
        let mut here = Vec::new();
        for node in tree::parse(&source.text, &mut here) {
            let found = if is_policy(&node) {
                read_policy(&node, &source.text, &mut here)
            } else {
                document::read(&node, &mut here)
            };
            let Some((wire, spot)) = found else { continue };
            let key = match &wire {
                Wire::Site(site) => (ResourceKind::Site, site.name.clone()),
                // Entries and rules share their names.
                Wire::Registration(registration) => (ResourceKind::Registration, registration.id.clone()),
                Wire::Policy(policy) => (ResourceKind::Policy, policy.name.clone()),
                Wire::Key(key) => (ResourceKind::Key, key.name.clone()),
            };
            if let Some((title, place)) = seen.get(&key) {
                here.push(Fault::new(
                    "resource.twice",
                    spot,
                    format!("`{title}` is described already, at {place}"),
                    "keep one of the two, or give one another name",
                ));
                continue;
            }
            seen.insert(key, (title(&wire), format!("{}:{}", source.name, spot.line)));
            resources.push(Resource { wire, source: index, spot });
        }
        here.sort_by_key(|fault| (fault.spot.line, fault.spot.column));
        faults.extend(here.into_iter().map(|fault| Fault { source: index, ..fault }));
    }
    if resources.len() > MAX_RESOURCES
        && let Some(resource) = resources.get(MAX_RESOURCES)
    {
        let message = format!("these are {} resources, more than {MAX_RESOURCES}", resources.len());
        let help = "apply them in parts, or write a rule in place of many entries";
        let fault = Fault::new("resource.too-many", resource.spot, message, help);
        faults.push(Fault { source: resource.source, ..fault });
    }
    if faults.is_empty() { Ok(resources) } else { Err(faults) }
}

fn is_policy(node: &Node) -> bool {
    let Value::Map(fields) = &node.value else { return false };
    fields.iter().any(|(key, value)| {
        let kind = match &value.value {
            Value::Text { text, .. } => text.as_str(),
            _ => "",
        };
        key.text == "kind" && bonafide_policy::read::KINDS.contains(&kind)
    })
}

/// A policy goes to the authority as it stands in the file, with its comments and tests.
fn read_policy(node: &Node, text: &str, faults: &mut Vec<Fault>) -> Option<(Wire, Spot)> {
    let document = bonafide_policy::read_node(node, faults)?;
    let spot = document.places().name;
    let name = document.body().name().as_str().to_owned();
    let source = document_text(text, spot.line);
    Some((Wire::Policy(types::Policy { name, source, ..types::Policy::default() }), spot))
}

/// The lines of the document that has this line (the first is 1).
fn document_text(text: &str, line: usize) -> String {
    let is_marker = |line: &&str| {
        ["---", "..."].iter().any(|marker| {
            line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        })
    };
    let lines: Vec<&str> = text.lines().collect();
    let (before, after) = lines.split_at_checked(line.saturating_sub(1)).unwrap_or((&lines, &[]));
    let begin = before.iter().rposition(is_marker).map_or(0, |marker| marker + 1);
    let own = before.iter().skip(begin).chain(after.iter().take_while(|line| !is_marker(line)));
    let own = own.copied().collect::<Vec<_>>().join("\n");
    format!("{}\n", own.trim_matches('\n').trim_end())
}

/// For the authority.
pub fn to_wire(resources: &[Resource]) -> Vec<admin::Resource> {
    resources.iter().map(|resource| admin::Resource { resource: Some(resource.wire.clone()) }).collect()
}
