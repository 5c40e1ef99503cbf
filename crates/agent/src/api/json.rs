//! The agent's own service as JSON over HTTP/1.1, for `curl --unix-socket`.
//!
//! Field names are those of protobuf's JSON form. 64-bit integers are numbers, not strings: all of them are
//! seconds, revisions and generations, which every JSON reader can hold.
//!
//! Every request needs the header `workload.spiffe.io: true`, which no browser and no URL fetcher sends by
//! accident.

use axum::{
    Extension, Router,
    extract::{
        Query,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bonafide_identity::{Revocation, Revocations, revocation::Subject, time::UnixTime};
use bonafide_wire::{
    agent::{AgentStatus, AuthorizeRequest, Decision, Explanation, Identity, ListDecisionsRequest, NearMiss},
    types,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Code;

use super::{Api, authzen, opa, opa::Input};
use crate::{peer::Peer, refusal::Refusal};

/// The routes below `/v1`.
pub(crate) fn routes(api: Api) -> Router {
    Router::new()
        .route("/v1/whoami", get(who_am_i))
        .route("/v1/status", get(status))
        .route("/v1/revocations", get(revocations))
        .route("/v1/explain", post(explain))
        .route("/v1/decisions", get(decisions))
        .layer(axum::extract::DefaultBodyLimit::max(4096))
        .merge(decided())
        .merge(super::keys::json::routes())
        .layer(Extension(api))
}

/// What asks for decisions.
fn decided() -> Router {
    Router::new()
        .route("/v1/authorize", post(authorize))
        .merge(authzen::routes())
        .merge(opa::routes())
        .layer(axum::extract::DefaultBodyLimit::max(super::MAX_REQUEST))
}

/// Questions, with the names of their fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorizeBody {
    questions: Vec<Input>,
    #[serde(default)]
    explain: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct DecisionsQuery {
    policy: String,
    rule: String,
    caller: String,
    denied_only: bool,
    would_only: bool,
    limit: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainBody {
    pid: i32,
}

async fn who_am_i(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    check_header(&headers)?;
    Ok(axum::Json(explanation(&api.who_am_i(peer).await?)).into_response())
}

async fn status(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    check_header(&headers)?;
    peer.check_unchanged().await?;
    Ok(axum::Json(agent_status(&api.status())).into_response())
}

async fn revocations(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    check_header(&headers)?;
    peer.check_unchanged().await?;
    Ok(axum::Json(revocation_set(&api.revocations())).into_response())
}

async fn explain(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<axum::Json<ExplainBody>, JsonRejection>,
) -> Result<Response, Refused> {
    check_header(&headers)?;
    let body = body.map_err(|error| Refusal::invalid("request.json", error.body_text()))?;
    Ok(axum::Json(explanation(&api.explain(peer, body.pid).await?)).into_response())
}

async fn authorize(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<axum::Json<AuthorizeBody>, JsonRejection>,
) -> Result<Response, Refused> {
    check_header(&headers)?;
    let axum::Json(body) = body.map_err(|error| Refusal::invalid("request.json", error.body_text()))?;
    let questions = body.questions.into_iter().map(Input::question).collect::<Result<_, _>>()?;
    let answer = api.authorize(peer, &AuthorizeRequest { questions, explain: body.explain }).await?;
    let decisions: Value = answer.decisions.iter().map(decision).collect();
    Ok(axum::Json(json!({ "decisions": decisions })).into_response())
}

async fn decisions(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    query: Result<Query<DecisionsQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    check_header(&headers)?;
    peer.check_unchanged().await?;
    let Query(query) = query.map_err(|error| Refusal::invalid("request.query", error.body_text()))?;
    let DecisionsQuery { policy, rule, caller, denied_only, would_only, limit } = query;
    let request = ListDecisionsRequest { policy, rule, caller, denied_only, would_only, limit };
    let answer = api.decisions(&peer, &request).await?;
    let events: Vec<Value> =
        answer.events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    Ok(axum::Json(json!({ "events": events, "dropped": answer.dropped })).into_response())
}

/// A decision, with the names of its fields.
pub(super) fn decision(decision: &Decision) -> Value {
    json!({
        "allowed": decision.allowed,
        "code": decision.code,
        "reason": decision.reason,
        "policy": decision.policy,
        "rule": decision.rule,
        "digest": decision.digest,
        "revision": decision.revision,
        "id": decision.id,
        "would": decision.would,
        "nearMisses": decision.near_misses,
    })
}

pub(super) fn check_header(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all("workload.spiffe.io").iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Refusal::no_security_header()),
    }
}

pub(super) struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0.status_code() {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::FORBIDDEN,
        };
        (status, axum::Json(problem(&self.0.to_problem()))).into_response()
    }
}

