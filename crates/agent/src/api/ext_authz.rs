//! Envoy's external authorization (v3): a request of Envoy is a question, and Envoy is the guarded program.
//!
//! Envoy tells who its peer is: the principal (of a listener with mutual TLS), and, with `include_peer_certificate`, the
//! peer's leaf, whose labels count then. A request without a principal is denied.

use std::collections::BTreeMap;

use bonafide_wire::{
    agent::{Decision, Question},
    external_auth::{
        AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption,
        HttpStatus, OkHttpResponse, Status as Verdict, authorization_server::Authorization,
        check_response::HttpResponse,
    },
};
use prost_types::{Struct, Value, value::Kind};
use tonic::{Code, Request, Response, Status};

use super::{Api, authorize::Way, peer_of};
use crate::refusal::Refusal;

/// Largest question of a proxy, which has all headers in it: more than a proxy lets in.
pub(crate) const MAX_CHECK: usize = 512 * 1024;
/// Longest certificate, percent-encoded.
const MAX_CERTIFICATE: usize = 48 * 1024;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct ExtAuthzService(pub(crate) Api);

#[tonic::async_trait]
impl Authorization for ExtAuthzService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let peer = peer_of(&request)?;
        let guarded = self.0.guarded(&peer).await?;
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let answer = question(attributes).and_then(|(question, leaf)| {
            let way = Way { leaf: &leaf, is_http: true, ..Way::of("ext_authz") };
            self.0.decide(&guarded, &question, way)
        });
        // An error would be the proxy's to judge, and it may let requests pass then: whatever a caller sends, it is denied.
        let answer = answer.unwrap_or_else(|refusal| Decision {
            code: refusal.code().to_owned(),
            reason: refusal.message().to_owned(),
            ..Decision::default()
        });
        Ok(Response::new(response(&answer)))
    }
}

/// What Envoy asks, and the leaf that it shows.
fn question(attributes: AttributeContext) -> Result<(Question, Vec<u8>), Refusal> {
    let source = attributes.source.unwrap_or_default();
    let http = attributes.request.and_then(|request| request.http).unwrap_or_default();
    if source.principal.is_empty() {
        let message = "the proxy names no principal, so nobody knows who the caller is";
        return Err(Refusal::undecided("policy.no-caller", message));
    }
    let address = source.address.and_then(|address| address.socket_address).unwrap_or_default().address;
    // The address of a Unix socket's peer is none that a policy could name.
    let address = if address.parse::<std::net::IpAddr>().is_ok() { address } else { String::new() };
    let leaf = if source.certificate.is_empty() { Vec::new() } else { leaf(&source.certificate)? };
    let question = Question {
        spiffe_id: source.principal,
        action: http.method,
        path: http.path,
        host: http.host,
        source: address,
        props: attributes.context_extensions,
        ..Question::default()
    };
    Ok((question, leaf))
}

/// The certificate in percent-encoded PEM.
fn leaf(text: &str) -> Result<Vec<u8>, Refusal> {
    let unfit = || Refusal::undecided("policy.caller-unverified", "the proxy shows no certificate in PEM");
    if text.len() > MAX_CERTIFICATE {
        return Err(unfit());
    }
    let pem = percent_decoded(text).ok_or_else(unfit)?;
    let (label, der) = der::pem::decode_vec(&pem).map_err(|_| unfit())?;
    if label == "CERTIFICATE" { Ok(der) } else { Err(unfit()) }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

fn response(decision: &Decision) -> CheckResponse {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields: BTreeMap<String, Value> = [
        ("decision_id", text(&decision.id)),
        ("code", text(&decision.code)),
        ("policy", text(&decision.policy)),
        ("rule", text(&decision.rule)),
        ("digest", text(&decision.digest)),
        ("would", text(&decision.would)),
        ("revision", text(&decision.revision.to_string())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let (code, http_response) = if decision.allowed {
        (Code::Ok, HttpResponse::OkResponse(OkHttpResponse::default()))
    } else {
        (Code::PermissionDenied, HttpResponse::DeniedResponse(denied(decision)))
    };
    CheckResponse {
        status: Some(Verdict { code: code as i32, message: decision.code.clone() }),
        http_response: Some(http_response),
        dynamic_metadata: Some(Struct { fields }),
    }
}

/// The refused caller learns a code, and by which name to ask for the reason; the rules are none of its business.
fn denied(decision: &Decision) -> DeniedHttpResponse {
    let header = |key: &str, value: &str| HeaderValueOption {
        header: Some(HeaderValue { key: key.to_owned(), value: value.to_owned() }),
    };
    DeniedHttpResponse {
        status: Some(HttpStatus { code: 403 }),
        headers: vec![
            header("content-type", "application/json"),
            header("x-bonafide-decision", &decision.id),
        ],
        body: serde_json::json!({ "code": "policy.denied", "decision": decision.id }).to_string(),
    }
}
