//! A request as JSON: what programs in Rego get as their `input`, and what decision logs keep of it.
//!
//! The fields that the OPA plugin of Envoy would give (`attributes`, `parsed_path`, `parsed_query`, `version`) are as
//! there, so that existing Rego reads them. What we know beyond that stands in `bonafide`, already checked and in its
//! normal form:
//!
//! ```json
//! {"bonafide": {
//!   "who": {"id": "spiffe://example.org/ns/shop/sa/web", "segments": ["example.org", "ns", "shop", "sa", "web"],
//!           "labels": {"env": "prod"}, "props": {}},
//!   "can": "GET",
//!   "on": {"path": "/v1/orders", "segments": ["v1", "orders"], "host": "orders.example.org", "props": {}},
//!   "callee": {"labels": {"app": "ledger"}},
//!   "when": {"now": 1767225600, "source": "10.0.0.1", "aad": {}, "props": {}}}}
//! ```
//!
//! `who.labels` and `callee.labels` are certified, `props` are what the guarded program asserts. A label that is not
//! text is `{"hex": "…"}`. A request that no rule can allow has a `fault`, the code of why.

use std::net::IpAddr;

use bonafide_identity::{SpiffeId, UnixTime};
use serde_json::{Map, Value, json};

use crate::{
    analysis::{
        atom::{Point, Trail},
        witness,
    },
    asked::{Asked, with_room},
    glob::path_segments,
    read,
    request::{AssertedProps, Caller, CertifiedLabels, Request},
    scenario::Scenario,
};

/// Why JSON is no request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordFault {
    /// A field that is needed is missing.
    #[error("there is no `{0}`")]
    Missing(&'static str),
    /// A field is not as it must be.
    #[error("`{0}` is not as it must be")]
    Wrong(&'static str),
}

impl RecordFault {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "policy.record-missing",
            Self::Wrong(_) => "policy.record-wrong",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        "give what the decision log writes, or what the OPA plugin of Envoy gives as `input`"
    }
}

/// The JSON of a request to a workload with these labels.
pub fn input(request: &Request<'_>, callee: &CertifiedLabels) -> Value {
    let scenario = Scenario {
        who: request.who.clone(),
        who_props: request.who_props.clone(),
        can: request.can.to_owned(),
        callee: callee.clone(),
        path: request.on.path.map(str::to_owned),
        host: request.on.host.map(str::to_owned),
        key: request.on.key.map(str::to_owned),
        service: request.on.service.map(str::to_owned),
        on_props: request.on.props.clone(),
        aad: request.when.aad.clone(),
        algorithm: request.when.algorithm.map(str::to_owned),
        source: request.when.source,
        when_props: request.when.props.clone(),
        now: request.now,
    };
    of(&scenario)
}

/// The JSON of a scenario.
pub fn of(scenario: &Scenario) -> Value {
    let point = witness::point(scenario);
    let (path, query) = match &scenario.path {
        Some(path) => {
            path.split_once('?').map_or((Some(path.as_str()), ""), |(path, query)| (Some(path), query))
        }
        None => (None, ""),
    };
    let mut http = Map::new();
    http.insert("method".to_owned(), scenario.can.clone().into());
    add(&mut http, "path", scenario.path.as_deref());
    add(&mut http, "host", scenario.host.as_deref());
    let mut source = Map::new();
    source.insert("principal".to_owned(), scenario.who.id().as_str().into());
    if let Some(address) = scenario.source {
        source.insert("address".to_owned(), json!({"socketAddress": {"address": address.to_string()}}));
    }
    let mut input = json!({
        "attributes": {
            "source": source,
            "request": {"time": scenario.now.to_string(), "http": http},
        },
        "parsed_query": parsed_query(query),
        "version": {"ext_authz": "v3", "encoding": "protojson"},
        "bonafide": own(scenario, point.as_ref()),
    });
    let segments = point.as_ref().and_then(|point| point.trails.get(&Trail::Path));
    if let (Some(_), Some(segments), Some(fields)) = (path, segments, input.as_object_mut()) {
        fields.insert("parsed_path".to_owned(), texts(segments));
    }
    input
}

fn own(scenario: &Scenario, point: Option<&Point>) -> Value {
    let segments = |trail| point.and_then(|point| point.trails.get(&trail));
    let mut on = Map::new();
    if let Some(segments) = segments(Trail::Path) {
        on.insert("path".to_owned(), format!("/{}", segments.join("/")).into());
        on.insert("segments".to_owned(), texts(segments));
    }
    if let Some(labels) = segments(Trail::Host) {
        let labels: Vec<&str> = labels.iter().rev().map(|label| &**label).collect();
        on.insert("host".to_owned(), labels.join(".").into());
    }
    add(&mut on, "key", scenario.key.as_deref());
    if let Some(key) = segments(Trail::Key) {
        on.insert("key_segments".to_owned(), texts(key));
    }
    add(&mut on, "service", scenario.service.as_deref());
    on.insert("props".to_owned(), props(&scenario.on_props));
    let mut when = Map::new();
    when.insert("now".to_owned(), scenario.now.as_secs().into());
    when.insert("aad".to_owned(), props(&scenario.aad));
    add(&mut when, "alg", scenario.algorithm.as_deref());
    add(&mut when, "source", scenario.source.map(|source| source.to_canonical().to_string()).as_deref());
    when.insert("props".to_owned(), props(&scenario.when_props));
    let id = scenario.who.id();
    let caller = std::iter::once(id.trust_domain().as_str()).chain(path_segments(id.path()));
    let mut own = json!({
        "who": {
            "id": id.as_str(),
            "segments": caller.collect::<Vec<_>>(),
            "labels": labels(scenario.who.labels()),
            "props": props(&scenario.who_props),
        },
        "can": scenario.can,
        "on": on,
        "callee": {"labels": labels(&scenario.callee)},
        "when": when,
    });
    let request = scenario.request();
    let fault = with_room(&request, |room| Asked::new(&request, &scenario.callee, room).err());
    if let (Some(fault), Some(fields)) = (fault, own.as_object_mut()) {
        fields.insert("fault".to_owned(), fault.code().into());
    }
    own
}

