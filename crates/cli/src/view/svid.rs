//! SVIDs of this process. Private keys are never part of a view.

use bonafide_identity::Certificate;
use bonafide_wire::workload::{Jwtsvid, ValidateJwtsvidResponse, X509svid};
use serde::Serialize;

use crate::{
    Failure,
    console::View,
    moment::Moment,
    page::{Page, some},
    pem,
    text::{clean_bytes, hex},
};

/// An X509-SVID without its key.
#[derive(Debug, Serialize)]
pub struct X509View {
    spiffe_id: String,
    hint: String,
    instance: Option<String>,
    generation: Option<u64>,
    serial: String,
    labels: Vec<String>,
    dns_names: Vec<String>,
    not_before: Moment,
    expires_at: Moment,
    /// Leaf first.
    chain_pem: String,
    bundle_pem: String,
}

impl X509View {
    /// From the Workload API.
    ///
    /// # Errors
    /// When the agent sent something else than certificates.
    pub fn new(svid: &X509svid) -> Result<Self, Failure> {
        let malformed = |cause: &dyn std::fmt::Display| {
            Failure::of("svid.malformed", cause, "the agent sent no certificates: update it")
        };
        let chain = pem::split_der(&svid.x509_svid).map_err(|cause| malformed(&cause))?;
        let bundle = pem::split_der(&svid.bundle).map_err(|cause| malformed(&cause))?;
        let leaf = chain.first().copied().unwrap_or_default();
        let leaf = Certificate::from_der(leaf).map_err(|cause| malformed(&cause))?;
        let attributes = leaf.attributes();
        Ok(Self {
            spiffe_id: svid.spiffe_id.clone(),
            hint: svid.hint.clone(),
            instance: attributes
                .and_then(|attributes| attributes.instance)
                .map(|instance| instance.to_string()),
            generation: attributes.map(|attributes| attributes.generation),
            serial: hex(leaf.serial()),
            labels: attributes.map_or_else(Vec::new, |attributes| {
                attributes.labels().map(|(key, value)| format!("{key}={}", clean_bytes(value))).collect()
            }),
            dns_names: leaf.dns_names().iter().map(ToString::to_string).collect(),
            not_before: Moment(leaf.not_before().as_secs()),
            expires_at: Moment(leaf.not_after().as_secs()),
            chain_pem: pem::encode_certificates(chain),
            bundle_pem: pem::encode_certificates(bundle),
        })
    }
}

/// X509-SVIDs.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct X509List(pub Vec<X509View>);

impl View for X509List {
    fn draw(&self, page: &mut Page) {
        for svid in &self.0 {
            page.gap();
            page.record([
                ("SPIFFE ID", some(&svid.spiffe_id)),
                ("instance", some(svid.instance.as_deref().unwrap_or_default())),
                ("generation", some(svid.generation.map_or_else(String::new, |number| number.to_string()))),
                ("serial", some(&svid.serial)),
                ("labels", svid.labels.clone()),
                ("DNS names", svid.dns_names.clone()),
                ("hint", some(&svid.hint)),
                ("expires", some(page.time(svid.expires_at))),
            ]);
        }
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|svid| svid.spiffe_id.clone()).collect()
    }
}

/// A JWT-SVID.
#[derive(Serialize)]
pub struct JwtView {
    spiffe_id: String,
    hint: String,
    token: String,
}

impl std::fmt::Debug for JwtView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtView").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl From<Jwtsvid> for JwtView {
    fn from(svid: Jwtsvid) -> Self {
        Self { spiffe_id: svid.spiffe_id, hint: svid.hint, token: svid.svid }
    }
}

/// JWT-SVIDs.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct JwtList(pub Vec<JwtView>);

impl View for JwtList {
    fn draw(&self, page: &mut Page) {
        for svid in &self.0 {
            page.gap();
            page.record([
                ("SPIFFE ID", some(&svid.spiffe_id)),
                ("hint", some(&svid.hint)),
                ("token", some(&svid.token)),
            ]);
        }
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|svid| svid.token.clone()).collect()
    }
}

/// A JWT-SVID that the agent found valid.
#[derive(Debug, Serialize)]
pub struct ValidJwtView {
    spiffe_id: String,
    claims: serde_json::Value,
}

impl From<ValidateJwtsvidResponse> for ValidJwtView {
    fn from(valid: ValidateJwtsvidResponse) -> Self {
        let claims = valid.claims.unwrap_or_default().fields;
        let claims = claims.into_iter().map(|(name, value)| (name, json(value, 0))).collect();
        Self { spiffe_id: valid.spiffe_id, claims: serde_json::Value::Object(claims) }
    }
}

impl View for ValidJwtView {
    fn draw(&self, page: &mut Page) {
        let claims = self.claims.as_object().into_iter().flatten();
        page.record([
            ("SPIFFE ID", some(&self.spiffe_id)),
            ("claims", claims.map(|(name, value)| format!("{name}: {value}")).collect()),
        ]);
    }

    fn names(&self) -> Vec<String> {
        vec![self.spiffe_id.clone()]
    }
}

/// A protobuf value as JSON; what is nested deeper than anyone needs is cut.
fn json(value: prost_types::Value, depth: u8) -> serde_json::Value {
    use prost_types::value::Kind;
    if depth > 16 {
        return serde_json::Value::Null;
    }
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        // Times are whole seconds, but a protobuf Struct knows doubles only.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "exact: the fraction is zero and the range is checked"
        )]
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 9e15 => (value as i64).into(),
        Some(Kind::NumberValue(value)) => value.into(),
        Some(Kind::StringValue(value)) => value.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(|value| json(value, depth + 1)).collect(),
        Some(Kind::StructValue(fields)) => {
            fields.fields.into_iter().map(|(name, value)| (name, json(value, depth + 1))).collect()
        }
    }
}
