//! Keys as files describe them: one that is there is set so that it is what is described.

use bonafide_identity::time::UnixTime;
use bonafide_kms::key::{Change, Settings};

use super::lifecycle::flags_of;
use super::record::KeyRecord;
use super::service::key_refusal;
use crate::refusal::Refusal;

/// A key, set as another one is that describes it. Its versions stay as they are.
///
/// # Errors
/// What it was born as is not what is described; what the key does not allow.
pub(crate) fn become_described(
    record: &KeyRecord,
    wanted: &KeyRecord,
    now: UnixTime,
) -> Result<KeyRecord, Refusal> {
    let (key, like) = (&record.key, &wanted.key);
    if key.key_type != like.key_type || flags_of(key) != flags_of(like) {
        return Err(Refusal::precondition(
            "kms.born-otherwise",
            format!("the key `{}` was born otherwise, and stays what it is", record.name()),
        )
        .hint("type, exportable, convergent and external never change: make another key"));
    }
    let settings = Settings {
        rotation: Some(like.rotation),
        local: Some(like.local),
        max_stale: Some(like.max_stale),
        ceilings: Some(like.ceilings),
        audit_sync: Some(like.audit_sync),
        sites: Some(like.sites.clone()),
        labels: Some(like.labels.clone()),
        ..Settings::default()
    };
    let as_it_is = Settings {
        rotation: Some(key.rotation),
        local: Some(key.local),
        max_stale: Some(key.max_stale),
        ceilings: Some(key.ceilings),
        audit_sync: Some(key.audit_sync),
        sites: Some(key.sites.clone()),
        labels: Some(key.labels.clone()),
        ..Settings::default()
    };
    let configured = (settings != as_it_is).then_some(Change::Configure(settings));
    let gone = key.aliases.difference(&like.aliases).cloned().map(Change::RemoveAlias);
    let new = like.aliases.difference(&key.aliases).cloned().map(Change::AddAlias);
    let changed = configured
        .into_iter()
        .chain(gone)
        .chain(new)
        .try_fold(key.clone(), |key, change| key.apply(&change, now.as_secs()));
    let key = changed.map_err(|error| key_refusal(&error))?;
    let management_labels = wanted.management_labels.clone();
    Ok(KeyRecord { key, management_labels, revision: record.revision })
}
