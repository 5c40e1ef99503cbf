//! `secret policy new|check`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use bonafide_identity::SpiffeIdPattern;
use bonafide_policy::{SecretPolicy, read};
use bonafide_wire::types::Selector;

use super::super::site;
use crate::{
    Console, Failure, duration,
    resource::{fault, source},
    view::secret::PolicyView,
};

/// `secret policy …`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Print a policy, to be edited
    New(NewArgs),
    /// Tell whether a secret can be sealed to a policy, and what to
    Check {
        /// A file with one `SecretPolicy`; `-` is standard input
        file: PathBuf,
    },
}

/// `secret policy new`.
#[derive(Clone, Debug, clap::Args)]
pub struct NewArgs {
    /// Its name
    name: String,
    /// Who may open the secret; can be repeated
    #[arg(long = "id", value_name = "SPIFFE_ID", required = true)]
    ids: Vec<SpiffeIdPattern>,
    /// A label that the authority must have certified; can be repeated
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = site::label)]
    labels: Vec<Selector>,
    /// For how long it may be kept once it was opened [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    cache_for: Option<u32>,
    /// What the node must have measured of the workload; can be repeated
    #[arg(long = "workload", value_name = "KEY=VALUE", value_parser = site::label)]
    workload: Vec<Selector>,
    /// What the node's certificate must say of it; can be repeated
    #[arg(long = "node", value_name = "KEY=VALUE", value_parser = site::label, requires = "workload")]
    node: Vec<Selector>,
}

pub(super) fn run(command: PolicyCommand, console: &Console) -> Result<(), Failure> {
    match command {
        PolicyCommand::New(arguments) => {
            let text = arguments.text();
            // What is printed is what is read: values may need what YAML can't say without quotes.
            policy_of("the policy", &text, console)?;
            console.write(text.as_bytes())
        }
        PolicyCommand::Check { file } => console.show(&PolicyView::from(&one(&file, console)?)),
    }
}

/// The only `SecretPolicy` of a file.
pub(super) fn one(path: &Path, console: &Console) -> Result<SecretPolicy, Failure> {
    let sources = source::read(&[path.to_owned()])?;
    match sources.as_slice() {
        [source] => policy_of(&source.name, &source.text, console),
        _ => Err(Failure::of("policy.none", "this is a folder", "name one file with one `SecretPolicy`")),
    }
}

fn policy_of(name: &str, text: &str, console: &Console) -> Result<SecretPolicy, Failure> {
    let documents = read(text).map_err(|faults| {
        let source = source::Source { name: name.to_owned(), text: text.to_owned() };
        console.note(fault::render_all(&faults, &[source], console.is_coloured()).trim_end());
        Failure::of("resource.invalid", format!("`{name}` has faults"), "mend the file, and run it again")
    })?;
    let [document] = documents.as_slice() else {
        let message = format!("`{name}` has {} policies", documents.len());
        return Err(Failure::of("secret.policies", message, "a secret is sealed to one `SecretPolicy`"));
    };
    SecretPolicy::of(document).map_err(|error| Failure::of(error.code(), error, error.hint()))
}

impl NewArgs {
    fn text(&self) -> String {
        let mut out = format!("kind: SecretPolicy\nname: {}\n", self.name);
        if let Some(seconds) = self.cache_for {
            let _ = writeln!(out, "cacheFor: {}", duration::format(seconds.into()));
        }
        if self.workload.is_empty() {
            out.push_str("# Whoever holds the keys of the authority can open the secret. `evidence: witness` asks the node too.\n");
            out.push_str("evidence: authority\n");
        } else {
            out.push_str("evidence: witness\nwitness:\n");
            if !self.node.is_empty() {
                let _ = writeln!(out, "  node: {}", pairs(&self.node));
            }
            let _ = writeln!(out, "  workload: {}", pairs(&self.workload));
        }
        let ids: Vec<String> = self.ids.iter().map(|id| quoted(&id.to_string())).collect();
        let _ = write!(out, "rules:\n- name: openers\n  allow:\n    who:\n      id: [{}]\n", ids.join(", "));
        if !self.labels.is_empty() {
            let _ = writeln!(out, "      labels: {}", pairs(&self.labels));
        }
        out.push_str("    can: [unseal]\n");
        out
    }
}

/// `{"key": ["value", "other"]}`: a key that is named twice may have either value.
fn pairs(all: &[Selector]) -> String {
    let mut by_key: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
    for Selector { key, value, .. } in all {
        by_key.entry(key).or_default().push(quoted(value));
    }
    let fields: Vec<String> =
        by_key.iter().map(|(key, values)| format!("{}: [{}]", quoted(key), values.join(", "))).collect();
    format!("{{{}}}", fields.join(", "))
}

/// JSON, which YAML reads as it is meant.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
