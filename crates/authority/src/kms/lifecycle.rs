//! How keys come, change and go. A change is one commit; its intent is on the ledger before, and what came of it after.
//!
//! Versions are drawn before they are committed, and belong to nobody until then: a server that is killed in between leaves the
//! key as it was, so what was encrypted always opens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bonafide_crypto::erased::Erased;
use bonafide_identity::SpiffeId;
use bonafide_identity::time::UnixTime;
use bonafide_kms::algorithm::{KeyType, Operation};
use bonafide_kms::ciphertext::KeyId;
use bonafide_kms::key::{Birth, Change, Key, KeyError, Settings, State as KeyState, Target};
use bonafide_kms::material::Flags;
use bytes::Bytes;

use super::hands::Born;
use super::name;
use super::record::KeyRecord;
use super::service::{Service, action, key_refusal, read_context};
use crate::idempotency::Idempotency;
use crate::key_entry::{self, change::Stage, key_entry::Kind as EntryKind};
use crate::records::{self, KeyGrant, KeyVersion, Object, RecordChange};
use crate::refusal::Refusal;
use crate::site;
use crate::state::State;

use super::callers::Caller;
use super::guard::Ask;

/// Keys of a trust domain; of these, only operators make the last ones.
const MAX_KEYS: usize = 10_000;
const RESERVE: usize = 1000;
/// Grants of one key, and of all.
const MAX_GRANTS: usize = 1000;
/// Longest life of a grant.
const MAX_GRANT: Duration = Duration::from_secs(30 * 86_400);
/// The shortest `max_stale`: agents hear of their authority every ten seconds while they hold leases.
const MIN_STALE: Duration = Duration::from_secs(30);

/// A key that is to be made.
pub(crate) struct NewKey {
    pub(crate) name: String,
    pub(crate) key_type: KeyType,
    pub(crate) flags: Flags,
    pub(crate) settings: Settings,
    pub(crate) aliases: Vec<String>,
    pub(crate) management_labels: BTreeMap<String, String>,
}

/// What one change is called on the ledger, and about what it is.
#[derive(Clone, Debug)]
pub(crate) struct Title {
    pub(crate) actor: key_entry::Actor,
    pub(crate) change: &'static str,
    pub(crate) key: String,
    pub(crate) key_id: Bytes,
    pub(crate) version: u32,
}

/// A secret that was drawn for a version, not yet committed.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    pub(crate) id: KeyId,
    pub(crate) number: u32,
    pub(crate) record: Arc<KeyVersion>,
    /// Its private half is in a device already.
    pub(crate) external: bool,
}

/// An operator, or what this server does by itself, on the ledger.
pub(crate) fn actor(name: &str) -> key_entry::Actor {
    key_entry::Actor { id: name.to_owned(), ..key_entry::Actor::default() }
}

impl NewKey {
    /// The record, with version 1 and all settings.
    ///
    /// # Errors
    /// What a key can't be.
    pub(crate) fn record(&self, id: KeyId, imported: bool, now: UnixTime) -> Result<KeyRecord, Refusal> {
        name::check(&self.name)?;
        self.aliases.iter().try_for_each(|alias| name::check(alias))?;
        check_settings(&self.settings)?;
        let Flags { exportable, convergent, external } = self.flags;
        let birth = Birth { at: now.as_secs(), exportable, convergent, external };
        let made = Key::new(id, &self.name, self.key_type, birth, imported).and_then(|key| {
            let key = key.apply(&Change::Configure(self.settings.clone()), now.as_secs())?;
            self.aliases
                .iter()
                .try_fold(key, |key, alias| key.apply(&Change::AddAlias(alias.clone()), now.as_secs()))
        });
        let key = made.map_err(|error| invalid(&error))?;
        Ok(KeyRecord { key, management_labels: self.management_labels.clone(), revision: 0 })
    }
}

/// What every version of a key is declared to be.
pub(crate) fn flags_of(key: &Key) -> Flags {
    let Birth { exportable, convergent, external, .. } = key.birth;
    Flags { exportable, convergent, external }
}

