//! Keys as JSON over HTTP/1.1, below `/v1/keys`. Names of fields are those of protobuf's JSON form, bytes are base64.

use std::collections::BTreeMap;

use axum::{
    Extension, Json, Router,
    extract::rejection::JsonRejection,
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::post,
};
use base64ct::{Base64, Encoding as _};
use bonafide_wire::{kms, types::Problem};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::super::{
    Api,
    json::{Refused, check_header, problem},
};
use crate::{
    keys::{MAX_MESSAGE, OnBehalf, Subject, remote},
    peer::Peer,
    refusal::Refusal,
};

type Context = BTreeMap<String, String>;
type Body<T> = Result<Json<T>, JsonRejection>;

/// The routes.
pub(in super::super) fn routes() -> Router {
    Router::new()
        .route("/v1/keys/encrypt", post(encrypt))
        .route("/v1/keys/decrypt", post(decrypt))
        .route("/v1/keys/rewrap", post(rewrap))
        .route("/v1/keys/mac", post(mac))
        .route("/v1/keys/verifyMac", post(verify_mac))
        .route("/v1/keys/sign", post(sign))
        .route("/v1/keys/verify", post(verify))
        .route("/v1/keys/generateDataKey", post(generate_data_key))
        .route("/v1/keys/random", post(random))
        .route("/v1/keys/getPublicKey", post(get_public_key))
        .route("/v1/keys/fetch", post(fetch))
        // Base64 is longer by a third.
        .layer(axum::extract::DefaultBodyLimit::max(MAX_MESSAGE / 3 * 4))
}

/// Bytes in base64.
#[derive(Debug)]
struct Octets(Bytes);

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = Base64::decode_vec(&text).map_err(|_| serde::de::Error::custom("this is not base64"))?;
        Ok(Self(bytes.into()))
    }
}

