use bonafide_crypto::jose;
use serde_json::{Map, Value};

use super::{INSTANCE_CLAIM, JwtError, MAX_AUDIENCE_LENGTH, MAX_AUDIENCES, MAX_JTI_LENGTH};
use crate::id::SpiffeId;
use crate::instance::InstanceId;
use crate::time::UnixTime;

/// Latest time that a claim may name: the end of the year 9999, as in certificates.
const LATEST: i64 = 253_402_300_799;

/// How far `iat` may lie in the future, in seconds: clocks differ, and `iat` grants nothing.
const ISSUED_AT_TOLERANCE: i64 = 60;

/// What a JWT-SVID is to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JwtClaims {
    /// The subject: an ID with a path.
    pub id: SpiffeId,
    /// Who may accept the token: 1 to 32 texts of 1 to 2048 bytes.
    pub audience: Vec<String>,
    /// When it is issued. Backdate it: some verifiers refuse one that lies in their future.
    pub issued_at: UnixTime,
    /// From when on it is no longer accepted.
    pub expires_at: UnixTime,
    /// Which launch of the workload it is issued to.
    pub instance: Option<InstanceId>,
    /// A name of this one token, up to 128 bytes.
    pub jti: Option<String>,
}

/// The claims of a token, with the types that they must have.
#[derive(Clone)]
pub(super) struct ReadClaims {
    pub(super) id: SpiffeId,
    pub(super) audience: Vec<String>,
    pub(super) expires_at: UnixTime,
    pub(super) not_before: Option<UnixTime>,
    pub(super) issued_at: Option<UnixTime>,
    pub(super) instance: Option<InstanceId>,
    pub(super) all: Map<String, Value>,
}

impl JwtClaims {
    /// The payload of the token.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, JwtError> {
        if self.id.is_trust_domain() {
            return Err(JwtError::SubjectWithoutPath);
        }
        if self.audience.is_empty() {
            return Err(JwtError::NoAudience);
        }
        check_audience(self.audience.iter())?;
        if self.expires_at <= self.issued_at {
            return Err(JwtError::Time("exp"));
        }
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), self.id.as_str().into());
        claims.insert("aud".to_owned(), self.audience.clone().into());
        claims.insert("exp".to_owned(), in_range(self.expires_at, "exp")?.into());
        claims.insert("iat".to_owned(), in_range(self.issued_at, "iat")?.into());
        if let Some(jti) = &self.jti {
            if !(1..=MAX_JTI_LENGTH).contains(&jti.len()) {
                return Err(JwtError::Claim("jti"));
            }
            claims.insert("jti".to_owned(), jti.as_str().into());
        }
        if let Some(instance) = &self.instance {
            claims.insert(INSTANCE_CLAIM.to_owned(), instance.to_string().into());
        }
        Ok(Value::Object(claims).to_string().into_bytes())
    }
}

impl ReadClaims {
    /// JWT-SVID section 3. Times are not compared with the clock here.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, JwtError> {
        let all = jose::parse_object(payload).map_err(|_| JwtError::Payload)?;
        let subject = match all.get("sub") {
            None => return Err(JwtError::NoSubject),
            Some(subject) => subject.as_str().ok_or(JwtError::Claim("sub"))?,
        };
        let id = SpiffeId::parse_canonical(subject).map_err(JwtError::Subject)?;
        if id.is_trust_domain() {
            return Err(JwtError::SubjectWithoutPath);
        }
        let audience = match all.get("aud") {
            None => return Err(JwtError::NoAudience),
            Some(audience) => read_audience(audience)?,
        };
        let expires_at = time(&all, "exp")?.ok_or(JwtError::NoExpiry)?;
        let not_before = time(&all, "nbf")?;
        let issued_at = time(&all, "iat")?;
        if all.get("jti").is_some_and(|jti| !jti.is_string()) {
            return Err(JwtError::Claim("jti"));
        }
        // Another issuer's claim of that name is not ours to refuse; only a well-formed one means anything.
        let instance = all.get(INSTANCE_CLAIM).and_then(Value::as_str).and_then(|text| text.parse().ok());
        Ok(Self { id, audience, expires_at, not_before, issued_at, instance, all })
    }

    /// RFC 7519 section 4.1. No tolerance for `exp` and `nbf`: issuers have to allow for clocks.
    pub(super) fn check(&self, audience: &str, now: UnixTime) -> Result<(), JwtError> {
        if now >= self.expires_at {
            return Err(JwtError::Expired { expires_at: self.expires_at, now });
        }
        if let Some(not_before) = self.not_before.filter(|not_before| now < *not_before) {
            return Err(JwtError::NotYetValid { not_before, now });
        }
        if let Some(issued_at) = self.issued_at
            && issued_at.as_secs() > now.as_secs().saturating_add(ISSUED_AT_TOLERANCE)
        {
            return Err(JwtError::IssuedInTheFuture { issued_at, now });
        }
        if self.audience.iter().any(|own| own == audience) { Ok(()) } else { Err(JwtError::Audience) }
    }
}

/// RFC 7519 section 4.1.3: one text, or a list of them.
fn read_audience(value: &Value) -> Result<Vec<String>, JwtError> {
    let audience = match value {
        Value::String(one) => vec![one.clone()],
        Value::Array(list) => {
            if list.len() > MAX_AUDIENCES {
                return Err(JwtError::AudienceBounds);
            }
            let text = |audience: &Value| audience.as_str().map(str::to_owned).ok_or(JwtError::Claim("aud"));
            list.iter().map(text).collect::<Result<_, _>>()?
        }
        _ => return Err(JwtError::Claim("aud")),
    };
    if audience.is_empty() {
        return Err(JwtError::NoAudience);
    }
    check_audience(audience.iter())?;
    Ok(audience)
}

fn check_audience<'a>(audience: impl ExactSizeIterator<Item = &'a String>) -> Result<(), JwtError> {
    let few = audience.len() <= MAX_AUDIENCES;
    let mut lengths = audience.map(String::len);
    if few && lengths.all(|length| (1..=MAX_AUDIENCE_LENGTH).contains(&length)) {
        Ok(())
    } else {
        Err(JwtError::AudienceBounds)
    }
}

/// A whole number of seconds from 1970 to 9999. RFC 7519 section 2 allows fractions and any size; nobody issues
/// them, and they are where implementations differ.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<UnixTime>, JwtError> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            let seconds = value.as_i64().ok_or(JwtError::Time(name))?;
            in_range(UnixTime::from_secs(seconds), name)?;
            Ok(Some(UnixTime::from_secs(seconds)))
        }
    }
}

fn in_range(time: UnixTime, name: &'static str) -> Result<i64, JwtError> {
    if (0..=LATEST).contains(&time.as_secs()) { Ok(time.as_secs()) } else { Err(JwtError::Time(name)) }
}
