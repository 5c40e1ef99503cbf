//! Keys of applications: made, listed, changed, exported and granted by operators and by admins of sites.
//!
//! An admin of sites has the keys that are limited to sites of his. All other keys are the operators': whoever made one for
//! everybody would decide who decrypts elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bonafide_crypto::erased::Erased;
use bonafide_identity::time::UnixTime;
use bonafide_kms::algorithm::{KeyType, Operation};
use bonafide_kms::ciphertext::KeyId;
use bonafide_kms::engine::Answer;
use bonafide_kms::key::{Ceilings, Change, Local, Settings, State as KeyState, Target};
use bonafide_kms::material::Flags;
use bonafide_wire::admin::{
    self as wire, ChangeKeyRequest, CreateKeyRequest, DeleteRequest, ExportKeyRequest, ExportKeyResponse,
    GrantKeyRequest, KeyGrantResponse, KeyResponse, ListKeyGrantsRequest, ListKeyGrantsResponse,
    ListKeysRequest, ListKeysResponse, WriteResponse, change_key_request::Change as Wanted,
};
use bytes::Bytes;

use super::{Admin, Answer as Written, Caller, Rights, idempotency, paging::Page};
use crate::convert::wire::to_management_labels;
use crate::journal::hex;
use crate::key_entry;
use crate::kms::KeyRecord;
use crate::kms::hands::Task;
use crate::kms::lifecycle::{self, Drawn, NewGrant, NewKey, Title};
use crate::kms::service::{Service, key_refusal};
use crate::records::{self, KeyGrant, RecordChange};
use crate::refusal::Refusal;
use crate::state::State;

/// Of a key, in the clear, on its way to the worker.
type Secret = Erased;

/// How long what is to be destroyed can still be restored, if nothing is said, in seconds.
const GRACE: u32 = 7 * 86_400;
/// Changes of a key at the same time that are tried again.
const ATTEMPTS: usize = 3;

impl Rights {
    /// Whether the caller may see, change and export a key.
    ///
    /// # Errors
    /// `admin.other-site` and `admin.local-only`, as for everything else.
    pub(super) fn of_key(&self, record: &KeyRecord) -> Result<(), Refusal> {
        if record.sites().is_empty() {
            return self.everything();
        }
        record.sites().iter().try_for_each(|site| self.of_site(site))
    }
}

impl Admin {
    pub(super) fn service_of_keys(&self) -> Result<&Service, Refusal> {
        self.keys
            .as_ref()
            .ok_or_else(|| Refusal::unavailable("kms.none", "this server has no keys of applications"))
    }

    pub(super) fn actor(caller: &Caller) -> key_entry::Actor {
        match caller {
            Caller::Local { uid } => lifecycle::actor(&format!("local uid {uid}")),
            Caller::Peer(peer) => key_entry::Actor {
                id: peer.id.to_string(),
                instance: peer
                    .instance
                    .map(|instance| Bytes::copy_from_slice(instance.as_bytes()))
                    .unwrap_or_default(),
                site: peer.site.clone(),
                agent: String::new(),
            },
        }
    }

    /// A key that the caller may administer, by its name or an alias.
    fn own_key(state: &State, rights: &Rights, name: &str) -> Result<Arc<KeyRecord>, Refusal> {
        let own = state.key(name).filter(|record| rights.of_key(record).is_ok());
        own.cloned().ok_or_else(|| {
            let short: String = name.chars().take(80).collect();
            Refusal::not_found("kms.unknown-key", format!("there is no key `{short}`"))
                .hint("`bonafide key list` shows those that you may see")
        })
    }

