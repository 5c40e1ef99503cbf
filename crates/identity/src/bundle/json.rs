use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use bonafide_crypto::jose::Jwk;
use bonafide_crypto::key::{PublicKey, PublicKeyAlgorithm};
use serde_json::{Map, Value, json};

use super::{BundleError, MAX_KEY_ID_LENGTH, MAX_KEYS, TaintedKey, TrustBundle};
use crate::certificate::{Certificate, MAX_CERTIFICATE_LENGTH};
use crate::id::TrustDomain;

const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";
const TAINTED: &str = "bonafide_tainted";

pub(super) fn read(
    trust_domain: &TrustDomain,
    object: &Map<String, Value>,
) -> Result<TrustBundle, BundleError> {
    let mut bundle = TrustBundle::new(trust_domain.clone());
    bundle.sequence = number(object, "spiffe_sequence")?;
    bundle.refresh_hint = number(object, "spiffe_refresh_hint")?;
    read_tainted(&mut bundle, object);
    let mut roots_skipped = false;
    for (index, key) in keys(object)?.iter().enumerate() {
        let members = key.as_object().ok_or(BundleError::Keys)?;
        match text(members, "use") {
            Ok(Some(X509_SVID)) => match read_x509(index, members) {
                Ok(Some(authority)) => bundle = bundle.with_x509_authority(authority),
                Ok(None) => {}
                Err(error) => {
                    roots_skipped = true;
                    bundle.skipped.push(error);
                }
            },
            Ok(Some(JWT_SVID)) => add_jwt(&mut bundle, index, key)?,
            // Section 4.2.2: unknown or missing uses are ignored.
            Ok(_) => {}
            Err(error) => bundle.skipped.push(error),
        }
    }
    let no_root_left = roots_skipped && bundle.x509_authorities.is_empty();
    something_left(bundle, no_root_left)
}

pub(super) fn read_jwt_set(
    trust_domain: &TrustDomain,
    object: &Map<String, Value>,
) -> Result<TrustBundle, BundleError> {
    let mut bundle = TrustBundle::new(trust_domain.clone());
    for (index, key) in keys(object)?.iter().enumerate() {
        let members = key.as_object().ok_or(BundleError::Keys)?;
        match text(members, "use")? {
            // RFC 7517 section 4.2: `sig` or nothing are what a standard JWK Set says of such keys.
            None | Some(JWT_SVID | "sig") => add_jwt(&mut bundle, index, key)?,
            Some(_) => {}
        }
    }
    something_left(bundle, false)
}

/// A document of which nothing could be used is not an empty bundle, which would say that nobody is to be trusted.
fn something_left(bundle: TrustBundle, no_root_left: bool) -> Result<TrustBundle, BundleError> {
    let nothing_left = bundle.x509_authorities.is_empty() && bundle.jwt_authorities.is_empty();
    match bundle.skipped.first() {
        Some(first) if nothing_left || no_root_left => Err(first.clone()),
        _ => Ok(bundle),
    }
}

/// Whatever can't be read is skipped: to renew is a service, to trust is not touched by it.
fn read_tainted(bundle: &mut TrustBundle, object: &Map<String, Value>) {
    let Some(tainted) = object.get(TAINTED) else { return };
    let Some(tainted) = tainted.as_array().filter(|tainted| tainted.len() <= MAX_KEYS) else {
        return bundle.skipped.push(BundleError::Member(TAINTED));
    };
    for key in tainted {
        match tainted_key(key) {
            Some(key) => bundle.tainted.push(key),
            None => bundle.skipped.push(BundleError::Member(TAINTED)),
        }
    }
}

fn tainted_key(key: &Value) -> Option<TaintedKey> {
    let key_id = Base64UrlUnpadded::decode_vec(key.get("key_id")?.as_str()?).ok()?;
    let is_jwt = match key.get("use")?.as_str()? {
        X509_SVID => false,
        JWT_SVID => true,
        _ => return None,
    };
    let renew_within = u32::try_from(key.get("renew_within")?.as_u64()?).ok()?;
    let fits = (1..=MAX_KEY_ID_LENGTH).contains(&key_id.len());
    fits.then(|| TaintedKey { key_id: key_id.into(), is_jwt, renew_within })
}

fn write_tainted(key: &TaintedKey) -> Value {
    let usage = if key.is_jwt { JWT_SVID } else { X509_SVID };
    let key_id = Base64UrlUnpadded::encode_string(&key.key_id);
    json!({ "key_id": key_id, "use": usage, "renew_within": key.renew_within })
}

fn keys(object: &Map<String, Value>) -> Result<&[Value], BundleError> {
    let keys = object.get("keys").and_then(Value::as_array).ok_or(BundleError::Keys)?;
    if keys.len() > MAX_KEYS { Err(BundleError::TooManyKeys) } else { Ok(keys) }
}

