//! `transit/keys`: keys as Vault's clients make, read and change them.

use std::fmt::Write as _;

use base64ct::{Base64, Encoding as _};
use bonafide_kms::algorithm::{KeyType, Operation};
use bonafide_wire::admin::{
    self as wire, ChangeKeyRequest, CreateKeyRequest, DestroyKey, KeySettings, KeyTarget, ListKeysRequest,
    RotateKey, StringSet, change_key_request::Change,
};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::Call;
use super::answer::Answer;
use super::identity::timestamp;
use crate::admin::Caller;
use crate::refusal::Refusal;

/// Keys of one page of a list.
const PAGE: u32 = 500;

/// `LIST transit/keys`.
pub(super) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let caller = admin(call, "ListKeys")?;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListKeysRequest { name: String::new(), page_size: PAGE, page_token };
        let page = call.vault.0.admin.list_keys(&caller, &request)?;
        names.extend(page.keys.into_iter().map(|key| key.name));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    if names.is_empty() {
        return Ok(Answer::Status(StatusCode::NOT_FOUND));
    }
    Ok(Answer::Data(json!({ "keys": names })))
}

/// `GET transit/keys/NAME`.
pub(super) fn read(call: &Call<'_>, name: &str) -> Result<Answer, Refusal> {
    let caller = admin(call, "ListKeys")?;
    find(call, &caller, name)?.map(|key| Answer::Data(shown(&key))).ok_or_else(|| unknown(name))
}

/// `POST transit/keys/NAME`: as Vault has it, a key that is there already stays as it is.
pub(super) async fn create(call: &Call<'_>, name: &str) -> Result<Answer, Refusal> {
    let caller = admin(call, "CreateKey")?;
    let fields = &call.fields;
    let (key_type, convergent) = (key_type(fields.text("type")?), fields.flag("convergent_encryption")?);
    let refused = ["allow_plaintext_backup"].into_iter().find(|name| fields.flag(name).unwrap_or(true));
    if let Some(field) = refused {
        return Err(Refusal::invalid("vault.unsupported", format!("`{field}` is not supported"))
            .hint("back up the store and the seal of the authority"));
    }
    if let Some(key) = find(call, &caller, name)? {
        return Ok(Answer::Data(shown(&key)));
    }
    let sites = call.vault.0.admin.own_sites(&caller)?;
    let settings = KeySettings {
        rotation: fields.seconds("auto_rotate_period")?,
        sites: (!sites.is_empty()).then_some(StringSet { values: sites }),
        ..KeySettings::default()
    };
    let request = CreateKeyRequest {
        name: name.to_owned(),
        r#type: key_type,
        exportable: fields.flag("exportable")?,
        convergent,
        settings: Some(settings),
        ..CreateKeyRequest::default()
    };
    let made = call.vault.0.admin.create_key(&caller, request).await?;
    let shown = shown(&made.key.unwrap_or_default());
    if fields.flag("derived")? && !convergent {
        let warning = "every key here is bound to the context of each call, so `derived` changes nothing";
        return Ok(Answer::Warned(shown, vec![warning]));
    }
    Ok(Answer::Data(shown))
}

/// `POST transit/keys/NAME/config`.
pub(super) async fn configure(call: &Call<'_>, name: &str) -> Result<Answer, Refusal> {
    let fields = &call.fields;
    if fields.flag("exportable")? || fields.flag("allow_plaintext_backup")? {
        return Err(Refusal::invalid(
            "vault.unsupported",
            "what was not declared at a key's birth can't be had later",
        )
        .hint("make another key, with `exportable=true`"));
    }
    let key = find(call, &admin(call, "ListKeys")?, name)?.ok_or_else(|| unknown(name))?;
    let min_decrypt = fields.number("min_decryption_version")?.map(|version| version.max(1));
    // 0: whatever can be decrypted again. So it goes along with the other bound, unless something else is asked for.
    let least = min_decrypt.unwrap_or(key.min_decrypt);
    let min_encrypt = match fields.number("min_encryption_version")? {
        Some(version) if version > 0 => Some(version),
        Some(_) => Some(least),
        // Nothing is written that nobody asked to change: somebody else may be changing it.
        None => min_decrypt.map(|least| least.max(key.min_encrypt)),
    };
    let settings = KeySettings {
        min_decrypt,
        min_encrypt,
        rotation: fields.seconds("auto_rotate_period")?,
        ..KeySettings::default()
    };
    change(call, name, Change::Configure(settings)).await
}

/// `POST transit/keys/NAME/rotate`.
pub(super) async fn rotate(call: &Call<'_>, name: &str) -> Result<Answer, Refusal> {
    change(call, name, Change::Rotate(RotateKey::default())).await
}

/// `POST transit/keys/NAME/trim`.
pub(super) async fn trim(call: &Call<'_>, name: &str) -> Result<Answer, Refusal> {
    let below = call.fields.number("min_available_version")?.ok_or_else(|| {
        Refusal::invalid("vault.field", "missing `min_available_version`")
            .hint("versions below it are destroyed")
    })?;
    change(call, name, Change::Trim(below)).await
}

/// `DELETE transit/keys/NAME`, and `soft-delete`.
pub(super) async fn destroy(call: &Call<'_>, name: &str) -> Result<Answer, Refusal> {
    change(call, name, Change::Destroy(DestroyKey::default())).await?;
    Ok(Answer::Status(StatusCode::NO_CONTENT))
}