    /// Makes a key. Its first version is drawn, or the material that is given.
    ///
    /// # Errors
    /// A name that is taken, settings that can't be, material that is no key of its type.
    pub async fn create_key(
        &self,
        caller: &Caller,
        request: CreateKeyRequest,
    ) -> Result<KeyResponse, Refusal> {
        let service = self.service_of_keys()?;
        let own = CreateKeyRequest { idempotency_key: String::new(), ..request.clone() };
        let idempotency = idempotency(caller, "CreateKey", &request.idempotency_key, &own)?;
        let CreateKeyRequest {
            name,
            r#type,
            exportable,
            convergent,
            external,
            settings,
            aliases,
            management_labels,
            material,
            ..
        } = request;
        let settings = to_settings(settings.unwrap_or_default(), Ceilings::DEFAULT)?;
        let new = NewKey {
            name,
            key_type: to_type(&r#type)?,
            flags: Flags { exportable, convergent, external },
            settings,
            aliases,
            management_labels: to_management_labels(&management_labels)?,
        };
        let secret = to_secret(&material);
        let now = self.clock.now();
        let record = new.record(service.fresh_id(), secret.is_some(), now)?;
        // Before anything is drawn for somebody who may not.
        self.reader(caller)?.1.of_key(&record)?;
        let id = record.key.id;
        let title = Title {
            actor: Self::actor(caller),
            change: if secret.is_some() { "import" } else { "create" },
            key: record.name().to_owned(),
            key_id: Bytes::copy_from_slice(id.as_bytes()),
            version: 1,
        };
        let commit = async {
            let drawn = service.draw(id, 1, new.key_type, new.flags, secret).await?;
            let first = drawn.clone();
            let written = self
                .write(caller, idempotency, move |state, rights| {
                    rights.of_key(&record)?;
                    let changes = lifecycle::creation(state, &record, &first, rights.everything().is_ok())?;
                    Ok((changes, record.name().to_owned()))
                })
                .await;
            let written = self.kept(service, Some(drawn), written).await?;
            let revision = written.revision;
            Ok((written, revision))
        };
        let written = service.recorded(title, commit).await?;
        self.key_response(&written)
    }

    /// The keys that the caller may see, in the order of their names.
    ///
    /// # Errors
    /// A caller without rights, a page token that is not one of this list, a name that there is not.
    pub fn list_keys(&self, caller: &Caller, request: &ListKeysRequest) -> Result<ListKeysResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        if !request.name.is_empty() {
            let record = Self::own_key(&state, &rights, &request.name)?;
            return Ok(ListKeysResponse {
                keys: vec![to_wire(&state, &record)],
                next_page_token: String::new(),
            });
        }
        let page = Page::new(request.page_size, &request.page_token)?;
        let visible = state.keys_after(page.after()).filter(|record| rights.of_key(record).is_ok());
        let (keys, next_page_token) = page.take(visible, |record| record.name().to_owned())?;
        let keys = keys.into_iter().map(|record| to_wire(&state, record)).collect();
        Ok(ListKeysResponse { keys, next_page_token })
    }

    /// Changes a key: one commit.
    ///
    /// # Errors
    /// A key that is not the caller's; what the key does not allow.
    pub async fn change_key(
        &self,
        caller: &Caller,
        request: ChangeKeyRequest,
    ) -> Result<KeyResponse, Refusal> {
        let service = self.service_of_keys()?;
        let own = ChangeKeyRequest { idempotency_key: String::new(), ..request.clone() };
        let idempotency = idempotency(caller, "ChangeKey", &request.idempotency_key, &own)?;
        let now = self.clock.now();
        let wanted =
            request.change.ok_or_else(|| Refusal::invalid("kms.change", "the request names no change"))?;
        let record = {
            let (state, rights) = self.reader(caller)?;
            Self::own_key(&state, &rights, &request.name)?
        };
        let (change, secret) = to_change(wanted, record.key.ceilings, now.as_secs())?;
        let (name, version) = lifecycle::title_of(&change);
        let title = Title {
            actor: Self::actor(caller),
            change: name,
            key: record.name().to_owned(),
            key_id: Bytes::copy_from_slice(record.id()),
            version,
        };
        let commit = async {
            let mut attempt = 0;
            loop {
                attempt += 1;
                let drawn = self.drawn(service, &record, &change, secret.clone()).await?;
                let (change, id, added) = (change.clone(), *record.id(), drawn.clone());
                let written = self
                    .write(caller, idempotency.clone(), move |state, rights| {
                        let record = state.key_of_id(&id).filter(|record| rights.of_key(record).is_ok());
                        let record =
                            record.ok_or_else(|| Refusal::not_found("kms.unknown-key", "the key is gone"))?;
                        let changes = lifecycle::change(state, record, &change, added.as_ref(), now)?;
                        // Nobody gives a key to sites that are not his.
                        for change in &changes {
                            if let RecordChange::Put(records::Object::Key(after)) = change {
                                rights.of_key(after)?;
                            }
                        }
                        Ok((changes, record.name().to_owned()))
                    })
                    .await;
                match self.kept(service, drawn, written).await {
                    Err(refusal) if lifecycle::is_changed_meanwhile(&refusal) && attempt < ATTEMPTS => {}
                    Err(refusal) => return Err(refusal),
                    Ok(written) => {
                        let revision = written.revision;
                        return Ok((written, revision));
                    }
                }
            }
        };
        let written = service.recorded(title, commit).await?;
        self.key_response(&written)
    }