/// What settings can't be, beside what the key itself refuses.
///
/// # Errors
/// Says which.
pub(crate) fn check_settings(settings: &Settings) -> Result<(), Refusal> {
    if settings.max_stale.is_some_and(|stale| stale < MIN_STALE) {
        return Err(Refusal::invalid("kms.key-max-stale", "`max_stale` is at least 30 s")
            .hint("agents that hold leases hear of their authority every ten seconds"));
    }
    settings.sites.iter().flatten().try_for_each(|name| site::check_name(name))?;
    let labels = settings.labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let own = labels.chain([("key", "")]);
    bonafide_policy::CertifiedLabels::new(own).map_err(|fault| {
        Refusal::invalid("kms.key-labels", format!("the labels can't be shown to policies: {fault}"))
            .hint("`key` is the key's own name; other labels have at most 128 printable characters")
    })?;
    Ok(())
}

/// The changes that make a new key.
///
/// # Errors
/// A name that is taken; too many keys.
pub(crate) fn creation(
    state: &State,
    record: &KeyRecord,
    drawn: &Drawn,
    everything: bool,
) -> Result<Vec<RecordChange>, Refusal> {
    check_count(state, 1, everything)?;
    record.names().try_for_each(|name| free(state, name))?;
    Ok(vec![
        RecordChange::Put(Object::KeyVersion(Arc::clone(&drawn.record))),
        RecordChange::Put(Object::Key(Arc::new(record.clone()))),
    ])
}

/// Whether so many keys can come.
///
/// # Errors
/// Too many keys.
pub(crate) fn check_count(state: &State, new: usize, everything: bool) -> Result<(), Refusal> {
    let most = if everything { MAX_KEYS } else { MAX_KEYS - RESERVE };
    if state.key_count().saturating_add(new) <= most {
        return Ok(());
    }
    Err(Refusal::new(
        tonic::Code::ResourceExhausted,
        "kms.too-many-keys",
        format!("there can't be more than {most} keys"),
    )
    .hint("use one key with several contexts, and delete what is not needed"))
}

/// The changes that a change of a key comes to. `drawn`: the secret of the version that it adds.
///
/// # Errors
/// What the key does not allow; a name that is taken; `kms.changed-meanwhile` if the secret was drawn for another number.
pub(crate) fn change(
    state: &State,
    record: &KeyRecord,
    change: &Change,
    drawn: Option<&Drawn>,
    now: UnixTime,
) -> Result<Vec<RecordChange>, Refusal> {
    if let Change::AddAlias(alias) = change
        && !record.key.aliases.contains(alias)
    {
        name::check(alias)?;
        free(state, alias)?;
    }
    if let Change::Configure(settings) = change {
        check_settings(settings)?;
    }
    let key = record.key.apply(change, now.as_secs()).map_err(|error| key_refusal(&error))?;
    let mut changes = Vec::new();
    if matches!(change, Change::Rotate { .. }) {
        let fits = drawn.filter(|drawn| drawn.id == key.id && drawn.number == key.newest());
        let drawn = fits.ok_or_else(changed_meanwhile)?;
        changes.push(RecordChange::Put(Object::KeyVersion(Arc::clone(&drawn.record))));
    }
    // The secrets of versions that were destroyed or trimmed go with the same commit.
    // Of an external key they stay until its device has destroyed what they name: nobody else would find it there.
    for version in state.key_versions(record.id()).filter(|_| !key.birth.external) {
        if !key.has_secret(version.number) {
            changes.push(RecordChange::Remove(records::key_version_key(record.id(), version.number)));
        }
    }
    if key != record.key {
        changes.push(RecordChange::Put(Object::Key(Arc::new(KeyRecord { key, ..record.clone() }))));
    }
    Ok(changes)
}

/// The changes that forget a key that was destroyed.
///
/// # Errors
/// One that was not.
pub(crate) fn deletion(state: &State, record: &KeyRecord) -> Result<Vec<RecordChange>, Refusal> {
    if record.key.state != KeyState::Destroyed {
        return Err(Refusal::precondition(
            "kms.not-destroyed",
            "only a key that was destroyed can be deleted",
        )
        .hint("`bonafide key destroy` destroys it after a time of grace"));
    }
    if record.key.birth.external && state.key_versions(record.id()).next().is_some() {
        return Err(Refusal::unavailable(
            "kms.device-pending",
            "the device has not destroyed what was in it of the key yet",
        )
        .hint("try again in a moment; if it persists, see whether the device is there"));
    }
    let grants =
        state.key_grants(record.id()).map(|grant| RecordChange::Remove(records::key_grant_key(&grant.id)));
    let versions = state
        .key_versions(record.id())
        .map(|version| RecordChange::Remove(records::key_version_key(record.id(), version.number)));
    Ok(grants.chain(versions).chain([RecordChange::Remove(records::key_key(record.id()))]).collect())
}