/// `POST transit/keys/NAME/soft-delete-restore`.
pub(super) async fn restore(call: &Call<'_>, name: &str) -> Result<Answer, Refusal> {
    let target = || KeyTarget { version: 0 };
    change(call, name, Change::Restore(target())).await?;
    // Restored, a key is disabled at first; whoever asks for it here wants to use it.
    change(call, name, Change::Enable(target())).await?;
    Ok(Answer::Status(StatusCode::NO_CONTENT))
}

async fn change(call: &Call<'_>, name: &str, change: Change) -> Result<Answer, Refusal> {
    let caller = admin(call, "ChangeKey")?;
    let request =
        ChangeKeyRequest { name: name.to_owned(), change: Some(change), ..ChangeKeyRequest::default() };
    let changed = call.vault.0.admin.change_key(&caller, request).await?;
    Ok(Answer::Data(shown(&changed.key.unwrap_or_default())))
}

/// The caller as an admin. A token that is shown must be good, too.
fn admin(call: &Call<'_>, name: &str) -> Result<Caller, Refusal> {
    call.caller()?;
    call.vault.0.admin.admit(&call.parts.extensions, name)
}

fn find(call: &Call<'_>, caller: &Caller, name: &str) -> Result<Option<wire::Key>, Refusal> {
    let request = ListKeysRequest { name: name.to_owned(), ..ListKeysRequest::default() };
    match call.vault.0.admin.list_keys(caller, &request) {
        Ok(found) => Ok(found.keys.into_iter().next()),
        Err(refusal) if refusal.code() == "kms.unknown-key" => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn unknown(name: &str) -> Refusal {
    let short: String = name.chars().take(80).collect();
    Refusal::not_found("kms.unknown-key", format!("there is no key `{short}`"))
}

/// Our name of a type. What is no type is refused where keys are made.
fn key_type(name: Option<&str>) -> String {
    match name.unwrap_or("aes256-gcm96") {
        "aes128-gcm96" => KeyType::Aes128Gcm.as_str(),
        "aes256-gcm96" | "xchacha20-poly1305" => match name {
            Some("xchacha20-poly1305") => KeyType::ChaCha20Poly1305.as_str(),
            _ => KeyType::Aes256Gcm.as_str(),
        },
        "hmac" => KeyType::HmacSha256.as_str(),
        "mldsa-65" => KeyType::MlDsa65.as_str(),
        other => other,
    }
    .to_owned()
}

/// Vault's name of a type.
fn type_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Aes128Gcm => "aes128-gcm96",
        KeyType::Aes256Gcm => "aes256-gcm96",
        KeyType::HmacSha256 => "hmac",
        KeyType::MlDsa65 => "mldsa-65",
        other => other.as_str(),
    }
}

fn shown(key: &wire::Key) -> Value {
    let key_type = KeyType::from_name(&key.r#type).unwrap_or_default();
    let settings = key.settings.clone().unwrap_or_default();
    let mut versions = Map::new();
    for version in &key.versions {
        let gone =
            version.number < key.min_decrypt || version.number < key.trimmed || version.state == "destroyed";
        if gone {
            continue;
        }
        let value = if version.public_key.is_empty() {
            json!(version.created_at)
        } else {
            json!({
                "creation_time": timestamp(version.created_at), "name": key_type.as_str(),
                "public_key": pem(&version.public_key), "certificate_chain": "",
            })
        };
        versions.insert(version.number.to_string(), value);
    }
    let mut shown = json!({
        "name": key.name,
        "type": type_name(key_type),
        "latest_version": key.versions.iter().map(|version| version.number).max(),
        "min_available_version": if key.trimmed > 1 { key.trimmed } else { 0 },
        "min_decryption_version": key.min_decrypt,
        "min_encryption_version": if key.min_encrypt > key.min_decrypt { key.min_encrypt } else { 0 },
        "auto_rotate_period": settings.rotation.unwrap_or_default(),
        "exportable": key.exportable,
        "derived": key.convergent,
        "convergent_encryption": key.convergent,
        "imported_key": key.versions.iter().any(|version| version.imported),
        "allow_plaintext_backup": false,
        "deletion_allowed": true,
        "soft_deleted": key.state == "destroy-scheduled",
        "supports_encryption": key_type.can(Operation::Encrypt),
        "supports_decryption": key_type.can(Operation::Decrypt),
        "supports_derivation": key_type.is_cipher(),
        "supports_signing": key_type.can(Operation::Sign),
    });
    let (name, value) = match key_type {
        KeyType::HmacSha256 => ("key_size", json!(32)),
        KeyType::HmacSha384 => ("key_size", json!(48)),
        KeyType::HmacSha512 => ("key_size", json!(64)),
        _ => ("keys", Value::Object(versions)),
    };
    if let Some(fields) = shown.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
    shown
}

/// RFC 7468.
pub(super) fn pem(spki: &[u8]) -> String {
    let mut out = "-----BEGIN PUBLIC KEY-----\n".to_owned();
    let text = Base64::encode_string(spki);
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII, and writing to a string does not fail.
        let _ = writeln!(out, "{}", String::from_utf8_lossy(line));
    }
    out.push_str("-----END PUBLIC KEY-----\n");
    out
}
