//! AuthZEN Authorization API 1.0: `evaluation`, `evaluations` and discovery, as JSON.
//!
//! | AuthZEN | question |
//! |---|---|
//! | `subject.id` | the caller's SPIFFE ID; `subject.type` is not looked at |
//! | `subject.properties` | properties of the caller; in place of its labels, `x509_svid` shows its chain (base64 of DER, leaf first) |
//! | `action.name` | the action |
//! | `resource` of type `path`, `key`, `host`, `service` | its `id` is that |
//! | `resource` of any other type | the path `/TYPE/ID` |
//! | `resource.properties`, `context` | properties of the thing, and of the circumstances |
//!
//! Properties that are no texts are the JSON of what they are. An `id` with characters that mean something in a path is denied
//! where it would become a part of one.

use std::collections::BTreeMap;

use axum::{
    Extension, Router,
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64ct::{Base64Unpadded, Encoding as _};
use bonafide_wire::agent::{Decision, Question};
use serde_json::{Map, Value, json};

use super::{
    Api,
    authorize::{Guarded, MAX_QUESTIONS, Way},
    json::Refused,
};
use crate::{peer::Peer, refusal::Refusal};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Its routes.
pub(super) fn routes() -> Router {
    Router::new()
        .route("/.well-known/authzen-configuration", get(configuration))
        .route("/access/v1/evaluation", post(evaluation))
        .route("/access/v1/evaluations", post(evaluations))
}

/// When to stop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Semantic {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

async fn evaluation(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let request = object(&headers, &body)?;
    let guarded = api.guarded(&peer).await?;
    let question = question(&request, &Map::new())?;
    Ok(answered(&headers, &answer(&api, &guarded, &question)?))
}

async fn evaluations(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let request = object(&headers, &body)?;
    let guarded = api.guarded(&peer).await?;
    let Some(evaluations) = request.get("evaluations") else {
        let question = question(&request, &Map::new())?;
        return Ok(answered(&headers, &answer(&api, &guarded, &question)?));
    };
    let evaluations = evaluations.as_array().ok_or_else(|| wrong("`evaluations` is no list"))?;
    if evaluations.is_empty() {
        let question = question(&request, &Map::new())?;
        return Ok(answered(&headers, &answer(&api, &guarded, &question)?));
    }
    if evaluations.len() > MAX_QUESTIONS {
        return Err(Refusal::too_many("evaluations of one request", MAX_QUESTIONS).into());
    }
    let semantic = match request.get("options").and_then(|options| options.get("evaluations_semantic")) {
        None => Semantic::ExecuteAll,
        Some(semantic) => match semantic.as_str() {
            Some("execute_all") => Semantic::ExecuteAll,
            Some("deny_on_first_deny") => Semantic::DenyOnFirstDeny,
            Some("permit_on_first_permit") => Semantic::PermitOnFirstPermit,
            _ => return Err(wrong("`evaluations_semantic` is none that is known").into()),
        },
    };
    let mut answers = Vec::with_capacity(evaluations.len());
    for evaluation in evaluations {
        let own = evaluation.as_object().ok_or_else(|| wrong("an evaluation is no object"))?;
        let question = question(own, &request)?;
        let answer = answer(&api, &guarded, &question)?;
        let allowed = answer.get("decision") == Some(&Value::Bool(true));
        answers.push(answer);
        match semantic {
            Semantic::DenyOnFirstDeny if !allowed => break,
            Semantic::PermitOnFirstPermit if allowed => break,
            _ => {}
        }
    }
    Ok(answered(&headers, &json!({ "evaluations": answers })))
}

async fn configuration(headers: HeaderMap) -> Result<Response, Refused> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    if host.len() > 255 || !host.bytes().all(named) {
        return Err(wrong("the request has no host").into());
    }
    let base = format!("https://{host}");
    Ok(answered(
        &headers,
        &json!({
            "policy_decision_point": base,
            "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
            "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        }),
    ))
}

/// The body, which must be an object and say that it is JSON.
pub(super) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return Err(wrong("the `Content-Type` is not `application/json`"));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(wrong("the body is no object")),
        Err(error) => Err(Refusal::invalid("request.json", format!("the body is no JSON: {error}"))),
    }
}

