//! JWT-SVIDs: issuing and verifying (JWT-SVID.md, RFC 7519).
//!
//! Stricter than RFC 7519 where it leaves room for two readings: every time is a whole number, no member
//! occurs twice, and nothing is converted from another type. The header is `crypto::jose`'s: nine algorithms
//! with public keys, `kid` and `typ`, and no other member.

mod claims;
mod error;

use std::sync::Arc;

use bonafide_crypto::jose::{self, CompactJws, JwsAlgorithm, Limits};
use bonafide_crypto::key::{PublicKey, SignError, Signer};
use serde_json::{Map, Value};

pub use self::claims::JwtClaims;
use self::claims::ReadClaims;
pub use self::error::JwtError;
use crate::bundle::{BundleMap, MAX_KEY_ID_LENGTH, TrustBundle};
use crate::id::SpiffeId;
use crate::instance::InstanceId;
use crate::revocation::Revocations;
use crate::time::UnixTime;

/// Longest token in bytes.
pub const MAX_TOKEN_LENGTH: usize = 16 * 1024;
/// Most audiences of one token.
pub const MAX_AUDIENCES: usize = 32;
/// Longest audience in bytes.
pub const MAX_AUDIENCE_LENGTH: usize = 2048;
/// Longest `jti` that is issued, in bytes.
pub const MAX_JTI_LENGTH: usize = 128;
/// The claim with the instance ID of the holder, as text.
pub const INSTANCE_CLAIM: &str = "bonafide_instance";

/// Most keys that are tried for a token that does not name its key.
const MAX_KEYS_TRIED: usize = 16;

/// A JWT-SVID. A bearer token: whoever holds it is believed to be its subject, so it is not shown by `Debug`.
#[derive(Clone)]
pub struct JwtSvid {
    token: String,
    claims: ReadClaims,
    hint: Option<String>,
}

impl JwtSvid {
    /// Reads the claims of a token without checking its signature. Only for a token that just came from
    /// one's own agent or authority over an authenticated connection, and for showing a token to a person.
    ///
    /// # Errors
    /// If it is not well-formed.
    pub fn from_trusted_source(token: &str, hint: Option<String>) -> Result<Self, JwtError> {
        let jws = parse(token)?;
        let claims = ReadClaims::parse(jws.unverified_payload())?;
        Ok(Self { token: token.to_owned(), claims, hint: hint.filter(|hint| !hint.is_empty()) })
    }

    /// The token as it is sent.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Who it says its holder is.
    pub fn id(&self) -> &SpiffeId {
        &self.claims.id
    }

    /// Who may accept it.
    pub fn audience(&self) -> &[String] {
        &self.claims.audience
    }

    /// The moment from which on it is no longer accepted (RFC 7519 section 4.1.4).
    pub fn expires_at(&self) -> UnixTime {
        self.claims.expires_at
    }

    /// When it was issued, if it says so.
    pub fn issued_at(&self) -> Option<UnixTime> {
        self.claims.issued_at
    }

    /// Which launch of the workload it was issued to, if its issuer is a Bonafide authority that says so.
    pub fn instance(&self) -> Option<InstanceId> {
        self.claims.instance
    }

    /// Every claim.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims.all
    }

    /// What the operator said this identity is for, to tell several apart.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl std::fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSvid")
            .field("id", self.id())
            .field("audience", &self.audience())
            .field("expires_at", &self.expires_at().to_string())
            .finish_non_exhaustive()
    }
}

