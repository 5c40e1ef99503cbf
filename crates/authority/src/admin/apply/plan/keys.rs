//! Keys among what is described.

use std::sync::Arc;

use bonafide_kms::key::State as KeyState;
use bonafide_wire::admin::{ResourceKind, applied::Action};

use super::{Key, Outcome, Planner, Record};
use crate::kms::{KeyRecord, described::become_described, lifecycle};
use crate::refusal::Refusal;

/// Keys that one apply makes: each is drawn before the commit.
const MAX_NEW_KEYS: usize = 200;

/// Whether a key is not on its way out already.
pub(in crate::admin::apply) fn is_kept(record: &KeyRecord) -> bool {
    matches!(record.key.state, KeyState::Enabled | KeyState::Disabled)
}

impl Planner<'_> {
    pub(super) fn key(&mut self, key: &Key, wanted: &Arc<KeyRecord>) -> Outcome {
        let before = self.state.key(wanted.name());
        // Says no more about what is another site's.
        let own = before.into_iter().chain([wanted]).try_for_each(|record| self.rights.of_key(record));
        if let Err(refusal) = own {
            return Outcome::refused(key, refusal);
        }
        if before.is_some_and(|before| before.name() != wanted.name()) {
            return Outcome::refused(key, lifecycle::name_taken(wanted.name()));
        }
        let after = match before {
            Some(before) => become_described(before, wanted, self.request.now).map(Arc::new),
            None => Ok(Arc::clone(wanted)),
        };
        let after = match after {
            Ok(after) => after,
            Err(refusal) => return Outcome::refused(key, refusal),
        };
        let outcome = Outcome {
            key: key.clone(),
            action: if before.is_some() { Action::Changed } else { Action::Created },
            before: before.cloned().map(Record::Key),
            after: Some(Record::Key(Arc::clone(&after))),
            refusal: None,
            warnings: Vec::new(),
        };
        if before.is_some_and(|before| *before == after) {
            return Outcome { action: Action::Unchanged, ..outcome };
        }
        let new =
            after.names().filter(|name| !before.is_some_and(|before| before.names().any(|own| own == *name)));
        let mut free = Ok(());
        for name in new {
            if self.state.key(name).is_some() || !self.names.insert(name.to_owned()) {
                free = Err(lifecycle::name_taken(name));
            }
        }
        let revision = before.map_or(0, |before| before.revision);
        outcome.unless(free.and_then(|()| self.compared(key, revision)))
    }

    /// Refuses new keys beyond what there may be.
    pub(super) fn count_keys(&self, outcomes: &mut [Outcome]) {
        let created =
            |outcome: &Outcome| outcome.key.kind == ResourceKind::Key && outcome.action == Action::Created;
        let new = outcomes.iter().filter(|outcome| created(outcome)).count();
        let refusal = if new > MAX_NEW_KEYS {
            let message = format!("one apply makes at most {MAX_NEW_KEYS} keys, and this would make {new}");
            Some(Refusal::invalid("apply.too-many", message).hint("apply them in parts"))
        } else {
            lifecycle::check_count(self.state, new, self.rights.everything().is_ok()).err()
        };
        let Some(refusal) = refusal.filter(|_| new > 0) else { return };
        for outcome in outcomes.iter_mut().filter(|outcome| created(outcome)) {
            outcome.action = Action::Refused;
            outcome.refusal = Some(refusal.clone());
        }
    }
}

/// No key is destroyed by being left out.
pub(super) fn unpruned(name: &str) -> Refusal {
    Refusal::precondition(
        "apply.prune-key",
        format!("the key `{name}` is not in the files, and no key is destroyed by that"),
    )
    .hint("`bonafide key destroy` destroys it after a time of grace; or keep it in the files, or take its label away")
}
