//! Changes of the records of keys.

use std::sync::Arc;

use bonafide_ca::rotation::Effect;
use bonafide_identity::time::UnixTime;
use bytes::Bytes;

use crate::entry;
use crate::records::{self, Object, RecordChange, SigningKey, signing_key};
use crate::state::State;

/// A key signs from now on, and those before it don't.
pub(super) fn activation(
    id: String,
    demote: Vec<String>,
) -> impl Fn(&State, UnixTime) -> Vec<RecordChange> + Send + 'static {
    move |state, now| {
        let demoted = demote.iter().map(|old| (old, signing_key::State::Old));
        let all = demoted.chain([(&id, signing_key::State::Active)]);
        all.filter_map(|(id, next)| restated(state, id, next, now)).collect()
    }
}

/// A key goes. One that stays is written again, as it is: the bundle's sequence is the newest revision of what it tells of,
/// and must not go back for a server that starts without having seen what went.
pub(super) fn retirement(state: &State, id: &str) -> Vec<RecordChange> {
    use signing_key::{State as KeyState, Use};
    let gone = RecordChange::Remove(records::signing_key_key(id));
    let is_shared = |key: &SigningKey| matches!(key.r#use(), Use::Root | Use::Jwt);
    let told = state
        .signing_key(id)
        .is_some_and(|key| is_shared(key) || matches!(key.state(), KeyState::Tainted | KeyState::Revoked));
    if !told {
        return vec![gone];
    }
    let others = state.signing_keys().filter(|key| key.id != id && is_shared(key));
    let again = others.max_by_key(|key| key.published_revision);
    let again = again.map(|key| RecordChange::Put(Object::SigningKey(Arc::clone(key))));
    [gone].into_iter().chain(again).collect()
}

/// A new key's record, with the revision that this very change, the first of its commit, will get: it puts the key into
/// the bundle.
pub(super) fn published(record: &SigningKey, state: &State) -> RecordChange {
    let published_revision = state.revision() + 1;
    RecordChange::Put(Object::SigningKey(Arc::new(SigningKey { published_revision, ..record.clone() })))
}

/// The state that an effect leaves its key in.
pub(super) fn rest_of(effect: &Effect) -> signing_key::State {
    match effect {
        Effect::Taint { .. } => signing_key::State::Tainted,
        _ => signing_key::State::Revoked,
    }
}

/// The key's record in another state.
pub(super) fn restated(
    state: &State,
    id: &str,
    next: signing_key::State,
    now: UnixTime,
) -> Option<RecordChange> {
    let mut record = (**state.signing_key(id)?).clone();
    record.set_state(next);
    record.state_since = now.as_secs();
    record.held = false;
    record.acknowledged_by.clear();
    if matches!(next, signing_key::State::Tainted | signing_key::State::Revoked) {
        // It never signs again, not even by mistake.
        record.wrapped_key = Bytes::new();
        record.state_revision = state.revision() + 1;
    }
    Some(RecordChange::Put(Object::SigningKey(Arc::new(record))))
}

/// What these changes do, for the ledger.
pub(super) fn told(state: &State, changes: &[RecordChange]) -> Vec<entry::AuthorityChange> {
    let of = |key: &SigningKey, next: &str| entry::AuthorityChange {
        state: next.to_owned(),
        kind: kind_of(key).to_owned(),
        authority: key.id.clone(),
        server: key.server.clone(),
        ..entry::AuthorityChange::default()
    };
    let told = changes.iter().filter_map(|change| match change {
        RecordChange::Put(Object::SigningKey(key)) => {
            let before = state.signing_key(&key.id).map(|before| before.state());
            (before != Some(key.state())).then(|| of(key, state_of(key)))
        }
        RecordChange::Put(_) => None,
        RecordChange::Remove(key) => {
            let id = key.strip_prefix(records::signing_key_key("").as_str())?;
            state.signing_key(id).map(|key| of(key, "retired"))
        }
    });
    told.collect()
}

/// In words, as admins and the ledger read it.
pub(crate) fn state_of(key: &SigningKey) -> &'static str {
    match key.state() {
        signing_key::State::Prepared => "prepared",
        signing_key::State::Active => "active",
        signing_key::State::Old => "old",
        signing_key::State::Tainted => "tainted",
        signing_key::State::Revoked => "revoked",
        signing_key::State::Unspecified => "unknown",
    }
}

/// In words, as admins and the ledger read it.
pub(super) fn kind_of(key: &SigningKey) -> &'static str {
    match key.r#use() {
        signing_key::Use::Root => "root",
        signing_key::Use::Intermediate => "intermediate",
        signing_key::Use::Jwt => "jwt",
        signing_key::Use::Ledger => "ledger",
        signing_key::Use::Unspecified => "unknown",
    }
}