/// Verifies that a token proves a SPIFFE ID of a trust domain of `bundles` to `audience` at the time `now`
/// (JWT-SVID sections 2, 3 and 5).
///
/// The keys are those of the subject's own trust domain. A token that names a key is checked with that key
/// alone; one that doesn't, with each key that fits, up to 16.
///
/// What the trust domain has [revoked](crate::revocation), as far as `bundles` knows, is refused.
///
/// It does not remember tokens: one that is stolen can be used until it expires.
///
/// # Errors
/// [`JwtError`] names the first thing that is wrong.
pub fn verify(token: &str, bundles: &BundleMap, audience: &str, now: UnixTime) -> Result<JwtSvid, JwtError> {
    // An empty audience would be matched by nothing that is issued here, but a verifier that was started
    // without its own name must not find out by a token that names "".
    if audience.is_empty() {
        return Err(JwtError::NoOwnAudience);
    }
    let jws = parse(token)?;
    // The unverified subject only chooses the bundle; it is read again from the verified payload.
    let claimed = ReadClaims::parse(jws.unverified_payload())?.id;
    let trust_domain = claimed.trust_domain();
    let bundle =
        bundles.get(trust_domain).ok_or_else(|| JwtError::UnknownTrustDomain(trust_domain.clone()))?;
    let revocations = bundles.revocations(trust_domain).map(Arc::as_ref);
    let claims = ReadClaims::parse(verified_payload(&jws, bundle, revocations)?)?;
    if claims.id.trust_domain() != bundle.trust_domain() {
        return Err(JwtError::UnknownTrustDomain(claims.id.trust_domain().clone()));
    }
    claims.check(audience, now)?;
    let revoked =
        revocations.and_then(|revoked| revoked.of_token(&claims.id, claims.instance, claims.issued_at));
    if let Some(subject) = revoked {
        return Err(JwtError::Revoked(subject));
    }
    Ok(JwtSvid { token: token.to_owned(), claims, hint: None })
}

/// Signs a JWT-SVID, with `kid` in its header: SPIRE and go-spiffe refuse tokens without one.
///
/// # Errors
/// If the claims exceed their bounds, the key cannot sign JWT-SVIDs, or signing fails.
pub fn issue(claims: &JwtClaims, signer: &dyn Signer, kid: &str) -> Result<String, JwtError> {
    let mut tokens = issue_each(&[claims], signer, kid);
    tokens.pop().unwrap_or(Err(JwtError::UnsuitableKey))
}

/// Signs several JWT-SVIDs in one go, each as [`issue`]: for signers to which every call is dear.
pub fn issue_each(claims: &[&JwtClaims], signer: &dyn Signer, kid: &str) -> Vec<Result<String, JwtError>> {
    let algorithm = JwsAlgorithm::default_for(signer.public_key().algorithm());
    let payload = |claims: &&JwtClaims| {
        if !(1..=MAX_KEY_ID_LENGTH).contains(&kid.len()) {
            return Err(JwtError::KeyId);
        }
        let algorithm = algorithm.ok_or(JwtError::UnsuitableKey)?;
        Ok((algorithm, claims.to_json()?))
    };
    let payloads: Vec<_> = claims.iter().map(payload).collect();
    let good: Vec<&[u8]> = payloads.iter().flatten().map(|(_, payload)| payload.as_slice()).collect();
    let signed = algorithm.map(|algorithm| jose::sign_compact_each(signer, algorithm, kid, &good));
    let mut signed = signed.unwrap_or_default().into_iter();
    let token = |payload: Result<_, JwtError>| {
        payload?;
        let none = || SignError::Failed("no signature came".to_owned());
        let token = signed.next().unwrap_or_else(|| Err(none()))?;
        if token.len() > MAX_TOKEN_LENGTH { Err(JwtError::TooLong) } else { Ok(token) }
    };
    payloads.into_iter().map(token).collect()
}

/// The ID of the key that a token names, without looking at anything else of it.
pub fn key_id(token: &str) -> Option<String> {
    parse(token).ok()?.header().kid.clone()
}

fn parse(token: &str) -> Result<CompactJws<'_>, JwtError> {
    let limits = Limits { token_bytes: MAX_TOKEN_LENGTH, key_id_bytes: MAX_KEY_ID_LENGTH };
    CompactJws::parse(token, limits).map_err(JwtError::from)
}

fn verified_payload<'t>(
    jws: &'t CompactJws<'_>,
    bundle: &TrustBundle,
    revocations: Option<&Revocations>,
) -> Result<&'t [u8], JwtError> {
    let distrusted =
        |kid: &str| revocations.is_some_and(|revocations| revocations.is_distrusted(kid.as_bytes()));
    if let Some(kid) = &jws.header().kid {
        let key = bundle.jwt_authorities().get(kid).ok_or(JwtError::UnknownKey)?;
        let payload = jws.verify(key)?;
        return if distrusted(kid) { Err(JwtError::DistrustedKey) } else { Ok(payload) };
    }
    let fits = |(kid, key): &(&String, &PublicKey)| {
        !distrusted(kid) && jws.header().alg.signature_algorithm().fits(key.algorithm())
    };
    bundle
        .jwt_authorities()
        .iter()
        .filter(fits)
        .take(MAX_KEYS_TRIED)
        .find_map(|(_, key)| jws.verify(key).ok())
        .ok_or(JwtError::UnknownKey)
}