/// Whether a version was drawn for a state that is over: it is drawn again.
pub(crate) fn is_changed_meanwhile(refusal: &Refusal) -> bool {
    refusal.code() == "kms.changed-meanwhile"
}

/// A grant that is asked for, checked in itself.
#[derive(Clone, Debug)]
pub(crate) struct NewGrant {
    pub(crate) grantee: SpiffeId,
    pub(crate) operations: Vec<Operation>,
    pub(crate) context: BTreeMap<String, String>,
    pub(crate) ttl: Duration,
}

impl NewGrant {
    /// # Errors
    /// Operations that can't be granted, a life that is too long.
    pub(crate) fn read(
        spiffe_id: &str,
        operations: &[String],
        context: BTreeMap<String, String>,
        ttl: u32,
        state: &State,
    ) -> Result<Self, Refusal> {
        let grantee = SpiffeId::parse(spiffe_id).ok().filter(|id| {
            id.trust_domain() == state.trust_domain() && !bonafide_identity::reserved::is_reserved(id)
        });
        let grantee = grantee.ok_or_else(|| {
            Refusal::invalid("kms.grantee", "a grant is for the SPIFFE ID of a workload of this trust domain")
        })?;
        let read = |name: &String| {
            let operation = Operation::from_name(name)
                .filter(|operation| !matches!(operation, Operation::Fetch | Operation::Random));
            operation.ok_or_else(|| {
                Refusal::invalid("kms.grant-operation", format!("`{}` can't be granted", name::short(name)))
                    .hint("name operations such as `encrypt`, `decrypt`, `sign`; whoever may have the key itself is a policy's affair")
            })
        };
        let operations = operations.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let ttl = Duration::from_secs(ttl.into());
        if operations.is_empty()
            || operations.len() > Operation::ALL.len()
            || ttl.is_zero()
            || ttl > MAX_GRANT
        {
            return Err(Refusal::invalid(
                "kms.grant",
                "a grant names at least one operation, and lasts for at most 30 days",
            ));
        }
        read_context(&context)?;
        Ok(Self { grantee, operations, context, ttl })
    }

    /// The record.
    pub(crate) fn record(&self, id: &str, key: &KeyRecord, by: &str, now: UnixTime) -> KeyGrant {
        KeyGrant {
            id: id.to_owned(),
            key: Bytes::copy_from_slice(key.id()),
            grantee: self.grantee.to_string(),
            operations: self.operations.iter().map(|operation| action(*operation).to_owned()).collect(),
            context: self.context.clone(),
            expires_at: now.saturating_add(self.ttl).as_secs(),
            granted_by: by.to_owned(),
            granted_at: now.as_secs(),
        }
    }
}

/// The change that makes a grant.
///
/// # Errors
/// Too many of them.
pub(crate) fn granting(
    state: &State,
    key: &KeyRecord,
    grant: &KeyGrant,
) -> Result<Vec<RecordChange>, Refusal> {
    if state.key_grants(key.id()).count() >= MAX_GRANTS {
        return Err(Refusal::new(
            tonic::Code::ResourceExhausted,
            "kms.too-many-grants",
            format!("there can't be more than {MAX_GRANTS} grants on a key"),
        )
        .hint("write a policy for what lasts"));
    }
    Ok(vec![RecordChange::Put(Object::KeyGrant(Arc::new(grant.clone())))])
}

impl Service {
    /// Draws the secret of a version, or takes in one that was made elsewhere.
    ///
    /// # Errors
    /// What can't be imported, and a worker that does not answer.
    pub(crate) async fn draw(
        &self,
        id: KeyId,
        number: u32,
        key_type: KeyType,
        flags: Flags,
        secret: Option<Erased>,
    ) -> Result<Drawn, Refusal> {
        let Born { wrapped, public } = self.parts().hands.born((id, number), key_type, flags, secret).await?;
        let record =
            KeyVersion { key: Bytes::copy_from_slice(id.as_bytes()), number, wrapped, public_key: public };
        Ok(Drawn { id, number, record: Arc::new(record), external: flags.external })
    }

