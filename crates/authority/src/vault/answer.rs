//! Answers in Vault's shapes.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};
use tonic::Code;

use crate::refusal::Refusal;

/// What is answered.
pub(super) enum Answer {
    /// `data`.
    Data(Value),
    /// `data` with things that the caller should know.
    Warned(Value, Vec<&'static str>),
    /// Results of a batch, under the status that the caller wants if one of them failed.
    Batch(Vec<Value>, StatusCode),
    /// `auth`.
    Auth(Value),
    /// A document of its own.
    Bare(Value),
    /// Nothing to say.
    Status(StatusCode),
    /// No.
    Refused(Refusal),
}

/// An answer, and the ID of its request.
pub(super) struct Reply {
    pub(super) id: String,
    pub(super) answer: Answer,
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let whole = |data: Value, auth: Value, warnings: Value| {
            let mut whole = json!({
                "request_id": self.id, "lease_id": "", "renewable": false, "lease_duration": 0,
                "wrap_info": null, "warnings": warnings, "auth": auth,
            });
            // Moved: it may be long.
            if let Some(whole) = whole.as_object_mut() {
                whole.insert("data".to_owned(), data);
            }
            Json(whole)
        };
        match self.answer {
            Answer::Data(data) => whole(data, Value::Null, Value::Null).into_response(),
            Answer::Warned(data, warnings) => whole(data, Value::Null, json!(warnings)).into_response(),
            Answer::Batch(results, status) => {
                let results = Map::from_iter([("batch_results".to_owned(), Value::Array(results))]);
                (status, whole(Value::Object(results), Value::Null, Value::Null)).into_response()
            }
            Answer::Auth(auth) => whole(Value::Null, auth, Value::Null).into_response(),
            Answer::Bare(value) => Json(value).into_response(),
            Answer::Status(status) => status.into_response(),
            Answer::Refused(refusal) => {
                (status(&refusal), Json(json!({ "errors": [said(&refusal)] }))).into_response()
            }
        }
    }
}

/// As one line: what, which code, what to do.
pub(super) fn said(refusal: &Refusal) -> String {
    let (message, code, hint) = (refusal.message(), refusal.code(), refusal.hint_text());
    if hint.is_empty() { format!("{message} [{code}]") } else { format!("{message} [{code}]; {hint}") }
}

/// Vault's class of an error.
pub(super) fn status(refusal: &Refusal) -> StatusCode {
    match refusal.kind() {
        Code::PermissionDenied | Code::Unauthenticated => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable | Code::DeadlineExceeded => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal | Code::DataLoss | Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}
