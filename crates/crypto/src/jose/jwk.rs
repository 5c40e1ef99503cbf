//! Public JSON Web Keys (RFC 7517, RFC 7518 section 6).

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value};

use super::JwsAlgorithm;
use crate::key::{KeyError, PublicKey, PublicKeyAlgorithm, rsa_spki};

/// A public key with its name and use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    key: PublicKey,
    kid: Option<String>,
    key_use: Option<String>,
}

/// Why a JWK of a known kind was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwkError {
    /// `alg` does not fit the key.
    #[error("the `alg` of the JSON Web Key does not fit its key")]
    Algorithm,
    /// The key itself is not acceptable.
    #[error("the key of the JSON Web Key was refused: {0}")]
    Key(#[from] KeyError),
    /// A member is missing, or not of the right form.
    #[error("the member `{0}` of the JSON Web Key is missing or malformed")]
    Member(&'static str),
    /// It has a private member: it should never have left its owner.
    #[error("the JSON Web Key is a private key")]
    Private,
}

const MAX_NAME_BYTES: usize = 256;

impl Jwk {
    /// A JWK of `key`, which must be on a curve or RSA.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for Ed25519, which no JWT-SVID can use.
    pub fn new(key: PublicKey, kid: Option<String>, key_use: Option<String>) -> Result<Self, JwkError> {
        match key.algorithm() {
            PublicKeyAlgorithm::Ed25519 => Err(KeyError::Unsupported.into()),
            _ => Ok(Self { key, kid, key_use }),
        }
    }

    /// Reads one JWK. `None` if `kty` or `crv` is of a kind that we don't know, which a reader of a key set ignores
    /// (RFC 7517 section 5). Take the value from [`super::parse_object`], which refuses duplicate members.
    ///
    /// # Errors
    /// [`JwkError`] if the kind is known and something is wrong.
    pub fn from_value(value: &Value) -> Result<Option<Self>, JwkError> {
        let members = value.as_object().ok_or(JwkError::Member("kty"))?;
        let key = match text(members, "kty")?.ok_or(JwkError::Member("kty"))? {
            "EC" => {
                public_only(members)?;
                let algorithm = match text(members, "crv")?.ok_or(JwkError::Member("crv"))? {
                    "P-256" => PublicKeyAlgorithm::EcP256,
                    "P-384" => PublicKeyAlgorithm::EcP384,
                    "P-521" => PublicKeyAlgorithm::EcP521,
                    _ => return Ok(None),
                };
                PublicKey::from_coordinates(
                    algorithm,
                    &number(members, "x", 66)?,
                    &number(members, "y", 66)?,
                )?
            }
            "RSA" => {
                public_only(members)?;
                let modulus = number(members, "n", 1024)?;
                let exponent = number(members, "e", 8)?;
                // RFC 7518 section 6.3.1: the minimal number of octets.
                for (name, magnitude) in [("n", &modulus), ("e", &exponent)] {
                    if magnitude.first().is_none_or(|first| *first == 0) {
                        return Err(JwkError::Member(name));
                    }
                }
                PublicKey::from_spki_der(&rsa_spki(&modulus, &exponent))?
            }
            _ => return Ok(None),
        };
        if let Some(alg) = text(members, "alg")? {
            let fits = JwsAlgorithm::from_name(alg)
                .is_some_and(|alg| alg.signature_algorithm().fits(key.algorithm()));
            if !fits {
                return Err(JwkError::Algorithm);
            }
        }
        let kid = text(members, "kid")?.map(str::to_owned);
        let key_use = text(members, "use")?.map(str::to_owned);
        Ok(Some(Self { key, kid, key_use }))
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Its name.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Its `use`: `jwt-svid`, `x509-svid`, `sig`, ...
    #[must_use]
    pub fn key_use(&self) -> Option<&str> {
        self.key_use.as_deref()
    }

    /// The JSON form.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut members = Map::new();
        let mut put = |name: &str, value: &str| members.insert(name.to_owned(), Value::from(value));
        let (curve, names) = match self.key.algorithm() {
            PublicKeyAlgorithm::EcP256 => (Some("P-256"), ("x", "y")),
            PublicKeyAlgorithm::EcP384 => (Some("P-384"), ("x", "y")),
            PublicKeyAlgorithm::EcP521 => (Some("P-521"), ("x", "y")),
            PublicKeyAlgorithm::Rsa { .. } | PublicKeyAlgorithm::Ed25519 => (None, ("n", "e")),
        };
        put("kty", if curve.is_some() { "EC" } else { "RSA" });
        if let Some(curve) = curve {
            put("crv", curve);
        }
        if let Some((first, second)) = self.key.numbers() {
            put(names.0, &Base64UrlUnpadded::encode_string(first));
            put(names.1, &Base64UrlUnpadded::encode_string(second));
        }
        if let Some(kid) = &self.kid {
            put("kid", kid);
        }
        if let Some(key_use) = &self.key_use {
            put("use", key_use);
        }
        Value::Object(members)
    }
}

impl JwkError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Algorithm => "crypto.jwk-algorithm-unfit",
            Self::Key(error) => error.code(),
            Self::Member(_) => "crypto.jwk-malformed",
            Self::Private => "crypto.jwk-private",
        }
    }
}

/// A member that is a short text, if it is there.
fn text<'a>(members: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, JwkError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_NAME_BYTES => Ok(Some(text)),
        Some(_) => Err(JwkError::Member(name)),
    }
}

fn number(members: &Map<String, Value>, name: &'static str, most: usize) -> Result<Vec<u8>, JwkError> {
    match members.get(name) {
        Some(Value::String(text)) if text.len() <= most.saturating_mul(2) => {
            Base64UrlUnpadded::decode_vec(text).map_err(|_| JwkError::Member(name))
        }
        _ => Err(JwkError::Member(name)),
    }
}

fn public_only(members: &Map<String, Value>) -> Result<(), JwkError> {
    let private =
        ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|name| members.contains_key(*name));
    if private { Err(JwkError::Private) } else { Ok(()) }
}
