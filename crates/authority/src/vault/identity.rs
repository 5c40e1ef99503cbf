//! Who calls; logins and tokens; and what clients ask a server of itself.

use bonafide_identity::time::UnixTime;
use http::StatusCode;
use serde_json::{Value, json};

use super::Call;
use super::answer::Answer;
use super::token::{Holder, LIFETIME, Token};
use crate::kms::callers::Caller;
use crate::refusal::Refusal;

/// What a server calls itself: clients tell features by it.
const VERSION: &str = "2.0.0+bonafide";

impl Call<'_> {
    /// Whoever the certificate says, with a token of his or with none.
    ///
    /// # Errors
    /// No SVID of a workload; a token of somebody else, or one that has ended.
    pub(super) fn caller(&self) -> Result<(Caller, Option<Token>), Refusal> {
        let vault = &self.vault.0;
        let caller = vault.callers.of(&self.parts.extensions, None)?;
        let header = |name: &str| self.parts.headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = || header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let token = match header("x-vault-token").or_else(bearer).filter(|token| !token.is_empty()) {
            Some(token) => Some(vault.tokens.check(token, &Holder::of(&caller), vault.clock.now())?),
            None => None,
        };
        Ok((caller, token))
    }
}

/// `auth/cert/login`.
pub(super) fn login(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vault = &call.vault.0;
    // A token that has ended must not keep anybody from getting the next.
    let caller = vault.callers.of(&call.parts.extensions, None)?;
    let now = vault.clock.now();
    let (text, token) =
        vault.tokens.make(&Holder::of(&caller), caller.expires_at(), vault.random.array(), now);
    Ok(Answer::Auth(json!({
        "client_token": text,
        "accessor": "",
        "policies": ["default"],
        "token_policies": ["default"],
        "metadata": facts(&caller),
        "lease_duration": token.expires_at.as_secs().saturating_sub(now.as_secs()),
        "renewable": false,
        "entity_id": caller.id().to_string(),
        "token_type": "batch",
        "orphan": true,
        "mfa_requirement": null,
        "num_uses": 0,
    })))
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