fn text(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<T> {
    key: String,
    items: Vec<T>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Versions {
    key: String,
    #[serde(default)]
    versions: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    bytes: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Encrypt {
    plaintext: Octets,
    #[serde(default)]
    context: Context,
    #[serde(default)]
    version: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decrypt {
    ciphertext: Octets,
    #[serde(default)]
    context: Context,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rewrap {
    ciphertext: Octets,
    #[serde(default)]
    context: Context,
    #[serde(default)]
    version: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mac {
    message: Octets,
    #[serde(default)]
    version: u32,
    #[serde(default)]
    context: Context,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyMac {
    message: Octets,
    mac: Octets,
    #[serde(default)]
    context: Context,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sign {
    message: Octets,
    #[serde(default)]
    prehashed: bool,
    #[serde(default)]
    algorithm: String,
    #[serde(default)]
    version: u32,
    #[serde(default)]
    context: Context,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    message: Octets,
    #[serde(default)]
    prehashed: bool,
    signature: Octets,
    #[serde(default)]
    context: Context,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DataKey {
    #[serde(default)]
    context: Context,
    #[serde(default)]
    bytes: u32,
    #[serde(default)]
    wrapped_only: bool,
    #[serde(default)]
    version: u32,
}

/// Who asks, and what.
async fn admit<T>(
    api: &Api,
    peer: &Peer,
    headers: &HeaderMap,
    body: Body<T>,
) -> Result<(Subject, T), Refused> {
    check_header(headers)?;
    let Json(body) = body.map_err(|error| Refusal::invalid("request.json", error.body_text()))?;
    Ok((api.key_user(peer).await?, body))
}

fn results<T>(results: Vec<T>, show: impl Fn(T) -> (Option<Problem>, Value)) -> Response {
    let results = results.into_iter().map(|result| match show(result) {
        (Some(failed), _) => json!({ "problem": problem(&failed) }),
        (None, shown) => shown,
    });
    Json(json!({ "results": results.collect::<Vec<Value>>() })).into_response()
}

/// What is done at the authority only.
async fn ask<Q: OnBehalf, A>(
    api: &Api,
    peer: &Peer,
    subject: &Subject,
    request: Q,
    call: crate::keys::Call<Q, A>,
) -> Result<A, Refusal> {
    let answer = api.engine().keys().ask(subject, request, call).await?;
    peer.check_unchanged().await?;
    Ok(answer)
}

async fn encrypt(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Batch<Encrypt>>,
) -> Result<Response, Refused> {
    let (subject, Batch { key, items }) = admit(&api, &peer, &headers, body).await?;
    let items = items.into_iter().map(|Encrypt { plaintext, context, version }| kms::EncryptItem {
        plaintext: plaintext.0,
        context,
        version,
    });
    let request = kms::EncryptRequest { key, items: items.collect(), on_behalf_of: None };
    Ok(results(api.encrypt(&subject, request).await?.results, encrypted))
}

async fn decrypt(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Batch<Decrypt>>,
) -> Result<Response, Refused> {
    let (subject, Batch { key, items }) = admit(&api, &peer, &headers, body).await?;
    let items = items
        .into_iter()
        .map(|Decrypt { ciphertext, context }| kms::DecryptItem { ciphertext: ciphertext.0, context });
    let request = kms::DecryptRequest { key, items: items.collect(), on_behalf_of: None };
    let answer = api.decrypt(&subject, request).await?;
    peer.check_unchanged().await?;
    Ok(results(answer.results, |one| {
        (one.problem, json!({ "plaintext": text(&one.plaintext), "version": one.version }))
    }))
}

async fn rewrap(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Batch<Rewrap>>,
) -> Result<Response, Refused> {
    let (subject, Batch { key, items }) = admit(&api, &peer, &headers, body).await?;
    let items = items.into_iter().map(|Rewrap { ciphertext, context, version }| kms::RewrapItem {
        ciphertext: ciphertext.0,
        context,
        version,
    });
    let request = kms::RewrapRequest { key, items: items.collect(), on_behalf_of: None };
    Ok(results(ask(&api, &peer, &subject, request, remote!(rewrap)).await?.results, encrypted))
}

async fn mac(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Batch<Mac>>,
) -> Result<Response, Refused> {
    let (subject, Batch { key, items }) = admit(&api, &peer, &headers, body).await?;
    let items = items.into_iter().map(|Mac { message, version, context }| kms::MacItem {
        message: message.0,
        version,
        context,
    });
    let request = kms::MacRequest { key, items: items.collect(), on_behalf_of: None };
    Ok(results(ask(&api, &peer, &subject, request, remote!(mac)).await?.results, |one| {
        (one.problem, json!({ "mac": text(&one.mac), "version": one.version }))
    }))
}

async fn verify_mac(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Batch<VerifyMac>>,
) -> Result<Response, Refused> {
    let (subject, Batch { key, items }) = admit(&api, &peer, &headers, body).await?;
    let items = items.into_iter().map(|VerifyMac { message, mac, context }| kms::VerifyMacItem {
        message: message.0,
        mac: mac.0,
        context,
    });
    let request = kms::VerifyMacRequest { key, items: items.collect(), on_behalf_of: None };
    Ok(results(ask(&api, &peer, &subject, request, remote!(verify_mac)).await?.results, verified))
}

async fn sign(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Batch<Sign>>,
) -> Result<Response, Refused> {
    let (subject, Batch { key, items }) = admit(&api, &peer, &headers, body).await?;
    let items = items.into_iter().map(|Sign { message, prehashed, algorithm, version, context }| {
        kms::SignItem { message: message.0, prehashed, algorithm, version, context }
    });
    let request = kms::SignRequest { key, items: items.collect(), on_behalf_of: None };
    Ok(results(ask(&api, &peer, &subject, request, remote!(sign)).await?.results, |one| {
        let shown = json!({
            "signature": text(&one.signature),
            "version": one.version,
            "raw": text(&one.raw),
            "algorithm": one.algorithm,
        });
        (one.problem, shown)
    }))
}

async fn verify(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Batch<Verify>>,
) -> Result<Response, Refused> {
    let (subject, Batch { key, items }) = admit(&api, &peer, &headers, body).await?;
    let items = items.into_iter().map(|Verify { message, prehashed, signature, context }| kms::VerifyItem {
        message: message.0,
        prehashed,
        signature: signature.0,
        context,
    });
    let request = kms::VerifyRequest { key, items: items.collect(), on_behalf_of: None };
    Ok(results(api.verify(&subject, request).await?.results, verified))
}

async fn generate_data_key(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Batch<DataKey>>,
) -> Result<Response, Refused> {
    let (subject, Batch { key, items }) = admit(&api, &peer, &headers, body).await?;
    let items = items.into_iter().map(|DataKey { context, bytes, wrapped_only, version }| kms::DataKeyItem {
        context,
        bytes,
        wrapped_only,
        version,
    });
    let request = kms::GenerateDataKeyRequest { key, items: items.collect(), on_behalf_of: None };
    Ok(results(ask(&api, &peer, &subject, request, remote!(generate_data_key)).await?.results, |one| {
        let mut shown = Map::new();
        if !one.plaintext.is_empty() {
            shown.insert("plaintext".to_owned(), text(&one.plaintext).into());
        }
        shown.insert("wrapped".to_owned(), text(&one.wrapped).into());
        shown.insert("version".to_owned(), one.version.into());
        (one.problem, Value::Object(shown))
    }))
}

async fn random(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Count>,
) -> Result<Response, Refused> {
    let (_, Count { bytes }) = admit(&api, &peer, &headers, body).await?;
    let answer = api.random(&kms::RandomRequest { bytes, on_behalf_of: None })?;
    Ok(Json(json!({ "random": text(&answer.random) })).into_response())
}

async fn get_public_key(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Versions>,
) -> Result<Response, Refused> {
    let (subject, Versions { key, versions }) = admit(&api, &peer, &headers, body).await?;
    let request = kms::GetPublicKeyRequest { key, versions, on_behalf_of: None };
    Ok(results(ask(&api, &peer, &subject, request, remote!(get_public_key)).await?.results, |one| {
        (one.problem, json!({ "version": one.version, "type": one.r#type, "spki": text(&one.spki) }))
    }))
}

async fn fetch(
    Extension(api): Extension<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body<Versions>,
) -> Result<Response, Refused> {
    let (subject, Versions { key, versions }) = admit(&api, &peer, &headers, body).await?;
    let request = kms::FetchRequest { key, versions, on_behalf_of: None };
    Ok(results(ask(&api, &peer, &subject, request, remote!(fetch)).await?.results, |one| {
        (one.problem, json!({ "version": one.version, "type": one.r#type, "material": text(&one.material) }))
    }))
}

fn encrypted(one: kms::EncryptResult) -> (Option<Problem>, Value) {
    (one.problem, json!({ "ciphertext": text(&one.ciphertext), "version": one.version }))
}

fn verified(one: kms::VerifyResult) -> (Option<Problem>, Value) {
    (one.problem, json!({ "valid": one.valid, "version": one.version }))
}