    /// Takes back what was drawn in a device for a commit that was refused. What may have been committed all the same stays: it
    /// would be lost.
    pub(crate) async fn undo(&self, drawn: &Drawn, refusal: &Refusal) {
        use tonic::Code;
        let refused = is_changed_meanwhile(refusal)
            || matches!(
                refusal.kind(),
                Code::AlreadyExists
                    | Code::FailedPrecondition
                    | Code::InvalidArgument
                    | Code::NotFound
                    | Code::PermissionDenied
                    | Code::ResourceExhausted
            );
        let number = drawn.number;
        let kept = self.parts().registry.state().key_version(drawn.id.as_bytes(), number).cloned();
        if !drawn.external || !refused || kept.is_some_and(|kept| kept.public_key == drawn.record.public_key)
        {
            return;
        }
        if let Err(refusal) = self.parts().hands.destroy(&drawn.record).await {
            tracing::warn!(
                code = refusal.code(),
                "a key that nobody uses stays in the device as `kms/{}/{number}`: {refusal}",
                drawn.id
            );
        }
    }

    /// The ID of a new key.
    pub(crate) fn fresh_id(&self) -> KeyId {
        KeyId::from_bytes(self.parts().random.array())
    }

    /// Makes a change: its intent on the ledger, the change itself, and what came of it on the ledger.
    ///
    /// # Errors
    /// The change's own; a ledger that can't be written, before anything is changed.
    pub(crate) async fn recorded<T>(
        &self,
        title: Title,
        commit: impl Future<Output = Result<(T, u64), Refusal>>,
    ) -> Result<T, Refusal> {
        self.recorded_all(vec![title], commit).await
    }

    /// As [`Self::recorded`], of a commit that changes several keys.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn recorded_all<T>(
        &self,
        titles: Vec<Title>,
        commit: impl Future<Output = Result<(T, u64), Refusal>>,
    ) -> Result<T, Refusal> {
        let parts = self.parts();
        let titles: Vec<(Title, u64)> =
            titles.into_iter().map(|title| (title, parts.book.number())).collect();
        let entries = |stage: Stage, revision: u64, code: &str| {
            let entry = |(title, number): &(Title, u64)| {
                EntryKind::Change(key_entry::Change {
                    actor: Some(title.actor.clone()),
                    change: title.change.to_owned(),
                    key: title.key.clone(),
                    key_id: title.key_id.clone(),
                    version: title.version,
                    stage: stage.into(),
                    revision,
                    code: code.to_owned(),
                    number: *number,
                })
            };
            titles.iter().map(entry).collect()
        };
        parts.book.append(parts.clock.now(), entries(Stage::Intent, 0, "")).await?;
        let done = commit.await;
        let outcomes = match &done {
            Ok((_, revision)) => entries(Stage::Committed, *revision, ""),
            Err(refusal) => entries(Stage::Failed, 0, refusal.code()),
        };
        // What was changed stands in the store's log, which is as authentic, whether or not there is room for this.
        if let Err(refusal) = parts.book.append(parts.clock.now(), outcomes).await {
            let keys: Vec<&str> = titles.iter().map(|(title, _)| title.key.as_str()).collect();
            tracing::error!(
                code = refusal.code(),
                keys = keys.join(" "),
                "what came of a change of keys is not on the ledger: {refusal}"
            );
        }
        let (value, revision) = done?;
        for (title, _) in titles {
            tracing::info!(
                key = title.key,
                change = title.change,
                version = title.version,
                actor = title.actor.id,
                revision,
                "a key has changed"
            );
        }
        Ok(value)
    }

    /// Lets somebody else use a key for a while: what the caller may do himself, if policies let him `grant` it.
    ///
    /// # Errors
    /// What policies deny him; too many grants.
    pub(crate) async fn grant(
        &self,
        caller: &Caller,
        key: &str,
        wanted: NewGrant,
        idempotency: Idempotency,
    ) -> Result<(KeyGrant, u64), Refusal> {
        let parts = self.parts();
        let now = parts.clock.now();
        let record = {
            let state = parts.registry.state();
            caller.check(&state, now)?;
            let record = self.key_for(&state, caller, key, "grant", now)?;
            let current_at = self.current_at(&record, now)?;
            let (_, props) = read_context(&wanted.context)?;
            for action in
                std::iter::once("grant").chain(wanted.operations.iter().map(|operation| action(*operation)))
            {
                let ask = Ask { action, context: &props, algorithm: None };
                let decided = parts.guard.decide(&state, &record, caller, ask, now, current_at);
                // What was granted to somebody he does not pass on.
                let own = decided.and_then(|by| {
                    if by.starts_with("grant/") {
                        Err(super::guard::Denied::because("kms.granted-only"))
                    } else {
                        Ok(by)
                    }
                });
                own.map_err(|denied| {
                    parts.book.refused(now, &caller.actor(), action, key, &denied);
                    denied.refusal(action, key)
                })?;
            }
            record
        };
        let id = crate::journal::hex(&parts.random.array::<16>());
        let grant = wanted.record(&id, &record, caller.id().as_str(), now);
        let title = Title {
            actor: caller.actor(),
            change: "grant",
            key: record.name().to_owned(),
            key_id: Bytes::copy_from_slice(record.id()),
            version: 0,
        };
        let key_id = *record.id();
        let commit = async {
            let (_, (name, revision)) = parts
                .registry
                .write_with(move |state| {
                    if let Some(replay) = idempotency.replay(state, now)? {
                        return Ok((Vec::new(), (replay.name, replay.revision)));
                    }
                    let key = state.key_of_id(&key_id).ok_or_else(changed_meanwhile)?;
                    let mut changes = granting(state, key, &grant)?;
                    let revision = state.revision() + changes.len() as u64;
                    changes.extend(idempotency.remember(revision, &grant.id, now));
                    Ok((changes, (grant.id.clone(), revision)))
                })
                .await?;
            Ok((name, revision))
        };
        let id = self.recorded(title, commit).await?;
        let state = parts.registry.state();
        let grant = state.key_grant(&id).ok_or_else(changed_meanwhile)?;
        Ok(((**grant).clone(), state.revision()))
    }

    /// Takes back a grant that this caller has made.
    ///
    /// # Errors
    /// One that he has not made.
    pub(crate) async fn revoke_grant(&self, caller: &Caller, id: &str) -> Result<u64, Refusal> {
        let parts = self.parts();
        let unknown =
            || Refusal::not_found("kms.grant-unknown", "the caller has made no such grant, or it is over");
        let own = |grant: &&Arc<KeyGrant>| grant.granted_by == caller.id().as_str();
        let grant = parts.registry.state().key_grant(id).filter(own).cloned().ok_or_else(unknown)?;
        let key = <[u8; 16]>::try_from(grant.key.as_ref()).map_err(|_| unknown())?;
        let named = parts.registry.state().key_of_id(&key).map(|key| key.name().to_owned());
        let title = Title {
            actor: caller.actor(),
            change: "revoke-grant",
            key: named.unwrap_or_default(),
            key_id: grant.key.clone(),
            version: 0,
        };
        let id = id.to_owned();
        let commit = async {
            let written = parts
                .registry
                .write(move |state| {
                    let there = state.key_grant(&id).is_some();
                    Ok(if there {
                        vec![RecordChange::Remove(records::key_grant_key(&id))]
                    } else {
                        Vec::new()
                    })
                })
                .await?;
            Ok((written.revision, written.revision))
        };
        self.recorded(title, commit).await
    }
}

