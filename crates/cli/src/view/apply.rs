//! What an apply has done, or would do.

use bonafide_wire::admin::{Applied, ResourceKind, applied::Action};
use serde::Serialize;

use crate::{console::View, page::Page, resource};

/// An apply.
#[derive(Debug, Serialize)]
pub struct ApplyView {
    revision: u64,
    done: bool,
    resources: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    resource: String,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl ApplyView {
    /// `done`: everything is now as it is described. `titles` are of `results`, one each.
    pub fn new(results: &[Applied], titles: &[String], revision: u64, done: bool) -> Self {
        let resources = results
            .iter()
            .zip(titles)
            .map(|(result, title)| Row {
                resource: title.clone(),
                action: match result.action() {
                    Action::Created => "created",
                    Action::Changed => "changed",
                    Action::Unchanged => "unchanged",
                    Action::Deleted => "deleted",
                    Action::Refused | Action::Unspecified => "refused",
                },
                code: result.problem.as_ref().map(|problem| problem.code.clone()),
                message: result.problem.as_ref().map(|problem| problem.message.clone()),
            })
            .collect();
        Self { revision, done, resources }
    }
}

impl View for ApplyView {
    fn draw(&self, page: &mut Page) {
        for row in &self.resources {
            page.line(&format!("{:9}  {}", row.action, row.resource));
        }
        page.gap();
        let counts: Vec<String> = ["created", "changed", "unchanged", "deleted", "refused"]
            .iter()
            .map(|action| (self.resources.iter().filter(|row| row.action == *action).count(), action))
            .filter(|(count, _)| *count > 0)
            .map(|(count, action)| format!("{count} {action}"))
            .collect();
        let counts = if counts.is_empty() { "nothing to do".to_owned() } else { counts.join(", ") };
        let end = if self.done { "" } else { "; nothing was written" };
        page.line(&format!("{counts}, revision {}{end}", self.revision));
    }

    fn names(&self) -> Vec<String> {
        let differ = self.resources.iter().filter(|row| row.action != "unchanged");
        differ.map(|row| row.resource.clone()).collect()
    }
}

/// Kind and name of a result, as people write them.
pub(crate) fn title(result: &Applied) -> String {
    let record = result.after.as_ref().or(result.before.as_ref()).and_then(|record| record.resource.as_ref());
    match (record, result.kind()) {
        (Some(wire), _) => resource::title(wire),
        (None, ResourceKind::Site) => format!("Site/{}", result.name),
        (None, ResourceKind::Policy) => format!("Policy/{}", result.name),
        // Whether entry or rule is known only where the record is told.
        (None, _) => result.name.clone(),
    }
}
