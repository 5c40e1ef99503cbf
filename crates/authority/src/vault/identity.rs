//! Who calls; logins and tokens; and what clients ask a server of itself.

use bonafide_identity::TrustDomain;
use bonafide_identity::time::UnixTime;
use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};

use super::answer::Answer;
use super::token::{Bearer, Holder, LIFETIME, Token};
use super::{Call, Vault};
use crate::kms::callers::{Caller, Callers};
use crate::refusal::Refusal;

/// What a server calls itself: clients tell features by it.
const VERSION: &str = "2.0.0+bonafide";

/// Whoever the certificate says, with a token of his or with none; without a certificate, whoever the token is of.
///
/// # Errors
/// No SVID of a workload; a token of somebody else, or one that has ended.
pub(super) fn caller(vault: &Vault, parts: &Parts) -> Result<(Caller, Option<Token>), Refusal> {
    let vault = &vault.0;
    let now = vault.clock.now();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = || header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let text = header("x-vault-token").or_else(bearer).filter(|token| !token.is_empty());
    if !Callers::has_shown(&parts.extensions)
        && let Some(checked) = text.and_then(|text| vault.tokens.check_bearer(text, now))
    {
        let (Bearer { id, instance, issued_at }, token) = checked?;
        let caller =
            vault.callers.bearer(id, Some(instance), issued_at, token.expires_at, &parts.extensions)?;
        return Ok((caller, Some(token)));
    }
    let caller = vault.callers.of(&parts.extensions, None)?;
    let token = text.map(|text| vault.tokens.check(text, &Holder::of(&caller), now)).transpose()?;
    Ok((caller, token))
}

impl Call<'_> {
    /// See [`caller`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn caller(&self) -> Result<(Caller, Option<Token>), Refusal> {
        match &self.known {
            Some(known) => Ok(known.clone()),
            None => caller(self.vault, self.parts),
        }
    }
}

/// `auth/cert/login`.
pub(super) fn login(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vault = &call.vault.0;
    // A token that has ended must not keep anybody from getting the next.
    let caller = vault.callers.of(&call.parts.extensions, None)?;
    let now = vault.clock.now();
    let made = vault.tokens.make(&Holder::of(&caller), caller.expires_at(), vault.random.array(), now);
    Ok(logged_in(&caller, made, now))
}

/// `auth/jwt/login`: with a JWT-SVID whose audience is [`audience`]. It is a word that whoever hears it can repeat, so what it
/// gives lives for five minutes at most.
pub(super) fn login_by_jwt(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vault = &call.vault.0;
    let missing = || Refusal::invalid("vault.field", "missing token: `jwt` is the JWT-SVID");
    let text = call.fields.text("jwt")?.ok_or_else(missing)?;
    let now = vault.clock.now();
    let caller = vault.callers.by_jwt(text, &audience(&vault.trust_domain), &call.parts.extensions)?;
    let instance = caller.instance().ok_or_else(missing)?;
    let bearer = Bearer { id: caller.id().clone(), instance, issued_at: caller.issued_at() };
    let made = vault.tokens.make_bearer(&bearer, caller.expires_at(), vault.random.array(), now);
    Ok(logged_in(&caller, made, now))
}

/// What a JWT-SVID must be for, so that one that was meant for somebody else is of no use here.
fn audience(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}/bonafide/authority")
}

fn logged_in(caller: &Caller, (text, token): (String, Token), now: UnixTime) -> Answer {
    Answer::Auth(json!({
        "client_token": text,
        "accessor": "",
        "policies": ["default"],
        "token_policies": ["default"],
        "metadata": facts(caller),
        "lease_duration": token.expires_at.as_secs().saturating_sub(now.as_secs()),
        "renewable": false,
        "entity_id": caller.id().to_string(),
        "token_type": "batch",
        "orphan": true,
        "mfa_requirement": null,
        "num_uses": 0,
    }))
}

/// `auth/token/lookup-self`.
pub(super) fn lookup(call: &Call<'_>) -> Result<Answer, Refusal> {
    let (caller, token) = call.caller()?;
    let now = call.vault.0.clock.now();
    let end = token.map_or(caller.expires_at(), |token| token.expires_at).as_secs();
    Ok(Answer::Data(json!({
        "accessor": "",
        "creation_ttl": LIFETIME,
        "display_name": caller.id().to_string(),
        "entity_id": caller.id().to_string(),
        "expire_time": timestamp(end),
        "explicit_max_ttl": 0,
        "id": "",
        "meta": facts(&caller),
        "num_uses": 0,
        "orphan": true,
        "path": "auth/cert/login",
        "policies": ["default"],
        "renewable": false,
        "ttl": end.saturating_sub(now.as_secs()),
        "type": "batch",
    })))
}

/// `auth/token/revoke-self`.
pub(super) fn revoke(call: &Call<'_>) -> Result<Answer, Refusal> {
    let (_, token) = call.caller()?;
    if let Some(token) = token {
        call.vault.0.tokens.revoke(token, call.vault.0.clock.now());
    }
    Ok(Answer::Status(StatusCode::NO_CONTENT))
}

fn facts(caller: &Caller) -> Value {
    let instance = caller.instance().map(|instance| instance.to_string());
    json!({ "spiffe_id": caller.id().to_string(), "site": caller.site(), "instance": instance })
}

/// `sys/…`: what clients ask before anything else.
pub(super) fn system(call: &Call<'_>, path: &[&str]) -> Result<Answer, Refusal> {
    let vault = &call.vault.0;
    match path {
        ["health"] => Ok(Answer::Bare(json!({
            "initialized": true, "sealed": false, "standby": false,
            "replication_performance_mode": "disabled", "replication_dr_mode": "disabled",
            "server_time_utc": vault.clock.now().as_secs(), "version": VERSION,
            "cluster_name": vault.server, "cluster_id": vault.server,
        }))),
        ["seal-status"] => Ok(Answer::Bare(json!({
            "type": "bonafide", "initialized": true, "sealed": false, "t": 1, "n": 1, "progress": 0, "nonce": "",
            "version": VERSION, "build_date": "", "migration": false, "cluster_name": vault.server,
            "cluster_id": vault.server, "recovery_seal": false, "storage_type": "log",
        }))),
        ["leader"] => Ok(Answer::Bare(json!({ "ha_enabled": false }))),
        ["internal", "ui", "mounts", "transit", ..] => {
            call.caller()?;
            Ok(Answer::Data(json!({
                "path": "transit/", "type": "transit", "description": "", "options": {}, "local": false,
                "seal_wrap": false, "accessor": "transit", "uuid": "",
                "config": { "default_lease_ttl": 0, "force_no_cache": false, "max_lease_ttl": 0 },
            })))
        }
        _ => Err(Refusal::not_found("vault.path", "unsupported path")
            .hint("of `sys/`, health, seal-status and leader are served")),
    }
}

/// RFC 3339, in UTC.
pub(super) fn timestamp(seconds: i64) -> String {
    UnixTime::from_secs(seconds).to_string()
}
