//! Policies from files: all that belong together.

use std::{collections::BTreeMap, path::PathBuf};

use bonafide_policy::{
    Document,
    read::{KINDS, read_node},
    yaml::{
        fault::Fault,
        tree::{self, Node, Value},
    },
};

use crate::{
    Console, Failure,
    resource::{
        document::KIND_NAMES,
        fault,
        source::{self, Source},
    },
    text::count,
};

/// Policies, and where they stand.
pub(super) struct Policies {
    pub(super) documents: Vec<Document>,
    sources: Vec<Source>,
    /// Of each document.
    source_of: Vec<usize>,
}

impl Policies {
    /// The name of the file of a document.
    pub(super) fn name(&self, document: usize) -> &str {
        let source = self.source_of.get(document).and_then(|index| self.sources.get(*index));
        source.map(|source| source.name.as_str()).unwrap_or_default()
    }

    /// `file:line`.
    pub(super) fn place(&self, document: usize, line: usize) -> String {
        format!("{}:{line}", self.name(document))
    }
}

/// Reads all policies of files and folders. Resources of other kinds may stand beside them.
pub(super) fn read(paths: &[PathBuf], console: &Console) -> Result<Policies, Failure> {
    let sources = source::read(paths)?;
    let mut faults = Vec::new();
    let (mut documents, mut source_of) = (Vec::new(), Vec::new());
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for (index, source) in sources.iter().enumerate() {
        let mut here = Vec::new();
        for node in tree::parse(&source.text, &mut here) {
            if is_other_resource(&node) {
                continue;
            }
            let Some(document) = read_node(&node, &mut here) else { continue };
            let spot = document.places().name;
            let place = format!("{}:{}", source.name, spot.line);
            if let Some(first) = names.insert(document.body().name().to_string(), place) {
                let message = format!("there is a policy `{}` already, at {first}", document.body().name());
                here.push(Fault::new(
                    "resource.twice",
                    spot,
                    message,
                    "keep one of the two, or give one another name",
                ));
            }
            documents.push(document);
            source_of.push(index);
        }
        here.sort_by_key(|fault| (fault.spot.line, fault.spot.column));
        faults.extend(here.into_iter().map(|fault| Fault { source: index, ..fault }));
    }
    if !faults.is_empty() {
        tell(&fault::render_all(&faults, &sources, console.is_coloured()));
        let number = u64::try_from(faults.len()).unwrap_or(u64::MAX);
        let message = format!("the files have {}", count(number, "fault", "faults"));
        return Err(Failure::of("resource.invalid", message, "mend the files, and run it again"));
    }
    if documents.is_empty() {
        let hint = "a policy begins with `kind: Policy`, `kind: Guardrail`, `kind: SecretPolicy` or `kind: RegoPolicy`";
        return Err(Failure::of("policy.none", "there is no policy in the files", hint));
    }
    Ok(Policies { documents, sources, source_of })
}

/// Whether it is a site, an entry or a rule, which `apply` reads.
fn is_other_resource(node: &Node) -> bool {
    let Value::Map(fields) = &node.value else { return false };
    let kind = fields.iter().find(|(key, _)| key.text == "kind").map(|(_, node)| &node.value);
    matches!(kind, Some(Value::Text { text, .. })
        if KIND_NAMES.contains(&text.as_str()) && !KINDS.contains(&text.as_str()))
}

pub(super) fn tell(text: &str) {
    use std::io::Write as _;
    // Nothing is left to tell it to if standard error is closed.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