    /// What a commit came to; what was drawn in a device for one that did not come is taken back.
    async fn kept(
        &self,
        service: &Service,
        drawn: Option<Drawn>,
        written: Result<Written, Refusal>,
    ) -> Result<Written, Refusal> {
        let Some(drawn) = drawn else { return written };
        match &written {
            Err(refusal) => service.undo(&drawn, refusal).await,
            Ok(Written { replayed: true, .. }) => {
                service.undo(&drawn, &Refusal::precondition("kms.replayed", "it was done before")).await;
            }
            Ok(_) => {}
        }
        written
    }

    /// The secret of the version that a change adds.
    async fn drawn(
        &self,
        service: &Service,
        record: &KeyRecord,
        change: &Change,
        secret: Option<Secret>,
    ) -> Result<Option<Drawn>, Refusal> {
        if !matches!(change, Change::Rotate { .. }) {
            return Ok(None);
        }
        // Another change may have come since.
        let state = self.registry.state();
        let key = state.key_of_id(record.id()).map_or(&record.key, |record| &record.key).clone();
        drop(state);
        let number = key.newest().saturating_add(1);
        service.draw(key.id, number, key.key_type, lifecycle::flags_of(&key), secret).await.map(Some)
    }

    /// Forgets a key that was destroyed.
    ///
    /// # Errors
    /// One that was not, or is not the caller's.
    pub async fn delete_key(
        &self,
        caller: &Caller,
        request: DeleteRequest,
    ) -> Result<WriteResponse, Refusal> {
        let service = self.service_of_keys()?;
        let DeleteRequest { name, idempotency_key } = request;
        let own = DeleteRequest { name: name.clone(), idempotency_key: String::new() };
        let idempotency = idempotency(caller, "DeleteKey", &idempotency_key, &own)?;
        let (title_name, key_id) = {
            let (state, rights) = self.reader(caller)?;
            match Self::own_key(&state, &rights, &name) {
                Ok(record) => (record.name().to_owned(), Bytes::copy_from_slice(record.id())),
                // It may be a request that is sent again.
                Err(_) => (name.clone(), Bytes::new()),
            }
        };
        let title =
            Title { actor: Self::actor(caller), change: "delete", key: title_name, key_id, version: 0 };
        let commit = async {
            let written = self
                .write(caller, idempotency, move |state, rights| {
                    let record = Self::own_key(state, rights, &name)?;
                    Ok((lifecycle::deletion(state, &record)?, record.name().to_owned()))
                })
                .await?;
            Ok((written.revision, written.revision))
        };
        let revision = service.recorded(title, commit).await?;
        Ok(WriteResponse { revision })
    }

