//! What was decided on a node.

use serde::Serialize;
use serde_json::Value;

use crate::{console::View, page::Page, text::count};

/// Decisions, newest first. As JSON: the events, in the shape of OPA's decision log.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct DecisionList {
    events: Vec<Value>,
    #[serde(skip)]
    dropped: u64,
}

impl DecisionList {
    /// Events of the agent, and how many others it did not keep.
    pub fn new(events: Vec<Value>, dropped: u64) -> Self {
        Self { events, dropped }
    }
}

impl View for DecisionList {
    fn draw(&self, page: &mut Page) {
        let rows: Vec<_> = self.events.iter().map(row).collect();
        page.table(["TIME", "DECISION", "CALLER", "ACTION", "ON", "WHY", "IN SHADOW"], rows);
        if self.dropped > 0 {
            page.line(&format!("{} not kept", count(self.dropped, "decision was", "decisions were")));
        }
    }

    fn names(&self) -> Vec<String> {
        self.events.iter().map(|event| text(event, &["decision_id"])).collect()
    }
}

fn row(event: &Value) -> [String; 7] {
    let allowed = event.pointer("/result/decision") == Some(&Value::Bool(true));
    let on = ["path", "key", "service", "host"].map(|field| text(event, &["input", "bonafide", "on", field]));
    let (policy, rule) = (text(event, &["policy"]), text(event, &["rule"]));
    let why = if rule.is_empty() { text(event, &["result", "code"]) } else { format!("{policy}/{rule}") };
    [
        text(event, &["timestamp"]),
        if allowed { "allowed" } else { "denied" }.to_owned(),
        text(event, &["input", "bonafide", "who", "id"]),
        text(event, &["input", "bonafide", "can"]),
        on.into_iter().find(|text| !text.is_empty()).unwrap_or_default(),
        why,
        text(event, &["would"]),
    ]
}

/// What stands there, if it is text.
fn text(event: &Value, path: &[&str]) -> String {
    let found = path.iter().try_fold(event, |value, field| value.get(field));
    found.and_then(Value::as_str).unwrap_or_default().to_owned()
}