/// One evaluation; what it does not say is as in `defaults`.
fn question(own: &Map<String, Value>, defaults: &Map<String, Value>) -> Result<Question, Refusal> {
    let part = |name: &str| own.get(name).or_else(|| defaults.get(name));
    let needed = |name: &str| {
        let object = part(name).and_then(Value::as_object);
        object.ok_or_else(|| wrong(format!("`{name}` is missing, or no object")))
    };
    let (subject, action, resource) = (needed("subject")?, needed("action")?, needed("resource")?);
    text(subject, "subject", "type")?;
    let (kind, id) = (text(resource, "resource", "type")?, text(resource, "resource", "id")?);
    let mut caller_props = properties(subject.get("properties"), "subject.properties")?;
    caller_props.remove("x509_svid");
    let mut question = Question {
        chain: chain(subject)?,
        spiffe_id: text(subject, "subject", "id")?.to_owned(),
        action: text(action, "action", "name")?.to_owned(),
        caller_props,
        props: properties(resource.get("properties"), "resource.properties")?,
        context: properties(part("context"), "context")?,
        ..Question::default()
    };
    match kind {
        "path" => question.path = id.to_owned(),
        "key" => question.key = id.to_owned(),
        "host" => question.host = id.to_owned(),
        "service" => question.service = id.to_owned(),
        kind if [kind, id].iter().all(|part| is_segment(part)) => question.path = format!("/{kind}/{id}"),
        // No path that could be allowed.
        _ => question.path = "..".to_owned(),
    }
    Ok(question)
}

fn answer(api: &Api, guarded: &Guarded, question: &Question) -> Result<Value, Refusal> {
    let decision = match api.decide(guarded, question, Way::of("authzen")) {
        Ok(decision) => decision,
        // A subject that is no workload is nobody whom a rule could name.
        Err(refusal) if refusal.code() == "request.spiffe-id" => Decision {
            code: refusal.code().to_owned(),
            reason: refusal.message().to_owned(),
            ..Decision::default()
        },
        Err(refusal) => return Err(refusal),
    };
    Ok(json!({
        "decision": decision.allowed,
        "context": {
            "id": decision.id,
            "reason_admin": {
                "en": decision.reason,
                "code": decision.code,
                "policy": decision.policy,
                "rule": decision.rule,
                "digest": decision.digest,
                "revision": decision.revision,
                "would": decision.would,
            },
            "reason_user": { "en": if decision.allowed { "allowed" } else { "denied" } },
        },
    }))
}

fn answered(headers: &HeaderMap, body: &Value) -> Response {
    let mut response = (StatusCode::OK, axum::Json(body)).into_response();
    if let Some(id) = headers.get(&REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, HeaderValue::clone(id));
    }
    response
}

fn text<'a>(object: &'a Map<String, Value>, of: &str, name: &str) -> Result<&'a str, Refusal> {
    let text = object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or_else(|| wrong(format!("`{of}.{name}` is missing, or no text")))
}

fn properties(value: Option<&Value>, name: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let Some(value) = value else { return Ok(BTreeMap::new()) };
    let object = value.as_object().ok_or_else(|| wrong(format!("`{name}` is no object")))?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    Ok(object.iter().map(|(key, value)| (key.clone(), text(value))).collect())
}

fn chain(subject: &Map<String, Value>) -> Result<Vec<bytes::Bytes>, Refusal> {
    let Some(chain) = subject.get("properties").and_then(|properties| properties.get("x509_svid")) else {
        return Ok(Vec::new());
    };
    let unfit = || wrong("`subject.properties.x509_svid` is no list of certificates in base64");
    let one = |each: &Value| {
        let der = each.as_str().and_then(from_base64).ok_or_else(unfit)?;
        Ok(bytes::Bytes::from(der))
    };
    chain.as_array().ok_or_else(unfit)?.iter().map(one).collect()
}

/// Whether it is the same to every reader of paths.
fn is_segment(part: &str) -> bool {
    !part.contains(['/', '?', '#', '%', '\\', ';']) && part != "." && part != ".."
}

/// Standard base64 of certificates; with padding or without.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    Base64Unpadded::decode_vec(text.trim_end_matches('=')).ok()
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::invalid("request.authzen", message)
}