/// A request from what [`of`] made of it, or from what the OPA plugin of Envoy gives. In that there are no labels.
///
/// # Errors
/// [`RecordFault`]
pub fn scenario(input: &Value) -> Result<Scenario, RecordFault> {
    use RecordFault::{Missing, Wrong};
    let own = input.get("bonafide");
    let at = |path: &[&str]| path.iter().try_fold(input, |value, name| value.get(name));
    let text = |name: &'static str, path: &[&str]| match at(path) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Wrong(name)),
    };
    let either = |name: &'static str, one: &[&str], other: &[&str]| match text(name, one)? {
        Some(text) => Ok(Some(text)),
        None => text(name, other),
    };
    let principal = ["attributes", "source", "principal"];
    let id = either("who.id", &["bonafide", "who", "id"], &principal)?.ok_or(Missing("who.id"))?;
    let id = SpiffeId::parse(&id).map_err(|_| Wrong("who.id"))?;
    let of = |thing: &str, name: &str| own.and_then(|own| own.get(thing)?.get(name));
    let caller = Caller::new(id, read_labels("who.labels", of("who", "labels"))?);
    let method = ["attributes", "request", "http", "method"];
    let can = either("can", &["bonafide", "can"], &method)?.ok_or(Missing("can"))?;
    let mut scenario = Scenario::new(caller, can);
    scenario.who_props = read_props("who.props", of("who", "props"))?;
    scenario.callee = read_labels("callee.labels", of("callee", "labels"))?;
    // As it came, if that was kept: what is ambiguous stays so.
    scenario.path = match text("path", &["attributes", "request", "http", "path"])? {
        Some(path) => Some(path),
        None => text("on.path", &["bonafide", "on", "path"])?.map(|path| witness::encode_path(&path)),
    };
    let host = ["attributes", "request", "http", "host"];
    scenario.host = either("host", &host, &["bonafide", "on", "host"])?;
    scenario.key = text("on.key", &["bonafide", "on", "key"])?;
    scenario.service = text("on.service", &["bonafide", "on", "service"])?;
    scenario.on_props = read_props("on.props", of("on", "props"))?;
    scenario.aad = read_props("when.aad", of("when", "aad"))?;
    scenario.algorithm = text("when.alg", &["bonafide", "when", "alg"])?;
    let address = ["attributes", "source", "address", "socketAddress", "address"];
    if let Some(source) = either("when.source", &address, &["bonafide", "when", "source"])? {
        scenario.source = Some(source.parse::<IpAddr>().map_err(|_| Wrong("when.source"))?);
    }
    scenario.when_props = read_props("when.props", of("when", "props"))?;
    if let Some(now) = of("when", "now") {
        scenario.now = UnixTime::from_secs(now.as_i64().ok_or(Wrong("when.now"))?);
    } else if let Some(time) = text("time", &["attributes", "request", "time"])? {
        // Fractions of a second have no meaning to rules.
        let whole = time.split_once('.').map_or(time.clone(), |(whole, _)| format!("{whole}Z"));
        scenario.now = read::moment(&whole).ok_or(Wrong("time"))?;
    }
    Ok(scenario)
}

fn add(map: &mut Map<String, Value>, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        map.insert(name.to_owned(), text.into());
    }
}

fn texts(segments: &[std::sync::Arc<str>]) -> Value {
    segments.iter().map(|segment| Value::from(&**segment)).collect()
}

fn props(props: &AssertedProps) -> Value {
    props.iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect::<Map<_, _>>().into()
}

fn labels(labels: &CertifiedLabels) -> Value {
    let value = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({"hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()}),
    };
    labels.iter().map(|(key, bytes)| (key.to_owned(), value(bytes))).collect::<Map<_, _>>().into()
}

/// Each name with the list of its values, as the OPA plugin of Envoy has them. Values are as they came.
fn parsed_query(query: &str) -> Value {
    let mut out: Map<String, Value> = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let values = out.entry(name.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
        if let Some(values) = values.as_array_mut() {
            values.push(value.into());
        }
    }
    out.into()
}

fn read_labels(name: &'static str, value: Option<&Value>) -> Result<CertifiedLabels, RecordFault> {
    let wrong = RecordFault::Wrong(name);
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(CertifiedLabels::none()) };
    let bytes = |value: &Value| match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        other => unhex(other.get("hex")?.as_str()?),
    };
    let pairs = value.as_object().ok_or(wrong.clone())?.iter();
    let pairs: Option<Vec<_>> = pairs.map(|(key, value)| Some((key, bytes(value)?))).collect();
    CertifiedLabels::new(pairs.ok_or(wrong.clone())?).map_err(|_| wrong)
}

fn read_props(name: &'static str, value: Option<&Value>) -> Result<AssertedProps, RecordFault> {
    let wrong = RecordFault::Wrong(name);
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(AssertedProps::default()) };
    let pairs = value.as_object().ok_or(wrong.clone())?.iter();
    let pairs: Option<Vec<_>> = pairs.map(|(key, value)| Some((key, value.as_str()?))).collect();
    AssertedProps::new(pairs.ok_or(wrong.clone())?).map_err(|_| wrong)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0_u8, |byte, digit| byte << 4 | digit)).collect())
}
