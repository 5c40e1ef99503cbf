//! A small part of OPA's data API, for clients that have it already: `POST /v1/data/bonafide/allow` and
//! `/v1/data/bonafide/decision`, whose `input` is a question. Other paths are undefined, as in OPA.

use std::collections::BTreeMap;

use axum::{
    Extension, Router,
    body::Bytes,
    extract::Path,
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bonafide_wire::agent::Question;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Api, authorize::Way, authzen, json::Refused};
use crate::{peer::Peer, refusal::Refusal};

/// Its routes.
pub(super) fn routes() -> Router {
    Router::new().route("/v1/data/{*path}", post(data)).route("/health", get(health))
}

/// `input`. Names are those of [`Question`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Input {
    spiffe_id: String,
    /// Base64 of DER, leaf first.
    chain: Vec<String>,
    action: String,
    path: String,
    host: String,
    key: String,
    service: String,
    algorithm: String,
    source: String,
    caller_props: BTreeMap<String, String>,
    props: BTreeMap<String, String>,
    aad: BTreeMap<String, String>,
    context: BTreeMap<String, String>,
}

impl Input {
    /// # Errors
    /// A chain that is not in base64.
    pub(super) fn question(self) -> Result<Question, Refusal> {
        let unfit = || Refusal::invalid("request.chain", "`chain` is no list of certificates in base64");
        let der = |text: &String| authzen::from_base64(text).map(bytes::Bytes::from).ok_or_else(unfit);
        Ok(Question {
            chain: self.chain.iter().map(der).collect::<Result<_, _>>()?,
            spiffe_id: self.spiffe_id,
            action: self.action,
            path: self.path,
            host: self.host,
            key: self.key,
            service: self.service,
            algorithm: self.algorithm,
            source: self.source,
            caller_props: self.caller_props,
            props: self.props,
            aad: self.aad,
            context: self.context,
        })
    }
}

async fn data(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let mut request = authzen::object(&headers, &body)?;
    let guarded = api.guarded(&peer).await?;
    if !matches!(path.as_str(), "bonafide/allow" | "bonafide/decision") {
        return Ok(axum::Json(json!({})).into_response());
    }
    let input = request.remove("input").unwrap_or(Value::Null);
    let input: Input = serde_json::from_value(input)
        .map_err(|error| Refusal::invalid("request.json", format!("`input`: {error}")))?;
    let decision = api.decide(&guarded, &input.question()?, Way::of("opa"))?;
    let result = if path == "bonafide/allow" {
        Value::Bool(decision.allowed)
    } else {
        super::json::decision(&decision)
    };
    Ok(axum::Json(json!({ "result": result, "decision_id": decision.id })).into_response())
}

async fn health() -> Response {
    axum::Json(json!({})).into_response()
}
