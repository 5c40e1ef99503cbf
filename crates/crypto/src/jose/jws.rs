//! Compact JWS (RFC 7515 section 7.1) with the header that JWT-SVID section 2 allows.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;

use super::{JwsAlgorithm, parse_object};
use crate::key::{PublicKey, SignError, Signer};

/// How large a token may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole token.
    pub token_bytes: usize,
    /// Bytes of the key identifier.
    pub key_id_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { token_bytes: 16 * 1024, key_id_bytes: 256 }
    }
}

/// The header of a token: these members, and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// How the token claims to be signed. Only used together with a key that the verifier chose.
    pub alg: JwsAlgorithm,
    /// Which key it claims to be signed with: an opaque name to look up, never a path, query or address.
    pub kid: Option<String>,
    /// `JWT` or `JOSE`, if it is there (JWT-SVID section 2.3).
    pub typ: Option<String>,
}

/// A token whose form was checked, and whose signature was not. Whoever holds a token can use it, so `Debug` shows its
/// header alone.
#[derive(Clone)]
pub struct CompactJws<'a> {
    header: Header,
    signed: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwsError {
    /// Not one of the nine algorithms.
    #[error("the token names an algorithm that is not accepted")]
    Algorithm,
    /// A part is not canonical base64url without padding.
    #[error("the token is not canonical base64url")]
    Encoding,
    /// The header is no JSON object, has a member twice, or one that is not allowed or of the wrong form.
    #[error("the header of the token is malformed or has a member that is not allowed")]
    Header,
    /// Not three parts.
    #[error("the token does not have three parts")]
    Parts,
    /// The signature does not match, or the algorithm does not fit the key.
    #[error("the signature of the token does not match")]
    Signature,
    /// More bytes than are looked at.
    #[error("the token is too long")]
    TooLong,
}

impl<'a> CompactJws<'a> {
    /// Parses a token. Nothing in it is true before [`Self::verify`].
    ///
    /// # Errors
    /// [`JwsError`] names what is wrong.
    pub fn parse(token: &'a str, limits: Limits) -> Result<Self, JwsError> {
        if token.len() > limits.token_bytes {
            return Err(JwsError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwsError::Parts)?;
        let (header, payload) = signed.split_once('.').ok_or(JwsError::Parts)?;
        if payload.contains('.') {
            return Err(JwsError::Parts);
        }
        let header = read_header(&decode(header)?, limits)?;
        Ok(Self { header, signed, payload: decode(payload)?, signature: decode(signature)? })
    }

    /// What the header claims.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The payload before its signature was checked: good for choosing the keys to check it with, or for showing it
    /// to its owner, and for nothing else.
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, if `key` signed this token with the algorithm of the header, and is of the kind that this
    /// algorithm needs.
    ///
    /// # Errors
    /// [`JwsError::Signature`] if not.
    pub fn verify(&self, key: &PublicKey) -> Result<&[u8], JwsError> {
        let signature = self.header.alg.signature_from_jose(&self.signature).ok_or(JwsError::Signature)?;
        key.verify(self.header.alg.signature_algorithm(), self.signed.as_bytes(), &signature)
            .map_err(|_| JwsError::Signature)?;
        Ok(&self.payload)
    }
}

impl fmt::Debug for CompactJws<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactJws").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Signs a payload. The header has `alg`, `kid` and `typ` (`JWT`).
///
/// # Errors
/// As [`Signer::sign_with`].
pub fn sign_compact(
    signer: &dyn Signer,
    alg: JwsAlgorithm,
    kid: &str,
    payload_json: &[u8],
) -> Result<String, SignError> {
    let mut tokens = sign_compact_each(signer, alg, kid, &[payload_json]);
    tokens.pop().unwrap_or_else(|| Err(SignError::Failed("no signature came".to_owned())))
}

/// Signs several payloads in one go, each as [`sign_compact`].
pub fn sign_compact_each(
    signer: &dyn Signer,
    alg: JwsAlgorithm,
    kid: &str,
    payloads_json: &[&[u8]],
) -> Vec<Result<String, SignError>> {
    let header = serde_json::json!({ "alg": alg.as_str(), "kid": kid, "typ": "JWT" }).to_string();
    let header = Base64UrlUnpadded::encode_string(header.as_bytes());
    let unsigned = |payload: &&[u8]| format!("{header}.{}", Base64UrlUnpadded::encode_string(payload));
    let unsigned: Vec<String> = payloads_json.iter().map(unsigned).collect();
    let messages: Vec<&[u8]> = unsigned.iter().map(String::as_bytes).collect();
    let signatures = signer.sign_each(alg.signature_algorithm(), &messages);
    let signed = |(mut token, signature): (String, Result<Vec<u8>, SignError>)| {
        let signature = alg
            .signature_to_jose(signature?)
            .ok_or_else(|| SignError::Failed("the signature is not canonical DER".to_owned()))?;
        token.push('.');
        token.push_str(&Base64UrlUnpadded::encode_string(&signature));
        Ok(token)
    };
    unsigned.into_iter().zip(signatures).map(signed).collect()
}

impl JwsError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Algorithm => "crypto.jws-algorithm-refused",
            Self::Encoding => "crypto.jws-encoding",
            Self::Header => "crypto.jws-header-refused",
            Self::Parts => "crypto.jws-parts",
            Self::Signature => "crypto.jws-signature-mismatch",
            Self::TooLong => "crypto.jws-too-long",
        }
    }
}

/// base64ct refuses padding, other alphabets, white space and bits that don't belong to a byte.
fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    Base64UrlUnpadded::decode_vec(part).map_err(|_| JwsError::Encoding)
}

fn read_header(json: &[u8], limits: Limits) -> Result<Header, JwsError> {
    let mut members = parse_object(json).map_err(|_| JwsError::Header)?;
    let alg = match members.remove("alg") {
        Some(Value::String(alg)) => JwsAlgorithm::from_name(&alg).ok_or(JwsError::Algorithm)?,
        _ => return Err(JwsError::Header),
    };
    let kid = match members.remove("kid") {
        None => None,
        Some(Value::String(kid))
            if !kid.is_empty() && kid.len() <= limits.key_id_bytes && !kid.contains(char::is_control) =>
        {
            Some(kid)
        }
        Some(_) => return Err(JwsError::Header),
    };
    let typ = match members.remove("typ") {
        None => None,
        Some(Value::String(typ)) if typ == "JWT" || typ == "JOSE" => Some(typ),
        Some(_) => return Err(JwsError::Header),
    };
    // JWT-SVID section 2: no other member, so no `jwk`, `jku`, `x5u`, `x5c`, `crit` or `b64`.
    if members.is_empty() { Ok(Header { alg, kid, typ }) } else { Err(JwsError::Header) }
}