/// The title of a change.
pub(crate) fn title_of(change: &Change) -> (&'static str, u32) {
    let number = |target: &Target| match target {
        Target::Key => 0,
        Target::Version(number) => *number,
    };
    match change {
        Change::Rotate { imported: false } => ("rotate", 0),
        Change::Rotate { imported: true } => ("import", 0),
        Change::Configure(_) => ("configure", 0),
        Change::Disable(target) => ("disable", number(target)),
        Change::Enable(target) => ("enable", number(target)),
        Change::ScheduleDestruction { target, .. } => ("schedule-destruction", number(target)),
        Change::CancelDestruction(target) => ("restore", number(target)),
        Change::Destroy(target) => ("destroy", number(target)),
        Change::Trim(below) => ("trim", *below),
        Change::AddAlias(_) => ("alias", 0),
        Change::RemoveAlias(_) => ("remove-alias", 0),
    }
}

fn free(state: &State, name: &str) -> Result<(), Refusal> {
    if state.key(name).is_none() { Ok(()) } else { Err(name_taken(name)) }
}

/// A name that another key has.
pub(crate) fn name_taken(name: &str) -> Refusal {
    Refusal::new(
        tonic::Code::AlreadyExists,
        "kms.name-taken",
        format!("there is a key that is called `{}` already", name::short(name)),
    )
    .hint("choose another name; names and aliases are one set for the whole trust domain")
}

/// The state that a change was made for is over.
pub(crate) fn changed_meanwhile() -> Refusal {
    Refusal::unavailable("kms.changed-meanwhile", "the key was changed by somebody else at the same time")
        .hint("try again")
}

fn invalid(error: &KeyError) -> Refusal {
    Refusal::invalid(error.code(), error.to_string()).hint(error.hint())
}