/// Two keys of one ID are no malformed element: nobody could say which of them is meant.
fn add_jwt(bundle: &mut TrustBundle, index: usize, key: &Value) -> Result<(), BundleError> {
    match read_jwt(index, key) {
        Ok(Some((kid, key))) => {
            if bundle.jwt_authorities.insert(kid, key).is_some() {
                return Err(BundleError::DuplicateKeyId);
            }
        }
        Ok(None) => {}
        Err(error) => bundle.skipped.push(error),
    }
    Ok(())
}

/// X509-SVID section 6.1: the certificate alone counts, not the members that repeat its key.
fn read_x509(index: usize, members: &Map<String, Value>) -> Result<Option<Certificate>, BundleError> {
    match text(members, "kty")? {
        None => return Err(BundleError::Member("kty")),
        Some("EC" | "RSA" | "OKP") => {}
        // Section 4.2.1: unknown kinds are ignored.
        Some(_) => return Ok(None),
    }
    let encoded = match members.get("x5c") {
        None => return Ok(None),
        Some(Value::Array(chain)) => match chain.first() {
            None => return Ok(None),
            // The first is the authority; what follows is to be ignored.
            Some(first) => first.as_str().ok_or(BundleError::Member("x5c"))?,
        },
        Some(_) => return Err(BundleError::Member("x5c")),
    };
    if encoded.len() > MAX_CERTIFICATE_LENGTH * 2 {
        return Err(BundleError::Encoding { index });
    }
    let der = Base64::decode_vec(encoded).map_err(|_| BundleError::Encoding { index })?;
    Certificate::from_der(&der).map(Some).map_err(|source| BundleError::Certificate { index, source })
}

/// JWT-SVID section 4.1: a key ID is a must.
fn read_jwt(index: usize, value: &Value) -> Result<Option<(String, PublicKey)>, BundleError> {
    let jwk =
        Jwk::from_value(value).map_err(|error| BundleError::Key { index, reason: error.to_string() })?;
    let Some(jwk) = jwk else {
        return Ok(None);
    };
    match jwk.kid() {
        Some(kid) if (1..=MAX_KEY_ID_LENGTH).contains(&kid.len()) => {
            Ok(Some((kid.to_owned(), jwk.key().clone())))
        }
        _ => Err(BundleError::KeyId { index }),
    }
}

pub(super) fn write(bundle: &TrustBundle) -> Value {
    let mut keys: Vec<Value> = bundle.x509_authorities.iter().map(write_x509).collect();
    keys.extend(write_jwt_keys(bundle));
    let mut object = Map::new();
    object.insert("keys".to_owned(), Value::Array(keys));
    if let Some(sequence) = bundle.sequence {
        object.insert("spiffe_sequence".to_owned(), sequence.into());
    }
    if let Some(seconds) = bundle.refresh_hint {
        object.insert("spiffe_refresh_hint".to_owned(), seconds.into());
    }
    if !bundle.tainted.is_empty() {
        object.insert(TAINTED.to_owned(), bundle.tainted.iter().map(write_tainted).collect());
    }
    Value::Object(object)
}

pub(super) fn write_jwt(bundle: &TrustBundle) -> Value {
    json!({ "keys": write_jwt_keys(bundle).collect::<Vec<_>>() })
}

fn write_x509(authority: &Certificate) -> Value {
    let mut jwk = write_key(authority.public_key(), None, X509_SVID);
    if let Some(members) = jwk.as_object_mut() {
        members.insert("x5c".to_owned(), json!([Base64::encode_string(authority.der())]));
    }
    jwk
}

fn write_jwt_keys(bundle: &TrustBundle) -> impl Iterator<Item = Value> {
    bundle.jwt_authorities.iter().map(|(kid, key)| write_key(key, Some(kid), JWT_SVID))
}

fn write_key(key: &PublicKey, kid: Option<&str>, usage: &str) -> Value {
    if key.algorithm() == PublicKeyAlgorithm::Ed25519 {
        // RFC 8037 section 2. The key is the end of its SubjectPublicKeyInfo (RFC 8410 section 4).
        let raw = key.spki_der().last_chunk::<32>().map_or(&[][..], |raw| raw);
        let mut jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": Base64UrlUnpadded::encode_string(raw), "use": usage });
        if let (Some(kid), Some(members)) = (kid, jwk.as_object_mut()) {
            members.insert("kid".to_owned(), kid.into());
        }
        return jwk;
    }
    match Jwk::new(key.clone(), kid.map(str::to_owned), Some(usage.to_owned())) {
        Ok(jwk) => jwk.to_value(),
        // Every other kind of key has a form in JSON.
        Err(_) => json!({ "kty": "unknown", "use": usage }),
    }
}

fn text<'a>(members: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, BundleError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(BundleError::Member(name)),
    }
}

fn number(members: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, BundleError> {
    match members.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(BundleError::Member(name)),
    }
}