pub(super) fn problem(problem: &types::Problem) -> Value {
    json!({ "code": problem.code, "message": problem.message, "hint": problem.hint })
}

fn selectors(selectors: &[types::Selector]) -> Value {
    selectors.iter().map(|selector| json!({ "key": selector.key, "value": selector.value })).collect()
}

fn revocation_set(set: &Revocations) -> Value {
    let revoked = set.iter().map(|Revocation { subject, issued_before, expires_at }| {
        let (kind, name) = match &subject {
            Subject::Agent(id) => ("agent", id.to_string()),
            Subject::AuthorityKey(key_id) => ("authorityKey", hex(key_id)),
            Subject::Id(id) => ("spiffeId", id.to_string()),
            Subject::Instance(instance) => ("instance", instance.to_string()),
            Subject::Site(site) => ("site", site.to_string()),
        };
        json!({
            kind: name,
            "issuedBefore": issued_before.map_or(0, UnixTime::as_secs),
            "expiresAt": expires_at.as_secs(),
        })
    });
    json!({
        "trustDomain": set.trust_domain().to_string(),
        "revoked": revoked.collect::<Value>(),
        "digest": hex(&set.digest()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn explanation(explanation: &Explanation) -> Value {
    json!({
        "pid": explanation.pid,
        "peerEvidence": explanation.peer_evidence,
        "selectors": selectors(&explanation.selectors),
        "attestorFailures": explanation.attestor_failures,
        "identities": explanation.identities.iter().map(identity).collect::<Value>(),
        "problem": explanation.problem.as_ref().map(problem),
        "nearMisses": explanation.near_misses.iter().map(near_miss).collect::<Value>(),
        "agentId": explanation.agent_id,
        "site": explanation.site,
    })
}

fn identity(identity: &Identity) -> Value {
    json!({
        "spiffeId": identity.spiffe_id,
        "registration": identity.registration,
        "hint": identity.hint,
        "instance": identity.instance,
        "expiresAt": identity.expires_at,
        "renewAfter": identity.renew_after,
        "generation": identity.generation,
        "problem": identity.problem.as_ref().map(problem),
    })
}

fn near_miss(near_miss: &NearMiss) -> Value {
    json!({
        "registration": near_miss.registration,
        "spiffeId": near_miss.spiffe_id,
        "missing": selectors(&near_miss.missing),
    })
}

fn agent_status(status: &AgentStatus) -> Value {
    let evidence = status.peer_evidence.iter();
    json!({
        "agentId": status.agent_id,
        "trustDomain": status.trust_domain,
        "site": status.site,
        "connected": status.connected,
        "problem": status.problem.as_ref().map(problem),
        "revision": status.revision,
        "registrations": status.registrations,
        "instances": status.instances,
        "pooled": status.pooled,
        "agentSvidExpiresAt": status.agent_svid_expires_at,
        "version": status.version,
        "peerEvidence": evidence
            .map(|each| json!({ "name": each.name, "available": each.available }))
            .collect::<Value>(),
    })
}