    /// The secret part of a version, of a key that was born exportable.
    ///
    /// # Errors
    /// A key that was not, or is not the caller's; a ledger that can't be written.
    pub async fn export_key(
        &self,
        caller: &Caller,
        request: &ExportKeyRequest,
    ) -> Result<ExportKeyResponse, Refusal> {
        let service = self.service_of_keys()?;
        let asked = (request.version != 0).then_some(request.version);
        let (record, version, material) = {
            let (state, rights) = self.reader(caller)?;
            let record = Self::own_key(&state, &rights, &request.name)?;
            let version =
                record.key.version_for(Operation::Fetch, asked).map_err(|error| key_refusal(&error))?;
            let material = state.key_version(record.id(), version).cloned();
            (record, version, material)
        };
        let material = material
            .ok_or_else(|| Refusal::not_found("kms.no-material", "the secret of the version is missing"))?;
        let title = Title {
            actor: Self::actor(caller),
            change: "export",
            key: record.name().to_owned(),
            key_id: Bytes::copy_from_slice(record.id()),
            version,
        };
        let hands = service.hands();
        let commit = async {
            let handle = hands.open(&material).await?;
            match hands.one(Task::Export { handle }).await? {
                Answer::Bytes(secret) => Ok((secret, record.revision)),
                _ => Err(Refusal::unavailable("kms.answer", "the answer is not one to the question")),
            }
        };
        let secret = service.recorded(title, commit).await?;
        let r#type = record.key.key_type.as_str().to_owned();
        Ok(ExportKeyResponse { version, r#type, material: Bytes::from_owner(secret) })
    }

    /// Lets somebody use a key for a while.
    ///
    /// # Errors
    /// A key that is not the caller's; what can't be granted.
    pub async fn grant_key(
        &self,
        caller: &Caller,
        request: GrantKeyRequest,
    ) -> Result<KeyGrantResponse, Refusal> {
        let service = self.service_of_keys()?;
        let own = GrantKeyRequest { idempotency_key: String::new(), ..request.clone() };
        let idempotency = idempotency(caller, "GrantKey", &request.idempotency_key, &own)?;
        let GrantKeyRequest { key, spiffe_id, operations, context, ttl, .. } = request;
        let now = self.clock.now();
        let (record, wanted) = {
            let (state, rights) = self.reader(caller)?;
            let record = Self::own_key(&state, &rights, &key)?;
            (record, NewGrant::read(&spiffe_id, &operations, context, ttl, &state)?)
        };
        let id = hex(&self.random.array::<16>());
        let grant = wanted.record(&id, &record, &caller.name(), now);
        let title = Title {
            actor: Self::actor(caller),
            change: "grant",
            key: record.name().to_owned(),
            key_id: Bytes::copy_from_slice(record.id()),
            version: 0,
        };
        let commit = async {
            let written = self
                .write(caller, idempotency, move |state, rights| {
                    let record = Self::own_key(state, rights, record.name())?;
                    Ok((lifecycle::granting(state, &record, &grant)?, grant.id.clone()))
                })
                .await?;
            let revision = written.revision;
            Ok((written, revision))
        };
        let written = service.recorded(title, commit).await?;
        let state = self.registry.state();
        let grant = state.key_grant(&written.name).map(|grant| from_grant(&state, grant));
        Ok(KeyGrantResponse { grant, revision: written.revision })
    }

    /// The grants on a key, or on all that the caller may see.
    ///
    /// # Errors
    /// A key that is not the caller's.
    pub fn list_key_grants(
        &self,
        caller: &Caller,
        request: &ListKeyGrantsRequest,
    ) -> Result<ListKeyGrantsResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        let now = self.clock.now().as_secs();
        let keys: Vec<_> = if request.key.is_empty() {
            state.keys_after("").filter(|record| rights.of_key(record).is_ok()).cloned().collect()
        } else {
            vec![Self::own_key(&state, &rights, &request.key)?]
        };
        let grants = keys.iter().flat_map(|record| state.key_grants(record.id()));
        let grants = grants.filter(|grant| grant.expires_at > now).map(|grant| from_grant(&state, grant));
        Ok(ListKeyGrantsResponse { grants: grants.collect() })
    }

    /// Takes a grant back. Leases that rest on it end at once.
    ///
    /// # Errors
    /// One that there is not, or of a key that is not the caller's: in the same words.
    pub async fn revoke_key_grant(
        &self,
        caller: &Caller,
        request: DeleteRequest,
    ) -> Result<WriteResponse, Refusal> {
        let service = self.service_of_keys()?;
        let DeleteRequest { name: id, idempotency_key } = request;
        let own = DeleteRequest { name: id.clone(), idempotency_key: String::new() };
        let idempotency = idempotency(caller, "RevokeKeyGrant", &idempotency_key, &own)?;
        let key = {
            let (state, rights) = self.reader(caller)?;
            of_grant(&state, &rights, &id).ok()
        };
        let title = Title {
            actor: Self::actor(caller),
            change: "revoke-grant",
            key: key.as_ref().map(|record| record.name().to_owned()).unwrap_or_default(),
            key_id: key.map(|record| Bytes::copy_from_slice(record.id())).unwrap_or_default(),
            version: 0,
        };
        let commit = async {
            let written = self
                .write(caller, idempotency, move |state, rights| {
                    of_grant(state, rights, &id)?;
                    Ok((vec![RecordChange::Remove(records::key_grant_key(&id))], id.clone()))
                })
                .await?;
            Ok((written.revision, written.revision))
        };
        let revision = service.recorded(title, commit).await?;
        Ok(WriteResponse { revision })
    }

    fn key_response(&self, written: &Written) -> Result<KeyResponse, Refusal> {
        let state = self.registry.state();
        let key = state.key(&written.name).map(|record| to_wire(&state, record));
        Ok(KeyResponse { key, revision: written.revision })
    }
}

fn of_grant(state: &State, rights: &Rights, id: &str) -> Result<Arc<KeyRecord>, Refusal> {
    let key = state.key_grant(id).and_then(|grant| <[u8; 16]>::try_from(grant.key.as_ref()).ok());
    let key = key.and_then(|key| state.key_of_id(&key)).filter(|record| rights.of_key(record).is_ok());
    key.cloned().ok_or_else(|| {
        Refusal::not_found("kms.grant-unknown", "there is no such grant")
            .hint("`bonafide key grants` shows those that you may see")
    })
}

fn to_type(name: &str) -> Result<KeyType, Refusal> {
    if name.is_empty() {
        return Ok(KeyType::default());
    }
    KeyType::from_name(name).ok_or_else(|| {
        let all: Vec<_> = KeyType::ALL.iter().map(|key_type| key_type.as_str()).collect();
        let short: String = name.chars().take(40).collect();
        Refusal::invalid("kms.key-type", format!("there is no type of keys `{short}`"))
            .hint(format!("one of {}", all.join(", ")))
    })
}

/// A new key as it is described: what is not said is the default. If there is one of that name, it stands for how that shall be.
pub(super) fn to_described(key: &wire::Key, id: KeyId, now: UnixTime) -> Result<KeyRecord, Refusal> {
    let settings = key.settings.clone().unwrap_or_default();
    // Versions come and go by themselves: they are nobody's to describe.
    let settings = wire::KeySettings { primary: None, min_encrypt: None, min_decrypt: None, ..settings };
    let new = NewKey {
        name: key.name.clone(),
        key_type: to_type(&key.r#type)?,
        flags: Flags { exportable: key.exportable, convergent: key.convergent, external: key.external },
        settings: to_settings(settings, Ceilings::DEFAULT)?,
        aliases: key.aliases.clone(),
        management_labels: to_management_labels(&key.management_labels)?,
    };
    new.record(id, false, now)
}

/// A key as it would be described.
pub(super) fn described(record: &KeyRecord) -> wire::Key {
    wire::Key { versions: Vec::new(), ..wire_key(record, &BTreeMap::new()) }
}

fn to_secret(material: &Bytes) -> Option<Secret> {
    (!material.is_empty()).then(|| Erased::new(material.to_vec()))
}

fn to_change(wanted: Wanted, ceilings: Ceilings, now: i64) -> Result<(Change, Option<Secret>), Refusal> {
    let target = |version: u32| if version == 0 { Target::Key } else { Target::Version(version) };
    let change = match wanted {
        Wanted::Rotate(rotate) => {
            let secret = to_secret(&rotate.material);
            return Ok((Change::Rotate { imported: secret.is_some() }, secret));
        }
        Wanted::Configure(settings) => Change::Configure(to_settings(settings, ceilings)?),
        Wanted::Disable(of) => Change::Disable(target(of.version)),
        Wanted::Enable(of) => Change::Enable(target(of.version)),
        Wanted::Destroy(of) => {
            let grace = if of.grace == 0 { GRACE } else { of.grace };
            Change::ScheduleDestruction { target: target(of.version), at: now.saturating_add(grace.into()) }
        }
        Wanted::Restore(of) => Change::CancelDestruction(target(of.version)),
        Wanted::Trim(below) => Change::Trim(below),
        Wanted::AddAlias(alias) => Change::AddAlias(alias),
        Wanted::RemoveAlias(alias) => Change::RemoveAlias(alias),
    };
    Ok((change, None))
}

/// `ceilings`: what stays of them where only some are set.
fn to_settings(settings: wire::KeySettings, ceilings: Ceilings) -> Result<Settings, Refusal> {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let local = settings.local.map(|name| {
        Local::from_name(&name)
            .ok_or_else(|| Refusal::invalid("kms.key-local", "`local` is `process`, `agent` or `never`"))
    });
    let set = settings.max_age.is_some() || settings.max_messages.is_some() || settings.max_bytes.is_some();
    let ceilings = set.then(|| Ceilings {
        age: settings.max_age.map_or(ceilings.age, seconds),
        messages: settings.max_messages.unwrap_or(ceilings.messages),
        bytes: settings.max_bytes.unwrap_or(ceilings.bytes),
    });
    Ok(Settings {
        primary: settings.primary,
        min_encrypt: settings.min_encrypt,
        min_decrypt: settings.min_decrypt,
        rotation: settings.rotation.map(|period| (period != 0).then(|| seconds(period))),
        local: local.transpose()?,
        max_stale: settings.max_stale.map(seconds),
        ceilings,
        audit_sync: settings.audit_sync,
        sites: settings.sites.map(|sites| sites.values.into_iter().collect()),
        labels: settings.labels.map(|labels| labels.values),
    })
}

/// For admins.
fn to_wire(state: &State, record: &KeyRecord) -> wire::Key {
    let publics = state.key_versions(record.id());
    wire_key(record, &publics.map(|version| (version.number, version.public_key.clone())).collect())
}

fn wire_key(record: &KeyRecord, publics: &BTreeMap<u32, Bytes>) -> wire::Key {
    let key = &record.key;
    let at = |state: KeyState| match state {
        KeyState::DestroyScheduled(at) => at,
        _ => 0,
    };
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let versions = key.versions.iter().map(|(number, version)| wire::KeyVersion {
        number: *number,
        state: version.state.as_str().to_owned(),
        destroy_at: at(version.state),
        created_at: version.created,
        imported: version.imported,
        public_key: publics.get(number).cloned().unwrap_or_default(),
    });
    wire::Key {
        id: Bytes::copy_from_slice(record.id()),
        name: key.name.clone(),
        aliases: key.aliases.iter().cloned().collect(),
        r#type: key.key_type.as_str().to_owned(),
        created_at: key.birth.at,
        exportable: key.birth.exportable,
        convergent: key.birth.convergent,
        state: key.state.as_str().to_owned(),
        destroy_at: at(key.state),
        versions: versions.collect(),
        primary: key.primary,
        min_encrypt: key.min_encrypt,
        min_decrypt: key.min_decrypt,
        trimmed: key.trimmed,
        next_rotation: key.next_rotation.unwrap_or_default(),
        settings: Some(wire::KeySettings {
            primary: Some(key.primary),
            min_encrypt: Some(key.min_encrypt),
            min_decrypt: Some(key.min_decrypt),
            rotation: Some(key.rotation.map_or(0, seconds)),
            local: Some(key.local.as_str().to_owned()),
            max_stale: Some(seconds(key.max_stale)),
            max_age: Some(seconds(key.ceilings.age)),
            max_messages: Some(key.ceilings.messages),
            max_bytes: Some(key.ceilings.bytes),
            audit_sync: Some(key.audit_sync),
            sites: Some(wire::StringSet { values: key.sites.iter().cloned().collect() }),
            labels: Some(wire::StringMap { values: key.labels.clone() }),
        }),
        management_labels: record.management_labels.clone(),
        revision: record.revision,
        external: key.birth.external,
    }
}

fn from_grant(state: &State, grant: &KeyGrant) -> wire::KeyGrant {
    let key = <[u8; 16]>::try_from(grant.key.as_ref()).ok().and_then(|key| state.key_of_id(&key));
    wire::KeyGrant {
        id: grant.id.clone(),
        key: key.map(|record| record.name().to_owned()).unwrap_or_default(),
        spiffe_id: grant.grantee.clone(),
        operations: grant.operations.clone(),
        context: grant.context.clone(),
        expires_at: grant.expires_at,
        granted_by: grant.granted_by.clone(),
        granted_at: grant.granted_at,
    }
}
