//! What the ledger of keys says.

use bonafide_authority::key_entry::{Actor, KeyEntry, change, key_entry::Kind, lease_over, operation};

use super::ledger::{EntryView, instance, present};
use crate::{moment::Moment, text::hex};

impl EntryView {
    /// An entry of the ledger of keys, as it was written.
    pub fn of_keys(index: u64, entry: KeyEntry) -> Self {
        let at = Moment(entry.at);
        let Some(kind) = entry.kind else {
            return Self::of(index, at, "unknown", vec!["written by a newer version".into()]);
        };
        match kind {
            Kind::Operation(operation) => {
                let intent = operation.stage() == operation::Stage::Intent;
                let items = operation.items.iter().map(|items| {
                    let outcome = if items.outcome.is_empty() { "done" } else { &items.outcome };
                    let context = present([("context", hex(&items.context_sha256))]).join("");
                    format!("{} × version {}: {outcome} {context}", items.count, items.version)
                });
                let mut details = present([
                    ("key", operation.key.clone()),
                    ("let by", operation.by.clone()),
                    ("number", if intent { operation.number.to_string() } else { String::new() }),
                ]);
                details.extend(items.map(|line| line.trim_end().to_owned()));
                let kind = if intent { "intent" } else { "operation" };
                let view = Self::of(index, at, kind, details);
                view.by(operation.actor, &operation.operation)
            }
            Kind::Change(change) => {
                let stage = match change.stage() {
                    change::Stage::Intent => "intent",
                    change::Stage::Committed => "committed",
                    change::Stage::Failed => "failed",
                };
                let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
                let details = present([
                    ("key", change.key),
                    ("key ID", hex(&change.key_id)),
                    ("version", number(change.version.into())),
                    ("is", stage.to_owned()),
                    ("revision", number(change.revision)),
                    ("code", change.code),
                ]);
                Self::of(index, at, "key-change", details).by(change.actor, &change.change)
            }
            Kind::LeaseGiven(lease) => {
                let details = present([
                    ("key", format!("{} version {}", lease.key, lease.version)),
                    ("lease", hex(&lease.lease)),
                    ("until", Moment(lease.expires_at).absolute()),
                    ("at most", format!("{} messages, {} bytes", lease.max_messages, lease.max_bytes)),
                    (
                        "so far",
                        if lease.renewed {
                            format!("{} messages, {} bytes", lease.messages, lease.bytes)
                        } else {
                            String::new()
                        },
                    ),
                    ("let by", lease.by),
                ]);
                let kind = if lease.renewed { "lease-renewed" } else { "lease" };
                Self::of(index, at, kind, details).by(lease.actor, &lease.r#use)
            }
            Kind::LeaseOver(over) => {
                let how = match over.how() {
                    lease_over::How::Returned => "returned",
                    lease_over::How::Silent => "ended in silence: counted as used up",
                    lease_over::How::Ended => "taken back",
                    lease_over::How::Unspecified => "ended",
                };
                let details = present([
                    ("lease", hex(&over.lease)),
                    ("how", how.to_owned()),
                    ("used", format!("{} messages, {} bytes", over.messages, over.bytes)),
                    ("code", over.code),
                ]);
                let actor = Actor { id: over.agent, ..Actor::default() };
                Self::of(index, at, "lease-over", details).by(Some(actor), "")
            }
            Kind::Refusal(refusal) => {
                let details =
                    present([("key", refusal.key), ("code", refusal.code), ("by rule", refusal.by)]);
                Self::of(index, at, "refusal", details).by(refusal.actor, &refusal.operation)
            }
        }
    }

    /// Who did it, and what.
    fn by(self, actor: Option<Actor>, action: &str) -> Self {
        let actor = actor.unwrap_or_default();
        let mut details =
            present([("action", action.to_owned()), ("site", actor.site), ("agent", actor.agent)]);
        details.extend(self.details);
        Self { subject: actor.id, instance: instance(&actor.instance), details, ..self }
    }
}
